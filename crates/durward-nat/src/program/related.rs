//! ICMP errors and expected connections that come from the cluster: they have another connection's mark whoever sent them, so the sender
//! must be one of that connection's own.
//!
//! Packets of a connection itself need no such look: their source is part of what they are recognised by.

use super::balance::{rule, rule_of_source};
use super::step::{
    self, Ip, absent, by_slot, count, ct_mark, goto, keep, marked, present, verdict,
};
use super::{counter, member, plain, transparent};
use crate::interface::Interfaces;
use crate::mark::{EGRESS, MAPPED, PICKED_UP, TENANT_MASK, TRANSPARENT};
use crate::nftables::expression::Ct;
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
    for ip in [Ip::V4, Ip::V6] {
        let mut routers = Set::new(ip.len(), ip.kind(), Data::Nothing);
        let addresses = interfaces.routers.iter().filter_map(|router| ip.bytes(*router));
        routers.elements = addresses.map(|address| (address, member())).collect();
        ruleset.sets.insert(format!("routers{}", ip.digit()), routers);
    }
}

/// The sender is the connection's endpoint, or its tenant's, or a router on the way to the cluster.
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
        [rule_of_source(ip), own].concat(),
        vec![ip.source(8), present(&format!("routers{digit}"), 8), goto("credible")],
    ];
    // Nodes speak for their pods by the tunnel; they let no pod's packet with another's address into it.
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
