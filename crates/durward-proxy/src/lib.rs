//! The data plane of sockets: accept, peek, admit, route, connect, relay.
//!
//! One current-thread runtime per core, each with its own listening sockets and pools. Deliberately absent: configuration formats,
//! Kubernetes, and any way to reach an upstream without a `TenantView`.

mod accept;
pub mod access_log;
mod admit;
mod admitted;
mod agents;
pub mod audit;
mod connection;
mod core;
mod decisions;
mod dial;
mod egress_proxy;
mod exchange;
pub mod exposition;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod handover;
mod http;
mod http2;
mod identify;
mod io;
mod json_line;
mod limits;
mod listeners;
mod memory;
pub mod metrics;
mod outcome;
mod passthrough;
#[doc(hidden)]
pub mod peek;
mod prepared;
pub mod present;
pub mod proxy;
mod random;
pub mod refusal;
pub mod registry;
mod regular;
mod reject;
mod relay;
mod server;
mod session;
mod share;
mod socks;
mod status;
mod syntax;
mod tcp;
mod tls;
mod turns;
mod udp;
mod unidentified;
mod upstream;
mod watch;

pub use memory::of_this_process as memory_of_this_process;
pub use proxy::Proxy;
pub use upstream::report::{EndpointHealth, EndpointReport, UpstreamReport};
pub use upstream::{ClusterReport, LinkReport, PortReport};
