//! VXLAN link between a node and the gateway, and the entries of its tables: all derived from underlay addresses.
//!
//! No address plan is needed: a link's hardware address is derived from its underlay address, so each end knows the other's; routes lead over the
//! link to the underlay address itself, or to the link-local address of that hardware address.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::announce::Mac;

/// VXLAN link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Name of the link.
    pub name: String,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port of both ends.
    pub port: u16,
    /// Underlay address of this end.
    pub local: Ipv4Addr,
    /// MTU of the link.
    pub mtu: u32,
}

/// Static entry of a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// Forwarding entry: frames for the hardware address go to this end.
    Forward {
        /// Hardware address.
        mac: Mac,
        /// Underlay address of the end.
        underlay: Ipv4Addr,
    },
    /// Neighbour entry.
    Neighbour {
        /// Address of the neighbour.
        address: IpAddr,
        /// Hardware address of the neighbour.
        mac: Mac,
    },
}

impl Tunnel {
    /// Bytes that VXLAN over IPv4 adds to a packet.
    pub const OVERHEAD: u32 = 50;

    /// Returns true if both are the same link; the MTU can be changed on an existing link.
    #[must_use]
    pub fn is_same_link(&self, other: &Self) -> bool {
        (&self.name, self.vni, self.port, self.local)
            == (&other.name, other.vni, other.port, other.local)
    }
}

impl Mac {
    /// Derives the hardware address from an underlay address: locally administered, unicast.
    #[must_use]
    pub const fn of(underlay: Ipv4Addr) -> Self {
        let [a, b, c, d] = underlay.octets();
        Self([0x02, 0x64, a, b, c, d])
    }

    /// Returns the link-local address of an interface with this hardware address (RFC 4291, appendix A).
    #[must_use]
    pub const fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            ((a ^ 2) as u16) << 8 | b as u16,
            (c as u16) << 8 | 0xff,
            0xfe00 | d as u16,
            (e as u16) << 8 | f as u16,
        )
    }
}

/// Returns the next hop of routes to an end of the tunnel, over the link.
#[must_use]
pub const fn next_hop(end: Ipv4Addr, ipv4: bool) -> IpAddr {
    if ipv4 { IpAddr::V4(end) } else { IpAddr::V6(Mac::of(end).link_local()) }
}

/// Returns the entries for these ends.
#[must_use]
pub fn entries(ends: impl IntoIterator<Item = Ipv4Addr>) -> BTreeSet<Entry> {
    let of = |underlay: Ipv4Addr| {
        let mac = Mac::of(underlay);
        let neighbour = |ipv4| Entry::Neighbour { address: next_hop(underlay, ipv4), mac };
        [Entry::Forward { mac, underlay }, neighbour(true), neighbour(false)]
    };
    ends.into_iter().flat_map(of).collect()
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, vni, port, local, mtu } = self;
        write!(f, "link {name} vxlan {vni} local {local} port {port} mtu {mtu}")
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward { mac, underlay } => write!(f, "forward {mac} to {underlay}"),
            Self::Neighbour { address, mac } => write!(f, "neighbour {address} at {mac}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_underlay_address_names_the_hardware_and_the_link_local_address() {
        let mac = Mac::of(Ipv4Addr::new(192, 168, 50, 1));

        assert_eq!(mac.to_string(), "02:64:c0:a8:32:01");
        assert_eq!(mac.link_local().to_string(), "fe80::64:c0ff:fea8:3201");
    }
}
