//! Interface of the data plane to the rest of the process: start, apply a snapshot, status, hand-over, drain.

mod served;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use durward_model::{Snapshot, TenantId};
use tracing::{debug, warn};

use crate::access_log;
use crate::audit::{self, Audit};
use crate::core::Shared;
use crate::exposition;
use crate::exposition::ExpositionState;
use crate::files::Files;
use crate::listeners::{Listeners, Opened, Receivers, UdpOpened, divide};
use crate::memory::{self, Memory, Trimmer};
use crate::metrics::Metrics;
use crate::metrics::openmetrics::Text;
use crate::prepared::Prepared;
use crate::prepared::build::{Built, build};
use crate::present::host::HostAddresses;
use crate::registry::Registry;
use crate::status::Closing;
pub use crate::status::{BindReport, BindState, Problem, SinkStatus};
use crate::upstream::LinkReport;
use crate::upstream::report::UpstreamReport;
use crate::upstream::resolve::Resolver;
pub use served::Served;
use worker::{Command, Worker};

/// Start options.
pub struct Options {
    /// Threads, each with its own sockets and pools; usually one per core. At least one is started.
    pub workers: usize,
    /// Sink of access-log lines.
    pub access_log: access_log::Sink,
    /// Sink of the forward proxy's decisions, one line at open and one at close.
    pub decisions: access_log::Sink,
    /// Sockets that a predecessor or the service manager opened, those for datagrams included. Binds with their address use them.
    pub inherited: Vec<TcpListener>,
    /// True to listen at addresses where another process of the same user listens: the kernel spreads clients over both.
    pub shared: bool,
    /// Bytes of memory this process may have; half of them are the memory budget. `None` reads the limit of its cgroup or the host.
    pub memory: Option<usize>,
    /// Grace of a drain when the proxy is dropped without [`Proxy::drain`].
    pub drain_grace: Duration,
    /// Registry of the routes that agents serve; `None` to take none.
    pub registry: Option<Arc<dyn Registry>>,
    /// Guarded networks in which public endpoints of links may lie, as the operator named them.
    pub direct_networks: Vec<ipnet::IpNet>,
}

/// Result of applying a snapshot.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Generation of the snapshot.
    pub generation: u64,
    /// Every bind and its state.
    pub binds: Vec<BindReport>,
    /// Parts that were left out.
    pub problems: Vec<Problem>,
}

/// State of the data plane.
#[derive(Clone, Debug)]
pub struct Status {
    /// Generation that is served; 0 before the first.
    pub generation: u64,
    /// Every bind and its state.
    pub binds: Vec<BindReport>,
    /// Every tenant that is served.
    pub tenants: Vec<TenantStatus>,
    /// Parts of the generation that could not be prepared and are not served.
    pub problems: Vec<Problem>,
    /// State of every log sink.
    pub sinks: Vec<SinkStatus>,
    /// State of the audit file, if there is one.
    pub audit: Option<audit::Status>,
}

/// State of a tenant.
#[derive(Clone, Debug)]
pub struct TenantStatus {
    /// Name of the tenant.
    pub tenant: TenantId,
    /// Open client connections.
    pub connections: u64,
    /// State of its upstreams.
    pub upstreams: Vec<UpstreamReport>,
}

/// Result of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that ended by themselves.
    pub finished: usize,
    /// Connections that were closed when the grace was over.
    pub cut: usize,
}

/// The running data plane.
pub struct Proxy {
    shared: Arc<Shared>,
    listeners: Mutex<Sockets>,
    workers: Vec<Worker>,
    drain_grace: Duration,
    _trimmer: Trimmer,
}

/// Sockets of both transport protocols.
struct Sockets {
    tcp: Listeners,
    udp: Receivers,
}

impl Sockets {
    fn reports(&self) -> Vec<BindReport> {
        self.tcp.reports().into_iter().chain(self.udp.reports()).collect()
    }

    fn files(&self) -> usize {
        self.tcp.files() + self.udp.files()
    }
}

impl Proxy {
    /// Starts the threads. Nothing is served before the first [`apply`](Self::apply).
    ///
    /// # Errors
    /// Fails if a thread or its runtime cannot be created.
    pub fn start(options: Options) -> io::Result<Self> {
        let cores = options.workers.max(1);
        let limit = options.memory.unwrap_or_else(memory::of_this_process);
        let memory = Arc::new(Memory::new(limit));
        tracing::info!(limit, budget = memory.budget(), "memory budget");
        let shared = Arc::new(Shared {
            prepared: ArcSwap::from_pointee(Prepared::default()),
            metrics: Arc::new(Metrics::new(cores)),
            log: options.access_log,
            decisions: options.decisions,
            host: HostAddresses::default(),
            files: Arc::new(Files::of_this_process(cores)),
            memory: Arc::clone(&memory),
            unidentified: Arc::default(),
            resolver: Resolver::default(),
            registry: options.registry,
            direct_networks: options.direct_networks,
        });
        let sockets = (cores, shared.files.for_lanes());
        let (streams, datagrams) = divide(options.inherited);
        let workers: io::Result<Vec<_>> =
            (0..cores).map(|id| Worker::start(id, Arc::clone(&shared))).collect();
        Ok(Self {
            shared,
            listeners: Mutex::new(Sockets {
                tcp: Listeners::new(sockets, streams, options.shared),
                udp: Receivers::new(cores, datagrams, options.shared),
            }),
            workers: workers?,
            drain_grace: options.drain_grace,
            _trimmer: Trimmer::start(memory)?,
        })
    }

    /// Serves `snapshot` from now on: opens sockets, swaps the one pointer, and only then closes or retires anything.
    pub fn apply(&self, snapshot: Arc<Snapshot>) -> Applied {
        let mut listeners = self.listeners();
        let generation = snapshot.generation;
        let previous = self.shared.prepared.load_full();
        let Built { prepared, problems, retiring } =
            build(snapshot, &previous, &self.shared.metrics);
        let prepared = Arc::new(Prepared { problems: problems.clone(), ..prepared });
        let opened = listeners.tcp.open(&prepared.binds);
        let receiving = listeners.udp.open(&prepared.udp);
        self.shared.files.share_out(listeners.files(), prepared.tenants.len());
        // Connections without a tenant have a share like a tenant's.
        self.shared.memory.share_out(prepared.tenants.len() + 1);
        self.shared.prepared.store(Arc::clone(&prepared));
        retiring.retire();
        self.hand_out(opened);
        self.hand_out_udp(receiving);
        for bind in listeners.tcp.close(&prepared.binds) {
            self.tell(|| Command::Close(bind));
        }
        for bind in listeners.udp.close(&prepared.udp) {
            self.tell(|| Command::CloseUdp(bind));
        }
        // A snapshot without binds does not tell which inherited sockets are wanted.
        let is_empty = prepared.binds.is_empty() && prepared.udp.is_empty();
        let unclaimed = if is_empty {
            Vec::new()
        } else {
            [listeners.tcp.close_unclaimed(), listeners.udp.close_unclaimed()].concat()
        };
        for address in unclaimed {
            warn!(%address, "closed an inherited socket that no bind uses");
        }
        self.workers[0].tell(Command::Prepared(prepared));
        // Only the caller knows the number of all problems, so it logs at info.
        debug!(generation, "snapshot applied");
        Applied { generation, binds: listeners.reports(), problems }
    }

    /// Tries again to open the binds that failed, and logs addresses that came or went.
    pub fn retry(&self) {
        let prepared = self.shared.prepared.load_full();
        let mut listeners = self.listeners();
        if listeners.tcp.any_failed() {
            let opened = listeners.tcp.open(&prepared.binds);
            self.hand_out(opened);
        }
        if listeners.udp.any_failed() {
            let opened = listeners.udp.open(&prepared.udp);
            self.hand_out_udp(opened);
        }
        listeners.tcp.log_moves();
    }

    /// Returns the state of the links of a tenant.
    #[must_use]
    pub fn links(&self, tenant: &TenantId) -> Vec<LinkReport> {
        let prepared = self.shared.prepared.load();
        prepared.tenants.get(tenant).map_or_else(Vec::new, |runtime| runtime.link_reports())
    }

    /// Returns the current state; changes nothing.
    pub fn status(&self) -> Status {
        self.served().status()
    }

    /// Holds the generation that is served now; waits for an [`apply`](Self::apply) under way.
    pub fn served(&self) -> Served {
        // Under the lock of `apply`, so that the binds are those of the configuration.
        let listeners = self.listeners();
        Served {
            prepared: self.shared.prepared.load_full(),
            binds: listeners.reports(),
            sinks: self.shared.sinks(),
            audit: self.shared.decisions.audit().map(Audit::status),
        }
    }

    /// Returns all counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Writes all counters and the state of what is served.
    pub fn write_metrics(&self, text: &mut Text) {
        exposition::write(text, &self.shared.metrics, &ExpositionState::of(&self.shared));
    }

    fn hand_out(&self, opened: Vec<Opened>) {
        for Opened { bind, sockets } in opened {
            for (at, socket) in sockets.into_iter().enumerate() {
                self.workers[at % self.workers.len()].tell(Command::Open(bind, socket));
            }
        }
    }

    fn hand_out_udp(&self, opened: Vec<UdpOpened>) {
        for UdpOpened { bind, sockets } in opened {
            for (at, socket) in sockets.into_iter().enumerate() {
                self.workers[at % self.workers.len()].tell(Command::OpenUdp(bind, socket));
            }
        }
    }

    fn tell(&self, command: impl Fn() -> Command) {
        self.workers.iter().for_each(|worker| worker.tell(command()));
    }

    fn listeners(&self) -> MutexGuard<'_, Sockets> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Duplicates all listening sockets.
    pub(crate) fn duplicates(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let mut listeners = self.listeners();
        let tcp = listeners.tcp.duplicates()?;
        Ok(tcp.into_iter().chain(listeners.udp.duplicates()?).collect())
    }

    /// Returns the default grace of a drain.
    pub(crate) fn drain_grace(&self) -> Duration {
        self.drain_grace
    }

    /// Lets connections finish for `grace`, closes the rest and ends all threads. A second call does nothing.
    pub(crate) fn end(&mut self, grace: Duration) -> Drained {
        self.tell(|| Command::Drain(grace));
        let ended = self.workers.drain(..).map(Worker::join);
        ended.fold(Drained::default(), |total, one| Drained {
            finished: total.finished + one.finished,
            cut: total.cut + one.cut,
        })
    }

    /// Closes all listening sockets.
    pub(crate) fn close_sockets(&self, closing: Closing) {
        let mut listeners = self.listeners();
        listeners.tcp.close_all();
        listeners.udp.close_all();
        drop(listeners);
        self.tell(|| Command::CloseAll(closing));
    }
}
