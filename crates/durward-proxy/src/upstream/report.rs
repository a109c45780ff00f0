//! What is told of an upstream to status screens and metrics.
//!
//! Deliberately absent: anything that could be used to reach it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use durward_model::TenantId;
use serde::Serialize;

use super::UpstreamRuntime;
use super::endpoint::EndpointRuntime;

/// An upstream and its endpoints now.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamReport {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name within the tenant.
    pub name: Arc<str>,
    /// In the order of the configuration.
    pub endpoints: Vec<EndpointReport>,
}

/// An endpoint now.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointReport {
    /// As configured: an address, or a name and port.
    pub address: String,
    /// Whether it is chosen.
    pub state: EndpointHealth,
    /// Requests or connections under way.
    pub active: u32,
    /// Failed requests in a row.
    pub failures: u32,
}

/// Whether an endpoint is chosen, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointHealth {
    /// It is.
    Healthy,
    /// Active checks fail.
    Unhealthy,
    /// It rests after failed requests.
    Ejected,
    /// Its weight is 0.
    Drained,
}

impl UpstreamRuntime {
    /// How it is now.
    pub(crate) fn report(&self) -> UpstreamReport {
        UpstreamReport {
            tenant: self.tenant.clone(),
            name: Arc::clone(&self.upstream.name),
            endpoints: self.endpoints.iter().map(endpoint).collect(),
        }
    }
}

fn endpoint(endpoint: &EndpointRuntime) -> EndpointReport {
    let health = &endpoint.state;
    let state = if endpoint.weight == 0 {
        EndpointHealth::Drained
    } else if health.unhealthy.load(Relaxed) {
        EndpointHealth::Unhealthy
    } else if health.ejected_until.load(Relaxed) != 0 {
        EndpointHealth::Ejected
    } else {
        EndpointHealth::Healthy
    };
    EndpointReport {
        address: endpoint.target.to_string(),
        state,
        active: health.active.load(Relaxed),
        failures: health.failures.load(Relaxed),
    }
}
