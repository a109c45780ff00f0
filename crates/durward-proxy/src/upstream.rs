//! The way to a tenant's upstreams: choose an endpoint, take a pooled connection or make one from the tenant's address, report how it went.
//!
//! Deliberately absent: HTTP. What is carried is the business of `http` and `relay`.

pub(crate) mod pool;
pub(crate) mod resolve;

use std::sync::Arc;

use durward_model::Upstream;

/// An upstream made ready: resolved endpoints, health, load and the TLS configuration, shared by all cores.
pub(crate) struct UpstreamRuntime {
    /// What it was made from.
    pub(crate) upstream: Arc<Upstream>,
}
