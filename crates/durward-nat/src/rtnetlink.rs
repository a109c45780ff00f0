//! Links, addresses, routes and rules of the kernel, read and changed over rtnetlink.

pub(crate) mod dummy;
pub(crate) mod tunnel;
mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::io::Errno;

use crate::interface::Link;
use crate::netlink::{Family, Message, Socket, flags};
use crate::options::AssignedAddress;
use crate::policy_route::{Hop, MAIN, Route, Routing, Rule};
use wire::Labelled;

/// Multicast groups of links, addresses, routes, rules and forwarding parameters of both families, as bits of the bind mask.
pub(crate) const GROUPS: u32 =
    1 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18 | 1 << 23 | 1 << 24;

/// Multicast group of neighbours, as a bit of the bind mask.
pub(crate) const NEIGHBOURS: u32 = 1 << 2;
/// Label of routes and rules of nodes that steer traffic to a gateway. Not the gateway's, which removes those with its own label that it does not
/// know.
pub(crate) const STEERED: u8 = 158;

/// Time for the kernel to make the local route of an address.
const LOCAL_ROUTE_PATIENCE: Duration = Duration::from_secs(10);

mod msg {
    pub(super) const NEWLINK: u16 = 16;
    pub(super) const DELLINK: u16 = 17;
    pub(super) const GETLINK: u16 = 18;
    pub(super) const NEWADDR: u16 = 20;
    pub(super) const DELADDR: u16 = 21;
    pub(super) const GETADDR: u16 = 22;
    pub(super) const NEWROUTE: u16 = 24;
    pub(super) const DELROUTE: u16 = 25;
    pub(super) const GETROUTE: u16 = 26;
    pub(super) const NEWNEIGH: u16 = 28;
    pub(super) const DELNEIGH: u16 = 29;
    pub(super) const GETNEIGH: u16 = 30;
    pub(super) const NEWRULE: u16 = 32;
    pub(super) const DELRULE: u16 = 33;
    pub(super) const GETRULE: u16 = 34;
}

/// Netlink socket for routing.
#[derive(Debug)]
pub(crate) struct Rtnetlink {
    socket: Socket,
}

/// Address as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldAddress {
    pub(crate) index: u32,
    pub(crate) net: IpNet,
    /// Protocol number of the program that set it (`IFA_PROTO`).
    pub(crate) protocol: u8,
}

/// Neighbour as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) index: u32,
    pub(crate) address: IpAddr,
    /// True if the neighbour has ever answered.
    pub(crate) answered: bool,
}

impl Rtnetlink {
    /// Opens a socket in the thread's network namespace.
    pub(crate) fn open(timeout: Duration) -> std::io::Result<Self> {
        Ok(Self { socket: Socket::open(Family::Route, 0, timeout)? })
    }

    /// Returns all interfaces with their addresses and default gateways; routes of `protocol` are ours and are left out.
    pub(crate) fn links(&self, protocol: u8) -> Result<Vec<Link>, Errno> {
        let mut links: BTreeMap<u32, Link> = BTreeMap::new();
        for message in self.dump(msg::GETLINK, 0, 16)? {
            if let Some(link) = wire::link(&message) {
                links.insert(link.index, link);
            }
        }
        for address in self.addresses()? {
            if let Some(link) = links.get_mut(&address.index) {
                link.addresses.push(address.net);
            }
        }
        for message in self.routes()? {
            let Some(Labelled { route, protocol: by }) = wire::route(&message) else { continue };
            let Hop::Gateway { gateway, interface } = route.hop else { continue };
            let Some(link) = links.get_mut(&interface).filter(|_| route.table == MAIN) else {
                continue;
            };
            link.tunnel |= by == STEERED;
            match route.destination.prefix_len() {
                0 if by != protocol => link.default_gateways.push(gateway),
                0 => {}
                _ => link.routes.push((route.destination, gateway)),
            }
        }
        Ok(links.into_values().collect())
    }

    /// Returns all addresses.
    pub(crate) fn addresses(&self) -> Result<Vec<HeldAddress>, Errno> {
        Ok(self.dump(msg::GETADDR, 0, 8)?.iter().filter_map(wire::address).collect())
    }

    /// Returns all neighbours.
    pub(crate) fn neighbours(&self) -> Result<Vec<Neighbour>, Errno> {
        Ok(self.dump(msg::GETNEIGH, 0, 12)?.iter().filter_map(wire::neighbour).collect())
    }

    /// Returns the routes and rules labelled with this protocol.
    pub(crate) fn routing(&self, protocol: u8) -> Result<Routing, Errno> {
        let mut found = Routing::default();
        for message in self.routes()? {
            let route = wire::route(&message).filter(|route| route.protocol == protocol);
            found.routes.extend(route.map(|route| route.route));
        }
        for family in [wire::INET, wire::INET6] {
            for message in self.dump(msg::GETRULE, family, 12)? {
                found.rules.extend(wire::rule(&message, protocol));
            }
        }
        Ok(found)
    }

    /// Adds or replaces a route.
    pub(crate) fn add_route(&self, route: &Route, protocol: u8) -> Result<(), Errno> {
        let mode = flags::CREATE | flags::REPLACE;
        self.socket.request(msg::NEWROUTE, mode, |to| wire::write_route(to, route, protocol))
    }

    /// Removes a route; one that is gone is no error.
    pub(crate) fn remove_route(&self, route: &Route, protocol: u8) -> Result<(), Errno> {
        gone(self.socket.request(msg::DELROUTE, 0, |to| wire::write_route(to, route, protocol)))
    }

    /// Adds a rule.
    pub(crate) fn add_rule(&self, rule: &Rule, protocol: u8) -> Result<(), Errno> {
        let mode = flags::CREATE | flags::EXCL;
        match self.socket.request(msg::NEWRULE, mode, |to| wire::write_rule(to, rule, protocol)) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    /// Removes a rule; one that is gone is no error.
    pub(crate) fn remove_rule(&self, rule: &Rule, protocol: u8) -> Result<(), Errno> {
        gone(self.socket.request(msg::DELRULE, 0, |to| wire::write_rule(to, rule, protocol)))
    }

    /// Adds an address to an interface, or renews it, without duplicate address detection. The kernel makes the local route of an IPv6 address a moment later: see
    /// [`Self::await_local`].
    pub(crate) fn add_address(
        &self,
        index: u32,
        address: IpAddr,
        assigned: &AssignedAddress,
        protocol: u8,
    ) -> Result<(), Errno> {
        let net = IpNet::new(address, assigned.prefix_len).map_err(|_| Errno::INVAL)?;
        let mode = flags::CREATE | flags::REPLACE;
        self.socket.request(msg::NEWADDR, mode, |to| {
            wire::write_address(to, index, net, assigned.valid, protocol);
        })
    }

    /// Waits until packets of this host to an address of its own stay on it. An IPv6 address has its local route from a work queue of the kernel; a packet that is sent before
    /// is looked for on the link, and its connection fails after 3 s with `EHOSTUNREACH`.
    pub(crate) fn await_local(&self, address: IpAddr) -> Result<(), Errno> {
        let start = Instant::now();
        loop {
            let found = self.socket.get(msg::GETROUTE, |to| wire::write_lookup(to, address));
            match found {
                Ok(Some(route)) if wire::is_local(&route) => return Ok(()),
                Ok(_) | Err(Errno::NETUNREACH | Errno::HOSTUNREACH) => {}
                Err(error) => return Err(error),
            }
            if start.elapsed() > LOCAL_ROUTE_PATIENCE {
                return Err(Errno::TIMEDOUT);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Removes an address; one that is gone is no error.
    pub(crate) fn remove_address(&self, held: &HeldAddress) -> Result<(), Errno> {
        match self.socket.request(msg::DELADDR, 0, |to| {
            wire::write_address(to, held.index, held.net, None, held.protocol);
        }) {
            Err(Errno::ADDRNOTAVAIL) => Ok(()),
            other => gone(other),
        }
    }

    fn routes(&self) -> Result<Vec<Message>, Errno> {
        let mut found = self.dump(msg::GETROUTE, wire::INET, 12)?;
        found.extend(self.dump(msg::GETROUTE, wire::INET6, 12)?);
        Ok(found)
    }

    fn dump(&self, kind: u16, family: u8, header: usize) -> Result<Vec<Message>, Errno> {
        self.socket.dump(kind, |to| {
            let mut bytes = vec![0u8; header];
            bytes[0] = family;
            to.raw(&bytes);
        })
    }
}

fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT | Errno::SRCH | Errno::NODEV) => Ok(()),
        other => other,
    }
}
