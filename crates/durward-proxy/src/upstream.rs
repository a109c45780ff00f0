//! The way to a tenant's upstreams: choose an endpoint, take a pooled connection or make one from the tenant's address, report how it went.
//!
//! Deliberately absent: HTTP. What is carried is the business of `http` and `relay`.

mod balance;
mod budget;
mod connect;
mod endpoint;
mod health;
mod http2;
mod lease;
mod outlier;
mod outside;
mod pins;
pub(crate) mod pool;
mod ports;
mod proxy_header;
pub(crate) mod report;
pub(crate) mod resolve;
mod tls_client;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use durward_model::health::Probe;
use durward_model::upstream::{UpstreamIndex, UpstreamProtocol};
use durward_model::{ClientAddr, Destination, EgressAddress, TenantId, Upstream};
use rustls::ClientConfig;

pub(crate) use balance::Tried;
pub(crate) use health::spawn_health_checks;
pub(crate) use http2::Stream;
pub(crate) use lease::Lease;
pub(crate) use outside::{carry, visit};
pub(crate) use pins::Pins;
pub use ports::PortReport;
pub(crate) use ports::budget;

use crate::core::Core;
use crate::io::Io;
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use budget::Budget;
use connect::{Attempt, Connected, reusable};
use endpoint::{Addresses, EndpointRuntime};
use http2::Shared;
use lease::Load;
use pool::Pools;
use tls_client::Verify;

/// How long endpoints are tried one after the other for one request before its client is told.
const ELSEWHERE: Duration = Duration::from_secs(10);

/// An upstream made ready: endpoints with health and load, and the TLS configuration, shared by all cores.
pub(crate) struct UpstreamRuntime {
    /// What it was made from.
    pub(crate) upstream: Arc<Upstream>,
    tenant: TenantId,
    endpoints: Vec<EndpointRuntime>,
    tls: Option<Arc<ClientConfig>>,
    budget: Budget,
    turn: AtomicU32,
    /// Set when a newer configuration has another value in its place, or none: idle connections close.
    retired: Arc<AtomicBool>,
    checks: health::Checks,
}

impl UpstreamRuntime {
    /// Makes an upstream ready. An equal one is `previous` itself; otherwise endpoints that stay keep their health and load.
    ///
    /// # Errors
    /// When TLS cannot be set up as configured; the sentence is for people.
    pub(crate) fn prepare(
        upstream: &Arc<Upstream>,
        tenant: &TenantId,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, String> {
        if let Some(previous) = previous
            && previous.upstream == *upstream
            && previous.tenant == *tenant
        {
            return Ok(Arc::clone(previous));
        }
        let context = |error: String| format!("upstream {}: {error}", upstream.name);
        let tls = upstream.tls.as_ref();
        let config = tls.map(|tls| tls_client::client_config(tls, upstream.protocol)).transpose();
        let probe = upstream.health_check.as_ref().map(|check| &check.probe);
        if tls.is_none() && probe == Some(&Probe::Tls) {
            return Err(context("a TLS health check needs TLS towards the upstream".to_owned()));
        }
        let runtime = Self {
            endpoints: endpoints(upstream, previous).map_err(context)?,
            upstream: Arc::clone(upstream),
            tenant: tenant.clone(),
            tls: config.map_err(context)?,
            budget: Budget::new(upstream.retry.budget_percent),
            turn: AtomicU32::new(0),
            retired: Arc::default(),
            checks: health::Checks::default(),
        };
        runtime.forget_unchecked();
        if let Some(previous) = previous {
            previous.retired.store(true, Relaxed);
        }
        Ok(Arc::new(runtime))
    }

    /// Whether the budget allows one more retry; takes its price.
    pub(crate) fn may_retry(&self) -> bool {
        self.budget.take()
    }

    /// Returns whether another endpoint may be tried after one that could not be connected to. Nothing was sent, so it costs no budget: each
    /// endpoint is tried once, within [`ELSEWHERE`]. `retries.attempts: 0` turns this off with all retries.
    pub(crate) fn may_connect_elsewhere(&self, tried: &Tried, began: Instant) -> bool {
        self.upstream.retry.attempts > 0
            && began.elapsed() < ELSEWHERE
            && balance::is_any_left(&self.endpoints, tried)
    }

    /// A request pays into the retry budget.
    pub(crate) fn count_request(&self) {
        self.budget.pay();
    }

    /// Without checks of a kind nobody would ever restore what they ejected.
    fn forget_unchecked(&self) {
        for endpoint in &self.endpoints {
            if self.upstream.health_check.is_none() {
                endpoint.state.unhealthy.store(false, Relaxed);
            }
            if self.upstream.outlier.is_none() || self.endpoints.len() < 2 {
                endpoint.state.ejected_until.store(0, Relaxed);
            }
        }
    }

    /// For each source address the most ports in use to one destination.
    pub(crate) fn busiest(&self) -> BTreeMap<EgressAddress, u32> {
        let mut busiest = BTreeMap::new();
        for (address, used) in self.endpoints.iter().flat_map(EndpointRuntime::busiest) {
            let most = busiest.entry(address).or_insert(0);
            *most = used.max(*most);
        }
        busiest
    }

    fn choose(&self, core: &Core, client: ClientAddr, tried: &Tried) -> Result<usize, Refusal> {
        self.restore();
        let balance = self.upstream.balance;
        let random = || core.random();
        balance::choose(&self.endpoints, balance, &self.turn, client, tried, random).ok_or_else(
            || Refusal::NoEndpoint {
                upstream: self.upstream.name.to_string(),
                detail: "all endpoints are unhealthy or without weight".to_owned(),
            },
        )
    }
}

impl Drop for UpstreamRuntime {
    fn drop(&mut self) {
        self.retired.store(true, Relaxed);
    }
}

fn endpoints(
    upstream: &Upstream,
    previous: Option<&Arc<UpstreamRuntime>>,
) -> Result<Vec<EndpointRuntime>, String> {
    let before = previous.map_or(&[][..], |previous| &previous.endpoints);
    upstream
        .endpoints
        .iter()
        .map(|endpoint| {
            let target = &endpoint.target;
            let verify = upstream.tls.as_ref().map(|tls| Verify::new(tls, target)).transpose()?;
            let before = before.iter().find(|before| before.target == *target);
            Ok(EndpointRuntime::new(endpoint, verify, before))
        })
        .collect()
}

/// What carries a request.
pub(crate) enum Carrier {
    /// A connection of its own.
    Http1(Io),
    /// A stream on a shared one.
    Http2(h2::client::SendRequest<bytes::Bytes>),
}

/// A carrier for one request of the view's tenant: from the pool, or connected from the tenant's address. An endpoint that is tried a
/// second time in one request gets a fresh connection.
///
/// # Errors
/// Why no endpoint could be reached. The endpoint is in `tried`, so that the caller may ask again for another.
pub(crate) async fn acquire(
    core: &Rc<Core>,
    view: &TenantView,
    index: UpstreamIndex,
    client: ClientAddr,
    tried: &mut Tried,
) -> Result<(Carrier, Lease), Refusal> {
    let tenant = view.tenant();
    let runtime = &tenant.upstreams[index.0];
    let pending = tenant.usage.pending(&tenant.tenant.limits)?;
    let at = runtime.choose(core, client, tried)?;
    let fresh = tried.contains(at) || !reusable(runtime);
    tried.insert(at);
    let load = Load::new(core, view, Some(index), at, pending);
    let endpoint = &runtime.endpoints[at];
    let addresses = match endpoint.addresses(core, &runtime.upstream).await {
        Ok(addresses) => addresses,
        Err(refusal) => return Err(load.unreachable(refusal)),
    };
    let attempt = Attempt { core, view, runtime, endpoint, addresses: &addresses };
    if !fresh && let Some(found) = pooled(&attempt)? {
        return Ok(found.lease(load));
    }
    let header = proxy_header(view, runtime, client, None);
    match Box::pin(fresh_carrier(&attempt, header)).await {
        Ok(found) => Ok(found.lease(load)),
        Err(refusal) => Err(load.unreachable(refusal)),
    }
}

/// A connection of its own for bytes; never pooled.
///
/// # Errors
/// Why no endpoint could be reached.
pub(crate) async fn open(
    core: &Rc<Core>,
    view: &TenantView,
    index: UpstreamIndex,
    client: ClientAddr,
    destination: Destination,
    tried: &mut Tried,
) -> Result<(Io, Lease), Refusal> {
    let tenant = view.tenant();
    let runtime = &tenant.upstreams[index.0];
    let pending = tenant.usage.pending(&tenant.tenant.limits)?;
    let at = runtime.choose(core, client, tried)?;
    tried.insert(at);
    let load = Load::new(core, view, Some(index), at, pending);
    let header = proxy_header(view, runtime, client, Some(destination));
    match Box::pin(connect_at(&load, header)).await {
        Ok(connected) => Ok(load.opened(connected)),
        Err(refusal) => Err(load.unreachable(refusal)),
    }
}

async fn connect_at(load: &Load, header: Option<Vec<u8>>) -> Result<Connected, Refusal> {
    let (core, view, runtime) = (load.core(), load.view(), load.runtime());
    let endpoint = load.endpoint();
    let addresses: Addresses = endpoint.addresses(core, &runtime.upstream).await?;
    let attempt = Attempt { core, view, runtime, endpoint, addresses: &addresses };
    connect_counted(&attempt, header).await
}

/// Connects within the tenant's limits.
async fn connect_counted(
    attempt: &Attempt<'_>,
    header: Option<Vec<u8>>,
) -> Result<Connected, Refusal> {
    let tenant = attempt.view.tenant();
    let limits = &tenant.tenant.limits;
    let guard = tenant.usage.upstream_connection(limits)?;
    attempt.connect(Some(guard), header, limits.timeouts.connect).await
}

/// What was found to carry a request.
enum Found {
    Pooled(Io, pool::Ticket),
    Connected(Connected),
    Stream { shared: Rc<Shared>, connect: Option<Duration> },
}

/// A pooled connection to any of the endpoint's addresses from any of the tenant's sources.
fn pooled(attempt: &Attempt<'_>) -> Result<Option<Found>, Refusal> {
    let pools = &attempt.core.pools;
    let upstream = &attempt.runtime.upstream;
    for peer in attempt.addresses {
        for source in upstream.sources.iter().filter(|source| source.reaches(peer.ip())) {
            let found = attempt.endpoint.with_path(
                attempt.view,
                *peer,
                *source,
                upstream.protocol,
                |path| {
                    if upstream.protocol == UpstreamProtocol::Http2 {
                        pools.shared(path).map(|shared| Found::Stream { shared, connect: None })
                    } else {
                        pools.pop(path).map(|(io, ticket)| Found::Pooled(io, ticket))
                    }
                },
            )?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

async fn fresh_carrier(attempt: &Attempt<'_>, header: Option<Vec<u8>>) -> Result<Found, Refusal> {
    if attempt.runtime.upstream.protocol != UpstreamProtocol::Http2 {
        return connect_counted(attempt, header).await.map(Found::Connected);
    }
    let timeout = attempt.runtime.upstream.pool_idle_timeout;
    if !reusable(attempt.runtime) {
        let connected = connect_counted(attempt, header).await?;
        let connect = Some(connected.took);
        return Ok(Found::Stream {
            shared: Shared::start(attempt.core, attempt.view, connected).await?,
            connect,
        });
    }
    let first = match attempt.addresses.first() {
        Some(peer) => attempt.paths(*peer)?.into_iter().next(),
        None => None,
    };
    let turn = first.map(|path| attempt.core.pools.opening(&path));
    let _turn = match &turn {
        Some(turn) => Some(turn.lock().await),
        None => None,
    };
    if let Some(found) = pooled(attempt)? {
        return Ok(found);
    }
    let connected = connect_counted(attempt, header).await?;
    let connect = Some(connected.took);
    let shared = Shared::start(attempt.core, attempt.view, connected).await?;
    Pools::share(attempt.core, &shared, timeout);
    Ok(Found::Stream { shared, connect })
}

fn proxy_header(
    view: &TenantView,
    runtime: &UpstreamRuntime,
    client: ClientAddr,
    destination: Option<Destination>,
) -> Option<Vec<u8>> {
    let version = runtime.upstream.send_proxy?;
    let listener = view.listener();
    let destination =
        destination.unwrap_or_else(|| Destination((listener.address.0, listener.port).into()));
    Some(proxy_header::encode(version, client, destination, &runtime.tenant))
}
