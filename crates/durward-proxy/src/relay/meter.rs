//! Counter of relayed bytes, which extends the deadline and enforces a tenant's bandwidth.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use durward_model::limits::Limits;

use super::Way;
use crate::core::Core;
use crate::limits::Usage;
use crate::memory::{Hold, Kind, Memory};
use crate::metrics::{Cells, Counter};
use crate::prepared::TenantView;
use crate::upstream::Lease;
use crate::watch::Watch;

/// Meter of one relay.
pub(super) struct Meter<'a> {
    cells: &'a Cells,
    usage: &'a Arc<Usage>,
    memory: &'a Arc<Memory>,
    limits: &'a Limits,
    watch: &'a Watch,
    patience: Duration,
    from_client: Cell<u64>,
    from_upstream: Cell<u64>,
}

impl<'a> Meter<'a> {
    /// Creates a meter that has counted the bytes read before.
    pub(super) fn new(
        core: &'a Core,
        view: &'a TenantView,
        watch: &'a Watch,
        (early_from_client, early_from_upstream): (usize, usize),
        lease: &Lease,
    ) -> Self {
        let tenant = view.tenant();
        let meter = Self {
            cells: tenant.metrics.core(core.id),
            usage: &tenant.usage,
            memory: &core.shared.memory,
            limits: &tenant.tenant.limits,
            watch,
            patience: (lease.upstream().upstream.stream_idle)
                .unwrap_or(tenant.tenant.limits.timeouts.stream_idle),
            from_client: Cell::new(0),
            from_upstream: Cell::new(0),
        };
        meter.read(Way::ToUpstream, early_from_client);
        meter.read(Way::ToClient, early_from_upstream);
        meter
    }

    /// Returns the idle timeout of both directions.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Counts bytes read from the sender.
    pub(super) fn read(&self, way: Way, bytes: usize) {
        let (seen, counter) = match way {
            Way::ToUpstream => (&self.from_client, Counter::ClientBytesIn),
            Way::ToClient => (&self.from_upstream, Counter::UpstreamBytesIn),
        };
        seen.set(seen.get() + bytes as u64);
        self.cells.add(counter, bytes as u64);
        self.watch.extend(self.patience());
    }

    /// Counts bytes written to the receiver.
    pub(super) fn written(&self, way: Way, bytes: usize) {
        let counter = match way {
            Way::ToUpstream => Counter::UpstreamBytesOut,
            Way::ToClient => Counter::ClientBytesOut,
        };
        self.cells.add(counter, bytes as u64);
        self.watch.extend(self.patience());
    }

    /// Returns the wait after `bytes` more, if the tenant's bandwidth requires one. The deadline is extended by the wait.
    pub(super) fn wait(&self, way: Way, bytes: usize) -> Option<Duration> {
        let bytes = bytes as u64;
        let wait = match way {
            Way::ToUpstream => self.usage.bandwidth_in(self.limits, bytes),
            Way::ToClient => self.usage.bandwidth_out(self.limits, bytes),
        }?;
        self.watch.extend(self.patience() + wait);
        Some(wait)
    }

    /// Charges memory for bytes that the receiver does not take; `None` if the tenant has no room for them.
    pub(super) fn hold(&self, bytes: usize) -> Option<Hold> {
        let mut hold = self.memory.hold(self.usage, Kind::Clients);
        hold.grow(bytes).ok()?;
        Some(hold)
    }

    /// Returns the bytes to move at once: `most`, or an eighth of a second's worth of a limited bandwidth.
    pub(super) fn portion(&self, way: Way, most: usize) -> usize {
        let limit = match way {
            Way::ToUpstream => self.limits.bandwidth_in,
            Way::ToClient => self.limits.bandwidth_out,
        };
        let eighth = |limit: u64| usize::try_from(limit / 8).unwrap_or(most).max(1024);
        limit.map_or(most, eighth).min(most)
    }

    /// Returns the bytes received from the client.
    pub(super) fn seen_from_client(&self) -> u64 {
        self.from_client.get()
    }

    /// Returns the bytes received from the upstream.
    pub(super) fn seen_from_upstream(&self) -> u64 {
        self.from_upstream.get()
    }
}
