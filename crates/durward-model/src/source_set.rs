//! A set of client networks, searched in logarithmic time.
//!
//! Deliberately absent: names. A source is an address block, never something that must be resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::Serialize;

/// A set of CIDR blocks. IPv4-mapped IPv6 addresses count as IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceSet {
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
        let mut set = Self { blocks, v4: Vec::new(), v6: Vec::new() };
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
        set
    }

    /// Whether `address` lies in one of the blocks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => within(&self.v4, address.to_bits()),
            IpAddr::V6(address) => within(&self.v6, address.to_bits()),
        }
    }

    /// The block that makes `contains` true, for explanations; the narrowest one.
    #[must_use]
    pub fn matching(&self, address: IpAddr) -> Option<IpNet> {
        let address = address.to_canonical();
        self.blocks
            .iter()
            .filter(|block| block.contains(&address))
            .max_by_key(|block| block.prefix_len())
            .copied()
    }

    /// The set as ranges, first and last address, that do not overlap.
    pub fn ranges(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let v4 = self.v4.iter().map(|(first, last)| {
            (Ipv4Addr::from_bits(*first).into(), Ipv4Addr::from_bits(*last).into())
        });
        let v6 = self.v6.iter().map(|(first, last)| {
            (Ipv6Addr::from_bits(*first).into(), Ipv6Addr::from_bits(*last).into())
        });
        v4.chain(v6)
    }

    /// Whether no address is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The blocks as given, sorted and without repeats.
    #[must_use]
    pub fn blocks(&self) -> &[IpNet] {
        &self.blocks
    }
}

impl FromIterator<IpNet> for SourceSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(blocks: I) -> Self {
        Self::new(blocks)
    }
}

impl Serialize for SourceSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.blocks)
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

    proptest! {
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
