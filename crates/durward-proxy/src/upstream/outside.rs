//! Connections to any destination, for the forward proxy: the tenant's own addresses, limits and pools, to addresses that were checked before.
//!
//! Nothing is resolved between the check and the connection.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use durward_model::upstream::{Balance, Endpoint, Retry, Target, UpstreamProtocol};
use durward_model::{Tenant, Upstream};

use super::acquire::{AcquiredTransport, Carrier, connect_counted, fresh_carrier, pooled};
use super::balance::Tried;
use super::connect::Attempt;
use super::lease::{Lease, Load};
use super::per_core::Upstreams;
use super::runtime::UpstreamRuntime;
use super::tenant::Access;
use crate::io::Io;
use crate::refusal::Refusal;

/// Idle connections kept per core, address and source; plain requests come in bursts to few hosts.
const IDLE: u32 = 64;
/// Idle timeout of these connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

impl UpstreamRuntime {
    /// Builds the upstream that stands for every destination of a tenant's forward proxy, with its egress addresses as sources.
    ///
    /// # Errors
    /// Never fails in practice: there is no TLS to set up.
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
            link: None,
            pool_idle_timeout: IDLE_TIMEOUT,
            stream_idle: None,
            check_tls: None,
            direct: None,
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

/// Acquires a connection for one plain request to one of these addresses: a pooled one, unless the request has tried that.
///
/// # Errors
/// Returns why no address could be reached.
pub(crate) async fn carry(
    upstreams: &Rc<Upstreams>,
    access: Access,
    addresses: &[SocketAddr],
    tried: &mut Tried,
) -> Result<(Carrier, Lease), Refusal> {
    let load = load(upstreams, access)?;
    let attempt = Attempt { speaks_first: true, ..attempt(&load, addresses) };
    let fresh = tried.contains(0);
    tried.insert(0);
    if !fresh && let Some(found) = pooled(&attempt)? {
        return Ok(found.lease(load));
    }
    match Box::pin(fresh_carrier(&attempt, None)).await {
        Ok(found) => Ok(AcquiredTransport::lease(found, load)),
        Err(refusal) => Err(load.unreachable(refusal)),
    }
}

/// Opens a connection for a tunnel to one of these addresses.
///
/// # Errors
/// Returns why no address could be reached.
pub(crate) async fn visit(
    upstreams: &Rc<Upstreams>,
    access: Access,
    addresses: &[SocketAddr],
) -> Result<(Io, Lease), Refusal> {
    let load = load(upstreams, access)?;
    match Box::pin(connect_counted(&attempt(&load, addresses), None)).await {
        Ok(connected) => Ok(load.opened(connected)),
        Err(refusal) => Err(load.unreachable(refusal)),
    }
}

fn load(upstreams: &Rc<Upstreams>, access: Access) -> Result<Load, Refusal> {
    let tenant = access.tenant();
    let pending = tenant.usage.pending(&tenant.tenant.limits)?;
    Ok(Load::new(upstreams, access, None, 0, pending))
}

fn attempt<'a>(load: &'a Load, addresses: &'a [SocketAddr]) -> Attempt<'a> {
    let (upstreams, tenant) = (load.upstreams(), load.access().tenant());
    Attempt {
        upstreams,
        tenant,
        runtime: load.runtime(),
        endpoint: load.endpoint(),
        addresses,
        speaks_first: false,
    }
}
