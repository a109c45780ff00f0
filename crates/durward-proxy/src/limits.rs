//! A tenant's usage of its limits, counted across cores without locks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use durward_model::limits::Limits;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::refusal::Refusal;
use crate::share::MemoryKind;

/// Time by which bandwidth may run ahead of its rate before a sender has to wait.
const BANDWIDTH_TOLERANCE: Duration = Duration::from_millis(100);

/// Lookups that a tenant may have under way at once; cached names do not count.
const LOOKUPS: u32 = 256;

/// Shards of the table of client addresses.
const SHARDS: usize = 16;

/// Usage of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    connections: AtomicU32,
    clients: Clients,
    pending: AtomicU32,
    sessions: AtomicU32,
    /// UDP sessions by client.
    session_clients: Clients,
    upstream_connections: AtomicU32,
    /// File descriptors open for the tenant, client connections aside.
    files: AtomicUsize,
    /// Bytes of the memory budget held for the tenant, by kind.
    memory: [AtomicUsize; MemoryKind::ALL.len()],
    lookups: AtomicU32,
    checks: HealthSlots,
    requests: Bucket,
    bytes_out: Bucket,
    bytes_in: Bucket,
}

impl Usage {
    /// Counts a client connection for as long as the guard lives.
    ///
    /// # Errors
    /// [`Refusal::ConnectionLimit`] if the tenant, or this client of it, has reached its limit.
    pub(crate) fn connection(
        self: &Arc<Self>,
        limits: &Limits,
        client: IpAddr,
    ) -> Result<ConnectionGuard, Refusal> {
        let refused = || Refusal::ConnectionLimit;
        enter(&self.connections, limits.connections).ok_or_else(refused)?;
        let mut guard = ConnectionGuard { usage: Arc::clone(self), client: None };
        if let Some(limit) = limits.connections_per_client {
            let client = client.to_canonical();
            if !self.clients.enter(client, limit) {
                return Err(refused());
            }
            guard.client = Some(client);
        }
        Ok(guard)
    }

    /// Returns the number of open client connections.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }

    /// Counts a UDP session for as long as the guard lives. Clients of one /64 of IPv6 count as one: whoever has one address has all of them.
    ///
    /// # Errors
    /// [`Refusal::SessionLimit`] if the tenant, or this client of it, has reached its limit.
    pub(crate) fn session(
        self: &Arc<Self>,
        limits: &Limits,
        client: IpAddr,
    ) -> Result<SessionGuard, Refusal> {
        enter(&self.sessions, Some(limits.udp_sessions)).ok_or(Refusal::SessionLimit)?;
        let client = network_of(client);
        if !self.session_clients.enter(client, limits.udp_sessions_per_client) {
            self.sessions.fetch_sub(1, Relaxed);
            return Err(Refusal::SessionLimit);
        }
        Ok(SessionGuard { usage: Arc::clone(self), client })
    }

    /// Admits a request by the generic cell rate algorithm. Without `burst`, a tenth of a second's requests may come at once.
    ///
    /// # Errors
    /// [`Refusal::RateLimit`] with the wait after which a request would be admitted.
    pub(crate) fn request(&self, limits: &Limits) -> Result<(), Refusal> {
        let Some(rate) = limits.requests_per_second else { return Ok(()) };
        let interval = 1_000_000_000 / u64::from(rate.max(1));
        let burst = limits.burst.unwrap_or_else(|| (rate / 10).max(1));
        let tolerance = interval.saturating_mul(u64::from(burst));
        self.requests
            .take(now(), interval, tolerance)
            .map_err(|wait| Refusal::RateLimit { retry_after_ms: wait.div_ceil(1_000_000).max(1) })
    }

    /// Counts a request that waits for or uses an upstream, if that is limited.
    ///
    /// # Errors
    /// [`Refusal::CircuitOpen`] if the tenant has reached its limit.
    pub(crate) fn pending(self: &Arc<Self>, limits: &Limits) -> Result<PendingGuard, Refusal> {
        if limits.pending_requests.is_none() {
            return Ok(PendingGuard(None));
        }
        enter(&self.pending, limits.pending_requests).ok_or(Refusal::CircuitOpen)?;
        Ok(PendingGuard(Some(Arc::clone(self))))
    }

    /// Counts a connection to an upstream for as long as the guard lives, idle time in a pool included.
    ///
    /// # Errors
    /// [`Refusal::CircuitOpen`] if the tenant has reached its limit.
    pub(crate) fn upstream_connection(
        self: &Arc<Self>,
        limits: &Limits,
    ) -> Result<UpstreamGuard, Refusal> {
        enter(&self.upstream_connections, limits.upstream_connections)
            .ok_or(Refusal::CircuitOpen)?;
        Ok(UpstreamGuard(Arc::clone(self)))
    }

    /// Returns the counter of file descriptors open for the tenant, client connections aside.
    pub(crate) fn files(&self) -> &AtomicUsize {
        &self.files
    }

    /// Returns the bytes of the memory budget held for the tenant.
    pub(crate) fn memory(&self) -> usize {
        self.memory.iter().map(|bytes| bytes.load(Relaxed)).sum()
    }

    /// Returns the counter of bytes held for the tenant and one purpose.
    pub(crate) fn memory_for(&self, kind: MemoryKind) -> &AtomicUsize {
        &self.memory[kind as usize]
    }

    /// Waits for a slot for a health check.
    pub(crate) async fn health_slot(&self) -> HealthSlot<'_> {
        self.checks.take().await
    }

    /// Counts a lookup; `None` if the tenant has enough of them under way.
    pub(crate) fn lookup(self: &Arc<Self>) -> Option<LookupGuard> {
        enter(&self.lookups, Some(LOOKUPS))?;
        Some(LookupGuard(Arc::clone(self)))
    }

    /// Counts bytes sent to a client; returns the wait before sending more, if any.
    pub(crate) fn bandwidth_out(&self, limits: &Limits, bytes: u64) -> Option<Duration> {
        self.bytes_out.charge(limits.bandwidth_out?, bytes)
    }

    /// Returns whether a datagram to a client is within the tenant's rate, and counts it only then: one that is dropped costs the others nothing.
    pub(crate) fn admits_out(&self, limits: &Limits, bytes: u64) -> bool {
        limits.bandwidth_out.is_none_or(|rate| self.bytes_out.admit(rate, bytes))
    }

    /// Returns whether a datagram of a client is within the tenant's rate, and counts it only then.
    pub(crate) fn admits_in(&self, limits: &Limits, bytes: u64) -> bool {
        limits.bandwidth_in.is_none_or(|rate| self.bytes_in.admit(rate, bytes))
    }

    /// Counts bytes received from a client; returns the wait before reading more, if any.
    pub(crate) fn bandwidth_in(&self, limits: &Limits, bytes: u64) -> Option<Duration> {
        self.bytes_in.charge(limits.bandwidth_in?, bytes)
    }
}

/// Slots for health checks of all tenants together, the tenants' own slots aside.
static COMMON_CHECKS: Semaphore = Semaphore::const_new(256);
/// Slots of each tenant's own, so that slow checks of other tenants never delay its checks.
const OWN_CHECKS: usize = 2;
/// Common slots that one tenant may hold.
const MORE_CHECKS: usize = 30;

/// Slots for the health checks of one tenant.
#[derive(Debug)]
struct HealthSlots {
    own: Semaphore,
    more: Semaphore,
}

/// Slot of a health check; released on drop.
#[derive(Debug)]
pub(crate) struct HealthSlot<'a> {
    _permits: (SemaphorePermit<'a>, Option<SemaphorePermit<'a>>),
}

impl Default for HealthSlots {
    fn default() -> Self {
        Self { own: Semaphore::new(OWN_CHECKS), more: Semaphore::new(MORE_CHECKS) }
    }
}

impl HealthSlots {
    async fn take(&self) -> HealthSlot<'_> {
        // The semaphores are never closed, so that both always give a permit in the end.
        let own = async { Some((self.own.acquire().await.ok()?, None)) };
        let common = async {
            let of_tenant = self.more.acquire().await.ok()?;
            Some((of_tenant, Some(COMMON_CHECKS.acquire().await.ok()?)))
        };
        let permits = tokio::select! {
            biased;
            Some(permits) = own => permits,
            Some(permits) = common => permits,
            else => std::future::pending().await,
        };
        HealthSlot { _permits: permits }
    }
}

/// Guard of one open client connection.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    usage: Arc<Usage>,
    client: Option<IpAddr>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.usage.connections.fetch_sub(1, Relaxed);
        if let Some(client) = self.client {
            self.usage.clients.leave(client);
        }
    }
}

/// Guard of one open UDP session.
#[derive(Debug)]
pub(crate) struct SessionGuard {
    usage: Arc<Usage>,
    client: IpAddr,
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.usage.sessions.fetch_sub(1, Relaxed);
        self.usage.session_clients.leave(self.client);
    }
}

/// Returns what sessions of a client are counted by: its IPv4 address, or its /64 of IPv6.
fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// Guard of one request that uses an upstream; counts nothing if that is not limited.
#[derive(Debug)]
pub(crate) struct PendingGuard(Option<Arc<Usage>>);

impl Drop for PendingGuard {
    fn drop(&mut self) {
        if let Some(usage) = &self.0 {
            usage.pending.fetch_sub(1, Relaxed);
        }
    }
}

/// Guard of one open upstream connection.
#[derive(Debug)]
pub(crate) struct UpstreamGuard(Arc<Usage>);

impl Drop for UpstreamGuard {
    fn drop(&mut self) {
        self.0.upstream_connections.fetch_sub(1, Relaxed);
    }
}

/// Guard of one lookup under way.
#[derive(Debug)]
pub(crate) struct LookupGuard(Arc<Usage>);

impl Drop for LookupGuard {
    fn drop(&mut self) {
        self.0.lookups.fetch_sub(1, Relaxed);
    }
}

/// Adds one unless that exceeds `limit`.
fn enter(count: &AtomicU32, limit: Option<u32>) -> Option<()> {
    let before = count.fetch_add(1, Relaxed);
    if limit.is_some_and(|limit| before >= limit) {
        count.fetch_sub(1, Relaxed);
        return None;
    }
    Some(())
}

/// Connections or sessions by client address; of connections only while `connections_per_client` is configured.
#[derive(Debug, Default)]
struct Clients([Mutex<HashMap<IpAddr, u32>>; SHARDS]);

impl Clients {
    fn shard(&self, client: IpAddr) -> std::sync::MutexGuard<'_, HashMap<IpAddr, u32>> {
        let last = match client {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[7] ^ address.octets()[15],
        };
        self.0[usize::from(last) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, client: IpAddr, limit: u32) -> bool {
        let mut shard = self.shard(client);
        let count = shard.entry(client).or_insert(0);
        if *count >= limit {
            if *count == 0 {
                shard.remove(&client);
            }
            return false;
        }
        *count += 1;
        true
    }

    fn leave(&self, client: IpAddr) {
        let mut shard = self.shard(client);
        if let Some(count) = shard.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&client);
            }
        }
    }
}

/// Theoretical arrival time of the generic cell rate algorithm, in nanoseconds on [`now`]'s clock.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    /// Takes `cost` nanoseconds of the rate; otherwise returns the nanoseconds until that is possible.
    fn take(&self, now: u64, cost: u64, tolerance: u64) -> Result<(), u64> {
        let mut seen = self.0.load(Relaxed);
        loop {
            let from = seen.max(now);
            let ahead = from - now;
            if ahead > tolerance {
                return Err(ahead - tolerance);
            }
            let next = from.saturating_add(cost);
            match self.0.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => seen = other,
            }
        }
    }

    /// Takes `bytes` at `rate` bytes per second, or nothing and returns false if that runs ahead of the rate already.
    fn admit(&self, rate: u64, bytes: u64) -> bool {
        let tolerance = BANDWIDTH_TOLERANCE.as_nanos() as u64;
        self.take(now(), cost(rate, bytes), tolerance).is_ok()
    }

    /// Takes `bytes` at `rate` bytes per second; returns the time by which that runs ahead of the rate.
    fn charge(&self, rate: u64, bytes: u64) -> Option<Duration> {
        let (now, cost) = (now(), cost(rate, bytes));
        let mut ahead = 0;
        let _always = self.0.fetch_update(Relaxed, Relaxed, |seen| {
            let next = seen.max(now).saturating_add(cost);
            ahead = next - now;
            Some(next)
        });
        let wait = Duration::from_nanos(ahead).saturating_sub(BANDWIDTH_TOLERANCE);
        (!wait.is_zero()).then_some(wait)
    }
}

/// Returns the nanoseconds that `bytes` take at `rate` bytes per second.
fn cost(rate: u64, bytes: u64) -> u64 {
    let cost = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    u64::try_from(cost).unwrap_or(u64::MAX)
}

/// Returns the nanoseconds since the first call in this process.
fn now() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::task::unconstrained;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 23));

    #[test]
    fn what_is_dropped_costs_nothing() {
        let bucket = Bucket::default();
        assert!(bucket.admit(1_000, 1_000));

        let dropped = (0..1_000).filter(|_| !bucket.admit(1_000, 1_000)).count();

        assert!(dropped > 0);
        // A thousand would take a thousand seconds.
        let wait = bucket.charge(1_000, 0).unwrap_or_default();
        assert!(wait < Duration::from_secs(500), "{wait:?}");
    }

    // S1.71
    #[test]
    fn connections_are_limited_and_a_dropped_guard_makes_room() {
        let usage = Arc::new(Usage::default());
        let limits = Limits { connections: Some(2), ..Limits::default() };

        let first = usage.connection(&limits, CLIENT).unwrap();
        let _second = usage.connection(&limits, CLIENT).unwrap();

        assert!(matches!(usage.connection(&limits, CLIENT), Err(Refusal::ConnectionLimit)));
        assert_eq!(usage.connections(), 2);
        drop(first);
        assert!(usage.connection(&limits, CLIENT).is_ok());
    }

    // S1.71
    #[test]
    fn one_client_cannot_take_all_connections_and_leaves_nothing_behind() {
        let usage = Arc::new(Usage::default());
        let limits = Limits { connections_per_client: Some(1), ..Limits::default() };

        let held = usage.connection(&limits, CLIENT).unwrap();
        let mapped = "::ffff:192.0.2.7".parse().unwrap();

        assert!(matches!(usage.connection(&limits, mapped), Err(Refusal::ConnectionLimit)));
        assert!(usage.connection(&limits, OTHER).is_ok());
        drop(held);
        assert_eq!(usage.connections(), 0);
        assert!(usage.clients.0.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    // S1.71
    #[test]
    fn a_limit_may_come_later_than_the_usage() {
        let usage = Arc::new(Usage::default());
        let _before = usage.connection(&Limits::default(), CLIENT).unwrap();

        let limits = Limits { connections: Some(1), ..Limits::default() };

        assert!(usage.connection(&limits, CLIENT).is_err());
    }

    // S1.71
    #[test]
    fn the_rate_admits_a_burst_then_one_per_interval() {
        let bucket = Bucket::default();
        let (interval, burst) = (100, 3);
        let mut admitted = 0;

        for now in 1_000..2_000 {
            admitted += u32::from(bucket.take(now, interval, interval * burst).is_ok());
        }

        assert_eq!(admitted, 1 + 3 + 9);
        assert_eq!(bucket.take(2_000, interval, interval * burst), Ok(()));
        assert_eq!(bucket.take(2_000, interval, interval * burst), Err(100));
    }

    // S1.71
    #[test]
    fn a_request_over_the_rate_is_told_when_to_come_back() {
        let usage = Usage::default();
        let limits = Limits { requests_per_second: Some(1), burst: Some(0), ..Limits::default() };

        usage.request(&limits).unwrap();
        let refusal = usage.request(&limits).unwrap_err();

        assert!(
            matches!(refusal, Refusal::RateLimit { retry_after_ms: 900..=1000 }),
            "{refusal:?}"
        );
        assert!(usage.request(&Limits::default()).is_ok());
    }

    // S1.71
    #[test]
    fn cores_share_one_rate() {
        let bucket = Arc::new(Bucket::default());
        let admitted: usize = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..1_000).filter(|_| bucket.take(5, 10, 995).is_ok()).count())
                })
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });

        assert_eq!(admitted, 100);
    }

    // S1.71
    #[test]
    fn upstream_work_is_limited_per_tenant() {
        let usage = Arc::new(Usage::default());
        let limits = Limits {
            upstream_connections: Some(1),
            pending_requests: Some(1),
            ..Limits::default()
        };

        let connection = usage.upstream_connection(&limits).unwrap();
        let pending = usage.pending(&limits).unwrap();

        assert!(matches!(usage.upstream_connection(&limits), Err(Refusal::CircuitOpen)));
        assert!(matches!(usage.pending(&limits), Err(Refusal::CircuitOpen)));
        drop((connection, pending));
        assert!(usage.upstream_connection(&limits).is_ok() && usage.pending(&limits).is_ok());
    }

    #[tokio::test]
    async fn slow_health_checks_of_some_tenants_leave_slots_for_every_other() {
        let slow: Vec<Usage> = (0..20).map(|_| Usage::default()).collect();
        let mut held = Vec::new();
        for tenant in &slow {
            for _ in 0..OWN_CHECKS + MORE_CHECKS {
                // Common slots run out; what is not granted at once is not granted at all here.
                held.extend(unconstrained(tenant.health_slot()).now_or_never());
            }
            assert!(
                unconstrained(tenant.health_slot()).now_or_never().is_none(),
                "a tenant's slots are bounded"
            );
        }
        assert_eq!(held.len(), 256 + 20 * OWN_CHECKS);

        let other = Usage::default();

        assert!(unconstrained(other.health_slot()).now_or_never().is_some());
        drop(held);
        assert!(unconstrained(slow[0].health_slot()).now_or_never().is_some());
    }

    // S1.71
    #[test]
    fn bandwidth_makes_the_sender_wait_in_proportion() {
        let usage = Usage::default();
        let limits = Limits { bandwidth_out: Some(1_000_000), ..Limits::default() };

        assert_eq!(usage.bandwidth_out(&limits, 50_000), None);
        let wait = usage.bandwidth_out(&limits, 1_000_000).unwrap();

        assert!(wait > Duration::from_millis(800) && wait < Duration::from_secs(1), "{wait:?}");
        assert_eq!(usage.bandwidth_in(&limits, u64::MAX), None);
    }
}
