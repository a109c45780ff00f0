//! Changes that affect no pending claim: a tenant that asks for what it asked for before is compiled without those that want the same.
//!
//! A claim that is not granted may be to everything, as to all networks. If everybody whom it meets were compiled with it, each change would
//! cost as much as a start.

use std::collections::BTreeMap;
use std::sync::Arc;

use durward_model::TenantId;

use super::assemble::Decided;
use super::mapping::foreign::ENDPOINT_OF_ANOTHER;
use super::part::{PartId, Past as PartPast, Pasts};
use super::roster::Past;
use super::scope::{Part, Scope};
use super::{Compiled, Memory, decide};
use crate::store::Store;

/// Compiles the tenants that changed without those that wait for what they hold; `None` if these could come out differently.
///
/// They cannot if all that changed hold everything they ask for, ask for the same as before, and are written where they were: who waits has been
/// refused all of it, and is told the same places.
pub(super) fn compile(store: &Store, previous: Option<&Compiled>, now: i64) -> Option<Compiled> {
    let known = previous?;
    let memory = &known.memory;
    if !memory.at_rest || memory.unsettled.is_empty() {
        return None;
    }
    let Scope::Part(part) = Scope::changed(store, previous, now) else { return None };
    // What was kept because of a text that tells no tenant goes when that text goes, though no document of its own changes.
    if !memory.seen.told || !store.strays().is_empty() {
        return None;
    }
    if !all_hold(&part, memory) || is_told_of_others(&part, store, known) {
        return None;
    }
    let scope = Scope::Part(part);
    let decided = decide(&scope.input(store), previous, &scope, now);
    if !ask_the_same(&decided, scope.tenants().count(), memory) {
        return None;
    }
    let mut compiled = decided.put_in(store, previous, &scope, now);
    compiled.memory.unsettled.clone_from(&memory.unsettled);
    compiled.memory.at_rest = true;
    Some(compiled)
}

/// Returns whether all of these have everything they ask for, and claims of theirs meet only those of tenants that wait.
fn all_hold(part: &Part, memory: &Memory) -> bool {
    let waits = |tenant: &TenantId| memory.unsettled.contains(tenant);
    part.tenants.iter().all(|tenant| {
        let Some(past) = memory.tenants.get(tenant).filter(|_| !waits(tenant)) else {
            return false;
        };
        let mut meets_a_holder = false;
        for claim in &*past.claims {
            memory.claims.meeting(claim, &mut |other| {
                meets_a_holder |= other != tenant && !waits(other);
            });
        }
        !meets_a_holder
    })
}

/// Returns whether a finding of these tenants is about what another tenant has: compiled alone, they would not be told.
fn is_told_of_others(part: &Part, store: &Store, known: &Compiled) -> bool {
    let present = part.tenants.iter().flat_map(|tenant| store.of_tenant(tenant));
    let verdicts = present.chain(&part.documents).filter_map(|key| known.verdicts.on(key));
    let mut findings = verdicts.flat_map(|verdict| &verdict.findings);
    findings.any(|finding| &*finding.reason == ENDPOINT_OF_ANOTHER)
}

/// Returns whether all of these, `count` in number, hold everything they ask for, which is what they asked for before.
fn ask_the_same(decided: &Decided, count: usize, memory: &Memory) -> bool {
    let same_tenant = |(id, is): &(TenantId, Arc<Past>)| {
        memory.tenants.get(id).is_some_and(|was| {
            was.claims == is.claims
                && was.cited == is.cited
                && was.addresses == is.addresses
                && was.keys == is.keys
                && (&was.egress, &was.sources) == (&is.egress, &is.sources)
                && was.added_sources == is.added_sources
                && (&was.created, &was.uid) == (&is.created, &is.uid)
        })
    };
    decided.unsettled.is_empty()
        && decided.tenants.len() == count
        && decided.tenants.iter().all(same_tenant)
        && are_as_old(&decided.mappings, &memory.mappings)
        && are_as_old(&decided.contributions, &memory.contributions)
}

/// Returns whether all objects were there before, and are the same ones.
fn are_as_old<V>(present: &BTreeMap<PartId, PartPast<V>>, former: &Pasts<V>) -> bool {
    let mut present = present.iter();
    present.all(|(id, is)| {
        let is_same = |was: &PartPast<V>| (&was.created, &was.uid) == (&is.created, &is.uid);
        former.get(id).is_some_and(is_same)
    })
}
