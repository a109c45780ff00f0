//! A set of client networks, searched in logarithmic time.
//!
//! Deliberately absent: names. A source is an address block, never something that must be resolved.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

/// A set of CIDR blocks. IPv4-mapped IPv6 addresses count as IPv4. Clones share one allocation, as a set may have tens of thousands of blocks.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SourceSet(Arc<Sorted>);

#[derive(Default, PartialEq, Eq)]
struct Sorted {
    blocks: Vec<IpNet>,
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl SourceSet {
    /// The set of all addresses of `blocks`.
    pub fn new(blocks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut blocks: Vec<IpNet> = blocks.into_iter().map(|block| block.trunc()).collect();
        blocks.sort();
        blocks.dedup();
        let mut set = Sorted { blocks, v4: Vec::new(), v6: Vec::new() };
        for block in &set.blocks {
            match block {
                IpNet::V4(block) => {
                    set.v4.push((block.network().to_bits(), block.broadcast().to_bits()))
                }
                IpNet::V6(block) => {
                    set.v6.push((block.network().to_bits(), block.broadcast().to_bits()))
                }
            }
        }
        set.v4 = merge(std::mem::take(&mut set.v4));
        set.v6 = merge(std::mem::take(&mut set.v6));
        Self(Arc::new(set))
    }

    /// Whether `address` lies in one of the blocks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => within(&self.0.v4, address.to_bits()),
            IpAddr::V6(address) => within(&self.0.v6, address.to_bits()),
        }
    }

    /// The block that makes `contains` true, for explanations; the narrowest one.
    #[must_use]
    pub fn matching(&self, address: IpAddr) -> Option<IpNet> {
        let address = address.to_canonical();
        self.0
            .blocks
            .iter()
            .filter(|block| block.contains(&address))
            .max_by_key(|block| block.prefix_len())
            .copied()
    }

    /// The set as ranges, first and last address, that do not overlap.
    pub fn ranges(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let v4 = self.0.v4.iter().map(|(first, last)| {
            (Ipv4Addr::from_bits(*first).into(), Ipv4Addr::from_bits(*last).into())
        });
        let v6 = self.0.v6.iter().map(|(first, last)| {
            (Ipv6Addr::from_bits(*first).into(), Ipv6Addr::from_bits(*last).into())
        });
        v4.chain(v6)
    }

    /// Returns true if every address of `other` is in the set. One pass over both.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (covers(&self.0.v4, &other.0.v4) && covers(&self.0.v6, &other.0.v6))
    }

    /// Returns true if an address is in both sets. One pass over both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        overlap(&self.0.v4, &other.0.v4) || overlap(&self.0.v6, &other.0.v6)
    }

    /// Whether no address is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.blocks.is_empty()
    }

    /// The blocks as given, sorted and without repeats.
    #[must_use]
    pub fn blocks(&self) -> &[IpNet] {
        &self.0.blocks
    }
}

impl FromIterator<IpNet> for SourceSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(blocks: I) -> Self {
        Self::new(blocks)
    }
}

impl fmt::Debug for SourceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.0.blocks).finish()
    }
}

impl Serialize for SourceSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0.blocks)
    }
}

fn merge<N: Copy + Ord>(mut ranges: Vec<(N, N)>) -> Vec<(N, N)> {
    ranges.sort();
    let mut merged: Vec<(N, N)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// Returns true if each range of `inner` lies in ranges of `outer`, several of which may adjoin.
fn covers<N: Copy + Ord + Into<u128>>(outer: &[(N, N)], inner: &[(N, N)]) -> bool {
    let mut at = 0;
    inner.iter().all(|&(first, last)| {
        while outer.get(at).is_some_and(|range| range.1 < first) {
            at += 1;
        }
        let mut from = first;
        while let Some(&(_, end)) = outer.get(at).filter(|range| range.0 <= from) {
            if end >= last {
                return true;
            }
            // What is left begins after this range, so the next one must begin there.
            let Some(next) = outer.get(at + 1) else { return false };
            if end.into() + 1 != next.0.into() {
                return false;
            }
            from = next.0;
            at += 1;
        }
        false
    })
}

/// Returns true if a range of one list meets a range of the other.
fn overlap<N: Copy + Ord>(one: &[(N, N)], other: &[(N, N)]) -> bool {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    while let (Some(a), Some(b)) = (one.peek(), other.peek()) {
        if a.1 < b.0 {
            one.next();
        } else if b.1 < a.0 {
            other.next();
        } else {
            return true;
        }
    }
    false
}

fn within<N: Copy + Ord>(ranges: &[(N, N)], address: N) -> bool {
    let after = ranges.partition_point(|&(start, _)| start <= address);
    after > 0 && address <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(blocks: &[&str]) -> SourceSet {
        blocks.iter().map(|block| block.parse().unwrap()).collect()
    }

    #[test]
    fn a_mapped_ipv4_client_is_the_ipv4_client() {
        let set = set(&["192.0.2.0/24"]);

        assert!(set.contains("::ffff:192.0.2.7".parse().unwrap()));
        assert!(!set.contains("192.0.3.7".parse().unwrap()));
    }

    #[test]
    fn the_narrowest_block_explains() {
        let set = set(&["10.0.0.0/8", "10.1.0.0/16"]);

        assert_eq!(set.matching("10.1.2.3".parse().unwrap()), Some("10.1.0.0/16".parse().unwrap()));
    }

    /// Blocks of which no two adjoin.
    fn many(count: u32) -> impl Iterator<Item = IpNet> {
        (0..count).map(|at| IpNet::new(IpAddr::V4((at << 8).into()), 25).unwrap())
    }

    // With each block compared with each other block this takes hours.
    #[test]
    fn long_lists_are_compared_in_one_pass() {
        let all = SourceSet::new(many(50_000));

        for last in 0..100 {
            let other = SourceSet::new(many(50_000 - last));

            assert!(all.covers(&other) && all.overlaps(&other));
            assert_eq!(other.covers(&all), last == 0);
        }
        let between = all.blocks().iter().map(|block| match block.addr() {
            IpAddr::V4(first) => {
                IpNet::new(IpAddr::V4((first.to_bits() | 128).into()), 25).unwrap()
            }
            IpAddr::V6(_) => unreachable!(),
        });
        assert!(!all.overlaps(&between.collect()));
    }

    #[test]
    fn blocks_that_adjoin_cover_a_wider_one() {
        let halves = set(&["192.0.2.0/25", "192.0.2.128/25", "::/1", "8000::/1"]);

        assert!(halves.covers(&set(&["192.0.2.0/24", "::/0"])));
        assert!(!halves.covers(&set(&["192.0.2.0/23"])));
        assert!(!set(&["192.0.2.0/25", "192.0.2.192/26"]).covers(&set(&["192.0.2.0/24"])));
        assert!(set(&["0.0.0.0/0"]).covers(&set(&["255.255.255.255/32"])));
        assert!(halves.covers(&set(&[])) && !set(&[]).covers(&halves));
    }

    /// Networks within 64 addresses.
    fn small() -> impl Strategy<Value = Vec<IpNet>> {
        let block = |(bits, len): (u8, u8)| IpNet::new([192, 0, 2, bits & 63].into(), len).unwrap();
        proptest::collection::vec((any::<u8>(), 27u8..=32).prop_map(block), 0..12)
    }

    proptest! {
        #[test]
        fn covering_and_overlapping_is_what_comparing_each_address_says(one in small(), other in small()) {
            let (one, other) = (SourceSet::new(one), SourceSet::new(other));
            let all = || (0..64u8).map(|last| IpAddr::from([192, 0, 2, last]));

            let covers = all().all(|address| one.contains(address) || !other.contains(address));
            let overlaps = all().any(|address| one.contains(address) && other.contains(address));

            prop_assert_eq!(one.covers(&other), covers);
            prop_assert_eq!(one.overlaps(&other), overlaps);
        }

        #[test]
        fn agrees_with_a_linear_search(blocks in proptest::collection::vec((any::<u32>(), 0u8..=32), 0..20), probe in any::<u32>()) {
            let blocks: Vec<IpNet> = blocks.into_iter().map(|(bits, len)| IpNet::new(IpAddr::V4(bits.into()), len).unwrap()).collect();
            let probe = IpAddr::V4(probe.into());

            let set = SourceSet::new(blocks.clone());

            prop_assert_eq!(set.contains(probe), blocks.iter().any(|block| block.contains(&probe)));
            prop_assert_eq!(set.matching(probe).is_some(), set.contains(probe));
        }
    }
}
