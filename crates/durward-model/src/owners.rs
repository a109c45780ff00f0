//! Tenants that hold the addresses of a gateway: for clients, for traffic that leaves, and for port mappings.
//!
//! Deliberately absent: networks and pods; those are in [`crate::egress::Neighbours`].

use std::net::IpAddr;

use crate::shared_map::SharedMap;
use crate::tenant::TenantId;

/// The addresses that tenants were granted. Several tenants hold one where all of them say `shared`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressOwners(SharedMap<IpAddr, Vec<TenantId>>);

impl AddressOwners {
    /// Notes that a tenant holds an address.
    pub fn insert(&mut self, address: IpAddr, tenant: &TenantId) {
        let address = address.to_canonical();
        match self.0.get_mut(&address) {
            None => drop(self.0.insert(address, vec![tenant.clone()])),
            Some(owners) => {
                if let Err(at) = owners.binary_search(tenant) {
                    owners.insert(at, tenant.clone());
                }
            }
        }
    }

    /// Notes that a tenant holds an address no more.
    pub fn remove(&mut self, address: IpAddr, tenant: &TenantId) {
        let address = address.to_canonical();
        if let Some(owners) = self.0.get_mut(&address) {
            owners.retain(|owner| owner != tenant);
            if owners.is_empty() {
                self.0.remove(&address);
            }
        }
    }

    /// Returns the tenants that hold an address, in order; none where nobody does.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> &[TenantId] {
        self.0.get(&address.to_canonical()).map_or(&[], Vec::as_slice)
    }

    /// Returns all addresses with the tenants that hold them.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &[TenantId])> {
        self.0.iter().map(|(address, owners)| (*address, owners.as_slice()))
    }
}
