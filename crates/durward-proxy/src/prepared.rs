//! A snapshot made ready to serve: TLS configurations, upstream states and counters beside each value.
//!
//! What did not change is the same `Arc` as before, so its tickets, pools and health live on. Deliberately absent: anything a
//! connection would have to look up twice.

pub(crate) mod build;
pub(crate) mod fate;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use durward_model::{Bind, Destination, Listener, Service, Snapshot, Tenant, TenantId};

use crate::limits::Usage;
use crate::metrics::TenantMetrics;
use crate::upstream::UpstreamRuntime;
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
}

/// A bind with its listeners made ready, position by position as in [`Bind::listeners`].
pub(crate) struct PreparedBind {
    /// What it was made from.
    pub(crate) bind: Arc<Bind>,
    /// In the order of `bind.listeners`; `None` for one that could not be made ready: its address is as good as unknown.
    pub(crate) listeners: Vec<Option<Arc<PreparedListener>>>,
}

impl PreparedBind {
    /// The listener for a connection made to `destination`.
    pub(crate) fn listener_at(&self, destination: Destination) -> Option<Arc<PreparedListener>> {
        let (at, _) = self.bind.listener_at(destination)?;
        self.listeners.get(at)?.clone()
    }

    /// Whether any of its clients is expected to begin with a ClientHello.
    pub(crate) fn speaks_tls(&self) -> bool {
        self.bind.listeners.iter().any(|listener| {
            listener.tls().is_some() || matches!(listener.service, Service::PassThrough(_))
        })
    }
}

/// A listener made ready.
pub(crate) struct PreparedListener {
    /// What it was made from.
    pub(crate) listener: Arc<Listener>,
    /// Whose it is.
    pub(crate) tenant: Arc<TenantRuntime>,
    /// One TLS configuration per certificate, as in [`durward_model::listener::ServerTls::certificates`]; empty without TLS.
    pub(crate) server_configs: Vec<Arc<rustls::ServerConfig>>,
    /// Set when a newer configuration changes or removes this listener or its tenant.
    pub(crate) retirement: Arc<Retirement>,
    /// Those of its former selves whose connections may still be open.
    pub(crate) former: Vec<Weak<Retirement>>,
}

/// A tenant made ready.
pub(crate) struct TenantRuntime {
    /// What it was made from.
    pub(crate) tenant: Arc<Tenant>,
    /// In the order of [`Tenant::upstreams`].
    pub(crate) upstreams: Vec<Arc<UpstreamRuntime>>,
    /// What it uses of its limits; lives on when the tenant changes.
    pub(crate) usage: Arc<Usage>,
    /// Its counters; live on likewise.
    pub(crate) metrics: Arc<TenantMetrics>,
}

/// The proof that a connection was admitted to a listener, and the only way to its tenant's upstreams.
#[derive(Clone)]
pub(crate) struct TenantView(Arc<PreparedListener>);

impl TenantView {
    /// Made by `admit` alone, once source, certificate and limits are satisfied; and by health checks for the tenant they check.
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
}

#[cfg(test)]
impl PreparedListener {
    /// A listener of `tenant` on 127.0.0.1:443 that serves `service`, without server certificates.
    pub(crate) fn for_test(tenant: Tenant, service: Service) -> Result<Arc<Self>, String> {
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
        let prepare = |upstream| UpstreamRuntime::prepare(upstream, &tenant.id, None);
        let upstreams = tenant.upstreams.iter().map(prepare).collect::<Result<_, _>>()?;
        let (usage, metrics) = (Arc::default(), Arc::new(TenantMetrics::new(1)));
        let tenant = TenantRuntime { tenant: Arc::new(tenant), upstreams, usage, metrics };
        Ok(Arc::new(Self {
            listener: Arc::new(listener),
            tenant: Arc::new(tenant),
            server_configs: Vec::new(),
            retirement: Arc::default(),
            former: Vec::new(),
        }))
    }
}

#[cfg(test)]
impl Prepared {
    /// Nothing.
    pub(crate) fn empty_for_test() -> Self {
        Self { snapshot: Arc::default(), binds: BTreeMap::new(), tenants: BTreeMap::new() }
    }
}
