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
    /// The bytes, after TLS where it is terminated here.
    pub(crate) io: Io,
    /// Bytes of the first flight that were read while peeking and not consumed (pass-through only; empty otherwise).
    pub(crate) early: Vec<u8>,
    /// The tenant's view.
    pub(crate) view: TenantView,
    /// What is known of the connection, for logs and headers.
    pub(crate) facts: Rc<ConnectionFacts>,
    /// Its deadlines.
    pub(crate) watch: Watch,
    /// The core it lives on.
    pub(crate) core: Rc<Core>,
    /// What a client that speaks SOCKS has said of itself at the door.
    pub(crate) greeted: Option<Greeted>,
}
