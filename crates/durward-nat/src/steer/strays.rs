//! Existing connections that a table steers, by its sets: the same facts that the kernel's rules use.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::conntrack::Flow;
use crate::nftables::ruleset::Data;
use crate::nftables::{Element, Ruleset, Set};
use crate::policy_route::Routing;
use crate::program::step::{Ip, interval};

/// Networks whose connections a table steers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Steered {
    enrolled: [Option<Set>; 2],
    near: [Option<Set>; 2],
}

impl Steered {
    /// Reads the table's sets. If the table is gone, routing rules still tell the enrolled networks, or the networks around them.
    pub(super) fn of(ruleset: &Ruleset, routing: &Routing) -> Self {
        let sets =
            |name: &str| ['4', '6'].map(|ip| ruleset.sets.get(&format!("{name}{ip}")).cloned());
        let enrolled = sets("enrolled");
        let is_gone = enrolled.iter().flatten().all(|set| set.elements.is_empty());
        let enrolled = if is_gone { prohibited(routing) } else { enrolled };
        Self { enrolled, near: sets("near") }
    }

    /// Takes the near networks from another state, if the table that had them is gone.
    pub(super) fn with_near_of(mut self, other: &Self) -> Self {
        for (near, others) in self.near.iter_mut().zip(&other.near) {
            *near = near.take().or_else(|| others.clone());
        }
        self
    }

    /// Returns the enrolled networks.
    pub(super) fn networks(&self) -> impl Iterator<Item = IpNet> + '_ {
        let elements = self.enrolled.iter().flatten().flat_map(|set| &set.elements);
        elements.flat_map(|(first, one)| blocks(first, one))
    }

    fn has(&self, source: IpAddr, destination: IpAddr) -> bool {
        contains(&self.enrolled, source) && !contains(&self.near, destination)
    }
}

fn prohibited(routing: &Routing) -> [Option<Set>; 2] {
    let networks: Vec<IpNet> = routing.prohibited().collect();
    [Ip::V4, Ip::V6].map(|ip| {
        let mut set = Set::new(ip.len(), ip.kind(), Data::Nothing).interval();
        set.elements = interval(ip, &networks);
        (!set.elements.is_empty()).then_some(set)
    })
}

fn contains(sets: &[Option<Set>; 2], address: IpAddr) -> bool {
    let ip = Ip::of(address.is_ipv4());
    let (Some(set), Some(key)) = (&sets[usize::from(!ip.v4())], ip.bytes(address)) else {
        return false;
    };
    let found = set.elements.range(..=key.clone()).next_back();
    found.is_some_and(|(_, element)| element.end.as_ref().is_none_or(|end| key < *end))
}

pub(super) fn is_stray(flow: &Flow, was: &Steered, is: &Steered) -> bool {
    // After destination NAT, as in the table.
    let ends = (flow.source.ip(), flow.reply_source.ip());
    let translated = flow.reply_destination.ip() != flow.source.ip();
    match (was.has(ends.0, ends.1), is.has(ends.0, ends.1)) {
        (_, true) => translated,
        (true, false) => !translated,
        (false, false) => false,
    }
}

/// Splits an interval into blocks.
fn blocks(first: &[u8], element: &Element) -> Vec<IpNet> {
    let last = |len: usize| match &element.end {
        Some(end) => before(end),
        None => vec![0xff; len],
    };
    if let Ok(first) = <[u8; 4]>::try_from(first) {
        let last = <[u8; 4]>::try_from(last(4)).unwrap_or(first);
        return Ipv4Subnets::new(first.into(), last.into(), 0).map(IpNet::V4).collect();
    }
    let Ok(first) = <[u8; 16]>::try_from(first) else { return Vec::new() };
    let last = <[u8; 16]>::try_from(last(16)).unwrap_or(first);
    Ipv6Subnets::new(first.into(), last.into(), 0).map(IpNet::V6).collect()
}

/// Returns the key before another.
fn before(key: &[u8]) -> Vec<u8> {
    let mut last = key.to_vec();
    for byte in last.iter_mut().rev() {
        let (rest, borrow) = byte.overflowing_sub(1);
        *byte = rest;
        if !borrow {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::{Host, Options, Side, desired, ruleset};
    use super::*;

    #[test]
    fn what_a_table_steers_is_read_as_the_blocks_it_was_made_of() {
        let nets = ["10.1.0.0/24", "10.2.0.5/32", "255.0.0.0/8", "fd00::/64", "ff00::/8"];
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        let ruleset = ruleset::node(&Options::default(), &nets, Ipv4Addr::LOCALHOST);

        let read: Vec<IpNet> = Steered::of(&ruleset, &Routing::default()).networks().collect();

        assert_eq!(read, nets);
    }

    #[test]
    fn without_the_table_the_rules_say_what_was_enrolled() {
        let nets = ["10.1.0.0/24", "fd00::/64"].map(|net| net.parse::<IpNet>().unwrap());
        let side = Side::Node { gateway: Ipv4Addr::new(192, 0, 2, 1), networks: nets.into() };
        let wanted = desired(&Options::default(), &side, Host::default());

        let steered = Steered::of(&Ruleset::default(), &wanted.routing);

        assert_eq!(steered.networks().collect::<Vec<_>>(), nets);
    }

    fn steered(networks: &[&str]) -> Steered {
        let options =
            Options { cluster: vec!["10.0.0.0/8".parse().unwrap()], ..Options::default() };
        let networks: Vec<_> = networks.iter().map(|net| net.parse().unwrap()).collect();
        let table = ruleset::node(&options, &networks, Ipv4Addr::new(192, 0, 2, 1));
        Steered::of(&table, &Routing::default())
    }

    // S2.56+
    #[test]
    fn connections_that_went_another_way_are_cut_and_no_others() {
        let flow = |ends| Flow::imagined(6, 0, ends);
        let world = "198.51.100.7:443";
        let masqueraded = flow(["10.1.0.5:1", world, world, "192.0.2.21:1"]);
        let kept = flow(["10.1.0.5:1", world, world, "10.1.0.5:1"]);
        let inside = flow(["10.1.0.5:1", "10.2.0.9:80", "10.2.0.9:80", "192.0.2.21:1"]);
        let service = flow(["10.1.0.5:1", "10.96.0.1:443", "10.2.0.9:6443", "192.0.2.21:1"]);
        let other = flow(["10.9.0.5:1", world, world, "192.0.2.21:1"]);
        let (none, pods) = (steered(&[]), steered(&["10.1.0.0/24"]));

        let cut = |was: &Steered, is: &Steered| {
            [&masqueraded, &kept, &inside, &service, &other].map(|flow| is_stray(flow, was, is))
        };

        assert_eq!(cut(&none, &pods), [true, false, false, false, false], "enrolled");
        assert_eq!(cut(&pods, &pods), [true, false, false, false, false], "after a restart");
        assert_eq!(cut(&pods, &none), [false, true, false, false, false], "no longer");
    }
}
