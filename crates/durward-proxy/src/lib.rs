//! Every byte a socket carries: accept, peek, admit, route, connect, relay.
//!
//! One current-thread runtime per core, each with its own listening sockets and pools. Deliberately absent: configuration formats,
//! Kubernetes, and any way to reach an upstream without a `TenantView`.

mod accept;
pub mod access_log;
mod admit;
mod admitted;
pub mod audit;
mod connection;
mod core;
mod decisions;
pub mod exposition;
mod files;
mod forward;
mod handover;
mod http;
mod http2;
mod io;
mod json_line;
mod limits;
mod listeners;
mod memory;
pub mod metrics;
mod passthrough;
#[doc(hidden)]
pub mod peek;
mod prepared;
pub mod present;
pub mod proxy;
mod random;
pub mod refusal;
mod regular;
mod reject;
mod relay;
mod session;
mod share;
mod status;
mod syntax;
mod tcp;
mod tls;
mod turns;
mod unidentified;
mod upstream;
mod watch;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use http::fuzzing;
pub use proxy::Proxy;
pub use upstream::PortReport;
pub use upstream::report::{EndpointHealth, EndpointReport, UpstreamReport};
