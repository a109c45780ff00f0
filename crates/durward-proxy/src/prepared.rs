//! Runtime form of a snapshot: TLS configurations, upstream states and counters beside each value.
//!
//! Unchanged parts are the same `Arc` as in the previous snapshot, so their session tickets, pools and health states live on.

pub(crate) mod build;
pub(crate) mod fate;
mod relays;
pub(crate) mod renewed;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use durward_model::discriminator::{Candidates, Opening};
use durward_model::egress::Neighbours;
use durward_model::names::NameTable;
use durward_model::server_name::server_name;
use durward_model::sni::SniTable;
use durward_model::transport::Transport;
use durward_model::{
    Bind, Destination, DestinationMode, Discriminator, Listener, Service, Snapshot, TenantId, names,
};

use crate::status::Problem;
use crate::upstream::resolve::{Asking, Resolver};
use crate::upstream::{Access, TenantRuntime};
use crate::watch::Retirement;

/// Binds of one transport protocol, by the local address of their sockets.
pub(crate) type Binds = BTreeMap<SocketAddr, Arc<PreparedBind>>;

/// Runtime form of the snapshot being served.
#[derive(Default)]
pub(crate) struct Prepared {
    /// Snapshot.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Binds, by the local address of their listening sockets.
    pub(crate) binds: Binds,
    /// Binds for datagrams, each of one listener.
    pub(crate) udp: Binds,
    /// Tenants, by name.
    pub(crate) tenants: BTreeMap<TenantId, Arc<TenantRuntime>>,
    /// Addresses on this gateway that a forward proxy must not reach.
    pub(crate) neighbours: Arc<Neighbours>,
    /// Resolvers of tenants' own DNS servers.
    pub(crate) resolvers: HashMap<Asking, Resolver>,
    /// Parts of the snapshot that could not be prepared.
    pub(crate) problems: Vec<Problem>,
}

impl Prepared {
    /// Returns the binds of a transport protocol.
    pub(crate) fn at(&self, transport: Transport) -> &Binds {
        match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp | Transport::Sctp => &self.binds,
        }
    }

    /// Returns the binds of the same transport protocol as `bind`.
    pub(crate) fn of(&self, bind: &Bind) -> &Binds {
        let first = bind.listeners.first();
        self.at(first.map_or(Transport::Tcp, |listener| listener.transport()))
    }

    /// Returns the tenants that have a listener here and an upstream with health checks.
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

/// Runtime form of a bind; its listeners have the positions of [`Bind::listeners`].
pub(crate) struct PreparedBind {
    /// Bind of the snapshot.
    pub(crate) bind: Arc<Bind>,
    /// Listeners, in the order of `bind.listeners`; `None` for one that could not be prepared: its address counts as unknown.
    pub(crate) listeners: Vec<Option<Arc<PreparedListener>>>,
    /// For a bind that finds the tenant by source: position in `listeners` by range of sources, from first to last address.
    by_source: BTreeMap<IpAddr, (IpAddr, usize)>,
}

impl PreparedBind {
    /// Pairs a bind with its prepared listeners.
    pub(crate) fn new(bind: Arc<Bind>, listeners: Vec<Option<Arc<PreparedListener>>>) -> Self {
        let finds_by_source = bind.mode == DestinationMode::Anywhere;
        let sources = bind.listeners.iter().enumerate().filter(|_| finds_by_source);
        let by_source = sources
            .filter_map(|(at, listener)| Some((at, listener.allowed_sources.as_ref()?)))
            .flat_map(|(at, sources)| sources.ranges().map(move |(from, to)| (from, (to, at))))
            .collect();
        Self { bind, listeners, by_source }
    }

    /// Returns the listener for a client, whatever its destination; `None` if no tenant has the source. No two listeners share a source.
    fn found_by_source(&self, client: IpAddr) -> Option<ListenerMatch> {
        let (_, (last, at)) = self.by_source.range(..=client.to_canonical()).next_back()?;
        let within = client.to_canonical() <= *last;
        let listener = self.listeners.get(*at)?.clone().filter(|_| within);
        listener.map(ListenerMatch::One)
    }

    /// Returns the listener or the candidates for a connection of `client` to `destination` that was accepted at `local`; `None` if no tenant has the
    /// destination.
    pub(crate) fn found(
        &self,
        destination: Destination,
        local: IpAddr,
        client: IpAddr,
    ) -> Option<ListenerMatch> {
        let Candidates { by, listeners: there } = self.bind.candidates(destination, local)?;
        match by {
            Discriminator::Source => self.found_by_source(client),
            Discriminator::Destination => {
                self.listeners[there.start].clone().map(ListenerMatch::One)
            }
            Discriminator::ServerName => {
                self.bind.listeners[there.start].opening().map(ListenerMatch::Named)
            }
            Discriminator::ProxyIdentity => {
                let there = self.listeners[there].iter().flatten();
                let mut candidates: Vec<_> =
                    there.filter(|one| one.listener.admits(client)).cloned().collect();
                Some(match candidates.len() {
                    1 => ListenerMatch::One(candidates.remove(0)),
                    _ => ListenerMatch::Several(candidates),
                })
            }
        }
    }

    /// Returns the listener of the tenant that has `name` (lower case, without a trailing dot) at a destination; `None` if no tenant has it.
    ///
    /// Clients that name nothing (`None`) ask for the address that the listeners are known by.
    pub(crate) fn named(
        &self,
        destination: Destination,
        local: IpAddr,
        name: Option<&str>,
    ) -> Option<&Arc<PreparedListener>> {
        let Candidates { by, listeners: there } = self.bind.candidates(destination, local)?;
        let (first, named) =
            (self.bind.listeners.get(there.start)?, &self.bind.listeners[there.clone()]);
        if by != Discriminator::ServerName {
            return None;
        }
        let owner = self.bind.named(first.key(), &names::asked(name, first.address.0))?;
        let at = named.binary_search_by(|listener| listener.tenant.cmp(owner)).ok()?;
        self.listeners[there.start + at].as_ref()
    }

    /// Returns the listener of the hosted API server that an authority names, at whichever address it is; `None` if nobody has it, or if several have
    /// and none of them at an address of `near`.
    pub(crate) fn hosting(
        &self,
        authority: &str,
        near: [Destination; 2],
    ) -> Option<&Arc<PreparedListener>> {
        let name = server_name(authority).ok()??;
        let of_key = |(key, table): (&(IpAddr, u16), &NameTable)| {
            let owner = table.owner(&name)?;
            let order = |one: &Arc<Listener>| one.key().cmp(key).then(one.tenant.cmp(owner));
            self.listeners.get(self.bind.listeners.binary_search_by(order).ok()?)?.as_ref()
        };
        let alone = self.listeners.iter().flatten().filter(|one| one.listener.names.is_none());
        let all = self.bind.names.iter().filter_map(of_key).chain(alone);
        let hosting: Vec<_> = all
            .filter(|one| routes(one).is_some_and(|routes| routes.hosted(authority).is_some()))
            .collect();
        let at = |near: &Destination| {
            let key = (near.0.ip().to_canonical(), near.0.port());
            hosting.iter().find(|one| one.listener.key() == key)
        };
        let near = near.iter().find_map(at);
        near.or_else(|| hosting.first().filter(|_| hosting.len() == 1)).copied()
    }

    /// Returns true if clients of any listener are expected to begin with a ClientHello.
    pub(crate) fn speaks_tls(&self) -> bool {
        self.bind.listeners.iter().any(|listener| {
            listener.tls().is_some() || matches!(listener.service, Service::PassThrough(_))
        })
    }
}

/// Returns the pass-through routes of a listener, if it has some.
pub(crate) fn routes(listener: &PreparedListener) -> Option<&SniTable> {
    match &listener.listener.service {
        Service::PassThrough(routes) => Some(routes),
        _ => None,
    }
}

/// Listeners of a connection, as far as addresses decide.
pub(crate) enum ListenerMatch {
    /// Exactly one listener.
    One(Arc<PreparedListener>),
    /// Listeners that share address and port; empty if the client may use none of them.
    Several(Vec<Arc<PreparedListener>>),
    /// Listeners that share address and port by names, which clients say in this way.
    Named(Opening),
}

/// Runtime form of a listener.
pub(crate) struct PreparedListener {
    /// Listener of the snapshot.
    pub(crate) listener: Arc<Listener>,
    /// Tenant of the listener.
    pub(crate) tenant: Arc<TenantRuntime>,
    /// TLS configurations, one per certificate as in [`durward_model::server_tls::ServerTls::certificates`]; empty without TLS.
    pub(crate) server_configs: Vec<Arc<rustls::ServerConfig>>,
    /// TLS configurations for the API proxies of each pass-through route, one per certificate; empty where no route admits proxies.
    pub(crate) relays: Vec<Vec<Arc<rustls::ServerConfig>>>,
    /// Resolver for its clients' requests; `None` for the host's.
    pub(crate) resolver: Option<Resolver>,
    /// Signal set when a newer configuration changes or removes this listener or its tenant.
    pub(crate) retirement: Arc<Retirement>,
    /// Signals of previous forms of the listener whose connections may still be open.
    pub(crate) former: Vec<Weak<Retirement>>,
}

/// Proof that a connection was admitted to a listener, and the only way to its tenant's upstreams.
#[derive(Clone)]
pub(crate) struct TenantView(Arc<PreparedListener>);

impl TenantView {
    /// Creates the view. Called by `admit` alone, once source, certificate and limits are satisfied.
    pub(crate) fn admitted(listener: Arc<PreparedListener>) -> Self {
        Self(listener)
    }

    /// Returns the listener.
    pub(crate) fn listener(&self) -> &Listener {
        &self.0.listener
    }

    /// Returns the tenant.
    pub(crate) fn tenant(&self) -> &TenantRuntime {
        &self.0.tenant
    }

    /// Returns the handle by which the tenant's upstreams are reached.
    pub(crate) fn access(&self) -> Access {
        let listener = self.listener();
        let destination = Destination((listener.address.0, listener.port).into());
        Access::admitted(&self.0.tenant, destination)
    }

    /// Returns the listener's own resolver, if it has one.
    pub(crate) fn resolver(&self) -> Option<&Resolver> {
        self.0.resolver.as_ref()
    }
}

#[cfg(test)]
impl PreparedListener {
    /// Builds a listener of `tenant` on 127.0.0.1:443 that serves `service`, without server certificates.
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
            names: None,
            allowed_sources: None,
            service,
            hosts_apis: false,
            acme: durward_model::Acme::default(),
            takes_ingresses: false,
            origin: durward_model::Origin::default(),
        };
        let prepare =
            |upstream| crate::upstream::UpstreamRuntime::prepare(upstream, &tenant.id, None);
        let upstreams = tenant.upstreams.iter().map(prepare).collect::<Result<_, _>>()?;
        let (usage, metrics) = (Arc::default(), Arc::new(crate::metrics::TenantMetrics::new(1)));
        let outside = crate::upstream::UpstreamRuntime::outside(&tenant, None)?;
        let links = Arc::default();
        let tenant =
            TenantRuntime { tenant: Arc::new(tenant), upstreams, outside, usage, links, metrics };
        Ok(Arc::new(Self {
            listener: Arc::new(listener),
            tenant: Arc::new(tenant),
            server_configs: Vec::new(),
            relays: Vec::new(),
            resolver: None,
            retirement: Arc::default(),
            former: Vec::new(),
        }))
    }
}

#[cfg(test)]
impl Prepared {
    /// Builds an empty one.
    pub(crate) fn empty_for_test() -> Self {
        Self::default()
    }
}
