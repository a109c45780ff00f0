//! The Kubernetes API as a source of a running gateway, and the statuses of its objects: a thread of its own.
//!
//! Objects enter the feed like files. Connections never wait for anything here: while the API server is away, what it said last is served on.

mod follower;
mod load_balancers;
mod mappings;
mod routing;
mod statuses;
mod writers;

pub(crate) use routing::Routing;
pub(crate) use statuses::Served;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use durward_control::feed::Feed;
use durward_kube::client::Traffic;
use durward_kube::health::Health;
use durward_kube::metrics::{self, Family};
use durward_kube::source::NamedReport;
use durward_kube::status::{WriterOptions, WriterReport};
use durward_kube::{Clients, Limits, Location, Sources};
use durward_proxy::metrics::openmetrics::{Kind as Metric, Text};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::{Gateway, sentence};
use crate::failure::Failure;
use follower::Follower;

/// Settings of the Kubernetes API as a source.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where the API server is, and who we are there.
    pub(crate) location: Location,
    /// The cluster, with the gateway's own namespace.
    pub(crate) cluster: durward_control::cluster::Cluster,
    /// Which objects are read.
    pub(crate) sources: Sources,
    /// A `ConfigMap` that holds a `routing.json`.
    pub(crate) routing: Option<Routing>,
    /// How statuses are written; `None` writes none.
    pub(crate) statuses: Option<WriterOptions>,
    /// Time for which a start waits until everything is read.
    pub(crate) patience: Duration,
}

/// The Kubernetes API as a source of one gateway.
pub(crate) struct Cluster {
    shared: Arc<Shared>,
    /// Tells the thread which gateway serves what it says.
    gateway: watch::Sender<Option<Weak<Gateway>>>,
    stopped: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// True if the feed held everything when the start was over.
    began_whole: bool,
}

/// State that others read.
#[derive(Default)]
pub(super) struct Shared(Mutex<State>);

#[derive(Clone, Default)]
struct State {
    health: Option<Arc<Health>>,
    traffic: Option<[Traffic; 2]>,
    named: Option<[NamedReport; 2]>,
    writer: WriterReport,
}

/// State of the Kubernetes API as a source.
#[derive(Clone, Default)]
pub(crate) struct Status {
    /// True once every kind was read.
    pub(crate) synced: bool,
    /// Time for which changes may have been missed.
    pub(crate) lag: Duration,
    /// Reasons why watches are down, each with the kind.
    pub(crate) faults: Vec<(&'static str, String)>,
    /// Kinds that were never read though documents name objects of them, each with the fault.
    pub(crate) unread: Vec<(&'static str, String)>,
    /// Objects that are read.
    pub(crate) objects: usize,
    /// Statuses that the API server refuses.
    pub(crate) refused: usize,
    /// Why the last status could not be written.
    pub(crate) unwritten: Option<String>,
    /// Families of metrics.
    metrics: Vec<Family>,
}

impl Cluster {
    /// Starts to read, and waits until the feed holds everything, or the patience of the options is over: then the rest comes as changes.
    ///
    /// # Errors
    /// Fails if the kubeconfig or the service account cannot be used, or no thread can be started. An API server that is away is no error.
    pub(crate) fn start(options: Options, feed: Arc<Feed>) -> Result<Self, Failure> {
        let (shared, stopped) = (Arc::<Shared>::default(), CancellationToken::new());
        let (gateway, of_gateway) = watch::channel(None);
        let (first, is_first) = mpsc::sync_channel(1);
        let patience = options.patience;
        let thread = std::thread::Builder::new().name("durward-kube".to_owned()).spawn({
            let (shared, stopped) = (Arc::clone(&shared), stopped.clone());
            move || serve(options, feed, shared, (first, of_gateway), &stopped)
        });
        let thread = thread
            .map_err(|error| Failure::broken("starting to read the Kubernetes API", error))?;
        let first = is_first.recv_timeout(patience);
        let began_whole = matches!(first, Ok(Ok(())));
        match first {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => {
                let message = format!("cannot use the Kubernetes API: {fault}");
                return Err(Failure::InvalidConfig { message });
            }
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(
                    ?patience,
                    "the Kubernetes API has not been read yet: starting without the rest"
                );
            }
            Err(RecvTimeoutError::Disconnected) => {
                tracing::error!("the Kubernetes API is not read: its thread has ended");
            }
        }
        Ok(Self { shared, gateway, stopped, thread: Mutex::new(Some(thread)), began_whole })
    }

    /// Returns whether the feed held everything when the start was over: what was not in it did not exist.
    pub(crate) fn began_whole(&self) -> bool {
        self.began_whole
    }

    /// Names the gateway that serves: from now on statuses are written.
    pub(crate) fn serve(&self, gateway: Weak<Gateway>) {
        self.gateway.send_replace(Some(gateway));
    }

    /// Returns the state.
    pub(crate) fn status(&self) -> Status {
        let State { health, traffic, named, writer } = self.shared.state().clone();
        let reports = health.as_ref().map(|health| health.reports()).unwrap_or_default();
        let faults = reports.iter().filter_map(|(kind, report)| {
            let fault = report.last_error.clone()?;
            Some((*kind, fault))
        });
        let mut metrics = Vec::new();
        metrics.extend(health.iter().flat_map(|health| metrics::of_watches(health)));
        metrics.extend(named.iter().map(metrics::of_named));
        metrics.extend(traffic.iter().flat_map(metrics::of_traffic));
        metrics.extend(metrics::of_writer(&writer));
        Status {
            synced: health.as_ref().is_some_and(|health| health.is_synced()),
            lag: health.as_ref().map(|health| health.lag()).unwrap_or_default(),
            faults: faults.collect(),
            unread: health.as_ref().map(|health| health.unread()).unwrap_or_default(),
            objects: reports.values().map(|report| report.objects).sum(),
            refused: writer.refused,
            unwritten: writer.last_error,
            metrics,
        }
    }

    /// Ends the thread: another process writes statuses from now on.
    pub(crate) fn stop(&self) {
        self.stopped.cancel();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the thread was reported by its hook.
            drop(thread.join());
        }
    }
}

impl Status {
    /// Writes the metric families of the source.
    pub(crate) fn write_metrics(&self, text: &mut Text) {
        for Family { name, help, metric, samples } in &self.metrics {
            let kind = match metric {
                metrics::Metric::Counter => Metric::Counter,
                metrics::Metric::Gauge => Metric::Gauge,
            };
            let mut family = text.family(name, kind, help);
            samples.iter().for_each(|(labels, value)| family.row(labels, value));
        }
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends whether everything was read, or why it cannot be.
type First = mpsc::SyncSender<Result<(), String>>;

/// Reads until stopped.
fn serve(
    options: Options,
    feed: Arc<Feed>,
    shared: Arc<Shared>,
    (first, gateway): (First, watch::Receiver<Option<Weak<Gateway>>>),
    stopped: &CancellationToken,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(first.send(Err(error.to_string()))),
    };
    let reading = async {
        match Clients::new(options.location.clone(), Limits::default()).await {
            Ok(clients) => {
                Follower::new(options, clients, feed, shared).run(first, gateway).await;
            }
            Err(error) => drop(first.send(Err(sentence(&error)))),
        }
    };
    runtime.block_on(async {
        tokio::select! {
            () = stopped.cancelled() => {}
            () = reading => {}
        }
    });
    // A look-up of a name may hang in a thread of the runtime.
    runtime.shutdown_background();
}
