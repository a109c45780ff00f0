//! Passive ejection: an endpoint that fails real requests is ejected for a while, longer each time.
//!
//! There is no timer: the next choice of an endpoint ends ejections that are over.

use std::sync::atomic::Ordering::Relaxed;

use super::endpoint::now_ms;
use super::runtime::UpstreamRuntime;
use crate::metrics::{Cells, Counter};

/// Longest ejection, as a multiple of the first.
const LONGEST_REST: u64 = 10;

impl UpstreamRuntime {
    /// Counts a failed request at an endpoint.
    pub(crate) fn failure(&self, at: usize, cells: &Cells) {
        let endpoint = &self.endpoints[at];
        let failures = endpoint.state.failures.fetch_add(1, Relaxed) + 1;
        let Some(outlier) = &self.upstream.outlier else { return };
        if failures < outlier.consecutive_failures.max(1) || !self.may_eject(at) {
            return;
        }
        let row = endpoint.state.ejections.load(Relaxed);
        let times = (1u64 << row.min(8)).min(LONGEST_REST);
        let rest = u64::try_from(outlier.base_ejection.as_millis()).unwrap_or(u64::MAX);
        let rest = rest.saturating_mul(times);
        let until = now_ms().saturating_add(rest);
        if endpoint.state.ejected_until.compare_exchange(0, until, Relaxed, Relaxed).is_err() {
            return;
        }
        endpoint.state.ejections.store(row.saturating_add(1), Relaxed);
        cells.add(Counter::Ejections, 1);
        tracing::warn!(tenant = %self.tenant, upstream = %self.upstream.name, endpoint = %endpoint.target, failures,
            rest_ms = rest, "endpoint ejected: it failed requests in a row");
    }

    /// Counts a successful request at an endpoint.
    pub(crate) fn success(&self, at: usize) {
        let state = &self.endpoints[at].state;
        if state.failures.load(Relaxed) != 0 {
            state.failures.store(0, Relaxed);
        }
        if state.ejections.load(Relaxed) != 0 && state.ejected_until.load(Relaxed) == 0 {
            state.ejections.store(0, Relaxed);
        }
    }

    /// Ends ejections that are over. Reads the clock only while an endpoint is ejected.
    pub(crate) fn restore(&self) {
        if self.endpoints.len() < 2 {
            return;
        }
        for endpoint in &self.endpoints {
            let until = endpoint.state.ejected_until.load(Relaxed);
            if until == 0 || until > now_ms() {
                continue;
            }
            if endpoint.state.ejected_until.compare_exchange(until, 0, Relaxed, Relaxed).is_ok() {
                endpoint.state.failures.store(0, Relaxed);
                tracing::info!(tenant = %self.tenant, upstream = %self.upstream.name, endpoint = %endpoint.target,
                    "endpoint restored: its rest is over");
            }
        }
    }

    /// Returns true if the endpoint may be ejected: not the last available one, and not beyond the configured share.
    fn may_eject(&self, at: usize) -> bool {
        let share =
            self.upstream.outlier.as_ref().map_or(0, |o| usize::from(o.max_ejected_percent));
        let serving = |e: &&super::endpoint::EndpointRuntime| e.weight > 0 && e.state.available();
        let available = self.endpoints.iter().filter(serving).count();
        let resting =
            self.endpoints.iter().filter(|e| e.state.ejected_until.load(Relaxed) != 0).count();
        let enough = available > usize::from(self.endpoints[at].state.available());
        enough && (resting + 1) * 100 <= share * self.endpoints.len()
    }
}
