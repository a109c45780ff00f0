//! Opens a listening socket, or adopts one that another process opened.

mod lanes;
mod option;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;

use durward_model::address::canonical;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

pub(super) use lanes::choose_by_source;

use super::BACKLOG;

/// Ways in which binds' sockets differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// True to accept connections to any address, as TPROXY delivers them (`IP_TRANSPARENT`).
    pub(super) transparent: bool,
    /// True to leave a connection with the kernel until its client has sent something (`TCP_DEFER_ACCEPT`), or has said nothing for a second.
    pub(super) deferred: bool,
    /// Sockets per core: see [`lanes`].
    pub(super) lanes: usize,
}

/// Opens a listening socket. The address need not be on the host yet (`IP_FREEBIND`).
pub(super) fn open(address: SocketAddr, options: Options) -> io::Result<TcpListener> {
    let socket = bound(address, options.transparent, true)?;
    option::set_deferred(&socket, options.deferred)?;
    // Accepted sockets inherit the option: one call here instead of one per connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Fails if a socket listens on the address, even one with `SO_REUSEPORT`: the kernel would split the clients between both.
pub(super) fn ensure_free(address: SocketAddr, transparent: bool) -> io::Result<()> {
    bound(address, transparent, false).map(drop)
}

fn bound(address: SocketAddr, transparent: bool, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(!address.ip().is_unspecified())?;
            socket.set_freebind_v6(true)?;
        }
    }
    if transparent {
        set_transparent(&socket, address, true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets the options of our own sockets on an inherited one.
pub(super) fn adopt(socket: &TcpListener, address: SocketAddr, options: Options) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    option::set_deferred(&*socket, options.deferred)?;
    if options.transparent { set_transparent(&*socket, address, true) } else { Ok(()) }
}

/// Changes the options of an open socket.
pub(super) fn change(
    socket: &TcpListener,
    address: SocketAddr,
    from: Options,
    to: Options,
) -> io::Result<()> {
    if from.deferred != to.deferred {
        option::set_deferred(socket, to.deferred)?;
    }
    if from.transparent == to.transparent {
        Ok(())
    } else {
        set_transparent(socket, address, to.transparent)
    }
}

fn set_transparent(
    socket: &impl std::os::fd::AsFd,
    address: SocketAddr,
    transparent: bool,
) -> io::Result<()> {
    let socket = SockRef::from(socket);
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(transparent),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(transparent),
    }
}

/// Makes the kernel skip the socket for new connections, as if it were closed already: they reach another socket that listens on the address, or are
/// refused. Handshakes under way still complete in its accept queue. This cannot be undone.
pub(super) fn divert(socket: &TcpListener) {
    // No host has this interface, so no packet matches. On kernels without the option clients in the queue are reset, as they would be at close.
    let nowhere = NonZeroU32::new(i32::MAX as u32);
    let _ = SockRef::from(socket).bind_device_by_index_v4(nowhere);
    // Clients that have said nothing yet come into the queue, too.
    let _ = option::set_deferred(socket, false);
}

/// Returns true if a socket listens on `address`.
pub(super) fn listens_on(socket: &TcpListener, address: SocketAddr) -> bool {
    socket.local_addr().is_ok_and(|local| canonical(local) == canonical(address))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn accepted_sockets_send_without_delay() {
        let options = Options { transparent: false, deferred: false, lanes: 1 };
        let listener = open("127.0.0.1:0".parse().unwrap(), options).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();

        let (accepted, _) = listener.accept().unwrap();

        assert!(accepted.nodelay().unwrap());
    }
    #[test]
    fn a_deferred_socket_yields_who_speaks_and_who_stays_silent() {
        let options = Options { transparent: false, deferred: true, lanes: 1 };
        let listener = open("127.0.0.1:0".parse().unwrap(), options).unwrap();
        let address = listener.local_addr().unwrap();
        let mut silent = std::net::TcpStream::connect(address).unwrap();
        let nobody = listener.accept().unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);

        let mut speaking = std::net::TcpStream::connect(address).unwrap();
        speaking.write_all(b"x").unwrap();

        listener.set_nonblocking(false).unwrap();
        let (_, first) = listener.accept().unwrap();
        assert_eq!(first, speaking.local_addr().unwrap());
        let (mut accepted, second) = listener.accept().unwrap();
        assert_eq!(second, silent.local_addr().unwrap());
        silent.write_all(b"y").unwrap();
        accepted.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn a_socket_that_defers_no_longer_yields_the_silent_without_a_byte() {
        let (deferring, plain) = (
            Options { transparent: false, deferred: true, lanes: 1 },
            Options { transparent: false, deferred: false, lanes: 1 },
        );
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = open(address, deferring).unwrap();
        change(&listener, address, deferring, plain).unwrap();

        let silent = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();

        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, silent.local_addr().unwrap());
    }
}
