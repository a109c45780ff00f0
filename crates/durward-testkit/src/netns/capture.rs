//! What packets arrive at a namespace, whoever they are for: the view of somebody who listens on the wire.
//! Packets it sends itself are not among them.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    seen: Arc<Mutex<BTreeSet<Packet>>>,
    stop: Arc<AtomicBool>,
}

impl Capture {
    /// Begins to listen on all devices of the namespace.
    ///
    /// # Panics
    /// Without the right to.
    #[must_use]
    pub fn start(at: &Namespace) -> Self {
        let (seen, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        for ethertype in ETHERTYPES {
            let socket = at.run(|| open(ethertype));
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            std::thread::spawn(move || listen(&socket, &seen, &stop));
        }
        Self { seen, stop }
    }

    /// What arrived so far.
    #[must_use]
    pub fn seen(&self) -> BTreeSet<Packet> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

fn open(ethertype: u16) -> UdpSocket {
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol));
    let socket = socket.expect("root of a namespace may listen on its wires");
    socket.set_recv_buffer_size(4 << 20).expect("a buffer can be large");
    let socket = UdpSocket::from(OwnedFd::from(socket));
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
    socket
}

fn listen(socket: &UdpSocket, seen: &Mutex<BTreeSet<Packet>>, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        if let Some(packet) = read(&buffer[..length]) {
            seen.lock().unwrap_or_else(PoisonError::into_inner).insert(packet);
        }
    }
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
