//! Routes of a running agent: those of its file, and those of its cluster's Ingresses where it registers them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use durward_agent::ingress::{self, Found, Objects};
use durward_agent::status::{LeftOut, Status};
use durward_agent::{Addresses, Services};
use durward_kube::ingress_watch::Objects as Seen;
use durward_kube::object::ObjectName;
use durward_link::control::fit::fitting;
use durward_link::{Route, RouteSet, Target};
use tokio::sync::watch;

/// Routes beyond what a link carries that are named.
const SHOWN: usize = 100;

/// Routes of an agent, from both places.
#[derive(Debug)]
pub(super) struct Registered {
    of_file: Mutex<Vec<Route>>,
    /// What was found in the cluster, and of which version of it.
    of_cluster: Mutex<(Found, u64)>,
    routes: watch::Sender<Arc<RouteSet>>,
    addresses: watch::Sender<Arc<Addresses>>,
    services_of_file: Mutex<Services>,
    services: watch::Sender<Arc<Services>>,
    /// Status that names the routes beyond what a link carries.
    status: OnceLock<Arc<Status>>,
}

impl Registered {
    /// Begins with the routes and services of the file.
    pub(super) fn new(of_file: RouteSet, services: Services) -> Self {
        let routes = watch::Sender::new(Arc::new(of_file.clone()));
        Self {
            of_file: Mutex::new(of_file.into_routes()),
            of_cluster: Mutex::default(),
            routes,
            addresses: watch::Sender::new(Arc::default()),
            services: watch::Sender::new(Arc::new(services.clone())),
            services_of_file: Mutex::new(services),
            status: OnceLock::new(),
        }
    }

    /// Names routes beyond what a link carries in a status from now on.
    pub(super) fn report_to(&self, status: &Arc<Status>) {
        let _ = self.status.set(Arc::clone(status));
    }

    /// Returns the routes, also later ones.
    pub(super) fn routes(&self) -> watch::Receiver<Arc<RouteSet>> {
        self.routes.subscribe()
    }

    /// Returns the addresses of targets that are not looked up, also later ones.
    pub(super) fn addresses(&self) -> watch::Receiver<Arc<Addresses>> {
        self.addresses.subscribe()
    }

    /// Returns the services that may be asked for, also later ones.
    pub(super) fn services(&self) -> watch::Receiver<Arc<Services>> {
        self.services.subscribe()
    }

    /// Takes over the services of the file.
    pub(super) fn set_services(&self, services: Services) {
        *self.services_of_file.lock().unwrap_or_else(PoisonError::into_inner) = services;
        self.publish();
    }

    /// Publishes the services of the file and those of the cluster.
    fn publish_services(&self, of_cluster: &Services) {
        let of_file = self.services_of_file.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Services = of_file.union(of_cluster).cloned().collect();
        self.services.send_if_modified(|known| {
            let is_other = **known != all;
            if is_other {
                *known = Arc::new(all);
            }
            is_other
        });
    }

    /// Takes over the routes of the file. Returns false if they are as before.
    pub(super) fn set_file(&self, routes: Vec<Route>) -> bool {
        let mut of_file = self.of_file.lock().unwrap_or_else(PoisonError::into_inner);
        if *of_file == routes {
            return false;
        }
        *of_file = routes;
        drop(of_file);
        self.publish();
        true
    }

    /// Takes over the routes of the cluster's Ingresses.
    pub(super) fn set_cluster(&self, found: Found, observed: u64) {
        *self.of_cluster.lock().unwrap_or_else(PoisonError::into_inner) = (found, observed);
        self.publish();
    }

    /// Publishes both; of two for one host and path that of the file counts.
    fn publish(&self) {
        let of_file = self.of_file.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = self.of_cluster.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, observed) = &*cluster;
        let own: BTreeSet<_> = of_file.iter().map(key).collect();
        let known = |route: &&Route| !own.contains(&key(route));
        let routes = of_file.iter().chain(found.routes.iter().filter(known)).cloned();
        let (routes, beyond) = fitting(routes);
        self.report_beyond(beyond);
        // A stream may come for a route as soon as it is known.
        self.addresses.send_replace(Arc::new(found.addresses.clone()));
        self.publish_services(&found.services);
        self.routes.send_if_modified(|set| {
            let next = RouteSet::new(set.revision + 1, routes).observed_at(*observed);
            let is_other = next.routes() != set.routes();
            if is_other {
                *set = Arc::new(next);
            }
            is_other
        });
    }
}

impl Registered {
    /// Names the routes that are beyond what a link carries.
    fn report_beyond(&self, beyond: Vec<(Route, String)>) {
        for (route, why) in beyond.iter().take(SHOWN) {
            tracing::warn!(ingress = route.ingress, why, "a route is not registered");
        }
        if let Some(status) = self.status.get() {
            let of = |(route, reason): (Route, String)| LeftOut { ingress: route.ingress, reason };
            status.set_beyond(beyond.into_iter().take(SHOWN).map(of).collect());
        }
    }
}

/// Returns what a route is for.
fn key(route: &Route) -> (&str, &str, bool, bool) {
    (&route.host, &route.path, route.exact, route.passthrough)
}

/// Reads routes of objects beside the streams: thousands of Ingresses take longer than those may wait. `None` if that failed, which a hook has reported.
pub(super) async fn found(
    objects: Objects,
    controller: Option<(Target, SocketAddr)>,
) -> Option<(Objects, Found)> {
    let reading = tokio::task::spawn_blocking(move || {
        let found = ingress::found(&objects, controller.as_ref());
        (objects, found)
    });
    reading.await.ok()
}

/// Logs what is new of the Ingresses.
pub(super) fn report(before: Option<&Found>, now: &Found, routing_mode: &str) {
    let Some(before) = before else {
        let (ingresses, routes) = (now.ingresses.len(), now.routes.len());
        tracing::info!(ingresses, routes, routing_mode, "Syncing existing ingresses");
        report_left_out(None, now);
        return;
    };
    let (of_before, of_now) = (by_ingress(before), by_ingress(now));
    let of = |found: &BTreeMap<&str, Vec<_>>, ingress: &str| {
        found.get(ingress).cloned().unwrap_or_default()
    };
    let all: BTreeSet<&str> = of_before.keys().chain(of_now.keys()).copied().collect();
    for ingress in all {
        let (was, is) = (of(&of_before, ingress), of(&of_now, ingress));
        let action = match (was.is_empty(), is.is_empty()) {
            _ if was == is => continue,
            (true, _) => "add",
            (_, true) => "delete",
            _ => "update",
        };
        tracing::info!(ingress = %ingress, action, routes = is.len(), "Ingress event detected");
        let known: BTreeSet<_> = was.iter().collect();
        for route in is.iter().filter(|route| !known.contains(route)) {
            let (hostname, path) = (&route.host, &route.path);
            tracing::debug!(hostname, path, "Registering route with controller");
        }
    }
    report_left_out(Some(before), now);
}

fn by_ingress(found: &Found) -> BTreeMap<&str, Vec<&Route>> {
    let mut routes: BTreeMap<&str, Vec<&Route>> = BTreeMap::new();
    for route in &found.routes {
        routes.entry(&route.ingress).or_default().push(route);
    }
    routes
}

fn report_left_out(before: Option<&Found>, now: &Found) {
    let known: BTreeSet<_> = before.into_iter().flat_map(|before| &before.left_out).collect();
    for one in &now.left_out {
        if !known.contains(one) {
            let (ingress, reason) = one;
            tracing::warn!(ingress, reason, "a part of an Ingress is not registered");
        }
    }
}

pub(super) fn left_out(found: &Found) -> Vec<LeftOut> {
    let of = |(ingress, reason): &(String, String)| LeftOut {
        ingress: ingress.clone(),
        reason: reason.clone(),
    };
    // A page for people.
    found.left_out.iter().take(1_000).map(of).collect()
}

pub(super) fn objects(seen: Seen) -> Objects {
    let key = |name: ObjectName| (name.namespace, name.name);
    Objects {
        ingresses: seen.ingresses.into_values().collect(),
        services: seen.services.into_iter().map(|(name, it)| (key(name), it)).collect(),
        balanced: seen.balanced.into_iter().map(|(name, it)| (key(name), it)).collect(),
    }
}
