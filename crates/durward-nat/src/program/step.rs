//! Helpers for single steps of rules, and the positions of fields in packets and registers, by family.
//!
//! Registers 8 and up hold address, protocol and port side by side, as in map keys.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::interface::{External, Interfaces};
use crate::mark;
use crate::nftables::expression::{Base, Ct, LookupResult, Meta};
use crate::nftables::{Element, Expression, Value, Verdict};

/// Comparisons that cost less than one lookup, at most.
pub(crate) const FEW: usize = 4;

/// Largest number of interfaces: one per slot.
pub(crate) const SLOTS: u32 = 256;

/// Data types of `nft` for keys and values.
pub(crate) mod kind {
    pub(crate) const BYTES: u32 = 0;
    pub(crate) const NUMBER: u32 = 19;
    pub(crate) const V4: u32 = 7;
    pub(crate) const V6: u32 = 8;
    pub(crate) const PROTOCOL: u32 = 12;
    pub(crate) const PORT: u32 = 13;
    pub(crate) const MARK: u32 = 19;
    pub(crate) const NAME: u32 = 41;

    /// Concatenates types.
    pub(crate) fn concat(kinds: &[u32]) -> u32 {
        kinds.iter().fold(0, |all, kind| all << 6 | kind)
    }
}

/// IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ip {
    V4,
    V6,
}

impl Ip {
    pub(crate) const fn of(v4: bool) -> Self {
        if v4 { Self::V4 } else { Self::V6 }
    }

    pub(crate) const fn v4(self) -> bool {
        matches!(self, Self::V4)
    }

    pub(crate) const fn digit(self) -> char {
        if self.v4() { '4' } else { '6' }
    }

    /// Returns the bytes of an address.
    pub(crate) const fn len(self) -> u32 {
        if self.v4() { 4 } else { 16 }
    }

    /// Returns the registers of an address.
    pub(crate) const fn words(self) -> u32 {
        self.len() / 4
    }

    pub(crate) const fn kind(self) -> u32 {
        if self.v4() { kind::V4 } else { kind::V6 }
    }

    /// Loads the source address.
    pub(crate) const fn source(self, to: u32) -> Expression {
        let offset = if self.v4() { 12 } else { 8 };
        Expression::Payload { base: Base::Network, offset, len: self.len(), to }
    }

    /// Loads the destination address.
    pub(crate) const fn destination(self, to: u32) -> Expression {
        let offset = if self.v4() { 16 } else { 24 };
        Expression::Payload { base: Base::Network, offset, len: self.len(), to }
    }

    /// Loads destination address, protocol and port, from register 8 on.
    pub(crate) fn service_key(self) -> Vec<Expression> {
        vec![
            self.destination(8),
            transport(8 + self.words()),
            transport_bytes(2, 2, 9 + self.words()),
        ]
    }

    /// Loads source address, protocol and port, from register 8 on.
    pub(crate) fn answer_key(self) -> Vec<Expression> {
        vec![self.source(8), transport(8 + self.words()), transport_bytes(0, 2, 9 + self.words())]
    }

    /// Matches packets of the family.
    pub(crate) fn only(self) -> Vec<Expression> {
        let number = if self.v4() { 2 } else { 10 };
        vec![Expression::Meta { key: Meta::Family, to: 8 }, equals(8, vec![number])]
    }

    /// Returns the address's bytes, if it is of the family.
    pub(crate) fn bytes(self, address: IpAddr) -> Option<Vec<u8>> {
        match (self, address) {
            (Self::V4, IpAddr::V4(address)) => Some(address.octets().to_vec()),
            (Self::V6, IpAddr::V6(address)) => Some(address.octets().to_vec()),
            _ => None,
        }
    }
}

pub(crate) const fn transport(to: u32) -> Expression {
    Expression::Meta { key: Meta::Transport, to }
}

pub(crate) const fn transport_bytes(offset: u32, len: u32, to: u32) -> Expression {
    Expression::Payload { base: Base::Transport, offset, len, to }
}

pub(crate) const fn equals(from: u32, value: Vec<u8>) -> Expression {
    Expression::Compare { from, equal: true, value }
}

pub(crate) const fn differs(from: u32, value: Vec<u8>) -> Expression {
    Expression::Compare { from, equal: false, value }
}

pub(crate) const fn verdict(verdict: Verdict) -> Expression {
    Expression::Verdict(verdict)
}

pub(crate) fn goto(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.to_owned()))
}

pub(crate) fn count(counter: &str) -> Expression {
    Expression::Count(counter.to_owned())
}

pub(crate) fn present(set: &str, from: u32) -> Expression {
    Expression::Lookup { set: set.to_owned(), from, result: LookupResult::Present }
}

pub(crate) fn absent(set: &str, from: u32) -> Expression {
    Expression::Lookup { set: set.to_owned(), from, result: LookupResult::Absent }
}

pub(crate) fn to(set: &str, from: u32, to: u32) -> Expression {
    Expression::Lookup { set: set.to_owned(), from, result: LookupResult::To(to) }
}

pub(crate) fn dispatch(set: &str, from: u32) -> Expression {
    Expression::Lookup { set: set.to_owned(), from, result: LookupResult::Verdict }
}

pub(crate) const fn input_name(to: u32) -> Expression {
    Expression::Meta { key: Meta::InputName, to }
}

pub(crate) const fn output_name(to: u32) -> Expression {
    Expression::Meta { key: Meta::OutputName, to }
}

/// Returns rules for packets that came in by an external interface, each with an action for the interface's slot.
pub(crate) fn came_from_outside(
    interfaces: &Interfaces,
    then: impl Fn(u8) -> Expression,
) -> Vec<Vec<Expression>> {
    let by = |(name, external): (&String, &External)| {
        vec![input_name(8), equals(8, name_key(name)), then(external.slot)]
    };
    interfaces.external.iter().map(by).collect()
}

/// Matches a source in a block.
pub(crate) fn source_in(block: Ipv4Net) -> Vec<Expression> {
    let mask = Expression::Bitwise { from: 8, to: 8, mask: block.netmask().octets(), xor: [0; 4] };
    vec![Ip::V4.source(8), mask, equals(8, block.network().octets().to_vec())]
}

pub(crate) const fn ct_mark(to: u32) -> Expression {
    Expression::Ct { key: Ct::Mark, to }
}

/// Masks bits of a register.
pub(crate) const fn keep(register: u32, mask: u32) -> Expression {
    replace(register, mask, 0)
}

/// Masks bits of a register and inverts others.
pub(crate) const fn replace(register: u32, mask: u32, xor: u32) -> Expression {
    Expression::Bitwise {
        from: register,
        to: register,
        mask: mask.to_ne_bytes(),
        xor: xor.to_ne_bytes(),
    }
}

/// Matches if one of the connection mark's bits is set.
pub(crate) fn marked(bits: u32) -> Vec<Expression> {
    vec![ct_mark(8), keep(8, bits), differs(8, vec![0; 4])]
}

/// Goes to the chain that marks packets for the connection's interface.
pub(crate) fn by_slot() -> Vec<Expression> {
    vec![ct_mark(8), keep(8, mark::SLOT_MASK), dispatch("slot_out", 8)]
}

/// Clears the connection mark.
pub(crate) fn unmark() -> Vec<Expression> {
    vec![Expression::Immediate { to: 8, value: vec![0; 4] }, Expression::SetCtMark { from: 8 }]
}

/// Matches if the connection is in one of the states.
pub(crate) fn in_state(bits: u32) -> Vec<Expression> {
    vec![Expression::Ct { key: Ct::State, to: 8 }, keep(8, bits), differs(8, vec![0; 4])]
}

/// Loads the connection's direction as a word: 0 original, 1 reply.
pub(crate) const fn direction(to: u32) -> Expression {
    Expression::Ct { key: Ct::Direction, to }
}

pub(crate) const INVALID: u32 = 1;
pub(crate) const ESTABLISHED: u32 = 2;
pub(crate) const RELATED: u32 = 4;
pub(crate) const NEW: u32 = 8;
/// State bit of packets that connection tracking was told to ignore.
pub(crate) const UNTRACKED: u32 = 64;

/// Encodes an interface's name as a map key.
pub(crate) fn name_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

/// Encodes address, protocol and port as a map key; shorter parts are padded to four bytes.
pub(crate) fn port_key(address: &[u8], protocol: u8, port: u16) -> Vec<u8> {
    let mut key = address.to_vec();
    key.extend([protocol, 0, 0, 0]);
    key.extend(port.to_be_bytes());
    key.extend([0, 0]);
    key
}

/// Returns the elements of an interval set of these blocks; overlapping and adjacent ones are merged.
pub(crate) fn interval(ip: Ip, blocks: &[IpNet]) -> BTreeMap<Vec<u8>, Element> {
    let ends = |block: &IpNet| Some((ip.bytes(block.network())?, ip.bytes(block.broadcast())?));
    let mut ranges: Vec<_> = blocks.iter().filter_map(ends).collect();
    ranges.sort();
    let mut merged: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if after(&before.1).is_none_or(|end| first <= end) => {
                before.1 = last.max(before.1.clone());
            }
            _ => merged.push((first, last)),
        }
    }
    let element = |last: &[u8]| Element { end: after(last), value: Value::Nothing };
    merged.into_iter().map(|(first, last)| (first, element(&last))).collect()
}

/// Returns the key after `last`; `None` after the very last.
pub(crate) fn after(last: &[u8]) -> Option<Vec<u8>> {
    let mut next = last.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, overflow) = byte.overflowing_add(1);
        *byte = sum;
        if !overflow {
            return Some(next);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    // S5.43
    #[test]
    fn overlapping_and_touching_blocks_become_one_interval() {
        let blocks = ["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "255.255.255.255/32"];
        let blocks: Vec<IpNet> = blocks.iter().map(|block| block.parse().unwrap()).collect();

        let elements = interval(Ip::V4, &blocks);

        let ends: Vec<_> =
            elements.iter().map(|(key, one)| (key.clone(), one.end.clone())).collect();
        assert_eq!(ends, [(vec![10, 0, 0, 0], Some(vec![11, 0, 0, 0])), (vec![255; 4], None)]);
    }
}
