//! Memory budget of the process: heads, bodies and DNS answers of all tenants, shared out among the tenants.
//!
//! Half of the memory available to the process is the budget; the other half is for the configuration, the program itself, sockets in the kernel and
//! what the allocator cannot give back. Memory is charged at its real size or above.

mod connection;
mod limit;
mod trim;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub(crate) use connection::{ConnectionMemory, Part};
pub use limit::of_this_process;
pub(crate) use trim::Trimmer;

use crate::limits::Usage;
use crate::refusal::Refusal;
pub(crate) use crate::share::MemoryKind as Kind;
use crate::share::Share;

/// Bytes charged for an open connection before a request: its task, its socket's registration, and TLS keys and buffers where it has them.
pub(crate) const CONNECTION: usize = 8 * 1024;
/// Bytes charged for an open connection with TLS.
pub(crate) const TLS_CONNECTION: usize = 20 * 1024;
/// Bytes charged for a stream of a link: what waits to be sent, and as much of what was received and not read as is not charged when it comes.
pub(crate) const LINK_STREAM: usize = 64 * 1024;
/// Bytes of records that a TLS session buffers at most while its peer does not read: rustls's own bound.
pub(crate) const TLS_BACKLOG: usize = 64 * 1024;
/// Bytes charged for an HTTP/2 connection besides: the codec's buffers, and the HPACK tables of both directions, here and in the codec.
pub(crate) const HTTP2_CONNECTION: usize = 32 * 1024;
/// Smallest budget, however little memory the process may have.
const LEAST: usize = 8 * 1024 * 1024;
/// Divisor of the budget for DNS answers; those of one tenant may take half of that part.
const NAMES: usize = 16;
/// Divisor of the budget for connections without a tenant.
const UNIDENTIFIED: usize = 8;

/// Memory budget and the bytes held of it.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: usize,
    share: Share,
    kinds: [AtomicUsize; Kind::ALL.len()],
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(usize::MAX / 64)
    }
}

impl Memory {
    /// Creates the budget of a process that may have `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        let memory = Self {
            budget: (limit / 2).max(LEAST),
            share: Share::default(),
            kinds: Default::default(),
        };
        memory.share_out(1);
        memory
    }

    /// Shares the budget out among `tenants` tenants.
    pub(crate) fn share_out(&self, tenants: usize) {
        self.share.share_out(self.budget, tenants);
    }

    /// Returns the budget in bytes.
    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    /// Returns the bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.share.used()
    }

    /// Returns the bytes held for one kind.
    pub(crate) fn used_for(&self, kind: Kind) -> usize {
        self.kinds[kind as usize].load(Relaxed)
    }

    /// Returns true if DNS answers of all tenants, or of this one, exceed their part of the budget.
    fn has_too_many_names(&self, usage: &Usage) -> bool {
        let most = self.budget / NAMES;
        self.used_for(Kind::Names) > most || usage.memory_for(Kind::Names).load(Relaxed) > most / 2
    }

    /// Returns the number of connections without a tenant that the budget has room for.
    pub(crate) fn unidentified(&self) -> usize {
        self.budget / UNIDENTIFIED / TLS_CONNECTION
    }

    /// Returns the flow-control window of an HTTP/2 stream: smaller where there is less memory.
    pub(crate) fn stream_window(&self) -> u32 {
        let bytes = (self.budget / 2048).clamp(64 * 1024, 256 * 1024);
        u32::try_from(bytes).unwrap_or(64 * 1024)
    }

    /// Creates an empty hold for a tenant.
    pub(crate) fn hold(self: &Arc<Self>, usage: &Arc<Usage>, kind: Kind) -> Hold {
        Hold { memory: Arc::clone(self), usage: Arc::clone(usage), kind, bytes: 0 }
    }
}

/// Bytes held for a tenant; released on drop.
#[derive(Debug)]
pub(crate) struct Hold {
    memory: Arc<Memory>,
    usage: Arc<Usage>,
    kind: Kind,
    bytes: usize,
}

impl Hold {
    /// Returns the bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds `bytes` more.
    ///
    /// # Errors
    /// [`Refusal::Memory`] if that exceeds the tenant's share; then the hold is unchanged.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.usage.memory_for(self.kind).fetch_add(bytes, Relaxed);
        self.memory.share.add(bytes);
        self.memory.kinds[self.kind as usize].fetch_add(bytes, Relaxed);
        self.bytes += bytes;
        if self.memory.share.allows(self.usage.memory()) {
            return Ok(());
        }
        self.shrink(bytes);
        Err(Refusal::Memory)
    }

    /// Holds `bytes` in all.
    ///
    /// # Errors
    /// [`Refusal::Memory`] if that exceeds the tenant's share; then the hold is unchanged.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        self.shrink(self.bytes - bytes);
        Ok(())
    }

    /// Returns true if DNS answers, of all tenants or of this one, exceed their part of the budget.
    pub(crate) fn has_too_many_names(&self) -> bool {
        self.memory.has_too_many_names(&self.usage)
    }

    /// Returns true if both are held for one tenant.
    pub(crate) fn is_of_the_tenant_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.usage, &other.usage)
    }

    /// Holds `bytes` less.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.usage.memory_for(self.kind).fetch_sub(bytes, Relaxed);
        self.memory.share.sub(bytes);
        self.memory.kinds[self.kind as usize].fetch_sub(bytes, Relaxed);
        self.bytes -= bytes;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn a_tenant_that_takes_all_it_can_leaves_a_share_for_every_other() {
        let memory = Arc::new(Memory::new(512 * MIB));
        memory.share_out(4);
        let (greedy, other) = (Arc::<Usage>::default(), Arc::default());

        let mut taken = memory.hold(&greedy, Kind::Clients);
        while taken.grow(MIB).is_ok() {}

        assert!(taken.bytes() > memory.budget() / 2 && taken.bytes() < memory.budget() / 4 * 3);
        let mut own = memory.hold(&other, Kind::Upstreams);
        assert!((0..15).all(|_| own.grow(MIB).is_ok()), "{} left", memory.budget() - memory.used());
        drop((taken, own));
        assert_eq!((memory.used(), memory.used_for(Kind::Clients)), (0, 0));
        assert_eq!(greedy.memory(), 0);
    }

    #[test]
    fn what_is_refused_is_not_held() {
        let memory = Arc::new(Memory::new(16 * MIB));
        let usage = Arc::default();
        let mut hold = memory.hold(&usage, Kind::Names);

        assert!(matches!(hold.grow(9 * MIB), Err(Refusal::Memory)));

        assert_eq!((hold.bytes(), memory.used()), (0, 0));
        assert!(hold.grow(8 * MIB).is_ok());
    }
}
