//! Runtime form of a tenant, and the handle by which its upstreams are reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use durward_model::{Destination, Tenant};

use super::link::{LinkReport, TenantLinks};
use super::ports::{PortReport, budget};
use super::runtime::UpstreamRuntime;
use crate::limits::Usage;
use crate::metrics::TenantMetrics;

/// Runtime form of a tenant.
pub(crate) struct TenantRuntime {
    /// Tenant of the snapshot.
    pub(crate) tenant: Arc<Tenant>,
    /// Upstreams, in the order of [`Tenant::upstreams`].
    pub(crate) upstreams: Vec<Arc<UpstreamRuntime>>,
    /// Placeholder upstream for the destinations of its forward proxy.
    pub(crate) outside: Arc<UpstreamRuntime>,
    /// Usage of its limits; lives on when the tenant changes.
    pub(crate) usage: Arc<Usage>,
    /// Links; they also live on when the tenant changes.
    pub(crate) links: Arc<TenantLinks>,
    /// Counters; live on likewise.
    pub(crate) metrics: Arc<TenantMetrics>,
}

impl TenantRuntime {
    /// Returns the port use of each of its egress addresses.
    pub(crate) fn ports(&self) -> Vec<PortReport> {
        let mut busiest: BTreeMap<_, u32> =
            self.tenant.egress.iter().map(|address| (*address, 0)).collect();
        let ways = self.upstreams.iter().chain(std::iter::once(&self.outside));
        for (address, used) in ways.flat_map(|runtime| runtime.busiest()) {
            let most = busiest.entry(address).or_insert(0);
            *most = used.max(*most);
        }
        let report = |(address, used)| PortReport {
            tenant: self.tenant.id.clone(),
            address,
            used,
            budget: budget(),
        };
        busiest.into_iter().map(report).collect()
    }
}

impl TenantRuntime {
    /// Returns the state of its links.
    pub(crate) fn link_reports(&self) -> Vec<LinkReport> {
        self.links.reports(&self.tenant.id)
    }
}

/// Access to one tenant's upstreams. Only a [`TenantView`](crate::prepared::TenantView) creates it; no connection leaves without one.
#[derive(Clone)]
pub(crate) struct Access {
    tenant: Arc<TenantRuntime>,
    destination: Destination,
}

impl Access {
    /// Creates the access of a client that was admitted to a listener of `tenant` at `destination`.
    pub(crate) fn admitted(tenant: &Arc<TenantRuntime>, destination: Destination) -> Self {
        Self { tenant: Arc::clone(tenant), destination }
    }

    /// Returns the tenant.
    pub(crate) fn tenant(&self) -> &TenantRuntime {
        &self.tenant
    }

    /// Returns the listener's address and port: the destination in a PROXY header of a connection that serves many clients.
    pub(super) fn destination(&self) -> Destination {
        self.destination
    }
}
