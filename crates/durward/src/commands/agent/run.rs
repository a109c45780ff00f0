//! `durward agent run`: runs an agent until a termination signal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use durward_agent::Settings;
use durward_agent::config::{
    AgentFile, ConfigError, EgressProxySection, Environment, ProofSection,
};
use durward_agent::out::{self, Exits};
use durward_agent::status::Status;
use durward_kube::Location;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::admin::{self, Shown};
use super::follow::{Followed, Following, Start};
use super::network;
use super::sync::Registered;
use crate::cli::{Admin, AgentRun, LogFormat};
use crate::failure::{Exit, Failure};
use crate::{client, telemetry};

/// Interval at which the file's modification time is checked.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the agent.
pub(crate) fn run(arguments: &AgentRun, log: LogFormat) -> Result<Exit, Failure> {
    telemetry::start(log, "info,rustls=error");
    let prepared = Prepared::read(arguments)
        .map_err(|error: ConfigError| Failure::InvalidConfig { message: error.to_string() })?;
    // Each stream is a connection to a backend.
    crate::app::raise_descriptor_limit();
    // The other half is for the routes, carriers, and buffers of the kernel.
    prepared.settings.memory.limit(durward_proxy::memory_of_this_process() / 2);
    let runtime = client::runtime().map_err(|why| Failure::broken("running the agent", why))?;
    runtime.block_on(prepared.serve())
}

/// An agent before it runs.
struct Prepared {
    file: AgentFile,
    admin: Admin,
    settings: Settings,
    status: Arc<Status>,
    watching: Watching,
    switched: Switched,
}

impl Prepared {
    fn read(arguments: &AgentRun) -> Result<Self, ConfigError> {
        let path = arguments.config.as_deref();
        let file = path.map_or_else(|| Ok(AgentFile::default()), AgentFile::read)?;
        let directory = path.and_then(Path::parent).unwrap_or_else(|| Path::new("."));
        let environment = Environment::of_this_process();
        let settings = file.settings(directory, &environment)?;
        let registered = Arc::new(Registered::new(file.routes(1)?, file.services()?));
        let status = Arc::<Status>::default();
        registered.report_to(&status);
        let following = Arc::new(Following::new(Arc::clone(&registered), Arc::clone(&status)));
        let (addresses, cluster) = (registered.addresses(), following.cluster());
        let services = registered.services();
        let settings = Settings { addresses, services, cluster, ..settings };
        let switches = Switches { directory: directory.to_owned(), environment };
        let switched = switches.read(&file)?;
        let watching = Watching {
            path: path.map(Path::to_owned),
            registered,
            following,
            switches,
            switched: Switched::default(),
            read: path.and_then(modified),
        };
        Ok(Self { file, admin: arguments.admin, settings, status, watching, switched })
    }

    async fn serve(self) -> Result<Exit, Failure> {
        let Self { file, admin, settings, status, watching, switched } = self;
        let stopped = CancellationToken::new();
        let registered = Arc::clone(&watching.registered);
        let shown = Shown {
            status: Arc::clone(&status),
            settings: Arc::new(settings.clone()),
            routes: registered.routes(),
        };
        listen(admin, file.proof.as_ref(), shown, &stopped).await?;
        let proxying = match file.egress_proxy.as_ref().zip(settings.exits.clone()) {
            Some((proxy, exits)) => Some(proxy_listener(proxy, exits, &stopped).await?),
            None => None,
        };
        let mut signals = Signals::listen()?;
        let watching = watching.begin(switched).await?;
        let (mut start, held) = (watching.following.start(), registered.routes());
        let running = async {
            let go = start.wait_for(|start| *start == Start::Go);
            if stopped.run_until_cancelled(go).await.is_some() {
                network::follow(Arc::clone(&settings.retry));
                durward_agent::run(settings, held, status, stopped.clone()).await;
            }
            // Its streams have ended, or their time is over.
            if let Some(proxying) = proxying {
                proxying.abort();
            }
        };
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
    }
}

/// Opens the listeners of the agent, as far as there are any.
async fn listen(
    admin: Admin,
    proof: Option<&ProofSection>,
    shown: Shown,
    stopped: &CancellationToken,
) -> Result<(), Failure> {
    if let Some(proof) = proof {
        let listener = TcpListener::bind(proof.listen).await.map_err(|error| {
            Failure::broken(format!("listening at {} for proofs", proof.listen), error)
        })?;
        tokio::spawn(admin::prove(listener, shown.clone(), stopped.clone()));
    }
    if let Admin::At(address) = admin {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Failure::broken(format!("listening at {address} for the agent's admin"), error)
        })?;
        tokio::spawn(admin::serve(listener, shown, stopped.clone()));
    }
    Ok(())
}

/// Opens the forward proxy for programs in the cluster.
async fn proxy_listener(
    proxy: &EgressProxySection,
    exits: Arc<Exits>,
    stopped: &CancellationToken,
) -> Result<JoinHandle<()>, Failure> {
    let listener = TcpListener::bind(proxy.listen).await.map_err(|error| {
        Failure::broken(format!("listening at {} as egressProxy", proxy.listen), error)
    })?;
    let sources = proxy.allowed_sources.clone();
    Ok(tokio::spawn(out::serve(listener, sources, exits, stopped.clone())))
}

/// Parts of the file that switch the agent on and off while it runs.
#[derive(Clone, Debug, Default)]
struct Switched {
    /// Cluster to follow.
    followed: Option<Followed>,
    /// False if there is nothing that the agent would be for.
    active: bool,
}

impl Switched {
    fn follows_like(&self, other: &Self) -> bool {
        match (&self.followed, &other.followed) {
            (None, None) => true,
            (Some(one), Some(other)) => one.detection == other.detection,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// Reads the switches of a file.
struct Switches {
    directory: PathBuf,
    environment: Environment,
}

impl Switches {
    fn read(&self, file: &AgentFile) -> Result<Switched, ConfigError> {
        let detection = file.detection()?;
        let kubeconfig = file.kubeconfig.as_ref().map(|name| self.directory.join(name));
        let follows = file.ingress_sync(&self.environment)?;
        let followed =
            follows.then(|| Followed { location: Location::infer(kubeconfig, None), detection });
        // What was registered before is withdrawn where it is switched off in so many words.
        let withdraws = file.gateway.as_ref().is_some_and(|gateway| gateway.enabled == Some(false));
        let active = follows
            || withdraws
            || !file.routes.is_empty()
            || !file.services.is_empty()
            || file.egress_proxy.is_some();
        Ok(Switched { followed, active })
    }
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

/// Reads routes and switches again when the file changes or SIGHUP arrives.
struct Watching {
    path: Option<PathBuf>,
    registered: Arc<Registered>,
    following: Arc<Following>,
    switches: Switches,
    switched: Switched,
    read: Option<SystemTime>,
}

impl Watching {
    /// Begins with the switches of the file.
    async fn begin(mut self, switched: Switched) -> Result<Self, Failure> {
        if !switched.active {
            tracing::info!(
                "nothing is switched on, so nothing is dialled: set enableIngressSync, or write routes, services or egressProxy"
            );
        }
        self.switch(switched).await?;
        Ok(self)
    }

    async fn switch(&mut self, switched: Switched) -> Result<(), Failure> {
        if !self.switched.follows_like(&switched) {
            self.following.set(switched.followed.clone()).await?;
        }
        if switched.active && switched.followed.is_none() {
            self.following.go();
        }
        self.switched = switched;
        Ok(())
    }

    /// Follows the file until a termination signal arrives.
    async fn follow(mut self, signals: &mut Signals) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let now = self.path.as_deref().and_then(modified);
                    if now.is_none() || now == self.read {
                        continue;
                    }
                    self.read = now;
                }
                _ = signals.hangup.recv() => self.read = self.path.as_deref().and_then(modified),
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
            }
            self.reload().await;
        }
    }

    /// Takes over routes and switches of the file; a broken file changes nothing.
    async fn reload(&mut self) {
        let Some(path) = &self.path else { return };
        let read = AgentFile::read(path)
            .and_then(|file| Ok((file.routes(1)?, file.services()?, self.switches.read(&file)?)));
        let (routes, services, switched) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "the agent's file is broken: its routes stay as they were");
                return;
            }
        };
        let count = routes.routes().len();
        self.registered.set_services(services);
        if self.registered.set_file(routes.into_routes()) {
            tracing::info!(routes = count, "routes changed");
        }
        if let Err(error) = self.switch(switched).await {
            tracing::error!(%error, "the cluster cannot be followed: its routes stay as they were");
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|data| data.modified()).ok()
}
