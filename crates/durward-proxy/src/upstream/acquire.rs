//! Acquires a connection or stream for one request: chooses an endpoint, then takes a pooled connection or opens one.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use durward_model::upstream::{UpstreamIndex, UpstreamProtocol};
use durward_model::{ClientAddr, Destination};

use super::balance::Tried;
use super::connect::{Attempt, reusable};
use super::endpoint::Addresses;
use super::http2::Shared;
use super::lease::{Lease, Load};
use super::path::{Connected, Path, Ticket};
use super::per_core::Upstreams;
use super::pool::Pools;
use super::proxy_header;
use super::runtime::UpstreamRuntime;
use super::tenant::Access;
use crate::io::Io;
use crate::refusal::Refusal;

/// Transport of a request.
pub(crate) enum Carrier {
    /// HTTP/1 connection of its own.
    Http1(Io),
    /// Handle for one stream on a shared HTTP/2 connection.
    Http2(h2::client::SendRequest<bytes::Bytes>),
}

/// Acquires a transport for one request of the view's tenant: from the pool, or connected from the tenant's address. An endpoint that is tried a
/// second time in one request gets a new connection.
///
/// # Errors
/// Returns why no endpoint could be reached. The endpoint is in `tried`, so that the caller may ask again for another.
pub(crate) async fn acquire(
    upstreams: &Rc<Upstreams>,
    access: Access,
    index: UpstreamIndex,
    client: ClientAddr,
    tried: &mut Tried,
) -> Result<(Carrier, Lease), Refusal> {
    let tenant = access.tenant();
    let runtime = &tenant.upstreams[index.0];
    let pending = tenant.usage.pending(&tenant.tenant.limits)?;
    let at = runtime.choose(&upstreams.random, client, tried)?;
    // A second try of the same endpoint must not take another pooled connection that may be as stale.
    let fresh = tried.contains(at) || !reusable(runtime);
    tried.insert(at);
    let load = Load::new(upstreams, access, Some(index), at, pending);
    let (runtime, endpoint) = (load.runtime(), load.endpoint());
    let addresses = match endpoint.addresses(&upstreams.resolver, &runtime.upstream).await {
        Ok(addresses) => addresses,
        Err(refusal) => return Err(load.unreachable(refusal)),
    };
    let tenant = load.access().tenant();
    let attempt =
        Attempt { upstreams, tenant, runtime, endpoint, addresses: &addresses, speaks_first: true };
    if !fresh && let Some(found) = pooled(&attempt)? {
        return Ok(found.lease(load));
    }
    let header = proxy_header(load.access(), runtime, client, None);
    match Box::pin(fresh_carrier(&attempt, header)).await {
        Ok(found) => Ok(found.lease(load)),
        Err(refusal) => Err(load.unreachable(refusal)),
    }
}

/// Opens a connection that is never pooled, for a relay that `speaks_first` or waits for the upstream's first bytes.
///
/// # Errors
/// Returns why no endpoint could be reached.
pub(crate) async fn open(
    upstreams: &Rc<Upstreams>,
    access: Access,
    index: UpstreamIndex,
    client: ClientAddr,
    destination: Destination,
    (tried, speaks_first): (&mut Tried, bool),
) -> Result<(Io, Lease), Refusal> {
    let tenant = access.tenant();
    let runtime = &tenant.upstreams[index.0];
    let pending = tenant.usage.pending(&tenant.tenant.limits)?;
    let at = runtime.choose(&upstreams.random, client, tried)?;
    tried.insert(at);
    let load = Load::new(upstreams, access, Some(index), at, pending);
    let header = proxy_header(load.access(), load.runtime(), client, Some(destination));
    match Box::pin(connect_at(&load, header, speaks_first)).await {
        Ok(connected) => Ok(load.opened(connected)),
        Err(refusal) => Err(load.unreachable(refusal)),
    }
}

async fn connect_at(
    load: &Load,
    header: Option<Vec<u8>>,
    speaks_first: bool,
) -> Result<Connected, Refusal> {
    let (upstreams, tenant) = (load.upstreams(), load.access().tenant());
    let (runtime, endpoint) = (load.runtime(), load.endpoint());
    let addresses: Addresses = endpoint.addresses(&upstreams.resolver, &runtime.upstream).await?;
    let speaks_first = speaks_first || header.is_some() || runtime.upstream.tls.is_some();
    let attempt =
        Attempt { upstreams, tenant, runtime, endpoint, addresses: &addresses, speaks_first };
    connect_counted(&attempt, header).await
}

/// Connects within the tenant's limits.
pub(super) async fn connect_counted(
    attempt: &Attempt<'_>,
    header: Option<Vec<u8>>,
) -> Result<Connected, Refusal> {
    let tenant = attempt.tenant;
    let limits = &tenant.tenant.limits;
    let guard = tenant.usage.upstream_connection(limits)?;
    attempt.connect(Some(guard), header, limits.timeouts.connect).await
}

/// Transport found for a request.
pub(super) enum AcquiredTransport {
    Pooled(Io, Ticket),
    Connected(Connected),
    Stream { shared: Rc<Shared>, connect: Option<Duration> },
}

/// Takes a pooled connection to any of the endpoint's addresses from any of the tenant's sources.
pub(super) fn pooled(attempt: &Attempt<'_>) -> Result<Option<AcquiredTransport>, Refusal> {
    let pools = &attempt.upstreams.pools;
    let upstream = &attempt.runtime.upstream;
    let of_path = |path: &Arc<Path>| {
        if upstream.protocol == UpstreamProtocol::Http2 {
            pools.shared(path).map(|shared| AcquiredTransport::Stream { shared, connect: None })
        } else {
            pools.pop(path).map(|(io, ticket)| AcquiredTransport::Pooled(io, ticket))
        }
    };
    if let Some(path) = &attempt.endpoint.through {
        return Ok(of_path(path));
    }
    for peer in attempt.addresses {
        for source in upstream.sources.iter().filter(|source| source.reaches(peer.ip())) {
            let found = attempt.endpoint.with_path(
                &attempt.tenant.tenant,
                *peer,
                *source,
                upstream.protocol,
                of_path,
            )?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

pub(super) async fn fresh_carrier(
    attempt: &Attempt<'_>,
    header: Option<Vec<u8>>,
) -> Result<AcquiredTransport, Refusal> {
    if attempt.runtime.upstream.protocol != UpstreamProtocol::Http2 {
        return connect_counted(attempt, header).await.map(AcquiredTransport::Connected);
    }
    let timeout = attempt.runtime.upstream.pool_idle_timeout;
    if !reusable(attempt.runtime) {
        let connected = connect_counted(attempt, header).await?;
        let connect = Some(connected.took);
        return Ok(AcquiredTransport::Stream { shared: attempt.http2(connected).await?, connect });
    }
    let first = match (&attempt.endpoint.through, attempt.addresses.first()) {
        (Some(path), _) => Some(Arc::clone(path)),
        (None, Some(peer)) => attempt.paths(*peer)?.into_iter().next(),
        (None, None) => None,
    };
    let turn = first.map(|path| attempt.upstreams.pools.opening(&path));
    let _turn = match &turn {
        Some(turn) => Some(turn.lock().await),
        None => None,
    };
    // The previous holder of the lock may have opened a connection with room.
    if let Some(found) = pooled(attempt)? {
        return Ok(found);
    }
    let connected = connect_counted(attempt, header).await?;
    let connect = Some(connected.took);
    let shared = attempt.http2(connected).await?;
    Pools::share(attempt.upstreams, &shared, timeout);
    Ok(AcquiredTransport::Stream { shared, connect })
}

fn proxy_header(
    access: &Access,
    runtime: &UpstreamRuntime,
    client: ClientAddr,
    destination: Option<Destination>,
) -> Option<Vec<u8>> {
    let version = runtime.upstream.send_proxy?;
    let destination = destination.unwrap_or_else(|| access.destination());
    Some(proxy_header::encode(version, client, destination, &runtime.tenant))
}
