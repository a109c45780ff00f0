//! Upstream state of one core: pools, and handles to what all cores share.

use std::rc::Rc;
use std::sync::Arc;

use super::pool::Pools;
use super::resolve::Resolver;
use crate::files::Files;
use crate::memory::Memory;
use crate::random::Random;
use crate::turns::Turns;
use crate::watch::Watchdog;

/// Upstream state of one core.
pub(crate) struct Upstreams {
    /// Number of the core, from 0.
    pub(crate) core: usize,
    /// Idle connections.
    pub(crate) pools: Pools,
    /// Resolver, shared by all cores.
    pub(crate) resolver: Resolver,
    /// File descriptors of the process.
    pub(crate) files: Arc<Files>,
    /// Memory budget.
    pub(crate) memory: Arc<Memory>,
    /// Numbers for spreading load.
    pub(crate) random: Rc<Random>,
    /// Scheduler that shares run time out among tenants.
    pub(crate) turns: Rc<Turns>,
    /// Deadlines; also says whether the core drains.
    pub(crate) watchdog: Rc<Watchdog>,
}
