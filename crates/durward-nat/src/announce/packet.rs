//! Packet socket (AF_PACKET) that sends whole frames and receives nothing.
//!
//! `unsafe` here: the one address type for which there is no safe wrapper.
#![allow(unsafe_code, reason = "no safe crate builds a link-layer socket address")]

use std::io;
use std::mem::size_of;

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// Packet socket.
#[derive(Debug)]
pub(super) struct PacketSocket(Socket);

impl PacketSocket {
    pub(super) fn open() -> io::Result<Self> {
        // Protocol 0: no frame is ever received.
        Ok(Self(Socket::new(Domain::PACKET, Type::RAW, None)?))
    }

    pub(super) fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        self.0.send_to(frame, &link_address(interface, frame)).map(|_| ())
    }
}

fn link_address(interface: u32, frame: &[u8]) -> SockAddr {
    let mut hardware = [0; 8];
    hardware[..6].copy_from_slice(&frame[..6]);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: u16::from_ne_bytes([frame[12], frame[13]]),
        sll_ifindex: interface as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: hardware,
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is a plain socket address with AF_PACKET in its family field, and fits into the storage.
    unsafe {
        *storage.view_as::<libc::sockaddr_ll>() = address;
        SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    }
}
