//! The way to anywhere, for the forward proxy: the tenant's own addresses, its limits and its pools, to addresses somebody else has checked.
//!
//! Deliberately absent: names. Nothing is looked up between the check and the connection.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use durward_model::upstream::{Balance, Endpoint, Retry, Target, UpstreamProtocol};
use durward_model::{Tenant, Upstream};

use super::connect::Attempt;
use super::{
    Carrier, Found, Lease, Load, Tried, UpstreamRuntime, connect_counted, fresh_carrier, pooled,
};
use crate::core::Core;
use crate::io::Io;
use crate::prepared::TenantView;
use crate::refusal::Refusal;

/// Idle connections kept per core, address and source; plain requests come in bursts to few places.
const IDLE: u32 = 64;
/// How long they are kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

impl UpstreamRuntime {
    /// What a tenant's forward proxy reaches: everything, from its egress addresses.
    ///
    /// # Errors
    /// Never in practice: there is no TLS to set up.
    pub(crate) fn outside(
        tenant: &Tenant,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, String> {
        let anywhere = Endpoint { target: Target::Name { host: "*".into(), port: 0 }, weight: 1 };
        let upstream = Upstream {
            name: "outside".into(),
            endpoints: vec![anywhere],
            protocol: UpstreamProtocol::Http1,
            tls: None,
            sources: tenant.egress.clone(),
            balance: Balance::default(),
            health_check: None,
            outlier: None,
            retry: Retry { attempts: 0, ..Retry::default() },
            pool_idle: IDLE,
            pool_idle_timeout: IDLE_TIMEOUT,
            send_proxy: None,
            origin: tenant.origin.clone(),
        };
        let mut runtime = Self::prepare(&Arc::new(upstream), &tenant.id, previous)?;
        if let Some(new) = Arc::get_mut(&mut runtime) {
            let endpoints = std::mem::take(&mut new.endpoints).into_iter();
            new.endpoints = endpoints.map(|endpoint| endpoint.anywhere()).collect();
        }
        Ok(runtime)
    }
}

/// A connection for one plain request to one of these addresses: an idle one, unless the request has tried that.
///
/// # Errors
/// Why none could be reached.
pub(crate) async fn carry(
    core: &Rc<Core>,
    view: &TenantView,
    addresses: &[SocketAddr],
    tried: &mut Tried,
) -> Result<(Carrier, Lease), Refusal> {
    let load = load(core, view)?;
    let attempt = attempt(core, view, addresses);
    let fresh = tried.contains(0);
    tried.insert(0);
    if !fresh && let Some(found) = pooled(&attempt)? {
        return Ok(found.lease(load));
    }
    match Box::pin(fresh_carrier(&attempt, None)).await {
        Ok(found) => Ok(Found::lease(found, load)),
        Err(refusal) => Err(load.unreachable(refusal)),
    }
}

/// A connection of its own for a tunnel to one of these addresses.
///
/// # Errors
/// Why none could be reached.
pub(crate) async fn visit(
    core: &Rc<Core>,
    view: &TenantView,
    addresses: &[SocketAddr],
) -> Result<(Io, Lease), Refusal> {
    let load = load(core, view)?;
    match Box::pin(connect_counted(&attempt(core, view, addresses), None)).await {
        Ok(connected) => Ok(load.opened(connected)),
        Err(refusal) => Err(load.unreachable(refusal)),
    }
}

fn load(core: &Rc<Core>, view: &TenantView) -> Result<Load, Refusal> {
    let tenant = view.tenant();
    let pending = tenant.usage.pending(&tenant.tenant.limits)?;
    Ok(Load::new(core, view, None, 0, pending))
}

fn attempt<'a>(
    core: &'a Rc<Core>,
    view: &'a TenantView,
    addresses: &'a [SocketAddr],
) -> Attempt<'a> {
    let runtime = &view.tenant().outside;
    Attempt { core, view, runtime, endpoint: &runtime.endpoints[0], addresses }
}
