//! Objects of Kubernetes as a source of a running gateway, and reports of what became of them: a thread of its own.
//!
//! The gateway reads the API server itself, or has what `durward kube` hands it through a socket. Objects enter the feed like files. Connections never wait for anything
//! here: while the API server or the other process is away, what was said last is served on.

mod cache;
mod follower;
mod foreign;
mod in_process;
mod ingresses;
mod load_balancers;
mod looks;
mod mappings;
mod objects;
mod record;
mod reporter;
mod routing;
mod socket;
mod start;
mod wants;
mod writers;

pub(crate) use cache::{Cache, CacheOptions};
pub(crate) use follower::{Begun, Follower};
pub(crate) use record::Record;
pub(crate) use reporter::Served;
pub(crate) use routing::Routing;
pub(crate) use socket::SocketOptions;
pub(crate) use start::{Saver, begin};

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use durward_control::feed::Feed;
use durward_kube::client::Traffic;
use durward_kube::health::Health;
use durward_kube::lease::Lease;
use durward_kube::metrics::{self, Family};
use durward_kube::source::NamedReport;
use durward_kube::status::{WriterOptions, WriterReport};
use durward_kube::{Location, Sources};
use durward_proxy::metrics::openmetrics::{Kind as Metric, Text};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::Gateway;
use crate::failure::Failure;
use socket::Link;

/// Settings of Kubernetes as a source.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The cluster, with the gateway's own namespace.
    pub(crate) cluster: durward_control::cluster::Cluster,
    /// Way in which objects come here.
    pub(crate) reader: Reader,
    /// Time for which a start waits until everything is read.
    pub(crate) patience: Duration,
}

/// Way in which objects come to the gateway.
#[derive(Clone, Debug)]
pub(crate) enum Reader {
    /// This process reads the API server.
    Api(Box<ApiOptions>),
    /// `durward kube` reads it, and hands over what it says.
    Socket(SocketOptions),
}

impl Options {
    /// Returns the only namespace that this process reads, if it reads the API server itself and not all of them.
    pub(crate) fn only_namespace(&self) -> Option<&str> {
        match &self.reader {
            Reader::Api(options) => options.sources.namespace.as_deref(),
            Reader::Socket(_) => None,
        }
    }
}

/// Settings of reading an API server.
#[derive(Clone, Debug)]
pub(crate) struct ApiOptions {
    /// Address and credentials of the API server.
    pub(crate) location: Location,
    /// The cluster, with the gateway's own namespace.
    pub(crate) cluster: durward_control::cluster::Cluster,
    /// Which objects are read.
    pub(crate) sources: Sources,
    /// A `ConfigMap` that holds a `routing.json`.
    pub(crate) routing: Option<Routing>,
    /// Settings for writing statuses; `None` writes none.
    pub(crate) statuses: Option<WriterOptions>,
    /// Cache for a start without an API server; `None` keeps nothing.
    pub(crate) cache: Option<CacheOptions>,
}

/// Kubernetes as a source of one gateway.
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
pub(crate) struct Shared(Mutex<State>);

#[derive(Clone, Default)]
struct State {
    health: Option<Arc<Health>>,
    traffic: Option<[Traffic; 2]>,
    named: Option<[NamedReport; 2]>,
    writer: WriterReport,
    /// State of the connection to `durward kube`, if objects come by it.
    link: Option<Link>,
    /// When the cache was written that is served, in seconds since the Unix epoch; `None` once the API server was read.
    cached: Option<i64>,
    /// Claim to the Lease whose holder writes statuses.
    lease: Option<Lease>,
}

/// State of Kubernetes as a source.
#[derive(Clone, Default)]
pub(crate) struct Status {
    /// True once every kind was read.
    pub(crate) synced: bool,
    /// Time for which changes may have been missed.
    pub(crate) lag: Duration,
    /// Reasons why watches are down, each with the kind.
    pub(crate) faults: Vec<(String, String)>,
    /// Kinds that were never read though documents name objects of them, each with the fault.
    pub(crate) unread: Vec<(String, String)>,
    /// Time for which `durward kube` is away, and why, if it hands over the objects.
    pub(crate) away: Option<(Duration, String)>,
    /// When the cache was written that is served, because the API server was not read since the start, in seconds since the Unix epoch.
    pub(crate) cached: Option<i64>,
    /// Objects that are read.
    pub(crate) objects: usize,
    /// Statuses that the API server refuses.
    pub(crate) refused: usize,
    /// Error of the last status write that failed.
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
            move || serve(options, feed, &shared, (first, of_gateway), &stopped)
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
        self.shared.status()
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

    /// Lets the Lease go whose holder writes statuses, so that another process need not wait for it.
    pub(crate) async fn release(&self) {
        let Some(lease) = self.state().lease.take() else { return };
        // An API server that is away counts this process as gone by itself.
        drop(tokio::time::timeout(RELEASE, lease.release()).await);
    }

    /// Returns the state as others see it.
    pub(crate) fn status(&self) -> Status {
        let State { health, traffic, named, writer, link, cached, lease: _ } = self.state().clone();
        if let Some(link) = link {
            return link.status();
        }
        let reports = health.as_ref().map(|health| health.reports()).unwrap_or_default();
        let faults = reports.iter().filter_map(|(kind, report)| {
            let fault = report.last_error.clone()?;
            Some(((*kind).to_owned(), fault))
        });
        let unread = health.as_ref().map(|health| health.unread()).unwrap_or_default().into_iter();
        let mut metrics = Vec::new();
        metrics.extend(health.iter().flat_map(|health| metrics::of_watches(health)));
        metrics.extend(named.iter().map(metrics::of_named));
        metrics.extend(traffic.iter().flat_map(metrics::of_traffic));
        metrics.extend(metrics::of_writer(&writer));
        Status {
            synced: cached.is_some() || health.as_ref().is_some_and(|health| health.is_synced()),
            lag: health.as_ref().map(|health| health.lag()).unwrap_or_default(),
            faults: faults.collect(),
            unread: unread.map(|(kind, fault)| (kind.to_owned(), fault)).collect(),
            away: None,
            cached,
            objects: reports.values().map(|report| report.objects).sum(),
            refused: writer.refused,
            unwritten: writer.last_error,
            metrics,
        }
    }
}

/// Time for letting a Lease go.
const RELEASE: Duration = Duration::from_secs(1);
/// Longest time that a change waits until the gateway has taken the one before it.
const TAKEN: Duration = Duration::from_secs(10);

/// Waits until the gateway has taken what is in the feed: the last accepted revisions of objects must not be overtaken by what these say now.
async fn until_taken(feed: &Feed) {
    let until = tokio::time::Instant::now() + TAKEN;
    while !feed.is_empty() && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends whether everything was read, or why it cannot be.
type First = mpsc::SyncSender<Result<(), String>>;
/// Receives the gateway that serves.
type Serving = watch::Receiver<Option<Weak<Gateway>>>;

/// Reads until stopped.
fn serve(
    options: Options,
    feed: Arc<Feed>,
    shared: &Arc<Shared>,
    (first, gateway): (First, Serving),
    stopped: &CancellationToken,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(first.send(Err(error.to_string()))),
    };
    let reading = async {
        let shared = Arc::clone(shared);
        match options.reader {
            Reader::Api(api) => in_process::run(*api, feed, shared, (first, gateway)).await,
            Reader::Socket(socket) => {
                socket::run(socket, options.cluster, (feed, shared), (first, gateway)).await;
            }
        }
    };
    runtime.block_on(async {
        tokio::select! {
            () = stopped.cancelled() => {}
            () = reading => {}
        }
        shared.release().await;
    });
    // A look-up of a name may hang in a thread of the runtime.
    runtime.shutdown_background();
}
