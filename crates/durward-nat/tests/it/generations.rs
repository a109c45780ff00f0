//! No packet sees a mix of two configurations: tenants come and go under thousands of new flows a second, the table is taken away, the
//! process ends, and nothing leaves with another's address or against `others: Deny`.
//!
//! `DURWARD_STRESS_RELOADS=500` runs the full form; `DURWARD_STRESS_REPORT=FILE` has each test add a line about what it saw.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use durward_model::egress::{Others, Transparent};
use durward_model::mapping::{KernelEgress, NatModel};
use durward_nat::nftables::table::{Ownership, Table};
use durward_nat::{Nat, Options};
use durward_testkit::netns::{Capture, add_address, in_namespace, sysctl};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Lab, P1, P2, egress, options, tenant};

/// The pod of the tenant that refuses what is not the proxy's.
const P3: &str = "10.244.0.13";
/// Who sends: a pod, the remote address that it alone sends to, and the address it must be seen with there.
const SENDERS: [(&str, &str, Option<&str>); 3] = [
    (P1, "192.0.2.101", Some("203.0.113.21")),
    (P2, "192.0.2.102", Some("203.0.113.22")),
    (P3, "192.0.2.103", None),
];
/// New flows of each pod in a second, at least.
const RATE: u64 = 2_000;
const PATIENCE: Duration = Duration::from_secs(20);

fn reloads() -> u32 {
    let wanted = std::env::var("DURWARD_STRESS_RELOADS").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(60)
}

/// The tenants that send, and so many others whose rules stand before theirs.
fn model(others: u32) -> Arc<NatModel> {
    let of = |name: &str, source: &str, address: &str| {
        let rule = egress(&[format!("{source}/32")], &[address]);
        KernelEgress { tenant: tenant(name), ..rule }
    };
    let mut rules: Vec<KernelEgress> = (0..others)
        .map(|one| {
            let (source, address) = (format!("10.244.9.{one}"), format!("203.0.113.{}", 100 + one));
            of(&format!("other-{one}"), &source, &address)
        })
        .collect();
    let mut denied = of("denied", P3, "203.0.113.23");
    let transparent = Transparent { http: [80].into(), tls: [443].into(), others: Others::Deny };
    denied.transparent = Some(Arc::new(transparent));
    rules.extend([of("acme", P1, "203.0.113.21"), denied, of("bank", P2, "203.0.113.22")]);
    let names: BTreeSet<_> = rules.iter().map(|rule| rule.tenant.clone()).collect();
    Arc::new(NatModel {
        tenants: names.into_iter().zip(1..).collect(),
        egress: rules.into_iter().map(Arc::new).collect(),
        ..NatModel::default()
    })
}

/// The host's other interfaces forward too, and its default route leads outside: the worst case once the table is gone.
fn lab() -> Lab {
    let lab = Lab::unbridged();
    sysctl("net.ipv4.ip_forward", "1");
    lab.p1.add_address("eth0", &format!("{P3}/24"));
    for last in 21..24 {
        add_address("ext1", &format!("203.0.113.{last}/24"));
    }
    for last in 100..110 {
        add_address("ext1", &format!("203.0.113.{last}/24"));
    }
    for (_, remote, _) in SENDERS {
        lab.c1.add_address("lo", &format!("{remote}/32"));
    }
    lab
}

/// Pods that open flows without end, and what the world saw of them.
struct Traffic {
    capture: Capture,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    begin: Instant,
    running: Vec<JoinHandle<()>>,
}

impl Traffic {
    fn start(lab: &Lab) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let capture = Capture::start(&lab.c1);
        let pods = [&lab.p1, &lab.p2, &lab.p1];
        let running = pods.into_iter().zip(SENDERS).map(|(pod, (source, remote, _))| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            pod.spawn(move || send(source, remote, (&stop, &sent)))
        });
        let running = running.collect();
        Self { capture, stop, sent, begin: Instant::now(), running }
    }

    /// Waits until so many more flows were begun.
    fn flows(&self, more: u64) {
        let until = self.sent.load(Relaxed) + more;
        let deadline = Instant::now() + PATIENCE;
        while self.sent.load(Relaxed) < until && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The packets that arrived with an address that is not their tenant's; panics where there are any.
    #[track_caller]
    fn assert_nothing_foreign(self, what: &str) {
        self.stop.store(true, Relaxed);
        self.running.into_iter().for_each(|thread| thread.join().unwrap());
        let sent = self.sent.load(Relaxed);
        let rate = sent as f64 / self.begin.elapsed().as_secs_f64();
        let own: BTreeMap<IpAddr, Option<IpAddr>> =
            SENDERS.iter().map(|(_, to, own)| (ip(to), own.map(ip))).collect();
        let seen = self.capture.seen();
        let of_ours = seen.iter().filter(|packet| own.contains_key(&packet.destination));
        let foreign: Vec<_> =
            of_ours.clone().filter(|one| own[&one.destination] != Some(one.source)).collect();
        let line = format!(
            "{what}: {sent} flows, {rate:.0} a second, {} distinct packets seen, {} foreign",
            of_ours.count(),
            foreign.len()
        );
        println!("{line}");
        if let Some(path) = std::env::var_os("DURWARD_STRESS_REPORT") {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            writeln!(file.unwrap(), "{line}").unwrap();
        }
        assert!(
            foreign.is_empty(),
            "{what}: {} foreign, {:?}",
            foreign.len(),
            &foreign[..foreign.len().min(8)]
        );
        for (pod, remote, own) in SENDERS {
            let arrived = seen.iter().any(|packet| packet.destination == ip(remote));
            assert_eq!(arrived, own.is_some(), "{what}: from {pod}");
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Begins flows: UDP, TCP and pings, each with a port or number of its own.
fn send(source: &str, remote: &str, (stop, sent): (&AtomicBool, &AtomicU64)) {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    let [source, remote]: [Ipv4Addr; 2] = [source, remote].map(|text| text.parse().unwrap());
    let to = SocketAddr::new(remote.into(), 0).into();
    let begin = Instant::now();
    for number in 0u64.. {
        if stop.load(Relaxed) {
            return;
        }
        let port = 1024 + (number / 3 % 60_000) as u16;
        let packet = packet((source, remote), number % 3, port);
        if socket.send_to(&packet, &to).is_ok() {
            sent.fetch_add(1, Relaxed);
        }
        while begin.elapsed().as_secs_f64() * (RATE as f64) < number as f64 {
            std::thread::sleep(Duration::from_micros(300));
        }
    }
}

fn packet((source, remote): (Ipv4Addr, Ipv4Addr), kind: u64, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    // Port 7777 is nobody's; a checksum of 0 is none in UDP, and the others are computed.
    let (protocol, mut payload) = match kind {
        0 => (17, vec![high, low, 0x1e, 0x61, 0, 8, 0, 0]),
        1 => {
            let mut segment =
                vec![high, low, 0x1e, 0x61, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff];
            segment.extend([0, 0, 0, 0]);
            (6, segment)
        }
        _ => (1, vec![8, 0, 0, 0, high, low, 0, 1]),
    };
    match kind {
        1 => {
            let pseudo =
                [&source.octets()[..], &remote.octets(), &[0, 6, 0, 20], &payload].concat();
            payload[16..18].copy_from_slice(&checksum(&pseudo));
        }
        2 => {
            let sum = checksum(&payload);
            payload[2..4].copy_from_slice(&sum);
        }
        _ => {}
    }
    let length = (20 + payload.len() as u16).to_be_bytes();
    let head = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    [&head[..], &source.octets(), &remote.octets(), &payload].concat()
}

pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn foreign(table: &str) -> Table {
    Table::open(table, Ownership::Shared, Duration::from_secs(5)).unwrap()
}

fn shared() -> Options {
    Options { own_table: false, ..options() }
}

#[test]
fn tenants_come_and_go_and_no_flow_has_anothers_address() {
    in_namespace("generations::tenants_come_and_go_and_no_flow_has_anothers_address", || {
        let lab = lab();
        let nat = Nat::start(options()).unwrap();
        nat.apply(model(0)).unwrap();
        let traffic = Traffic::start(&lab);

        for round in 0..reloads() {
            nat.apply(model(round % 7 + 1)).unwrap();
            traffic.flows(20);
        }

        traffic.assert_nothing_foreign("reloads");
        drop(nat);
    });
}

#[test]
fn a_table_taken_away_by_others_lets_nothing_out() {
    in_namespace("generations::a_table_taken_away_by_others_lets_nothing_out", || {
        let lab = lab();
        let nat = Nat::start(shared()).unwrap();
        nat.apply(model(0)).unwrap();
        let traffic = Traffic::start(&lab);

        for round in 0..reloads() / 3 {
            foreign("durward").delete().unwrap();
            traffic.flows(100);
            nat.apply(model(round % 7 + 1)).unwrap();
            traffic.flows(50);
        }

        traffic.assert_nothing_foreign("a shared table taken away");
        drop(nat);
    });
}

#[test]
fn a_table_taken_away_while_nobody_owns_it_lets_nothing_out() {
    in_namespace("generations::a_table_taken_away_while_nobody_owns_it_lets_nothing_out", || {
        let lab = lab();
        Nat::start(options()).unwrap().apply(model(0)).unwrap();
        let traffic = Traffic::start(&lab);

        for round in 0..reloads() / 3 {
            let nat = Nat::start(options()).unwrap();
            nat.apply(model(round % 7 + 1)).unwrap();
            traffic.flows(50);
            drop(nat);
            foreign("durward").delete().unwrap();
            traffic.flows(100);
        }

        let nat = Nat::start(options()).unwrap();
        nat.apply(model(0)).unwrap();
        traffic.flows(1_000);
        traffic.assert_nothing_foreign("an owned table taken away after its process");
        drop(nat);
    });
}

#[test]
fn cleanup_takes_the_rules_away_that_outlive_the_table() {
    in_namespace("generations::cleanup_takes_the_rules_away_that_outlive_the_table", || {
        let _lab = lab();
        let rules = || durward_testkit::netns::ip("rule") + &durward_testkit::netns::ip("-6 rule");
        let before = rules();
        let nat = Nat::start(options()).unwrap();
        nat.apply(model(2)).unwrap();
        let between = rules();

        nat.cleanup().unwrap();

        assert!(between.contains(&format!("from {P1} prohibit")), "{between}");
        assert_eq!(rules(), before);
    });
}
