//! External interfaces, with their addresses, gateways and slots.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use regex_lite::Regex;

use crate::mark::ANSWER_SLOT;
use crate::options::{GatewayRule, Options};

/// Interfaces and routers of the host, as far as they matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// External interfaces, by name.
    pub external: BTreeMap<String, External>,
    /// Routers by which the host's main table leads to networks of the cluster; their ICMP errors are accepted.
    pub routers: BTreeSet<IpAddr>,
    /// Links by which the routes of `durward nat steer` lead to nodes.
    pub tunnels: BTreeSet<String>,
}

/// External interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Index in the kernel.
    pub index: u32,
    /// Slot in marks and tables, which stays the same when the interface comes back.
    pub slot: u8,
    /// True if the interface is up.
    pub up: bool,
    /// Addresses with their networks.
    pub addresses: Vec<IpNet>,
    /// IPv4 gateway.
    pub gateway_v4: Option<Ipv4Addr>,
    /// IPv6 gateway.
    pub gateway_v6: Option<Ipv6Addr>,
}

/// Interface as the kernel lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Name of the interface.
    pub name: String,
    /// Index in the kernel.
    pub index: u32,
    /// True if the interface is up.
    pub up: bool,
    /// True for a bridge.
    pub bridge: bool,
    /// Hardware address, if it has six octets as Ethernet's.
    pub mac: Option<[u8; 6]>,
    /// Addresses with their networks.
    pub addresses: Vec<IpNet>,
    /// True if the interface carries packets: up, and with a carrier.
    pub running: bool,
    /// Number of carrier changes.
    pub carrier_changes: u32,
    /// Gateways of the host's default routes by this interface.
    pub default_gateways: Vec<IpAddr>,
    /// Other routes of the host by this interface, with their router.
    pub routes: Vec<(IpNet, IpAddr)>,
    /// True if a route of `durward nat steer` in the main table uses this interface.
    pub tunnel: bool,
}

impl Interfaces {
    /// Selects the external interfaces and gives each a slot: the model's, or `known` from before, or the lowest free one.
    #[must_use]
    pub fn pick(
        links: &[Link],
        options: &Options,
        slots: &BTreeMap<Arc<str>, u8>,
        known: &BTreeMap<String, u8>,
    ) -> Self {
        let tunnels = links.iter().filter(|link| link.tunnel);
        let tunnels = tunnels.map(|link| link.name.clone()).collect();
        let routers = routers(links, &options.cluster);
        let Some(pattern) = full_match(&options.external) else {
            return Self { routers, tunnels, ..Self::default() };
        };
        let mut links: Vec<_> = links
            .iter()
            .filter(|link| {
                pattern.is_match(&link.name) && !options.not_external.contains(&link.name)
            })
            .collect();
        links.sort_by(|a, b| a.name.cmp(&b.name));
        let mut taken: BTreeSet<u8> =
            slots.values().copied().chain(known.values().copied()).collect();
        let mut external = BTreeMap::new();
        for link in links {
            let slot = slots.get(&*link.name).or_else(|| known.get(&link.name)).copied();
            let slot = slot.filter(|slot| *slot < ANSWER_SLOT);
            let Some(slot) = slot.or_else(|| (1..ANSWER_SLOT).find(|slot| !taken.contains(slot)))
            else {
                continue;
            };
            taken.insert(slot);
            external.insert(link.name.clone(), judge(link, slot, &options.gateway));
        }
        Self { external, routers, tunnels }
    }

    /// Returns the slot for an address: of the interface that has it, or else of one whose network contains it.
    #[must_use]
    pub fn slot_of(&self, address: IpAddr) -> Option<u8> {
        let on = |external: &&External| external.addresses.iter().any(|net| net.addr() == address);
        let near =
            |external: &&External| external.addresses.iter().any(|net| net.contains(&address));
        let found = self.external.values().find(on).or_else(|| self.external.values().find(near));
        found.map(|external| external.slot)
    }

    /// Returns true if an external interface has the address.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.external.values().any(|one| one.addresses.iter().any(|net| net.addr() == address))
    }

    /// Returns all addresses of external interfaces.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.external.values().flat_map(|one| one.addresses.iter().map(IpNet::addr))
    }

    /// Returns the slots by interface name.
    #[must_use]
    pub fn slots(&self) -> BTreeMap<String, u8> {
        self.external.iter().map(|(name, external)| (name.clone(), external.slot)).collect()
    }
}

fn routers(links: &[Link], cluster: &[IpNet]) -> BTreeSet<IpAddr> {
    let routes = links.iter().flat_map(|link| &link.routes);
    let inward = routes.filter(|(to, _)| cluster.iter().any(|net| net.contains(to)));
    inward.map(|(_, router)| *router).collect()
}

/// Compiles a pattern that must match the whole name: `eth[1-9][0-9]*` must not match inside of `veth12ab`.
#[must_use]
pub fn full_match(pattern: &str) -> Option<Regex> {
    if pattern.is_empty() {
        return None;
    }
    Regex::new(&format!("^(?:{pattern})$")).ok()
}

fn judge(link: &Link, slot: u8, rule: &GatewayRule) -> External {
    let offset = |ipv4: bool| match rule {
        GatewayRule::Offset(offset) => {
            let mut networks = link.addresses.iter().filter(|net| net.addr().is_ipv4() == ipv4);
            networks.find(|net| !is_link_local(net.addr())).and_then(|net| at_offset(*net, *offset))
        }
        GatewayRule::Learned => {
            link.default_gateways.iter().find(|ip| ip.is_ipv4() == ipv4).copied()
        }
        GatewayRule::Configured(gateways) => {
            let mut gateways = gateways.get(&link.name)?.iter();
            gateways.find(|ip| ip.is_ipv4() == ipv4).copied()
        }
    };
    let gateway_v4 = match offset(true) {
        Some(IpAddr::V4(gateway)) => Some(gateway),
        _ => None,
    };
    let learned = || link.default_gateways.iter().find(|ip| ip.is_ipv6()).copied();
    let gateway_v6 = match offset(false).or_else(learned) {
        Some(IpAddr::V6(gateway)) => Some(gateway),
        _ => None,
    };
    External {
        index: link.index,
        slot,
        up: link.up,
        addresses: link.addresses.clone(),
        gateway_v4,
        gateway_v6,
    }
}

/// Returns the address at an offset from the network's first address or, if negative, from its last. For IPv6 networks only the former.
#[must_use]
pub fn at_offset(network: IpNet, offset: i32) -> Option<IpAddr> {
    let distance = offset.unsigned_abs();
    let found = match network {
        IpNet::V4(net) if offset > 0 => {
            IpAddr::V4(u32::from(net.network()).checked_add(distance)?.into())
        }
        IpNet::V4(net) => IpAddr::V4(u32::from(net.broadcast()).checked_sub(distance)?.into()),
        IpNet::V6(net) if offset > 0 => {
            IpAddr::V6(u128::from(net.network()).checked_add(u128::from(distance))?.into())
        }
        IpNet::V6(_) => return None,
    };
    network.contains(&found).then_some(found)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, address: &str) -> Link {
        let addresses = vec![address.parse().unwrap()];
        Link { name: name.to_owned(), index: 1, up: true, addresses, ..Link::default() }
    }

    // S5.11 S5.22
    #[test]
    fn the_pattern_matches_whole_names_only() {
        let pattern = full_match("eth[1-9][0-9]*").unwrap();

        for name in ["eth1", "eth12"] {
            assert!(pattern.is_match(name), "{name}");
        }
        for name in ["eth0", "veth12ab", "calieth9", "eth1.100", "eth1\n", "xeth1"] {
            assert!(!pattern.is_match(name), "{name}");
        }
        assert!(
            full_match("a|b").unwrap().is_match("b") && !full_match("a|b").unwrap().is_match("ab")
        );
    }

    // S5.8 S5.23
    #[test]
    fn gateways_are_counted_from_either_end() {
        let cases = [
            ("10.10.10.10/24", 1, Some("10.10.10.1")),
            ("10.10.10.10/24", -1, Some("10.10.10.254")),
            ("10.10.10.10/23", -1, Some("10.10.11.254")),
            ("10.10.10.10/31", 5, None),
            ("2001:db8::9/64", 1, Some("2001:db8::1")),
            ("2001:db8::9/64", -1, None),
        ];

        for (net, offset, expected) in cases {
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!(at_offset(net.parse().unwrap(), offset), expected, "{net} {offset}");
        }
    }

    // S5.21
    #[test]
    fn slots_stay_when_interfaces_come_and_go() {
        let options = Options {
            external: "ext[0-9]+".to_owned(),
            not_external: vec!["ext9".to_owned()],
            ..Options::default()
        };
        let both = [link("ext1", "192.0.2.1/24"), link("ext2", "198.51.100.1/24")];
        let first = Interfaces::pick(&both, &options, &BTreeMap::new(), &BTreeMap::new());

        let second = Interfaces::pick(&both[1..], &options, &BTreeMap::new(), &first.slots());
        let excluded = [link("ext9", "192.0.2.1/24")];

        assert_eq!(first.slots(), [("ext1".to_owned(), 1), ("ext2".to_owned(), 2)].into());
        assert_eq!(second.slots(), [("ext2".to_owned(), 2)].into());
        assert!(
            Interfaces::pick(&excluded, &options, &BTreeMap::new(), &BTreeMap::new())
                .external
                .is_empty()
        );
    }
}
