//! The one value that says everything the data planes serve, swapped as a whole.
//!
//! Deliberately absent: what was rejected; that is in the [`crate::Verdicts`] beside it.

mod hosted_counts;
mod neighbours;

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

pub use hosted_counts::HostedApiCounts;

use crate::listener::{Bind, Listener};
use crate::mapping::NatModel;
use crate::shared_map::SharedMap;
use crate::tenant::Tenant;
use crate::tenant_id::TenantId;
use crate::transport::Transport;

/// Complete served configuration. Built by `compile`, never changed afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Counts configurations, from 1.
    pub generation: u64,
    /// The tenants; an unchanged tenant is the same `Arc` as in the snapshot before.
    pub tenants: SharedMap<TenantId, Arc<Tenant>>,
    /// The sockets to accept on, by local address.
    pub binds: SharedMap<SocketAddr, Arc<Bind>>,
    /// The sockets to receive datagrams on, by local address; each is of one listener.
    #[serde(skip_serializing_if = "SharedMap::is_empty")]
    pub udp: SharedMap<SocketAddr, Arc<Bind>>,
    /// Mappings and egress rules of the kernel plane.
    pub nat: Arc<NatModel>,
}

impl Snapshot {
    /// Returns whether a request for `host` (lower case, without port and trailing dot) may be served by this listener: where tenants share an
    /// address and port by names, only by the one that has the name.
    #[must_use]
    pub fn is_named(&self, listener: &Listener, host: &str) -> bool {
        let owner = || self.binds.get(&listener.bind)?.named(listener.key(), host);
        listener.names.is_none() || owner() == Some(&listener.tenant)
    }

    /// Returns the socket of a listener.
    #[must_use]
    pub fn bind_of(&self, listener: &Listener) -> Option<&Arc<Bind>> {
        match listener.transport() {
            Transport::Udp => self.udp.get(&listener.bind),
            Transport::Tcp | Transport::Sctp => self.binds.get(&listener.bind),
        }
    }

    /// Returns all sockets, those for connections first.
    pub fn sockets(&self) -> impl Iterator<Item = &Arc<Bind>> {
        self.binds.values().chain(self.udp.values())
    }

    /// The bind a connection to `local` arrives on: the exact address, or the unspecified one with the same port.
    #[must_use]
    pub fn bind_for(&self, local: SocketAddr) -> Option<&Arc<Bind>> {
        let unspecified = |family: &str| {
            family.parse().ok().and_then(|ip| self.binds.get(&SocketAddr::new(ip, local.port())))
        };
        self.binds
            .get(&local)
            .or_else(|| if local.is_ipv4() { unspecified("0.0.0.0") } else { None })
            .or_else(|| unspecified("::"))
    }
}
