//! Counts bytes while they move, puts the deadline off, and says when a tenant's bandwidth is used up.
//!
//! Deliberately absent: moving them.

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
use crate::watch::Watch;

/// One relay's meter.
pub(super) struct Meter<'a> {
    cells: &'a Cells,
    usage: &'a Arc<Usage>,
    memory: &'a Arc<Memory>,
    limits: &'a Limits,
    watch: &'a Watch,
    from_client: Cell<u64>,
    from_upstream: Cell<u64>,
}

impl<'a> Meter<'a> {
    /// A meter that has seen the bytes read before.
    pub(super) fn new(
        core: &'a Core,
        view: &'a TenantView,
        watch: &'a Watch,
        early_from_client: usize,
        early_from_upstream: usize,
    ) -> Self {
        let tenant = view.tenant();
        let meter = Self {
            cells: tenant.metrics.core(core.id),
            usage: &tenant.usage,
            memory: &core.shared.memory,
            limits: &tenant.tenant.limits,
            watch,
            from_client: Cell::new(0),
            from_upstream: Cell::new(0),
        };
        meter.read(Way::ToUpstream, early_from_client);
        meter.read(Way::ToClient, early_from_upstream);
        meter
    }

    /// How long both sides may be silent.
    pub(super) fn patience(&self) -> Duration {
        self.limits.timeouts.stream_idle
    }

    /// Bytes were read at the beginning of the way.
    pub(super) fn read(&self, way: Way, bytes: usize) {
        let (seen, counter) = match way {
            Way::ToUpstream => (&self.from_client, Counter::ClientBytesIn),
            Way::ToClient => (&self.from_upstream, Counter::UpstreamBytesIn),
        };
        seen.set(seen.get() + bytes as u64);
        self.cells.add(counter, bytes as u64);
        self.watch.extend(self.patience());
    }

    /// Bytes were written at the end of the way.
    pub(super) fn written(&self, way: Way, bytes: usize) {
        let counter = match way {
            Way::ToUpstream => Counter::UpstreamBytesOut,
            Way::ToClient => Counter::ClientBytesOut,
        };
        self.cells.add(counter, bytes as u64);
        self.watch.extend(self.patience());
    }

    /// How long to wait after `bytes` more, if the tenant's bandwidth asks for it. The wait is not held against the peers.
    pub(super) fn wait(&self, way: Way, bytes: usize) -> Option<Duration> {
        let bytes = bytes as u64;
        let wait = match way {
            Way::ToUpstream => self.usage.bandwidth_in(self.limits, bytes),
            Way::ToClient => self.usage.bandwidth_out(self.limits, bytes),
        }?;
        self.watch.extend(self.patience() + wait);
        Some(wait)
    }

    /// Holds memory for bytes that the receiver does not take; `None` when the tenant has no room for them.
    pub(super) fn hold(&self, bytes: usize) -> Option<Hold> {
        let mut hold = self.memory.hold(self.usage, Kind::Clients);
        hold.grow(bytes).ok()?;
        Some(hold)
    }

    /// How many bytes to move at once: all that `most` allows, or an eighth of a second's worth of a limited bandwidth.
    pub(super) fn portion(&self, way: Way, most: usize) -> usize {
        let limit = match way {
            Way::ToUpstream => self.limits.bandwidth_in,
            Way::ToClient => self.limits.bandwidth_out,
        };
        let eighth = |limit: u64| usize::try_from(limit / 8).unwrap_or(most).max(1024);
        limit.map_or(most, eighth).min(most)
    }

    /// Bytes received from the client.
    pub(super) fn seen_from_client(&self) -> u64 {
        self.from_client.get()
    }

    /// Bytes received from the upstream.
    pub(super) fn seen_from_upstream(&self) -> u64 {
        self.from_upstream.get()
    }
}
