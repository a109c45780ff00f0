//! Transparent egress: connections of a tenant's pods to HTTP and TLS ports go to this host's forward proxy, which decides on their destination.
//!
//! The decision is made at the first packet and kept in the connection mark. There is no way past the proxy: while it does not listen, connections
//! are reset.

use durward_model::egress::transparent;

use super::balance::rule;
use super::step::{self, Ip, count, dispatch, goto, present, replace, verdict};
use super::{counter, member, plain};
use crate::mark::{self, OWN_SLOT};
use crate::nftables::expression::{Meta, Reject};
use crate::nftables::ruleset::Data;
use crate::nftables::{Expression, Ruleset, Set, Verdict};
use crate::options::Options;

/// Chain of connections for the proxy.
pub(crate) const TAKE: &str = "take";
/// Chain of UDP to TLS ports (QUIC), which is refused.
pub(crate) const QUIC: &str = "quic";
/// Chain of connections that leave by source NAT.
pub(crate) const LEAVE: &str = "leave";
/// Chain of all other connections, which are refused.
pub(crate) const WITHHOLD: &str = "withhold";

/// Address types that are no other host's (`RTN_*`): this host's, broadcast, anycast, multicast.
const HERE: [u32; 4] = [2, 3, 4, 5];

pub(super) fn build(ruleset: &mut Ruleset, options: &Options) {
    ruleset.counters.extend(counter::TRANSPARENT.map(str::to_owned));
    let mut here = Set::new(4, step::kind::NUMBER, Data::Nothing);
    here.elements.extend(HERE.map(|kind| (kind.to_ne_bytes().to_vec(), member())));
    ruleset.sets.insert("here".to_owned(), here);
    let port = [step::kind::MARK, step::kind::PROTOCOL, step::kind::PORT];
    let taken = Set::new(12, step::kind::concat(&port), Data::Verdict);
    ruleset.sets.insert("taken".to_owned(), taken);
    ruleset.sets.insert("others".to_owned(), Set::new(4, step::kind::MARK, Data::Verdict));
    let mut chain = |name: &str, rules| ruleset.chains.insert(name.to_owned(), plain(rules));
    chain(TAKE, vec![take()]);
    let refused = vec![count(counter::QUIC), Expression::Reject(Reject::Port)];
    chain(QUIC, vec![step::unmark(), refused]);
    chain(LEAVE, vec![step::by_slot()]);
    chain(WITHHOLD, withhold());
    chain("hand_over", hand_over(options));
}

/// Refuses a connection. TCP gets a reset, because the kernel limits ICMP errors. Without the mark the answer takes the packet's way back.
fn withhold() -> Vec<Vec<Expression>> {
    let tcp = vec![step::transport(8), step::equals(8, vec![6])];
    vec![
        step::unmark(),
        vec![count(counter::WITHHELD)],
        [tcp, vec![Expression::Reject(Reject::Reset)]].concat(),
        vec![Expression::Reject(Reject::Prohibited)],
    ]
}

/// Hands over each packet of a connection that the proxy has.
pub(super) fn taken_already() -> Vec<Expression> {
    [step::marked(mark::TRANSPARENT), vec![goto("hand_over")]].concat()
}

/// Handles a new connection of an enrolled network; `mark` looks its rule up and marks the connection.
///
/// The maps are looked up by the mark's tenant, never by a rule's position: a port that is not taken, and the verdict on all others, are then the
/// same tenant's at this moment. If that verdict is gone meanwhile, nothing leaves.
pub(super) fn ask(ip: Ip, mark: Vec<Expression>) -> Vec<Vec<Expression>> {
    const OF_TENANT: u32 = mark::TENANT_MASK | mark::ASKED;
    let near =
        vec![Expression::DestinationKind { to: 8 }, present("here", 8), verdict(Verdict::Return)];
    let port = vec![
        step::keep(rule(ip), OF_TENANT),
        step::transport(rule(ip) + 1),
        step::transport_bytes(2, 2, rule(ip) + 2),
        dispatch("taken", rule(ip)),
    ];
    let others = vec![step::ct_mark(8), step::keep(8, OF_TENANT), dispatch("others", 8)];
    vec![
        near,
        [mark, port].concat(),
        [step::marked(mark::WITHHELD), vec![goto(WITHHOLD)]].concat(),
        others,
        [step::marked(mark::ASKED), vec![count(counter::LOST), verdict(Verdict::Drop)]].concat(),
    ]
}

/// Marks the connection as the proxy's; its tenant stays.
fn take() -> Vec<Expression> {
    vec![
        step::ct_mark(8),
        replace(8, mark::TENANT_MASK, mark::TRANSPARENT),
        Expression::SetCtMark { from: 8 },
        goto("hand_over"),
    ]
}

fn hand_over(options: &Options) -> Vec<Vec<Expression>> {
    let stay = || {
        vec![
            Expression::Meta { key: Meta::Mark, to: 8 },
            replace(8, !options.mark_mask, options.packet_mark(OWN_SLOT)),
            Expression::SetMark { from: 8 },
            verdict(Verdict::Accept),
        ]
    };
    let to = |ip: Ip| {
        let socket = transparent::socket(ip.v4());
        let give = vec![
            Expression::Immediate { to: 12, value: ip.bytes(socket.ip()).unwrap_or_default() },
            Expression::Immediate { to: 9, value: socket.port().to_be_bytes().to_vec() },
            Expression::HandOver { ipv4: ip.v4(), address: 12, port: 9 },
        ];
        [ip.only(), give, stay()].concat()
    };
    // ICMP errors about a packet of the proxy: this host sent it, with another source address.
    let about = [vec![step::transport(8), step::differs(8, vec![6])], stay()].concat();
    vec![
        about,
        to(Ip::V4),
        to(Ip::V6),
        vec![count(counter::NO_PROXY), Expression::Reject(Reject::Reset)],
        vec![verdict(Verdict::Drop)],
    ]
}
