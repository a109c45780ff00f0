//! Routes of a running agent: those of its file, and those of its cluster's Ingresses where it registers them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use durward_agent::Addresses;
use durward_agent::ingress::{self, Found, Objects};
use durward_agent::status::{LeftOut, Status};
use durward_kube::ingress_watch::{IngressWatch, Objects as Seen};
use durward_kube::object::ObjectName;
use durward_link::{Route, RouteSet};
use tokio::sync::watch;

/// Time in which changes of objects are gathered.
const GATHER: Duration = Duration::from_millis(20);

/// Routes of an agent, from both places.
#[derive(Debug)]
pub(super) struct Registered {
    of_file: Mutex<Vec<Route>>,
    of_cluster: Mutex<Found>,
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

    fn set_cluster(&self, found: Found) {
        *self.of_cluster.lock().unwrap_or_else(PoisonError::into_inner) = found;
        self.publish();
    }

    /// Publishes both; of two for one host and path that of the file counts.
    fn publish(&self) {
        let of_file = self.of_file.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.of_cluster.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |one: &Route, other: &Route| {
            (&one.host, &one.path, one.exact) == (&other.host, &other.path, other.exact)
        };
        let known = |route: &&Route| !of_file.iter().any(|own| is_same(own, route));
        let routes = of_file.iter().chain(found.routes.iter().filter(known)).cloned().collect();
        // A stream may come for a route as soon as it is known.
        self.addresses.send_replace(Arc::new(found.addresses.clone()));
        self.routes.send_if_modified(|set| {
            let next = RouteSet::new(set.revision + 1, routes);
            let is_other = next.routes != set.routes;
            if is_other {
                *set = Arc::new(next);
            }
            is_other
        });
    }
}

/// Registers the Ingresses of a cluster as they change, without end. `ready` is set once they were read the first time.
pub(super) async fn follow(
    mut watch: IngressWatch,
    registered: Arc<Registered>,
    status: Arc<Status>,
    ready: watch::Sender<bool>,
) {
    tracing::info!("Initializing gateway proxy detection...");
    let (mut before, mut kind) = (None, "");
    loop {
        watch.changed().await;
        tokio::time::sleep(GATHER).await;
        let objects = objects(watch.objects());
        let endpoint = ingress::public_endpoint(&objects);
        let now = if endpoint.is_some() { "public" } else { "private" };
        if now != std::mem::replace(&mut kind, now) {
            match endpoint {
                None => tracing::info!("Private cluster detected - using tunnel routing"),
                Some(endpoint) => tracing::info!(
                    endpoint,
                    "Public cluster detected - direct routing is not offered, using tunnel routing"
                ),
            }
            status.cluster(now);
        }
        let found = ingress::found(&objects);
        report(before.as_ref(), &found);
        status.left_out(left_out(&found));
        status.set_ingresses(ingress::hosts(&objects));
        registered.set_cluster(found.clone());
        if before.replace(found).is_none() {
            tracing::info!("Gateway proxy ingress watcher started successfully");
            ready.send_replace(true);
        }
    }
}

/// Logs what is new of the Ingresses.
fn report(before: Option<&Found>, now: &Found) {
    let Some(before) = before else {
        let (ingresses, routes) = (now.ingresses.len(), now.routes.len());
        tracing::info!(ingresses, routes, routing_mode = "tunnel", "Syncing existing ingresses");
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

fn left_out(found: &Found) -> Vec<LeftOut> {
    let of = |(ingress, reason): &(String, String)| LeftOut {
        ingress: ingress.clone(),
        reason: reason.clone(),
    };
    // A page for people.
    found.left_out.iter().take(1_000).map(of).collect()
}

fn objects(seen: Seen) -> Objects {
    let key = |name: ObjectName| (name.namespace, name.name);
    Objects {
        ingresses: seen.ingresses.into_values().collect(),
        services: seen.services.into_iter().map(|(name, it)| (key(name), it)).collect(),
        balanced: seen.balanced.into_iter().map(|(name, it)| (key(name), it)).collect(),
    }
}
