//! Status of an agent, for `durward agent status` and metrics.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use durward_link::control::Purpose;
use durward_link::route::RoutesId;
use durward_link::session::agent::Declined;
use serde::{Deserialize, Serialize};

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
    sent: AtomicU64,
    received: AtomicU64,
    dials: AtomicU64,
    failed_dials: AtomicU64,
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
            last_error: lock(&self.last_error).clone(),
        }
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
            // A string takes all that is written.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
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
        text
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
