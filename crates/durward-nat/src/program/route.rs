//! Outgoing interface of a packet: the connection's slot becomes the packet mark, and the mark selects a routing table.
//!
//! Marks are set from constants, never merged with one another. Egress is decided after destinations are translated.

use super::balance::{pick_up, rule, rule_of_source, to_cluster};
use super::step::{
    self, Ip, by_slot, ct_mark, direction, dispatch, goto, input_name, keep, replace, verdict,
};
use super::{counter, hooked, plain, transparent, verdict_element};
use crate::interface::Interfaces;
use crate::mark::{self, ANSWER_SLOT, ASKED, EGRESS, MAPPED, PICKED_UP, WITHHELD};
use crate::nftables::expression::{Base, Ct, Meta};
use crate::nftables::ruleset::{Data, Point};
use crate::nftables::{Expression, Ruleset, Set, Verdict};
use crate::options::Options;

/// Flags of connections with an interface, and the direction of their packets from the cluster: 0 original, 1 reply.
const FROM_CLUSTER: [(u32, u32); 3] = [(EGRESS, 0), (MAPPED, 1), (MAPPED | PICKED_UP, 0)];

pub(super) fn build(
    ruleset: &mut Ruleset,
    options: &Options,
    (interfaces, proxied): (&Interfaces, bool),
) {
    let mut arrivals = Set::new(16, step::kind::NAME, Data::Verdict).sized(step::SLOTS);
    let mut departures = Set::new(4, step::kind::MARK, Data::Verdict).sized(step::SLOTS);
    let sides = step::kind::concat(&[step::kind::MARK, step::kind::NUMBER]);
    let mut ends = Set::new(8, sides, Data::Verdict).sized(3 * step::SLOTS);
    for (name, external) in &interfaces.external {
        let slot = external.slot;
        let (arrive, depart) = (format!("in_{slot}"), format!("out_{slot}"));
        let goto = |chain: &String| verdict_element(Verdict::Goto(chain.clone()));
        arrivals.elements.insert(step::name_key(name), goto(&arrive));
        departures.elements.insert(mark::slot_bits(slot).to_ne_bytes().to_vec(), goto(&depart));
        for (kind, direction) in FROM_CLUSTER {
            let key = [mark::mark(0, slot, kind).to_ne_bytes(), direction.to_ne_bytes()].concat();
            ends.elements.insert(key, goto(&depart));
        }
        ruleset.chains.insert(arrive, plain(vec![arrived(slot), departing(options, ANSWER_SLOT)]));
        ruleset.chains.insert(depart, plain(vec![departing(options, slot)]));
    }
    ruleset.sets.insert("ext_in".to_owned(), arrivals);
    ruleset.sets.insert("slot_out".to_owned(), departures);
    ruleset.sets.insert("ends".to_owned(), ends);
    let mut chain = |name: &str, chain| ruleset.chains.insert(name.to_owned(), chain);
    chain("route_pre", hooked("filter", Point::Prerouting, -90, pre(interfaces, proxied)));
    chain("route4", plain(new(Ip::V4, proxied)));
    chain("route6", plain(new(Ip::V6, proxied)));
    chain("answers", plain(answers()));
    chain("answer", plain(vec![departing(options, ANSWER_SLOT)]));
    chain("route_out", hooked("route", Point::Output, -150, out()));
}

/// Builds the chain; `proxied` is true if connections are handed to this host's forward proxy.
fn pre(interfaces: &Interfaces, proxied: bool) -> Vec<Vec<Expression>> {
    let mut rules = if interfaces.external.len() <= step::FEW {
        step::came_from_outside(interfaces, |slot| goto(&format!("in_{slot}")))
    } else {
        vec![vec![input_name(8), dispatch("ext_in", 8)]]
    };
    let of_this_side = vec![
        ct_mark(8),
        keep(8, mark::SLOT_MASK | EGRESS | MAPPED | PICKED_UP),
        direction(9),
        dispatch("ends", 8),
    ];
    let forged = vec![step::count(counter::FORGED), verdict(Verdict::Drop)];
    let not_new = vec![
        Expression::Ct { key: Ct::State, to: 8 },
        keep(8, step::NEW | step::INVALID | step::UNTRACKED),
        step::equals(8, vec![0; 4]),
        goto("answers"),
    ];
    rules.push([step::in_state(step::RELATED), vec![goto("related")]].concat());
    rules.push(of_this_side);
    rules.push([step::marked(mark::SLOT_MASK), forged].concat());
    rules.extend(proxied.then(transparent::taken_already));
    rules.extend([
        not_new,
        [step::marked(MAPPED), vec![goto("answer")]].concat(),
        [Ip::V4.only(), vec![goto("route4")]].concat(),
        vec![goto("route6")],
    ]);
    rules
}

/// Handles a packet from the cluster that begins a connection or belongs to none: an answer of a connection another gateway had, one for the forward
/// proxy, egress, or nothing of ours.
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
    let stray = || step::in_state(step::INVALID | step::UNTRACKED);
    let refused = vec![step::count(counter::INVALID), verdict(Verdict::Drop)];
    let lost = || vec![step::count(counter::LOST), verdict(Verdict::Drop)];
    let mut rules = vec![[to_cluster(ip), vec![goto("answer")]].concat()];
    rules.extend((ip == Ip::V6).then(on_link).into_iter().flatten());
    rules.extend([
        [stray(), rule_of_source(ip), refused].concat(),
        [stray(), vec![verdict(Verdict::Return)]].concat(),
        [mid_stream, pick_up(ip)].concat(),
        // The list of sources was replaced between two lookups.
        [step::marked(PICKED_UP), lost()].concat(),
    ]);
    let marked = [rule_of_source(ip), vec![Expression::SetCtMark { from: rule(ip) }]].concat();
    // Mark and verdict come from one lookup. A program without the proxy drops traffic of a rule that asks for it, which is newer.
    if proxied {
        rules.extend(transparent::ask(ip, marked));
    } else {
        rules.push(marked);
        rules.push([step::marked(ASKED | WITHHELD), lost()].concat());
    }
    rules.push(by_slot());
    rules
}

/// Accepts packets to neighbours, among them neighbour discovery, which connection tracking ignores.
fn on_link() -> [Vec<Expression>; 2] {
    const DESTINATION: u32 = 24;
    let first = |len| Expression::Payload { base: Base::Network, offset: DESTINATION, len, to: 8 };
    let mask = Expression::Bitwise { from: 8, to: 8, mask: [0xff, 0xc0, 0, 0], xor: [0; 4] };
    let multicast = vec![first(1), step::equals(8, vec![0xff]), verdict(Verdict::Return)];
    let link_local = step::equals(8, vec![0xfe, 0x80, 0, 0]);
    [multicast, vec![first(4), mask, link_local, verdict(Verdict::Return)]]
}

/// Handles a packet of a connection without an interface of ours: an answer to a connection begun elsewhere takes the host's own routes, a new packet
/// of an enrolled network does not. Packets to the cluster get the mark as well, because `rp_filter` looks the way back up with it.
fn answers() -> Vec<Vec<Expression>> {
    let near = |ip: Ip| [ip.only(), to_cluster(ip), vec![goto("answer")]].concat();
    let back = vec![direction(8), step::equals(8, vec![1]), goto("answer")];
    vec![near(Ip::V4), near(Ip::V6), back, [step::marked(MAPPED), vec![goto("answer")]].concat()]
}

/// Routes packets of this host about a connection (ICMP errors) the connection's way.
fn out() -> Vec<Vec<Expression>> {
    let inward = |ip: Ip| [ip.only(), to_cluster(ip), vec![verdict(Verdict::Return)]].concat();
    vec![inward(Ip::V4), inward(Ip::V6), by_slot()]
}

/// Gives a connection its slot at the first packet from outside to a mapping.
fn arrived(slot: u8) -> Vec<Expression> {
    vec![
        ct_mark(8),
        replace(8, MAPPED | mark::SLOT_MASK, MAPPED),
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
