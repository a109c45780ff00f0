//! What one core has for upstreams: pools, and handles to what all cores share.

use std::rc::Rc;
use std::sync::Arc;

use super::pool::Pools;
use super::resolve::Resolver;
use crate::files::Files;
use crate::memory::Memory;
use crate::random::Random;
use crate::turns::Turns;
use crate::watch::Watchdog;

/// The upstream side of one core.
pub(crate) struct Upstreams {
    /// Number of the core, from 0.
    pub(crate) core: usize,
    /// Idle connections.
    pub(crate) pools: Pools,
    /// Names to addresses, cached for their TTL.
    pub(crate) resolver: Resolver,
    /// The process's files.
    pub(crate) files: Arc<Files>,
    /// The memory budget.
    pub(crate) memory: Arc<Memory>,
    /// Numbers for spreading load.
    pub(crate) random: Rc<Random>,
    /// Time, shared out among tenants.
    pub(crate) turns: Rc<Turns>,
    /// Deadlines, and whether the core drains.
    pub(crate) watchdog: Rc<Watchdog>,
}
