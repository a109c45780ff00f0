//! Status of upstreams, for status pages and metrics.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use durward_model::TenantId;
use serde::Serialize;

use super::endpoint::EndpointRuntime;
use super::runtime::UpstreamRuntime;
use super::tenant::TenantRuntime;

/// Status of an upstream and its endpoints.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamReport {
    /// Tenant of the upstream.
    pub tenant: TenantId,
    /// Name of the upstream within the tenant.
    pub name: Arc<str>,
    /// Endpoints, in the order of the configuration.
    pub endpoints: Vec<EndpointReport>,
}

/// Status of an endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointReport {
    /// Configured address, or name and port.
    pub address: String,
    /// Health of the endpoint.
    pub state: EndpointHealth,
    /// Requests or connections under way.
    pub active: u32,
    /// Failed requests in a row.
    pub failures: u32,
}

/// Health of an endpoint, with the reason it is not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointHealth {
    /// Chosen.
    Healthy,
    /// Not chosen: active checks fail.
    Unhealthy,
    /// Not chosen: passively ejected after failed requests.
    Ejected,
    /// Chosen although the last requests to it failed: no check or ejection is configured that would take it out of rotation.
    Failing,
    /// Not chosen: the name had no address at its last lookup.
    Unresolved,
    /// Not chosen: the weight is 0.
    Drained,
}

impl fmt::Display for EndpointHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl EndpointHealth {
    /// Returns the word in metrics and on status pages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Failing => "failing",
            Self::Unresolved => "unresolved",
            Self::Drained => "drained",
        }
    }

    /// Returns true if a request to the endpoint can be expected to be answered.
    #[must_use]
    pub fn is_usable(self) -> bool {
        self == Self::Healthy
    }
}

/// Failed requests in a row after which an endpoint without passive ejection counts as failing.
const FAILING_AFTER: u32 = 3;

impl UpstreamRuntime {
    /// Returns the current status.
    pub(crate) fn report(&self) -> UpstreamReport {
        UpstreamReport {
            tenant: self.tenant.clone(),
            name: Arc::clone(&self.upstream.name),
            endpoints: self.endpoints.iter().map(endpoint).collect(),
        }
    }

    /// Returns true if every endpoint is healthy, or is not used because its weight is 0.
    pub(crate) fn is_in_order(&self) -> bool {
        let wanted = [EndpointHealth::Healthy, EndpointHealth::Drained];
        self.endpoints.iter().all(|endpoint| wanted.contains(&health(endpoint)))
    }
}

impl TenantRuntime {
    /// Returns the current status of the upstreams.
    pub(crate) fn reports(&self) -> impl Iterator<Item = UpstreamReport> {
        self.upstreams.iter().map(|upstream| upstream.report())
    }
}

fn health(endpoint: &EndpointRuntime) -> EndpointHealth {
    let health = &endpoint.state;
    if endpoint.weight == 0 {
        EndpointHealth::Drained
    } else if health.unhealthy.load(Relaxed) {
        EndpointHealth::Unhealthy
    } else if health.ejected_until.load(Relaxed) != 0 {
        EndpointHealth::Ejected
    } else if health.unresolved.load(Relaxed) {
        EndpointHealth::Unresolved
    } else if health.failures.load(Relaxed) >= FAILING_AFTER {
        EndpointHealth::Failing
    } else {
        EndpointHealth::Healthy
    }
}

fn endpoint(endpoint: &EndpointRuntime) -> EndpointReport {
    EndpointReport {
        address: endpoint.target.to_string(),
        state: health(endpoint),
        active: endpoint.state.active.load(Relaxed),
        failures: endpoint.state.failures.load(Relaxed),
    }
}
