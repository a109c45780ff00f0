//! A resource of the process shared out among tenants: open files and memory.
//!
//! A quarter is shared out evenly and is each tenant's own; of the rest a tenant may have [`GREED`] times what is left, so that the tenant
//! that has most is refused first. Nothing is taken away from a tenant that uses it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Multiple of the unused common part that one tenant may hold: a single one gets four fifths of it, two get four ninths each.
const GREED: usize = 4;

/// What memory is held for; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryKind {
    /// Client connections, the heads and bodies of their exchanges included.
    Clients,
    /// Connections to upstreams.
    Upstreams,
    /// DNS answers.
    Names,
}

impl MemoryKind {
    /// The kinds with their words.
    pub(crate) const ALL: [(Self, &'static str); 3] =
        [(Self::Clients, "clients"), (Self::Upstreams, "upstreams"), (Self::Names, "names")];
}

/// What there is of a resource, and how much of it is in use.
#[derive(Debug, Default)]
pub(crate) struct Share {
    most: AtomicUsize,
    used: AtomicUsize,
    /// What each tenant may have whatever the others do.
    own: AtomicUsize,
    /// Of all that is used, what is left of so much may be had beyond that.
    common: AtomicUsize,
}

impl Share {
    /// Returns how much may be in use.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Relaxed)
    }

    /// Returns how much is in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Returns whether none is left.
    pub(crate) fn is_full(&self) -> bool {
        self.used() >= self.most()
    }

    /// Returns whether little is left.
    pub(crate) fn is_scarce(&self) -> bool {
        self.used() >= self.most() / 8 * 7
    }

    /// Returns whether a tenant may hold `held`, the last part of it counted already.
    pub(crate) fn allows(&self, held: usize) -> bool {
        let left = self.common.load(Relaxed).saturating_sub(self.used());
        held <= self.own.load(Relaxed) || held <= GREED.saturating_mul(left)
    }

    /// Counts `count` more as used.
    pub(crate) fn add(&self, count: usize) {
        self.used.fetch_add(count, Relaxed);
    }

    /// Counts `count` less as used.
    pub(crate) fn sub(&self, count: usize) {
        self.used.fetch_sub(count, Relaxed);
    }

    /// Shares `most` out among `tenants`.
    pub(crate) fn share_out(&self, most: usize, tenants: usize) {
        let (own, common) = match tenants {
            0 | 1 => (most, most),
            _ => ((most / 4 / tenants).max(1), most / 4 * 3),
        };
        self.most.store(most, Relaxed);
        self.own.store(own, Relaxed);
        self.common.store(common, Relaxed);
    }
}
