//! A UDP server: each datagram comes back to where it came from, after a prefix that tells the servers apart.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Interval at which the server looks whether it was dropped.
const LOOK: Duration = Duration::from_millis(20);

/// A UDP echo; ends when dropped.
#[derive(Debug)]
pub struct UdpEcho {
    address: SocketAddr,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    datagrams: AtomicUsize,
    peers: Mutex<BTreeSet<SocketAddr>>,
    stopped: AtomicBool,
}

impl UdpEcho {
    /// Starts a server whose answers begin with `prefix`.
    ///
    /// # Panics
    /// Panics if the address cannot be bound.
    #[must_use]
    pub fn start(bind: impl ToSocketAddrs, prefix: &[u8]) -> Self {
        let socket = UdpSocket::bind(bind).expect("the address is free");
        let address = socket.local_addr().expect("a bound socket has an address");
        socket.set_read_timeout(Some(LOOK)).expect("the time is not zero");
        let seen = Arc::<Seen>::default();
        let (own, prefix) = (Arc::clone(&seen), prefix.to_vec());
        let thread = std::thread::spawn(move || serve(&socket, &own, &prefix));
        Self { address, seen, thread: Some(thread) }
    }

    /// Returns the address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of datagrams that came.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.seen.datagrams.load(Relaxed)
    }

    /// Returns the addresses that they came from.
    #[must_use]
    pub fn peers(&self) -> BTreeSet<SocketAddr> {
        self.seen.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.seen.stopped.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, seen: &Seen, prefix: &[u8]) {
    let mut buffer = vec![0; 65_535];
    while !seen.stopped.load(Relaxed) {
        let (bytes, peer) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                continue;
            }
            // An ICMP message about an earlier answer.
            Err(_) => continue,
        };
        seen.datagrams.fetch_add(1, Relaxed);
        seen.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(peer);
        let answer = [prefix, &buffer[..bytes]].concat();
        let _ = socket.send_to(&answer, peer);
    }
}
