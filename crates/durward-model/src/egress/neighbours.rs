//! Addresses at the gateway itself that a tenant must not reach: those of other tenants, and the listening sockets.
//!
//! Deliberately absent: a rule that opens these; no document can let one tenant reach another here. The host's other addresses can be
//! opened, one by one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::egress::guard::{self, Guarded};
use crate::tenant_id::TenantId;

/// All tenants' addresses and networks, and the sockets accepted on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    owners: BTreeMap<IpNet, BTreeSet<TenantId>>,
    /// The lengths of prefixes among them, the longest first.
    lengths: BTreeSet<Reverse<u8>>,
    doors: BTreeSet<SocketAddr>,
}

/// Addresses and sockets near the gateway, as one tenant sees them.
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
    /// Notes that an address or network is a tenant's.
    pub(crate) fn own(&mut self, network: IpNet, tenant: &TenantId) {
        self.lengths.insert(Reverse(network.prefix_len()));
        self.owners.entry(network).or_default().insert(tenant.clone());
    }

    /// Notes a socket that is accepted on.
    pub(crate) fn add_door(&mut self, door: SocketAddr) {
        self.doors.insert(door);
    }

    /// Returns the owners of an address, by the smallest network that contains it.
    fn owners(&self, address: IpAddr) -> Option<&BTreeSet<TenantId>> {
        self.lengths.iter().find_map(|Reverse(length)| {
            let network = IpNet::new(address, *length).ok()?.trunc();
            self.owners.get(&network)
        })
    }
}

impl Surroundings<'_> {
    /// Returns the reason why the tenant may not go to `address` whatever its rules say; `None` if nothing of this gateway is there.
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
