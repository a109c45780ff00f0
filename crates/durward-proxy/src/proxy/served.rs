//! The configuration that is served at one moment, held: binds, tenants and upstreams all belong to one generation, whatever is applied meanwhile.
//!
//! States are read when they are asked for, tenant by tenant, so that a reader of a large configuration holds no copy of it.

use std::sync::Arc;

use durward_model::{Snapshot, TenantId};

use super::{BindReport, SinkStatus, Status, TenantStatus};
use crate::audit;
use crate::metrics::Counter;
use crate::prepared::Prepared;
use crate::upstream::report::UpstreamReport;
use crate::upstream::{LinkReport, TenantRuntime};

/// The generation that is served.
pub struct Served {
    pub(super) prepared: Arc<Prepared>,
    pub(super) binds: Vec<BindReport>,
    pub(super) sinks: Vec<SinkStatus>,
    pub(super) audit: Option<audit::Status>,
}

impl Served {
    /// Returns the snapshot.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.prepared.snapshot
    }

    /// Returns every bind and its state.
    #[must_use]
    pub fn binds(&self) -> &[BindReport] {
        &self.binds
    }

    /// Returns the state of every log sink.
    #[must_use]
    pub fn sinks(&self) -> &[SinkStatus] {
        &self.sinks
    }

    /// Returns the state of the audit file, if there is one.
    #[must_use]
    pub fn audit(&self) -> Option<audit::Status> {
        self.audit
    }

    /// Returns the open client connections of `only`, or of every tenant.
    pub fn connections(&self, only: Option<&TenantId>) -> impl Iterator<Item = (&TenantId, u64)> {
        self.tenants(only).map(|tenant| (&tenant.tenant.id, connections(tenant)))
    }

    /// Returns the state of the upstreams of `only`, or of every tenant.
    pub fn upstreams(&self, only: Option<&TenantId>) -> impl Iterator<Item = UpstreamReport> {
        self.tenants(only).flat_map(|tenant| tenant.reports())
    }

    /// Returns the state of the links of `only`, or of every tenant.
    pub fn links(&self, only: Option<&TenantId>) -> impl Iterator<Item = LinkReport> {
        self.tenants(only).flat_map(|tenant| tenant.link_reports())
    }

    /// Returns the state of everything at once.
    #[must_use]
    pub fn status(&self) -> Status {
        let tenants = self.tenants(None).map(|tenant| TenantStatus {
            tenant: tenant.tenant.id.clone(),
            connections: connections(tenant),
            upstreams: tenant.reports().collect(),
        });
        Status {
            generation: self.prepared.snapshot.generation,
            binds: self.binds.clone(),
            tenants: tenants.collect(),
            problems: self.prepared.problems.clone(),
            sinks: self.sinks.clone(),
            audit: self.audit,
        }
    }

    fn tenants<'a>(
        &'a self,
        only: Option<&TenantId>,
    ) -> impl Iterator<Item = &'a Arc<TenantRuntime>> + use<'a> {
        let all = &self.prepared.tenants;
        let one = only.map(|id| all.get(id));
        let every = one.is_none().then(|| all.values());
        one.flatten().into_iter().chain(every.into_iter().flatten())
    }
}

fn connections(tenant: &TenantRuntime) -> u64 {
    // Ends are read first: one that comes between the two reads would be subtracted without its beginning.
    let closed = tenant.metrics.total(Counter::ConnectionsClosed);
    tenant.metrics.total(Counter::ConnectionsOpened).saturating_sub(closed)
}
