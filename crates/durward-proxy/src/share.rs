//! Fair share of a resource of the process among tenants: file descriptors and memory.
//!
//! A quarter is divided evenly and guaranteed to each tenant; of the rest a tenant may hold [`GREED`] times what is left, so that the tenant that
//! holds most is refused first. Nothing is taken away from a tenant that uses it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Multiple of the unused common part that one tenant may hold: a single tenant gets four fifths of it, two get four ninths each.
const GREED: usize = 4;

/// Purpose of held memory; a metric label.
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
    /// All kinds with their words.
    pub(crate) const ALL: [(Self, &'static str); 3] =
        [(Self::Clients, "clients"), (Self::Upstreams, "upstreams"), (Self::Names, "names")];
}

/// Amount of a resource, and its use.
#[derive(Debug, Default)]
pub(crate) struct Share {
    most: AtomicUsize,
    used: AtomicUsize,
    /// Amount guaranteed to each tenant.
    own: AtomicUsize,
    /// Use in all up to which tenants may exceed their guaranteed amount.
    common: AtomicUsize,
}

impl Share {
    /// Returns the amount that may be in use.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Relaxed)
    }

    /// Returns the amount in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Returns true if nothing is left.
    pub(crate) fn is_full(&self) -> bool {
        self.used() >= self.most()
    }

    /// Returns true if less than an eighth is left.
    pub(crate) fn is_scarce(&self) -> bool {
        self.used() >= self.most() / 8 * 7
    }

    /// Returns true if a tenant may hold `held`, which includes the amount just added.
    pub(crate) fn allows(&self, held: usize) -> bool {
        let left = self.common.load(Relaxed).saturating_sub(self.used());
        held <= self.own.load(Relaxed) || held <= GREED.saturating_mul(left)
    }

    /// Adds `count` to the use.
    pub(crate) fn add(&self, count: usize) {
        self.used.fetch_add(count, Relaxed);
    }

    /// Subtracts `count` from the use.
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
