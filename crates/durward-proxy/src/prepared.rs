//! A snapshot made ready to serve: TLS configurations, upstream states and counters beside each value.
//!
//! What did not change is the same `Arc` as before, so its tickets, pools and health live on. Deliberately absent: anything a
//! connection would have to look up twice.

pub(crate) mod build;
pub(crate) mod fate;
pub(crate) mod renewed;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use durward_model::egress::Neighbours;
use durward_model::{Bind, Destination, DestinationMode, Listener, Service, Snapshot, TenantId};

use crate::status::Problem;
use crate::upstream::resolve::{Asking, Resolver};
use crate::upstream::{Access, TenantRuntime};
use crate::watch::Retirement;

/// What is served now.
#[derive(Default)]
pub(crate) struct Prepared {
    /// What it was made from.
    pub(crate) snapshot: Arc<Snapshot>,
    /// By local address of the listening socket.
    pub(crate) binds: BTreeMap<SocketAddr, Arc<PreparedBind>>,
    /// By name.
    pub(crate) tenants: BTreeMap<TenantId, Arc<TenantRuntime>>,
    /// Whom a forward proxy must not reach here.
    pub(crate) neighbours: Arc<Neighbours>,
    /// Tenants' own DNS servers.
    pub(crate) resolvers: HashMap<Asking, Resolver>,
    /// What of the snapshot could not be prepared.
    pub(crate) problems: Vec<Problem>,
}

impl Prepared {
    /// Returns the tenants that have a listener here and an upstream that is checked.
    pub(crate) fn checked_tenants(&self) -> impl Iterator<Item = &Arc<TenantRuntime>> {
        let is_checked = |listener: &&Arc<PreparedListener>| {
            let mut upstreams = listener.tenant.upstreams.iter();
            upstreams.any(|runtime| runtime.upstream.health_check.is_some())
        };
        let all = self.binds.values().flat_map(|bind| bind.listeners.iter().flatten());
        let served: HashSet<_> =
            all.filter(is_checked).map(|listener| Arc::as_ptr(&listener.tenant)).collect();
        self.tenants.values().filter(move |tenant| served.contains(&Arc::as_ptr(tenant)))
    }
}

/// A bind with its listeners made ready, position by position as in [`Bind::listeners`].
pub(crate) struct PreparedBind {
    /// What it was made from.
    pub(crate) bind: Arc<Bind>,
    /// In the order of `bind.listeners`; `None` for one that could not be made ready: its address is as good as unknown.
    pub(crate) listeners: Vec<Option<Arc<PreparedListener>>>,
    /// Where the client says whose a connection is: the positions in `listeners` by their sources, from first to last address.
    by_source: BTreeMap<IpAddr, (IpAddr, usize)>,
}

impl PreparedBind {
    /// The bind with its listeners.
    pub(crate) fn new(bind: Arc<Bind>, listeners: Vec<Option<Arc<PreparedListener>>>) -> Self {
        let told_by_source = bind.mode == DestinationMode::Anywhere;
        let sources = bind.listeners.iter().enumerate().filter(|_| told_by_source);
        let by_source = sources
            .filter_map(|(at, listener)| Some((at, listener.allowed_sources.as_ref()?)))
            .flat_map(|(at, sources)| sources.ranges().map(move |(from, to)| (from, (to, at))))
            .collect();
        Self { bind, listeners, by_source }
    }

    /// Whose a connection of this client is, whatever its destination; `None` when it is nobody's. No two listeners have one source.
    fn found_by_source(&self, client: IpAddr) -> Option<Found> {
        let (_, (last, at)) = self.by_source.range(..=client.to_canonical()).next_back()?;
        let within = client.to_canonical() <= *last;
        let listener = self.listeners.get(*at)?.clone().filter(|_| within);
        listener.map(Found::One)
    }

    /// Whose a connection of `client` is that was made to `destination` and accepted at `local`, as far as that tells; `None` when it is
    /// nobody's.
    pub(crate) fn found(
        &self,
        destination: Destination,
        local: IpAddr,
        client: IpAddr,
    ) -> Option<Found> {
        if self.bind.mode == DestinationMode::Anywhere {
            return self.found_by_source(client);
        }
        let (at, _) = self.bind.listener_at(destination, local)?;
        let beside = self.bind.beside(at);
        if beside.len() <= 1 {
            return self.listeners.get(at)?.clone().map(Found::One);
        }
        let there = self.listeners.get(beside)?.iter().flatten();
        let mut candidates: Vec<_> =
            there.filter(|one| one.listener.admits(client)).cloned().collect();
        Some(match candidates.len() {
            1 => Found::One(candidates.remove(0)),
            _ => Found::Several(candidates),
        })
    }

    /// Whether any of its clients is expected to begin with a ClientHello.
    pub(crate) fn speaks_tls(&self) -> bool {
        self.bind.listeners.iter().any(|listener| {
            listener.tls().is_some() || matches!(listener.service, Service::PassThrough(_))
        })
    }
}

/// Whose a connection is, as far as addresses tell.
pub(crate) enum Found {
    /// This listener's.
    One(Arc<PreparedListener>),
    /// One of those that share the door, or of none if there is none the client may use.
    Several(Vec<Arc<PreparedListener>>),
}

/// A listener made ready.
pub(crate) struct PreparedListener {
    /// What it was made from.
    pub(crate) listener: Arc<Listener>,
    /// Whose it is.
    pub(crate) tenant: Arc<TenantRuntime>,
    /// One TLS configuration per certificate, as in [`durward_model::listener::ServerTls::certificates`]; empty without TLS.
    pub(crate) server_configs: Vec<Arc<rustls::ServerConfig>>,
    /// Who looks names up for its clients; `None` leaves it to the host's.
    pub(crate) resolver: Option<Resolver>,
    /// Set when a newer configuration changes or removes this listener or its tenant.
    pub(crate) retirement: Arc<Retirement>,
    /// Those of its former selves whose connections may still be open.
    pub(crate) former: Vec<Weak<Retirement>>,
}

/// The proof that a connection was admitted to a listener, and the only way to its tenant's upstreams.
#[derive(Clone)]
pub(crate) struct TenantView(Arc<PreparedListener>);

impl TenantView {
    /// Made by `admit` alone, once source, certificate and limits are satisfied.
    pub(crate) fn admitted(listener: Arc<PreparedListener>) -> Self {
        Self(listener)
    }

    /// The listener.
    pub(crate) fn listener(&self) -> &Listener {
        &self.0.listener
    }

    /// The tenant.
    pub(crate) fn tenant(&self) -> &TenantRuntime {
        &self.0.tenant
    }

    /// Returns the handle by which the tenant's upstreams are reached.
    pub(crate) fn access(&self) -> Access {
        let listener = self.listener();
        let destination = Destination((listener.address.0, listener.port).into());
        Access::admitted(&self.0.tenant, destination)
    }

    /// Its own resolver, if it has one.
    pub(crate) fn resolver(&self) -> Option<&Resolver> {
        self.0.resolver.as_ref()
    }
}

#[cfg(test)]
impl PreparedListener {
    /// A listener of `tenant` on 127.0.0.1:443 that serves `service`, without server certificates.
    pub(crate) fn for_test(
        tenant: durward_model::Tenant,
        service: Service,
    ) -> Result<Arc<Self>, String> {
        let address = std::net::Ipv4Addr::LOCALHOST;
        let listener = Listener {
            tenant: tenant.id.clone(),
            address: durward_model::IngressAddress(address.into()),
            port: 443,
            bind: SocketAddr::from((address, 443)),
            allowed_sources: None,
            service,
            origin: durward_model::Origin::default(),
        };
        let prepare =
            |upstream| crate::upstream::UpstreamRuntime::prepare(upstream, &tenant.id, None);
        let upstreams = tenant.upstreams.iter().map(prepare).collect::<Result<_, _>>()?;
        let (usage, metrics) = (Arc::default(), Arc::new(crate::metrics::TenantMetrics::new(1)));
        let outside = crate::upstream::UpstreamRuntime::outside(&tenant, None)?;
        let tenant = TenantRuntime { tenant: Arc::new(tenant), upstreams, outside, usage, metrics };
        Ok(Arc::new(Self {
            listener: Arc::new(listener),
            tenant: Arc::new(tenant),
            server_configs: Vec::new(),
            resolver: None,
            retirement: Arc::default(),
            former: Vec::new(),
        }))
    }
}

#[cfg(test)]
impl Prepared {
    /// Nothing.
    pub(crate) fn empty_for_test() -> Self {
        Self::default()
    }
}
