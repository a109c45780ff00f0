//! Filter of packets from outside: spoofed sources, local services, forwarding. Everything about external interfaces fails closed.
//!
//! Packets between other interfaces are left alone.

use ipnet::IpNet;

use super::step::{self, Ip, count, goto, in_state, input_name, output_name, present, verdict};
use super::{counter, hooked, member, plain};
use crate::interface::Interfaces;
use crate::mark;
use crate::nftables::expression::Reject;
use crate::nftables::ruleset::{Data, Point};
use crate::nftables::{Expression, Ruleset, Set, Verdict};
use crate::options::Options;

/// ICMPv6 types of router and neighbour discovery and of multicast listeners, without which IPv6 does not work.
const DISCOVERY: [u8; 9] = [130, 131, 132, 133, 134, 135, 136, 137, 143];

pub(super) fn build(ruleset: &mut Ruleset, options: &Options, interfaces: &Interfaces) {
    sets(ruleset, options, interfaces);
    let mut chain = |name: &str, chain| ruleset.chains.insert(name.to_owned(), chain);
    chain("guard", hooked("filter", Point::Prerouting, -290, guard(&options.cluster)));
    chain("input", hooked("filter", Point::Input, 0, input()));
    let mut forward = vec![account()];
    if interfaces.external.len() <= step::FEW {
        forward.extend(step::came_from_outside(interfaces, |_| goto("from_outside")));
    } else {
        forward.push(vec![input_name(8), present("ext", 8), goto("from_outside")]);
    }
    forward.push(vec![output_name(8), present("ext", 8), goto("to_outside")]);
    chain("forward", hooked("filter", Point::Forward, 0, forward));
    chain("from_outside", plain(from_outside()));
    chain("to_outside", plain(to_outside()));
}

fn sets(ruleset: &mut Ruleset, options: &Options, interfaces: &Interfaces) {
    let mut outside = Set::new(16, step::kind::NAME, Data::Nothing).sized(step::SLOTS);
    let pair = step::kind::concat(&[step::kind::NAME, step::kind::MARK]);
    let mut right_way = Set::new(20, pair, Data::Nothing).sized(step::SLOTS);
    for (name, external) in &interfaces.external {
        let key = step::name_key(name);
        let slot = mark::slot_bits(external.slot).to_ne_bytes();
        right_way.elements.insert([&key[..], &slot].concat(), member());
        outside.elements.insert(key, member());
    }
    ruleset.sets.insert("ext".to_owned(), outside);
    ruleset.sets.insert("out_ok".to_owned(), right_way);

    let mut discovery = Set::new(1, step::kind::BYTES, Data::Nothing);
    discovery.elements.extend(DISCOVERY.map(|kind| (vec![kind], member())));
    ruleset.sets.insert("discovery".to_owned(), discovery);

    for ip in [Ip::V4, Ip::V6] {
        let mut cluster = Set::new(ip.len(), ip.kind(), Data::Nothing).interval();
        cluster.elements = step::interval(ip, &options.cluster);
        ruleset.sets.insert(format!("cluster{}", ip.digit()), cluster);

        let key = step::kind::concat(&[ip.kind(), step::kind::PROTOCOL, step::kind::PORT]);
        let local = Set::new(ip.len() + 8, key, Data::Nothing);
        ruleset.sets.insert(format!("local{}", ip.digit()), local);
    }
}

/// Drops spoofed sources. The source is compared first: packets from outside have none of the cluster's, which saves the lookup of their interface.
fn guard(cluster: &[IpNet]) -> Vec<Vec<Expression>> {
    let spoofed = |ip: Ip, of_cluster: Vec<Expression>| {
        let outside = vec![input_name(8), present("ext", 8)];
        let drop = vec![count(counter::SPOOFED), verdict(Verdict::Drop)];
        [ip.only(), of_cluster, outside, drop].concat()
    };
    let listed = |ip: Ip| vec![ip.source(8), present(&format!("cluster{}", ip.digit()), 8)];
    let v4: Vec<Vec<Expression>> = cluster
        .iter()
        .filter_map(|block| match block {
            IpNet::V4(block) => Some(step::source_in(*block)),
            IpNet::V6(_) => None,
        })
        .collect();
    let v4 = if v4.len() <= step::FEW { v4 } else { vec![listed(Ip::V4)] };
    let v4 = v4.into_iter().map(|of_cluster| spoofed(Ip::V4, of_cluster));
    v4.chain([spoofed(Ip::V6, listed(Ip::V6))]).collect()
}

/// Accepts packets from outside for this host: answers, discovery, a few pings, known services; nothing else.
fn input() -> Vec<Vec<Expression>> {
    let accept = || vec![verdict(Verdict::Accept)];
    let icmp6 =
        || vec![step::transport(8), step::equals(8, vec![58]), step::transport_bytes(0, 1, 8)];
    let icmp4 =
        || vec![step::transport(8), step::equals(8, vec![1]), step::transport_bytes(0, 1, 8)];
    let ping = || Expression::Limit { per_second: 100, burst: 50 };
    let local = |ip: Ip| {
        let known = vec![present(&format!("local{}", ip.digit()), 8)];
        [ip.only(), ip.service_key(), known, accept()].concat()
    };
    let groups = vec![step::transport(8), step::equals(8, vec![2])];
    vec![
        vec![input_name(8), step::absent("ext", 8), verdict(Verdict::Accept)],
        [in_state(step::ESTABLISHED | step::RELATED), accept()].concat(),
        [icmp6(), vec![present("discovery", 8)], accept()].concat(),
        [icmp4(), vec![step::equals(8, vec![8]), ping()], accept()].concat(),
        [icmp6(), vec![step::equals(8, vec![128]), ping()], accept()].concat(),
        local(Ip::V4),
        local(Ip::V6),
        [groups, accept()].concat(),
        vec![count(counter::UNMAPPED), verdict(Verdict::Drop)],
    ]
}

fn account() -> Vec<Expression> {
    vec![
        step::ct_mark(8),
        step::keep(8, mark::TENANT_MASK),
        Expression::CountBy { set: "ctr".to_owned(), from: 8 },
    ]
}

/// Drops packets of a connection without a slot, which was never admitted.
fn from_outside() -> Vec<Vec<Expression>> {
    vec![
        [step::marked(mark::SLOT_MASK), vec![verdict(Verdict::Accept)]].concat(),
        vec![count(counter::UNMAPPED), verdict(Verdict::Drop)],
    ]
}

/// Lets a connection leave only by the interface it belongs to.
fn to_outside() -> Vec<Vec<Expression>> {
    vec![
        vec![
            output_name(8),
            step::ct_mark(12),
            step::keep(12, mark::SLOT_MASK),
            present("out_ok", 8),
            verdict(Verdict::Accept),
        ],
        vec![count(counter::UNENROLLED)],
        [in_state(step::INVALID), vec![verdict(Verdict::Drop)]].concat(),
        vec![Expression::Reject(Reject::Prohibited)],
    ]
}
