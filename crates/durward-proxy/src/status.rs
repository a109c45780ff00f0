//! States that the lower rooms report and `proxy` publishes: binds, sinks, and parts of a snapshot that are not served.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use durward_model::transport::Transport;
use durward_model::{Bind, Snapshot, TenantId};

/// Part of a snapshot that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Tenant of the part.
    pub tenant: TenantId,
    /// Listener that is left out; `None` if the whole tenant is.
    pub listener: Option<String>,
    /// Reason, as a message.
    pub sentence: String,
}

/// Bind and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindReport {
    /// Transport protocol.
    pub transport: Transport,
    /// Address of the bind.
    pub address: SocketAddr,
    /// State of the bind.
    pub state: BindState,
}

impl BindReport {
    /// Returns the bind in the configuration; `None` if it has none any more.
    #[must_use]
    pub fn configured<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Arc<Bind>> {
        match self.transport {
            Transport::Udp => snapshot.udp.get(&self.address),
            Transport::Tcp | Transport::Sctp => snapshot.binds.get(&self.address),
        }
    }
}

/// Writes the address, and the transport protocol unless that is TCP: `198.51.100.2:53/udp`.
impl fmt::Display for BindReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "{}", self.address),
            other => write!(f, "{}/{other}", self.address),
        }
    }
}

/// State of a bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindState {
    /// Connections are accepted.
    Bound,
    /// The socket is bound, and reachable as soon as the host has the address.
    AddressNotLocal,
    /// The socket could not be bound, for this reason.
    Failed(String),
}

/// State of one log sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkStatus {
    /// `access` or `decisions`.
    pub log: &'static str,
    /// Kind of sink: `stdout`, `file`, `syslog` or `otlp`.
    pub kind: &'static str,
    /// True if the last write failed.
    pub failing: bool,
    /// Lines lost since the start.
    pub lost: u64,
}

/// Way to close a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// Accept the clients in its queue first: closing would reset them.
    EmptyQueue,
    /// Leave the queue: another process holds the socket and will accept them, or nothing is served any more.
    LeaveQueue,
}
