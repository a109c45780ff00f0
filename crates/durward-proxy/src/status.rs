//! States that the lower rooms report and `proxy` hands out: binds, sinks, and what of a snapshot is not served.

use std::net::SocketAddr;

use durward_model::TenantId;

/// Something of a snapshot that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whose it is.
    pub tenant: TenantId,
    /// The listener that is left out; `None` when the whole tenant is.
    pub listener: Option<String>,
    /// Why, as a sentence.
    pub sentence: String,
}

/// A bind and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindReport {
    /// The bind.
    pub address: SocketAddr,
    /// How it is.
    pub state: BindState,
}

/// How a bind is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindState {
    /// Connections are accepted.
    Bound,
    /// It is bound, and reachable as soon as the host has the address.
    AddressNotLocal,
    /// It could not be bound; why.
    Failed(String),
}

/// State of one place that lines go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkStatus {
    /// `access` or `decisions`.
    pub log: &'static str,
    /// The kind of sink: `stdout`, `file`, `syslog` or `otlp`.
    pub kind: &'static str,
    /// True if the last write failed.
    pub failing: bool,
    /// Lines lost since the start.
    pub lost: u64,
}

/// How a door's listening socket is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// Clients that wait in its queue are let in first: closing would reset them.
    EmptyQueue,
    /// Somebody else holds the socket and will let them in, or nobody is served any more.
    LeaveQueue,
}
