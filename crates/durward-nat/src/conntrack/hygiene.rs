//! Which connections must end because of a change: exactly those that could not be made anew.
//!
//! The judgement looks at what is allowed now, so changes made while nobody watched are caught too. Deliberately absent:
//! a clock; a connection that may drain is returned with its grace.

use std::net::SocketAddr;
use std::time::Duration;

use durward_model::mapping::Affinity;

use super::Flow;
use crate::desired::Policy;
use crate::mark::{EGRESS, MAPPED, PICKED_UP, tenant};

const UDP: u8 = 17;

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Keep,
    /// It ends now.
    Cut,
    /// It ends after this long, if it is not allowed again until then.
    Drain(Duration),
}

/// What is to be done with a connection of ours under `new`; `old` is what was allowed before the change.
#[must_use]
pub fn judge(flow: &Flow, old: &Policy, new: &Policy) -> Fate {
    if flow.mark & MAPPED != 0 {
        return judge_mapped(flow, old, new);
    }
    if flow.mark & EGRESS != 0 {
        return judge_leaving(flow, new);
    }
    Fate::Keep
}

/// The connections to cut now and those to drain, of `flows`.
#[must_use]
pub fn sort(flows: Vec<Flow>, old: &Policy, new: &Policy) -> (Vec<Flow>, Vec<(Flow, Duration)>) {
    let (mut cut, mut drain) = (Vec::new(), Vec::new());
    for flow in flows {
        match judge(&flow, old, new) {
            Fate::Keep => {}
            Fate::Cut => cut.push(flow),
            Fate::Drain(grace) => drain.push((flow, grace)),
        }
    }
    (cut, drain)
}

fn judge_mapped(flow: &Flow, old: &Policy, new: &Policy) -> Fate {
    let (external, client, endpoint) = ends(flow);
    let known = new.mapped(external.ip(), flow.protocol, external.port());
    let Some(mapped) = known.filter(|mapped| mapped.tenant == tenant(flow.mark)) else {
        return Fate::Cut;
    };
    if !mapped.sources.contains(client.ip()) {
        return Fate::Cut;
    }
    if !mapped.reaches(endpoint.ip(), endpoint.port(), external.port()) {
        // A datagram has no connection to finish: the next one finds another endpoint.
        let waits = flow.protocol != UDP && !mapped.drain.is_zero();
        return if waits { Fate::Drain(mapped.drain) } else { Fate::Cut };
    }
    let before = old.mapped(external.ip(), flow.protocol, external.port());
    let spread = before.is_some_and(|before| before.endpoints != mapped.endpoints);
    if flow.protocol == UDP && spread && mapped.affinity == Affinity::None {
        return Fate::Cut;
    }
    Fate::Keep
}

/// External address, client and endpoint. A connection picked up from another gateway was begun by the endpoint's answer.
const fn ends(flow: &Flow) -> (SocketAddr, SocketAddr, SocketAddr) {
    if flow.mark & PICKED_UP != 0 {
        (flow.reply_destination, flow.destination, flow.source)
    } else {
        (flow.destination, flow.source, flow.reply_source)
    }
}

fn judge_leaving(flow: &Flow, new: &Policy) -> Fate {
    let known = new.leaving(flow.source.ip());
    let Some(rule) = known.filter(|rule| rule.tenant == tenant(flow.mark)) else {
        return Fate::Cut;
    };
    let address = flow.reply_destination.ip();
    if rule.addresses.iter().any(|range| range.contains(address)) {
        return Fate::Keep;
    }
    if rule.drain.is_zero() { Fate::Cut } else { Fate::Drain(rule.drain) }
}
