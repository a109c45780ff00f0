//! The nftables rules: their number does not depend on the number of mappings, which are only elements of maps.
//!
//! A packet from outside passes `guard`, `nat_pre`, `route_pre`, then `forward` (or `input`), then `nat_post`.

mod balance;
mod digest;
mod gate;
mod related;
mod route;
pub(crate) mod step;
pub(crate) mod transparent;
pub(crate) mod words;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

pub(crate) use balance::{Balance, Entry, Shape, leads_to, pool_chain};
pub(crate) use digest::{Digest, List};

use crate::interface::Interfaces;
use crate::nftables::ruleset::{Data, Point};
use crate::nftables::{Chain, Element, Expression, Hook, Ruleset, Set, Value, Verdict};
use crate::options::Options;
use step::{Ip, interval, kind};

/// Parts of the model on which the program depends, besides options and interfaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shapes {
    /// Distinct chains for new connections to mappings: allowed sources and the choice of an endpoint.
    pub(crate) entries: BTreeSet<Entry>,
    /// Numbers of ranges in egress pools, by family (true for IPv4).
    pub(crate) pools: BTreeSet<(bool, u32)>,
    /// True if any connections are handed to this host's forward proxy.
    pub(crate) transparent: bool,
    /// Distinct lists of sources, by family.
    pub(crate) sources: BTreeMap<(bool, List), Vec<IpNet>>,
}

/// Names of counters.
pub(crate) mod counter {
    /// Packets from a source that is not allowed.
    pub(crate) const DENIED: &str = "denied";
    /// Packets to a port without a mapping.
    pub(crate) const UNMAPPED: &str = "unmapped";
    /// Packets from outside with a source of the cluster.
    pub(crate) const SPOOFED: &str = "spoofed";
    /// Packets that would have left without a tenant's address.
    pub(crate) const UNENROLLED: &str = "unenrolled";
    /// Packets to a mapping without endpoints.
    pub(crate) const NO_ENDPOINT: &str = "no_endpoint";
    /// Packets whose rule changed between two lookups.
    pub(crate) const LOST: &str = "lost";
    /// Packets from the cluster that concern a connection of which the sender is no end.
    pub(crate) const FORGED: &str = "forged";
    /// Packets from an enrolled network that belong to no connection.
    pub(crate) const INVALID: &str = "invalid";
    /// Packets for the forward proxy while nothing listens there.
    pub(crate) const NO_PROXY: &str = "no_proxy";
    /// UDP packets to a TLS port (QUIC), where the server name cannot be read.
    pub(crate) const QUIC: &str = "quic";
    /// Packets to a port that the forward proxy does not take.
    pub(crate) const WITHHELD: &str = "withheld";
    /// Counters of transparent egress, which exist with it only.
    pub(crate) const TRANSPARENT: [&str; 3] = [NO_PROXY, QUIC, WITHHELD];
    /// Counters that always exist.
    pub(crate) const ALL: [&str; 8] =
        [DENIED, UNMAPPED, SPOOFED, UNENROLLED, NO_ENDPOINT, LOST, FORGED, INVALID];
}

/// Set of all bytes, each concatenated with itself.
pub(crate) const TWINS: &str = "twins";

/// Builds the ruleset without any mapping.
pub(crate) fn program(options: &Options, interfaces: &Interfaces, shapes: &Shapes) -> Ruleset {
    let mut ruleset = Ruleset::default();
    ruleset.counters.extend(counter::ALL.map(str::to_owned));
    maps(&mut ruleset);
    gate::build(&mut ruleset, options, interfaces);
    route::build(&mut ruleset, options, (interfaces, shapes.transparent));
    related::build(&mut ruleset, interfaces, shapes.transparent);
    if shapes.transparent {
        transparent::build(&mut ruleset, options);
    }
    balance::build(&mut ruleset, options, shapes);
    for ((v4, list), blocks) in &shapes.sources {
        let ip = Ip::of(*v4);
        let mut sources = Set::new(ip.len(), ip.kind(), Data::Nothing).interval();
        sources.elements = interval(ip, blocks);
        ruleset.sets.insert(list.set(ip), sources);
    }
    ruleset
}

/// Adds the maps of tenants. The value of one map is, together with an identity of its owner, the key of the next, because each lookup reads the
/// generation of the moment; see the guide's section on changes.
fn maps(ruleset: &mut Ruleset) {
    let mut set = |name: String, set: Set| ruleset.sets.insert(name, set);
    for ip in [Ip::V4, Ip::V6] {
        let digit = ip.digit();
        let port = kind::concat(&[ip.kind(), kind::PROTOCOL, kind::PORT]);
        let port_len = ip.len() + 8;
        let bytes = |len, kind| Data::Bytes { len, kind };
        let (digest, pair) = (Digest::LEN, kind::concat(&[kind::MARK, kind::BYTES]));
        let endpoint = bytes(ip.len() + 8, kind::concat(&[ip.kind(), kind::PORT, kind::MARK]));
        set(format!("svc{digit}"), Set::new(port_len, port, Data::Verdict));
        set(format!("svcr{digit}"), Set::new(port_len, kind::BYTES, Data::Verdict).interval());
        let first = bytes(4, kind::PORT);
        set(format!("rng{digit}"), Set::new(port_len, kind::BYTES, first).interval());
        let numbered = Set::new(port_len + 4 + digest, kind::BYTES, endpoint);
        set(format!("ep{digit}"), numbered.counting());
        set(format!("same{digit}"), Set::new(2 * ip.len(), kind::BYTES, Data::Nothing));
        set(format!("rev{digit}"), Set::new(port_len, port, bytes(4 + digest, pair)));
        let back = bytes(ip.len() + 4, kind::concat(&[ip.kind(), kind::PORT]));
        set(format!("revs{digit}"), Set::new(port_len + 4, kind::BYTES, back));
        set(format!("back{digit}"), Set::new(digest, kind::BYTES, Data::Verdict));
        let rule = bytes(4 + digest, pair);
        set(format!("eg{digit}"), Set::new(ip.len(), ip.kind(), rule).interval());
        set(format!("egt{digit}"), Set::new(4 + digest, pair, Data::Nothing));
        let range = bytes(2 * ip.len(), kind::concat(&[ip.kind(), ip.kind()]));
        set(format!("egs{digit}"), Set::new(4 + digest, pair, range));
        set(format!("egn{digit}"), Set::new(4 + digest, pair, Data::Verdict));
        set(format!("egp{digit}"), Set::new(8 + digest, kind::BYTES, range));
    }
    // One element per tenant number.
    let tenants = Set::new(4, kind::MARK, Data::Counter).sized(u32::from(u16::MAX));
    set("ctr".to_owned(), tenants);
}

fn hooked(kind: &'static str, point: Point, priority: i32, rules: Vec<Vec<Expression>>) -> Chain {
    Chain { hook: Some(Hook { kind, point, priority }), rules }
}

fn plain(rules: Vec<Vec<Expression>>) -> Chain {
    Chain { hook: None, rules }
}

fn verdict_element(verdict: Verdict) -> Element {
    Element { end: None, value: Value::Verdict(verdict) }
}

fn member() -> Element {
    Element { end: None, value: Value::Nothing }
}
