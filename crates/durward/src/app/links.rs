//! Registry of agents' routes: decides registrations, says them to the store as changes, and keeps them in the state directory.
//!
//! A request never waits for it: what is registered is part of the snapshot. Presence of agents is not kept.

mod disk;
mod join;
mod rate;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use durward_control::registry::{
    Answer as Answered, Body, Caller as Claimant, Changed, Documents, LinkId, Now, Operation,
    Registration, Registry as Claims, Right, Synced, TunnelCall, answer_tunnels,
};
use durward_control::{Compiled, Feed};
use durward_link::RouteSet;
use durward_link::control::{REJECTED, Rejected, Verdicts};
use durward_model::link::Link;
use durward_model::route::HostPattern;
use durward_model::{Bind, Service, TenantId};
use durward_proxy::registry::{Answer, Caller, Joining, Losses, Registry, Tunnels};
use tokio::sync::watch;

use disk::Disk;
use rate::Rates;

/// Time that an operation waits for the disk.
const STORED: Duration = Duration::from_secs(10);
/// Interval at which links are looked for that are in no document any more.
const SWEEP: Duration = Duration::from_secs(600);

/// Registry of agents' routes.
#[derive(Debug)]
pub(crate) struct Links {
    state: Mutex<State>,
    feed: Arc<Feed>,
    /// The configuration that is served.
    served: watch::Receiver<Arc<Compiled>>,
    disk: Option<Disk>,
    /// State directory.
    directory: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct State {
    claims: Claims,
    rates: Rates,
    /// Last registration of each link by an agent.
    last: BTreeMap<LinkId, Last>,
    /// True while a younger process starts, which has the claims already.
    paused: bool,
    /// Time of the last look at all links.
    swept: Option<Instant>,
}

/// Registration of an agent's routes.
#[derive(Debug)]
struct Last {
    number: u64,
    losses: Losses,
}

impl State {
    /// Begins to register the routes of a caller; false if a later call of the link has registered routes already.
    fn begin(&mut self, id: &LinkId, caller: &Caller) -> bool {
        if self.last.get(id).is_some_and(|last| last.number > caller.number) {
            return false;
        }
        let last = Last { number: caller.number, losses: caller.losses.clone() };
        self.last.insert(id.clone(), last);
        true
    }

    /// Says to the agents of the links from which a caller has taken names that they register their routes again.
    fn lose(&self, caller: &LinkId, changed: &Changed) {
        let others = changed.links().filter(|id| *id != caller);
        others.filter_map(|id| self.last.get(id)).for_each(|last| last.losses.add());
    }
}

/// Reads the claims in a state directory.
pub(crate) fn read(directory: Option<&Path>) -> Claims {
    let mut claims = Claims::default();
    if let Some(directory) = directory {
        disk::read(directory, &mut claims);
    }
    claims
}

/// Reads the claims that an older process hands over.
pub(crate) fn taken_over(handed: &[String]) -> Claims {
    let mut claims = Claims::default();
    for one in handed {
        if let Err(error) = claims.restore(one.as_bytes()) {
            tracing::error!(%error, "claims of a link cannot be taken over: its agent registers them again");
        }
    }
    claims
}

impl Links {
    /// Goes on with claims that were read; their routes are in the store already.
    ///
    /// # Errors
    /// Fails if the directory or the thread that writes to it cannot be made.
    pub(crate) fn start(
        claims: Claims,
        directory: Option<&Path>,
        feed: Arc<Feed>,
        served: watch::Receiver<Arc<Compiled>>,
    ) -> std::io::Result<Self> {
        let disk = directory.map(Disk::start).transpose()?;
        let mut claims = claims;
        let repaired = claims.take_repaired();
        if let Some(disk) = disk.as_ref().filter(|_| !repaired.is_empty()) {
            claims.stamp(&repaired);
            disk.keep(repaired.links().map(|id| (id.clone(), claims.image(id))));
        }
        let state = Mutex::new(State { claims, ..State::default() });
        let directory = directory.map(Path::to_owned);
        Ok(Self { state, feed, served, disk, directory })
    }

    /// Stores all claims: those that an older process handed over may not be in its files yet.
    pub(crate) fn store_all(&self) {
        let state = self.state();
        if let Some(disk) = &self.disk {
            let all = state.claims.links();
            disk.keep(all.map(|id| (id.clone(), state.claims.image(id))));
        }
    }

    /// Returns the claims for a younger process, and takes no registrations while it starts: it would not know of them.
    pub(crate) fn hand_over(&self) -> Vec<String> {
        let claims = {
            let mut state = self.state();
            state.paused = true;
            state.claims.all_to_json()
        };
        // From here on the files are the younger one's. A disk that hangs must not stop the hand-over.
        if let Some(disk) = &self.disk
            && !disk.hold(STORED)
        {
            tracing::warn!(
                "claims of links are still being written: the new process may find older ones in the files, and writes its own"
            );
        }
        claims.into_iter().filter_map(|one| String::from_utf8(one).ok()).collect()
    }

    /// Takes registrations again: the younger process did not take over.
    pub(crate) fn resume(&self) {
        self.state().paused = false;
        self.disk.iter().for_each(Disk::resume);
    }

    /// Takes note of the links that are in a document of the configuration that is served now.
    pub(crate) fn note_presence(&self) {
        let mut state = self.state();
        let documents = Served::new(&self.served);
        state.claims.note_returns(|id| documents.has(id));
        self.sweep(&mut state);
    }

    /// Takes note of what is in no document, and forgets what has been in none for long; every ten minutes at most, since it looks at all links.
    fn sweep(&self, state: &mut State) {
        let now = Now::read();
        let is_due = |last: Instant| now.instant.saturating_duration_since(last) >= SWEEP;
        if state.paused || !state.swept.is_none_or(is_due) {
            return;
        }
        state.swept = Some(now.instant);
        let documents = Served::new(&self.served);
        state.claims.note_presence(|id| documents.has(id), now);
        let forgotten = state.claims.forget(now);
        for id in forgotten.links() {
            state.last.remove(id);
            tracing::info!(tenant = %id.tenant, link = %id.link, "the claims of a link are forgotten: it has none, or has been in no document for a day");
        }
        self.say(state, &forgotten);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what changed. Called with the state locked, so that the store hears of changes in their order.
    fn say(&self, state: &mut State, changed: &Changed) {
        if changed.is_empty() {
            return;
        }
        state.claims.stamp(changed);
        self.feed.say(state.claims.change(changed));
        if let Some(disk) = &self.disk {
            disk.keep(changed.links().map(|id| (id.clone(), state.claims.image(id))));
        }
    }

    fn decide(&self, caller: &Caller, id: &LinkId, operation: Operation, body: &[u8]) -> Answered {
        if !self.state().rates.may_go_on(id, body.len()) {
            let message = "too many operations of this link: slow down";
            return after(1, Answered::failure(429, "too_many_requests", "", message));
        }
        let body = match Body::read(operation, body) {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let mut state = self.state();
        if state.paused {
            let message = "the gateway is being replaced by a younger process: try again";
            return after(1, Answered::failure(503, "restarting", "", message));
        }
        // Not before the registry is locked: the configuration may have changed while this call waited.
        let documents = Served::new(&self.served);
        let Some(link) = documents.link(id, &caller.link) else {
            let message = "the link is in no document any more: try again";
            return after(1, Answered::failure(503, "no_link", "", message));
        };
        let answer = state.claims.call(Claimant { id, link }, body, &documents, Now::read());
        self.sweep(&mut state);
        self.say(&mut state, &answer.changed);
        state.lose(id, &answer.changed);
        answer
    }

    /// Waits until what an operation changed is stored. One that was said before is waited for, too: it must not be confirmed while the disk fails.
    fn stored(&self, id: &LinkId, changed: &Changed) -> Result<(), String> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let concerned: Vec<&LinkId> = changed.links().chain([id]).collect();
        disk.wait(&concerned, STORED)
    }

    fn take_over(&self, caller: &Caller, wanted: &[Registration]) -> Option<Synced> {
        let id = id(caller);
        let mut state = self.state();
        if state.paused {
            return None;
        }
        // Not before the registry is locked: the configuration may have changed while this call waited.
        let documents = Served::new(&self.served);
        let link = documents.link(&id, &caller.link)?;
        if !state.begin(&id, caller) {
            return None;
        }
        let claimant = Claimant { id: &id, link };
        let synced = state.claims.replace(claimant, wanted, &documents, Now::read());
        self.sweep(&mut state);
        self.say(&mut state, &synced.changed);
        state.lose(&id, &synced.changed);
        Some(synced)
    }
}

impl Registry for Links {
    fn call(&self, caller: &Caller, operation: &str, body: &[u8]) -> Option<Answer> {
        let operation = Operation::of(operation)?;
        let id = id(caller);
        let mut answer = self.decide(caller, &id, operation, body);
        // Of a `sync` that was accepted in part the rest is registered.
        if (answer.status == 200 || !answer.changed.is_empty())
            && let Err(why) = self.stored(&id, &answer.changed)
        {
            let message = format!("claims cannot be stored: {why}");
            answer = after(5, Answered::failure(503, "not_stored", "", &message));
        }
        let Answered { status, body, retry_after, .. } = answer;
        tracing::info!(
            tenant = %caller.tenant, link = %caller.link.name, client = %caller.client, operation = operation.name(), status,
            "a registration was answered"
        );
        Some(Answer { status, body: body.to_string(), retry_after })
    }

    fn tunnels(&self, caller: &Caller, cluster: &str, call: Tunnels, body: &[u8]) -> Answer {
        let id = id(caller);
        let call = match call {
            Tunnels::List => TunnelCall::List,
            Tunnels::Register => TunnelCall::Register,
            Tunnels::Sync => TunnelCall::Sync,
            Tunnels::Withdraw => TunnelCall::Withdraw,
        };
        let documents = Served::new(&self.served);
        let tenant = documents.compiled.snapshot.tenants.get(&caller.tenant);
        let answer = match tenant.zip(documents.link(&id, &caller.link)) {
            _ if !self.state().rates.may_go_on(&id, body.len()) => {
                let message = "too many operations of this link: slow down";
                after(1, Answered::failure(429, "too_many_requests", "", message))
            }
            Some((tenant, link)) => answer_tunnels((tenant, link), cluster, &call, body),
            None => {
                let message = "the link is in no document any more: try again";
                after(1, Answered::failure(503, "no_link", "", message))
            }
        };
        let Answered { status, body, retry_after, .. } = answer;
        tracing::info!(
            tenant = %caller.tenant, link = %caller.link.name, client = %caller.client, ?call, status,
            "a call for tunnels was answered"
        );
        Answer { status, body: body.to_string(), retry_after }
    }

    fn join(&self, joining: &Joining, request: &[u8]) -> Answer {
        let caller = &joining.caller;
        let answer = if !self.state().rates.may_go_on(&id(caller), request.len()) {
            let message = "too many operations of this link: slow down";
            after(1, Answered::failure(429, "too_many_requests", "", message))
        } else {
            let directory = self.directory.as_ref().map(|state| state.join(disk::DIRECTORY));
            join::join(joining, request, directory.as_deref())
        };
        let Answered { status, body, retry_after, .. } = answer;
        tracing::info!(
            tenant = %caller.tenant, link = %caller.link.name, client = %caller.client, renewed = joining.token.is_none(), status,
            "a request for an agent's certificate was answered"
        );
        Answer { status, body: body.to_string(), retry_after }
    }

    fn replace(&self, caller: &Caller, routes: &RouteSet) -> Option<Verdicts> {
        let mut verdicts = Verdicts { revision: routes.revision, ..Verdicts::default() };
        let mut wanted = Vec::with_capacity(routes.routes().len());
        for route in routes.routes() {
            let matches = (route.host.as_str(), route.path.as_str(), route.exact);
            let target = (route.target.host(), route.target.port());
            let name = route.backend_tls.as_deref();
            let read = Registration::read(matches, target, &route.ingress);
            match read.and_then(|one| one.with(route.tunnel_only, route.passthrough, name)) {
                Ok(registration) => wanted.push(registration),
                Err(why) => verdicts.rejected.push(rejected(&route.host, &route.path, why)),
            }
        }
        let synced = self.take_over(caller, &wanted)?;
        for (one, why) in synced.rejected {
            let (host, path) = (one.route.host.to_string(), one.route.path.to_string());
            verdicts.rejected.push(rejected(&host, &path, why.to_string()));
        }
        if !synced.changed.is_empty() {
            tracing::info!(
                tenant = %caller.tenant, link = %caller.link.name, client = %caller.client, routes = synced.routes,
                rejected = verdicts.rejected.len(), "an agent's routes are registered"
            );
        }
        verdicts.served = u32::try_from(synced.routes).unwrap_or(u32::MAX);
        verdicts.rejected.truncate(REJECTED);
        Some(verdicts)
    }
}

/// The documents that are served.
struct Served {
    compiled: Arc<Compiled>,
    /// Binds that tenants share by names.
    shared: OnceCell<Vec<Arc<Bind>>>,
}

impl Served {
    fn new(served: &watch::Receiver<Arc<Compiled>>) -> Self {
        Self { compiled: Arc::clone(&served.borrow()), shared: OnceCell::new() }
    }

    /// Returns the tenants that have a name wherever tenants share an address and port by names.
    fn owners(&self, name: &str) -> impl Iterator<Item = &TenantId> {
        let shared = self.shared.get_or_init(|| {
            let binds = self.compiled.snapshot.binds.values();
            binds.filter(|bind| !bind.names.is_empty()).cloned().collect()
        });
        let tables = shared.iter().flat_map(|bind| bind.names.values());
        tables.filter_map(move |table| table.owner(name))
    }

    /// Returns the entry of a link, as it is now, by which a caller was admitted; that of another listener where the same one is there no more.
    fn link(&self, id: &LinkId, admitted: &Link) -> Option<&Link> {
        let entries: Vec<&Link> = self.links(id)?.collect();
        let same = entries.iter().find(|entry| **entry == admitted);
        same.or_else(|| entries.first()).copied()
    }

    /// Returns true if a link is in a document.
    fn has(&self, id: &LinkId) -> bool {
        self.links(id).is_some_and(|mut links| links.next().is_some())
    }

    /// Returns the entries of a link in its tenant's document; `None` if the tenant is in none.
    fn links(&self, id: &LinkId) -> Option<impl Iterator<Item = &Link>> {
        let tenant = TenantId::new(&id.tenant).ok()?;
        let tenant = self.compiled.snapshot.tenants.get(&tenant)?;
        let links = tenant.listeners.iter().filter_map(|listener| match &listener.service {
            Service::Link(service) => Some(&service.links),
            _ => None,
        });
        Some(links.flatten().filter(|link| link.name == id.link))
    }
}

impl Documents for Served {
    fn right(&self, id: &LinkId, host: &HostPattern) -> Right {
        let links: Vec<&Link> = self.links(id).into_iter().flatten().collect();
        match &links[..] {
            [] => Right::Unknown,
            links if links.iter().any(|link| link.may_register(host)) => Right::Granted,
            _ => Right::Withdrawn,
        }
    }

    fn is_anothers(&self, tenant: &str, host: &HostPattern) -> bool {
        // A wildcard is what any name below it is.
        let name = host.to_string();
        let mut owners = self.owners(&name).peekable();
        owners.peek().is_some() && owners.all(|owner| owner.as_str() != tenant)
    }
}

fn after(seconds: u32, answer: Answered) -> Answered {
    Answered { retry_after: Some(seconds), ..answer }
}

fn rejected(host: &str, path: &str, reason: String) -> Rejected {
    let shown = |text: &str| text.chars().take(300).collect();
    Rejected { host: shown(host), path: shown(path), reason }
}

fn id(caller: &Caller) -> LinkId {
    LinkId { tenant: Arc::from(caller.tenant.as_str()), link: Arc::clone(&caller.link.name) }
}

#[cfg(test)]
mod tests;
