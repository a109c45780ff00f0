//! State of one core: its upstream pools, deadlines, log buffer and random numbers.
//!
//! Everything here is `!Send` on purpose.

use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::access_log;
use crate::decisions::Decisions;
use crate::decisions::Ledger;
use crate::files::Files;
use crate::limits::Usage;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::prepared::Prepared;
use crate::present::host::HostAddresses;
use crate::random::Random;
use crate::registry::Registry;
use crate::status::SinkStatus;
use crate::turns::Turns;
use crate::unidentified::Unidentified;
use crate::upstream::Upstreams;
use crate::upstream::pool::Pools;
use crate::upstream::resolve::Resolver;
use crate::watch::Watchdog;

/// State shared by all cores. The pointer to the prepared snapshot is the only one that is ever swapped.
pub(crate) struct Shared {
    /// Snapshot being served, prepared for the proxy.
    pub(crate) prepared: ArcSwap<Prepared>,
    /// All counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Sink of access-log lines.
    pub(crate) log: access_log::Sink,
    /// Sink of the forward proxy's decisions.
    pub(crate) decisions: access_log::Sink,
    /// The host's own addresses.
    pub(crate) host: HostAddresses,
    /// File descriptors of the process, and who holds them.
    pub(crate) files: Arc<Files>,
    /// The memory budget, and how much of it each tenant holds.
    pub(crate) memory: Arc<Memory>,
    /// Memory held by all connections without a tenant.
    pub(crate) unidentified: Arc<Usage>,
    /// Names to addresses, cached for their TTL.
    pub(crate) resolver: Resolver,
    /// Guarded networks in which public endpoints of links may lie.
    pub(crate) direct_networks: Vec<ipnet::IpNet>,
    /// Registry of agents' routes; `None` where nothing is registered.
    pub(crate) registry: Option<Arc<dyn Registry>>,
}

impl Shared {
    /// Returns the state of every sink of access-log and decision lines.
    pub(crate) fn sinks(&self) -> Vec<SinkStatus> {
        let of = |log, sink: &access_log::Sink| -> Vec<SinkStatus> {
            let states = sink.states();
            states.map(|(kind, failing, lost)| SinkStatus { log, kind, failing, lost }).collect()
        };
        [of("access", &self.log), of("decisions", &self.decisions)].concat()
    }
}

/// One core.
pub(crate) struct Core {
    /// From 0.
    pub(crate) id: usize,
    /// State shared by all cores.
    pub(crate) shared: Arc<Shared>,
    /// Upstream pools.
    pub(crate) upstreams: Rc<Upstreams>,
    /// Connections that belong to no tenant yet.
    pub(crate) unidentified: Rc<Unidentified>,
    /// Deadlines of the core's connections.
    pub(crate) watchdog: Rc<Watchdog>,
    /// Scheduler that shares run time out among tenants.
    pub(crate) turns: Rc<Turns>,
    /// Access-log lines not yet handed to the writer.
    pub(crate) log: access_log::Buffer,
    /// Decision lines not yet handed to the writer.
    pub(crate) decisions: Decisions,
    /// Numbers for spreading load.
    pub(crate) random: Rc<Random>,
}

impl Core {
    /// Creates a core with empty pools.
    pub(crate) fn new(id: usize, shared: Arc<Shared>, seed: u64) -> Rc<Self> {
        let log = shared.log.buffer();
        let ledger = Ledger::new(Arc::clone(&shared.metrics), id);
        let decisions = Decisions::new(&shared.decisions).counted(ledger);
        let random = Rc::new(Random::new(seed));
        let (watchdog, turns) = (Rc::<Watchdog>::default(), Rc::<Turns>::default());
        let upstreams = Rc::new(Upstreams {
            core: id,
            pools: Pools::default(),
            resolver: shared.resolver.clone(),
            files: Arc::clone(&shared.files),
            memory: Arc::clone(&shared.memory),
            random: Rc::clone(&random),
            turns: Rc::clone(&turns),
            watchdog: Rc::clone(&watchdog),
        });
        let unidentified = Rc::default();
        Rc::new(Self {
            id,
            shared,
            upstreams,
            unidentified,
            watchdog,
            turns,
            log,
            decisions,
            random,
        })
    }

    /// Returns how many connections without a tenant may be open here: what open files and memory leave them, shared out among cores.
    pub(crate) fn most_unidentified(&self) -> usize {
        let (files, memory) = (&self.shared.files, &self.shared.memory);
        (files.clients.most() / 4).min(memory.unidentified()) / files.cores()
    }

    /// Returns a number for spreading load; not for secrets.
    pub(crate) fn random(&self) -> u32 {
        self.random.next()
    }
}
