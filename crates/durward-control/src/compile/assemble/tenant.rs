//! A tenant of what was decided: as its document makes it, and with what objects add.

use std::collections::BTreeSet;
use std::sync::Arc;

use durward_model::egress::Policy;
use durward_model::{ForwardService, Listener, ServerNames, Service, Tenant};

use crate::compile::body::Candidate;
use crate::compile::roster::{AddedRules, Basis, Entrant};
use crate::compile::upstream_set::{Standing, UpstreamSet};
use crate::compile::{last_good, transparent};
use crate::isolation;

/// A tenant as it is served, and without what objects add to it.
pub(super) struct Whole {
    pub(super) served: Arc<Tenant>,
    pub(super) alone: Arc<Tenant>,
}

/// Returns the tenant with its listeners and upstreams, with and without what objects add; the same as before where it is equal.
pub(super) fn both(
    entrant: &Entrant<'_>,
    candidates: Vec<Candidate>,
    upstreams: UpstreamSet<'_>,
) -> Whole {
    let known = |former: Option<&Arc<Tenant>>, tenant: Tenant| match former {
        Some(former) if **former == tenant => Arc::clone(former),
        _ => Arc::new(tenant),
    };
    let is_added_to = !entrant.rules.is_empty() || candidates.iter().any(|it| it.added.is_some());
    if !is_added_to {
        let listeners = candidates.into_iter().map(|candidate| candidate.listener).collect();
        let served = known(entrant.previous, tenant(entrant, listeners, upstreams));
        return Whole { alone: Arc::clone(&served), served };
    }
    let alone = candidates.iter().filter_map(alone).collect();
    let alone = known(entrant.former, tenant(entrant, alone, upstreams.clone()));
    let listeners = candidates.into_iter().map(|candidate| candidate.listener).collect();
    let mut served = tenant(entrant, listeners, upstreams);
    add_rules(&mut served, &entrant.rules);
    Whole { served: known(entrant.previous, served), alone }
}

/// Returns the listener as the tenant's document makes it, with the names of its own that it was granted.
fn alone(candidate: &Candidate) -> Option<Arc<Listener>> {
    let Some(added) = &candidate.added else { return Some(Arc::clone(&candidate.listener)) };
    let alone = added.alone.as_ref()?;
    let (Some(own), Some(granted)) = (&alone.names, &candidate.listener.names) else {
        return Some(Arc::clone(alone));
    };
    let names: Vec<_> = own.iter().filter(|name| granted.has(name)).cloned().collect();
    if names.is_empty() {
        return None;
    }
    let names = Some(ServerNames::new(names));
    Some(Arc::new(Listener { names, ..Listener::clone(alone) }))
}

/// Adds rules to those that all proxies of a tenant ask.
fn add_rules(tenant: &mut Tenant, rules: &AddedRules) {
    if rules.is_empty() {
        return;
    }
    let mut known: Vec<(Arc<Policy>, Arc<Policy>)> = Vec::new();
    for listener in tenant.listeners.iter_mut().chain(&mut tenant.transparent) {
        let Service::Forward(service) = &listener.service else { continue };
        let own = &service.policy;
        let there = known.iter().find(|(known, _)| Arc::ptr_eq(known, own));
        let policy = there.map_or_else(
            || {
                let mut policy = Policy::clone(own);
                policy.deny.extend(rules.deny.iter().cloned());
                policy.allow.extend(rules.allow.iter().cloned());
                Arc::new(policy)
            },
            |(_, policy)| Arc::clone(policy),
        );
        known.push((Arc::clone(own), Arc::clone(&policy)));
        let service = Service::Forward(ForwardService { policy, ..service.clone() });
        *listener = Arc::new(Listener { service, ..Listener::clone(listener) });
    }
}

/// Returns the tenant with these listeners, and the upstreams that it needs.
fn tenant(
    entrant: &Entrant<'_>,
    listeners: Vec<Arc<Listener>>,
    upstreams: UpstreamSet<'_>,
) -> Tenant {
    let mut referred = BTreeSet::new();
    if upstreams.has_borrowed() {
        let services = listeners.iter().map(|listener| &listener.service);
        let choices = services.flat_map(isolation::choices);
        referred.extend(choices.map(|choice| choice.upstream.0));
    }
    let restoring = entrant.past.restoring.as_deref();
    let (upstreams, moved) = upstreams.sorted(|at, standing, upstream| {
        let is_needed = match (restoring, standing) {
            (Some(_), Standing::Own | Standing::Borrowed) | (None, Standing::Own) => true,
            (None, Standing::Borrowed) | (_, Standing::Added) => referred.contains(&at),
        };
        is_needed && restoring.is_none_or(|part| part.has_upstream(&upstream.name))
    });
    let in_place = moved.iter().enumerate().all(|(at, new)| new.0 == at);
    let listeners = listeners.into_iter().filter_map(|listener| {
        if in_place {
            return Some(listener);
        }
        last_good::reindexed(&listener, |index| moved.get(index.0).copied())
    });
    let mut listeners: Vec<Arc<Listener>> = listeners.collect();
    listeners.sort_by_key(|listener| listener.full_key());
    let limits = match &entrant.basis {
        Basis::Document(body) => body.limits.clone(),
        Basis::Kept(tenant) => tenant.limits.clone(),
        Basis::Out => durward_model::limits::Limits::default(),
    };
    let egress = entrant.egress.clone();
    let origin = entrant.origin.clone();
    let transparent = transparent::listeners(entrant);
    let id = entrant.id.clone();
    Tenant { id, egress, upstreams, listeners, transparent, limits, origin }
}
