//! Follows the cluster of an agent: its Ingresses become routes, and the Service of its ingress controller says which way requests may go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use durward_agent::cluster::{Detected, Detection, Kind};
use durward_agent::ingress::{self, Found};
use durward_agent::status::{ClusterReport, Status};
use durward_kube::ingress_watch::IngressWatch;
use durward_kube::{Clients, Limits, Location};
use durward_link::control::{ClusterState, RoutingMode};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::sync::{self, Registered};
use crate::app::sentence;
use crate::failure::Failure;

/// Time in which changes of objects are gathered.
const GATHER: Duration = Duration::from_millis(20);
/// Interval at which the number of served routes is looked at.
const COUNT: Duration = Duration::from_secs(1);

/// State of an agent before its first carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing is switched on: nothing is dialled.
    Idle,
    /// The cluster is being read; a link without its routes would withdraw them.
    Reading,
    /// The agent may run.
    Go,
}

/// What is followed, and how.
#[derive(Clone, Debug)]
pub(super) struct Followed {
    pub(super) location: Location,
    pub(super) detection: Detection,
}

/// Follows the cluster while that is switched on.
pub(super) struct Following {
    registered: Arc<Registered>,
    status: Arc<Status>,
    cluster: watch::Sender<Option<ClusterState>>,
    start: watch::Sender<Start>,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl Following {
    pub(super) fn new(registered: Arc<Registered>, status: Arc<Status>) -> Self {
        Self {
            registered,
            status,
            cluster: watch::Sender::new(None),
            start: watch::Sender::new(Start::Idle),
            running: Mutex::default(),
        }
    }

    /// Returns the state of the cluster, also later ones.
    pub(super) fn cluster(&self) -> watch::Receiver<Option<ClusterState>> {
        self.cluster.subscribe()
    }

    /// Returns whether the agent may run, also later.
    pub(super) fn start(&self) -> watch::Receiver<Start> {
        self.start.subscribe()
    }

    /// Lets the agent run without the cluster.
    pub(super) fn go(&self) {
        self.start.send_if_modified(|start| {
            let idle = *start == Start::Idle;
            if idle {
                *start = Start::Go;
            }
            idle
        });
    }

    /// Follows the cluster from now on, as it is said, or no longer: then what was found is withdrawn.
    ///
    /// # Errors
    /// Fails if the API cannot be used; nothing is followed then.
    pub(super) async fn set(self: &Arc<Self>, followed: Option<Followed>) -> Result<(), Failure> {
        let clients = match &followed {
            Some(followed) => Some(clients(followed.location.clone()).await?),
            None => None,
        };
        let before = self.running().take();
        if let Some(before) = before {
            before.abort();
            // Until it has ended it may still say what it found.
            drop(before.await);
            // What was found of the same cluster stays until it is read anew.
            if followed.is_none() {
                self.forget();
            }
        }
        if let Some((clients, followed)) = clients.zip(followed) {
            self.start.send_if_modified(|start| {
                let idle = *start == Start::Idle;
                if idle {
                    *start = Start::Reading;
                }
                idle
            });
            let follower = Follower {
                following: Arc::clone(self),
                detection: followed.detection,
                deadline: Instant::now(),
                before: None,
                announced: None,
            };
            let watch = IngressWatch::start(&clients);
            *self.running() = Some(tokio::spawn(follower.run(watch)));
        }
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self) {
        self.registered.set_cluster(Found::default(), 0);
        self.status.left_out(Vec::new());
        self.status.set_ingresses(Vec::new());
        self.status.set_cluster(None);
        self.cluster.send_replace(None);
    }
}

async fn clients(location: Location) -> Result<Clients, Failure> {
    Clients::new(location, Limits::default()).await.map_err(|error| {
        let message = format!("cannot use the Kubernetes API: {}", sentence(&error));
        Failure::InvalidConfig { message }
    })
}

/// One run of a watch.
struct Follower {
    following: Arc<Following>,
    detection: Detection,
    /// Time until which an address of the ingress controller is waited for.
    deadline: Instant,
    before: Option<Found>,
    /// Type and way that were logged last.
    announced: Option<(Kind, RoutingMode)>,
}

impl Follower {
    async fn run(mut self, mut watch: IngressWatch) {
        tracing::info!("Initializing gateway proxy detection...");
        watch.changed().await;
        self.deadline = Instant::now() + self.detection.wait;
        let mut detected = self.read(&watch);
        let mut counting = tokio::time::interval(COUNT);
        counting.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = watch.changed() => {
                    tokio::time::sleep(GATHER).await;
                    detected = self.read(&watch);
                }
                _ = counting.tick() => detected = self.settle(detected),
            }
            self.tell(&detected);
        }
    }

    /// Reads what is there.
    fn read(&mut self, watch: &IngressWatch) -> Detected {
        let seen = watch.objects();
        let observed = seen.observed();
        let objects = sync::objects(seen);
        let detected = self.settle(self.detection.detect(&objects));
        let mode = self.announce(&detected);
        self.tell(&detected);
        let controller = self.detection.tls_controller(&objects);
        let found = ingress::found(&objects, controller.as_ref());
        sync::report(self.before.as_ref(), &found, mode.word());
        let Following { registered, status, start, .. } = &*self.following;
        status.left_out(sync::left_out(&found));
        status.set_ingresses(ingress::hosts(&objects));
        registered.set_cluster(found.clone(), observed);
        if self.before.replace(found).is_none() {
            tracing::info!("Gateway proxy ingress watcher started successfully");
            start.send_replace(Start::Go);
        }
        detected
    }

    /// Waits no longer for an address once the time is over.
    fn settle(&mut self, detected: Detected) -> Detected {
        if detected.kind != Kind::Waiting || Instant::now() < self.deadline {
            return detected;
        }
        let detected = Detected { kind: Kind::Private, ..detected };
        self.announce(&detected);
        detected
    }

    fn announce(&mut self, detected: &Detected) -> RoutingMode {
        let mode = self.detection.mode(detected.kind);
        let reason = &detected.reason;
        if self.announced.replace((detected.kind, mode)) == Some((detected.kind, mode)) {
            return mode;
        }
        let endpoint = detected.endpoint.as_ref().map_or("", |(endpoint, _)| endpoint);
        match (detected.kind, mode) {
            (Kind::Private, _) => {
                tracing::info!(reason, "Private cluster detected - using tunnel routing");
            }
            (Kind::Waiting, _) => tracing::info!(
                reason,
                seconds = self.detection.wait.as_secs(),
                "Waiting for the external address of the ingress controller - using tunnel routing meanwhile"
            ),
            (Kind::Public, RoutingMode::Tunnel) => tracing::info!(
                reason,
                "Public cluster detected - forceTunnel is set, using tunnel routing"
            ),
            (Kind::Public, mode) => {
                let routing_mode = mode.word();
                tracing::info!(
                    endpoint,
                    reason,
                    routing_mode,
                    "Public cluster detected - using direct routing once the gateway has proven it"
                );
            }
        }
        mode
    }

    /// Says the state of the cluster to the gateway and to those who ask for it here.
    fn tell(&self, detected: &Detected) {
        let Following { status, cluster, .. } = &*self.following;
        let state = self.detection.state(detected, status.routes_served());
        status.set_cluster(Some(ClusterReport {
            kind: if state.is_private { "private" } else { "public" }.to_owned(),
            reason: detected.reason.clone(),
            routing_mode: state.routing_mode.word().to_owned(),
            public_endpoint: state.public_endpoint.clone(),
        }));
        cluster.send_if_modified(|known| known.replace(state.clone()).as_ref() != Some(&state));
    }
}
