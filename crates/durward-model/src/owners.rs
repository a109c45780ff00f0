//! Tenants that hold the addresses of a gateway: for clients, for traffic that leaves, and for port mappings.
//!
//! Deliberately absent: networks and pods; those are in [`crate::egress::Neighbours`].

use std::net::IpAddr;

use crate::shared_map::SharedMap;
use crate::tenant_id::TenantId;

/// The addresses that tenants were granted. Several tenants hold one where all of them say `shared`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressOwners(SharedMap<IpAddr, Owners>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owners {
    tenants: Vec<TenantId>,
    shared: bool,
}

impl AddressOwners {
    /// Notes that a tenant holds an address, and whether it lets others that also say so hold it.
    pub fn insert(&mut self, address: IpAddr, tenant: &TenantId, shared: bool) {
        let address = address.to_canonical();
        match self.0.get_mut(&address) {
            None => drop(self.0.insert(address, Owners { tenants: vec![tenant.clone()], shared })),
            Some(owners) => {
                owners.shared &= shared;
                if let Err(at) = owners.tenants.binary_search(tenant) {
                    owners.tenants.insert(at, tenant.clone());
                }
            }
        }
    }

    /// Notes that a tenant holds an address no more.
    pub fn remove(&mut self, address: IpAddr, tenant: &TenantId) {
        let address = address.to_canonical();
        if let Some(owners) = self.0.get_mut(&address) {
            owners.tenants.retain(|owner| owner != tenant);
            if owners.tenants.is_empty() {
                self.0.remove(&address);
            }
        }
    }

    /// Returns the tenants that hold an address, in order; empty if there is none.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> &[TenantId] {
        self.0.get(&address.to_canonical()).map_or(&[], |owners| owners.tenants.as_slice())
    }

    /// Returns whether all tenants that hold an address let others hold it, too.
    #[must_use]
    pub fn is_shared(&self, address: IpAddr) -> bool {
        self.0.get(&address.to_canonical()).is_some_and(|owners| owners.shared)
    }

    /// Returns all addresses with the tenants that hold them, and whether these share it.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &[TenantId], bool)> {
        self.0.iter().map(|(address, owners)| (*address, owners.tenants.as_slice(), owners.shared))
    }
}
