//! Registry of agents' routes: decides registrations, says them to the store as changes, and keeps them in the state directory.
//!
//! A request never waits for it: what is registered is part of the snapshot. Presence of agents is not kept.

mod disk;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use durward_control::registry::{
    Answer as Answered, Caller as Claimant, Changed, LinkId, Operation, Registration,
    Registry as Claims,
};
use durward_control::{Compiled, Feed};
use durward_link::RouteSet;
use durward_link::control::{REJECTED, Rejected, Verdicts};
use durward_model::route::HostPattern;
use durward_model::{Service, TenantId};
use durward_proxy::registry::{Answer, Caller, Registry};
use tokio::sync::watch;

use disk::Disk;

/// Operations of a link over REST a second, and how many may come at once.
const RATE: f64 = 100.0;
const BURST: f64 = 500.0;
/// Time that an operation waits for the disk.
const STORED: Duration = Duration::from_secs(10);

/// Registry of agents' routes.
#[derive(Debug)]
pub(crate) struct Links {
    state: Mutex<State>,
    feed: Arc<Feed>,
    /// The configuration that is served.
    served: watch::Receiver<Arc<Compiled>>,
    disk: Option<Disk>,
    /// True while a younger process starts, which has read the claims already.
    paused: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    claims: Claims,
    /// What each link has left of its rate, and when that was computed.
    rates: BTreeMap<LinkId, (f64, Instant)>,
}

/// Reads the claims in a state directory.
pub(crate) fn read(directory: Option<&Path>) -> Claims {
    let mut claims = Claims::default();
    if let Some(directory) = directory {
        disk::read(directory, &mut claims);
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
        let state = Mutex::new(State { claims, rates: BTreeMap::new() });
        Ok(Self { state, feed, served, disk, paused: AtomicBool::new(false) })
    }

    /// Takes no registrations while a younger process starts: it would not know of them.
    pub(crate) fn pause(&self) {
        self.paused.store(true, Relaxed);
    }

    /// Takes registrations again.
    pub(crate) fn resume(&self) {
        self.paused.store(false, Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the document of a link's tenant lets it have a host name at present.
    fn is_granted(&self, id: &LinkId, host: &HostPattern) -> bool {
        let served = Arc::clone(&self.served.borrow());
        let Ok(tenant) = TenantId::new(&id.tenant) else { return false };
        let Some(tenant) = served.snapshot.tenants.get(&tenant) else { return false };
        let links = tenant.listeners.iter().filter_map(|listener| match &listener.service {
            Service::Link(service) => Some(&service.links),
            _ => None,
        });
        links.flatten().any(|link| link.name == id.link && link.may_register(host))
    }

    /// Says what changed. Called with the state locked, so that the store hears of changes in their order.
    fn say(&self, state: &State, changed: &Changed) {
        self.feed.say(state.claims.change(changed));
        if let Some(disk) = self.disk.as_ref().filter(|_| !changed.is_empty()) {
            disk.keep(changed.links().map(|id| (id.clone(), state.claims.to_json(id))));
        }
    }

    fn decide(&self, caller: &Caller, operation: Operation, body: &[u8]) -> Answered {
        let id = id(caller);
        let mut state = self.state();
        let now = Instant::now();
        if !state.may_go_on(&id, now) {
            let message = "too many operations of this link: slow down";
            let answer = Answered::failure(429, "too_many_requests", "", message);
            return Answered { retry_after: Some(1), ..answer };
        }
        let claimant = Claimant { id: &id, link: &caller.link };
        let is_granted = |id: &LinkId, host: &HostPattern| self.is_granted(id, host);
        let answer = state.claims.call(claimant, (operation, body), &is_granted, now);
        self.say(&state, &answer.changed);
        answer
    }
}

impl State {
    /// Takes one operation from a link's rate; false if there is none left.
    fn may_go_on(&mut self, id: &LinkId, now: Instant) -> bool {
        let (left, at) = self.rates.entry(id.clone()).or_insert((BURST, now));
        *left = (*left + now.duration_since(*at).as_secs_f64() * RATE).min(BURST);
        *at = now;
        let may = *left >= 1.0;
        *left -= if may { 1.0 } else { 0.0 };
        may
    }
}

impl Registry for Links {
    fn call(&self, caller: &Caller, operation: &str, body: &[u8]) -> Option<Answer> {
        let operation = Operation::of(operation)?;
        let mut answer = if self.paused.load(Relaxed) {
            let message = "the gateway is being replaced by a younger process: try again";
            let answer = Answered::failure(503, "restarting", "", message);
            Answered { retry_after: Some(1), ..answer }
        } else {
            self.decide(caller, operation, body)
        };
        let stored = self.disk.as_ref().map_or(Ok(()), |disk| disk.wait(STORED));
        // One that was stored before and is said again must not be confirmed while the disk fails.
        if let Err(why) = stored.as_ref().map_err(|why| format!("claims cannot be stored: {why}"))
            && answer.status == 200
        {
            answer = Answered::failure(503, "not_stored", "", &why);
            answer.retry_after = Some(5);
        }
        let Answered { status, body, retry_after, .. } = answer;
        tracing::info!(
            tenant = %caller.tenant, link = %caller.link.name, client = %caller.client, operation = operation.name(), status,
            "a registration was answered"
        );
        Some(Answer { status, body: body.to_string(), retry_after })
    }

    fn replace(&self, caller: &Caller, routes: &RouteSet) -> Verdicts {
        let mut verdicts = Verdicts { revision: routes.revision, ..Verdicts::default() };
        if self.paused.load(Relaxed) {
            return verdicts;
        }
        let rejected = |host: &str, path: &str, reason: String| Rejected {
            host: host.chars().take(300).collect(),
            path: path.chars().take(300).collect(),
            reason,
        };
        let mut wanted = Vec::with_capacity(routes.routes.len());
        for route in &routes.routes {
            let matches = (route.host.as_str(), route.path.as_str(), route.exact);
            let target = (route.target.host(), route.target.port());
            match Registration::read(matches, target, &route.ingress) {
                Ok(registration) => wanted.push(registration),
                Err(why) => verdicts.rejected.push(rejected(&route.host, &route.path, why)),
            }
        }
        let id = id(caller);
        let claimant = Claimant { id: &id, link: &caller.link };
        let is_granted = |id: &LinkId, host: &HostPattern| self.is_granted(id, host);
        let mut state = self.state();
        let synced = state.claims.replace(claimant, wanted, &is_granted);
        self.say(&state, &synced.changed);
        drop(state);
        for (one, why) in synced.rejected {
            let (host, path) = (one.route.host.to_string(), one.route.path.to_string());
            verdicts.rejected.push(rejected(&host, &path, why.to_string()));
        }
        if !synced.changed.is_empty() || !verdicts.rejected.is_empty() {
            tracing::info!(
                tenant = %caller.tenant, link = %caller.link.name, client = %caller.client, routes = synced.routes,
                rejected = verdicts.rejected.len(), "an agent's routes are registered"
            );
        }
        verdicts.served = u32::try_from(synced.routes).unwrap_or(u32::MAX);
        verdicts.rejected.truncate(REJECTED);
        verdicts
    }
}

fn id(caller: &Caller) -> LinkId {
    LinkId { tenant: Arc::from(caller.tenant.as_str()), link: Arc::clone(&caller.link.name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S3.31+
    #[test]
    fn operations_of_one_link_have_a_rate_and_take_none_of_anothers() {
        let id = |link: &str| LinkId { tenant: Arc::from("acme"), link: Arc::from(link) };
        let (mut state, now) = (State::default(), Instant::now());

        let at_once = (0..1_000).filter(|_| state.may_go_on(&id("a"), now)).count();
        let later = now + Duration::from_millis(100);
        let a_moment_later = (0..1_000).filter(|_| state.may_go_on(&id("a"), later)).count();

        assert_eq!((at_once, a_moment_later), (500, 10));
        assert!(state.may_go_on(&id("b"), now));
    }
}
