//! Ports and addresses that nobody else is using.
//! A port found here can be lost to a stranger before it is bound; with an address of one's own that does not happen.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// A TCP port that was free on this address a moment ago. Prefer binding port 0 where the test can.
#[must_use]
pub fn free_port(ip: impl Into<IpAddr>) -> u16 {
    let ip = ip.into();
    find(|port| TcpListener::bind((ip, port)).is_ok())
}

/// A UDP port that was free on this address a moment ago.
#[must_use]
pub fn free_udp_port(ip: impl Into<IpAddr>) -> u16 {
    let ip = ip.into();
    find(|port| UdpSocket::bind((ip, port)).is_ok())
}

/// A loopback address no other test of this process gets, and hardly any of another process: every port is free there.
///
/// # Panics
/// After 2,000 addresses.
#[must_use]
pub fn unique_loopback() -> Ipv4Addr {
    const PER_BLOCK: u32 = 250;
    const BLOCKS: u32 = 8;
    const PROCESSES: u32 = 8_000;
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    let (block, host) = (number / PER_BLOCK, number % PER_BLOCK);
    assert!(block < BLOCKS, "a process asks for at most 2,000 loopback addresses");
    // 127.0 is what everybody else uses.
    let [.., high, low] = (256 + block * PROCESSES + std::process::id() % PROCESSES).to_be_bytes();
    let host = u8::try_from(host + 1).expect("a block has 250 addresses");
    Ipv4Addr::new(127, high, low, host)
}

/// A port below those the kernel gives to clients, each at most once per process: nobody takes it by chance.
fn find(is_free: impl Fn(u16) -> bool) -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    let mut candidates = (0..COUNT).map(|_| {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        (FIRST + start.wrapping_add(step) % COUNT) as u16
    });
    candidates.find(|&port| is_free(port)).expect("an address of this host has a free port")
}
