//! Routes that an agent said, and their registration: at once, and again where the configuration or another link did not allow all of them.

use std::sync::Arc;
use std::time::Duration;

use durward_link::control::Verdicts;
use durward_link::route::RoutesId;
use durward_link::{Route, RouteSet};
use durward_model::link::Link;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::registry::{Caller, Registry};
use crate::upstream::LinkState;
use crate::upstream::link::Word;

/// Time after which routes are registered again of which some were rejected: a document may grant them by then, or another link release them. Routes that were all accepted
/// are registered again if the document has changed, or another link has taken a name.
const AGAIN: Duration = Duration::from_secs(5);
/// Time after which the registry is asked again when it takes nothing for the moment.
const PAUSED: Duration = Duration::from_secs(1);

/// Routes that an agent said last.
#[derive(Debug, Default)]
pub(super) struct Said {
    routes: Arc<RouteSet>,
    id: RoutesId,
    link: Option<Arc<LinkState>>,
    /// Held while they are what the agent says.
    word: Option<Arc<Word>>,
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
    /// Link and number of its losses, as that registration began.
    basis: Option<(Link, u64)>,
    /// The same of the last registration, if it accepted all routes.
    accepted: Option<(Link, u64)>,
    /// Verdicts that the agent knows.
    told: Option<Verdicts>,
}

impl Said {
    /// Takes in routes; those that were not registered yet are forgotten.
    pub(super) fn say(&mut self, routes: RouteSet, link: &Arc<LinkState>, instance: &Arc<str>) {
        self.instance = Arc::clone(instance);
        self.stale = link.is_stale(&routes, instance);
        self.id = if self.stale { routes.id() } else { link.register(&routes, instance) };
        self.bytes = routes.routes().iter().map(size).sum();
        self.routes = Arc::new(routes);
        // Of what comes before its turn the last counts.
        if !self.has_turn {
            (self.has_turn, self.due) = (true, Some(link.next_registration().into()));
        }
        self.link = Some(Arc::clone(link));
        self.word = Some(link.say());
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
        let is_new = self.has_turn;
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
        let basis = Some((caller.link.clone(), caller.losses.count()));
        // Of agents that say different routes the last counts.
        if !is_new && (self.accepted == basis || !self.is_last()) {
            self.due = Some(Instant::now() + AGAIN);
            return;
        }
        (self.due, self.basis) = (None, basis);
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
        let are_accepted = verdicts.as_ref().is_some_and(|judged| judged.rejected.is_empty());
        self.accepted = self.basis.take().filter(|_| are_accepted);
        if !self.has_turn {
            let after = if verdicts.is_some() { AGAIN } else { PAUSED };
            self.due = Some(Instant::now() + after);
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

#[cfg(test)]
mod tests {
    use durward_link::control::Rejected;
    use durward_model::TenantId;
    use durward_model::route::HostPattern;

    use super::*;
    use crate::registry::{Answer, Joining, Tunnels};
    use crate::upstream::link::TenantLinks;

    /// Registry that rejects as many routes as it says.
    #[derive(Debug)]
    struct Rejecting(usize);

    impl Registry for Rejecting {
        fn call(&self, _: &Caller, _: &str, _: &[u8]) -> Option<Answer> {
            None
        }

        fn tunnels(&self, _: &Caller, _: &str, _: Tunnels, _: &[u8]) -> Answer {
            Answer { status: 503, body: String::new(), retry_after: None }
        }

        fn join(&self, _: &Joining, _: &[u8]) -> Answer {
            Answer { status: 503, body: String::new(), retry_after: None }
        }

        fn replace(&self, _: &Caller, routes: &RouteSet) -> Option<Verdicts> {
            let one = Rejected { host: String::new(), path: String::new(), reason: String::new() };
            let rejected = vec![one; self.0];
            Some(Verdicts { revision: routes.revision, rejected, ..Verdicts::default() })
        }
    }

    fn caller(link: &LinkState, hosts: &[&str]) -> Caller {
        let hosts = hosts.iter().map(|host| HostPattern::Exact((*host).into())).collect();
        Caller {
            tenant: TenantId::new("acme").unwrap(),
            link: Link { hosts, ..Link::new("onprem", Vec::new()) },
            client: [127, 0, 0, 1].into(),
            number: Caller::next_number(),
            losses: link.losses().clone(),
        }
    }

    fn test(body: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body);
    }

    #[test]
    fn routes_that_were_accepted_are_registered_again_once_a_name_is_lost_or_the_document_changes()
    {
        test(async {
            let links = TenantLinks::default();
            let link = links.named(&"onprem".into());
            let registry: Arc<dyn Registry> = Arc::new(Rejecting(0));
            let mut said = Said::default();
            said.say(RouteSet::new(1, Vec::new()), &link, &"a".into());
            said.register(Arc::clone(&registry), caller(&link, &["a.example"]));
            assert!(said.finish().await.is_some());

            let mut begins = |hosts: &[&str]| {
                said.register(Arc::clone(&registry), caller(&link, hosts));
                let begins = said.running.take().is_some();
                if begins {
                    said.accepted = said.basis.take();
                }
                assert!(begins || said.due().is_some(), "it is asked again");
                begins
            };

            assert!(!begins(&["a.example"]), "nothing has changed");
            link.losses().add();
            assert!(begins(&["a.example"]));
            assert!(!begins(&["a.example"]));
            assert!(begins(&["b.example"]));
        });
    }

    #[test]
    fn rejected_routes_are_tried_again_when_the_agent_that_spoke_later_has_left() {
        test(async {
            let links = TenantLinks::default();
            let link = links.named(&"onprem".into());
            let registry: Arc<dyn Registry> = Arc::new(Rejecting(1));
            let route = Route {
                host: "a.example".to_owned(),
                path: "/".to_owned(),
                exact: false,
                target: "app:80".parse().unwrap(),
                tunnel_only: false,
                passthrough: false,
                backend_tls: None,
                ingress: String::new(),
            };
            let (mut first, mut second) = (Said::default(), Said::default());
            first.say(RouteSet::new(1, vec![route]), &link, &"a".into());
            first.register(Arc::clone(&registry), caller(&link, &["a.example"]));
            assert!(first.finish().await.is_some());
            second.say(RouteSet::new(1, Vec::new()), &link, &"b".into());

            first.register(Arc::clone(&registry), caller(&link, &["a.example"]));
            assert!(!first.is_running(), "the later word counts");
            drop(second);
            first.register(Arc::clone(&registry), caller(&link, &["a.example"]));
            assert!(first.is_running());
        });
    }
}
