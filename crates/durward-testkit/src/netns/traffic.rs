//! Pods that open flows without end, and what the world sees of them: UDP, TCP and pings of either family, by hand-made packets.
//!
//! `DURWARD_STRESS_REPORT=FILE` has each test add a line about what it saw.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Capture, Namespace, Packet};

/// New flows of each pod in a second.
const RATE: u64 = 2_000;
const PATIENCE: Duration = Duration::from_secs(20);

const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMP: [u8; 2] = [1, 58];

/// A pod that sends.
pub struct Sender {
    /// Its namespace.
    pub pod: Namespace,
    /// Its address.
    pub source: IpAddr,
    /// The remote address that it alone sends to.
    pub remote: IpAddr,
    /// The address it must be seen with there; `None` if nothing of it may arrive.
    pub own: Option<IpAddr>,
}

impl Sender {
    /// Names the pod's address, the remote one and the one seen there as text.
    ///
    /// # Panics
    /// When one is no address.
    #[must_use]
    pub fn new(pod: &Namespace, source: &str, remote: &str, own: Option<&str>) -> Self {
        let address = |text: &str| text.parse().expect("an address");
        let (source, remote, own) = (address(source), address(remote), own.map(address));
        Self { pod: pod.clone(), source, remote, own }
    }
}

/// Running senders.
pub struct Traffic {
    senders: Vec<Sender>,
    capture: Capture,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    begin: Instant,
    running: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Begins to send, and to listen on all devices of `world`.
    #[must_use]
    pub fn start(world: &Namespace, senders: Vec<Sender>) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let capture = Capture::start(world);
        let start = |sender: &Sender| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            let (source, remote) = (sender.source, sender.remote);
            sender.pod.spawn(move || send(source, remote, (&stop, &sent)))
        };
        let running = senders.iter().map(start).collect();
        Self { senders, capture, stop, sent, begin: Instant::now(), running }
    }

    /// Waits until so many more flows were begun.
    pub fn flows(&self, more: u64) {
        let until = self.sent.load(Relaxed) + more;
        let deadline = Instant::now() + PATIENCE;
        while self.sent.load(Relaxed) < until && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it.
    ///
    /// # Panics
    /// When a packet arrived with an address that is not its tenant's, or when nothing arrived of who may send.
    #[track_caller]
    pub fn assert_nothing_foreign(self, what: &str) {
        self.stop.store(true, Relaxed);
        self.running.into_iter().for_each(|thread| thread.join().expect("a sender ends"));
        let sent = self.sent.load(Relaxed);
        let rate = sent as f64 / self.begin.elapsed().as_secs_f64();
        let by_remote: BTreeMap<IpAddr, &Sender> =
            self.senders.iter().map(|sender| (sender.remote, sender)).collect();
        let seen = self.capture.seen();
        let of_ours: Vec<(&Packet, &Sender)> = seen
            .iter()
            .filter_map(|packet| Some((packet, *by_remote.get(&packet.destination)?)))
            .collect();
        let foreign: Vec<&Packet> = of_ours
            .iter()
            .filter(|(packet, sender)| sender.own != Some(packet.source))
            .map(|(packet, _)| *packet)
            .collect();
        let untranslated =
            of_ours.iter().filter(|(packet, sender)| packet.source == sender.source).count();
        let line = format!(
            "{what}: {sent} flows, {rate:.0} a second, {} distinct packets seen, {} foreign, {untranslated} untranslated",
            of_ours.len(),
            foreign.len(),
        );
        report(&line);
        let some = &foreign[..foreign.len().min(8)];
        assert!(foreign.is_empty() && untranslated == 0, "{line}: {some:?}");
        for sender in &self.senders {
            let arrived = of_ours.iter().any(|(packet, _)| packet.destination == sender.remote);
            assert_eq!(arrived, sender.own.is_some(), "{what}: from {}", sender.source);
        }
    }
}

fn report(line: &str) {
    if let Some(path) = std::env::var_os("DURWARD_STRESS_REPORT") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        writeln!(file.expect("the report opens"), "{line}").expect("the report is written");
    }
}

/// Begins flows: UDP, TCP and pings, each with a port or number of its own.
fn send(source: IpAddr, remote: IpAddr, (stop, sent): (&AtomicBool, &AtomicU64)) {
    let domain = if remote.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(255)));
    let socket = socket.expect("root of a namespace may send what it likes");
    let to = SocketAddr::new(remote, 0).into();
    let begin = Instant::now();
    for number in 0u64.. {
        if stop.load(Relaxed) {
            return;
        }
        let port = 1024 + (number / 3 % 60_000) as u16;
        if socket.send_to(&first_packet((source, remote), number % 3, port), &to).is_ok() {
            sent.fetch_add(1, Relaxed);
        }
        while begin.elapsed().as_secs_f64() * (RATE as f64) < number as f64 {
            std::thread::sleep(Duration::from_micros(300));
        }
    }
}

/// The first packet of a flow: of UDP (0) or TCP (1) to port 7777, which is nobody's, or a ping (2).
fn first_packet(ends: (IpAddr, IpAddr), kind: u64, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let v6 = ends.0.is_ipv6();
    match kind {
        0 => packet(UDP, ends, vec![high, low, 0x1e, 0x61, 0, 8, 0, 0]),
        1 => {
            let mut segment =
                vec![high, low, 0x1e, 0x61, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff];
            segment.extend([0, 0, 0, 0]);
            packet(TCP, ends, segment)
        }
        _ => {
            let echo = if v6 { 128 } else { 8 };
            packet(ICMP[usize::from(v6)], ends, vec![echo, 0, 0, 0, high, low, 0, 1])
        }
    }
}

/// A whole packet of either family; the checksum of what it carries is computed.
#[must_use]
pub fn packet(protocol: u8, (source, to): (IpAddr, IpAddr), mut payload: Vec<u8>) -> Vec<u8> {
    let at = match protocol {
        UDP => 6,
        TCP => 16,
        _ => 2,
    };
    let ends = [octets(source), octets(to)].concat();
    let length = (payload.len() as u16).to_be_bytes();
    let pseudo = [0, protocol, length[0], length[1]];
    let summed = match protocol {
        1 => payload.clone(),
        _ => [&ends[..], &pseudo, &payload].concat(),
    };
    if let Some(sum) = payload.get_mut(at..at + 2) {
        sum.copy_from_slice(&checksum(&summed));
    }
    [head(protocol, source.is_ipv4(), payload.len() as u16), ends, payload].concat()
}

/// What stands before the addresses.
fn head(protocol: u8, ipv4: bool, length: u16) -> Vec<u8> {
    if ipv4 {
        let [high, low] = (20 + length).to_be_bytes();
        vec![0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0]
    } else {
        let [high, low] = length.to_be_bytes();
        vec![0x60, 0, 0, 0, high, low, protocol, 64]
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The checksum of the Internet over these bytes.
#[must_use]
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
