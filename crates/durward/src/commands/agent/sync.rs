//! Routes of a running agent: those of its file, and those of its cluster's Ingresses where it registers them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use durward_agent::Addresses;
use durward_agent::ingress::{Found, Objects};
use durward_agent::status::LeftOut;
use durward_kube::ingress_watch::Objects as Seen;
use durward_kube::object::ObjectName;
use durward_link::{Route, RouteSet};
use tokio::sync::watch;

/// Routes of an agent, from both places.
#[derive(Debug)]
pub(super) struct Registered {
    of_file: Mutex<Vec<Route>>,
    /// What was found in the cluster, and of which version of it.
    of_cluster: Mutex<(Found, u64)>,
    routes: watch::Sender<Arc<RouteSet>>,
    addresses: watch::Sender<Arc<Addresses>>,
}

impl Registered {
    /// Begins with the routes of the file.
    pub(super) fn new(of_file: RouteSet) -> Self {
        let routes = watch::Sender::new(Arc::new(of_file.clone()));
        Self {
            of_file: Mutex::new(of_file.routes),
            of_cluster: Mutex::default(),
            routes,
            addresses: watch::Sender::new(Arc::default()),
        }
    }

    /// Returns the routes, also later ones.
    pub(super) fn routes(&self) -> watch::Receiver<Arc<RouteSet>> {
        self.routes.subscribe()
    }

    /// Returns the addresses of targets that are not looked up, also later ones.
    pub(super) fn addresses(&self) -> watch::Receiver<Arc<Addresses>> {
        self.addresses.subscribe()
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
        let is_same = |one: &Route, other: &Route| {
            let key = |route: &Route| (route.exact, route.passthrough);
            (&one.host, &one.path, key(one)) == (&other.host, &other.path, key(other))
        };
        let known = |route: &&Route| !of_file.iter().any(|own| is_same(own, route));
        let routes = of_file.iter().chain(found.routes.iter().filter(known)).cloned().collect();
        // A stream may come for a route as soon as it is known.
        self.addresses.send_replace(Arc::new(found.addresses.clone()));
        self.routes.send_if_modified(|set| {
            let next = RouteSet::new(set.revision + 1, routes).observed_at(*observed);
            let is_other = next.routes != set.routes;
            if is_other {
                *set = Arc::new(next);
            }
            is_other
        });
    }
}

/// Logs what is new of the Ingresses.
pub(super) fn report(before: Option<&Found>, now: &Found, routing_mode: &str) {
    let Some(before) = before else {
        let (ingresses, routes) = (now.ingresses.len(), now.routes.len());
        tracing::info!(ingresses, routes, routing_mode, "Syncing existing ingresses");
        report_left_out(None, now);
        return;
    };
    let of = |found: &Found, ingress: &str| -> Vec<Route> {
        found.routes.iter().filter(|route| route.ingress == ingress).cloned().collect()
    };
    let all = before.ingresses.keys().chain(now.ingresses.keys());
    let all: BTreeSet<&String> = all.collect();
    for ingress in all {
        let (was, is) = (of(before, ingress), of(now, ingress));
        let action = match (was.is_empty(), is.is_empty()) {
            _ if was == is => continue,
            (true, _) => "add",
            (_, true) => "delete",
            _ => "update",
        };
        tracing::info!(ingress = %ingress, action, routes = is.len(), "Ingress event detected");
        for route in is.iter().filter(|route| !was.contains(route)) {
            let (hostname, path) = (&route.host, &route.path);
            tracing::debug!(hostname, path, "Registering route with controller");
        }
    }
    report_left_out(Some(before), now);
}

fn report_left_out(before: Option<&Found>, now: &Found) {
    for one in &now.left_out {
        if !before.is_some_and(|before| before.left_out.contains(one)) {
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
