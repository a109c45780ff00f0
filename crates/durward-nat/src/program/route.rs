//! By which interface a packet leaves: the connection's slot becomes the packet's mark, and the mark a routing table.
//!
//! Marks are set from constants, never merged with one another. Egress is decided after destinations are translated.

use super::balance::{picked_up_mark, to_cluster};
use super::step::{self, Ip, ct_mark, dispatch, goto, input_name, keep, replace, verdict};
use super::{hooked, plain, transparent, verdict_element};
use crate::interface::Interfaces;
use crate::mark;
use crate::nftables::expression::{Ct, Meta};
use crate::nftables::ruleset::{Data, Point};
use crate::nftables::{Expression, Ruleset, Set, Verdict};
use crate::options::Options;

pub(super) fn build(
    ruleset: &mut Ruleset,
    options: &Options,
    (interfaces, proxied): (&Interfaces, bool),
) {
    let mut arrivals = Set::new(16, step::kind::NAME, Data::Verdict).sized(step::SLOTS);
    let mut departures = Set::new(4, step::kind::MARK, Data::Verdict).sized(step::SLOTS);
    for (name, external) in &interfaces.external {
        let slot = external.slot;
        let (arrive, depart) = (format!("in_{slot}"), format!("out_{slot}"));
        let goto = |chain: &String| verdict_element(Verdict::Goto(chain.clone()));
        arrivals.elements.insert(step::name_key(name), goto(&arrive));
        departures.elements.insert(mark::slot_bits(slot).to_ne_bytes().to_vec(), goto(&depart));
        ruleset.chains.insert(arrive, plain(vec![arrived(slot)]));
        ruleset.chains.insert(depart, plain(vec![departing(options, slot)]));
    }
    ruleset.sets.insert("ext_in".to_owned(), arrivals);
    ruleset.sets.insert("slot_out".to_owned(), departures);
    let mut chain = |name: &str, chain| ruleset.chains.insert(name.to_owned(), chain);
    chain("route_pre", hooked("filter", Point::Prerouting, -90, pre(interfaces, proxied)));
    chain("route4", plain(new(Ip::V4, proxied)));
    chain("route6", plain(new(Ip::V6, proxied)));
    chain("route_out", hooked("route", Point::Output, -150, out()));
}

/// The slot's packet mark by the connection's.
fn by_slot() -> Vec<Expression> {
    vec![ct_mark(8), keep(8, mark::SLOT_MASK), dispatch("slot_out", 8)]
}

/// `proxied` says that some connections are for this host's forward proxy.
fn pre(interfaces: &Interfaces, proxied: bool) -> Vec<Vec<Expression>> {
    let mut rules = if interfaces.external.len() <= step::FEW {
        step::came_from_outside(interfaces, |slot| goto(&format!("in_{slot}")))
    } else {
        vec![vec![input_name(8), dispatch("ext_in", 8)]]
    };
    let not_new = vec![
        Expression::Ct { key: Ct::State, to: 8 },
        keep(8, step::NEW),
        step::equals(8, vec![0; 4]),
        verdict(Verdict::Return),
    ];
    rules.push(by_slot());
    rules.extend(proxied.then(transparent::taken_already));
    rules.extend([
        not_new,
        [step::marked(mark::MAPPED), vec![verdict(Verdict::Return)]].concat(),
        [Ip::V4.only(), vec![goto("route4")]].concat(),
        vec![goto("route6")],
    ]);
    rules
}

/// A new connection from the cluster: the answer of a connection another gateway had, or the proxy's, or egress, or nothing of ours.
fn new(ip: Ip, proxied: bool) -> Vec<Vec<Expression>> {
    const SYN_ACK: u8 = 0x12;
    const SYN: u8 = 0x02;
    let mid_stream = vec![
        step::transport(8),
        step::equals(8, vec![6]),
        step::transport_bytes(13, 1, 8),
        Expression::Bitwise { from: 8, to: 8, mask: [SYN_ACK, 0, 0, 0], xor: [0; 4] },
        step::differs(8, vec![SYN, 0, 0, 0]),
    ];
    let egress = vec![
        ip.source(8),
        step::to(&format!("egm{}", ip.digit()), 8, 8),
        Expression::SetCtMark { from: 8 },
        keep(8, mark::SLOT_MASK),
        dispatch("slot_out", 8),
    ];
    let mut rules = vec![
        [to_cluster(ip), vec![verdict(Verdict::Return)]].concat(),
        [mid_stream, picked_up_mark(ip), vec![dispatch("slot_out", 8)]].concat(),
    ];
    rules.extend(proxied.then(|| transparent::ask(ip)).into_iter().flatten());
    rules.push(egress);
    rules
}

/// What this host itself says about a connection (an ICMP error) goes the connection's way.
fn out() -> Vec<Vec<Expression>> {
    let inward = |ip: Ip| [ip.only(), to_cluster(ip), vec![verdict(Verdict::Return)]].concat();
    vec![inward(Ip::V4), inward(Ip::V6), by_slot()]
}

/// The first packet from outside to a mapping gives the connection its slot.
fn arrived(slot: u8) -> Vec<Expression> {
    vec![
        ct_mark(8),
        replace(8, mark::MAPPED | mark::SLOT_MASK, mark::MAPPED),
        step::equals(8, vec![0; 4]),
        ct_mark(8),
        replace(8, !mark::SLOT_MASK, mark::slot_bits(slot)),
        Expression::SetCtMark { from: 8 },
    ]
}

fn departing(options: &Options, slot: u8) -> Vec<Expression> {
    vec![
        Expression::Meta { key: Meta::Mark, to: 8 },
        replace(8, !options.mark_mask, options.packet_mark(slot)),
        Expression::SetMark { from: 8 },
    ]
}
