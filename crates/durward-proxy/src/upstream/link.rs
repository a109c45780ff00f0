//! A tenant's links: the carriers that its agents have open, and the streams that its upstreams take of them.
//!
//! A link is found by its name among those of one tenant. There is no table of all tenants' links, so none of another tenant can be taken.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use durward_link::control::{ClusterState, ProofKey};
use durward_link::route::RoutesId;
use durward_link::session::gateway::{Carrier, OpenError};
use durward_link::session::{Account, LinkStream};
use durward_link::{Kind as StreamKind, RouteSet, Target as LinkTarget};
use durward_model::TenantId;
use durward_model::upstream::{Target, UpstreamProtocol};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::connect::Attempt;
use super::direct::ProvenEndpoint;
use super::path::{Connected, Path, PortGuard, Ticket, Way};
use super::tls_client;
use crate::io::Io;
use crate::limits::UpstreamGuard;
use crate::memory::{Hold, Kind};
use crate::metrics::Counter;
use crate::refusal::Refusal;
use crate::registry::Losses;

/// Time for which requests wait for a link that has just lost its last carrier, or was just configured: what a restart interrupts goes on.
const RETURNS: Duration = Duration::from_secs(10);
/// Carriers of one link, those for control included: seven agents with nine each. A request looks at all of them.
const CARRIERS: u32 = 64;

/// Operations over REST of one link that are under way at once.
const CALLS: u32 = 8;
/// Time between two registrations of a link's routes by its agents.
const REGISTER: Duration = Duration::from_millis(100);
/// Bytes of long messages of a link's agents that are read in a second: reading one takes a core that others use.
const LONG_MESSAGES: u64 = 16 << 20;
/// Time that a long message waits for others of its link at most.
const LONGEST: Duration = Duration::from_secs(5);
/// Registrations that wait for their turn at most, as many as there are carriers.
const WAITING: u32 = CARRIERS;

/// Links of a tenant, by name. They live on when the tenant changes.
#[derive(Debug, Default)]
pub(crate) struct TenantLinks(ArcSwap<BTreeMap<Arc<str>, Arc<LinkState>>>);

/// State of one link, shared by all cores.
#[derive(Debug)]
pub(crate) struct LinkState {
    name: Arc<str>,
    carriers: ArcSwap<Vec<Arc<Attached>>>,
    /// Told when a carrier came.
    came: watch::Sender<()>,
    /// Time at which it last had a carrier, or was first named.
    seen: Mutex<Instant>,
    routes: ArcSwapOption<Registered>,
    /// Carriers that were admitted and have not ended.
    admitted: AtomicU32,
    /// Operations over REST that are under way.
    calls: AtomicU32,
    /// Time at which routes may be registered next.
    next: Mutex<Instant>,
    /// Word of the agent that said routes last.
    last_word: Mutex<Weak<Word>>,
    losses: Losses,
    /// Time at which a long message of an agent may be read next.
    next_message: Mutex<Instant>,
    /// Public endpoint of its cluster, as it was proven last.
    direct: ArcSwapOption<ProvenEndpoint>,
    /// State of its cluster that an agent said last, and of the proof of its endpoint.
    cluster: ArcSwapOption<ClusterReport>,
    /// Held by the carrier whose endpoint is proven.
    prover: Arc<tokio::sync::Mutex<()>>,
    /// Key of the proofs.
    proof_key: Option<ProofKey>,
}

/// State of a link's cluster, as its agent says it, and of direct routes to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterReport {
    /// State as the agent says it.
    pub said: ClusterState,
    /// Hosts that are reached directly.
    pub direct_hosts: Vec<Arc<str>>,
    /// Reason for which they are not, or not all.
    pub link_because: Option<String>,
}

/// Routes that an agent said stand while this lives.
#[derive(Debug)]
pub(crate) struct Word;

/// Routes that an agent registered last.
#[derive(Debug)]
struct Registered {
    id: RoutesId,
    count: usize,
    /// Version of the cluster that they are of, and the agent that said them.
    observed: u64,
    instance: Arc<str>,
}

impl Registered {
    /// Returns true if another agent has said these, of a later version of the cluster.
    fn is_later(&self, routes: &RouteSet, instance: &Arc<str>) -> bool {
        self.instance != *instance && routes.observed > 0 && routes.observed < self.observed
    }
}

/// One of the carriers that a link may have; given back on drop.
#[derive(Debug)]
pub(crate) struct Place(Arc<LinkState>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.admitted.fetch_sub(1, Relaxed);
    }
}

/// One of the operations over REST that may be under way at once; given back on drop.
#[derive(Debug)]
pub(crate) struct Call(Arc<LinkState>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Relaxed);
    }
}

/// Memory of a tenant for what its link has received on one stream.
struct Unread(Hold);

impl Account for Unread {
    fn hold(&mut self, bytes: usize) -> bool {
        self.0.resize(bytes).is_ok()
    }
}

/// Carrier for data, and where it is.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) carrier: Arc<Carrier>,
    /// Core that works it.
    pub(crate) core: usize,
    /// Address of the agent.
    pub(crate) peer: SocketAddr,
    /// Address that the agent dialled.
    pub(crate) local: SocketAddr,
    /// Text that the agent's process chose for itself.
    pub(crate) instance: Arc<str>,
}

/// State of a link, for status pages and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkReport {
    /// Tenant of the link.
    pub tenant: TenantId,
    /// Name of the link within the tenant.
    pub name: Arc<str>,
    /// Carriers for data; 0 if the link is absent.
    pub carriers: usize,
    /// Open streams.
    pub streams: u32,
    /// Revision and digest of the routes that its agent registered last.
    pub routes: Option<RoutesId>,
    /// Number of those routes.
    pub route_count: usize,
    /// State of its cluster, where an agent says one.
    pub cluster: Option<ClusterReport>,
}

impl TenantLinks {
    /// Returns the link called `name`, made at the first call.
    pub(crate) fn named(&self, name: &Arc<str>) -> Arc<LinkState> {
        if let Some(known) = self.0.load().get(name) {
            return Arc::clone(known);
        }
        let new = Arc::new(LinkState::new(Arc::clone(name)));
        self.0.rcu(|links| {
            let mut links = BTreeMap::clone(links);
            links.entry(Arc::clone(name)).or_insert_with(|| Arc::clone(&new));
            links
        });
        self.0.load().get(name).map_or(new, Arc::clone)
    }

    /// Makes the links that a configuration names, so that requests wait for those that are yet to come, and forgets others without a carrier.
    pub(crate) fn name_only(&self, names: &BTreeSet<&Arc<str>>) {
        for name in names {
            self.named(name);
        }
        self.0.rcu(|links| {
            let is_kept = |name: &Arc<str>, link: &LinkState| {
                names.contains(name) || !link.carriers.load().is_empty()
            };
            let kept = links.iter().filter(|(name, link)| is_kept(name, link));
            kept.map(|(name, link)| (Arc::clone(name), Arc::clone(link)))
                .collect::<BTreeMap<_, _>>()
        });
    }

    /// Returns the state of all links.
    pub(crate) fn reports(&self, tenant: &TenantId) -> Vec<LinkReport> {
        self.0.load().values().map(|link| link.report(tenant)).collect()
    }
}

impl LinkState {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            carriers: ArcSwap::default(),
            came: watch::Sender::new(()),
            seen: Mutex::new(Instant::now()),
            routes: ArcSwapOption::empty(),
            admitted: AtomicU32::new(0),
            calls: AtomicU32::new(0),
            next: Mutex::new(Instant::now()),
            last_word: Mutex::default(),
            losses: Losses::default(),
            next_message: Mutex::new(Instant::now()),
            direct: ArcSwapOption::empty(),
            cluster: ArcSwapOption::empty(),
            prover: Arc::default(),
            proof_key: ProofKey::random(),
        }
    }

    /// Returns the name of the link.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the key of proofs of its cluster's public endpoint.
    pub(crate) fn proof_key(&self) -> Option<&ProofKey> {
        self.proof_key.as_ref()
    }

    /// Waits for the turn to prove an endpoint: one carrier of a link does at a time.
    pub(crate) async fn prover(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.prover).lock_owned().await
    }

    /// Returns the public endpoint, if it is proven for a host.
    pub(crate) fn direct(&self, host: &str) -> Option<Arc<ProvenEndpoint>> {
        self.direct.load_full().filter(|proven| proven.is_for(host))
    }

    /// Returns true if the endpoint that was proven last can be used.
    pub(crate) fn is_proven(&self) -> bool {
        self.direct.load().as_ref().is_some_and(|proven| proven.is_current())
    }

    /// Replaces the public endpoint; connections to the former one are not used again if it is another.
    pub(crate) fn set_direct(&self, proven: Option<ProvenEndpoint>) {
        let former = self.direct.load_full();
        let goes_on = former.as_ref().zip(proven.as_ref());
        let goes_on = goes_on.is_some_and(|(former, proven)| proven.leads_where(former));
        match (proven, &former) {
            (Some(proven), Some(former)) if goes_on => {
                self.direct.store(Some(Arc::new(proven.going_on(former))));
            }
            (proven, _) => self.direct.store(proven.map(Arc::new)),
        }
        if let Some(former) = former.filter(|_| !goes_on) {
            former.retire();
        }
    }

    /// Takes note of the state of a cluster that offers no endpoint, unless that of another agent is being proven.
    pub(crate) fn say_unless_proving(&self, said: ClusterState) {
        if self.prover.try_lock().is_ok() {
            self.set_cluster(Some(ClusterReport { said, ..ClusterReport::default() }));
        }
    }

    /// Takes note of the state of the cluster and of direct routes.
    pub(crate) fn set_cluster(&self, cluster: Option<ClusterReport>) {
        self.cluster.store(cluster.map(Arc::new));
    }

    /// Begins an operation over REST; `None` if as many as may be are under way.
    pub(crate) fn call(self: &Arc<Self>) -> Option<Call> {
        let call = Call(Arc::clone(self));
        (self.calls.fetch_add(1, Relaxed) < CALLS).then_some(call)
    }

    /// Returns the time at which the caller may register the routes of an agent. All agents of a link share the rate.
    pub(crate) fn next_registration(&self) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(Instant::now());
        // Carriers that take a turn and leave must not put off those that come later without bound.
        *next = (turn + REGISTER).min(Instant::now() + WAITING * REGISTER);
        turn
    }

    /// Returns the time at which a long message of an agent may be read. All carriers of the link share the rate.
    pub(crate) fn next_message(&self, bytes: usize) -> Instant {
        let mut next = self.next_message.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, length) = (Instant::now(), u64::try_from(bytes).unwrap_or(u64::MAX));
        let turn = (*next).max(now);
        let took = Duration::from_millis(length.saturating_mul(1_000) / LONG_MESSAGES);
        // Heartbeats wait behind a message.
        *next = (turn + took).min(now + LONGEST);
        turn
    }

    /// Takes note that an agent has said routes. They are the last word of the link until another agent says some, or this one leaves.
    pub(crate) fn say(&self) -> Arc<Word> {
        let word = Arc::new(Word);
        *self.last_word() = Arc::downgrade(&word);
        word
    }

    /// Returns true if an agent of the link said these routes last, or the one that did has left.
    pub(crate) fn said_last(&self, routes: &RoutesId) -> bool {
        // Revisions count changes of one process.
        let is_same =
            self.routes.load().as_ref().is_some_and(|last| last.id.digest == routes.digest);
        is_same || self.last_word().strong_count() == 0
    }

    fn last_word(&self) -> MutexGuard<'_, Weak<Word>> {
        self.last_word.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the losses of the link.
    pub(crate) fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Admits a carrier; `None` if the link has as many as it may.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Place> {
        let place = Place(Arc::clone(self));
        (self.admitted.fetch_add(1, Relaxed) < CARRIERS).then_some(place)
    }

    /// Takes a carrier into use.
    pub(crate) fn attach(&self, attached: Attached) {
        let attached = Arc::new(attached);
        self.carriers.rcu(|carriers| {
            let mut carriers = Vec::clone(carriers);
            carriers.push(Arc::clone(&attached));
            carriers
        });
        self.came.send_replace(());
    }

    /// Takes a carrier out of use; nothing happens if it is out of use already.
    pub(crate) fn detach(&self, carrier: &Arc<Carrier>) {
        let is_it = |one: &Arc<Attached>| Arc::ptr_eq(&one.carrier, carrier);
        if !self.carriers.load().iter().any(is_it) {
            return;
        }
        self.carriers
            .rcu(|carriers| carriers.iter().filter(|one| !is_it(one)).cloned().collect::<Vec<_>>());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Records the routes that an agent said; returns their revision and digest.
    pub(crate) fn register(&self, routes: &RouteSet, instance: &Arc<str>) -> RoutesId {
        let (id, count, observed) = (routes.id(), routes.routes().len(), routes.observed);
        let registered =
            Registered { id: id.clone(), count, observed, instance: Arc::clone(instance) };
        self.routes.store(Some(Arc::new(registered)));
        id
    }

    /// Returns true if another agent that is connected has said routes of a later version of the cluster.
    pub(crate) fn is_stale(&self, routes: &RouteSet, instance: &Arc<str>) -> bool {
        let last = self.routes.load();
        let later = last.as_ref().filter(|last| last.is_later(routes, instance));
        later.is_some_and(|last| {
            self.carriers.load().iter().any(|one| one.instance == last.instance)
        })
    }

    fn report(&self, tenant: &TenantId) -> LinkReport {
        let carriers = self.carriers.load();
        let routes = self.routes.load();
        LinkReport {
            tenant: tenant.clone(),
            name: Arc::clone(&self.name),
            carriers: carriers.len(),
            streams: carriers.iter().map(|one| one.carrier.streams()).sum(),
            routes: routes.as_ref().map(|routes| routes.id.clone()),
            route_count: routes.as_ref().map_or(0, |routes| routes.count),
            cluster: self
                .cluster
                .load()
                .as_ref()
                .filter(|_| !carriers.is_empty())
                .map(|cluster| ClusterReport::clone(cluster)),
        }
    }

    /// Returns the carrier for the next stream of `core`: of its own if there is one with room, and of those the least used.
    fn choose(&self, core: usize, given_up: &GivenUp) -> Option<Arc<Attached>> {
        let carriers = self.carriers.load();
        let fits = |one: &&Arc<Attached>| one.carrier.has_room() && !given_up.has(one);
        let by_use = |one: &&Arc<Attached>| (one.core != core, one.carrier.streams());
        carriers.iter().filter(fits).min_by_key(by_use).cloned()
    }

    /// Opens a stream, whose unread bytes `account` pays for. Waits for a carrier if there was one a moment ago; `waits` is true meanwhile.
    async fn open(
        &self,
        core: usize,
        (target, kind): (&LinkTarget, StreamKind),
        account: impl Fn() -> Option<Box<dyn Account>>,
        waits: &Cell<bool>,
    ) -> Result<(LinkStream, Arc<Attached>), Refusal> {
        let failed = |detail: String| Refusal::LinkFailed {
            link: self.name.to_string(),
            target: target.to_string(),
            detail,
        };
        let mut came = self.came.subscribe();
        let mut given_up = GivenUp::default();
        loop {
            if let Some(attached) = self.choose(core, &given_up) {
                match attached.carrier.open(target, kind, account()).await {
                    Ok(stream) => return Ok((stream, attached)),
                    // Nothing was sent, so another carrier may be tried.
                    Err(OpenError::Gone) => given_up.carriers.push(attached),
                    // Agents whose routes change one after the other differ for a moment, and each has memory of its own.
                    Err(error @ (OpenError::Refused(_) | OpenError::Full(_)))
                        if given_up.agent.is_none() =>
                    {
                        given_up.agent = Some((Arc::clone(&attached.instance), error.to_string()));
                    }
                    Err(error) => return Err(failed(error.to_string())),
                }
                continue;
            }
            if let Some((_, why)) = given_up.agent {
                return Err(failed(why));
            }
            if self.carriers.load().iter().any(|one| one.carrier.is_current())
                && given_up.carriers.is_empty()
            {
                return Err(failed("its carriers have as many streams as they may".to_owned()));
            }
            self.wait(&mut came, waits).await?;
        }
    }

    /// Waits for another carrier.
    async fn wait(
        &self,
        came: &mut watch::Receiver<()>,
        waits: &Cell<bool>,
    ) -> Result<(), Refusal> {
        let absent = || Refusal::LinkAbsent { link: self.name.to_string() };
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let left = RETURNS.saturating_sub(seen.elapsed());
        // A carrier that is leaving is still there, and another may be about to come.
        let left = if self.carriers.load().is_empty() { left } else { RETURNS };
        waits.set(true);
        let changed = tokio::time::timeout(left, came.changed()).await;
        waits.set(false);
        match changed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(absent()),
        }
    }
}

/// Carriers that a stream was not opened on.
#[derive(Default)]
struct GivenUp {
    carriers: Vec<Arc<Attached>>,
    /// Agent that refused the target, and why.
    agent: Option<(Arc<str>, String)>,
}

impl GivenUp {
    fn has(&self, one: &Arc<Attached>) -> bool {
        self.carriers.iter().any(|other| Arc::ptr_eq(one, other))
            || self.agent.as_ref().is_some_and(|(instance, _)| *instance == one.instance)
    }
}

impl Attempt<'_> {
    /// Opens a stream of the upstream's link, as a connection to the endpoint.
    pub(super) async fn connect_through(
        &self,
        path: &Arc<Path>,
        guard: Option<UpstreamGuard>,
        header: Option<Vec<u8>>,
        timeout: Duration,
    ) -> Result<Connected, Refusal> {
        let upstream = &self.runtime.upstream;
        let name = upstream.link.as_ref().map_or("", |name| name);
        let absent = || Refusal::LinkAbsent { link: name.to_owned() };
        let link = upstream.link.as_ref().map(|name| self.tenant.links.named(name));
        let link = link.ok_or_else(absent)?;
        let (began, memory) = (Instant::now(), self.memory(guard.is_none())?);
        let failed = |detail: &str| Refusal::LinkFailed {
            link: name.to_owned(),
            target: self.endpoint.target.to_string(),
            detail: detail.to_owned(),
        };
        let target = link_target(&self.endpoint.target).ok_or_else(|| failed("no such target"))?;
        let kind = match upstream.protocol {
            UpstreamProtocol::Http1 | UpstreamProtocol::Http2 => StreamKind::Http,
            UpstreamProtocol::Tcp => StreamKind::Tcp,
            UpstreamProtocol::Udp => StreamKind::Udp,
        };
        let waits = Cell::new(false);
        let unread = || Some(self.unread());
        let opening = async {
            let (mut stream, attached) =
                link.open(self.upstreams.core, (&target, kind), unread, &waits).await?;
            if let Some(header) = header {
                let sent = stream.write_all(&header).await;
                sent.map_err(|error| failed(&error.to_string()))?;
            }
            let io = match (&self.runtime.tls, &self.endpoint.verify) {
                (Some(config), Some(verify)) => {
                    tls_client::handshake_through(config, verify, stream, attached.peer).await?
                }
                _ => Io::Link(Box::new(stream)),
            };
            Ok::<_, Refusal>((io, attached))
        };
        let (io, attached) = match tokio::time::timeout(timeout, opening).await {
            Ok(opened) => opened?,
            Err(_) if waits.get() => return Err(absent()),
            Err(_) => return Err(failed("the agent did not connect in time")),
        };
        let took = began.elapsed();
        let cells = self.tenant.metrics.core(self.upstreams.core);
        if guard.is_some() {
            cells.add(Counter::UpstreamConnectionsNew, 1);
            cells.connect_duration.observe(took);
        }
        let ticket = Ticket {
            _memory: memory,
            port: PortGuard::of_link(Arc::clone(path)),
            peer: durward_model::UpstreamAddr(attached.peer),
            source: attached.local,
            retired: Arc::clone(self.endpoint.life.retired()),
            metrics: Arc::clone(&self.tenant.metrics),
            core: self.upstreams.core,
            guard,
            bound: false,
            way: self.way_of(&link),
        };
        Ok(Connected { io, ticket, took })
    }

    /// Returns the way of a stream, where there may be another.
    fn way_of(&self, link: &Arc<LinkState>) -> Option<Way> {
        let direct = self.runtime.upstream.direct.as_ref()?;
        Some(Way::Link(Arc::clone(link), Arc::clone(&direct.host)))
    }

    /// Returns the account of what a stream holds unread.
    fn unread(&self) -> Box<dyn Account> {
        Box::new(Unread(self.upstreams.memory.hold(&self.tenant.usage, Kind::Upstreams)))
    }
}

/// Returns an endpoint as the agent is asked for it.
fn link_target(target: &Target) -> Option<LinkTarget> {
    match target {
        Target::Address(address) => LinkTarget::new(&address.ip().to_string(), address.port()).ok(),
        Target::Name { host, port } => LinkTarget::new(host, *port).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(link: &LinkState) -> Result<(), Refusal> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (target, waits) = ("app:80".parse().unwrap(), Cell::new(false));
        runtime.block_on(async {
            link.open(0, (&target, StreamKind::Http), || None, &waits).await.map(drop)
        })
    }

    #[test]
    fn a_link_that_has_long_been_absent_is_not_waited_for() {
        let link = LinkState::new("onprem".into());
        // With a time of absence that has passed, a wait would be without an end here: nobody comes.
        let long_ago = Instant::now().checked_sub(RETURNS).unwrap();
        *link.seen.lock().unwrap() = long_ago;

        assert!(matches!(opened(&link), Err(Refusal::LinkAbsent { .. })));
    }

    #[test]
    fn routes_of_an_earlier_version_of_the_cluster_do_not_replace_those_of_a_sibling_that_is_there()
    {
        let link = LinkState::new("onprem".into());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let at = |observed| RouteSet::new(1, Vec::new()).observed_at(observed);
        link.register(&at(7), &a);
        let last = link.routes.load_full().unwrap();

        assert!(last.is_later(&at(5), &b));
        assert!(!last.is_later(&at(7), &b) && !last.is_later(&at(9), &b));
        assert!(!last.is_later(&at(5), &a), "its own word counts");
        assert!(!last.is_later(&at(0), &b), "without a version there is no order");
        assert!(!link.is_stale(&at(5), &b), "the agent that said them is not there any more");
    }

    #[test]
    fn a_link_has_a_bounded_number_of_carriers() {
        let link = Arc::new(LinkState::new("onprem".into()));
        let mut admitted: Vec<_> = (0..CARRIERS).map(|_| link.admit().unwrap()).collect();

        assert!(link.admit().is_none());
        assert!(link.admit().is_none(), "one that was refused takes no place");
        admitted.pop();
        assert!(link.admit().is_some());
    }

    #[test]
    fn turns_that_nobody_uses_put_a_registration_off_for_seconds_at_most() {
        let link = LinkState::new("onprem".into());
        for _ in 0..10_000 {
            link.next_registration();
        }

        assert!(link.next_registration() <= Instant::now() + WAITING * REGISTER);
    }

    #[test]
    fn long_messages_of_all_carriers_of_a_link_share_a_rate() {
        let (link, began) = (LinkState::new("onprem".into()), Instant::now());

        let turns: Vec<Instant> = (0..64).map(|_| link.next_message(4 << 20)).collect();

        let after = |at: usize| turns[at].duration_since(began);
        assert!(after(8) >= Duration::from_secs(2), "{:?}", after(8));
        assert!(turns[63] <= Instant::now() + LONGEST);
    }

    #[test]
    fn routes_are_the_last_word_by_their_content_and_again_when_the_one_who_spoke_later_has_left() {
        let link = LinkState::new("onprem".into());
        let id = |revision, digest: &str| RoutesId { revision, digest: digest.to_owned() };
        let said = |id| link.routes.store(Some(Arc::new(registered(id))));
        let _first = link.say();
        said(id(7, "a"));
        assert!(link.said_last(&id(1, "a")), "a sibling counts its changes by itself");

        let second = link.say();
        said(id(1, "b"));

        assert!(!link.said_last(&id(7, "a")) && link.said_last(&id(1, "b")));
        drop(second);
        assert!(link.said_last(&id(7, "a")));
    }

    fn registered(id: RoutesId) -> Registered {
        Registered { id, count: 0, observed: 0, instance: Arc::default() }
    }

    #[test]
    fn a_link_is_found_by_name_and_the_same_for_every_caller() {
        let links = TenantLinks::default();
        let (a, again, b) =
            (links.named(&"a".into()), links.named(&"a".into()), links.named(&"b".into()));

        assert!(Arc::ptr_eq(&a, &again) && !Arc::ptr_eq(&a, &b));
        let tenant = TenantId::new("acme").unwrap();
        let names: Vec<_> = links.reports(&tenant).into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["a".into(), "b".into()]);

        let (of_b, of_c): (Arc<str>, Arc<str>) = ("b".into(), "c".into());
        links.name_only(&BTreeSet::from([&of_b, &of_c]));

        let names: Vec<_> = links.reports(&tenant).into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["b".into(), "c".into()]);
        assert!(Arc::ptr_eq(&b, &links.named(&"b".into())));
    }
}
