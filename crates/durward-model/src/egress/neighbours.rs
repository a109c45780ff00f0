//! Whom a tenant would meet at the gateway itself: other tenants' addresses, and the sockets everybody comes in by.
//!
//! Deliberately absent: a rule that opens these; no document can let one tenant reach another here. The host's other addresses can be
//! opened, one by one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::egress::{Guarded, guard};
use crate::mapping::{Endpoints, NatModel};
use crate::snapshot::Snapshot;
use crate::tenant::{Tenant, TenantId};

/// All tenants' addresses and networks, and the sockets accepted on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    owners: BTreeMap<IpNet, BTreeSet<TenantId>>,
    /// The lengths of prefixes among them, the longest first.
    lengths: BTreeSet<Reverse<u8>>,
    doors: BTreeSet<SocketAddr>,
}

/// What is near, as one tenant sees it.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// Everybody here.
    pub neighbours: &'a Neighbours,
    /// The addresses of the host the gateway runs on.
    pub host: &'a BTreeSet<IpAddr>,
}

/// No addresses, where the host is not asked.
pub static NO_HOST: BTreeSet<IpAddr> = BTreeSet::new();

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
                neighbours.doors.insert(SocketAddr::new(listener.address.0, listener.port));
            }
        }
        neighbours.doors.extend(snapshot.binds.keys().copied());
        neighbours.add_pods(&snapshot.nat);
        neighbours
    }

    /// Whether both snapshots have the same ones, as far as that can be told by looking at what changed alone.
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

    /// What the kernel carries: mapped addresses, where they lead, and whose traffic leaves from a tenant's addresses.
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

    fn own(&mut self, network: IpNet, tenant: &TenantId) {
        self.lengths.insert(Reverse(network.prefix_len()));
        self.owners.entry(network).or_default().insert(tenant.clone());
    }

    /// Whose an address is, by the smallest network it is in.
    fn owners(&self, address: IpAddr) -> Option<&BTreeSet<TenantId>> {
        self.lengths.iter().find_map(|Reverse(length)| {
            let network = IpNet::new(address, *length).ok()?.trunc();
            self.owners.get(&network)
        })
    }
}

impl Surroundings<'_> {
    /// Why the tenant may not go to `address` whatever its rules say, if somebody here is there.
    #[must_use]
    pub fn guards(&self, address: IpAddr, port: u16) -> Option<Guarded> {
        let embedded = guard::embedded(address);
        let all = std::iter::once(address.to_canonical()).chain(embedded);
        all.into_iter().find_map(|address| self.guards_one(address, port))
    }

    fn guards_one(&self, address: IpAddr, port: u16) -> Option<Guarded> {
        let doors = &self.neighbours.doors;
        let owners = self.neighbours.owners(address);
        if owners.is_some_and(|owners| owners.iter().any(|owner| owner != self.tenant)) {
            return Some(Guarded::OtherTenant);
        }
        let here = owners.is_some() || address.is_loopback() || self.host.contains(&address);
        let everywhere = |door: &SocketAddr| door.ip().is_unspecified() && door.port() == port;
        let met = doors.contains(&SocketAddr::new(address, port))
            || (here && doors.iter().any(everywhere));
        met.then_some(Guarded::Gateway)
    }

    /// The host's own addresses are each a range of their own. Loopback is a range already.
    pub(super) fn of_host(&self, address: IpAddr) -> Option<(Guarded, IpNet)> {
        let address = address.to_canonical();
        let own = self.host.contains(&address) && !address.is_loopback();
        own.then(|| (Guarded::Host, IpNet::from(address)))
    }
}
