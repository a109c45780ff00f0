//! Every byte a socket carries: accept, peek, admit, route, connect, relay.
//!
//! One current-thread runtime per core, each with its own listening sockets and pools. Deliberately absent: configuration formats,
//! Kubernetes, and any way to reach an upstream without a [`TenantView`](prepared::TenantView).

pub mod access_log;
mod core;
mod http;
mod io;
mod limits;
pub mod metrics;
mod prepared;
pub mod refusal;
mod relay;
mod session;
mod upstream;
mod watch;
