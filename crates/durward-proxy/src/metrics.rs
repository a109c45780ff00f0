//! Counters per tenant and core, written without contention and summed at a scrape.
//!
//! Labels are closed enums plus the tenant. Deliberately absent: client addresses, names and URLs as labels.

pub mod openmetrics;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use durward_model::TenantId;

use crate::refusal::{HandshakeFailure, Refusal};

/// Counters of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Connections admitted.
    ConnectionsOpened,
    /// Connections ended; opened minus closed are active.
    ConnectionsClosed,
    /// Requests answered with 1xx as the final status (101).
    Requests1xx,
    /// Requests answered with 2xx.
    Requests2xx,
    /// Requests answered with 3xx.
    Requests3xx,
    /// Requests answered with 4xx.
    Requests4xx,
    /// Requests answered with 5xx.
    Requests5xx,
    /// Bytes received from clients, TLS excluded.
    ClientBytesIn,
    /// Bytes sent to clients.
    ClientBytesOut,
    /// Bytes received from upstreams.
    UpstreamBytesIn,
    /// Bytes sent to upstreams.
    UpstreamBytesOut,
    /// Upstream connections made.
    UpstreamConnectionsNew,
    /// Requests sent on a pooled connection.
    UpstreamConnectionsReused,
    /// Upstream connections closed; new minus closed are open.
    UpstreamConnectionsClosed,
    /// Times an upstream connection was kept for the next request.
    UpstreamConnectionsIdled,
    /// Times an idle upstream connection was taken or closed; idled minus taken are idle now.
    UpstreamConnectionsTaken,
    /// Connects that failed.
    UpstreamConnectFailures,
    /// Requests sent again.
    Retries,
    /// Endpoints ejected by active or passive checks.
    Ejections,
    /// TLS handshakes with TLS 1.2.
    HandshakesTls12,
    /// TLS handshakes with TLS 1.3.
    HandshakesTls13,
    /// Handshakes that resumed a session.
    HandshakesResumed,
    /// Requests and tunnels of the forward proxy that the rules allowed.
    EgressAllowed,
    /// Requests and tunnels that were allowed although the rules would deny them.
    EgressReported,
    /// Requests and tunnels denied.
    EgressDenied,
    /// Requests and tunnels that could not be connected.
    EgressFailed,
    /// Requests and tunnels that have ended; allowed and reported minus closed are open.
    EgressClosed,
    /// Bytes of the forward proxy from clients.
    EgressBytesUp,
    /// Bytes of the forward proxy to clients.
    EgressBytesDown,
    /// `getsockname` checks before the first byte.
    IsolationChecks,
    /// Checks that found an address that is not the tenant's. Zero, always.
    IsolationViolations,
    /// UDP sessions begun.
    UdpSessionsOpened,
    /// UDP sessions ended; opened minus closed are open.
    UdpSessionsClosed,
    /// Datagrams carried from clients to links.
    UdpDatagramsIn,
    /// Datagrams sent to clients.
    UdpDatagramsOut,
    /// Datagrams of clients or links that were dropped.
    UdpDatagramsDropped,
    /// Refused connections and requests, whatever the reason.
    Refusals,
}

impl Counter {
    /// Number of counters.
    pub const COUNT: usize = Self::Refusals as usize + 1;

    /// Counters of which one is above zero once a client of the tenant has come. Health checks count in none of them, so that a gateway which only
    /// checks a tenant's endpoints does not show the tenant. A violation is shown whatever caused it.
    const TRAFFIC: [Self; 8] = [
        Self::ConnectionsOpened,
        Self::UdpSessionsOpened,
        Self::Refusals,
        Self::EgressAllowed,
        Self::EgressReported,
        Self::EgressDenied,
        Self::EgressFailed,
        Self::IsolationViolations,
    ];

    /// Returns the counter for an HTTP status.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            100..=199 => Self::Requests1xx,
            200..=299 => Self::Requests2xx,
            300..=399 => Self::Requests3xx,
            400..=499 => Self::Requests4xx,
            _ => Self::Requests5xx,
        }
    }
}

/// Upper bounds of histogram buckets in seconds; the last is infinity.
pub const BUCKETS: [f64; 14] = [
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
    f64::INFINITY,
];

/// Histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS.len()],
    sum_nanoseconds: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_nanoseconds
            .fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// Counters of one tenant on one core, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub struct Cells {
    counters: [AtomicU64; Counter::COUNT],
    refusals: Box<[AtomicU64]>,
    handshake_failures: Box<[AtomicU64]>,
    /// Time from a request's first byte to the response's last.
    pub request_duration: Histogram,
    /// Time from accept to the end of the TLS handshake.
    pub handshake_duration: Histogram,
    /// Time of connects to upstreams, TLS included.
    pub connect_duration: Histogram,
}

impl Default for Cells {
    fn default() -> Self {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            refusals: zeros(Refusal::WORDS.len()),
            handshake_failures: zeros(HandshakeFailure::WORDS.len()),
            request_duration: Histogram::default(),
            handshake_duration: Histogram::default(),
            connect_duration: Histogram::default(),
        }
    }
}

impl Cells {
    /// Adds to a counter.
    pub fn add(&self, counter: Counter, amount: u64) {
        self.counters[counter as usize].fetch_add(amount, Relaxed);
    }

    /// Returns a counter's value.
    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Relaxed)
    }

    /// Counts a refusal by its reason.
    pub fn refused(&self, refusal: &Refusal) {
        self.add(Counter::Refusals, 1);
        self.refusals[refusal.index()].fetch_add(1, Relaxed);
        if let Refusal::Handshake { reason, .. } = refusal {
            self.handshake_failures[reason.index()].fetch_add(1, Relaxed);
        }
    }
}

/// Counters of one tenant: one [`Cells`] per core.
#[derive(Debug)]
pub struct TenantMetrics {
    cores: Box<[Cells]>,
}

impl TenantMetrics {
    /// Creates zeroes for `cores` cores.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { cores: (0..cores.max(1)).map(|_| Cells::default()).collect() }
    }

    /// Returns the cells of a core.
    #[must_use]
    pub fn core(&self, id: usize) -> &Cells {
        &self.cores[id % self.cores.len()]
    }

    /// Returns the sum of a counter over all cores.
    #[must_use]
    pub fn total(&self, counter: Counter) -> u64 {
        self.cores.iter().map(|cells| cells.counters[counter as usize].load(Relaxed)).sum()
    }

    /// Returns true once a client of the tenant has connected or was refused here. It stays true: counters never fall.
    #[must_use]
    pub fn has_traffic(&self) -> bool {
        let came = |cells: &Cells| Counter::TRAFFIC.iter().any(|counter| cells.get(*counter) > 0);
        self.cores.iter().any(came)
    }

    /// Returns the sums of refusals, in the order of [`Refusal::WORDS`].
    #[must_use]
    pub fn refusals(&self) -> Vec<u64> {
        sum(self.cores.iter().map(|cells| &cells.refusals[..]))
    }

    /// Returns the sums of failed handshakes, in the order of [`HandshakeFailure::WORDS`].
    #[must_use]
    pub fn handshake_failures(&self) -> Vec<u64> {
        sum(self.cores.iter().map(|cells| &cells.handshake_failures[..]))
    }

    /// Returns bucket counts (not cumulative) and sum in seconds of a histogram over all cores.
    #[must_use]
    pub fn histogram(&self, of: impl Fn(&Cells) -> &Histogram) -> (Vec<u64>, f64) {
        let nanoseconds: u64 =
            self.cores.iter().map(|cells| of(cells).sum_nanoseconds.load(Relaxed)).sum();
        (
            sum(self.cores.iter().map(|cells| &of(cells).buckets[..])),
            Duration::from_nanos(nanoseconds).as_secs_f64(),
        )
    }
}

fn sum<'a>(rows: impl Iterator<Item = &'a [AtomicU64]>) -> Vec<u64> {
    rows.fold(Vec::new(), |mut total, row| {
        total.resize(row.len(), 0);
        total.iter_mut().zip(row).for_each(|(sum, cell)| *sum += cell.load(Relaxed));
        total
    })
}

/// Counters of all tenants. They outlive configurations: a tenant that comes back goes on counting.
#[derive(Debug)]
pub struct Metrics {
    cores: usize,
    /// Counters of events before a tenant is known.
    pub unknown: Arc<TenantMetrics>,
    tenants: Mutex<BTreeMap<TenantId, Arc<TenantMetrics>>>,
}

impl Metrics {
    /// Creates zeroes for `cores` cores.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { cores, unknown: Arc::new(TenantMetrics::new(cores)), tenants: Mutex::default() }
    }

    /// Returns a tenant's counters, created at the first call. Called when the configuration changes, never per connection.
    pub fn tenant(&self, id: &TenantId) -> Arc<TenantMetrics> {
        let mut tenants = self.tenants.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(
            tenants.entry(id.clone()).or_insert_with(|| Arc::new(TenantMetrics::new(self.cores))),
        )
    }

    /// Returns all tenants' counters, by name.
    #[must_use]
    pub fn tenants(&self) -> Vec<(TenantId, Arc<TenantMetrics>)> {
        let tenants = self.tenants.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tenants.iter().map(|(id, metrics)| (id.clone(), Arc::clone(metrics))).collect()
    }

    /// Returns the counters of the tenants that have had traffic, by name.
    #[must_use]
    pub fn with_traffic(&self) -> Vec<(TenantId, Arc<TenantMetrics>)> {
        let tenants = self.tenants.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let busy = tenants.iter().filter(|(_, metrics)| metrics.has_traffic());
        busy.map(|(id, metrics)| (id.clone(), Arc::clone(metrics))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_summed() {
        let metrics = TenantMetrics::new(2);

        metrics.core(0).add(Counter::Retries, 2);
        metrics.core(1).add(Counter::Retries, 3);
        metrics.core(1).refused(&Refusal::NoRoute);
        metrics.core(0).request_duration.observe(Duration::from_millis(3));

        assert_eq!(metrics.total(Counter::Retries), 5);
        assert_eq!(metrics.refusals()[Refusal::NoRoute.index()], 1);
        assert_eq!(metrics.histogram(|cells| &cells.request_duration).0[3], 1);
    }

    #[test]
    fn health_checks_are_no_traffic_and_refusals_and_violations_are() {
        let after = |count: &dyn Fn(&Cells)| {
            let metrics = TenantMetrics::new(2);
            count(metrics.core(1));
            metrics.has_traffic()
        };

        assert!(!after(&|_| {}));
        for checked in
            [Counter::IsolationChecks, Counter::Ejections, Counter::UpstreamConnectFailures]
        {
            assert!(!after(&|cells| cells.add(checked, 1)), "{checked:?}");
        }
        for traffic in [
            Counter::ConnectionsOpened,
            Counter::IsolationViolations,
            Counter::EgressAllowed,
            Counter::EgressReported,
            Counter::EgressDenied,
            Counter::EgressFailed,
        ] {
            assert!(after(&|cells| cells.add(traffic, 1)), "{traffic:?}");
        }
        assert!(after(&|cells| cells.refused(&Refusal::NoRoute)));
    }
}
