//! The pieces become a snapshot: unchanged tenants, sockets and snapshots are the same `Arc` as before.
//!
//! Deliberately absent: decisions; all are made.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use durward_model::mapping::NatModel;
use durward_model::verdict::Outcome;
use durward_model::{
    AddressOwners, Bind, DestinationMode, Listener, Snapshot, Tenant, TenantId, Verdicts,
};

use super::body::Candidate;
use super::certificates::Certificates;
use super::claims::Claimed;
use super::mapping::{self, Applicant};
use super::roster::{Basis, Entrant, Past, Roster, Verdict};
use super::upstream_set::UpstreamSet;
use super::verdict::Served;
use super::{Compiled, Memory, Seen};
use super::{last_good, nat, transparent};

/// The snapshot, the verdicts and what to remember.
pub(crate) fn assemble(
    roster: Roster<'_>,
    claimed: Claimed<'_>,
    (mappings, nat): (Vec<Applicant<'_>>, NatModel),
    certificates: Certificates,
    previous: Option<&Compiled>,
) -> Compiled {
    let Roster { entrants, mut drafts, .. } = roster;
    let settled = !entrants.iter().any(|entrant| matches!(entrant.basis, Basis::Kept(_)));
    let mut listeners: Vec<Vec<Candidate>> = entrants.iter().map(|_| Vec::new()).collect();
    for candidate in claimed.listeners {
        listeners[candidate.entrant].push(candidate);
    }
    let mut tenants = Vec::with_capacity(entrants.len());
    let mut pasts = Vec::with_capacity(entrants.len());
    for ((mut entrant, listeners), upstreams) in
        entrants.into_iter().zip(listeners).zip(claimed.upstreams)
    {
        let served = served(&entrant, &listeners);
        let outcome = outcome(served, entrant.report.errors());
        match entrant.verdict {
            Verdict::Own(draft) => {
                drafts[draft].served = served;
                drafts[draft].findings.append(&mut entrant.report.take());
            }
            Verdict::OfFile(draft) if served != Served::Nothing => {
                drafts[draft].note_kept(entrant.id.as_str())
            }
            Verdict::OfFile(_) => {}
        }
        // Who serves nothing now still has asked: its claims keep their age.
        let tenant = (served != Served::Nothing).then(|| tenant(&entrant, listeners, upstreams));
        tenants.extend(tenant.iter().map(|tenant| (entrant.id.clone(), Arc::clone(tenant))));
        let Entrant { egress, sources, transparent, .. } = entrant;
        let listeners = Vec::new();
        let past = Past {
            egress,
            sources,
            transparent,
            served: tenant,
            outcome,
            listeners,
            ..entrant.past
        };
        pasts.push((entrant.id, Arc::new(past)));
    }
    let mappings = mapping::conclude(mappings, &mut drafts);
    let memory = Memory {
        certificates: Arc::new(certificates),
        tenants: Arc::new(pasts.into_iter().collect()),
        mappings: Arc::new(mappings),
        seen: Seen { settled, ..Seen::default() },
    };
    let verdicts = drafts.into_iter().map(super::verdict::Draft::into_verdict).collect();
    let sockets = Sockets { owners: owners(claimed.owners, previous), modes: claimed.modes };
    let snapshot = snapshot((tenants.into_iter().collect(), nat), &sockets, previous);
    Compiled { snapshot, verdicts: Verdicts { verdicts }, memory }
}

/// Returns what became of a document with so many errors, as its verdict says it.
pub(super) fn outcome(served: Served, errors: usize) -> Outcome {
    match (served, errors) {
        (Served::Nothing, _) => Outcome::Rejected,
        (Served::Former, _) => Outcome::KeptLastGood,
        (Served::Current, 0) => Outcome::Accepted,
        (Served::Current, _) => Outcome::Partial,
    }
}

/// How much of a tenant is served: all of it may be left out, or all that is left may be what it was before.
pub(super) fn served(entrant: &Entrant<'_>, listeners: &[Candidate]) -> Served {
    let current = listeners.iter().any(|candidate| candidate.entry.is_some());
    match &entrant.basis {
        Basis::Out => Served::Nothing,
        Basis::Kept(tenant) if listeners.is_empty() && !tenant.listeners.is_empty() => {
            Served::Nothing
        }
        Basis::Kept(_) => Served::Former,
        Basis::Document(body) if body.is_doorless() || current => Served::Current,
        Basis::Document(_) if listeners.is_empty() => Served::Nothing,
        Basis::Document(_) => Served::Former,
    }
}

/// The tenant, the same as before where nothing of it changed.
pub(super) fn tenant(
    entrant: &Entrant<'_>,
    candidates: Vec<Candidate>,
    upstreams: UpstreamSet<'_>,
) -> Arc<Tenant> {
    let (upstreams, moved) = upstreams.sorted();
    let in_place = moved.iter().enumerate().all(|(at, new)| new.0 == at);
    let listeners = candidates.into_iter().filter_map(|candidate| {
        if in_place {
            return Some(candidate.listener);
        }
        last_good::reindexed(&candidate.listener, |index| moved.get(index.0).copied())
    });
    let mut listeners: Vec<Arc<Listener>> = listeners.collect();
    listeners.sort_by_key(|listener| listener.key());
    let limits = match &entrant.basis {
        Basis::Document(body) => body.limits.clone(),
        Basis::Kept(tenant) => tenant.limits.clone(),
        Basis::Out => durward_model::limits::Limits::default(),
    };
    let egress = entrant.egress.clone();
    let origin = entrant.origin.clone();
    let transparent = transparent::listeners(entrant);
    let id = entrant.id.clone();
    let tenant = Tenant { id, egress, upstreams, listeners, transparent, limits, origin };
    match entrant.previous {
        Some(former) if **former == tenant => Arc::clone(former),
        _ => Arc::new(tenant),
    }
}

/// The owners, the same as before where they are equal, so that sockets are quickly seen to be the same.
fn owners(owners: AddressOwners, previous: Option<&Compiled>) -> Arc<AddressOwners> {
    let mut known = previous.iter().flat_map(|previous| previous.snapshot.binds.values());
    let known = known.find(|bind| Bind::accepts_elsewhere(bind.address, &bind.mode));
    let same = known.filter(|bind| *bind.owners == owners);
    same.map_or_else(|| Arc::new(owners), |bind| Arc::clone(&bind.owners))
}

/// Knowledge of sockets about the connections they accept.
struct Sockets {
    modes: HashMap<SocketAddr, DestinationMode>,
    owners: Arc<AddressOwners>,
}

fn snapshot(
    (tenants, nat): (BTreeMap<TenantId, Arc<Tenant>>, NatModel),
    sockets: &Sockets,
    previous: Option<&Compiled>,
) -> Arc<Snapshot> {
    let former = previous.map(|previous| &previous.snapshot);
    let mut reached: BTreeMap<SocketAddr, Vec<Arc<Listener>>> = BTreeMap::new();
    for listener in
        tenants.values().flat_map(|tenant| tenant.listeners.iter().chain(&tenant.transparent))
    {
        reached.entry(listener.bind).or_default().push(Arc::clone(listener));
    }
    let binds = reached.into_iter().filter_map(|(address, mut listeners)| {
        listeners.sort_by(|a, b| a.key().cmp(&b.key()).then_with(|| a.tenant.cmp(&b.tenant)));
        let anywhere = transparent::is_socket(address).then_some(DestinationMode::Anywhere);
        let mode = anywhere.or_else(|| sockets.modes.get(&address).cloned())?;
        let elsewhere = Bind::accepts_elsewhere(address, &mode);
        let owners = if elsewhere { Arc::clone(&sockets.owners) } else { Arc::default() };
        let bind = Bind { address, mode, listeners, owners };
        let same = former
            .and_then(|former| former.binds.get(&address))
            .filter(|known| is_same(known, &bind));
        Some((address, same.map_or_else(|| Arc::new(bind), Arc::clone)))
    });
    let binds: BTreeMap<_, _> = binds.collect();
    let nat = nat::finish(nat, binds.values(), former);
    match former {
        Some(former)
            if same_tenants(former, &tenants)
                && same_binds(former, &binds)
                && Arc::ptr_eq(&former.nat, &nat) =>
        {
            Arc::clone(former)
        }
        former => {
            let generation = former.map_or(0, |former| former.generation) + 1;
            Arc::new(Snapshot { generation, tenants, binds, nat })
        }
    }
}

fn is_same(known: &Bind, bind: &Bind) -> bool {
    let same = |(a, b): (&Arc<Listener>, &Arc<Listener>)| Arc::ptr_eq(a, b);
    known.mode == bind.mode
        && known.owners == bind.owners
        && known.listeners.len() == bind.listeners.len()
        && known.listeners.iter().zip(&bind.listeners).all(same)
}

fn same_tenants(former: &Snapshot, tenants: &BTreeMap<TenantId, Arc<Tenant>>) -> bool {
    let same = |(a, b): (&Arc<Tenant>, &Arc<Tenant>)| Arc::ptr_eq(a, b);
    former.tenants.len() == tenants.len() && former.tenants.values().zip(tenants.values()).all(same)
}

fn same_binds(former: &Snapshot, binds: &BTreeMap<SocketAddr, Arc<Bind>>) -> bool {
    let same = |(a, b): (&Arc<Bind>, &Arc<Bind>)| Arc::ptr_eq(a, b);
    former.binds.len() == binds.len() && former.binds.values().zip(binds.values()).all(same)
}
