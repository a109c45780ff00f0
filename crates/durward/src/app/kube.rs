//! `durward kube`: reads the API server on behalf of gateways that have no right there, and writes what they say became of the objects.
//!
//! Gateways connect to a Unix socket. Each is sent what it lacks; what the youngest of them says that serves is written into the statuses.

mod hub;
mod peer;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use durward_control::stream::SourceState;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::cluster::{ApiOptions, Begun, Cache, Follower, Saver, Shared, Status, begin};
use super::local_socket::{Listener, Peers};
use crate::admin;
use crate::failure::{Exit, Failure};
use hub::Hub;

/// Pause between two looks at how reading and writing go.
const LOOK: Duration = Duration::from_secs(1);
/// Looks after which the state is said, whether or not it changed.
const BEATS: u32 = 5;

/// Settings of `durward kube`.
pub(crate) struct KubeSettings {
    /// Settings for reading the API server.
    pub(crate) api: ApiOptions,
    /// Path of the socket.
    pub(crate) socket: PathBuf,
    /// User that gateways run as.
    pub(crate) peers: Peers,
    /// Socket of the admin listener.
    pub(crate) admin: Option<TcpListener>,
}

/// Reads and hands over until a termination signal.
///
/// # Errors
/// Fails if the API server cannot be used or the socket not be opened. An API server that is away is no error.
pub(crate) fn run_kube(settings: KubeSettings) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken("starting", error))?;
    let ended = runtime.block_on(serve(settings));
    runtime.shutdown_background();
    ended
}

async fn serve(settings: KubeSettings) -> Result<Exit, Failure> {
    let fault = |error| Failure::broken("listening for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(fault)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
    let KubeSettings { api, socket, peers, admin } = settings;
    let listener = Listener::bind(&socket, peers).await.map_err(|error| {
        Failure::broken(format!("listening at {} (--socket PATH)", socket.display()), error)
    })?;
    let shared = Arc::<Shared>::default();
    let namespace = Arc::clone(&api.cluster.namespace);
    let invalid = |fault| {
        let message = format!("cannot use the Kubernetes API: {fault}");
        Failure::InvalidConfig { message }
    };
    let cache = api.cache.as_ref().map(|files| Cache::open(files, Arc::clone(&namespace)));
    let cache = cache.transpose().map_err(invalid)?.map(Arc::new);
    let follower = Follower::start(api, Arc::clone(&shared)).await.map_err(invalid)?;
    let stopped = CancellationToken::new();
    if let Some(admin) = admin {
        serve_admin(admin, Arc::clone(&shared), stopped.clone())?;
    }
    let hub = Arc::new(Hub::new(namespace));
    tracing::info!(socket = %socket.display(), "gateways are served");
    notify(&[NotifyState::Ready]);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = accept(&listener, peers, &hub) => {}
        () = follow(follower, &hub, &shared, cache) => {}
    }
    tracing::info!("stopping: gateways serve on what was said last");
    notify(&[NotifyState::Stopping]);
    shared.release().await;
    stopped.cancel();
    Ok(Exit::Ok)
}

async fn accept(listener: &Listener, peers: Peers, hub: &Arc<Hub>) {
    loop {
        let stream = listener.accept(peers).await;
        tokio::spawn(peer::serve(stream, Arc::clone(hub)));
    }
}

/// Hands what is read to the gateways, and has what they report written into statuses.
async fn follow(mut follower: Follower, hub: &Hub, shared: &Shared, cache: Option<Arc<Cache>>) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut beats, mut said) = (0, SourceState::default());
    let begun = {
        let early = |change| hub.begin(Begun { change, former: Vec::new() });
        let beginning = begin(&mut follower, cache.as_ref(), shared, early);
        let mut beginning = std::pin::pin!(beginning);
        loop {
            tokio::select! {
                begun = &mut beginning => break begun,
                _ = looks.tick() => hub.say_state(state(&shared.status())),
            }
        }
    };
    hub.begin(begun);
    let mut saver = Saver::new(cache);
    saver.note();
    loop {
        tokio::select! {
            change = follower.next() => {
                hub.say(change);
                saver.note();
                want(&mut follower, hub);
            }
            () = saver.due() => {
                let served = hub.served();
                saver.save(served).await;
            }
            () = hub.reported() => {
                let reports = hub.reports();
                reports.iter().for_each(|report| follower.note(report));
                saver.note();
                want(&mut follower, hub);
                follower.look_at_foreign(&hub.answered());
            }
            _ = looks.tick() => {
                want(&mut follower, hub);
                follower.look_at_foreign(&hub.answered());
                follower.show();
                beats += 1;
                let state = state(&shared.status());
                if beats % BEATS == 0 || state != said {
                    said = state.clone();
                    hub.say_state(state);
                }
            }
        }
    }
}

/// Has everything read that gateways need which start, and without which nothing can be said of Services; and asks what is to be answered.
fn want(follower: &mut Follower, hub: &Hub) {
    let mut also = follower.wanted_by(hub.former());
    also.extend(follower.wanted_beside(BTreeSet::new()));
    follower.want_also(also);
    hub.ask(follower.asked());
}

fn state(status: &Status) -> SourceState {
    SourceState {
        lag: status.lag.as_secs(),
        faults: status.faults.clone(),
        objects: status.objects,
        unwritten: status.unwritten.clone(),
        cached: status.cached,
    }
}

fn serve_admin(
    socket: TcpListener,
    shared: Arc<Shared>,
    stopped: CancellationToken,
) -> Result<(), Failure> {
    let fault = |error| Failure::broken("opening the admin interface", error);
    socket.set_nonblocking(true).map_err(fault)?;
    let listener = tokio::net::TcpListener::from_std(socket).map_err(fault)?;
    let address = listener.local_addr().map_err(fault)?;
    tracing::info!(%address, "admin interface");
    tokio::spawn(admin::serve_kube(listener, shared, stopped.cancelled_owned()));
    Ok(())
}

/// Notifies systemd, if it started this process.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
