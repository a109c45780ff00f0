//! Sockets for datagrams: one per bind and core, so that the kernel leads all datagrams of a client to one core.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use durward_model::address::canonical;
use durward_model::transport::Transport;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::prepared::Binds;
use crate::present::PresentAddresses;
use crate::status::{BindReport, BindState};

/// Bytes of datagrams that wait in the kernel for a core, as far as `net.core.rmem_max` allows.
const WAITING: usize = 1024 * 1024;
/// Time after closing a bind during which sessions may still answer from its socket.
const CLOSING: Duration = Duration::from_secs(10);

/// All sockets for datagrams.
pub(crate) struct Receivers {
    cores: usize,
    /// True to receive at addresses where another process does.
    shared: bool,
    inherited: Vec<UdpSocket>,
    open: BTreeMap<SocketAddr, Vec<UdpSocket>>,
    failed: BTreeMap<SocketAddr, String>,
    closed: BTreeMap<SocketAddr, Instant>,
}

/// Sockets of one bind for the cores, one each.
pub(crate) struct UdpOpened {
    /// Address of the sockets.
    pub(crate) bind: SocketAddr,
    /// One per core.
    pub(crate) sockets: Vec<UdpSocket>,
}

impl Receivers {
    /// Starts with the inherited sockets only, which wait for a bind that claims them.
    pub(crate) fn new(cores: usize, inherited: Vec<UdpSocket>, shared: bool) -> Self {
        let (open, failed, closed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { cores, shared, inherited, open, failed, closed }
    }

    /// Opens the wanted binds that are not open yet.
    pub(crate) fn open(&mut self, wanted: &Binds) -> Vec<UdpOpened> {
        self.failed.clear();
        let mut opened = Vec::new();
        for address in wanted.keys() {
            if self.open.contains_key(address) {
                continue;
            }
            match self.open_one(*address) {
                Ok(sockets) => opened.push(UdpOpened { bind: *address, sockets }),
                Err(error) => drop(self.failed.insert(*address, describe(*address, &error))),
            }
        }
        opened
    }

    /// Returns duplicates of the sockets of a bind, the inherited ones first.
    fn open_one(&mut self, address: SocketAddr) -> io::Result<Vec<UdpSocket>> {
        let is_there = |socket: &UdpSocket| {
            socket.local_addr().is_ok_and(|local| canonical(local) == canonical(address))
        };
        let (inherited, others) =
            std::mem::take(&mut self.inherited).into_iter().partition::<Vec<_>, _>(is_there);
        self.inherited = others;
        self.closed.retain(|_, since| since.elapsed() < CLOSING);
        if inherited.is_empty() && !self.shared && !self.closed.contains_key(&address) {
            bound(address, false).map(drop)?;
        }
        let mut sockets = inherited;
        // Datagrams of a socket that nobody reads would be lost, so a core may get several.
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        while sockets.len() < self.cores {
            sockets.push(bound(address, true)?);
        }
        let duplicates = sockets.iter().map(UdpSocket::try_clone).collect::<io::Result<_>>()?;
        self.open.insert(address, sockets);
        Ok(duplicates)
    }

    /// Closes the binds that are not wanted any more and returns their addresses; the cores must close theirs too.
    pub(crate) fn close(&mut self, wanted: &Binds) -> Vec<SocketAddr> {
        let gone: Vec<_> =
            self.open.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        for address in &gone {
            self.open.remove(address);
            self.closed.insert(*address, Instant::now());
        }
        gone
    }

    /// Closes the inherited sockets that no bind claimed.
    pub(crate) fn close_unclaimed(&mut self) -> Vec<SocketAddr> {
        let unclaimed = std::mem::take(&mut self.inherited);
        unclaimed.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Returns the file descriptors in use, the cores' own duplicates included.
    pub(crate) fn files(&self) -> usize {
        2 * self.open.values().map(Vec::len).sum::<usize>()
    }

    /// Returns true if a bind could not be opened.
    pub(crate) fn any_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Returns the current state of every wanted bind.
    pub(crate) fn reports(&self) -> impl Iterator<Item = BindReport> + '_ {
        let host = PresentAddresses::now();
        let open = self.open.keys().map(move |address| {
            let here = host.has(address.ip());
            (*address, if here { BindState::Bound } else { BindState::AddressNotLocal })
        });
        let failed =
            self.failed.iter().map(|(address, why)| (*address, BindState::Failed(why.clone())));
        let report = |(address, state)| BindReport { transport: Transport::Udp, address, state };
        open.chain(failed).map(report)
    }

    /// Duplicates all sockets for a successor.
    pub(crate) fn duplicates(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let all = self.open.iter();
        let all = all.flat_map(|(address, sockets)| sockets.iter().map(move |one| (*address, one)));
        all.map(|(address, socket)| Ok((address, socket.try_clone()?.into()))).collect()
    }

    /// Closes all sockets.
    pub(crate) fn close_all(&mut self) {
        self.open.clear();
        self.inherited.clear();
    }
}

/// Opens a socket. The address need not be on the host yet (`IP_FREEBIND`). Fails without `shared` if another socket receives there, even one with
/// `SO_REUSEPORT`.
fn bound(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(shared)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    // The kernel takes as much as it may.
    let _ = socket.set_recv_buffer_size(WAITING);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Splits sockets that a predecessor or the service manager passed on into those for connections and those for datagrams.
pub(crate) fn divide(
    inherited: Vec<std::net::TcpListener>,
) -> (Vec<std::net::TcpListener>, Vec<UdpSocket>) {
    let is_stream = |socket: &std::net::TcpListener| {
        SockRef::from(socket).r#type().is_ok_and(|kind| kind == Type::STREAM)
    };
    let (streams, datagrams) = inherited.into_iter().partition::<Vec<_>, _>(is_stream);
    let datagrams = datagrams.into_iter().map(|socket| OwnedFd::from(socket).into());
    (streams, datagrams.collect())
}

fn describe(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another process receives UDP on {address}; stop it, use another port, or share it with another Durward (--share-addresses)"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "port {} needs CAP_NET_BIND_SERVICE or a lower net.ipv4.ip_unprivileged_port_start",
            address.port()
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_process_has_is_not_shared_with_it() {
        let other = bound("127.0.0.1:0".parse().unwrap(), true).unwrap();
        let address = other.local_addr().unwrap();

        let mut receivers = Receivers::new(2, Vec::new(), false);
        assert_eq!(receivers.open_one(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(other);

        assert_eq!(receivers.open_one(address).unwrap().len(), 2);
    }

    #[test]
    fn passed_sockets_are_told_apart_and_used_again() {
        let datagrams = bound("127.0.0.1:0".parse().unwrap(), true).unwrap();
        let address = datagrams.local_addr().unwrap();
        let streams = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let passed = vec![streams, OwnedFd::from(datagrams).into()];

        let (streams, datagrams) = divide(passed);
        assert_eq!((streams.len(), datagrams.len()), (1, 1));
        let mut receivers = Receivers::new(2, datagrams, false);
        assert_eq!(receivers.open_one(address).unwrap().len(), 2);
    }
}
