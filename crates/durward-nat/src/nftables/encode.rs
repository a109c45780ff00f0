//! Encodes expressions, sets and elements as netlink attributes.
//!
//! The numbers are attribute types of `linux/netfilter/nf_tables.h`, one enumeration per object or expression (`NFTA_PAYLOAD_*`, `NFTA_SET_*` …): the
//! same number means something else in each.

use super::expression::{Base, Ct, Expression, LookupResult, Meta, Reject, Verdict};
use super::ruleset::{Chain, Data, Element, Set, Value};
use super::uapi::{DATA_VERDICT, INTERVAL_END, OBJECT_COUNTER, fib, set_flag};
use crate::netlink::Builder;

/// Bytes of elements per message at most; the attribute that holds them can have 64 KiB.
pub(super) const ELEMENTS: usize = 48 * 1024;
/// `NFT_META_NFTRACE`.
pub(super) const TRACE: u32 = 12;
/// `NFT_RT_TCPMSS`.
pub(super) const ROUTE_SEGMENT: u32 = 3;
/// TCP option kind of the maximum segment size.
pub(super) const SEGMENT_OPTION: u8 = 2;

/// Writes a chain's own attributes; the table's name is written already.
pub(super) fn chain(to: &mut Builder, name: &str, chain: &Chain) {
    to.text(3, name);
    if let Some(hook) = chain.hook {
        to.nest(4, |to| {
            to.be32(1, hook.number()).be32(2, hook.priority as u32);
        });
        to.be32(5, 1).text(7, hook.kind);
    }
}

/// Writes a rule's expressions.
pub(super) fn rule(to: &mut Builder, chain: &str, expressions: &[Expression]) {
    to.text(2, chain);
    to.nest(4, |to| {
        for each in expressions {
            to.nest(1, |to| expression(to, each));
        }
    });
}

/// Writes a set's own attributes.
pub(super) fn set(to: &mut Builder, name: &str, set: &Set, id: u32) {
    let mut flags = if set.interval { set_flag::INTERVAL } else { 0 };
    flags |= match set.data {
        Data::Nothing => 0,
        Data::Verdict | Data::Bytes { .. } => set_flag::MAP,
        Data::Counter => set_flag::OBJECT,
    };
    to.text(2, name).be32(3, flags).be32(4, set.key_type).be32(5, set.key_len);
    match set.data {
        Data::Nothing => {}
        Data::Verdict => {
            to.be32(6, DATA_VERDICT).be32(7, 16);
        }
        Data::Bytes { len, kind } => {
            to.be32(6, kind).be32(7, len);
        }
        Data::Counter => {
            to.be32(15, OBJECT_COUNTER);
        }
    }
    // `NFTA_SET_ID`, which the kernel requires of a new set.
    to.be32(10, id);
    if set.size > 0 {
        to.nest(9, |to| {
            to.be32(1, set.size);
        });
    }
    if set.counting {
        to.nest(17, |to| {
            to.text(1, "counter").nest(2, |_| {});
        });
    }
}

/// Writes one element; an element of an interval set becomes two, its beginning and its end.
pub(super) fn element(to: &mut Builder, key: &[u8], element: &Element) {
    to.nest(1, |to| {
        to.nest(1, |to| {
            to.bytes_attribute(1, key);
        });
        match &element.value {
            Value::Nothing => {}
            Value::Bytes(bytes) => {
                to.nest(2, |to| {
                    to.bytes_attribute(1, bytes);
                });
            }
            Value::Verdict(value) => {
                to.nest(2, |to| verdict(to, value));
            }
            Value::Counter(name) => {
                to.text(9, name);
            }
        }
    });
    // The kernel has no interval elements: the end is an element of its own with a flag.
    if let Some(end) = &element.end {
        to.nest(1, |to| {
            to.nest(1, |to| {
                to.bytes_attribute(1, end);
            });
            to.be32(3, INTERVAL_END);
        });
    }
}

fn expression(to: &mut Builder, expression: &Expression) {
    let name = match expression {
        Expression::Payload { .. } => "payload",
        Expression::Meta { .. } | Expression::SetMark { .. } | Expression::SetTrace { .. } => {
            "meta"
        }
        Expression::Ct { .. } | Expression::SetCtMark { .. } => "ct",
        Expression::Compare { .. } => "cmp",
        Expression::Bitwise { .. } => "bitwise",
        Expression::Lookup { .. } => "lookup",
        Expression::Hash { .. } => "hash",
        Expression::Random { .. } => "numgen",
        Expression::Immediate { .. } | Expression::Verdict(_) => "immediate",
        Expression::Nat { .. } => "nat",
        Expression::Count(_) | Expression::CountBy { .. } => "objref",
        Expression::Reject(_) => "reject",
        Expression::Masquerade => "masq",
        Expression::Limit { .. } => "limit",
        Expression::RouteSegment { .. } => "rt",
        Expression::NetworkOrder { .. } => "byteorder",
        Expression::SetSegment { .. } => "exthdr",
        Expression::DestinationKind { .. } => "fib",
        Expression::HandOver { .. } => "tproxy",
        Expression::Foreign(name) => name,
    };
    to.text(1, name).nest(2, |to| parameters(to, expression));
}

fn parameters(to: &mut Builder, expression: &Expression) {
    match expression {
        Expression::Payload { base, offset, len, to: register } => {
            let base = if *base == Base::Network { 1 } else { 2 };
            to.be32(1, *register).be32(2, base).be32(3, *offset).be32(4, *len);
        }
        Expression::Meta { key, to: register } => {
            to.be32(1, *register).be32(2, meta(*key));
        }
        Expression::SetMark { from } => {
            to.be32(2, meta(Meta::Mark)).be32(3, *from);
        }
        Expression::Ct { key, to: register } => {
            let (number, direction) = ct(*key);
            to.be32(1, *register).be32(2, number);
            if let Some(direction) = direction {
                to.bytes_attribute(3, &[direction]);
            }
        }
        Expression::SetCtMark { from } => {
            to.be32(2, ct(Ct::Mark).0).be32(4, *from);
        }
        Expression::Compare { from, equal, value } => {
            to.be32(1, *from).be32(2, u32::from(!equal)).nest(3, |to| {
                to.bytes_attribute(1, value);
            });
        }
        Expression::Bitwise { from, to: register, mask, xor } => {
            // `NFTA_BITWISE_LEN` is 4: masks here are one register wide.
            to.be32(1, *from).be32(2, *register).be32(3, 4);
            for (kind, bytes) in [(4, mask), (5, xor)] {
                to.nest(kind, |to| {
                    to.bytes_attribute(1, bytes);
                });
            }
        }
        Expression::Lookup { set, from, result } => lookup(to, set, *from, *result),
        _ => acting_parameters(to, expression),
    }
}

fn acting_parameters(to: &mut Builder, expression: &Expression) {
    match expression {
        Expression::Hash { from, len, modulus, seed, to: register } => {
            to.be32(1, *from).be32(2, *register).be32(3, *len).be32(4, *modulus);
            to.be32(5, *seed).be32(7, 0);
        }
        Expression::Random { modulus, to: register } => {
            to.be32(1, *register).be32(2, *modulus).be32(3, 1);
        }
        Expression::Immediate { to: register, value } => {
            to.be32(1, *register).nest(2, |to| {
                to.bytes_attribute(1, value);
            });
        }
        Expression::Verdict(value) => {
            // Register 0 is `NFT_REG_VERDICT`.
            to.be32(1, 0).nest(2, |to| verdict(to, value));
        }
        Expression::Nat { source, ipv4, address, last_address, port } => {
            to.be32(1, u32::from(!source)).be32(2, if *ipv4 { 2 } else { 10 });
            to.be32(3, *address);
            if let Some(last) = last_address {
                to.be32(4, *last);
            }
            if let Some(port) = port {
                to.be32(5, *port);
            }
        }
        Expression::Count(name) => {
            to.be32(1, OBJECT_COUNTER).text(2, name);
        }
        Expression::CountBy { set, from } => {
            to.be32(3, *from).text(4, set);
        }
        Expression::Masquerade => {}
        Expression::Reject(how) => {
            let (kind, code) = match how {
                Reject::Reset => (1, 0),
                Reject::Port => (2, 1),
                Reject::Prohibited => (2, 3),
            };
            to.be32(1, kind).bytes_attribute(2, &[code]);
        }
        Expression::Limit { per_second, burst } => {
            to.bytes_attribute(1, &per_second.to_be_bytes());
            to.bytes_attribute(2, &1u64.to_be_bytes()).be32(3, *burst).be32(4, 0);
        }
        _ => rare_parameters(to, expression),
    }
}

/// Writes the parameters of expressions for steering, tracing and transparent egress.
fn rare_parameters(to: &mut Builder, expression: &Expression) {
    match expression {
        Expression::SetTrace { from } => {
            to.be32(2, TRACE).be32(3, *from);
        }
        Expression::RouteSegment { to: register } => {
            to.be32(1, *register).be32(2, ROUTE_SEGMENT);
        }
        Expression::NetworkOrder { register } => {
            to.be32(1, *register).be32(2, *register).be32(3, 1).be32(4, 2).be32(5, 2);
        }
        Expression::SetSegment { from } => {
            to.bytes_attribute(2, &[SEGMENT_OPTION]).be32(3, 2).be32(4, 2);
            to.be32(6, 1).be32(7, *from);
        }
        Expression::DestinationKind { to: register } => {
            to.be32(1, *register).be32(2, fib::ADDRESS_TYPE).be32(3, fib::DESTINATION);
        }
        Expression::HandOver { ipv4, address, port } => {
            to.be32(1, if *ipv4 { 2 } else { 10 }).be32(2, *address).be32(3, *port);
        }
        _ => {}
    }
}

fn lookup(to: &mut Builder, set: &str, from: u32, result: LookupResult) {
    to.text(1, set).be32(2, from);
    match result {
        LookupResult::Present => {}
        LookupResult::Absent => {
            to.be32(5, 1);
        }
        LookupResult::To(register) => {
            to.be32(3, register);
        }
        LookupResult::Verdict => {
            to.be32(3, 0);
        }
    }
}

fn verdict(to: &mut Builder, verdict: &Verdict) {
    let (code, chain): (i32, _) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    to.nest(2, |to| {
        to.be32(1, code as u32);
        if let Some(chain) = chain {
            to.text(2, chain);
        }
    });
}

/// Returns the kernel's number of a `meta` key (`NFT_META_*`).
pub(super) const fn meta(key: Meta) -> u32 {
    match key {
        Meta::Mark => 3,
        Meta::InputName => 6,
        Meta::OutputName => 7,
        Meta::Family => 15,
        Meta::Transport => 16,
    }
}

/// Returns the kernel's number of a `ct` key (`NFT_CT_*`), and the direction if it has one.
pub(super) const fn ct(key: Ct) -> (u32, Option<u8>) {
    match key {
        Ct::State => (0, None),
        Ct::Direction => (1, None),
        Ct::Status => (2, None),
        Ct::Mark => (3, None),
        Ct::OriginalSource4 => (19, Some(0)),
        Ct::ReplySource4 => (19, Some(1)),
        Ct::OriginalDestination4 => (20, Some(0)),
        Ct::OriginalSource6 => (21, Some(0)),
        Ct::ReplySource6 => (21, Some(1)),
        Ct::OriginalDestination6 => (22, Some(0)),
    }
}
