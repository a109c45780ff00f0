//! `durward agent run`: runs an agent until a termination signal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use durward_agent::config::{AgentFile, Environment};
use durward_agent::status::Status;
use durward_link::RouteSet;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admin;
use crate::cli::{Admin, AgentRun, LogFormat};
use crate::failure::{Exit, Failure};
use crate::{client, telemetry};

/// Interval at which the file's time is looked at.
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
    let settings = file.settings(directory, &Environment::of_this_process()).map_err(invalid)?;
    let routes = file.routes(1).map_err(invalid)?;
    // Each stream is a connection to a backend.
    crate::app::raise_descriptor_limit();
    let runtime = client::runtime().map_err(|why| Failure::broken("running the agent", why))?;
    runtime.block_on(async {
        let stopped = CancellationToken::new();
        let status = Arc::<Status>::default();
        if let Admin::At(address) = arguments.admin {
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|error| {
                Failure::broken(format!("listening at {address} for the agent's admin"), error)
            })?;
            tokio::spawn(admin::serve(listener, Arc::clone(&status), stopped.clone()));
        }
        let mut signals = Signals::listen()?;
        let (set_routes, held) = watch::channel(Arc::new(routes));
        let running = durward_agent::run(settings, held, status, stopped.clone());
        let watching = Watching { path: path.clone(), set_routes, read: modified(path) };
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
    set_routes: watch::Sender<Arc<RouteSet>>,
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
        let revision = self.set_routes.borrow().revision + 1;
        let read = AgentFile::read(&self.path).and_then(|file| file.routes(revision));
        match read {
            Ok(routes) if routes.routes == self.set_routes.borrow().routes => {}
            Ok(routes) => {
                tracing::info!(revision, routes = routes.routes.len(), "routes changed");
                self.set_routes.send_replace(Arc::new(routes));
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
