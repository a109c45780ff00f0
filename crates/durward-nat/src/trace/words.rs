//! Steps in words: the effect of a rule of Durward's and its reason to refuse, and of other rules what their expressions show.
//!
//! Reasons are the words of the metrics and of `explain`.

use crate::nftables::expression::{Base, Expression, LookupResult, Reject};
use crate::nftables::listing::ListedRule;
use crate::program::counter;
use crate::steer;

use super::event::TraceVerdict;

/// Explains a reason.
#[must_use]
pub fn reason(name: &str) -> Option<&'static str> {
    Some(match name {
        counter::DENIED => "its source is not allowed",
        counter::UNMAPPED => "no mapping and no service of this host has the port",
        counter::SPOOFED => "a packet with a source address of the cluster came from outside",
        counter::UNENROLLED => "no egress.sources contains its source address",
        counter::NO_ENDPOINT => "the mapping has no endpoint",
        counter::LOST => "its rule was changed meanwhile",
        counter::FORGED => "its sender is not an endpoint of the connection it refers to",
        counter::INVALID => "it belongs to no connection",
        steer::counter::NO_GATEWAY => "it would leave without passing the gateway",
        steer::counter::FOREIGN_SOURCE => {
            "it would go to the gateway with a source address that is not a pod's"
        }
        steer::counter::STRANGER => "a tunnel packet from a host that is not an end of the tunnel",
        _ => return None,
    })
}

/// Returns the reason that a rule counts.
pub(super) fn counted(rule: &ListedRule) -> Option<&str> {
    rule.expressions.iter().find_map(|expression| match expression {
        Expression::Count(name) => reason(name).map(|_| name.as_str()),
        _ => None,
    })
}

/// Returns the answer that a rule sends when it refuses.
pub(super) fn answer_to_sender(rule: &ListedRule) -> Option<&'static str> {
    rule.expressions.iter().find_map(|expression| match expression {
        Expression::Reject(Reject::Reset) => Some("reset"),
        Expression::Reject(Reject::Port) => Some("port unreachable"),
        Expression::Reject(Reject::Prohibited) => Some("administratively prohibited"),
        Expression::Foreign(name) if name == "reject" => Some("rejected"),
        _ => None,
    })
}

/// Returns true if the rule translates sources.
pub(super) fn translates_source(rule: &ListedRule) -> bool {
    rule.expressions.iter().any(|expression| {
        matches!(expression, Expression::Masquerade | Expression::Nat { source: true, .. })
    })
}

/// Describes the effect of any program's rule, as far as its expressions show.
pub(super) fn did(rule: &ListedRule, verdict: &TraceVerdict) -> Option<&'static str> {
    let translated = rule.expressions.iter().find_map(|expression| match expression {
        Expression::Nat { source: false, .. } => Some("destination translated"),
        Expression::Nat { source: true, address, .. } if keeps(rule, *address) => {
            Some("its own address is kept")
        }
        Expression::Nat { source: true, .. } => Some("source translated"),
        Expression::Masquerade => Some("source translated to the interface's"),
        Expression::Foreign(name) if name == "nat" => Some("translated"),
        Expression::Foreign(name) if name == "redir" => Some("to a port of this host"),
        Expression::Foreign(name) if name == "tproxy" => Some("to a proxy of this host"),
        _ => None,
    });
    translated.filter(|_| *verdict == TraceVerdict::Accept).or_else(|| answer_to_sender(rule))
}

/// Returns true if the register holds a field of the packet itself.
fn keeps(rule: &ListedRule, register: u32) -> bool {
    let own = |one: &Expression| matches!(one, Expression::Payload { base: Base::Network, to, .. } if *to == register);
    rule.expressions.iter().any(own)
}

/// Describes the effect of a rule of Durward's.
pub(super) fn ours(rule: &ListedRule, verdict: &TraceVerdict) -> Option<&'static str> {
    let looked_up = rule.expressions.iter().find_map(|expression| match expression {
        Expression::Lookup { set, result: LookupResult::Verdict, .. } => Some(set.as_str()),
        _ => None,
    });
    if let (Some(set), TraceVerdict::To(chain)) = (looked_up, verdict) {
        return match set.trim_end_matches(['4', '6']) {
            "svc" | "svcr" if chain.starts_with("acl") => {
                Some("a mapping has the port; is the source allowed?")
            }
            "svc" | "svcr" => Some("an endpoint is chosen"),
            "ext_in" => Some("came in from outside"),
            "slot_out" | "ends" => Some("leaves by its connection's interface"),
            "egn" => Some("an egress address is chosen"),
            _ => None,
        };
    }
    if let Some(counted) = counted(rule).and_then(reason) {
        return Some(counted);
    }
    let marks = |one: &Expression| matches!(one, Expression::SetMark { .. });
    if rule.expressions.iter().any(marks) {
        let to_gateway = rule.chain.starts_with("mark") || rule.chain == "errors";
        return Some(if to_gateway { "goes to the gateway" } else { "marked for its interface" });
    }
    did(rule, verdict)
}
