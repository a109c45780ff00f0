//! `durward agent run`: runs an agent until a termination signal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use durward_agent::Settings;
use durward_agent::config::{AgentFile, Environment};
use durward_agent::status::Status;
use durward_kube::ingress_watch::IngressWatch;
use durward_kube::{Clients, Limits, Location};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admin::{self, Shown};
use super::sync::{self, Registered};
use crate::app::sentence;
use crate::cli::{Admin, AgentRun, LogFormat};
use crate::failure::{Exit, Failure};
use crate::{client, telemetry};

/// Interval at which the file's modification time is checked.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the agent.
pub(crate) fn run(arguments: &AgentRun, log: LogFormat) -> Result<Exit, Failure> {
    telemetry::start(log, "info,rustls=error");
    let path = &arguments.config;
    let invalid = |error: durward_agent::config::ConfigError| Failure::InvalidConfig {
        message: error.to_string(),
    };
    let file = AgentFile::read(path).map_err(invalid)?;
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let environment = Environment::of_this_process();
    let settings = file.settings(directory, &environment).map_err(invalid)?;
    let registered = Arc::new(Registered::new(file.routes(1).map_err(invalid)?));
    let settings = Settings { addresses: registered.addresses(), ..settings };
    let kubeconfig = file.kubeconfig.as_ref().map(|name| directory.join(name));
    let location = file.ingress_sync(&environment).map_err(invalid)?;
    let location = location.then(|| Location::infer(kubeconfig, None));
    // Each stream is a connection to a backend.
    crate::app::raise_descriptor_limit();
    // The other half is for the routes, carriers, and buffers of the kernel.
    settings.memory.limit(durward_proxy::memory_of_this_process() / 2);
    let runtime = client::runtime().map_err(|why| Failure::broken("running the agent", why))?;
    runtime.block_on(async {
        let stopped = CancellationToken::new();
        let status = Arc::<Status>::default();
        registered.report_to(&status);
        if let Admin::At(address) = arguments.admin {
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|error| {
                Failure::broken(format!("listening at {address} for the agent's admin"), error)
            })?;
            let shown = Shown {
                status: Arc::clone(&status),
                settings: Arc::new(settings.clone()),
                routes: registered.routes(),
            };
            tokio::spawn(admin::serve(listener, shown, stopped.clone()));
        }
        let mut signals = Signals::listen()?;
        let syncing = start_sync(location, &registered, &status).await?;
        let held = registered.routes();
        let running = async {
            // A link without the routes of the Ingresses would withdraw them.
            if let Some(mut ready) = syncing {
                let is_ready = ready.wait_for(|ready| *ready);
                if stopped.run_until_cancelled(is_ready).await.is_none() {
                    return;
                }
            }
            durward_agent::run(settings, held, status, stopped.clone()).await;
        };
        let watching = Watching { path: path.clone(), registered, read: modified(path) };
        let mut running = std::pin::pin!(running);
        tokio::select! {
            () = &mut running => {}
            () = watching.follow(&mut signals) => {}
        }
        tracing::info!("the agent ends: its streams may finish");
        stopped.cancel();
        tokio::select! {
            () = running => {}
            () = signals.stop() => tracing::warn!("second termination signal: closing remaining streams"),
        }
        Ok(Exit::Ok)
    })
}

/// Starts to register the cluster's Ingresses, if that is wanted; the receiver says when they were read.
async fn start_sync(
    location: Option<Location>,
    registered: &Arc<Registered>,
    status: &Arc<Status>,
) -> Result<Option<watch::Receiver<bool>>, Failure> {
    let Some(location) = location else { return Ok(None) };
    let clients = Clients::new(location, Limits::default()).await.map_err(|error| {
        let message = format!("cannot use the Kubernetes API: {}", sentence(&error));
        Failure::InvalidConfig { message }
    })?;
    let (ready, is_ready) = watch::channel(false);
    let watch = IngressWatch::start(&clients);
    tokio::spawn(sync::follow(watch, Arc::clone(registered), Arc::clone(status), ready));
    Ok(Some(is_ready))
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::broken("listening for signals", error));
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Reads the routes again when the file changes or SIGHUP arrives.
struct Watching {
    path: PathBuf,
    registered: Arc<Registered>,
    read: Option<SystemTime>,
}

impl Watching {
    /// Follows the file until a termination signal arrives.
    async fn follow(mut self, signals: &mut Signals) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let now = modified(&self.path);
                    if now.is_none() || now == self.read {
                        continue;
                    }
                    self.read = now;
                }
                _ = signals.hangup.recv() => self.read = modified(&self.path),
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
            }
            self.reload();
        }
    }

    /// Takes over the routes of the file; a broken file changes nothing.
    fn reload(&self) {
        match AgentFile::read(&self.path).and_then(|file| file.routes(1)) {
            Ok(routes) => {
                let count = routes.routes.len();
                if self.registered.set_file(routes.routes) {
                    tracing::info!(routes = count, "routes changed");
                }
            }
            Err(error) => {
                tracing::error!(%error, "the agent's file is broken: its routes stay as they were")
            }
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|data| data.modified()).ok()
}
