//! Ports and addresses that nobody else is using.
//! A port found here can be lost to a stranger before it is bound; with an address of one's own that does not happen.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};

/// A TCP port that was free on this address a moment ago. Prefer binding port 0 where the test can.
#[must_use]
pub fn free_port(ip: impl Into<IpAddr>) -> u16 {
    let listener =
        TcpListener::bind((ip.into(), 0)).expect("an address of this host has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// A UDP port that was free on this address a moment ago.
#[must_use]
pub fn free_udp_port(ip: impl Into<IpAddr>) -> u16 {
    let socket = UdpSocket::bind((ip.into(), 0)).expect("an address of this host has a free port");
    socket.local_addr().expect("a bound socket has an address").port()
}

/// A loopback address no other test of this process gets, and hardly any of another process: every port is free there.
///
/// # Panics
/// After 250 addresses.
#[must_use]
pub fn unique_loopback() -> Ipv4Addr {
    static LAST: AtomicU8 = AtomicU8::new(0);
    let number = LAST
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| (last < 250).then_some(last + 1))
        .expect("a process asks for at most 250 loopback addresses");
    // 127.0 is what everybody else uses.
    let [.., high, low] = (std::process::id() % 65_000 + 256).to_be_bytes();
    Ipv4Addr::new(127, high, low, number + 1)
}
