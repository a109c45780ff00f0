//! ICMP errors and expected connections from the cluster: they carry another connection's mark whoever sent them, so the sender must be an end of
//! that connection.
//!
//! Packets of a connection itself need no such check: their source is part of the tuple by which they are recognised.

use super::balance::{rule, rule_of_source};
use super::step::{
    self, Ip, absent, by_slot, count, ct_mark, goto, keep, marked, present, verdict,
};
use super::{TWINS, counter, member, plain, transparent};
use crate::interface::Interfaces;
use crate::mark::{EGRESS, MAPPED, PICKED_UP, TENANT_MASK, TRANSPARENT};
use crate::nftables::expression::{Base, Ct};
use crate::nftables::ruleset::Data;
use crate::nftables::{Expression, Ruleset, Set, Verdict};

pub(super) fn build(ruleset: &mut Ruleset, interfaces: &Interfaces, proxied: bool) {
    let mut chain = |name: &str, rules| ruleset.chains.insert(name.to_owned(), plain(rules));
    let not_ours = vec![
        ct_mark(8),
        keep(8, MAPPED | EGRESS | TRANSPARENT),
        step::equals(8, vec![0; 4]),
        goto("answers"),
    ];
    let of_v4 = [Ip::V4.only(), vec![goto("related4")]].concat();
    chain("related", vec![not_ours, of_v4, vec![goto("related6")]]);
    chain("related4", from_an_end(Ip::V4, interfaces));
    chain("related6", from_an_end(Ip::V6, interfaces));
    let mut rules = vec![by_slot()];
    rules.extend(proxied.then(transparent::taken_already));
    rules.push(vec![goto("answer")]);
    chain("credible", rules);
    ruleset.sets.insert(TWINS.to_owned(), twins());
    for ip in [Ip::V4, Ip::V6] {
        let mut routers = Set::new(ip.len(), ip.kind(), Data::Nothing);
        let addresses = interfaces.routers.iter().filter_map(|router| ip.bytes(*router));
        routers.elements = addresses.map(|address| (address, member())).collect();
        ruleset.sets.insert(format!("routers{}", ip.digit()), routers);
    }
}

/// Returns the set of all bytes, each concatenated with itself, for a lookup that compares two bytes.
fn twins() -> Set {
    let kind = step::kind::concat(&[step::kind::BYTES, step::kind::BYTES]);
    let mut twins = Set::new(8, kind, Data::Nothing).sized(256);
    twins.elements = (0..=u8::MAX).map(|byte| ([byte, 0, 0, 0].repeat(2), member())).collect();
    twins
}

/// Matches an ICMP error from the receiver of the packet that it is about, such as a client in the cluster whose own connection it is. Compares byte
/// by byte, because kernels before Linux 6.13 cannot compare two registers.
fn from_the_receiver(ip: Ip) -> Vec<Expression> {
    // The packet that the error is about follows the 8 bytes of the ICMP header.
    const HEADER: u32 = 8;
    let (icmp, source, destination) = if ip.v4() { (1, 12, 16) } else { (58, 8, 24) };
    let mut rule = vec![step::transport(8), step::equals(8, vec![icmp])];
    for byte in 0..ip.len() {
        rule.extend([
            Expression::Payload { base: Base::Network, offset: source + byte, len: 1, to: 8 },
            step::transport_bytes(HEADER + destination + byte, 1, 9),
            present(TWINS, 8),
        ]);
    }
    rule
}

/// Accepts senders that are an end of the connection (its endpoint, or a client in the cluster), of its tenant, or a router on the way to the
/// cluster.
fn from_an_end(ip: Ip, interfaces: &Interfaces) -> Vec<Vec<Expression>> {
    let digit = ip.digit();
    let same = |flag: u32, key: Ct| {
        let pair = vec![Expression::Ct { key, to: 8 }, ip.source(8 + ip.words())];
        let known = vec![present(&format!("same{digit}"), 8), goto("credible")];
        [marked(flag), pair, known].concat()
    };
    let (original, reply) = if ip.v4() {
        (Ct::OriginalSource4, Ct::ReplySource4)
    } else {
        (Ct::OriginalSource6, Ct::ReplySource6)
    };
    let own = vec![
        ct_mark(rule(ip)),
        keep(rule(ip), TENANT_MASK),
        present(&format!("egt{digit}"), rule(ip)),
        goto("credible"),
    ];
    let mut rules = vec![
        same(MAPPED, reply),
        same(PICKED_UP, original),
        [marked(MAPPED), from_the_receiver(ip), vec![goto("credible")]].concat(),
        [rule_of_source(ip), own].concat(),
        vec![ip.source(8), present(&format!("routers{digit}"), 8), goto("credible")],
    ];
    // Nodes send errors for their pods by the tunnel, and let no packet with another pod's address into it.
    rules.extend(interfaces.tunnels.iter().map(|name| {
        vec![
            step::input_name(8),
            step::equals(8, step::name_key(name)),
            ip.source(8),
            absent(&format!("cluster{digit}"), 8),
            goto("credible"),
        ]
    }));
    rules.push(vec![count(counter::FORGED), verdict(Verdict::Drop)]);
    rules
}
