//! Networks and who has them: which of them meet another, without asking each.
//!
//! Deliberately absent: who may have one; whoever inserts has decided.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

/// Networks with their holders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks<H> {
    /// By first address and then length, with the order they came in.
    held: BTreeMap<IpNet, (usize, H)>,
    /// The lengths there are.
    lens: BTreeSet<u8>,
}

impl<H> Default for Blocks<H> {
    fn default() -> Self {
        Self { held: BTreeMap::new(), lens: BTreeSet::new() }
    }
}

impl<H> Blocks<H> {
    /// Takes a network in, unless it is there.
    pub fn insert(&mut self, block: IpNet, holder: H) {
        let order = self.held.len();
        self.lens.insert(block.prefix_len());
        self.held.entry(block.trunc()).or_insert((order, holder));
    }

    /// The network that contains `block` or lies in it and came first of those whose holder is meant.
    #[must_use]
    pub fn meeting(&self, block: &IpNet, is_meant: impl Fn(&H) -> bool) -> Option<(&IpNet, &H)> {
        let (block, last) = (block.trunc(), block.broadcast());
        let at = |address, len| IpNet::new(address, len).ok();
        // Two networks meet only where one contains the other.
        let shorter = self.lens.range(..block.prefix_len());
        let around = shorter.filter_map(|len| Some(at(block.addr(), *len)?.trunc()));
        let around = around
            .filter(|wider| wider.addr() != block.addr())
            .filter_map(|wider| self.held.get_key_value(&wider));
        let (from, to) = at(block.addr(), 0).zip(at(last, block.max_prefix_len()))?;
        let meeting = around.chain(self.held.range(from..=to));
        let first = meeting.filter(|(_, (_, holder))| is_meant(holder));
        first.min_by_key(|(_, (order, _))| *order).map(|(block, (_, holder))| (block, holder))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u8>(), 20..=32_u8).prop_map(|(last, len)| {
                IpNet::new([10, 0, last & 0x3f, last].into(), len).unwrap()
            }),
            (any::<u16>(), 110..=128_u8).prop_map(|(last, len)| {
                IpNet::new([0xfd00, 0, 0, 0, 0, 0, 0, last].into(), len).unwrap()
            }),
            Just("0.0.0.0/0".parse().unwrap()),
            Just("::/0".parse().unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn it_says_what_asking_each_says(
            given in prop::collection::vec((block(), 0..3_u8), 0..30),
            asked in block(),
            but in 0..3_u8,
        ) {
            let mut blocks = Blocks::default();
            let mut each: Vec<(IpNet, u8)> = Vec::new();
            for (block, holder) in given {
                blocks.insert(block, holder);
                if !each.iter().any(|(known, _)| *known == block.trunc()) {
                    each.push((block.trunc(), holder));
                }
            }

            let said = blocks.meeting(&asked, |holder| *holder != but);

            let asked = asked.trunc();
            let meets = |known: &IpNet| known.contains(&asked) || asked.contains(known);
            let expected = each.iter().find(|(known, holder)| *holder != but && meets(known));
            prop_assert_eq!(said, expected.map(|(block, holder)| (block, holder)));
        }
    }
}
