//! Addresses at which Ingresses are served: of the listeners that have routes of theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::{Kind, Origin, ResourceId, Service, Snapshot, Tenant, TenantId};

/// Addresses of Ingresses by tenant. A tenant that is the same as before is not searched again.
#[derive(Default)]
pub(super) struct IngressAddresses {
    seen: Option<Arc<Snapshot>>,
    tenants: BTreeMap<TenantId, (Arc<Tenant>, Addresses)>,
}

type Addresses = BTreeMap<ResourceId, BTreeSet<IpAddr>>;

impl IngressAddresses {
    /// Looks at what is served.
    pub(super) fn look(&mut self, snapshot: &Arc<Snapshot>) {
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, snapshot)) {
            return;
        }
        let mut former = std::mem::take(&mut self.tenants);
        let takes = |tenant: &Tenant| tenant.listeners.iter().any(|it| it.takes_ingresses);
        for (id, tenant) in snapshot.tenants.iter().filter(|(_, tenant)| takes(tenant)) {
            let known = former.remove(id).filter(|(known, _)| Arc::ptr_eq(known, tenant));
            let known = known.unwrap_or_else(|| (Arc::clone(tenant), addresses(tenant)));
            self.tenants.insert(id.clone(), known);
        }
        self.seen = Some(Arc::clone(snapshot));
    }

    /// Returns the addresses of an Ingress of a tenant, in order.
    pub(super) fn of(&self, id: &ResourceId, tenant: Option<&TenantId>) -> Vec<IpAddr> {
        let known = tenant.and_then(|tenant| self.tenants.get(tenant));
        let addresses = known.and_then(|(_, addresses)| addresses.get(id));
        addresses.into_iter().flatten().copied().collect()
    }
}

fn addresses(tenant: &Tenant) -> Addresses {
    let mut addresses = Addresses::new();
    for listener in tenant.listeners.iter().filter(|listener| listener.takes_ingresses) {
        let mut note = |origin: &Origin| {
            if let Origin::Object { id, .. } = origin
                && id.kind == Kind::Ingress
            {
                addresses.entry(id.clone()).or_default().insert(listener.address.0);
            }
        };
        match &listener.service {
            Service::Http(http) => http.routes.iter().for_each(|route| note(&route.origin)),
            Service::PassThrough(routes) => routes.iter().for_each(|route| note(&route.origin)),
            Service::Tcp(_) | Service::Forward(_) | Service::Link(_) => {}
        }
    }
    addresses
}
