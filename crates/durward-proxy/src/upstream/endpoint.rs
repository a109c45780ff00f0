//! One endpoint of an upstream: where it is, how loaded and how healthy, shared by all cores.
//!
//! Deliberately absent: connections; those are in the pools.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use durward_model::upstream::{Endpoint, Target, UpstreamProtocol};
use durward_model::{EgressAddress, UpstreamAddr};

use super::pool::{Path, PoolKey};
use super::tls_client::Verify;
use crate::core::Core;
use crate::prepared::TenantView;
use crate::refusal::Refusal;

/// Paths remembered per endpoint; names that move a lot forget the oldest.
const PATHS: usize = 64;

/// An endpoint made ready.
pub(crate) struct EndpointRuntime {
    /// The place.
    pub(crate) target: Target,
    /// Its share; 0 takes it out of rotation.
    pub(crate) weight: u32,
    /// Whom it must prove to be, with TLS.
    pub(crate) verify: Option<Verify>,
    /// Load and health; the same for the next configuration while the target is.
    pub(crate) state: Arc<EndpointState>,
    /// A number that stands for the target in hashing.
    pub(crate) seed: u64,
    located: ArcSwapOption<Located>,
    paths: ArcSwap<Vec<Arc<Path>>>,
}

/// Load and health of an endpoint.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct EndpointState {
    /// Requests or connections under way.
    pub(crate) active: AtomicU32,
    /// Failures of real requests since the last success.
    pub(crate) failures: AtomicU32,
    /// When the rest of a passively ejected endpoint ends, milliseconds on [`now_ms`]'s clock; 0 when it does not rest.
    pub(crate) ejected_until: AtomicU64,
    /// Ejections since it last served well.
    pub(crate) ejections: AtomicU32,
    /// Active checks say it is unhealthy.
    pub(crate) unhealthy: AtomicBool,
    /// Consecutive active checks with the same outcome.
    pub(crate) checks: AtomicU32,
}

impl EndpointState {
    /// Whether it may be chosen.
    pub(crate) fn available(&self) -> bool {
        !self.unhealthy.load(Relaxed) && self.ejected_until.load(Relaxed) == 0
    }
}

/// Where a name is now.
struct Located {
    addresses: Arc<[SocketAddr]>,
    expires: Instant,
}

/// The addresses of an endpoint, at least one.
pub(crate) enum Addresses {
    One([SocketAddr; 1]),
    Many(Arc<[SocketAddr]>),
}

impl std::ops::Deref for Addresses {
    type Target = [SocketAddr];

    fn deref(&self) -> &[SocketAddr] {
        match self {
            Self::One(address) => address,
            Self::Many(addresses) => addresses,
        }
    }
}

impl EndpointRuntime {
    /// Makes an endpoint ready; `previous` is the same target in the configuration before.
    pub(crate) fn new(
        endpoint: &Endpoint,
        verify: Option<Verify>,
        previous: Option<&Self>,
    ) -> Self {
        Self {
            target: endpoint.target.clone(),
            weight: endpoint.weight,
            verify,
            state: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.state)),
            seed: seed(&endpoint.target),
            located: ArcSwapOption::empty(),
            paths: ArcSwap::default(),
        }
    }

    /// Where it is: the address itself, or what the name says while its TTL holds.
    pub(crate) async fn addresses(
        &self,
        core: &Core,
        upstream: &str,
    ) -> Result<Addresses, Refusal> {
        let (host, port) = match &self.target {
            Target::Address(address) => return Ok(Addresses::One([*address])),
            Target::Name { host, port } => (host, *port),
        };
        let now = Instant::now();
        if let Some(located) = &*self.located.load()
            && located.expires > now
        {
            return Ok(Addresses::Many(Arc::clone(&located.addresses)));
        }
        let resolved = Box::pin(core.shared.resolver.lookup(host)).await.map_err(|error| {
            Refusal::NoEndpoint { upstream: upstream.to_owned(), detail: error.to_string() }
        })?;
        let addresses: Arc<[SocketAddr]> =
            resolved.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let located = Located { addresses: Arc::clone(&addresses), expires: resolved.expires };
        self.located.store(Some(Arc::new(located)));
        Ok(Addresses::Many(addresses))
    }

    /// The path from `source` to `peer`, made once and then found.
    pub(crate) fn path(
        &self,
        view: &TenantView,
        peer: SocketAddr,
        source: EgressAddress,
        protocol: UpstreamProtocol,
    ) -> Result<Arc<Path>, Refusal> {
        self.with_path(view, peer, source, protocol, Arc::clone)
    }

    /// Uses the path from `source` to `peer` without holding it.
    pub(crate) fn with_path<T>(
        &self,
        view: &TenantView,
        peer: SocketAddr,
        source: EgressAddress,
        protocol: UpstreamProtocol,
        with: impl FnOnce(&Arc<Path>) -> T,
    ) -> Result<T, Refusal> {
        let peer = UpstreamAddr(peer);
        if let Some(path) = find(&self.paths.load(), view, peer, source) {
            return Ok(with(path));
        }
        let identity = self.verify.as_ref().map(|verify| verify.identity.clone());
        let made = Arc::new(Path::new(PoolKey::new(view, peer, source, identity, protocol)?));
        self.paths.rcu(|paths| {
            let skip = (paths.len() + 1).saturating_sub(PATHS);
            let mut paths: Vec<_> = paths.iter().skip(skip).cloned().collect();
            if find(&paths, view, peer, source).is_none() {
                paths.push(Arc::clone(&made));
            }
            paths
        });
        // Another core may have made it meanwhile; all use the same one, for it counts ports.
        let paths = self.paths.load();
        Ok(with(find(&paths, view, peer, source).unwrap_or(&made)))
    }
}

fn find<'a>(
    paths: &'a [Arc<Path>],
    view: &TenantView,
    peer: UpstreamAddr,
    source: EgressAddress,
) -> Option<&'a Arc<Path>> {
    paths.iter().find(|path| path.joins(view, peer, source))
}

/// Milliseconds since this process first asked, from 1.
pub(crate) fn now_ms() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// The same number for the same target in every process and run, so that client hashing survives restarts.
fn seed(target: &Target) -> u64 {
    target.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A number for a client's address.
pub(crate) fn client_seed(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            (bits >> 64) as u64 ^ (bits as u64).rotate_left(32)
        }
    }
}
