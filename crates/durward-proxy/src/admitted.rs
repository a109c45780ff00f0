//! An admitted connection, as `admit` hands it to the servers of HTTP, TCP, pass-through and the forward proxy.

use std::rc::Rc;
use std::sync::Arc;

use crate::connection::ConnectionFacts;
use crate::core::Core;
use crate::io::Io;
use crate::limits::SessionGuard;
use crate::memory::Hold;
use crate::metrics::{Counter, TenantMetrics};
use crate::prepared::TenantView;
use crate::socks::Greeted;
use crate::watch::Watch;

/// A UDP session that may be served: its tenant is known, its source allowed, its limits taken.
pub(crate) struct AdmittedSession {
    /// Core that serves the session.
    pub(crate) core: Rc<Core>,
    /// The tenant's view.
    pub(crate) view: TenantView,
    /// Facts of the session, for logs.
    pub(crate) facts: ConnectionFacts,
    /// Deadline of the session.
    pub(crate) watch: Watch,
    /// Guards that count it as open while they live.
    pub(crate) counted: CountedSession,
}

/// Guards that count a UDP session as open while they live.
pub(crate) struct CountedSession {
    metrics: Arc<TenantMetrics>,
    core: usize,
    _limit: (SessionGuard, Hold),
}

impl CountedSession {
    /// Counts a session that begins.
    pub(crate) fn new(
        metrics: &Arc<TenantMetrics>,
        core: usize,
        limit: (SessionGuard, Hold),
    ) -> Self {
        metrics.core(core).add(Counter::UdpSessionsOpened, 1);
        Self { metrics: Arc::clone(metrics), core, _limit: limit }
    }
}

impl Drop for CountedSession {
    fn drop(&mut self) {
        self.metrics.core(self.core).add(Counter::UdpSessionsClosed, 1);
    }
}

/// A connection that may be served: its tenant is known, its source allowed, its TLS done.
pub(crate) struct Admitted {
    /// Stream, after TLS where that is terminated here.
    pub(crate) io: Io,
    /// Bytes of the first flight that were peeked and not consumed (pass-through only; empty otherwise).
    pub(crate) early: Vec<u8>,
    /// The tenant's view.
    pub(crate) view: TenantView,
    /// Facts of the connection, for logs and headers.
    pub(crate) facts: Rc<ConnectionFacts>,
    /// Deadlines of the connection.
    pub(crate) watch: Watch,
    /// Core that serves the connection.
    pub(crate) core: Rc<Core>,
    /// SOCKS greeting and authentication, where a shared address needed them to find the tenant.
    pub(crate) greeted: Option<Greeted>,
}
