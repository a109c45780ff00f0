//! Temporary table of a trace: enables tracing of matching packets, and has empty chains after all others, which show how far a packet came and its
//! headers then.
//!
//! The ruleset has no verdicts, so it changes nothing about a packet.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::nftables::ruleset::{Data, Hook, Point};
use crate::nftables::{Chain, Expression, Ruleset, Set};
use crate::program::step::{self, Ip, count, equals, interval, kind, present};

/// Priority before all others, connection tracking and `raw` included; after defragmentation.
const FIRST: i32 = -350;
/// Priority after all others, translation included.
const LAST: i32 = 10_000;
/// Burst above the rate.
const BURST: u32 = 20;

/// Chains after all others.
pub(super) const ENDS: [(&str, Point); 5] = [
    ("at_prerouting", Point::Prerouting),
    ("at_output", Point::Output),
    ("at_input", Point::Input),
    ("at_forward", Point::Forward),
    ("at_postrouting", Point::Postrouting),
];
/// Counter of the packets that match.
pub(super) const MATCHED: &str = "matched";
/// Counter of the packets that are traced.
pub(super) const TRACED: &str = "traced";

/// Packets to trace. Without any condition all are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Network of the client.
    pub client: Option<IpNet>,
    /// Destination address, and port unless it is 0.
    pub to: Option<SocketAddr>,
    /// IP protocol number; 1 stands for ICMP of both families.
    pub protocol: Option<u8>,
    /// True to trace packets to the client too.
    pub answers: bool,
}

pub(super) fn ruleset(filter: &Filter, per_second: u64) -> Ruleset {
    let mut ruleset = Ruleset::default();
    ruleset.counters.extend([MATCHED, TRACED].map(str::to_owned));
    let mut ports = Set::new(1, kind::PROTOCOL, Data::Nothing);
    ports.elements.extend([6, 17, 132].map(|number| (vec![number], member())));
    ruleset.sets.insert("l4".to_owned(), ports);
    let mut rules = Vec::new();
    for ip in [Ip::V4, Ip::V6].into_iter().filter(|ip| concerns(filter, *ip)) {
        let client = format!("client{}", ip.digit());
        if let Some(net) = filter.client {
            let mut set = Set::new(ip.len(), ip.kind(), Data::Nothing).interval();
            set.elements = interval(ip, &[net]);
            ruleset.sets.insert(client.clone(), set);
        }
        let mut add = |conditions: Vec<Expression>| {
            // Counted by a rule of its own: the rate limit of the next one hides packets.
            rules.push([conditions.clone(), vec![count(MATCHED)]].concat());
            rules.push([conditions, traced(per_second)].concat());
        };
        add([conditions(filter, ip), from_client(filter, ip, &client)].concat());
        if filter.answers && filter.client.is_some() {
            let to_client = vec![ip.destination(8), present(&client, 8)];
            add([protocol(filter, ip), to_client].concat());
        }
    }
    let mut chain = |name: &str, point, priority, rules| {
        let hook = Some(Hook { kind: "filter", point, priority });
        ruleset.chains.insert(name.to_owned(), Chain { hook, rules });
    };
    chain("prerouting", Point::Prerouting, FIRST, rules.clone());
    chain("output", Point::Output, FIRST, rules);
    for (name, point) in ENDS {
        chain(name, point, LAST, Vec::new());
    }
    ruleset
}

/// Returns true if packets of the family can match.
fn concerns(filter: &Filter, ip: Ip) -> bool {
    let client = filter.client.map(|net| net.addr());
    let to = filter.to.map(|to| to.ip());
    client.into_iter().chain(to).all(|address: IpAddr| address.is_ipv4() == ip.v4())
}

fn conditions(filter: &Filter, ip: Ip) -> Vec<Expression> {
    let mut rule = protocol(filter, ip);
    let Some(to) = filter.to else { return rule };
    rule.extend([ip.destination(8), equals(8, ip.bytes(to.ip()).unwrap_or_default())]);
    if to.port() != 0 {
        rule.extend([step::transport(8), present("l4", 8)]);
        rule.extend([step::transport_bytes(2, 2, 8), equals(8, to.port().to_be_bytes().to_vec())]);
    }
    rule
}

fn protocol(filter: &Filter, ip: Ip) -> Vec<Expression> {
    let mut rule = ip.only();
    let number = match filter.protocol {
        Some(1) if !ip.v4() => Some(58),
        number => number,
    };
    if let Some(number) = number {
        rule.extend([step::transport(8), equals(8, vec![number])]);
    }
    rule
}

fn from_client(filter: &Filter, ip: Ip, set: &str) -> Vec<Expression> {
    let source = || vec![ip.source(8), present(set, 8)];
    filter.client.map(|_| source()).unwrap_or_default()
}

fn traced(per_second: u64) -> Vec<Expression> {
    vec![
        Expression::Limit { per_second, burst: BURST },
        count(TRACED),
        Expression::Immediate { to: 8, value: vec![1] },
        Expression::SetTrace { from: 8 },
    ]
}

const fn member() -> crate::nftables::Element {
    crate::nftables::Element { end: None, value: crate::nftables::Value::Nothing }
}
