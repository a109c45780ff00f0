//! The next thing that a gateway does to a `Mapping`: a function of the object as it is, of what the gateway has to say, and of the server's time.
//!
//! Nothing is remembered between two steps, so a gateway that restarts continues where it stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use durward_model::Revision;
use jiff::{SignedDuration, Timestamp};

use super::seen::{Pods, Seen};
use crate::status::Judgement;

/// Status that a gateway writes for a `Mapping`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The revision that it is about.
    pub revision: Revision,
    /// True if this gateway carries an address of it.
    pub carried: bool,
    /// Text of `status.invalid`.
    pub invalid: Arc<str>,
    /// The condition `Accepted`.
    pub accepted: Judgement,
    /// The address of the Service in the cluster.
    pub service_vip: Option<Arc<str>>,
    /// The addresses that this gateway carries, with the pods that connections go to.
    pub configured: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

/// Change that a gateway wants to make to a `Mapping`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Write this status.
    Say(Box<Said>),
    /// Nothing is written: the state of this gateway's kernel is not known, or it still carries a Mapping that is being deleted.
    Hold,
    /// It is being deleted, and this gateway's kernel no longer carries it.
    LetGo {
        /// Addresses in the status that this host has: who wrote them here is gone.
        here: Vec<Arc<str>>,
    },
}

/// One request to the API server, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All is as it should be.
    Rest,
    /// Apply this gateway's share of the finalizer, or withdraw it.
    Finalizer(bool),
    /// Apply this gateway's share of the status.
    Status(Box<Said>),
    /// Withdraw this gateway's share of the status.
    Withdraw,
    /// Remove addresses from the status that no other gateway removes.
    Strip(Vec<Arc<str>>),
    /// Take the finalizer away, whoever holds it.
    Free,
    /// Look again when the server's clock has come to this.
    Wait(Timestamp),
}

/// Returns the next step. `now` is the server's time.
pub(super) fn step(seen: &Seen, wish: &Wish, now: Timestamp, longest_wait: Duration) -> Step {
    let Some(deleted) = seen.deleted else {
        return match wish {
            Wish::Say(said) if is_about(said, seen) => living(seen, said),
            _ => Step::Rest,
        };
    };
    if !seen.is_held() {
        return Step::Rest;
    }
    let end =
        SignedDuration::try_from(longest_wait).ok().and_then(|wait| deleted.checked_add(wait).ok());
    let end = end.unwrap_or(Timestamp::MAX);
    let waiting = if now >= end { Step::Free } else { Step::Wait(end) };
    let Wish::LetGo { here } = wish else { return waiting };
    if seen.owned.status {
        return Step::Withdraw;
    }
    let configured = &seen.status.configured_addresses;
    let left: Vec<_> = here.iter().filter(|one| configured.contains_key(*one)).cloned().collect();
    if !left.is_empty() {
        return Step::Strip(left);
    }
    if seen.owned.finalizer {
        return Step::Finalizer(false);
    }
    // A finalizer that no gateway holds is SmartNat's own, or was written by hand.
    if !seen.owned.others_finalize && configured.is_empty() { Step::Free } else { waiting }
}

fn is_about(said: &Said, seen: &Seen) -> bool {
    let uid = said.revision.uid.as_deref().unwrap_or_default();
    *uid == *seen.uid && said.revision.generation == seen.generation
}

/// Returns the next step for a `Mapping` that is not being deleted.
fn living(seen: &Seen, said: &Said) -> Step {
    if said.carried != seen.owned.finalizer {
        return Step::Finalizer(said.carried);
    }
    // Who carries nothing of it says something only where all say the same.
    let speaks = said.carried || &*said.invalid != durward_control::spec::smartnat::VALID;
    match (speaks, says(seen, said)) {
        (true, false) => Step::Status(Box::new(said.clone())),
        (false, _) if seen.owned.status => Step::Withdraw,
        _ => Step::Rest,
    }
}

/// Returns whether the status says this, of this gateway and of what all say alike.
fn says(seen: &Seen, said: &Said) -> bool {
    let status = &seen.status;
    let is_there = |(address, pods): (&Arc<str>, &Vec<Arc<str>>)| {
        let configured = status.configured_addresses.get(address);
        configured.is_some_and(|Pods { pod_ips }| pod_ips == pods)
    };
    status.invalid.as_ref() == Some(&said.invalid)
        && status.service_vip == said.service_vip
        && status.observed_generation == seen.generation
        && seen.accepted().is_some_and(|condition| {
            condition.status == said.accepted.status
                && condition.reason == said.accepted.reason
                && condition.message == said.accepted.message
                && condition.observed_generation == seen.generation
        })
        && said.configured.iter().all(is_there)
        && seen.owned.addresses.iter().all(|address| said.configured.contains_key(address))
        && said.configured.keys().all(|address| seen.owned.addresses.contains(address))
}
