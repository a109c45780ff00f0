//! Changes of the host's network: an agent that waits for its next attempt dials at once.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::sync::Notify;

/// Multicast groups of links, IPv4 addresses and routes, IPv6 addresses and routes (`RTMGRP_*`).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Bytes that are read at once; what a message says makes no difference.
const BUFFER: usize = 16 * 1024;

/// Starts a thread that tells `retry` of each change as long as the process lives. Where the kernel says none, nothing is told.
pub(super) fn follow(retry: Arc<Notify>) {
    let listening = open().map_err(std::io::Error::from).and_then(|socket| {
        let thread = std::thread::Builder::new().name("network".to_owned());
        thread.spawn(move || listen(&socket, &retry))
    });
    if let Err(error) = listening {
        tracing::debug!(%error, "changes of the network are not seen");
    }
}

fn listen(socket: &OwnedFd, retry: &Notify) {
    let mut buffer = vec![0; BUFFER];
    loop {
        match recv(socket, buffer.as_mut_slice(), RecvFlags::empty()) {
            // ENOBUFS: there were more changes than the socket holds, which is a change, too.
            Ok(_) | Err(Errno::NOBUFS) => retry.notify_waiters(),
            Err(Errno::INTR) => {}
            Err(error) => {
                tracing::debug!(%error, "changes of the network are not seen any more");
                return;
            }
        }
    }
}

fn open() -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}
