//! A request's or connection's use of an upstream: dropping the lease ends its load on the endpoint.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use durward_model::UpstreamAddr;
use durward_model::upstream::UpstreamIndex;

use super::acquire::{AcquiredTransport, Carrier};
use super::connect::reusable;
use super::endpoint::EndpointRuntime;
use super::http2::Stream;
use super::path::{Connected, Ticket};
use super::per_core::Upstreams;
use super::pool::Pools;
use super::runtime::UpstreamRuntime;
use super::tenant::Access;
use crate::io::Io;
use crate::limits::PendingGuard;
use crate::metrics::{Cells, Counter};
use crate::refusal::Refusal;

/// Use of an upstream by one request or connection.
pub(crate) struct Lease {
    /// Address that was dialled.
    pub(crate) peer: UpstreamAddr,
    /// Local address of the connection: the tenant's egress address, and the port the kernel chose.
    pub(crate) source: SocketAddr,
    /// True if the connection has served before.
    pub(crate) reused: bool,
    /// Time of connect and TLS handshake; zero when reused.
    pub(crate) connect: Duration,
    load: Load,
    ticket: Option<Ticket>,
    stream: Option<Stream>,
}

impl Lease {
    /// Returns the upstream.
    pub(crate) fn upstream(&self) -> &UpstreamRuntime {
        self.load.runtime()
    }

    /// Returns the HTTP/2 stream's share of its connection; `None` over HTTP/1.
    pub(crate) fn stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }

    /// Counts a response's head: 502, 503 and 504 are failures of the endpoint. For other statuses the rest of the response decides.
    pub(crate) fn answered(&self, status: u16) {
        if is_failure(status) {
            self.load.failure();
        }
    }

    /// Counts a response that the upstream did not break off: a success of the endpoint, unless its status says otherwise.
    pub(crate) fn served(&self, status: u16) {
        if !is_failure(status) {
            self.load.runtime().success(self.load.at);
        }
    }

    /// Counts a request that the endpoint refused unprocessed and that was not sent elsewhere.
    pub(crate) fn refused(&self) {
        self.load.failure();
    }

    /// Counts an exchange that ended in a refusal. Faults of the client, and a pooled connection that was closed meanwhile, do not count against the
    /// endpoint.
    pub(crate) fn failed(&self, refusal: &Refusal) {
        match refusal {
            Refusal::UpstreamClosed { .. } if self.reused => {}
            Refusal::UpstreamClosed { .. }
            | Refusal::ResponseTimeout
            | Refusal::BadResponse { .. }
            | Refusal::ConnectFailed { .. }
            | Refusal::ConnectTimeout { .. }
            | Refusal::LinkFailed { .. }
            | Refusal::UpstreamTls { .. } => self.load.failure(),
            _ => {}
        }
    }

    /// Binds the connection to its client: requests on it are taken for that client's, so no other client's may use it any more.
    pub(crate) fn bind(&mut self) {
        self.bind_connection();
        if let Some(stream) = &self.stream {
            stream.close_to_others();
        }
    }

    /// Binds the connection if it is this request's alone; a challenge on an HTTP/2 stream does not bind its connection.
    pub(crate) fn bind_connection(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            ticket.bound = true;
        }
    }

    /// Returns true if the connection is bound to one client.
    pub(crate) fn is_bound(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.bound)
    }

    /// Returns the connection's ticket.
    pub(super) fn into_ticket(mut self) -> Option<Ticket> {
        self.ticket.take()
    }

    /// Returns an HTTP/1 connection to the pool. Only after a clean exchange: nothing unread, nothing unsent.
    pub(crate) fn release(mut self, io: Io) {
        let runtime = self.load.runtime();
        let Some(ticket) = self.ticket.take() else { return };
        if reusable(runtime) {
            let upstream = &runtime.upstream;
            let (keep, timeout) = (upstream.pool_idle, upstream.pool_idle_timeout);
            Pools::push(&self.load.upstreams, io, ticket, keep, timeout);
        }
    }
}

fn is_failure(status: u16) -> bool {
    matches!(status, 502..=504)
}

/// Request or connection counted at an endpoint.
pub(crate) struct Load {
    upstreams: Rc<Upstreams>,
    access: Access,
    /// Upstream; `None` for a destination of the forward proxy.
    index: Option<UpstreamIndex>,
    at: usize,
    _pending: PendingGuard,
}

impl Load {
    pub(crate) fn new(
        upstreams: &Rc<Upstreams>,
        access: Access,
        index: Option<UpstreamIndex>,
        at: usize,
        pending: PendingGuard,
    ) -> Self {
        let load = Self { upstreams: Rc::clone(upstreams), access, index, at, _pending: pending };
        load.endpoint().state.active.fetch_add(1, Relaxed);
        load
    }

    pub(crate) fn upstreams(&self) -> &Rc<Upstreams> {
        &self.upstreams
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    pub(crate) fn runtime(&self) -> &Arc<UpstreamRuntime> {
        let tenant = self.access.tenant();
        self.index.map_or(&tenant.outside, |index| &tenant.upstreams[index.0])
    }

    pub(crate) fn endpoint(&self) -> &EndpointRuntime {
        &self.runtime().endpoints[self.at]
    }

    /// Counts a failed connect, against the endpoint unless the cause is on our side.
    pub(crate) fn unreachable(&self, refusal: Refusal) -> Refusal {
        match refusal {
            Refusal::CircuitOpen | Refusal::FairShare { .. } | Refusal::Memory => {}
            Refusal::ConnectFailed { .. }
            | Refusal::ConnectTimeout { .. }
            | Refusal::LinkFailed { .. }
            | Refusal::UpstreamTls { .. } => {
                self.cells().add(Counter::UpstreamConnectFailures, 1);
                self.failure();
            }
            _ => self.cells().add(Counter::UpstreamConnectFailures, 1),
        }
        refusal
    }

    /// Creates the lease of a connection of its own.
    pub(crate) fn opened(self, connected: Connected) -> (Io, Lease) {
        let Connected { io, ticket, took } = connected;
        (io, self.with(ticket, false, took))
    }

    pub(super) fn with(self, ticket: Ticket, reused: bool, connect: Duration) -> Lease {
        self.count(reused);
        Lease {
            peer: ticket.peer,
            source: ticket.source,
            reused,
            connect,
            load: self,
            ticket: Some(ticket),
            stream: None,
        }
    }

    fn count(&self, reused: bool) {
        if reused {
            self.cells().add(Counter::UpstreamConnectionsReused, 1);
        }
    }

    fn cells(&self) -> &Cells {
        self.access.tenant().metrics.core(self.upstreams.core)
    }

    fn failure(&self) {
        self.runtime().failure(self.at, self.cells());
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.endpoint().state.active.fetch_sub(1, Relaxed);
    }
}

impl AcquiredTransport {
    /// Adds the lease to a transport.
    pub(crate) fn lease(self, load: Load) -> (Carrier, Lease) {
        match self {
            Self::Pooled(io, ticket) => {
                (Carrier::Http1(io), load.with(ticket, true, Duration::ZERO))
            }
            Self::Connected(connected) => {
                let (io, lease) = load.opened(connected);
                (Carrier::Http1(io), lease)
            }
            Self::Stream { shared, connect } => {
                let (send, stream) = shared.stream();
                load.count(connect.is_none());
                let lease = Lease {
                    peer: shared.peer(),
                    source: shared.source(),
                    reused: connect.is_none(),
                    connect: connect.unwrap_or_default(),
                    load,
                    ticket: None,
                    stream: Some(stream),
                };
                (Carrier::Http2(send), lease)
            }
        }
    }
}
