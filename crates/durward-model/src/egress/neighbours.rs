//! Whom a tenant would meet at the gateway itself: other tenants' addresses, and the sockets everybody comes in by.
//!
//! Deliberately absent: a rule that opens these; no document can let one tenant reach another here. The host's other addresses can be
//! opened, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::egress::Guarded;
use crate::snapshot::Snapshot;
use crate::tenant::TenantId;

/// All tenants' addresses and the sockets accepted on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    owners: BTreeMap<IpAddr, BTreeSet<TenantId>>,
    doors: BTreeSet<SocketAddr>,
    host: BTreeSet<IpAddr>,
}

impl Neighbours {
    /// Those of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut neighbours = Self::default();
        for tenant in snapshot.tenants.values() {
            let ingress = tenant.listeners.iter().map(|listener| listener.address.0);
            for address in tenant.egress.iter().map(|egress| egress.0).chain(ingress) {
                neighbours
                    .owners
                    .entry(address.to_canonical())
                    .or_default()
                    .insert(tenant.id.clone());
            }
            for listener in &tenant.listeners {
                neighbours.doors.insert(SocketAddr::new(listener.address.0, listener.port));
            }
        }
        neighbours.doors.extend(snapshot.binds.keys().copied());
        neighbours
    }

    /// The same, on a host that has these addresses.
    #[must_use]
    pub fn on(mut self, host: impl IntoIterator<Item = IpAddr>) -> Self {
        self.host = host.into_iter().map(|address| address.to_canonical()).collect();
        self
    }

    /// Why `tenant` may not go to `address`, if somebody here is there.
    #[must_use]
    pub fn guards(&self, tenant: &TenantId, address: IpAddr, port: u16) -> Option<Guarded> {
        let address = address.to_canonical();
        let owners = self.owners.get(&address);
        if owners.is_some_and(|owners| owners.iter().any(|owner| owner != tenant)) {
            return Some(Guarded::OtherTenant);
        }
        let here = owners.is_some() || address.is_loopback() || self.host.contains(&address);
        let everywhere = |door: &SocketAddr| door.ip().is_unspecified() && door.port() == port;
        let met = self.doors.contains(&SocketAddr::new(address, port))
            || (here && self.doors.iter().any(everywhere));
        met.then_some(Guarded::Gateway)
    }

    /// The host's own addresses are each a range of their own. Loopback is a range already.
    #[must_use]
    pub(super) fn host(&self, address: IpAddr) -> Option<(Guarded, IpNet)> {
        let address = address.to_canonical();
        let own = self.host.contains(&address) && !address.is_loopback();
        own.then(|| (Guarded::Host, IpNet::from(address)))
    }
}
