//! Whom a tenant would meet at the gateway itself: other tenants' addresses, and the sockets everybody comes in by.
//!
//! Deliberately absent: a rule that opens these; no document can let one tenant reach another here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::egress::Guarded;
use crate::snapshot::Snapshot;
use crate::tenant::TenantId;

/// All tenants' addresses and the sockets accepted on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    owners: BTreeMap<IpAddr, BTreeSet<TenantId>>,
    doors: BTreeSet<SocketAddr>,
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

    /// Why `tenant` may not go to `address`, if somebody here is there.
    #[must_use]
    pub fn guards(&self, tenant: &TenantId, address: IpAddr, port: u16) -> Option<Guarded> {
        let address = address.to_canonical();
        let owners = self.owners.get(&address);
        if owners.is_some_and(|owners| owners.iter().any(|owner| owner != tenant)) {
            return Some(Guarded::OtherTenant);
        }
        let own = owners.is_some();
        let everywhere = |door: &SocketAddr| door.ip().is_unspecified() && door.port() == port;
        let met = self.doors.contains(&SocketAddr::new(address, port))
            || (own && self.doors.iter().any(everywhere));
        met.then_some(Guarded::Gateway)
    }

    /// Whether a socket accepts on every address of the host at this port: then the host's own addresses are doors, whichever they are.
    #[must_use]
    pub fn accepts_everywhere(&self, port: u16) -> bool {
        self.doors.iter().any(|door| door.ip().is_unspecified() && door.port() == port)
    }
}
