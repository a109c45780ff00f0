//! One netlink socket: builds messages, sends each whole, and waits for the answers with a deadline.

pub(crate) mod attributes;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv,
    send, socket_with,
};

pub(crate) use attributes::{Attributes, Builder};

/// Message flags (`NLM_F_*`).
pub(crate) mod flags {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const ACK: u16 = 4;
    pub(crate) const EXCL: u16 = 0x200;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const REPLACE: u16 = 0x100;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

const ERROR: u16 = 2;
const DONE: u16 = 3;
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
/// Bytes of the receive buffer: larger than any message of the kernel, whose dumps have up to 32 KiB at a time.
const RECEIVE_BUFFER: usize = 256 * 1024;
/// Tries of a dump that changes interrupt (`NLM_F_DUMP_INTR`).
const DUMP_ATTEMPTS: usize = 10;

/// Netlink family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Links, addresses, routes, rules.
    Route,
    /// `nf_tables` and connection tracking.
    Netfilter,
}

/// Received message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Bytes after the netlink header.
    pub(crate) payload: Vec<u8>,
}

/// Netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: Cell<u32>,
    send_buffer: Cell<usize>,
}

impl Socket {
    /// Opens a socket that also receives the multicast groups of `groups` (bit n-1 for group n).
    pub(crate) fn open(family: Family, groups: u32, timeout: Duration) -> io::Result<Self> {
        let protocol: Option<Protocol> = match family {
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let fd =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        sockopt::set_socket_timeout(&fd, Timeout::Recv, Some(timeout))?;
        sockopt::set_socket_timeout(&fd, Timeout::Send, Some(timeout))?;
        // Fails without CAP_NET_ADMIN; the default size then has to do.
        let _ = sockopt::set_socket_recv_buffer_size_force(&fd, 8 << 20);
        Ok(Self { fd, sequence: Cell::new(0), send_buffer: Cell::new(0) })
    }

    /// Returns a sequence number that no other message of this socket has.
    pub(crate) fn next_sequence(&self) -> u32 {
        let next = self.sequence.get().wrapping_add(1).max(1);
        self.sequence.set(next);
        next
    }

    /// Sends all bytes as one datagram, of any size.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        let needed = bytes.len() + 4096;
        if needed > self.send_buffer.get() {
            sockopt::set_socket_send_buffer_size_force(&self.fd, needed)
                .or_else(|_| sockopt::set_socket_send_buffer_size(&self.fd, needed))?;
            self.send_buffer.set(needed);
        }
        loop {
            match send(&self.fd, bytes, SendFlags::empty()) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Returns the messages of the next datagram.
    pub(crate) fn receive(&self) -> Result<Vec<Message>, Errno> {
        let mut buffer = vec![0u8; RECEIVE_BUFFER];
        loop {
            match recv(&self.fd, buffer.as_mut_slice(), RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
                Ok((length, _)) => return Ok(messages(&buffer[..length])),
            }
        }
    }

    /// Returns the messages that have arrived, without waiting.
    pub(crate) fn receive_now(&self) -> Result<Vec<Message>, Errno> {
        let mut buffer = vec![0u8; RECEIVE_BUFFER];
        match recv(&self.fd, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok((length, _)) => Ok(messages(&buffer[..length])),
        }
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(
        &self,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Builder),
    ) -> Result<(), Errno> {
        let sequence = self.next_sequence();
        let mut builder = Builder::default();
        builder.message(kind, flags | flags::REQUEST | flags::ACK, sequence, body);
        self.send(builder.bytes())?;
        loop {
            for message in self.receive()? {
                if message.sequence == sequence
                    && let Some(error) = message.error()
                {
                    return error;
                }
            }
        }
    }

    /// Requests all objects of a kind, again if they changed meanwhile.
    pub(crate) fn dump(
        &self,
        kind: u16,
        body: impl Fn(&mut Builder),
    ) -> Result<Vec<Message>, Errno> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.dump_once(kind, &body) {
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::INTR)
    }

    fn dump_once(&self, kind: u16, body: impl Fn(&mut Builder)) -> Result<Vec<Message>, Errno> {
        let sequence = self.next_sequence();
        let mut builder = Builder::default();
        builder.message(kind, flags::REQUEST | flags::DUMP, sequence, body);
        self.send(builder.bytes())?;
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            for message in self.receive()? {
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & FLAG_DUMP_INTERRUPTED != 0;
                match message.kind {
                    DONE if interrupted => return Err(Errno::INTR),
                    DONE => return Ok(found),
                    ERROR => return message.error().unwrap_or(Ok(())).map(|()| found),
                    _ => found.push(message),
                }
            }
        }
    }

    /// Requests one object; `None` if it does not exist.
    pub(crate) fn get(
        &self,
        kind: u16,
        body: impl FnOnce(&mut Builder),
    ) -> Result<Option<Message>, Errno> {
        let sequence = self.next_sequence();
        let mut builder = Builder::default();
        builder.message(kind, flags::REQUEST, sequence, body);
        self.send(builder.bytes())?;
        loop {
            for message in self.receive()? {
                if message.sequence != sequence {
                    continue;
                }
                match message.error() {
                    Some(Err(Errno::NOENT)) => return Ok(None),
                    Some(result) => return result.map(|()| None),
                    None => return Ok(Some(message)),
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Message {
    /// Returns the result in an acknowledgement or error message.
    pub(crate) fn error(&self) -> Option<Result<(), Errno>> {
        if self.kind != ERROR {
            return None;
        }
        let code = i32::from_ne_bytes(self.payload.get(..4)?.try_into().ok()?);
        Some(if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-code)) })
    }

    /// Returns the attributes after a family header of `header` bytes.
    pub(crate) fn attributes(&self, header: usize) -> Attributes<'_> {
        Attributes::new(self.payload.get(header..).unwrap_or_default())
    }
}

fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    while bytes.len() >= 16 {
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let length = word(0) as usize;
        if length < 16 || length > bytes.len() {
            break;
        }
        found.push(Message {
            kind: half(4),
            flags: half(6),
            sequence: word(8),
            payload: bytes[16..length].to_vec(),
        });
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    found
}
