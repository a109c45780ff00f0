//! What is told of an upstream to status screens and metrics.
//!
//! Deliberately absent: anything that could be used to reach it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use durward_model::TenantId;
use serde::Serialize;

use super::endpoint::EndpointRuntime;
use super::runtime::UpstreamRuntime;

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
    /// The last requests to it failed, and it is chosen all the same: nothing takes it out of rotation.
    Failing,
    /// Its name had no address when it was last looked up.
    Unresolved,
    /// Its weight is 0.
    Drained,
}

impl fmt::Display for EndpointHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl EndpointHealth {
    /// The word in metrics and status screens.
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

    /// Returns true when a request that goes there now can be expected to be answered.
    #[must_use]
    pub fn is_usable(self) -> bool {
        self == Self::Healthy
    }
}

/// Failed requests in a row after which an endpoint without passive ejection counts as failing.
const FAILING_AFTER: u32 = 3;

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
    } else if health.unresolved.load(Relaxed) {
        EndpointHealth::Unresolved
    } else if health.failures.load(Relaxed) >= FAILING_AFTER {
        EndpointHealth::Failing
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
