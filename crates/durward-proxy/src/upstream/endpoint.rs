//! One endpoint of an upstream: its address, load and health, shared by all cores.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use durward_model::upstream::{Endpoint, Target, UpstreamProtocol};
use durward_model::{EgressAddress, Tenant, TenantId, Upstream, UpstreamAddr};

use super::path::{Path, PoolKey};
use super::resolve::{Families, Resolver};
use super::tls_client::Verify;
use crate::refusal::Refusal;

/// Paths kept per endpoint; with names whose addresses change a lot the oldest are dropped.
const PATHS: usize = 64;

/// Runtime form of an endpoint.
pub(crate) struct EndpointRuntime {
    /// Address, or name and port.
    pub(crate) target: Target,
    /// Weight; 0 takes the endpoint out of rotation.
    pub(crate) weight: u32,
    /// Certificate verification, with TLS.
    pub(crate) verify: Option<Verify>,
    /// Load and health; kept in the next configuration while the target stays.
    pub(crate) state: Arc<EndpointState>,
    /// Number that stands for the target in hashing.
    pub(crate) seed: u64,
    /// Path through the upstream's link; `None` straight from here.
    pub(crate) through: Option<Arc<Path>>,
    /// State that says whether connections to it may be reused; kept in the next configuration while they may.
    pub(super) life: Arc<Life>,
    located: ArcSwapOption<Located>,
    paths: Arc<Paths>,
}

/// Time in which connections to an endpoint may be used again: from the configuration that opened them to the one that changes or removes the endpoint.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// True once it is over: idle connections close.
    retired: Arc<AtomicBool>,
}

impl Life {
    /// Ends it.
    pub(super) fn end(&self) {
        self.retired.store(true, Relaxed);
    }

    /// Returns the flag that connections look at.
    pub(super) fn retired(&self) -> &Arc<AtomicBool> {
        &self.retired
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.end();
    }
}

/// Paths to an endpoint.
enum Paths {
    /// Few paths, to one endpoint, found without a lock.
    Few(ArcSwap<Vec<Arc<Path>>>),
    /// Paths to any address, for the forward proxy; weak, kept as long as a connection uses them, because they count ports.
    Many(Mutex<HashMap<(UpstreamAddr, EgressAddress), Weak<Path>>>),
}

/// Load and health of an endpoint.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct EndpointState {
    /// Requests or connections under way.
    pub(crate) active: AtomicU32,
    /// Failures of real requests since the last success.
    pub(crate) failures: AtomicU32,
    /// End of a passive ejection, in milliseconds on [`now_ms`]'s clock; 0 if the endpoint is not ejected.
    pub(crate) ejected_until: AtomicU64,
    /// Ejections since the endpoint last served well.
    pub(crate) ejections: AtomicU32,
    /// True if active checks found the endpoint unhealthy.
    pub(crate) unhealthy: AtomicBool,
    /// True if the name had no address at its last lookup.
    pub(crate) unresolved: AtomicBool,
    /// Consecutive active checks with the same outcome.
    pub(crate) checks: AtomicU32,
}

impl EndpointState {
    /// Returns true if the endpoint may be chosen.
    pub(crate) fn available(&self) -> bool {
        !self.unhealthy.load(Relaxed) && self.ejected_until.load(Relaxed) == 0
    }
}

/// Addresses of a name, as long as they are valid.
struct Located {
    addresses: Arc<[SocketAddr]>,
    expires: Instant,
}

/// Addresses of an endpoint, at least one; none for an endpoint behind a link.
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
    /// Prepares an endpoint; `previous` is the same target in the previous configuration. Connections to it are not used again unless [`Self::go_on`] says so.
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
            through: None,
            life: Arc::default(),
            located: ArcSwapOption::empty(),
            paths: Arc::new(Paths::Few(ArcSwap::default())),
        }
    }

    /// Reaches the endpoint through a link of the tenant.
    pub(crate) fn behind(self, tenant: &TenantId, upstream: &Upstream) -> Self {
        let identity = || self.verify.as_ref().map(|verify| verify.identity.clone());
        let (host, protocol) =
            (upstream.direct.as_ref().map(|direct| &direct.host), upstream.protocol);
        let key = upstream.link.as_ref().map(|link| {
            PoolKey::through(tenant, (link, host), &self.target, (identity(), protocol))
        });
        Self { through: key.map(|key| Arc::new(Path::new(key))), ..self }
    }

    /// Goes on with the connections of the same target in the previous configuration, and with the ports that they use.
    pub(super) fn go_on(&mut self, previous: &Self) {
        self.life = Arc::clone(&previous.life);
        self.paths = Arc::clone(&previous.paths);
        if self.through == previous.through {
            self.through.clone_from(&previous.through);
        }
    }

    /// Turns the endpoint into the placeholder for every destination of a forward proxy.
    pub(crate) fn anywhere(mut self) -> Self {
        self.paths = Arc::new(Paths::Many(Mutex::default()));
        self
    }

    /// Returns the addresses: the address itself, or those of the name while its TTL lasts.
    pub(crate) async fn addresses(
        &self,
        resolver: &Resolver,
        upstream: &Upstream,
    ) -> Result<Addresses, Refusal> {
        if self.through.is_some() {
            // The agent looks names up.
            return Ok(Addresses::Many(Arc::default()));
        }
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
        let families = Families::of(&upstream.sources);
        let looking = resolver.lookup_for(host, None, families);
        let resolved = Box::pin(looking).await;
        self.state.unresolved.store(resolved.is_err(), Relaxed);
        let resolved = resolved.map_err(|error| Refusal::NoEndpoint {
            upstream: upstream.name.to_string(),
            detail: error.to_string(),
        })?;
        let addresses: Arc<[SocketAddr]> =
            resolved.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let located = Located { addresses: Arc::clone(&addresses), expires: resolved.expires };
        self.located.store(Some(Arc::new(located)));
        Ok(Addresses::Many(addresses))
    }

    /// Returns the path from `source` to `peer`, created at the first call.
    pub(crate) fn path(
        &self,
        tenant: &Tenant,
        peer: SocketAddr,
        source: EgressAddress,
        protocol: UpstreamProtocol,
    ) -> Result<Arc<Path>, Refusal> {
        self.with_path(tenant, peer, source, protocol, Arc::clone)
    }

    /// Passes the path from `source` to `peer` to a function without cloning it.
    pub(crate) fn with_path<T>(
        &self,
        tenant: &Tenant,
        peer: SocketAddr,
        source: EgressAddress,
        protocol: UpstreamProtocol,
        with: impl FnOnce(&Arc<Path>) -> T,
    ) -> Result<T, Refusal> {
        let peer = UpstreamAddr(peer);
        let make = || {
            let identity = self.verify.as_ref().map(|verify| verify.identity.clone());
            PoolKey::new(tenant, peer, source, identity, protocol)
                .map(|key| Arc::new(Path::new(key)))
        };
        let paths = match &*self.paths {
            Paths::Few(paths) => paths,
            Paths::Many(paths) => {
                let paths = paths.lock().unwrap_or_else(PoisonError::into_inner);
                return Ok(with(&among(paths, (peer, source), make)?));
            }
        };
        if let Some(path) = find(&paths.load(), &tenant.id, peer, source) {
            return Ok(with(path));
        }
        let made = make()?;
        paths.rcu(|paths| {
            let skip = (paths.len() + 1).saturating_sub(PATHS);
            let mut paths: Vec<_> = paths.iter().skip(skip).cloned().collect();
            if find(&paths, &tenant.id, peer, source).is_none() {
                paths.push(Arc::clone(&made));
            }
            paths
        });
        // Another core may have created the path meanwhile; all cores must share one, because it counts ports.
        let paths = paths.load();
        Ok(with(find(&paths, &tenant.id, peer, source).unwrap_or(&made)))
    }
}

impl EndpointRuntime {
    /// Returns the most ports in use to one destination, for each source address.
    pub(crate) fn busiest(&self) -> BTreeMap<EgressAddress, u32> {
        let mut busiest = BTreeMap::new();
        let mut note = |path: &Path| {
            let most = busiest.entry(path.source()).or_insert(0);
            *most = path.ports().max(*most);
        };
        match &*self.paths {
            Paths::Few(paths) => paths.load().iter().for_each(|path| note(path)),
            Paths::Many(paths) => {
                let paths = paths.lock().unwrap_or_else(PoisonError::into_inner);
                paths.values().filter_map(Weak::upgrade).for_each(|path| note(&path));
            }
        }
        busiest
    }
}

/// Returns the path with this key, created if there is none. Unused paths are dropped before the table has to grow.
fn among(
    mut paths: MutexGuard<'_, HashMap<(UpstreamAddr, EgressAddress), Weak<Path>>>,
    key: (UpstreamAddr, EgressAddress),
    make: impl FnOnce() -> Result<Arc<Path>, Refusal>,
) -> Result<Arc<Path>, Refusal> {
    if let Some(path) = paths.get(&key).and_then(Weak::upgrade) {
        return Ok(path);
    }
    if paths.len() == paths.capacity() {
        paths.retain(|_, path| path.strong_count() > 0);
    }
    let made = make()?;
    paths.insert(key, Arc::downgrade(&made));
    Ok(made)
}

fn find<'a>(
    paths: &'a [Arc<Path>],
    tenant: &TenantId,
    peer: UpstreamAddr,
    source: EgressAddress,
) -> Option<&'a Arc<Path>> {
    paths.iter().find(|path| path.joins(tenant, peer, source))
}

/// Returns the milliseconds since the first call in this process, from 1.
pub(crate) fn now_ms() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// Hashes the target by FNV-1a: equal in every process and run, so that client hashing survives restarts.
fn seed(target: &Target) -> u64 {
    target.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Returns a number for a client's address.
pub(crate) fn client_seed(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            (bits >> 64) as u64 ^ (bits as u64).rotate_left(32)
        }
    }
}
