//! nftables rules of steering: a mark towards the gateway, the pod's own address kept, and a refusal for every other way.
//!
//! Without a route to the gateway only the refusal is left.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{Options, counter};
use crate::nftables::expression::{Ct, Meta, Reject};
use crate::nftables::ruleset::{Data, Hook, Point};
use crate::nftables::{Chain, Expression, Ruleset, Set, Verdict};
use crate::policy_route::Prohibited;
use crate::program::step::{
    self, Ip, absent, count, equals, goto, in_state, input_name, interval, kind, output_name,
    present, verdict,
};
use crate::sysctl::{self, REMEMBERED};

/// Destinations that are never routed: this host, groups, neighbours.
const NEAR: [&str; 5] =
    ["127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "fe80::/10", "ff00::/8"];
/// Sources of link-local messages to neighbours.
const LINK: [&str; 2] = ["::/128", "fe80::/10"];
/// `IPS_DST_NAT`: the destination of the connection was translated.
const TRANSLATED: u32 = 32;

type Rules = Vec<Vec<Expression>>;

/// Builds the table of a node.
pub(super) fn node(options: &Options, networks: &[IpNet], gateway: Ipv4Addr) -> Ruleset {
    let mut ruleset = common(options, &[gateway], &[counter::NO_GATEWAY, counter::FOREIGN_SOURCE]);
    let near = [nets(&NEAR), options.cluster.clone()].concat();
    sets(&mut ruleset, "enrolled", networks);
    sets(&mut ruleset, "near", &near);
    sets(&mut ruleset, "link", &nets(&LINK));
    ruleset.sets.insert(REMEMBERED.to_owned(), sysctl::memory());
    let mut chain = |name: &str, chain| ruleset.chains.insert(name.to_owned(), chain);
    let arrived = [
        by_link(input_name(8), options),
        set_mark(options, options.pass_mark),
        vec![verdict(Verdict::Accept)],
    ]
    .concat();
    // After destination NAT: a service address may stand for a pod.
    chain("mark", hooked("filter", Point::Prerouting, -90, families(vec![arrived], "mark")));
    chain("errors", hooked("route", Point::Output, -150, errors(options)));
    let leaves = || by_link(output_name(8), options);
    let through = [leaves(), vec![verdict(Verdict::Accept)]].concat();
    // A tunnel packet from a pod would leave with the node's address, and the gateway would accept it.
    let mut refuse = vec![strange(options)];
    refuse.extend([Ip::V4, Ip::V6].map(|ip| speaks_for_others(ip, leaves())));
    refuse.push(through);
    let refuse = families(refuse, "refuse");
    chain("forward", hooked("filter", Point::Forward, -5, refuse));
    let elsewhere = vec![
        output_name(8),
        step::differs(8, step::name_key(&options.link)),
        verdict(Verdict::Return),
    ];
    // Before a network plugin sets the node's address: the first to set a connection's translation wins.
    let identity = families(vec![elsewhere.clone()], "identity");
    chain("identity", hooked("nat", Point::Postrouting, 90, identity));
    let related = [in_state(step::RELATED), vec![verdict(Verdict::Accept)]].concat();
    chain("last", hooked("filter", Point::Postrouting, 300, last(elsewhere, related)));
    for ip in [Ip::V4, Ip::V6] {
        chain(&named("mark", ip), plain(marked(ip, options, networks)));
        chain(&named("refuse", ip), plain([exits(ip, &[]), refusal()].concat()));
        chain(&named("identity", ip), plain(keep_source(ip)));
    }
    ruleset
}

/// Builds the table of the gateway.
pub(super) fn gateway(options: &Options, nodes: &[Ipv4Addr], pods: &[IpNet]) -> Ruleset {
    let mut ruleset = common(options, nodes, &[counter::SPOOFED]);
    sets(&mut ruleset, "pods", pods);
    sets(&mut ruleset, "link", &nets(&LINK));
    let elsewhere = vec![
        input_name(8),
        step::differs(8, step::name_key(&options.link)),
        verdict(Verdict::Accept),
    ];
    let known = |set: &str, ip: Ip| {
        let source = vec![ip.source(8), present(&named(set, ip), 8), verdict(Verdict::Accept)];
        [ip.only(), source].concat()
    };
    let guard = vec![
        elsewhere,
        [in_state(step::RELATED), vec![verdict(Verdict::Accept)]].concat(),
        known("pods", Ip::V4),
        known("pods", Ip::V6),
        known("link", Ip::V6),
        vec![count(counter::SPOOFED), verdict(Verdict::Drop)],
    ];
    // After connection tracking, which relates an error to its connection.
    ruleset.chains.insert("guard".to_owned(), hooked("filter", Point::Prerouting, -190, guard));
    ruleset
}

/// Builds the part of both ends: packets from unknown ends are dropped, and TCP segments fit the tunnel.
fn common(options: &Options, ends: &[Ipv4Addr], counters: &[&str]) -> Ruleset {
    let mut ruleset = Ruleset::default();
    ruleset.counters.insert(counter::STRANGER.to_owned());
    ruleset.counters.extend(counters.iter().map(|name| (*name).to_owned()));
    let mut peers = Set::new(4, kind::V4, Data::Nothing).interval();
    let ends: Vec<IpNet> = ends.iter().map(|end| IpNet::from(IpAddr::V4(*end))).collect();
    peers.elements = interval(Ip::V4, &ends);
    ruleset.sets.insert("peers4".to_owned(), peers);
    let known = [Ip::V4.only(), vec![Ip::V4.source(8), present("peers4", 8)]].concat();
    let underlay = vec![[known, vec![verdict(Verdict::Accept)]].concat(), strange(options)];
    let mut chain = |name: &str, chain| ruleset.chains.insert(name.to_owned(), chain);
    chain("underlay", hooked("filter", Point::Input, -5, underlay));
    let clamp = [output_name(8), input_name(8)]
        .map(|interface| [by_link(interface, options), segment()].concat());
    chain("clamp", hooked("filter", Point::Forward, -150, clamp.into()));
    ruleset
}

/// Drops the tunnel's own packets.
fn strange(options: &Options) -> Vec<Expression> {
    let vni = options.vni.to_be_bytes();
    vec![
        step::transport(8),
        equals(8, vec![17]),
        step::transport_bytes(2, 2, 8),
        equals(8, options.port.to_be_bytes().to_vec()),
        // Offset of the VXLAN identifier, after the UDP header and VXLAN's flags.
        step::transport_bytes(12, 3, 8),
        equals(8, vni[1..].to_vec()),
        count(counter::STRANGER),
        verdict(Verdict::Drop),
    ]
}

/// Lowers the maximum segment size in a TCP SYN to what fits both directions.
fn segment() -> Vec<Expression> {
    const SYN: u8 = 0x02;
    const SYN_RST: u8 = 0x06;
    vec![
        step::transport(8),
        equals(8, vec![6]),
        step::transport_bytes(13, 1, 8),
        Expression::Bitwise { from: 8, to: 8, mask: [SYN_RST, 0, 0, 0], xor: [0; 4] },
        equals(8, vec![SYN, 0, 0, 0]),
        Expression::RouteSegment { to: 8 },
        Expression::NetworkOrder { register: 8 },
        Expression::SetSegment { from: 8 },
    ]
}

/// Marks a packet: to the gateway, or by the node's own routes. All packets that the routing rules would prohibit get one of the marks.
fn marked(ip: Ip, options: &Options, networks: &[IpNet]) -> Rules {
    let pass = set_mark(options, options.pass_mark);
    let other = || vec![ip.source(8), absent(&named("enrolled", ip), 8)];
    let to = |set: &str| vec![ip.destination(8), present(&named(set, ip), 8)];
    // `rp_filter` looks up the way back, from the pod, with this packet's mark.
    let mut rules = vec![[other(), to("enrolled"), pass.clone()].concat()];
    if Prohibited::of(networks, &options.cluster, ip.v4()).whole_cluster {
        let from = vec![ip.source(8), present(&named("near", ip), 8)];
        rules.push([other(), from, pass.clone()].concat());
        rules.push([other(), to("near"), pass.clone()].concat());
    }
    rules.extend(exits(ip, &pass));
    rules.push(set_mark(options, options.mark));
    rules
}

/// Exempts packets from steering: other sources, near destinations, and answers of connections to a port of this node, which first `pass`.
fn exits(ip: Ip, pass: &[Expression]) -> Rules {
    let answer =
        [vec![Expression::Ct { key: Ct::Direction, to: 8 }, equals(8, vec![1])], to_port()];
    vec![
        vec![ip.source(8), absent(&named("enrolled", ip), 8), verdict(Verdict::Return)],
        vec![ip.destination(8), present(&named("near", ip), 8), verdict(Verdict::Return)],
        [&answer.concat(), pass, &[verdict(Verdict::Return)]].concat(),
    ]
}

/// Matches if the connection's destination was translated.
fn to_port() -> Vec<Expression> {
    vec![
        Expression::Ct { key: Ct::Status, to: 8 },
        step::keep(8, TRANSLATED),
        step::differs(8, vec![0; 4]),
    ]
}

/// Steers this node's packets about a steered connection (ICMP errors) the connection's way, where they get the tenant's address.
fn errors(options: &Options) -> Rules {
    let about = |ip: Ip, key: Ct| {
        let far = vec![ip.destination(8), absent(&named("near", ip), 8)];
        let of = vec![Expression::Ct { key, to: 8 }, present(&named("enrolled", ip), 8)];
        [ip.only(), far, of, set_mark(options, options.mark)].concat()
    };
    let unrelated = vec![
        Expression::Ct { key: Ct::State, to: 8 },
        step::keep(8, step::RELATED),
        equals(8, vec![0; 4]),
        verdict(Verdict::Return),
    ];
    vec![
        unrelated,
        [to_port(), vec![verdict(Verdict::Return)]].concat(),
        about(Ip::V4, Ct::OriginalSource4),
        about(Ip::V4, Ct::ReplySource4),
        about(Ip::V6, Ct::OriginalSource6),
        about(Ip::V6, Ct::ReplySource6),
    ]
}

/// Accepts ICMP errors, which take the connection's way whoever sent them, only from a pod of an enrolled network or from this node itself.
fn speaks_for_others(ip: Ip, by_link: Vec<Expression>) -> Vec<Expression> {
    let strange = vec![ip.source(8), absent(&named("enrolled", ip), 8)];
    let drop = vec![count(counter::FOREIGN_SOURCE), verdict(Verdict::Drop)];
    [ip.only(), by_link, in_state(step::RELATED), strange, drop].concat()
}

fn refusal() -> Rules {
    vec![
        vec![count(counter::NO_GATEWAY)],
        [in_state(step::INVALID), vec![verdict(Verdict::Drop)]].concat(),
        vec![Expression::Reject(Reject::Prohibited)],
    ]
}

fn keep_source(ip: Ip) -> Rules {
    let (source, enrolled) = (ip.source(8), present(&named("enrolled", ip), 8));
    let keep =
        Expression::Nat { source: true, ipv4: ip.v4(), address: 8, last_address: None, port: None };
    vec![vec![source, enrolled, keep]]
}

/// Checks after all translation: only packets with a pod's address go to the gateway.
fn last(elsewhere: Vec<Expression>, related: Vec<Expression>) -> Rules {
    let known = |set: &str, ip: Ip| {
        let source = vec![ip.source(8), present(&named(set, ip), 8), verdict(Verdict::Accept)];
        [ip.only(), source].concat()
    };
    vec![
        elsewhere,
        related,
        known("enrolled", Ip::V4),
        known("enrolled", Ip::V6),
        known("link", Ip::V6),
        vec![count(counter::FOREIGN_SOURCE), verdict(Verdict::Drop)],
    ]
}

/// Sets one of the two mark bits, and clears the other.
fn set_mark(options: &Options, mark: u32) -> Vec<Expression> {
    vec![
        Expression::Meta { key: Meta::Mark, to: 8 },
        step::replace(8, !(options.mark | options.pass_mark), mark),
        Expression::SetMark { from: 8 },
    ]
}

fn by_link(interface: Expression, options: &Options) -> Vec<Expression> {
    vec![interface, equals(8, step::name_key(&options.link))]
}

/// Appends the jump to the family's own chain to the rules.
fn families(mut rules: Rules, chain: &str) -> Rules {
    rules.push([Ip::V4.only(), vec![goto(&named(chain, Ip::V4))]].concat());
    rules.push([Ip::V6.only(), vec![goto(&named(chain, Ip::V6))]].concat());
    rules
}

fn sets(ruleset: &mut Ruleset, name: &str, networks: &[IpNet]) {
    for ip in [Ip::V4, Ip::V6] {
        let mut set = Set::new(ip.len(), ip.kind(), Data::Nothing).interval();
        set.elements = interval(ip, networks);
        ruleset.sets.insert(named(name, ip), set);
    }
}

fn nets(constants: &[&str]) -> Vec<IpNet> {
    constants.iter().filter_map(|net| net.parse().ok()).collect()
}

fn named(name: &str, ip: Ip) -> String {
    format!("{name}{}", ip.digit())
}

const fn hooked(kind: &'static str, point: Point, priority: i32, rules: Rules) -> Chain {
    Chain { hook: Some(Hook { kind, point, priority }), rules }
}

const fn plain(rules: Rules) -> Chain {
    Chain { hook: None, rules }
}
