//! From external ports to endpoints, and from pods to egress addresses: dispatch by hash maps, choice by fixed hashes.
//!
//! A choice depends on nothing but the packet and the seed, so that two gateways choose alike.

use super::step::{
    self, Ip, count, ct_mark, dispatch, goto, keep, marked, present, replace, verdict,
};
use super::{Digest, List, Shapes, counter, hooked, plain, verdict_element};
use crate::mark;
use crate::nftables::expression::Reject;
use crate::nftables::ruleset::{Data, Point};
use crate::nftables::{Expression, Ruleset, Set, Value, Verdict};
use crate::options::Options;

/// Choice of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Balance {
    pub(crate) shape: Shape,
    /// True if a client keeps its endpoint.
    pub(crate) sticky: bool,
    pub(crate) endpoints: u32,
}

/// Translation of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// Single external port.
    Port,
    /// Range of external ports, all to the endpoint's port.
    Range,
    /// Range of external ports, each to the same port.
    SamePort,
}

impl Balance {
    fn name(self) -> String {
        let shape = match self.shape {
            Shape::Port => "",
            Shape::Range => "r",
            Shape::SamePort => "k",
        };
        let sticky = if self.sticky { "c" } else { "" };
        format!("{shape}{}{sticky}", self.endpoints)
    }
}

/// Chain of a mapping: allowed sources and choice of an endpoint. A port leads to it by one lookup, so the list of sources and the choice cannot be
/// of two generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) v4: bool,
    /// Sources that may connect.
    pub(crate) list: List,
    /// Choice of an endpoint; `None` without endpoints.
    pub(crate) balance: Option<Balance>,
}

impl Entry {
    /// Returns the name of the chain.
    pub(crate) fn chain(self) -> String {
        let ip = Ip::of(self.v4);
        match (self.list, self.balance) {
            (List::EVERYBODY, None) => NO_ENDPOINT.to_owned(),
            (List::EVERYBODY, Some(balance)) => format!("lb{}_{}", ip.digit(), balance.name()),
            (list, balance) => {
                let name = balance.map_or_else(|| "none".to_owned(), Balance::name);
                format!("{}_{name}", list.chain("acl", ip))
            }
        }
    }
}

/// Name of the chain that refuses because there is no endpoint.
const NO_ENDPOINT: &str = "no_endpoint";

/// Returns the name of the chain that chooses among `ranges` ranges of egress addresses.
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
    // Just before the priority of other NAT chains: the first to set a connection's translation wins, and a network plugin would set the node's
    // address.
    chain("nat_pre", hooked("nat", Point::Prerouting, -110, entry()));
    chain("nat_out", hooked("nat", Point::Output, -110, entry()));
    chain("nat4", plain(services(Ip::V4)));
    chain("nat6", plain(services(Ip::V6)));
    let nothing_done = vec![ct_mark(8), keep(8, 0xff), step::equals(8, vec![0; 4])];
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
    chain(NO_ENDPOINT, plain(no_endpoint()));
    for entry in &shapes.entries {
        chain(&entry.chain(), plain(enter(*entry, options.seed)));
    }
    build_back(ruleset, shapes);
    let mut chain = |name: &str, chain| ruleset.chains.insert(name.to_owned(), chain);
    for (v4, ranges) in &shapes.pools {
        chain(&pool_chain(*v4, *ranges), plain(pool(Ip::of(*v4), *ranges, options.seed)));
    }
}

/// Looks single ports up before ranges.
fn services(ip: Ip) -> Vec<Vec<Expression>> {
    let by =
        |map: &str| [ip.service_key(), vec![dispatch(&format!("{map}{}", ip.digit()), 8)]].concat();
    vec![by("svc"), by("svcr")]
}

fn enter(entry: Entry, seed: u32) -> Vec<Vec<Expression>> {
    let ip = Ip::of(entry.v4);
    let mut rules = Vec::new();
    if entry.list != List::EVERYBODY {
        let strange = step::absent(&entry.list.set(ip), 8);
        rules.push(vec![ip.source(8), strange, count(counter::DENIED), verdict(Verdict::Drop)]);
    }
    match entry.balance {
        Some(balance) => rules.extend(spread(ip, balance, (entry.list, seed))),
        None if entry.list == List::EVERYBODY => rules.extend(no_endpoint()),
        None => rules.push(vec![goto(NO_ENDPOINT)]),
    }
    rules
}

fn no_endpoint() -> Vec<Vec<Expression>> {
    let tcp = vec![step::transport(8), step::equals(8, vec![6])];
    vec![
        vec![count(counter::NO_ENDPOINT)],
        [tcp, vec![Expression::Reject(Reject::Reset)]].concat(),
        vec![Expression::Reject(Reject::Port)],
    ]
}

/// Chooses an endpoint. The key contains the list of sources: if another mapping has the port meanwhile, its endpoints are not reached past its own
/// list.
fn spread(ip: Ip, balance: Balance, (list, seed): (List, u32)) -> Vec<Vec<Expression>> {
    let (port, index, digest) = (9 + ip.words(), 10 + ip.words(), 11 + ip.words());
    let free = digest + Digest::WORDS;
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
    rule.push(Expression::Immediate { to: digest, value: list.digest().bytes().to_vec() });
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

/// Chooses the source address: of a picked-up connection, of an egress rule, or of the gateway.
fn sources(ip: Ip, cluster_address: Option<&[u8]>) -> Vec<Vec<Expression>> {
    let digit = ip.digit();
    let (key, mark) = (8, 10 + ip.words());
    // The mark is part of the key: the address is that of the mapping whose mark the connection has.
    let picked_up = [
        marked(mark::PICKED_UP),
        ip.answer_key(),
        vec![
            ct_mark(mark),
            step::to(&format!("revs{digit}"), key, mark + 1),
            snat(ip, mark + 1, Some(mark + 1 + ip.words())),
        ],
    ];
    let single = [
        marked(mark::EGRESS),
        rule_key(ip),
        vec![step::to(&format!("egs{digit}"), rule(ip), rule(ip) + 3), range(ip, rule(ip) + 3)],
    ];
    let several =
        [marked(mark::EGRESS), rule_key(ip), vec![dispatch(&format!("egn{digit}"), rule(ip))]];
    let lost = [
        marked(mark::EGRESS | mark::PICKED_UP),
        vec![count(counter::LOST), verdict(Verdict::Drop)],
    ];
    // Without a configured address the source is that of the interface towards the endpoint.
    let own = || match cluster_address {
        Some(address) => {
            vec![Expression::Immediate { to: 8, value: address.to_vec() }, snat(ip, 8, None)]
        }
        None => vec![Expression::Masquerade],
    };
    let asked = [marked(mark::SNAT), own()];
    // No slot: the packet came from the cluster or from this host, so it needs our source for the answer to return here.
    let local = vec![
        ct_mark(8),
        replace(8, mark::MAPPED | mark::SLOT_MASK, mark::MAPPED),
        step::equals(8, vec![0; 4]),
    ];
    let hairpin = [local, own()].concat();
    // Source NAT to the client's own address keeps a later NAT chain from setting the node's.
    let kept = [marked(mark::MAPPED), vec![ip.source(8), snat(ip, 8, None)]];
    vec![
        picked_up.concat(),
        single.concat(),
        several.concat(),
        lost.concat(),
        asked.concat(),
        hairpin,
        kept.concat(),
    ]
}

/// Returns the register of an egress rule's mark, followed by its digest.
pub(super) const fn rule(ip: Ip) -> u32 {
    8 + ip.words()
}

/// Looks up the egress rule of the source; overwrites the registers loaded before.
pub(super) fn rule_of_source(ip: Ip) -> Vec<Expression> {
    vec![ip.source(8), step::to(&format!("eg{}", ip.digit()), 8, rule(ip))]
}

/// Loads the key of the rule's addresses: tenant and interface from the connection mark, and the digest of the source's present rule. If both are not
/// of one rule, no address is found.
fn rule_key(ip: Ip) -> Vec<Expression> {
    let own = vec![ct_mark(rule(ip)), keep(rule(ip), mark::TENANT_MASK | mark::SLOT_MASK)];
    [rule_of_source(ip), own].concat()
}

fn range(ip: Ip, first: u32) -> Expression {
    let last_address = Some(first + ip.words());
    Expression::Nat { source: true, ipv4: ip.v4(), address: first, last_address, port: None }
}

/// Chooses one range of the pool, the same for all connections of a pod.
fn pool(ip: Ip, ranges: u32, seed: u32) -> Vec<Vec<Expression>> {
    let (index, first) = (rule(ip) + 3, rule(ip) + 4);
    let choice = vec![
        Expression::Hash { from: 8, len: ip.len(), modulus: ranges, seed, to: index },
        step::to(&format!("egp{}", ip.digit()), rule(ip), first),
        range(ip, first),
    ];
    vec![[rule_key(ip), choice].concat(), vec![count(counter::LOST), verdict(Verdict::Drop)]]
}

const fn snat(ip: Ip, address: u32, port: Option<u32>) -> Expression {
    Expression::Nat { source: true, ipv4: ip.v4(), address, last_address: None, port }
}

/// Picks up a connection of another gateway by an endpoint's answer, if its mapping's list contains the client.
pub(super) fn pick_up(ip: Ip) -> Vec<Expression> {
    let mark = 10 + ip.words();
    let digit = ip.digit();
    let found = vec![
        step::to(&format!("rev{digit}"), 8, mark),
        Expression::SetCtMark { from: mark },
        dispatch(&format!("back{digit}"), mark + 1),
    ];
    [ip.answer_key(), found].concat()
}

/// Builds a list's chain for answers: continues if the client is in the list, otherwise the connection is not picked up.
fn build_back(ruleset: &mut Ruleset, shapes: &Shapes) {
    for ip in [Ip::V4, Ip::V6] {
        let lists = shapes.sources.keys().filter(|(v4, _)| *v4 == ip.v4()).map(|(_, list)| *list);
        for list in lists.chain([List::EVERYBODY]) {
            let mut rules = vec![step::by_slot()];
            if list != List::EVERYBODY {
                let listed = vec![ip.destination(8), present(&list.set(ip), 8)];
                rules = vec![[listed, step::by_slot()].concat(), step::unmark()];
            }
            let name = list.chain("back", ip);
            let key = list.digest().bytes().to_vec();
            let back = ruleset.sets.get_mut(&format!("back{}", ip.digit()));
            let element = verdict_element(Verdict::Jump(name.clone()));
            back.map(|set| set.elements.insert(key, element));
            ruleset.chains.insert(name, plain(rules));
        }
    }
}

/// Returns the map value that leads to a chain, without return.
pub(crate) const fn leads_to(chain: String) -> Value {
    Value::Verdict(Verdict::Goto(chain))
}

/// Matches if the destination is in the cluster.
pub(super) fn to_cluster(ip: Ip) -> Vec<Expression> {
    vec![ip.destination(8), present(&format!("cluster{}", ip.digit()), 8)]
}
