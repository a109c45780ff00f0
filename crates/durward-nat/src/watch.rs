//! Watches changes of rulesets, interfaces, addresses, routes and rules, waits until a burst is over, and starts a repair.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::error::NatError;
use crate::netlink::{Family, Message, Socket};
use crate::nftables::table::{EVENT_GROUP, new_generation};

/// State that the watching thread keeps.
pub(crate) trait Kept: Send + 'static {
    /// Returns the quiet time after which a burst of changes is handled.
    fn debounce(&self) -> Duration;

    /// Returns the interval of comparisons without a change.
    fn audit(&self) -> Duration;

    /// Returns true if this process made a ruleset's generation.
    fn made(&self, generation: u32) -> bool;

    /// Returns true if a routing event may need a repair.
    fn concerns(&self, _event: &Message) -> bool {
        true
    }

    /// Reads the whole state and repairs what differs; returns true if anything did.
    fn repair(&mut self) -> Result<bool, NatError>;

    /// Does timed work; returns the time of the next.
    fn tick(&mut self, _now: Instant) -> Option<Instant> {
        None
    }
}

/// Waker of the watching thread.
#[derive(Debug)]
pub(crate) struct Waker {
    event: OwnedFd,
    stopping: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> Result<Self, NatError> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| NatError::Kernel { what: "an event", errno })?;
        Ok(Self { event, stopping: AtomicBool::new(false) })
    }

    /// Makes the thread look at its timers.
    pub(crate) fn wake(&self) {
        // Fails only if the eventfd's counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Returns the descriptor that becomes readable on a wake-up.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Makes the thread end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Clears earlier wake-ups.
    pub(crate) fn calm(&self) {
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }
}

/// Sockets that receive events.
#[derive(Debug)]
pub(crate) struct Watched {
    tables: Socket,
    routes: Socket,
}

impl Watched {
    /// Opens the sockets; `groups` are those of routing.
    pub(crate) fn open(timeout: Duration, groups: u32) -> Result<Self, NatError> {
        let open = |family, groups, what| {
            Socket::open(family, groups, timeout).map_err(|error| NatError::Socket { what, error })
        };
        Ok(Self {
            tables: open(Family::Netfilter, EVENT_GROUP, "packet filter events")?,
            routes: open(Family::Route, groups, "routing events")?,
        })
    }

    /// Returns the generations announced since the last call; `None` if events were lost.
    fn generations(&self) -> Option<Vec<u32>> {
        let mut found = Vec::new();
        loop {
            let messages = self.tables.receive_now().ok()?;
            if messages.is_empty() {
                return Some(found);
            }
            found.extend(messages.iter().filter_map(new_generation));
        }
    }

    /// Returns true if an event about routes, addresses or interfaces may need a repair.
    fn routes_changed(&self, concerns: impl Fn(&[Message]) -> bool) -> bool {
        let mut changed = false;
        loop {
            match self.routes.receive_now() {
                Ok(messages) if messages.is_empty() => return changed,
                Ok(messages) => changed |= concerns(&messages),
                // An error (ENOBUFS) means that events were lost.
                Err(_) => changed = true,
            }
        }
    }
}

/// Starts the watching thread, in the network namespace of the caller, which new threads inherit.
pub(crate) fn spawn<K: Kept>(
    state: Arc<Mutex<K>>,
    waker: Arc<Waker>,
    watched: Watched,
) -> Result<JoinHandle<()>, NatError> {
    let thread = std::thread::Builder::new().name("durward-nat".to_owned());
    thread
        .spawn(move || watch(&state, &waker, &watched))
        .map_err(|error| NatError::Socket { what: "the watching thread", error })
}

fn watch<K: Kept>(state: &Mutex<K>, waker: &Waker, watched: &Watched) {
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let (debounce, audit) = {
        let state = lock();
        (state.debounce(), state.audit())
    };
    let concerns = |events: &[Message]| {
        let state = lock();
        events.iter().any(|event| state.concerns(event))
    };
    let mut next_audit = Instant::now() + audit;
    let mut timer = None;
    loop {
        let until = timer.map_or(next_audit, |timer: Instant| timer.min(next_audit));
        wait(waker, watched, until.saturating_duration_since(Instant::now()));
        waker.calm();
        if waker.is_stopping() {
            return;
        }
        let mut changed = watched.routes_changed(concerns);
        let mut generations = watched.generations();
        if changed || generations.as_ref().is_none_or(|found| !found.is_empty()) {
            // Waits until a burst is over: a network plugin changes many things one after another.
            std::thread::sleep(debounce);
            changed |= watched.routes_changed(concerns);
            let more = watched.generations();
            generations = generations.zip(more).map(|(found, more)| [found, more].concat());
        }
        let mut state = lock();
        // Our own transactions announce generations too; only others need a repair.
        let foreign = generations.is_none_or(|found| found.iter().any(|one| !state.made(*one)));
        let due = Instant::now() >= next_audit;
        if (changed || foreign || due)
            && let Err(error) = state.repair()
        {
            tracing::error!(%error, "cannot reconcile nftables and routing with the configuration");
        }
        if due {
            next_audit = Instant::now() + audit;
        }
        timer = state.tick(Instant::now());
    }
}

fn wait(waker: &Waker, watched: &Watched, timeout: Duration) {
    let mut fds = [
        PollFd::new(&waker.event, PollFlags::IN),
        PollFd::from_borrowed_fd(watched.tables.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(watched.routes.as_fd(), PollFlags::IN),
    ];
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // A wait that a signal interrupts is merely shorter.
    let _ = poll(&mut fds, Some(&timeout));
}
