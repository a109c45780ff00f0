//! Headers of a traced packet: addresses, protocol, and flags or types of TCP and ICMP.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Headers of a packet, at one point of its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source; port 0 if the protocol has none.
    pub source: SocketAddr,
    /// Destination.
    pub destination: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags, or ICMP type and code.
    kind: [u8; 2],
}

impl Header {
    /// Parses the network and the transport header.
    pub(crate) fn read(network: &[u8], transport: &[u8]) -> Option<Self> {
        let (source, destination, protocol): (IpAddr, IpAddr, u8) = match network.first()? >> 4 {
            4 => {
                let [source, destination] = [12, 16].map(|at| first::<4>(network, at));
                (source?.into(), destination?.into(), *network.get(9)?)
            }
            6 => {
                let [source, destination] = [8, 24].map(|at| first::<16>(network, at));
                (source?.into(), destination?.into(), *network.get(6)?)
            }
            _ => return None,
        };
        let port = |at| match has_ports(protocol) {
            true => first::<2>(transport, at).map_or(0, u16::from_be_bytes),
            false => 0,
        };
        let kind = match protocol {
            6 => [transport.get(13).copied().unwrap_or_default(), 0],
            1 | 58 => first::<2>(transport, 0).unwrap_or_default(),
            _ => [0; 2],
        };
        Some(Self {
            source: SocketAddr::new(source, port(0)),
            destination: SocketAddr::new(destination, port(2)),
            protocol,
            kind,
        })
    }

    /// Returns the protocol's name, or number.
    #[must_use]
    pub fn protocol_name(&self) -> String {
        match self.protocol {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmp6".to_owned(),
            132 => "sctp".to_owned(),
            number => format!("protocol {number}"),
        }
    }

    /// Formats TCP flags or the ICMP type; empty for other protocols.
    #[must_use]
    pub fn kind(&self) -> String {
        const FLAGS: [(u8, &str); 5] =
            [(0x02, "SYN"), (0x10, "ACK"), (0x01, "FIN"), (0x04, "RST"), (0x08, "PSH")];
        let [first, second] = self.kind;
        match (self.protocol, first) {
            (6, _) => {
                let set = FLAGS.iter().filter(|(bit, _)| first & bit != 0);
                set.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
            }
            (1, 8) | (58, 128) => "echo request".to_owned(),
            (1, 0) | (58, 129) => "echo reply".to_owned(),
            (1, 3) | (58, 1) => format!("unreachable, code {second}"),
            (58, 2) => "too large".to_owned(),
            (1 | 58, kind) => format!("type {kind}, code {second}"),
            _ => String::new(),
        }
    }
}

/// Formats `192.0.2.9:4711`, or the address alone if there is no port.
#[must_use]
pub fn end(at: SocketAddr) -> String {
    if at.port() == 0 { at.ip().to_string() } else { at.to_string() }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination) = (end(self.source), end(self.destination));
        write!(f, "{source} → {destination} {}", self.protocol_name())?;
        let kind = self.kind();
        if kind.is_empty() { Ok(()) } else { write!(f, " {kind}") }
    }
}

/// Returns true for TCP, UDP and SCTP.
pub(crate) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 132)
}

fn first<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_both_families_are_read_and_short_ones_are_no_harm() {
        let mut v4 = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 9, 203, 0, 113, 1];
        let syn = [0x12, 0x67, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02];
        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
        v6.extend([0xfd; 16]);
        v6.extend([0x20; 16]);

        let tcp = Header::read(&v4, &syn).unwrap();
        let ping = Header::read(&v6, &[128, 0]).unwrap();
        v4.truncate(19);

        assert_eq!(tcp.to_string(), "192.0.2.9:4711 → 203.0.113.1:8080 tcp SYN");
        assert!(ping.to_string().ends_with(" icmp6 echo request"), "{ping}");
        assert_eq!(Header::read(&v4, &syn), None);
        assert_eq!(Header::read(&v6, &[]).unwrap().kind(), "type 0, code 0");
        assert_eq!(Header::read(&[], &[]), None);
    }
}
