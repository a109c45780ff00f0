//! Builds a snapshot from the decisions: unchanged tenants, sockets and snapshots are the same `Arc` as before.
//!
//! Tenants that were not compiled stay as they were. Deliberately absent: decisions; all are made.

mod tenant;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use durward_model::mapping::PortMapping;
use durward_model::transport::Transport;
use durward_model::verdict::{Outcome, Verdict};
use durward_model::{
    AddressOwners, Bind, DestinationMode, Kind, Listener, NameTable, SharedMap, Snapshot, Tenant,
    TenantId, Verdicts,
};

use super::addresses::{Held, Role};
use super::body::Candidate;
use super::certificates::Certificates;
use super::claim_table::ClaimTable;
use super::claims::Claimed;
use super::contribution::{self, Contribution};
use super::mapping::{self, Applicant};
use super::nat::{self, Around, Rules};
use super::part::{self, PartId, Past};
use super::roster::{self, Basis, Entrant, Roster, Verdict as Told};
use super::scope::Scope;
use super::served_documents;
use super::verdict::Served;
use super::{Compiled, Input, Memory, Seen, transparent};
use crate::reference::Reference;
use crate::store::Store;
use tenant::{Whole, both};

/// Fewer listeners than these are each put in their place in a socket's list.
const FEW: usize = 16;

/// Outcome of compiling some tenants.
#[derive(Debug)]
pub(crate) struct Decided {
    /// All of them, served or not.
    pub(crate) tenants: Vec<(TenantId, Arc<roster::Past>)>,
    pub(crate) mappings: BTreeMap<PartId, Past<PortMapping>>,
    pub(crate) contributions: BTreeMap<PartId, Past<Contribution>>,
    /// Those that are not served as their documents say.
    pub(crate) unsettled: BTreeSet<TenantId>,
    verdicts: Vec<Arc<Verdict>>,
    certificates: Certificates,
    /// References of rejected documents.
    of_rejected: BTreeSet<Reference>,
    rules: Rules,
    owners: AddressOwners,
    newcomers: u64,
    modes: HashMap<SocketAddr, DestinationMode>,
}

/// Concludes what is served of each tenant and mapping.
pub(crate) fn conclude(
    roster: Roster<'_>,
    claimed: Claimed<'_>,
    mappings: Vec<Applicant<'_>>,
    rules: Rules,
    input: &Input<'_>,
    certificates: Certificates,
) -> Decided {
    let Roster { entrants, contributions, mut drafts, newcomers, .. } = roster;
    let mut listeners: Vec<Vec<Candidate>> = entrants.iter().map(|_| Vec::new()).collect();
    for candidate in claimed.listeners {
        listeners[candidate.entrant].push(candidate);
    }
    let mut unsettled = mapping::unsettled(&mappings);
    unsettled.extend(unsettled_parts(&contributions));
    let mut tenants = Vec::with_capacity(entrants.len());
    for ((mut entrant, listeners), upstreams) in
        entrants.into_iter().zip(listeners).zip(claimed.upstreams)
    {
        let served = served(&entrant, &listeners);
        served_documents::remember(&mut entrant, &listeners, &input.documents);
        let outcome = outcome(served, entrant.report.errors());
        if matches!(entrant.verdict, Told::OfFile(_)) {
            unsettled.insert(entrant.id.clone());
        }
        match entrant.verdict {
            Told::Own(draft) => {
                drafts[draft].served = served;
                drafts[draft].findings.append(&mut entrant.report.take());
            }
            Told::OfFile(draft) if served != Served::Nothing => {
                drafts[draft].note_kept(entrant.id.as_str())
            }
            Told::OfFile(_) => {}
        }
        // Who serves nothing now still has asked: its claims keep their age.
        let tenants_of = (served != Served::Nothing).then(|| both(&entrant, listeners, upstreams));
        tenants.push(remembered(entrant, tenants_of, outcome));
    }
    let mappings = part::conclude(mappings, &mut drafts);
    let contributions = part::conclude(contributions, &mut drafts);
    let verdicts: Vec<_> = drafts.into_iter().map(|draft| Arc::new(draft.into_verdict())).collect();
    let faulty = verdicts.iter().filter(|verdict| verdict.outcome != Outcome::Accepted);
    let faulty: Vec<_> = faulty
        .filter_map(|verdict| Some((verdict, input.store.document(&verdict.document)?)))
        .collect();
    unsettled.extend(faulty.iter().filter_map(|(_, document)| document.tenant()));
    let rejected = faulty.iter().filter(|(verdict, _)| verdict.outcome != Outcome::Partial);
    let of_rejected = rejected.flat_map(|(_, document)| document.wanted()).collect();
    let (modes, owners) = (claimed.modes, claimed.owners);
    Decided {
        tenants,
        mappings,
        contributions,
        unsettled,
        verdicts,
        certificates,
        of_rejected,
        rules,
        owners,
        newcomers,
        modes,
    }
}

/// Returns what the next compile must know of a tenant.
fn remembered(
    mut entrant: Entrant<'_>,
    served: Option<Whole>,
    outcome: Outcome,
) -> (TenantId, Arc<roster::Past>) {
    let origin = entrant.origin.clone();
    entrant.cite(&origin);
    let Entrant { id, past, egress, sources, added_sources, transparent, claims, cited, .. } =
        entrant;
    let (served, alone) = served.map(|it| (it.served, it.alone)).unzip();
    let past = roster::Past {
        egress,
        sources,
        added_sources,
        transparent,
        served,
        alone,
        outcome,
        listeners: Vec::new(),
        names: Vec::new(),
        claims: Arc::from(claims),
        cited,
        ..past
    };
    (id, Arc::new(past))
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
fn served(entrant: &Entrant<'_>, listeners: &[Candidate]) -> Served {
    // The tenant is there for what objects add to it, too.
    let is_added_to = listeners.iter().any(Candidate::is_added);
    let own = listeners.iter().filter(|candidate| !candidate.is_added());
    let has_none = own.count() == 0;
    let current = listeners.iter().any(|candidate| candidate.entry.is_some());
    // What the kernel lets out as the tenant's is served, too.
    let lets_out = !entrant.sources.is_empty() && !entrant.egress.is_empty();
    let restoring = entrant.past.restoring.as_ref();
    let is_restoring =
        restoring.is_some_and(|part| !part.is_last || part.stood_without_listeners());
    match &entrant.basis {
        Basis::Out => Served::Nothing,
        Basis::Kept(tenant)
            if has_none && !tenant.listeners.is_empty() && !lets_out && !is_added_to =>
        {
            Served::Nothing
        }
        Basis::Kept(_) => Served::Former,
        Basis::Document(body) if body.is_doorless() || current => Served::Current,
        Basis::Document(_) if has_none && (lets_out || is_restoring || is_added_to) => {
            Served::Current
        }
        Basis::Document(_) if has_none => Served::Nothing,
        Basis::Document(_) => Served::Former,
    }
}

/// Returns the tenants of objects that are not served as their documents say.
fn unsettled_parts<'r>(
    contributions: &'r [contribution::Applicant<'_>],
) -> impl Iterator<Item = TenantId> + use<'r> {
    let is_settled = |applicant: &&contribution::Applicant<'_>| {
        let both = applicant.served.as_ref().zip(applicant.current.as_ref());
        both.is_some_and(|(served, current)| Arc::ptr_eq(served, current))
    };
    let unsettled = contributions.iter().filter(move |applicant| !is_settled(applicant));
    unsettled.map(|applicant| applicant.id.tenant.clone())
}

impl Decided {
    /// Puts what was decided in the place of what these tenants had.
    pub(super) fn put_in(
        mut self,
        store: &Store,
        previous: Option<&Compiled>,
        scope: &Scope,
        now: i64,
    ) -> Compiled {
        if let (Some(previous), Scope::Part(part)) = (previous, scope)
            && part.tenants.is_empty()
            && part.documents.is_empty()
            && self.verdicts.is_empty()
        {
            return previous.clone();
        }
        let (memory, former) = match (previous, scope) {
            (Some(previous), Scope::Part(_)) => (&previous.memory, &previous.verdicts),
            _ => (&Memory::default(), &Verdicts::default()),
        };
        let owners = self.owners(memory, scope, previous);
        let mut elsewhere = memory.elsewhere.clone();
        let snapshot = self.snapshot(&owners, &mut elsewhere, previous, scope);
        let verdicts = self.verdicts(former, scope);
        // Whoever writes rejected documents must not fill memory with what their files hold.
        let of_rejected = std::mem::take(&mut self.of_rejected);
        let forgotten = store.only_rejected(of_rejected, &verdicts);
        self.certificates.forget(&forgotten);
        let mut tenants = memory.tenants.clone();
        scope.tenants().for_each(|tenant| drop(tenants.remove(tenant)));
        tenants.extend(self.tenants);
        let mut mappings = memory.mappings.clone();
        let mut contributions = memory.contributions.clone();
        for tenant in scope.tenants() {
            let gone = part::of_tenant(&memory.mappings, tenant);
            gone.for_each(|(id, _)| drop(mappings.remove(id)));
            let gone = part::of_tenant(&memory.contributions, tenant);
            gone.for_each(|(id, _)| drop(contributions.remove(id)));
        }
        mappings.extend(self.mappings);
        contributions.extend(self.contributions);
        let mut certificates = Arc::clone(&memory.certificates);
        if !forgotten.is_empty() {
            Arc::make_mut(&mut certificates).forget(&forgotten);
        }
        if !certificates.hold(&self.certificates) {
            Arc::make_mut(&mut certificates).take_in(&self.certificates);
        }
        let claims = match scope {
            Scope::Everything => ClaimTable::new(&tenants),
            Scope::Part(part) => memory.claims.with(part.tenants.iter(), &memory.tenants, &tenants),
        };
        let (unsettled, seen) = (self.unsettled, seen(store, memory, scope, now));
        let at_rest = false;
        let memory = Memory {
            tenants,
            mappings,
            contributions,
            certificates,
            owners,
            unsettled,
            at_rest,
            newcomers: self.newcomers,
            elsewhere,
            claims,
            seen,
        };
        Compiled { snapshot, verdicts, memory }
    }

    /// Returns the verdicts on all documents.
    fn verdicts(&self, former: &Verdicts, scope: &Scope) -> Verdicts {
        let mut verdicts = former.clone();
        if let Scope::Part(part) = scope {
            part.documents.iter().for_each(|key| verdicts.take_out(key));
        }
        self.verdicts.iter().for_each(|verdict| verdicts.put(Arc::clone(verdict)));
        verdicts
    }

    /// Returns the holders of addresses, the same as before where they are equal, so that sockets are quickly seen to be the same.
    fn owners(
        &self,
        memory: &Memory,
        scope: &Scope,
        previous: Option<&Compiled>,
    ) -> Arc<AddressOwners> {
        let Scope::Part(_) = scope else {
            let former = previous.map(|previous| &previous.memory.owners);
            let same = former.filter(|former| ***former == self.owners);
            return same.map_or_else(|| Arc::new(self.owners.clone()), Arc::clone);
        };
        let gone = scope.tenants().filter_map(|tenant| memory.tenants.get_key_value(tenant));
        let gone: BTreeSet<(IpAddr, &TenantId, bool)> =
            gone.flat_map(|(tenant, past)| owned(tenant, &past.addresses)).collect();
        let come = self.owners.iter();
        let come: BTreeSet<(IpAddr, &TenantId, bool)> = come
            .flat_map(|(address, tenants, shared)| {
                tenants.iter().map(move |tenant| (address, tenant, shared))
            })
            .collect();
        if gone == come {
            return Arc::clone(&memory.owners);
        }
        let mut owners = AddressOwners::clone(&memory.owners);
        gone.difference(&come).for_each(|(address, tenant, _)| owners.remove(*address, tenant));
        for (address, tenant, shared) in come.difference(&gone) {
            owners.insert(*address, tenant, *shared);
        }
        Arc::new(owners)
    }

    fn snapshot(
        &self,
        owners: &Arc<AddressOwners>,
        elsewhere: &mut BTreeSet<SocketAddr>,
        previous: Option<&Compiled>,
        scope: &Scope,
    ) -> Arc<Snapshot> {
        let former = previous.map(|previous| &previous.snapshot);
        let base = former.filter(|_| matches!(scope, Scope::Part(_)));
        let mut tenants = base.map(|base| base.tenants.clone()).unwrap_or_default();
        let mut binds = base.map(|base| base.binds.clone()).unwrap_or_default();
        let mut touched = BTreeSet::new();
        let mut same_binds = base.is_some();
        let gone: Vec<_> = scope.tenants().filter_map(|tenant| tenants.remove(tenant)).collect();
        for tenant in &gone {
            for listener in doors(tenant) {
                leave(&mut binds, listener.bind, scope);
                touched.insert(listener.bind);
            }
        }
        let served = self.tenants.iter().filter_map(|(id, past)| Some((id, past.served.as_ref()?)));
        tenants.extend(served.clone().map(|(id, tenant)| (id.clone(), Arc::clone(tenant))));
        let udp = udp_sockets(base, former, &gone, served.clone().map(|(_, tenant)| tenant));
        let mut come: BTreeMap<SocketAddr, Vec<Arc<Listener>>> = BTreeMap::new();
        for listener in served.flat_map(|(_, tenant)| doors(tenant)) {
            come.entry(listener.bind).or_default().push(Arc::clone(listener));
        }
        for (address, listeners) in come {
            self.arrive(&mut binds, address, listeners);
            touched.insert(address);
        }
        if let Some(base) = base {
            let mode = |binds: &SharedMap<_, Arc<Bind>>, at| {
                binds.get(at).map(|bind: &Arc<Bind>| bind.mode.clone())
            };
            same_binds = touched.iter().all(|at| mode(&base.binds, at) == mode(&binds, at))
                && (base.udp.is_copy_of(&udp) || base.udp.keys().eq(udp.keys()));
        }
        note_elsewhere(elsewhere, &binds, &touched);
        if previous.is_some_and(|previous| !Arc::ptr_eq(owners, &previous.memory.owners)) {
            touched.extend(elsewhere.iter());
        }
        for address in &touched {
            if let Some(bind) = binds.get_mut(address) {
                settle(bind, owners, former);
            }
        }
        let gone = of_before(scope, previous);
        let seniority = self.seniority(previous);
        let around =
            Around { binds: &binds, udp: &udp, touched: &touched, same_binds, gone, seniority };
        let nat = nat::model(&self.rules, &around, former, scope);
        match former {
            Some(former)
                if former.tenants.is_same_by(&tenants, Arc::ptr_eq)
                    && former.binds.is_same_by(&binds, Arc::ptr_eq)
                    && former.udp.is_same_by(&udp, Arc::ptr_eq)
                    && Arc::ptr_eq(&former.nat, &nat) =>
            {
                Arc::clone(former)
            }
            former => {
                let generation = former.map_or(0, |former| former.generation) + 1;
                Arc::new(Snapshot { generation, tenants, binds, udp, nat })
            }
        }
    }

    /// Adds listeners to a socket.
    fn arrive(
        &self,
        binds: &mut SharedMap<SocketAddr, Arc<Bind>>,
        address: SocketAddr,
        listeners: Vec<Arc<Listener>>,
    ) {
        let known = binds.get_mut(&address);
        let anywhere = transparent::is_socket(address).then_some(DestinationMode::Anywhere);
        let mode = anywhere.or_else(|| self.modes.get(&address).cloned());
        let mode = mode.or_else(|| known.as_ref().map(|bind| bind.mode.clone()));
        let Some(mode) = mode else { return };
        let order = |a: &Arc<Listener>, b: &Arc<Listener>| {
            a.key().cmp(&b.key()).then_with(|| a.tenant.cmp(&b.tenant))
        };
        let mut names = known.as_ref().map(|bind| bind.names.clone()).unwrap_or_default();
        for listener in &listeners {
            if let Some(own) = &listener.names {
                names.entry(listener.key()).or_default().add(&listener.tenant, own);
            }
        }
        let mut all = known.map(|bind| bind.listeners.clone()).unwrap_or_default();
        if listeners.len() < FEW {
            for listener in listeners {
                let at = all.partition_point(|other| order(other, &listener).is_lt());
                all.insert(at, listener);
            }
        } else {
            all.extend(listeners);
            all.sort_by(order);
        }
        let bind = Bind { address, mode, listeners: all, names, owners: Arc::default() };
        binds.insert(address, Arc::new(bind));
    }

    /// Returns the place of each mapping in the order of arrival.
    fn seniority<'a>(
        &'a self,
        previous: Option<&'a Compiled>,
    ) -> impl Fn(&PortMapping) -> u64 + 'a {
        move |mapping| {
            let id = PartId::of_qualified(&mapping.tenant, Kind::PortMapping, &mapping.name);
            let known = previous.and_then(|previous| previous.memory.mappings.get(&id));
            let known = known.or_else(|| self.mappings.get(&id));
            known.map_or(0, |past| past.seniority)
        }
    }
}

/// Returns what the next compile must know of the store.
fn seen(store: &Store, memory: &Memory, scope: &Scope, now: i64) -> Seen {
    let at = match scope {
        Scope::Everything => now,
        Scope::Part(_) => memory.seen.at,
    };
    Seen { version: store.version(), told: store.strays().is_empty(), complete: true, at }
}

/// Returns the mappings of a tenant that were served, each with its place in the order of arrival.
fn had(tenant: &TenantId, previous: Option<&Compiled>) -> Vec<(u64, Arc<PortMapping>)> {
    let Some(Compiled { memory, .. }) = previous else { return Vec::new() };
    let past = part::of_tenant(&memory.mappings, tenant);
    past.filter_map(|(_, past)| Some((past.seniority, past.served.clone()?))).collect()
}

/// Returns the mappings of the scope's tenants that were served, in the order of arrival.
fn of_before(scope: &Scope, previous: Option<&Compiled>) -> Vec<Arc<PortMapping>> {
    let mut gone: Vec<_> = scope.tenants().flat_map(|tenant| had(tenant, previous)).collect();
    gone.sort_by_key(|(seniority, _)| *seniority);
    gone.into_iter().map(|(_, mapping)| mapping).collect()
}

fn owned<'a>(
    tenant: &'a TenantId,
    held: &'a [Held],
) -> impl Iterator<Item = (IpAddr, &'a TenantId, bool)> {
    // A tenant that has only a socket at an address does not own it: several tenants listen there.
    let own = held.iter().filter(|held| held.role != Role::Listen);
    own.map(move |held| (held.address, tenant, held.shared))
}

/// Returns all through which the tenant's clients connect.
fn doors(tenant: &Tenant) -> impl Iterator<Item = &Arc<Listener>> {
    let listeners = tenant.listeners.iter().chain(&tenant.transparent);
    listeners.filter(|listener| listener.transport() == Transport::Tcp)
}

/// Returns the listeners to which the tenant's clients send datagrams.
fn receivers(tenant: &Tenant) -> impl Iterator<Item = &Arc<Listener>> {
    tenant.listeners.iter().filter(|listener| listener.transport() == Transport::Udp)
}

/// Returns the sockets for datagrams: those of `base` without the tenants that are gone, and those of tenants that come.
fn udp_sockets<'t>(
    base: Option<&Arc<Snapshot>>,
    former: Option<&Arc<Snapshot>>,
    gone: &[Arc<Tenant>],
    come: impl Iterator<Item = &'t Arc<Tenant>>,
) -> SharedMap<SocketAddr, Arc<Bind>> {
    let mut sockets = base.map(|base| base.udp.clone()).unwrap_or_default();
    for listener in gone.iter().flat_map(|tenant| receivers(tenant)) {
        sockets.remove(&listener.bind);
    }
    for listener in come.flat_map(|tenant| receivers(tenant)) {
        sockets.insert(listener.bind, receiving(listener, former));
    }
    sockets
}

/// Returns the socket of a listener for datagrams, the former one if it is the same.
fn receiving(listener: &Arc<Listener>, former: Option<&Arc<Snapshot>>) -> Arc<Bind> {
    let known = former.and_then(|former| former.udp.get(&listener.bind));
    let is_same =
        |known: &&Arc<Bind>| known.listeners.first().is_some_and(|one| Arc::ptr_eq(one, listener));
    known.filter(is_same).cloned().unwrap_or_else(|| {
        Arc::new(Bind {
            address: listener.bind,
            mode: DestinationMode::Bound,
            listeners: vec![Arc::clone(listener)],
            names: BTreeMap::new(),
            owners: Arc::default(),
        })
    })
}

/// Takes the listeners of these tenants from a socket.
fn leave(binds: &mut SharedMap<SocketAddr, Arc<Bind>>, address: SocketAddr, scope: &Scope) {
    let Some(bind) = binds.get_mut(&address) else { return };
    let stays = |listener: &Arc<Listener>| !scope.contains(&listener.tenant);
    if !bind.listeners.iter().any(stays) {
        binds.remove(&address);
    } else if !bind.listeners.iter().all(stays) {
        let bind = Arc::make_mut(bind);
        for listener in bind.listeners.iter().filter(|listener| !stays(listener)) {
            unname(&mut bind.names, listener);
        }
        bind.listeners.retain(stays);
    }
}

fn unname(names: &mut BTreeMap<(IpAddr, u16), NameTable>, listener: &Listener) {
    let (key, Some(own)) = (listener.key(), &listener.names) else { return };
    let Some(table) = names.get_mut(&key) else { return };
    table.remove(&listener.tenant, own);
    if table.is_empty() {
        names.remove(&key);
    }
}

/// Gives a socket the holders of addresses, if it must know them, and makes it the former one if it is the same.
fn settle(bind: &mut Arc<Bind>, owners: &Arc<AddressOwners>, former: Option<&Arc<Snapshot>>) {
    if accepts_elsewhere(bind) && !Arc::ptr_eq(&bind.owners, owners) {
        Arc::make_mut(bind).owners = Arc::clone(owners);
    }
    let known = former.and_then(|former| former.binds.get(&bind.address));
    if let Some(known) = known.filter(|known| !Arc::ptr_eq(known, bind) && is_same(known, bind)) {
        *bind = Arc::clone(known);
    }
}

/// Notes which of the touched sockets are among those at which connections to addresses of other tenants arrive.
fn note_elsewhere(
    elsewhere: &mut BTreeSet<SocketAddr>,
    binds: &SharedMap<SocketAddr, Arc<Bind>>,
    touched: &BTreeSet<SocketAddr>,
) {
    for address in touched {
        match binds.get(address) {
            Some(bind) if accepts_elsewhere(bind) => drop(elsewhere.insert(*address)),
            _ => drop(elsewhere.remove(address)),
        }
    }
}

fn accepts_elsewhere(bind: &Bind) -> bool {
    Bind::accepts_elsewhere(bind.address, &bind.mode)
}

fn is_same(known: &Bind, bind: &Bind) -> bool {
    let same = |(a, b): (&Arc<Listener>, &Arc<Listener>)| Arc::ptr_eq(a, b);
    known.mode == bind.mode
        && (Arc::ptr_eq(&known.owners, &bind.owners) || known.owners == bind.owners)
        && known.listeners.len() == bind.listeners.len()
        && known.listeners.iter().zip(&bind.listeners).all(same)
}
