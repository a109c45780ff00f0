//! Neighbours of the tenants of a snapshot.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Snapshot;
use crate::egress::neighbours::Neighbours;
use crate::mapping::{Endpoints, NatModel};
use crate::tenant::Tenant;

impl Neighbours {
    /// Those of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut neighbours = Self::default();
        for tenant in snapshot.tenants.values() {
            let ingress = tenant.listeners.iter().map(|listener| listener.address.0);
            for address in tenant.egress.iter().map(|egress| egress.0).chain(ingress) {
                neighbours.own(address.to_canonical().into(), &tenant.id);
            }
            for listener in &tenant.listeners {
                neighbours.add_door(SocketAddr::new(listener.address.0, listener.port));
            }
        }
        snapshot.binds.keys().for_each(|door| neighbours.add_door(*door));
        neighbours.add_pods(&snapshot.nat);
        neighbours
    }

    /// Returns true if both snapshots have the same neighbours, judged only by what changed between them.
    #[must_use]
    pub fn are_same(before: &Snapshot, now: &Snapshot) -> bool {
        let places = |tenant: &Tenant| {
            let doors = tenant.listeners.iter().map(|listener| listener.key());
            (tenant.egress.clone(), doors.collect::<Vec<_>>())
        };
        let same = |(was, is): (&Arc<Tenant>, &Arc<Tenant>)| {
            Arc::ptr_eq(was, is) || (was.id == is.id && places(was) == places(is))
        };
        Arc::ptr_eq(&before.nat, &now.nat)
            && before.tenants.len() == now.tenants.len()
            && before.tenants.values().zip(now.tenants.values()).all(same)
            && before.binds.keys().eq(now.binds.keys())
    }

    /// Adds what the kernel carries: mapped addresses, their endpoints, and networks whose traffic leaves from a tenant's addresses.
    fn add_pods(&mut self, nat: &NatModel) {
        for mapping in &nat.mappings {
            for address in &mapping.addresses {
                self.own(address.0.to_canonical().into(), &mapping.tenant);
            }
            let endpoints = mapping.ports.iter().flat_map(|port| match &port.endpoints {
                Endpoints::At(at) => at.iter().map(SocketAddr::ip).collect::<Vec<_>>(),
                Endpoints::SamePort(at) => at.clone(),
            });
            for endpoint in endpoints {
                self.own(endpoint.to_canonical().into(), &mapping.tenant);
            }
        }
        for egress in &nat.egress {
            for network in &egress.sources {
                self.own(network.trunc(), &egress.tenant);
            }
        }
    }
}
