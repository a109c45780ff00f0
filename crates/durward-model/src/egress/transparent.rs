//! Connections of programs that know no proxy: which of them the kernel hands to the forward proxy, and what becomes of the rest.
//!
//! Deliberately absent: packets, which are the kernel plane's, and names, which the proxy reads from what is sent.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use crate::transport::Transport;

/// The port of loopback at which the kernel hands connections over.
pub const PORT: u16 = 3129;

/// Returns the socket to which the kernel hands connections of a family. It cannot be reached from elsewhere.
#[must_use]
pub const fn socket(ipv4: bool) -> SocketAddr {
    let address =
        if ipv4 { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
    SocketAddr::new(address, PORT)
}

/// Traffic of a tenant's networks that is handed to the forward proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transparent {
    /// TCP ports at which HTTP is expected.
    pub http: BTreeSet<u16>,
    /// TCP ports at which TLS is expected.
    pub tls: BTreeSet<u16>,
    /// Treatment of all other traffic.
    pub others: Others,
}

/// Treatment of traffic that is not handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Others {
    /// Refused.
    #[default]
    Deny,
    /// Leaves from the tenant's address; no rule is evaluated.
    Translate,
}

/// Treatment of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The proxy has it, and reads HTTP.
    Http,
    /// The proxy has it, and reads a ClientHello.
    Tls,
    /// Refused, so that the client tries TCP, where names can be read.
    Quic,
    /// Refused.
    Denied,
    /// Leaves from the tenant's address.
    Translated,
}

impl Transparent {
    /// Returns the treatment of a packet to `port` by the IP protocol of this number; `port` is ignored if the protocol has none.
    #[must_use]
    pub fn take(&self, protocol: u8, port: u16) -> Taken {
        let (tcp, udp) = (Transport::Tcp.number(), Transport::Udp.number());
        match self.others {
            _ if protocol == tcp && self.http.contains(&port) => Taken::Http,
            _ if protocol == tcp && self.tls.contains(&port) => Taken::Tls,
            _ if protocol == udp && self.tls.contains(&port) => Taken::Quic,
            Others::Deny => Taken::Denied,
            Others::Translate => Taken::Translated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tcp_goes_to_the_proxy_and_its_udp_nowhere() {
        let of = |others| Transparent { http: [80, 8080].into(), tls: [443].into(), others };
        let cases = [
            (6, 80, Taken::Http, Taken::Http),
            (6, 8080, Taken::Http, Taken::Http),
            (6, 443, Taken::Tls, Taken::Tls),
            (17, 443, Taken::Quic, Taken::Quic),
            (17, 80, Taken::Denied, Taken::Translated),
            (6, 22, Taken::Denied, Taken::Translated),
            (1, 443, Taken::Denied, Taken::Translated),
            (132, 443, Taken::Denied, Taken::Translated),
        ];

        for (protocol, port, denying, translating) in cases {
            assert_eq!(of(Others::Deny).take(protocol, port), denying, "{protocol} {port}");
            assert_eq!(
                of(Others::Translate).take(protocol, port),
                translating,
                "{protocol} {port}"
            );
        }
    }
}
