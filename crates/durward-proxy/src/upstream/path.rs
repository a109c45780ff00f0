//! Paths from a tenant's address to an endpoint: the pool key, the ports in use, and the resources of an open connection.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use durward_model::upstream::{Target, UpstreamProtocol};
use durward_model::{EgressAddress, Tenant, TenantId, UpstreamAddr};

use super::direct::ProvenEndpoint;
use super::link::LinkState;
use super::tls_client::TlsIdentity;
use crate::files::FdPermit;
use crate::io::Io;
use crate::limits::UpstreamGuard;
use crate::memory::Hold;
use crate::metrics::{Counter, TenantMetrics};
use crate::refusal::Refusal;

/// Pool key: connections with equal keys may replace each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    tenant: TenantId,
    peer: UpstreamAddr,
    source: EgressAddress,
    identity: Option<TlsIdentity>,
    protocol: UpstreamProtocolKey,
    /// Link and target, for streams of a link, and the host that may be reached directly; peer and source are unspecified then.
    link: Option<(Arc<str>, Target, Option<Arc<str>>)>,
}

/// Hashable form of [`UpstreamProtocol`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum UpstreamProtocolKey {
    Http1,
    Http2,
    Tcp,
}

impl PoolKey {
    /// Returns the key of a tenant's connections from `source` to `peer`.
    ///
    /// # Errors
    /// [`Refusal::EgressAddress`] if `source` is not an address of the tenant, or its family is not `peer`'s.
    pub(crate) fn new(
        tenant: &Tenant,
        peer: UpstreamAddr,
        source: EgressAddress,
        identity: Option<TlsIdentity>,
        protocol: UpstreamProtocol,
    ) -> Result<Self, Refusal> {
        let refused = |detail: &str| {
            Err(Refusal::EgressAddress { peer: peer.0, detail: format!("{source} is {detail}") })
        };
        if !tenant.egress.contains(&source) {
            return refused("not an egress address of the tenant");
        }
        if !source.reaches(peer.0.ip()) {
            return refused("of the wrong family");
        }
        let (tenant, protocol) = (tenant.id.clone(), protocol.into());
        Ok(Self { tenant, peer, source, identity, protocol, link: None })
    }

    /// Returns the key of a tenant's connections to `target` through one of its links, or directly for `host`.
    pub(crate) fn through(
        tenant: &TenantId,
        (link, host): (&Arc<str>, Option<&Arc<str>>),
        target: &Target,
        (identity, protocol): (Option<TlsIdentity>, UpstreamProtocol),
    ) -> Self {
        let nowhere = Ipv4Addr::UNSPECIFIED;
        Self {
            tenant: tenant.clone(),
            peer: UpstreamAddr((nowhere, 0).into()),
            source: EgressAddress(nowhere.into()),
            identity,
            protocol: protocol.into(),
            link: Some((Arc::clone(link), target.clone(), host.cloned())),
        }
    }
}

impl From<UpstreamProtocol> for UpstreamProtocolKey {
    fn from(protocol: UpstreamProtocol) -> Self {
        match protocol {
            UpstreamProtocol::Http1 => Self::Http1,
            UpstreamProtocol::Http2 => Self::Http2,
            // Neither is ever pooled.
            UpstreamProtocol::Tcp | UpstreamProtocol::Udp => Self::Tcp,
        }
    }
}

/// Pool key with its hash, and the number of connections with it over all cores.
#[derive(Debug)]
pub(crate) struct Path {
    key: PoolKey,
    hash: u64,
    ports: AtomicU32,
    /// True once the shortage of ports was logged.
    pub(super) scarce: AtomicBool,
}

impl Path {
    pub(crate) fn new(key: PoolKey) -> Self {
        static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let hash = STATE.hash_one(&key);
        Self { key, hash, ports: AtomicU32::new(0), scarce: AtomicBool::new(false) }
    }

    /// Returns true if the key has this tenant, peer and source.
    pub(crate) fn joins(
        &self,
        tenant: &TenantId,
        peer: UpstreamAddr,
        source: EgressAddress,
    ) -> bool {
        self.key.peer == peer && self.key.source == source && self.key.tenant == *tenant
    }

    pub(crate) fn peer(&self) -> UpstreamAddr {
        self.key.peer
    }

    pub(crate) fn tenant(&self) -> &TenantId {
        &self.key.tenant
    }

    pub(crate) fn source(&self) -> EgressAddress {
        self.key.source
    }

    /// Returns the source ports in use, those of connects under way included.
    pub(crate) fn ports(&self) -> u32 {
        self.ports.load(Relaxed)
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.key == other.key
    }
}

impl Eq for Path {}

impl Hash for Path {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Source port of a path, and the file descriptor of its socket.
#[derive(Debug)]
pub(crate) struct PortGuard(
    pub(crate) Arc<Path>,
    #[expect(dead_code, reason = "held until the connection is closed")] Option<FdPermit>,
);

impl PortGuard {
    pub(crate) fn new(path: Arc<Path>, place: FdPermit) -> Self {
        path.ports.fetch_add(1, Relaxed);
        Self(path, Some(place))
    }

    /// Counts a stream of a link, which has no port and no file descriptor.
    pub(crate) fn of_link(path: Arc<Path>) -> Self {
        path.ports.fetch_add(1, Relaxed);
        Self(path, None)
    }
}

impl Drop for PortGuard {
    fn drop(&mut self) {
        self.0.ports.fetch_sub(1, Relaxed);
    }
}

/// Resources of an open connection; they go with it into the pool and out again.
pub(crate) struct Ticket {
    /// Memory charged for the connection.
    pub(crate) _memory: Hold,
    pub(crate) port: PortGuard,
    /// Remote address of the connection; through a link the agent's.
    pub(crate) peer: UpstreamAddr,
    pub(crate) source: std::net::SocketAddr,
    /// True once the endpoint was removed, or its upstream changed.
    pub(crate) retired: Arc<AtomicBool>,
    pub(crate) metrics: Arc<TenantMetrics>,
    pub(crate) core: usize,
    /// Count against the tenant's limit; `None` for a health check, which is not counted.
    pub(crate) guard: Option<UpstreamGuard>,
    /// True if a client has authenticated on the connection, or was asked to: it must serve that client alone.
    pub(crate) bound: bool,
    /// Way of a connection to an endpoint behind a link that may be reached directly; `None` for others.
    pub(crate) way: Option<Way>,
}

/// Way of a connection to an endpoint behind a link.
pub(crate) enum Way {
    /// Stream of the link. It is not used again while there is a direct way.
    Link(Arc<LinkState>, Arc<str>),
    /// Connection to the public endpoint, and its source port. It is not used again once the endpoint is proven no longer.
    Direct(
        Arc<ProvenEndpoint>,
        #[expect(dead_code, reason = "held until the connection is closed")] PortGuard,
    ),
}

impl Way {
    fn is_current(&self) -> bool {
        match self {
            Self::Link(link, host) => link.direct(host).is_none(),
            Self::Direct(proven, _) => proven.is_current(),
        }
    }
}

impl Ticket {
    /// Returns true if the connection must not be used again: its endpoint was removed, or the upstream changed.
    pub(crate) fn retired(&self) -> bool {
        self.retired.load(Relaxed) || self.way.as_ref().is_some_and(|way| !way.is_current())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.guard.is_some() {
            self.metrics.core(self.core).add(Counter::UpstreamConnectionsClosed, 1);
        }
    }
}

/// Connection on which nothing was sent yet.
pub(crate) struct Connected {
    pub(crate) io: Io,
    pub(crate) ticket: Ticket,
    pub(crate) took: Duration,
}
