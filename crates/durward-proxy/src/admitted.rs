//! An admitted connection, as `admit` hands it to the servers of HTTP, TCP, pass-through and the forward proxy.

use std::rc::Rc;

use crate::connection::ConnectionFacts;
use crate::core::Core;
use crate::io::Io;
use crate::prepared::TenantView;
use crate::socks::Greeted;
use crate::watch::Watch;

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
