//! Parses chains, rules, sets and elements from the kernel, the inverse of `encode`.
//!
//! Expressions that this crate does not write become `Foreign`, so that they differ from everything desired.

use std::collections::BTreeMap;

use super::encode::{ROUTE_SEGMENT, SEGMENT_OPTION, TRACE, ct, meta};
use super::expression::{Base, Ct, Expression, LookupResult, Meta, Reject, Verdict};
use super::ruleset::{Chain, Data, Element, Hook, Set, Value};
use super::uapi::{DATA_VERDICT, INTERVAL_END, fib, set_flag};
use crate::netlink::Attributes;

/// Parses a chain's name and hook.
pub(super) fn chain(from: Attributes<'_>) -> Option<(String, Chain)> {
    let hook = from.get(4).and_then(|_| {
        let hook = from.nested(4);
        let kind = from.text(7).unwrap_or_else(|| "filter".to_owned());
        Hook::from_numbers(&kind, hook.be32(1)?, hook.be32(2)? as i32)
    });
    Some((from.text(3)?, Chain { hook, rules: Vec::new() }))
}

/// Parses a rule's chain and expressions.
pub(super) fn rule(from: Attributes<'_>) -> Option<(String, Vec<Expression>)> {
    let expressions = from.nested(4).map(|each| expression(Attributes::new(each.value)));
    Some((from.text(2)?, expressions.collect()))
}

/// Parses a set's name and shape.
pub(super) fn set(from: Attributes<'_>) -> Option<(String, Set)> {
    let flags = from.be32(3).unwrap_or_default();
    let data = if flags & set_flag::OBJECT != 0 {
        Data::Counter
    } else if flags & set_flag::MAP == 0 {
        Data::Nothing
    } else if from.be32(6)? == DATA_VERDICT {
        Data::Verdict
    } else {
        Data::Bytes { len: from.be32(7)?, kind: from.be32(6)? }
    };
    let set = Set {
        key_len: from.be32(5)?,
        key_type: from.be32(4).unwrap_or_default(),
        data,
        interval: flags & set_flag::INTERVAL != 0,
        counting: from.get(17).is_some() || from.get(18).is_some(),
        size: from.nested(9).be32(1).unwrap_or_default(),
        elements: BTreeMap::new(),
    };
    Some((from.text(2)?, set))
}

/// Elements, or both ends of intervals, collected over all messages of a dump.
#[derive(Debug, Default)]
pub(super) struct Collected {
    begins: Vec<(Vec<u8>, Value, u64)>,
    ends: Vec<Vec<u8>>,
}

impl Collected {
    /// Adds the elements of one message.
    pub(super) fn take(&mut self, from: Attributes<'_>) {
        for each in from.nested(3) {
            let element = Attributes::new(each.value);
            let Some(key) = element.nested(1).get(1) else { continue };
            let key = key.value.to_vec();
            if element.be32(3).unwrap_or_default() & INTERVAL_END != 0 {
                self.ends.push(key);
            } else {
                self.begins.push((key, value(element), packets(element)));
            }
        }
    }

    /// Returns the elements, each beginning of an interval joined with its end.
    pub(super) fn elements(mut self, interval: bool) -> BTreeMap<Vec<u8>, Element> {
        self.ends.sort();
        let end_after = |key: &Vec<u8>| {
            let at = self.ends.partition_point(|end| end <= key);
            self.ends.get(at).cloned()
        };
        let mut elements = BTreeMap::new();
        for (key, value, _) in &self.begins {
            let end = if interval { end_after(key) } else { None };
            elements.insert(key.clone(), Element { end, value: value.clone() });
        }
        elements
    }

    /// Returns the packets counted by each element.
    pub(super) fn packets(self) -> BTreeMap<Vec<u8>, u64> {
        self.begins.into_iter().map(|(key, _, packets)| (key, packets)).collect()
    }
}

/// Parses packets and bytes of a named counter.
pub(super) fn counter(from: Attributes<'_>) -> Option<(String, u64, u64)> {
    if from.be32(3)? != 1 {
        return None;
    }
    let data = from.nested(4);
    Some((from.text(2)?, be64(data, 2), be64(data, 1)))
}

fn packets(element: Attributes<'_>) -> u64 {
    let expression = match element.get(7) {
        Some(one) => Attributes::new(one.value),
        None => element.nested(11).nested(1),
    };
    be64(expression.nested(2), 2)
}

fn be64(from: Attributes<'_>, kind: u16) -> u64 {
    let bytes = from.get(kind).and_then(|attribute| attribute.value.try_into().ok());
    bytes.map_or(0, u64::from_be_bytes)
}

fn value(element: Attributes<'_>) -> Value {
    if let Some(name) = element.text(9) {
        return Value::Counter(name);
    }
    let data = element.nested(2);
    if let Some(bytes) = data.get(1) {
        return Value::Bytes(bytes.value.to_vec());
    }
    if data.get(2).is_some() {
        return Value::Verdict(verdict(data).unwrap_or(Verdict::Return));
    }
    Value::Nothing
}

fn expression(from: Attributes<'_>) -> Expression {
    let name = from.text(1).unwrap_or_default();
    let data = from.nested(2);
    let known = match name.as_str() {
        "payload" => payload(data),
        "meta" => loaded_meta(data),
        "ct" => loaded_ct(data),
        "cmp" => compare(data),
        "bitwise" => bitwise(data),
        "lookup" => lookup(data),
        "hash" => hash(data),
        "numgen" => random(data),
        "immediate" => immediate(data),
        "nat" => nat(data),
        "objref" => objref(data),
        "reject" => reject(data),
        "masq" => Some(Expression::Masquerade),
        "limit" => limit(data),
        "rt" => route_segment(data),
        "byteorder" => network_order(data),
        "exthdr" => set_segment(data),
        "fib" => destination_kind(data),
        "tproxy" => hand_over(data),
        _ => None,
    };
    known.unwrap_or(Expression::Foreign(name))
}

/// Parses a register: the kernel reports the first of four 4-byte registers by the number of the 16-byte one.
fn register(from: Attributes<'_>, kind: u16) -> Option<u32> {
    Some(match from.be32(kind)? {
        large @ 1..=4 => 8 + (large - 1) * 4,
        small => small,
    })
}

fn bytes(from: Attributes<'_>, kind: u16) -> Option<Vec<u8>> {
    Some(from.nested(kind).get(1)?.value.to_vec())
}

fn payload(from: Attributes<'_>) -> Option<Expression> {
    let base = match from.be32(2)? {
        1 => Base::Network,
        2 => Base::Transport,
        _ => return None,
    };
    let (offset, len) = (from.be32(3)?, from.be32(4)?);
    Some(Expression::Payload { base, offset, len, to: register(from, 1)? })
}

fn loaded_meta(from: Attributes<'_>) -> Option<Expression> {
    if from.be32(2) == Some(TRACE) {
        return register(from, 3).map(|from| Expression::SetTrace { from });
    }
    let known = [Meta::Mark, Meta::InputName, Meta::OutputName, Meta::Family, Meta::Transport];
    let key = known.into_iter().find(|key| Some(meta(*key)) == from.be32(2))?;
    match (register(from, 1), register(from, 3)) {
        (Some(to), None) => Some(Expression::Meta { key, to }),
        (None, Some(from)) if key == Meta::Mark => Some(Expression::SetMark { from }),
        _ => None,
    }
}

fn loaded_ct(from: Attributes<'_>) -> Option<Expression> {
    let known = [
        Ct::State,
        Ct::Mark,
        Ct::OriginalDestination4,
        Ct::OriginalDestination6,
        Ct::Direction,
        Ct::Status,
        Ct::OriginalSource4,
        Ct::OriginalSource6,
        Ct::ReplySource4,
        Ct::ReplySource6,
    ];
    let direction = from.get(3).and_then(|direction| direction.value.first().copied());
    let wanted = (from.be32(2)?, direction);
    let key = known.into_iter().find(|key| ct(*key) == wanted)?;
    match (register(from, 1), register(from, 4)) {
        (Some(to), None) => Some(Expression::Ct { key, to }),
        (None, Some(from)) if key == Ct::Mark => Some(Expression::SetCtMark { from }),
        _ => None,
    }
}

fn compare(from: Attributes<'_>) -> Option<Expression> {
    let equal = match from.be32(2)? {
        0 => true,
        1 => false,
        _ => return None,
    };
    Some(Expression::Compare { from: register(from, 1)?, equal, value: bytes(from, 3)? })
}

fn bitwise(from: Attributes<'_>) -> Option<Expression> {
    if from.be32(6).unwrap_or_default() != 0 {
        return None;
    }
    Some(Expression::Bitwise {
        from: register(from, 1)?,
        to: register(from, 2)?,
        mask: bytes(from, 4)?.try_into().ok()?,
        xor: bytes(from, 5)?.try_into().ok()?,
    })
}

fn lookup(from: Attributes<'_>) -> Option<Expression> {
    let inverted = from.be32(5).unwrap_or_default() & 1 != 0;
    let result = match from.be32(3) {
        None if inverted => LookupResult::Absent,
        None => LookupResult::Present,
        Some(0) => LookupResult::Verdict,
        Some(_) => LookupResult::To(register(from, 3)?),
    };
    Some(Expression::Lookup { set: from.text(1)?, from: register(from, 2)?, result })
}

fn hash(from: Attributes<'_>) -> Option<Expression> {
    if from.be32(7).unwrap_or_default() != 0 || from.be32(6).unwrap_or_default() != 0 {
        return None;
    }
    Some(Expression::Hash {
        from: register(from, 1)?,
        len: from.be32(3)?,
        modulus: from.be32(4)?,
        seed: from.be32(5)?,
        to: register(from, 2)?,
    })
}

fn random(from: Attributes<'_>) -> Option<Expression> {
    let random = from.be32(3) == Some(1) && from.be32(4).unwrap_or_default() == 0;
    random.then_some(Expression::Random { modulus: from.be32(2)?, to: register(from, 1)? })
}

fn immediate(from: Attributes<'_>) -> Option<Expression> {
    if from.be32(1)? == 0 {
        return verdict(from.nested(2)).map(Expression::Verdict);
    }
    Some(Expression::Immediate { to: register(from, 1)?, value: bytes(from, 2)? })
}

fn destination_kind(from: Attributes<'_>) -> Option<Expression> {
    let known = from.be32(2)? == fib::ADDRESS_TYPE && from.be32(3)? == fib::DESTINATION;
    known.then_some(Expression::DestinationKind { to: register(from, 1)? })
}

fn hand_over(from: Attributes<'_>) -> Option<Expression> {
    let ipv4 = match from.be32(1)? {
        2 => true,
        10 => false,
        _ => return None,
    };
    Some(Expression::HandOver { ipv4, address: register(from, 2)?, port: register(from, 3)? })
}

/// Parses a NAT expression. The kernel reports a single address as a range of one, so both are read alike.
fn nat(from: Attributes<'_>) -> Option<Expression> {
    const IMPLIED: u32 = 1 | 2;
    let address = register(from, 3)?;
    let port = register(from, 5);
    let same_port = register(from, 6).is_none_or(|last| Some(last) == port);
    let plain = from.be32(7).unwrap_or_default() & !IMPLIED == 0;
    (same_port && plain).then_some(Expression::Nat {
        source: from.be32(1)? == 0,
        ipv4: from.be32(2)? == 2,
        address,
        last_address: register(from, 4).filter(|last| *last != address),
        port,
    })
}

fn objref(from: Attributes<'_>) -> Option<Expression> {
    match from.text(2) {
        Some(name) => (from.be32(1)? == 1).then_some(Expression::Count(name)),
        None => Some(Expression::CountBy { set: from.text(4)?, from: register(from, 3)? }),
    }
}

fn reject(from: Attributes<'_>) -> Option<Expression> {
    let code = from.get(2).and_then(|code| code.value.first().copied()).unwrap_or_default();
    match (from.be32(1)?, code) {
        (1, _) => Some(Expression::Reject(Reject::Reset)),
        (2, 1) => Some(Expression::Reject(Reject::Port)),
        (2, 3) => Some(Expression::Reject(Reject::Prohibited)),
        _ => None,
    }
}

fn limit(from: Attributes<'_>) -> Option<Expression> {
    let plain = be64(from, 2) == 1 && from.be32(4) == Some(0) && from.be32(5).unwrap_or(0) == 0;
    plain.then_some(Expression::Limit { per_second: be64(from, 1), burst: from.be32(3)? })
}

fn route_segment(from: Attributes<'_>) -> Option<Expression> {
    (from.be32(2)? == ROUTE_SEGMENT).then_some(Expression::RouteSegment { to: register(from, 1)? })
}

fn network_order(from: Attributes<'_>) -> Option<Expression> {
    let (read, written) = (register(from, 1)?, register(from, 2)?);
    let short = (from.be32(3)?, from.be32(4)?, from.be32(5)?) == (1, 2, 2);
    (short && read == written).then_some(Expression::NetworkOrder { register: read })
}

fn set_segment(from: Attributes<'_>) -> Option<Expression> {
    let segment = from.get(2)?.value.first() == Some(&SEGMENT_OPTION);
    let whole = (from.be32(3)?, from.be32(4)?, from.be32(6)?) == (2, 2, 1);
    (segment && whole).then_some(Expression::SetSegment { from: register(from, 7)? })
}

fn verdict(data: Attributes<'_>) -> Option<Verdict> {
    let verdict = data.nested(2);
    match verdict.be32(1)? as i32 {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        -3 => Some(Verdict::Jump(verdict.text(2)?)),
        -4 => Some(Verdict::Goto(verdict.text(2)?)),
        -5 => Some(Verdict::Return),
        _ => None,
    }
}
