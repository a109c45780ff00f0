//! The Kubernetes API as a source of a running gateway, and the statuses of its objects: a thread of its own.
//!
//! Objects enter the feed like files. Connections never wait for anything here: while the API server is away, what it said last is served on.

mod follower;
mod statuses;

pub(crate) use statuses::Served;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use durward_control::feed::Feed;
use durward_kube::health::Health;
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
    /// Which objects are read.
    pub(crate) sources: Sources,
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
}

/// State that others read.
#[derive(Default)]
pub(super) struct Shared(Mutex<State>);

#[derive(Clone, Default)]
struct State {
    health: Option<Arc<Health>>,
    writer: WriterReport,
}

/// State of the Kubernetes API as a source.
#[derive(Clone)]
pub(crate) struct Status {
    /// True once every kind was read.
    pub(crate) synced: bool,
    /// Time for which changes may have been missed.
    pub(crate) lag: Duration,
    /// Reasons why watches are down, each with the kind.
    pub(crate) faults: Vec<(&'static str, String)>,
    /// Objects that are read.
    pub(crate) objects: usize,
    /// Statuses that were written and are to be written.
    pub(crate) writer: WriterReport,
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
        match is_first.recv_timeout(patience) {
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
        Ok(Self { shared, gateway, stopped, thread: Mutex::new(Some(thread)) })
    }

    /// Names the gateway that serves: from now on statuses are written.
    pub(crate) fn serve(&self, gateway: Weak<Gateway>) {
        self.gateway.send_replace(Some(gateway));
    }

    /// Returns the state.
    pub(crate) fn status(&self) -> Status {
        let State { health, writer } = self.shared.state().clone();
        let reports = health.iter().flat_map(|health| health.reports());
        let faults = reports.filter_map(|(kind, report)| Some((kind, report.last_error?)));
        let faults = faults.collect();
        Status {
            synced: health.as_ref().is_some_and(|health| health.is_synced()),
            lag: health.as_ref().map(|health| health.lag()).unwrap_or_default(),
            faults,
            objects: health.iter().flat_map(|health| health.reports()).map(|it| it.1.objects).sum(),
            writer,
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
        let mut gauge = |name: &str, help: &str, value: f64| {
            text.family(name, Metric::Gauge, help).row(&[], value);
        };
        let (synced, lag) = (f64::from(u8::from(self.synced)), self.lag.as_secs_f64());
        gauge("durward_kubernetes_synced", "1 once every kind was read.", synced);
        let help = "Time for which changes of the Kubernetes API may have been missed.";
        gauge("durward_kubernetes_lag_seconds", help, lag);
        let help = "Objects that are read from the Kubernetes API.";
        gauge("durward_kubernetes_objects", help, self.objects as f64);
        let help = "Statuses that wait to be written.";
        gauge("durward_kubernetes_statuses_pending", help, self.writer.pending as f64);
        let help = "Attempts to write a status.";
        let mut family = text.family("durward_kubernetes_status_writes", Metric::Counter, help);
        family.row(&[("outcome", "written")], self.writer.written);
        family.row(&[("outcome", "failed")], self.writer.failed);
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
