//! Status of an agent, for `durward agent status` and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use durward_link::control::{Purpose, Rejected, Verdicts};
use durward_link::route::{Route, RouteSet, RoutesId};
use durward_link::session::agent::Declined;
use serde::{Deserialize, Serialize};

use crate::carriers::printable;
use crate::ingress::IngressHosts;

/// State of an agent; counters only rise.
#[derive(Debug, Default)]
pub struct Status {
    carriers: Mutex<BTreeMap<u64, Entry>>,
    last_error: Mutex<Option<String>>,
    held: Mutex<Option<RoutesId>>,
    next: AtomicU64,
    opened: AtomicU64,
    ended: AtomicU64,
    forbidden: AtomicU64,
    unreachable: AtomicU64,
    without_memory: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    dials: AtomicU64,
    failed_dials: AtomicU64,
    /// Routes as the gateway judged them last.
    judged: Mutex<Judged>,
    registered: AtomicU64,
    /// Parts of the cluster's Ingresses that are not registered.
    left_out: Mutex<Vec<LeftOut>>,
    /// Routes beyond what a link carries.
    beyond: Mutex<Vec<LeftOut>>,
    cluster: Mutex<Option<ClusterReport>>,
    ingresses: Mutex<Arc<Vec<IngressHosts>>>,
}

#[derive(Debug, Default)]
struct Judged {
    served: BTreeSet<Route>,
    /// Number of routes that are served; those named may be fewer.
    count: usize,
    rejected: Vec<Rejected>,
}

/// Writes one family of samples.
fn family(text: &mut String, (name, kind, help): (&str, &str, &str), samples: &[(&str, u64)]) {
    // A string takes all that is written.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

/// Returns what the gateway said of a route, as it may be shown.
fn shown(one: &Rejected) -> Rejected {
    let Rejected { host, path, reason } = one;
    Rejected { host: printable(host), path: printable(path), reason: printable(reason) }
}

/// Type of the cluster, and the way of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// `private` or `public`.
    pub kind: String,
    /// Reason for that.
    pub reason: String,
    /// `tunnel`, `direct` or `dual`.
    pub routing_mode: String,
    /// Address and port that is offered for direct routes.
    pub public_endpoint: Option<String>,
}

/// A part of an Ingress that is not registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The Ingress, as `NAMESPACE/NAME`.
    pub ingress: String,
    /// Parts that are not registered, each with the reason.
    pub reason: String,
}

#[derive(Debug)]
struct Entry {
    purpose: Purpose,
    gateway: String,
    since: Instant,
    replica: Option<String>,
    draining: bool,
}

/// Carrier as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarrierReport {
    /// Use of the carrier.
    pub purpose: Purpose,
    /// Address that was dialled.
    pub gateway: String,
    /// Seconds since it was dialled.
    pub seconds: u64,
    /// `connecting`, `up` or `draining`.
    pub state: String,
    /// Process of the gateway that has it.
    pub replica: Option<String>,
}

/// State of an agent at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// True if the gateway can open streams.
    pub ready: bool,
    /// Carriers.
    pub carriers: Vec<CarrierReport>,
    /// Routes that the gateway holds, if it said so.
    pub routes_held: Option<RoutesId>,
    /// Open streams.
    pub streams: u64,
    /// Streams that were connected to a backend.
    pub streams_opened: u64,
    /// Streams declined because the agent's configuration forbids the target.
    pub streams_forbidden: u64,
    /// Streams declined because the backend could not be reached.
    pub streams_unreachable: u64,
    /// Number of routes that the gateway serves, if it said so.
    #[serde(default)]
    pub routes_served: usize,
    /// Routes that the gateway does not serve.
    #[serde(default)]
    pub routes_rejected: Vec<Rejected>,
    /// Parts of the cluster's Ingresses that are not registered.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// Type of the cluster, where Ingresses are read.
    #[serde(default)]
    pub cluster: Option<ClusterReport>,
    /// Last reason for which a carrier ended or could not be dialled.
    pub last_error: Option<String>,
}

/// Carrier that is counted while this lives.
#[derive(Debug)]
pub(crate) struct Counted {
    status: Arc<Status>,
    number: u64,
}

/// Stream that is counted as open while this lives.
#[derive(Debug)]
pub(crate) struct CountedStream<'a>(&'a Status);

impl Drop for CountedStream<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Relaxed);
    }
}

impl Status {
    /// Returns the present state.
    #[must_use]
    pub fn report(&self) -> Report {
        let (routes_served, routes_rejected) = {
            let judged = lock(&self.judged);
            (judged.count, judged.rejected.clone())
        };
        let shown = |entry: &Entry| CarrierReport {
            purpose: entry.purpose,
            gateway: entry.gateway.clone(),
            seconds: Duration::as_secs(&entry.since.elapsed()),
            state: match entry {
                Entry { draining: true, .. } => "draining".to_owned(),
                Entry { replica: None, .. } => "connecting".to_owned(),
                Entry { .. } => "up".to_owned(),
            },
            replica: entry.replica.clone(),
        };
        let carriers: Vec<_> = lock(&self.carriers).values().map(shown).collect();
        let is_up = |one: &CarrierReport| one.purpose == Purpose::Data && one.state == "up";
        Report {
            ready: carriers.iter().any(is_up),
            carriers,
            routes_held: lock(&self.held).clone(),
            streams: self.opened.load(Relaxed)
                - self.ended.load(Relaxed).min(self.opened.load(Relaxed)),
            streams_opened: self.opened.load(Relaxed),
            streams_forbidden: self.forbidden.load(Relaxed),
            streams_unreachable: self.unreachable.load(Relaxed),
            routes_served,
            routes_rejected,
            left_out: [&self.left_out, &self.beyond].map(|one| lock(one).clone()).concat(),
            cluster: lock(&self.cluster).clone(),
            last_error: lock(&self.last_error).clone(),
        }
    }

    /// Takes note of what of the cluster's Ingresses is not registered.
    pub fn left_out(&self, left_out: Vec<LeftOut>) {
        *lock(&self.left_out) = left_out;
    }

    /// Takes note of the routes that are beyond what a link carries.
    pub fn set_beyond(&self, beyond: Vec<LeftOut>) {
        *lock(&self.beyond) = beyond;
    }

    /// Takes note of the hosts of the cluster's Ingresses.
    pub fn set_ingresses(&self, hosts: Vec<IngressHosts>) {
        *lock(&self.ingresses) = Arc::new(hosts);
    }

    /// Returns the hosts of the cluster's Ingresses.
    #[must_use]
    pub fn ingresses(&self) -> Arc<Vec<IngressHosts>> {
        Arc::clone(&lock(&self.ingresses))
    }

    /// Takes note of the type of the cluster.
    pub fn set_cluster(&self, cluster: Option<ClusterReport>) {
        *lock(&self.cluster) = cluster;
    }

    /// Returns the number of routes that the gateway serves.
    #[must_use]
    pub fn routes_served(&self) -> usize {
        lock(&self.judged).count
    }

    /// Takes note of what the gateway said of a set of routes.
    pub(crate) fn judged(&self, routes: &RouteSet, verdicts: &Verdicts) {
        if routes.revision != verdicts.revision {
            return;
        }
        let is_served = |route: &&Route| {
            let is_it = |one: &Rejected| one.host == route.host && one.path == route.path;
            !verdicts.rejected.iter().any(is_it)
        };
        let mut served: BTreeSet<Route> =
            routes.routes().iter().filter(is_served).cloned().collect();
        let mut judged = lock(&self.judged);
        let count = verdicts.served as usize;
        if served.len() > count {
            // Some that are not served are not named, so nothing is known of those that are new.
            served.retain(|route| judged.served.contains(route));
        }
        let rejected: Vec<Rejected> = verdicts.rejected.iter().map(shown).collect();
        for route in served.difference(&judged.served) {
            self.registered.fetch_add(1, Relaxed);
            tracing::info!(
                hostname = route.host,
                path = route.path,
                "Route registered successfully"
            );
        }
        for route in judged.served.difference(&served) {
            tracing::info!(hostname = route.host, path = route.path, "Route unregistered");
        }
        for one in rejected.iter().filter(|one| !judged.rejected.contains(one)) {
            tracing::warn!(
                hostname = one.host,
                path = one.path,
                reason = one.reason,
                "the gateway does not serve a route"
            );
        }
        *judged = Judged { served, count, rejected };
    }

    /// Writes counters and gauges in the text format of Prometheus.
    #[must_use]
    pub fn metrics(&self) -> String {
        let report = self.report();
        let up = |purpose| {
            let is = |one: &&CarrierReport| one.purpose == purpose && one.state != "connecting";
            report.carriers.iter().filter(is).count() as u64
        };
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
            family(&mut text, (name, kind, help), samples);
        };
        family(
            "durward_agent_carriers",
            "gauge",
            "Open carriers.",
            &[
                (r#"{purpose="control"}"#, up(Purpose::Control)),
                (r#"{purpose="data"}"#, up(Purpose::Data)),
            ],
        );
        family("durward_agent_streams", "gauge", "Open streams.", &[("", report.streams)]);
        family(
            "durward_agent_streams_total",
            "counter",
            "Streams that the gateway asked for.",
            &[
                (r#"{outcome="connected"}"#, report.streams_opened),
                (r#"{outcome="forbidden"}"#, report.streams_forbidden),
                (r#"{outcome="unreachable"}"#, report.streams_unreachable),
                (r#"{outcome="no_memory"}"#, self.without_memory.load(Relaxed)),
            ],
        );
        family(
            "durward_agent_bytes_total",
            "counter",
            "Bytes of streams that have ended.",
            &[
                (r#"{direction="to_backend"}"#, self.sent.load(Relaxed)),
                (r#"{direction="from_backend"}"#, self.received.load(Relaxed)),
            ],
        );
        family(
            "durward_agent_dials_total",
            "counter",
            "Attempts to dial the gateway.",
            &[
                (r#"{outcome="connected"}"#, self.dials.load(Relaxed)),
                (r#"{outcome="failed"}"#, self.failed_dials.load(Relaxed)),
            ],
        );
        self.route_metrics(&report, &mut text);
        text
    }

    fn route_metrics(&self, report: &Report, text: &mut String) {
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
            family(text, (name, kind, help), samples);
        };
        let served = report.routes_served as u64;
        let registered = self.registered.load(Relaxed);
        family(
            "gateway_routes_registered_total",
            "counter",
            "Routes that the gateway began to serve.",
            &[("", registered)],
        );
        family(
            "gateway_routes_active",
            "gauge",
            "Routes that the gateway serves.",
            &[("", served)],
        );
        let kinds = ["private", "public"].map(|kind| {
            let is = report.cluster.as_ref().is_some_and(|cluster| cluster.kind == kind);
            (format!("{{type=\"{kind}\"}}"), u64::from(is))
        });
        let kinds = kinds.each_ref().map(|(labels, value)| (labels.as_str(), *value));
        family(
            "gateway_cluster_type",
            "gauge",
            "1 for the type of the cluster, by the address of its ingress controller.",
            &kinds,
        );
        let modes = ["tunnel", "direct", "dual"].map(|mode| {
            let is = report.cluster.as_ref().is_some_and(|cluster| cluster.routing_mode == mode);
            (format!("{{mode=\"{mode}\"}}"), u64::from(is))
        });
        let modes = modes.each_ref().map(|(labels, value)| (labels.as_str(), *value));
        family(
            "gateway_routing_mode",
            "gauge",
            "1 for the way of requests that is wanted where the cluster is of its type.",
            &modes,
        );
    }

    pub(crate) fn carrier(self: &Arc<Self>, purpose: Purpose, gateway: String) -> Counted {
        let number = self.next.fetch_add(1, Relaxed);
        let (since, replica, draining) = (Instant::now(), None, false);
        let entry = Entry { purpose, gateway, since, replica, draining };
        lock(&self.carriers).insert(number, entry);
        Counted { status: Arc::clone(self), number }
    }

    pub(crate) fn dialled(&self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => drop(self.dials.fetch_add(1, Relaxed)),
            Err(why) => {
                self.failed_dials.fetch_add(1, Relaxed);
                self.error(why);
            }
        }
    }

    pub(crate) fn error(&self, why: String) {
        *lock(&self.last_error) = Some(why);
    }

    pub(crate) fn held(&self, routes: RoutesId) {
        *lock(&self.held) = Some(routes);
    }

    pub(crate) fn stream(&self) -> CountedStream<'_> {
        self.opened.fetch_add(1, Relaxed);
        CountedStream(self)
    }

    pub(crate) fn declined(&self, why: &Declined) {
        match why {
            Declined::Forbidden(_) => self.forbidden.fetch_add(1, Relaxed),
            Declined::Unreachable(_) => self.unreachable.fetch_add(1, Relaxed),
        };
    }

    pub(crate) fn declined_for_memory(&self) {
        self.without_memory.fetch_add(1, Relaxed);
    }

    pub(crate) fn bytes(&self, sent: u64, received: u64) {
        self.sent.fetch_add(sent, Relaxed);
        self.received.fetch_add(received, Relaxed);
    }
}

impl Counted {
    pub(crate) fn welcomed(&self, replica: &str) {
        self.change(|entry| entry.replica = Some(replica.to_owned()));
    }

    pub(crate) fn drains(&self) {
        self.change(|entry| entry.draining = true);
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = lock(&self.status.carriers).get_mut(&self.number) {
            change(entry);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        lock(&self.status.carriers).remove(&self.number);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(hosts: &[&str]) -> RouteSet {
        let route = |host: &&str| Route {
            host: (*host).to_owned(),
            path: "/".to_owned(),
            exact: false,
            target: "app:80".parse().unwrap(),
            tunnel_only: false,
            passthrough: false,
            backend_tls: None,
            ingress: String::new(),
        };
        RouteSet::new(1, hosts.iter().map(route).collect())
    }

    #[test]
    fn a_route_counts_as_registered_only_if_the_gateway_says_so_and_its_words_are_no_terminals() {
        let (status, routes) =
            (Status::default(), routes(&["a.example", "b.example", "c.example"]));
        let rejected = Rejected {
            host: "a.example".to_owned(),
            path: "/".to_owned(),
            reason: "\x1b]0;owned\x07".to_owned(),
        };
        let verdicts = Verdicts { revision: 1, served: 1, rejected: vec![rejected] };

        status.judged(&routes, &verdicts);
        let while_one_is_not_named = status.report();
        let counted_then = status.registered.load(Relaxed);
        status.judged(&routes, &Verdicts { served: 2, ..verdicts });

        assert_eq!((while_one_is_not_named.routes_served, counted_then), (1, 0));
        assert_eq!(while_one_is_not_named.routes_rejected[0].reason, "\\u{1b}]0;owned\\u{7}");
        assert_eq!((status.report().routes_served, status.registered.load(Relaxed)), (2, 2));
    }
}
