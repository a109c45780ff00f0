//! Routes that an agent said, and their registration: at once, and again where the configuration or another link did not allow all of them.

use std::sync::Arc;
use std::time::Duration;

use durward_link::control::Verdicts;
use durward_link::route::RoutesId;
use durward_link::{Route, RouteSet};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::registry::{Caller, Registry};
use crate::upstream::LinkState;

/// Time after which routes are registered again of which some were rejected: a document may grant them by then, or another link release them.
const AGAIN: Duration = Duration::from_secs(5);
/// Time after which the registry is asked again when it takes nothing for the moment.
const PAUSED: Duration = Duration::from_secs(1);

/// Routes that an agent said last.
#[derive(Debug, Default)]
pub(super) struct Said {
    routes: Arc<RouteSet>,
    id: RoutesId,
    link: Option<Arc<LinkState>>,
    /// Agent that said them.
    instance: Arc<str>,
    /// True while another agent knows a later version of the cluster.
    stale: bool,
    bytes: usize,
    /// Time of the next registration.
    due: Option<Instant>,
    /// True if that time was taken of the link's rate.
    has_turn: bool,
    /// Registration that is under way: comparing thousands of routes takes longer than a core may be held up.
    running: Option<JoinHandle<Option<Verdicts>>>,
    /// Verdicts that the agent knows.
    told: Option<Verdicts>,
}

impl Said {
    /// Takes in routes; those that were not registered yet are forgotten.
    pub(super) fn say(&mut self, routes: RouteSet, link: &Arc<LinkState>, instance: &Arc<str>) {
        self.instance = Arc::clone(instance);
        self.stale = link.is_stale(&routes, instance);
        self.id = if self.stale { routes.id() } else { link.register(&routes, instance) };
        self.bytes = routes.routes.iter().map(size).sum();
        self.routes = Arc::new(routes);
        // Of what comes before its turn the last counts.
        if !self.has_turn {
            (self.has_turn, self.due) = (true, Some(link.next_registration().into()));
        }
        self.link = Some(Arc::clone(link));
    }

    /// Returns the time of the next registration; `None` if none is wanted.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Returns true while a registration is under way.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Begins to register the routes.
    pub(super) fn register(&mut self, registry: Arc<dyn Registry>, caller: Caller) {
        self.has_turn = false;
        if self.stale
            && let Some(link) = &self.link
        {
            self.stale = link.is_stale(&self.routes, &self.instance);
            if self.stale {
                self.due = Some(Instant::now() + AGAIN);
                return;
            }
            link.register(&self.routes, &self.instance);
        }
        // A link without hosts registers nothing, so nothing is said of what it has.
        if caller.link.hosts.is_empty() {
            self.due = Some(Instant::now() + AGAIN);
            return;
        }
        self.due = None;
        let routes = Arc::clone(&self.routes);
        let running = move || registry.replace(&caller, &routes);
        self.running = Some(tokio::task::spawn_blocking(running));
    }

    /// Registers nothing until the agent says routes again.
    pub(super) fn stop(&mut self) {
        (self.due, self.has_turn) = (None, false);
    }

    /// Completes with the registration that is under way; returns verdicts that the agent does not know yet. May be dropped and called again.
    pub(super) async fn finish(&mut self) -> Option<Verdicts> {
        let verdicts = self.running.as_mut()?.await;
        self.running = None;
        // A panic was reported by its hook.
        let verdicts = verdicts.ok()?;
        let again = match &verdicts {
            None => Some(PAUSED),
            // Of agents that say different routes the last counts.
            Some(judged) if !judged.rejected.is_empty() && self.is_last() => Some(AGAIN),
            Some(_) => None,
        };
        if !self.has_turn {
            self.due = again.map(|after| Instant::now() + after);
        }
        let verdicts = verdicts.filter(|now| self.told.as_ref() != Some(now))?;
        self.told = Some(verdicts.clone());
        Some(verdicts)
    }

    /// Returns the memory of the routes, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_last(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.said_last(&self.id))
    }
}

fn size(route: &Route) -> usize {
    size_of::<Route>() + route.host.len() + route.path.len() + route.ingress.len()
}
