//! The rules themselves: how many there are does not depend on the number of mappings, which are only elements of maps.
//!
//! A packet from outside passes `guard`, `nat_pre`, `route_pre`, then `forward` (or `input`), then `nat_post`.
//! Deliberately absent: tenants; see `desired`.

mod balance;
mod gate;
mod route;
pub(crate) mod step;
pub(crate) mod transparent;
pub(crate) mod words;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

pub(crate) use balance::{Balance, NO_ENDPOINT, Shape, leads_to, pool_chain};

use crate::interface::Interfaces;
use crate::nftables::ruleset::{Data, Point};
use crate::nftables::{Chain, Element, Expression, Hook, Ruleset, Set, Value, Verdict};
use crate::options::Options;
use step::{Ip, interval, kind};

/// What the shape of the program depends on, beside options and interfaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shapes {
    /// The ways connections are spread over endpoints.
    pub(crate) balances: BTreeSet<Balance>,
    /// How many ranges egress pools have, by family (IPv4 first).
    pub(crate) pools: BTreeSet<(bool, u32)>,
    /// Whether anything is handed to this host's forward proxy.
    pub(crate) transparent: bool,
    /// The distinct lists of sources, by family and name.
    pub(crate) sources: BTreeMap<(bool, String), Vec<IpNet>>,
}

/// The names of counters.
pub(crate) mod counter {
    /// The source is not allowed.
    pub(crate) const DENIED: &str = "denied";
    /// No mapping has the port.
    pub(crate) const UNMAPPED: &str = "unmapped";
    /// A source of the cluster arrived from outside.
    pub(crate) const SPOOFED: &str = "spoofed";
    /// It would have left without a tenant's address.
    pub(crate) const UNENROLLED: &str = "unenrolled";
    /// A mapping without endpoints.
    pub(crate) const NO_ENDPOINT: &str = "no_endpoint";
    /// An egress rule vanished between two steps.
    pub(crate) const LOST: &str = "lost";
    /// It is for the forward proxy, and nobody listens there.
    pub(crate) const NO_PROXY: &str = "no_proxy";
    /// UDP to a port of TLS, whose names only TCP shows.
    pub(crate) const QUIC: &str = "quic";
    /// It is for no port the forward proxy has.
    pub(crate) const WITHHELD: &str = "withheld";
    /// Those of transparent egress, which are there with it.
    pub(crate) const TRANSPARENT: [&str; 3] = [NO_PROXY, QUIC, WITHHELD];
    /// Those that are always there.
    pub(crate) const ALL: [&str; 6] = [DENIED, UNMAPPED, SPOOFED, UNENROLLED, NO_ENDPOINT, LOST];
}

/// The ruleset without any mapping.
pub(crate) fn program(options: &Options, interfaces: &Interfaces, shapes: &Shapes) -> Ruleset {
    let mut ruleset = Ruleset::default();
    ruleset.counters.extend(counter::ALL.map(str::to_owned));
    maps(&mut ruleset);
    gate::build(&mut ruleset, options, interfaces);
    route::build(&mut ruleset, options, (interfaces, shapes.transparent));
    if shapes.transparent {
        transparent::build(&mut ruleset, options);
    }
    balance::build(&mut ruleset, options, shapes);
    for ((v4, name), blocks) in &shapes.sources {
        source_list(&mut ruleset, Ip::of(*v4), name, blocks);
    }
    ruleset
}

/// The name of the chain that lets only these sources on.
pub(crate) fn source_chain(v4: bool, list: &str) -> String {
    format!("acl{}_{list}", Ip::of(v4).digit())
}

fn maps(ruleset: &mut Ruleset) {
    let mut set = |name: String, set: Set| ruleset.sets.insert(name, set);
    for ip in [Ip::V4, Ip::V6] {
        let digit = ip.digit();
        let port = kind::concat(&[ip.kind(), kind::PROTOCOL, kind::PORT]);
        let port_len = ip.len() + 8;
        let indexed = kind::concat(&[ip.kind(), kind::PROTOCOL, kind::PORT, kind::NUMBER]);
        let endpoint = Data::Bytes {
            len: ip.len() + 8,
            kind: kind::concat(&[ip.kind(), kind::PORT, kind::MARK]),
        };
        let number = |kind| Data::Bytes { len: 4, kind };
        set(format!("svc{digit}"), Set::new(port_len, port, Data::Verdict).counting());
        set(format!("acl{digit}"), Set::new(port_len, port, Data::Verdict).counting());
        set(format!("svcr{digit}"), Set::new(port_len, kind::BYTES, Data::Verdict).interval());
        set(format!("aclr{digit}"), Set::new(port_len, kind::BYTES, Data::Verdict).interval());
        set(format!("rng{digit}"), Set::new(port_len, kind::BYTES, number(kind::PORT)).interval());
        set(format!("ep{digit}"), Set::new(port_len + 4, indexed, endpoint));
        set(format!("rev{digit}"), Set::new(port_len, port, endpoint));
        set(format!("egm{digit}"), Set::new(ip.len(), ip.kind(), number(kind::MARK)).interval());
        set(format!("eg{digit}"), Set::new(ip.len(), ip.kind(), Data::Verdict).interval());
        set(format!("egid{digit}"), Set::new(ip.len(), ip.kind(), number(kind::MARK)).interval());
        let pool = Data::Bytes { len: 2 * ip.len(), kind: kind::concat(&[ip.kind(), ip.kind()]) };
        set(format!("egp{digit}"), Set::new(8, kind::concat(&[kind::MARK, kind::MARK]), pool));
    }
    // As many as a tenant's number can tell apart.
    let tenants = Set::new(4, kind::MARK, Data::Counter).sized(u32::from(u16::MAX));
    set("ctr".to_owned(), tenants);
}

fn source_list(ruleset: &mut Ruleset, ip: Ip, name: &str, blocks: &[IpNet]) {
    let set = format!("src{}_{name}", ip.digit());
    let mut sources = Set::new(ip.len(), ip.kind(), Data::Nothing).interval();
    sources.elements = interval(ip, blocks);
    ruleset.sets.insert(set.clone(), sources);
    let rules = vec![
        vec![ip.source(8), step::present(&set, 8), step::verdict(Verdict::Return)],
        vec![step::count(counter::DENIED), step::verdict(Verdict::Drop)],
    ];
    ruleset.chains.insert(source_chain(ip == Ip::V4, name), Chain { hook: None, rules });
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
