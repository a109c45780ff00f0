//! Opens a listening socket, or adopts one that another process opened.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;

use durward_model::address::canonical;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::BACKLOG;

/// Opens a listening socket. The address need not be on the host yet (`IP_FREEBIND`).
pub(super) fn open(address: SocketAddr, transparent: bool) -> io::Result<TcpListener> {
    let socket = bound(address, transparent, true)?;
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
pub(super) fn adopt(
    socket: &TcpListener,
    address: SocketAddr,
    transparent: bool,
) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    if transparent { set_transparent(&*socket, address, true) } else { Ok(()) }
}

/// Sets `IP_TRANSPARENT`: connections to any address are accepted, as TPROXY delivers them.
pub(super) fn set_transparent(
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
}

/// Returns true if a socket listens on `address`.
pub(super) fn listens_on(socket: &TcpListener, address: SocketAddr) -> bool {
    socket.local_addr().is_ok_and(|local| canonical(local) == canonical(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_send_without_delay() {
        let listener = open("127.0.0.1:0".parse().unwrap(), false).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();

        let (accepted, _) = listener.accept().unwrap();

        assert!(accepted.nodelay().unwrap());
    }
}
