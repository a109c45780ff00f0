//! Pool of idle upstream connections of one core, by [`Path`].
//!
//! Time is counted by a sweep per [`TICK`]; no clock is read.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::Pin;
use std::rc::{Rc, Weak as LocalWeak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use durward_link::session::LinkStream;
use tokio::io::{AsyncRead, ReadBuf};

use super::http2::Shared;
use super::path::{Path, Ticket};
use super::per_core::Upstreams;
use crate::io::Io;
use crate::metrics::{Cells, Counter, TenantMetrics};

/// Interval of sweeps over idle connections.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// Sweeps that a connection may idle while file descriptors are scarce.
const SCARCE: u32 = 4;

/// Pools of one core.
#[derive(Default)]
pub(crate) struct Pools {
    slots: RefCell<HashMap<Arc<Path>, Slot, BuildHasherDefault<Precomputed>>>,
    /// Number of idle HTTP/1 connections in all pools.
    idle: Cell<usize>,
    tick: Cell<u32>,
    sweeping: Cell<bool>,
}

/// Connections of one path.
#[derive(Default)]
struct Slot {
    /// Idle HTTP/1 connections, the longest idle first.
    idle: VecDeque<Idle>,
    /// Shared HTTP/2 connections.
    shared: Vec<Rc<Shared>>,
    /// Locked while an HTTP/2 connection is opened, so that a burst of requests opens one.
    opening: Rc<tokio::sync::Mutex<()>>,
    keep: u32,
}

struct Idle {
    io: Io,
    ticket: Ticket,
    since: u32,
}

impl Pools {
    /// Takes the most recently used connection that is still alive.
    pub(crate) fn pop(&self, path: &Arc<Path>) -> Option<(Io, Ticket)> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(path)?;
        while let Some(idle) = slot.idle.pop_back() {
            self.left(&idle.ticket);
            let Idle { mut io, ticket, .. } = idle;
            if !ticket.retired() && alive(&mut io) {
                return Some((io, ticket));
            }
        }
        None
    }

    /// Keeps a connection for reuse; above `keep` the longest idle one is closed.
    pub(crate) fn push(
        upstreams: &Rc<Upstreams>,
        io: Io,
        ticket: Ticket,
        keep: u32,
        timeout: Duration,
    ) {
        if keep == 0 || ticket.bound || ticket.retired() {
            return;
        }
        let pools = &upstreams.pools;
        let mut slots = pools.slots.borrow_mut();
        let path = &ticket.port.0;
        let metrics = Arc::clone(&ticket.metrics);
        let slot = match slots.get_mut(path) {
            Some(slot) => slot,
            None => slots.entry(Arc::clone(path)).or_default(),
        };
        slot.keep = ticks(timeout);
        pools.entered(&ticket);
        slot.idle.push_back(Idle { io, ticket, since: pools.tick.get() });
        if slot.idle.len() > keep as usize
            && let Some(oldest) = slot.idle.pop_front()
        {
            pools.left(&oldest.ticket);
        }
        // `make_room` borrows the slots again. It runs after the insertion, so that the newest connection is the last to go.
        drop(slots);
        let (of_one, of_all) = upstreams.files.idle();
        if idle_of(metrics.core(upstreams.core)) > of_one as u64 {
            pools.make_room(Some(&metrics));
        } else if pools.idle.get() > of_all {
            pools.make_room(None);
        }
        if !pools.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(upstreams)));
        }
    }

    fn entered(&self, ticket: &Ticket) {
        self.idle.set(self.idle.get() + 1);
        ticket.metrics.core(ticket.core).add(Counter::UpstreamConnectionsIdled, 1);
    }

    fn left(&self, ticket: &Ticket) {
        self.idle.set(self.idle.get() - 1);
        ticket.metrics.core(ticket.core).add(Counter::UpstreamConnectionsTaken, 1);
    }

    /// Closes an eighth of the idle connections of a tenant, or of all, the longest idle first. Returns their number.
    pub(crate) fn make_room(&self, of: Option<&Arc<TenantMetrics>>) -> usize {
        let now = self.tick.get();
        let mut slots = self.slots.borrow_mut();
        let meant = |idle: &Idle| of.is_none_or(|of| Arc::ptr_eq(of, &idle.ticket.metrics));
        let age = |idle: &Idle| now.wrapping_sub(idle.since);
        let all = slots.values().flat_map(|slot| &slot.idle).filter(|idle| meant(idle));
        let mut ages: Vec<_> = all.map(age).collect();
        if ages.is_empty() {
            return 0;
        }
        // An eighth at once: every eviction visits all slots, so it must not happen for each connection.
        let count = ages.len().div_ceil(8);
        let (_, oldest, _) = ages.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
        let (oldest, mut closed) = (*oldest, 0);
        // Ages are in sweeps, so many may equal the cut-off: `closed == count` ends the eviction there.
        for slot in slots.values_mut() {
            slot.idle.retain(|idle| {
                let stays = closed == count || !meant(idle) || age(idle) < oldest;
                if !stays {
                    closed += 1;
                    self.left(&idle.ticket);
                }
                stays
            });
        }
        closed
    }

    /// Returns an HTTP/2 connection with room for a stream.
    pub(crate) fn shared(&self, path: &Arc<Path>) -> Option<Rc<Shared>> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(path)?;
        slot.shared.retain(|shared| shared.usable());
        slot.shared.iter().find(|shared| shared.has_room()).cloned()
    }

    /// Offers an HTTP/2 connection to all streams of its path.
    pub(crate) fn share(upstreams: &Rc<Upstreams>, shared: &Rc<Shared>, timeout: Duration) {
        let pools = &upstreams.pools;
        let mut slots = pools.slots.borrow_mut();
        let slot = slots.entry(Arc::clone(shared.path())).or_default();
        slot.keep = ticks(timeout);
        slot.shared.push(Rc::clone(shared));
        if !pools.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(upstreams)));
        }
    }

    /// Returns the lock for opening an HTTP/2 connection of a path.
    pub(crate) fn opening(&self, path: &Arc<Path>) -> Rc<tokio::sync::Mutex<()>> {
        Rc::clone(&self.slots.borrow_mut().entry(Arc::clone(path)).or_default().opening)
    }

    /// Closes connections that idle too long, were closed by the peer, or belong to a removed upstream. Returns true if any are left.
    fn sweep(&self, longest: u32) -> bool {
        let now = self.tick.get().wrapping_add(1);
        self.tick.set(now);
        let mut slots = self.slots.borrow_mut();
        slots.retain(|_, slot| {
            let keep = slot.keep.min(longest);
            slot.idle.retain_mut(|idle| {
                let stays = now.wrapping_sub(idle.since) <= keep
                    && !idle.ticket.retired()
                    && alive(&mut idle.io);
                if !stays {
                    self.left(&idle.ticket);
                }
                stays
            });
            slot.shared.retain(|shared| shared.usable() && !shared.idles_longer_than(keep));
            !slot.idle.is_empty() || !slot.shared.is_empty() || Rc::strong_count(&slot.opening) > 1
        });
        !slots.is_empty()
    }

    /// Advances the pool's clock by one sweep.
    #[cfg(test)]
    pub(crate) fn age(&self) {
        self.tick.set(self.tick.get().wrapping_add(1));
    }

    /// Returns the number of idle connections.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> usize {
        let there = self.slots.borrow().values().map(|slot| slot.idle.len()).sum();
        assert_eq!(self.idle.get(), there);
        there
    }
}

/// Sweeps while there is anything to sweep.
async fn sweep(upstreams: LocalWeak<Upstreams>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Some(upstreams) = upstreams.upgrade() else { return };
        let longest = if upstreams.files.outward.is_scarce() { SCARCE } else { u32::MAX };
        if !upstreams.pools.sweep(longest) {
            upstreams.pools.sweeping.set(false);
            return;
        }
    }
}

/// Returns a tenant's idle connections on one core.
fn idle_of(cells: &Cells) -> u64 {
    cells
        .get(Counter::UpstreamConnectionsIdled)
        .saturating_sub(cells.get(Counter::UpstreamConnectionsTaken))
}

/// Converts a timeout to sweeps, at least one.
fn ticks(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// Returns true if the peer neither closed nor sent anything unasked. Costs no system call while the reactor has seen no event.
pub(super) fn alive(io: &mut Io) -> bool {
    let leaves = |stream: &LinkStream| !stream.carrier().is_some_and(|one| one.is_current());
    if io.link().is_some_and(leaves) {
        return false;
    }
    let mut byte = [0];
    let mut buf = ReadBuf::new(&mut byte);
    let mut cx = Context::from_waker(Waker::noop());
    matches!(Pin::new(io).poll_read(&mut cx, &mut buf), Poll::Pending)
}

/// Hasher that returns the hash stored in the key.
#[derive(Default)]
struct Precomputed(u64);

impl Hasher for Precomputed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
