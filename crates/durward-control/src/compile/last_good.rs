//! Replaces broken parts of a tenant by those that were served before, adapted to what the tenant has now.
//!
//! Deliberately absent: any right to it; a kept listener or address is claimed like every other.

use std::collections::BTreeSet;
use std::sync::Arc;

use durward_model::listener::{HttpService, Service};
use durward_model::route::{Action, WeightedUpstream};
use durward_model::upstream::UpstreamIndex;
use durward_model::{EgressAddress, Listener, ListenerKey, Tenant, Upstream};

use super::Compiled;
use super::body::Candidate;
use super::roster::Entrant;
use super::upstream_set::UpstreamSet;

/// The former upstream, leaving from what its tenant may leave from now; `None` when that is nowhere.
pub(crate) fn upstream(former: &Arc<Upstream>, egress: &[EgressAddress]) -> Option<Arc<Upstream>> {
    let sources: Vec<_> =
        former.sources.iter().copied().filter(|source| egress.contains(source)).collect();
    if sources == former.sources {
        return Some(Arc::clone(former));
    }
    (!sources.is_empty()).then(|| Arc::new(Upstream { sources, ..Upstream::clone(former) }))
}

/// The former listeners that stand in for broken entries: those at the entries' own addresses, and for entries whose address cannot be
/// read those that would otherwise be gone. `claimed` says what the tenant has already.
pub(crate) fn for_broken(
    former: Option<&Arc<Tenant>>,
    broken: &[Option<ListenerKey>],
    claimed: &mut BTreeSet<ListenerKey>,
) -> Vec<Arc<Listener>> {
    let Some(former) = former else { return Vec::new() };
    let held =
        |key: ListenerKey| former.listeners.iter().any(|listener| listener.full_key() == key);
    // An entry whose place another entry of the document fills stands in for nothing.
    let nowhere =
        |key: &&Option<ListenerKey>| key.is_none_or(|key| !held(key) && !claimed.contains(&key));
    let strays = broken.iter().filter(nowhere).count();
    let mut kept = Vec::new();
    for key in broken.iter().flatten() {
        let listener = former.listeners.iter().find(|listener| listener.full_key() == *key);
        kept.extend(listener.filter(|listener| claimed.insert(listener.full_key())).cloned());
    }
    for _ in 0..strays {
        let gone = former.listeners.iter().find(|listener| !claimed.contains(&listener.full_key()));
        kept.extend(gone.filter(|listener| claimed.insert(listener.full_key())).cloned());
    }
    kept
}

/// The former listener as a candidate; `None` when an upstream it needs can no longer be reached from the tenant's addresses.
pub(crate) fn candidate(
    at: usize,
    entrant: &Entrant<'_>,
    listener: &Arc<Listener>,
    upstreams: &mut UpstreamSet<'_>,
    previous: Option<&Compiled>,
) -> Option<Candidate> {
    let former = entrant.former?;
    let mode = previous?.snapshot.bind_of(listener)?.mode.clone();
    let mut moved = Vec::with_capacity(former.upstreams.len());
    for upstream in &former.upstreams {
        moved.push(
            self::upstream(upstream, &entrant.egress).map(|upstream| upstreams.borrow(upstream)),
        );
    }
    let listener = reindexed(listener, |index| moved.get(index.0).copied().flatten())?;
    Some(Candidate { entrant: at, listener, mode, entry: None, added: None })
}

/// The listener with its upstreams at their new positions; the same `Arc` when none moved.
pub(crate) fn reindexed(
    listener: &Arc<Listener>,
    new: impl Fn(UpstreamIndex) -> Option<UpstreamIndex>,
) -> Option<Arc<Listener>> {
    let moved = |choices: &mut Vec<WeightedUpstream>| {
        choices.iter_mut().try_for_each(|choice| {
            choice.upstream = new(choice.upstream).ok_or(Unreachable)?;
            Ok::<(), Unreachable>(())
        })
    };
    let service = match &listener.service {
        Service::Http(service) => {
            let routes = service.routes.try_map_actions(|route| match &mut route.action {
                Action::Forward(forward) => moved(&mut forward.upstreams),
                Action::Redirect(_) | Action::Respond { .. } => Ok(()),
            });
            Service::Http(HttpService { routes: routes.ok()?, ..service.clone() })
        }
        Service::PassThrough(routes) => {
            let routes = routes.try_map_targets(|route| moved(&mut route.upstreams));
            Service::PassThrough(routes.ok()?)
        }
        Service::Tcp(service) => {
            let mut service = service.clone();
            moved(&mut service.upstreams).ok()?;
            Service::Tcp(service)
        }
        Service::Udp(service) => {
            let mut service = service.clone();
            moved(&mut service.upstreams).ok()?;
            Service::Udp(service)
        }
        Service::Forward(service) => Service::Forward(service.clone()),
        Service::Link(service) => Service::Link(service.clone()),
    };
    let changed = service != listener.service;
    Some(if changed {
        Arc::new(Listener { service, ..Listener::clone(listener) })
    } else {
        Arc::clone(listener)
    })
}

/// An upstream that a listener needs is gone.
struct Unreachable;
