//! Addresses at which Ingresses are served: of the listeners that have routes of theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::{Kind, Origin, ResourceId, Service, SharedMap, Snapshot, Tenant, TenantId};

/// Addresses of Ingresses by tenant. Tenants that are the same as before are not searched again.
#[derive(Default)]
pub(super) struct IngressAddresses {
    seen: Option<Arc<Snapshot>>,
    tenants: BTreeMap<TenantId, Addresses>,
}

type Addresses = BTreeMap<ResourceId, BTreeSet<IpAddr>>;

impl IngressAddresses {
    /// Looks at what is served, and returns the tenants that may have Ingresses at other addresses than before.
    pub(super) fn look(&mut self, snapshot: &Arc<Snapshot>) -> Vec<TenantId> {
        let none = SharedMap::default();
        let before = self.seen.as_ref().map_or(&none, |seen| &seen.tenants);
        let changed = snapshot.tenants.differences(before, Arc::ptr_eq);
        let mut moved = Vec::new();
        for id in changed {
            let tenant = snapshot.tenants.get(id);
            let takes =
                |tenant: &&Arc<Tenant>| tenant.listeners.iter().any(|it| it.takes_ingresses);
            let now = tenant.filter(takes).map(|tenant| addresses(tenant));
            if self.tenants.get(id) == now.as_ref() {
                continue;
            }
            moved.push(id.clone());
            match now {
                Some(now) => drop(self.tenants.insert(id.clone(), now)),
                None => drop(self.tenants.remove(id)),
            }
        }
        self.seen = Some(Arc::clone(snapshot));
        moved
    }

    /// Returns the addresses of an Ingress of a tenant, in order.
    pub(super) fn of(&self, id: &ResourceId, tenant: Option<&TenantId>) -> Vec<IpAddr> {
        let known = tenant.and_then(|tenant| self.tenants.get(tenant));
        let addresses = known.and_then(|addresses| addresses.get(id));
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
            Service::Tcp(_) | Service::Udp(_) | Service::Forward(_) | Service::Link(_) => {}
        }
    }
    addresses
}
