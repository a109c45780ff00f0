//! Connections to a tenant's upstreams: chooses an endpoint, takes a pooled connection or opens one from the tenant's address, and counts the
//! outcome.

mod acquire;
mod balance;
mod budget;
mod connect;
pub(crate) mod direct;
mod endpoint;
mod health;
mod http2;
mod lease;
pub(crate) mod link;
mod outlier;
mod outside;
mod path;
mod per_core;
mod pins;
pub(crate) mod pool;
mod ports;
mod proxy_header;
pub(crate) mod report;
pub(crate) mod resolve;
mod runtime;
mod tenant;
mod tls_client;

#[cfg(test)]
mod tests;

pub(crate) use acquire::{Carrier, acquire, open};
pub(crate) use balance::Tried;
pub(crate) use health::spawn_health_checks;
pub(crate) use lease::Lease;
pub(crate) use link::{Attached, LinkState};
pub use link::{ClusterReport, LinkReport};
pub(crate) use outside::{carry, visit};
pub(crate) use per_core::Upstreams;
pub(crate) use pins::Pins;
pub use ports::PortReport;
pub(crate) use runtime::UpstreamRuntime;
pub(crate) use tenant::{Access, TenantRuntime};
