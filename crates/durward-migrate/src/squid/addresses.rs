//! Sets of addresses as ranges in order, so that lists inside one another can be subtracted exactly.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

/// Addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AddressSet {
    v4: Ranges,
    v6: Ranges,
}

/// Ranges in order that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    fn of(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (from, to) in ranges {
            match joined.last_mut() {
                Some((_, last)) if from <= last.saturating_add(1) => *last = (*last).max(to),
                _ => joined.push((from, to)),
            }
        }
        Self(joined)
    }

    fn complement(&self, last: u128) -> Self {
        let mut next = 0;
        let mut others = Vec::with_capacity(self.0.len() + 1);
        for (from, to) in &self.0 {
            if *from > next {
                others.push((next, from - 1));
            }
            if *to == last {
                return Self(others);
            }
            next = to + 1;
        }
        others.push((next, last));
        Self(others)
    }

    fn intersection(&self, other: &Self) -> Self {
        let (mut one, mut two) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut common = Vec::new();
        while let (Some(a), Some(b)) = (one.peek(), two.peek()) {
            let (from, to) = (a.0.max(b.0), a.1.min(b.1));
            if from <= to {
                common.push((from, to));
            }
            if a.1 < b.1 {
                one.next()
            } else {
                two.next()
            };
        }
        Self(common)
    }

    fn has(&self, value: u128) -> bool {
        let after = self.0.partition_point(|(from, _)| *from <= value);
        after.checked_sub(1).is_some_and(|at| self.0[at].1 >= value)
    }
}

const LAST_V4: u128 = u32::MAX as u128;

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn v4(number: u128) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX))
}

impl AddressSet {
    /// Every address.
    pub(super) fn all() -> Self {
        Self { v4: Ranges(vec![(0, LAST_V4)]), v6: Ranges(vec![(0, u128::MAX)]) }
    }

    /// The addresses of ranges; both ends of each are of one family.
    pub(super) fn of(ranges: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (from, to) in ranges {
            let into = if from.is_ipv4() { &mut v4 } else { &mut v6 };
            into.push((number(from), number(to)));
        }
        Self { v4: Ranges::of(v4), v6: Ranges::of(v6) }
    }

    pub(super) fn of_nets<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> Self {
        Self::of(nets.into_iter().map(|net| (net.network(), net.broadcast())))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.0.is_empty() && self.v6.0.is_empty()
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let ranges = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        ranges.has(number(address))
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let join = |a: &Ranges, b: &Ranges| Ranges::of(a.0.iter().chain(&b.0).copied().collect());
        Self { v4: join(&self.v4, &other.v4), v6: join(&self.v6, &other.v6) }
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        Self { v4: self.v4.intersection(&other.v4), v6: self.v6.intersection(&other.v6) }
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        let outside = Self { v4: other.v4.complement(LAST_V4), v6: other.v6.complement(u128::MAX) };
        self.intersection(&outside)
    }

    /// Returns whether every address of `other` is in it.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.minus(self).is_empty()
    }

    /// The fewest networks that hold exactly these addresses.
    pub(super) fn nets(&self) -> Vec<IpNet> {
        let four = self
            .v4
            .0
            .iter()
            .flat_map(|(from, to)| Ipv4Subnets::new(v4(*from), v4(*to), 0).map(IpNet::V4));
        let six = self.v6.0.iter().flat_map(|(from, to)| {
            let (from, to) = (Ipv6Addr::from_bits(*from), Ipv6Addr::from_bits(*to));
            Ipv6Subnets::new(from, to, 0).map(IpNet::V6)
        });
        four.chain(six).collect()
    }

    /// Some addresses of each range, in order.
    pub(super) fn samples(&self) -> impl Iterator<Item = IpAddr> {
        let ends = |ranges: &Ranges| {
            let picks = |(from, to): &(u128, u128)| {
                // Away from the ends: networks begin and end with addresses that are special.
                let wide = to - from > 200;
                let inner = if wide { from + 77 } else { from + (to - from) / 2 };
                [inner, from + (to - from) / 2, *from, *to]
            };
            ranges.0.iter().flat_map(picks).collect::<Vec<_>>()
        };
        let four = ends(&self.v4).into_iter().map(|number| IpAddr::V4(v4(number)));
        let six = ends(&self.v6).into_iter().map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)));
        four.chain(six)
    }

    /// Returns whether it has an IPv6 address.
    pub(super) fn has_v6(&self) -> bool {
        !self.v6.0.is_empty()
    }

    /// The addresses of one family.
    pub(super) fn family(&self, is_v4: bool) -> Self {
        let none = Ranges::default();
        match is_v4 {
            true => Self { v4: self.v4.clone(), v6: none },
            false => Self { v4: none, v6: self.v6.clone() },
        }
    }
}

/// The lists that addresses are in, one bit a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Membership(Vec<u64>);

impl Membership {
    fn none(lists: usize) -> Self {
        Self(vec![0; lists.div_ceil(64)])
    }

    fn toggle(&mut self, list: usize) {
        self.0[list / 64] ^= 1 << (list % 64);
    }

    pub(super) fn has(&self, list: usize) -> bool {
        self.0.get(list / 64).is_some_and(|word| word >> (list % 64) & 1 == 1)
    }
}

/// All addresses, split by the lists they are in.
pub(super) fn split<'s>(lists: &[&'s AddressSet]) -> BTreeMap<Membership, AddressSet> {
    let mut parts: BTreeMap<Membership, AddressSet> = BTreeMap::new();
    for (is_v6, last) in [(false, LAST_V4), (true, u128::MAX)] {
        let ranges = |set: &'s AddressSet| if is_v6 { &set.v6 } else { &set.v4 };
        let mut changes: Vec<(u128, usize)> = Vec::new();
        for (list, set) in lists.iter().enumerate() {
            for (from, to) in &ranges(set).0 {
                changes.push((*from, list));
                changes.extend((*to != last).then(|| (to + 1, list)));
            }
        }
        changes.sort_unstable();
        let mut member = Membership::none(lists.len());
        let mut add = |member: &Membership, from: u128, to: u128| {
            let part = parts.entry(member.clone()).or_default();
            let into = if is_v6 { &mut part.v6 } else { &mut part.v4 };
            into.0.push((from, to));
        };
        let mut from = 0;
        for (at, list) in changes {
            if at > from {
                add(&member, from, at - 1);
                from = at;
            }
            member.toggle(list);
        }
        add(&member, from, last);
    }
    for part in parts.values_mut() {
        part.v4 = Ranges::of(std::mem::take(&mut part.v4.0));
        part.v6 = Ranges::of(std::mem::take(&mut part.v6.0));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> AddressSet {
        let nets: Vec<IpNet> = text.split_whitespace().map(|net| net.parse().unwrap()).collect();
        AddressSet::of_nets(&nets)
    }

    fn words(set: &AddressSet) -> String {
        let nets: Vec<String> = set.nets().iter().map(ToString::to_string).collect();
        nets.join(" ")
    }

    #[test]
    fn an_inner_network_is_taken_out_of_the_outer_one() {
        let rest = set("10.0.0.0/14").minus(&set("10.1.0.0/16"));

        assert_eq!(words(&rest), "10.0.0.0/16 10.2.0.0/15");
        assert!(rest.contains("10.3.9.9".parse().unwrap()));
        assert!(!rest.contains("10.1.0.1".parse().unwrap()));
        assert!(set("::/0").minus(&AddressSet::all()).is_empty());
        assert!(AddressSet::all().covers(&set("255.255.255.255/32 ffff::/16")));
    }

    #[test]
    fn all_addresses_are_split_by_the_lists_they_are_in() {
        let (outer, inner) = (set("10.0.0.0/8 2001:db8::/32"), set("10.1.0.0/16"));

        let parts = split(&[&outer, &inner]);

        let of = |a: bool, b: bool| {
            let found = parts.iter().find(|(member, _)| member.has(0) == a && member.has(1) == b);
            found.map(|(_, set)| set.clone())
        };
        assert_eq!(parts.len(), 3);
        assert_eq!(of(true, true), Some(inner.clone()));
        assert_eq!(of(true, false), Some(outer.minus(&inner)));
        assert_eq!(of(false, false), Some(AddressSet::all().minus(&outer)));
    }
}
