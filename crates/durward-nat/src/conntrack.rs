//! Connection-tracking entries: listing, judging by the current policy, and deleting.
//!
//! Packets are filtered at a connection's first packet only, so connections that are no longer allowed must be deleted. Connections without Durward's
//! mark are left alone.

pub mod hygiene;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;

use crate::netlink::{Attributes, Builder, Family, Message, Socket, flags};

const NEW: u16 = 1 << 8;
const GET: u16 = NEW | 1;
const DELETE: u16 = NEW | 2;
const STATS: u16 = NEW | 4;
const HEADER: usize = 4;
/// Deletions in one datagram.
const BATCH: usize = 128;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const MARK_MASK: u16 = 21;

/// Netlink socket for connection tracking.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

/// Connection-tracking entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// Source of the original direction: the side that opened the connection.
    pub source: SocketAddr,
    /// Destination of the original direction.
    pub destination: SocketAddr,
    /// Source of the reply direction.
    pub reply_source: SocketAddr,
    /// Destination of the reply direction.
    pub reply_destination: SocketAddr,
    /// Connection mark.
    pub mark: u32,
    tuple: Vec<u8>,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

/// Statistics of connection tracking, summed over all processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Connections that found no free port and were dropped (`insert_failed`).
    pub insert_failed: u64,
    /// Packets dropped because of a lack of space.
    pub dropped: u64,
}

impl Conntrack {
    /// Opens a socket in the thread's network namespace.
    ///
    /// # Errors
    /// Fails if no socket can be opened.
    pub fn open(timeout: Duration) -> std::io::Result<Self> {
        Ok(Self { socket: Socket::open(Family::Netfilter, 0, timeout)? })
    }

    /// Returns the entries whose mark has these bits of the mask; all with mask 0.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn flows(&self, mark: u32, mask: u32) -> Result<Vec<Flow>, Errno> {
        let found = self.socket.dump(GET, |to| {
            to.raw(&[0, 0, 0, 0]);
            if mask != 0 {
                to.be32(MARK, mark).be32(MARK_MASK, mask);
            }
        })?;
        let flows = found.iter().filter_map(flow);
        // Older kernels ignore the filter.
        Ok(flows.filter(|flow| flow.mark & mask == mark & mask).collect())
    }

    /// Returns the entry between these endpoints, in either direction; the protocol has ports.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn find(
        &self,
        protocol: u8,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<Option<Flow>, Errno> {
        let ends = [(source, [1, 3], 2), (destination, [2, 4], 3)];
        let found = self.socket.get(GET, |to| {
            to.raw(&[if source.is_ipv4() { 2 } else { 10 }, 0, 0, 0]);
            to.nest(TUPLE_ORIGINAL, |to| {
                to.nest(1, |to| {
                    for (end, [v4, v6], _) in ends {
                        match end.ip() {
                            IpAddr::V4(ip) => to.bytes_attribute(v4, &ip.octets()),
                            IpAddr::V6(ip) => to.bytes_attribute(v6, &ip.octets()),
                        };
                    }
                });
                to.nest(2, |to| {
                    to.bytes_attribute(1, &[protocol]);
                    for (end, _, kind) in ends {
                        to.bytes_attribute(kind, &end.port().to_be_bytes());
                    }
                });
            });
        })?;
        Ok(found.as_ref().and_then(flow))
    }

    /// Deletes these entries; an entry that is gone already is no error. Returns the number of deleted ones.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn cut(&self, flows: &[Flow]) -> Result<usize, Errno> {
        let mut cut = 0;
        for batch in flows.chunks(BATCH) {
            cut += self.cut_batch(batch)?;
        }
        Ok(cut)
    }

    /// Deletes all entries whose mark has these bits of the mask.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn flush(&self, mark: u32, mask: u32) -> Result<(), Errno> {
        self.socket.request(DELETE, 0, |to| {
            to.raw(&[0, 0, 0, 0]);
            to.be32(MARK, mark).be32(MARK_MASK, mask);
        })
    }

    /// Returns the statistics of all processors together.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn statistics(&self) -> Result<Statistics, Errno> {
        let found = self.socket.dump(STATS, |to| {
            to.raw(&[0, 0, 0, 0]);
        })?;
        let sum = |kind| {
            let each = found.iter().filter_map(|message| message.attributes(HEADER).be32(kind));
            each.map(u64::from).sum()
        };
        Ok(Statistics { insert_failed: sum(9), dropped: sum(10) })
    }

    fn cut_batch(&self, flows: &[Flow]) -> Result<usize, Errno> {
        let mut builder = Builder::default();
        let mut last = 0;
        for (index, flow) in flows.iter().enumerate() {
            last = self.socket.next_sequence();
            // One acknowledgement for the whole batch: the kernel handles messages in order, and errors are sent anyway.
            let ack = if index + 1 == flows.len() { flags::ACK } else { 0 };
            builder.message(DELETE, flags::REQUEST | ack, last, |to| {
                to.raw(&[if flow.source.is_ipv4() { 2 } else { 10 }, 0, 0, 0]);
                to.nest(TUPLE_ORIGINAL, |to| {
                    to.raw(&flow.tuple);
                });
                for (kind, value) in [(ID, &flow.id), (ZONE, &flow.zone)] {
                    if let Some(value) = value {
                        to.bytes_attribute(kind, value);
                    }
                }
            });
        }
        self.socket.send(builder.bytes())?;
        let mut failed = 0;
        loop {
            for message in self.socket.receive()? {
                let Some(result) = message.error() else { continue };
                failed += usize::from(result.is_err());
                if message.sequence == last {
                    return Ok(flows.len().saturating_sub(failed));
                }
            }
        }
    }
}

fn flow(message: &Message) -> Option<Flow> {
    let attributes = message.attributes(HEADER);
    let original = attributes.nested(TUPLE_ORIGINAL);
    let (protocol, source, destination) = tuple(original)?;
    let (_, reply_source, reply_destination) = tuple(attributes.nested(TUPLE_REPLY))?;
    let copy = |kind| attributes.get(kind).map(|attribute| attribute.value.to_vec());
    Some(Flow {
        protocol,
        source,
        destination,
        reply_source,
        reply_destination,
        mark: attributes.be32(MARK).unwrap_or_default(),
        tuple: copy(TUPLE_ORIGINAL)?,
        id: copy(ID),
        zone: copy(ZONE),
    })
}

/// Parses protocol, source and destination; a protocol without ports has port 0.
fn tuple(from: Attributes<'_>) -> Option<(u8, SocketAddr, SocketAddr)> {
    let (ip, protocol) = (from.nested(1), from.nested(2));
    let address = |v4, v6| {
        let v4 = ip.get(v4).and_then(|one| <[u8; 4]>::try_from(one.value).ok());
        let v6 = ip.get(v6).and_then(|one| <[u8; 16]>::try_from(one.value).ok());
        v4.map(IpAddr::from).or_else(|| v6.map(IpAddr::from))
    };
    let port = |kind| {
        let bytes = protocol.get(kind).and_then(|one| <[u8; 2]>::try_from(one.value).ok());
        bytes.map_or(0, u16::from_be_bytes)
    };
    Some((
        *protocol.get(1)?.value.first()?,
        SocketAddr::new(address(1, 3)?, port(2)),
        SocketAddr::new(address(2, 4)?, port(3)),
    ))
}

#[cfg(test)]
impl Flow {
    /// Builds an entry for tests.
    pub(crate) fn imagined(protocol: u8, mark: u32, ends: [&str; 4]) -> Self {
        let [source, destination, reply_source, reply_destination] =
            ends.map(|end| end.parse().expect("an address with a port"));
        Self {
            protocol,
            source,
            destination,
            reply_source,
            reply_destination,
            mark,
            tuple: Vec::new(),
            id: None,
            zone: None,
        }
    }
}
