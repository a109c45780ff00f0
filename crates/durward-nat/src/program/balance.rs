//! From external ports to endpoints, and from pods to egress addresses: dispatch by hash maps, choice by fixed hashes.
//!
//! A choice depends on nothing but the packet and the seed, so that two gateways make the same one.

use super::step::{self, Ip, count, ct_mark, dispatch, goto, marked, present, replace, verdict};
use super::{Shapes, counter, hooked, plain};
use crate::mark;
use crate::nftables::expression::Reject;
use crate::nftables::ruleset::{Data, Point};
use crate::nftables::{Expression, Ruleset, Set, Value, Verdict};
use crate::options::Options;

/// A way connections are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Balance {
    pub(crate) v4: bool,
    pub(crate) shape: Shape,
    /// Whether a client keeps its endpoint.
    pub(crate) sticky: bool,
    pub(crate) endpoints: u32,
}

/// How ports are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// One port.
    Port,
    /// A range of ports, all to the endpoint's.
    Range,
    /// A range of ports, each to the same one.
    SamePort,
}

impl Balance {
    /// The chain that does it.
    pub(crate) fn chain(self) -> String {
        let shape = match self.shape {
            Shape::Port => "",
            Shape::Range => "r",
            Shape::SamePort => "k",
        };
        let sticky = if self.sticky { "c" } else { "" };
        format!("lb{}_{shape}{}{sticky}", Ip::of(self.v4).digit(), self.endpoints)
    }
}

/// The chain that refuses because there is no endpoint.
pub(crate) const NO_ENDPOINT: &str = "no_endpoint";

/// The chain that chooses among so many ranges of egress addresses.
pub(crate) fn pool_chain(v4: bool, ranges: u32) -> String {
    format!("egress{}_{ranges}", Ip::of(v4).digit())
}

pub(super) fn build(ruleset: &mut Ruleset, options: &Options, shapes: &Shapes) {
    let mut protocols = Set::new(1, step::kind::PROTOCOL, Data::Nothing);
    protocols.elements.extend([6, 17, 132].map(|number| (vec![number], super::member())));
    ruleset.sets.insert("l4".to_owned(), protocols);
    let entry = || {
        vec![
            vec![step::transport(8), step::absent("l4", 8), verdict(Verdict::Return)],
            [Ip::V4.only(), vec![goto("nat4")]].concat(),
            vec![goto("nat6")],
        ]
    };
    let mut chain = |name: &str, chain| ruleset.chains.insert(name.to_owned(), chain);
    // Just before where others translate: the first to bind a connection has it, and a node's network plugin would give
    // it the node's address.
    chain("nat_pre", hooked("nat", Point::Prerouting, -110, entry()));
    chain("nat_out", hooked("nat", Point::Output, -110, entry()));
    chain("nat4", plain(services(Ip::V4)));
    chain("nat6", plain(services(Ip::V6)));
    chain(NO_ENDPOINT, plain(no_endpoint()));
    let nothing_done = vec![ct_mark(8), step::keep(8, 0xff), step::equals(8, vec![0; 4])];
    let post = vec![
        [nothing_done, vec![verdict(Verdict::Return)]].concat(),
        [Ip::V4.only(), vec![goto("post4")]].concat(),
        vec![goto("post6")],
    ];
    chain("nat_post", hooked("nat", Point::Postrouting, 90, post));
    let address = options.cluster_address_v4.map(|address| address.octets().to_vec());
    chain("post4", plain(sources(Ip::V4, address.as_deref())));
    let address = options.cluster_address_v6.map(|address| address.octets().to_vec());
    chain("post6", plain(sources(Ip::V6, address.as_deref())));
    for balance in &shapes.balances {
        chain(&balance.chain(), plain(spread(*balance, options.seed)));
    }
    for (v4, ranges) in &shapes.pools {
        chain(&pool_chain(*v4, *ranges), plain(pool(Ip::of(*v4), *ranges, options.seed)));
    }
}

/// Sources are judged before services are found; single ports before ranges.
fn services(ip: Ip) -> Vec<Vec<Expression>> {
    let by =
        |map: &str| [ip.service_key(), vec![dispatch(&format!("{map}{}", ip.digit()), 8)]].concat();
    vec![by("acl"), by("svc"), by("aclr"), by("svcr")]
}

fn no_endpoint() -> Vec<Vec<Expression>> {
    let tcp = vec![step::transport(8), step::equals(8, vec![6])];
    vec![
        vec![count(counter::NO_ENDPOINT)],
        [tcp, vec![Expression::Reject(Reject::Reset)]].concat(),
        vec![Expression::Reject(Reject::Port)],
    ]
}

fn spread(balance: Balance, seed: u32) -> Vec<Vec<Expression>> {
    let ip = Ip::of(balance.v4);
    let (port, index, free) = (9 + ip.words(), 10 + ip.words(), 11 + ip.words());
    let mut rule = ip.service_key();
    if balance.shape != Shape::Port {
        rule.push(step::to(&format!("rng{}", ip.digit()), 8, port));
    }
    if balance.endpoints == 1 {
        rule.push(Expression::Immediate { to: index, value: vec![0; 4] });
    } else {
        rule.push(ip.source(free));
        let mut len = ip.len();
        if !balance.sticky {
            rule.push(step::transport_bytes(0, 2, free + ip.words()));
            len += 4;
        }
        rule.push(Expression::Hash {
            from: free,
            len,
            modulus: balance.endpoints,
            seed,
            to: index,
        });
    }
    rule.push(step::to(&format!("ep{}", ip.digit()), 8, free));
    rule.push(Expression::SetCtMark { from: free + ip.words() + 1 });
    rule.push(Expression::Nat {
        source: false,
        ipv4: ip.v4(),
        address: free,
        last_address: None,
        port: (balance.shape != Shape::SamePort).then_some(free + ip.words()),
    });
    vec![rule, vec![verdict(Verdict::Drop)]]
}

/// Which source the packet gets: of a connection picked up, of an egress rule, or of the gateway.
fn sources(ip: Ip, cluster_address: Option<&[u8]>) -> Vec<Vec<Expression>> {
    let (digit, words) = (ip.digit(), ip.words());
    let free = 10 + words;
    let picked_up = [
        marked(mark::PICKED_UP),
        ip.answer_key(),
        vec![step::to(&format!("rev{digit}"), 8, free), snat(ip, free, Some(free + words))],
    ];
    let egress = [marked(mark::EGRESS), vec![ip.source(8), dispatch(&format!("eg{digit}"), 8)]];
    let lost = [
        marked(mark::EGRESS | mark::PICKED_UP),
        vec![count(counter::LOST), verdict(Verdict::Drop)],
    ];
    // Without an address of its own the gateway's is that of the interface towards the endpoint.
    let own = || match cluster_address {
        Some(address) => {
            vec![Expression::Immediate { to: 8, value: address.to_vec() }, snat(ip, 8, None)]
        }
        None => vec![Expression::Masquerade],
    };
    let asked = [marked(mark::SNAT), own()];
    // No interface's slot: it came from the cluster or from this host, and the answer must pass here again.
    let local = vec![
        ct_mark(8),
        replace(8, mark::MAPPED | mark::SLOT_MASK, mark::MAPPED),
        step::equals(8, vec![0; 4]),
    ];
    let hairpin = [local, own()].concat();
    // The client's own address, so that nobody behind puts the node's there.
    let kept = [marked(mark::MAPPED), vec![ip.source(8), snat(ip, 8, None)]];
    vec![picked_up.concat(), egress.concat(), lost.concat(), asked.concat(), hairpin, kept.concat()]
}

/// One range of addresses of the pool, the same for all connections of a pod.
fn pool(ip: Ip, ranges: u32, seed: u32) -> Vec<Vec<Expression>> {
    let (digit, words) = (ip.digit(), ip.words());
    let (id, index, first) = (8 + words, 9 + words, 10 + words);
    let rule = vec![
        ip.source(8),
        step::to(&format!("egid{digit}"), 8, id),
        Expression::Hash { from: 8, len: ip.len(), modulus: ranges, seed, to: index },
        step::to(&format!("egp{digit}"), id, first),
        Expression::Nat {
            source: true,
            ipv4: ip.v4(),
            address: first,
            last_address: Some(first + words),
            port: None,
        },
    ];
    vec![rule, vec![count(counter::LOST), verdict(Verdict::Drop)]]
}

const fn snat(ip: Ip, address: u32, port: Option<u32>) -> Expression {
    Expression::Nat { source: true, ipv4: ip.v4(), address, last_address: None, port }
}

/// Loads the mark an answering endpoint's connection has, with the rule's condition that it is known.
pub(super) fn picked_up_mark(ip: Ip) -> Vec<Expression> {
    let free = 10 + ip.words();
    let to_mark = free + ip.words() + 1;
    [
        ip.answer_key(),
        vec![
            step::to(&format!("rev{}", ip.digit()), 8, free),
            Expression::SetCtMark { from: to_mark },
            Expression::Bitwise {
                from: to_mark,
                to: 8,
                mask: mark::SLOT_MASK.to_ne_bytes(),
                xor: [0; 4],
            },
        ],
    ]
    .concat()
}

/// What an element holds that leads to a chain for good.
pub(crate) const fn leads_to(chain: String) -> Value {
    Value::Verdict(Verdict::Goto(chain))
}

/// Holds when the destination is in the cluster.
pub(super) fn to_cluster(ip: Ip) -> Vec<Expression> {
    vec![ip.destination(8), present(&format!("cluster{}", ip.digit()), 8)]
}
