//! What packets arrive at a namespace, whoever they are for: the view of somebody who listens on the wire.
//! Packets it sends itself are not among them.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use socket2::{Domain, Protocol, Socket, Type};

use super::Namespace;
use crate::process::eventually_blocking;

const ETHERTYPES: [u16; 2] = [0x0800, 0x86dd];

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// The IP protocol's number; of IPv6 that of the first header.
    pub protocol: u8,
    /// The second 16 bits of what the protocol carries: the destination's port, where it has ports.
    pub port: u16,
}

/// The distinct packets that arrived so far.
pub struct Capture {
    taps: [Arc<Tap>; 2],
    stop: Arc<AtomicBool>,
}

/// A socket for packets of one kind. Whoever holds the lock finds each that arrived in the queue or in the set.
struct Tap {
    queue: UdpSocket,
    seen: Mutex<BTreeSet<Packet>>,
}

impl Capture {
    /// Begins to listen on all devices of the namespace.
    ///
    /// # Panics
    /// Without the right to.
    #[must_use]
    pub fn start(at: &Namespace) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let taps = ETHERTYPES.map(|ethertype| {
            let queue = at.run(|| open(ethertype));
            let tap = Arc::new(Tap { queue, seen: Mutex::default() });
            let (listening, stop) = (Arc::clone(&tap), Arc::clone(&stop));
            std::thread::spawn(move || listening.listen(&stop));
            tap
        });
        Self { taps, stop }
    }

    /// What arrived so far: all of it, so who has an answer finds the question here.
    #[must_use]
    pub fn seen(&self) -> BTreeSet<Packet> {
        self.taps.iter().flat_map(|tap| tap.drain().clone()).collect()
    }

    /// Waits for a packet. Whatever was sent before it on the same way is among those seen then.
    #[must_use]
    pub fn sees(&self, deadline: Duration, packet: impl Fn(&Packet) -> bool) -> bool {
        eventually_blocking(deadline, || self.seen().iter().any(&packet))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Tap {
    /// Keeps the queue from running over.
    fn listen(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            // Only looked at: taken without the lock, it would be nowhere for a moment.
            if self.queue.peek(&mut [0]).is_ok() {
                drop(self.drain());
            }
        }
    }

    fn drain(&self) -> MutexGuard<'_, BTreeSet<Packet>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [0; 2048];
        while let Ok((length, _)) = recv(&self.queue, &mut buffer, RecvFlags::DONTWAIT) {
            seen.extend(read(&buffer[..length]));
        }
        seen
    }
}

fn open(ethertype: u16) -> UdpSocket {
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol));
    let socket = socket.expect("root of a namespace may listen on its wires");
    socket.set_recv_buffer_size(4 << 20).expect("a buffer can be large");
    let socket = UdpSocket::from(OwnedFd::from(socket));
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
    socket
}

fn read(bytes: &[u8]) -> Option<Packet> {
    let (source, destination, protocol, payload): (IpAddr, IpAddr, u8, usize) = if bytes.first()?
        >> 4
        == 4
    {
        let address = |at: usize| Some(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?.into());
        (address(12)?, address(16)?, *bytes.get(9)?, usize::from(bytes[0] & 15) * 4)
    } else {
        let address = |at: usize| Some(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?.into());
        (address(8)?, address(24)?, *bytes.get(6)?, 40)
    };
    let port = bytes.get(payload + 2..payload + 4).and_then(|port| port.try_into().ok());
    let port = port.map_or(0, u16::from_be_bytes);
    Some(Packet { source, destination, protocol, port })
}
