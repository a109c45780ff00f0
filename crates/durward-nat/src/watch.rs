//! Hears of changes to rulesets, interfaces, addresses, routes and rules, waits until they calm down, and has them repaired.
//!
//! Deliberately absent: polling, but for an audit now and then in case an event was lost; and the repair itself, see [`Kept`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::engine::NatError;
use crate::netlink::{Family, Message, Socket};
use crate::nftables::table::{EVENT_GROUP, new_generation};

/// What the watching thread keeps as it should be.
pub(crate) trait Kept: Send + 'static {
    /// How long a burst of changes is waited out.
    fn debounce(&self) -> Duration;

    /// How often it is compared although nothing happened.
    fn audit(&self) -> Duration;

    /// Whether a ruleset's generation is this process's own doing.
    fn made(&self, generation: u32) -> bool;

    /// Whether an event of routing is worth a look.
    fn concerns(&self, _event: &Message) -> bool {
        true
    }

    /// Reads everything anew and repairs what differs; whether something did.
    fn repair(&mut self) -> Result<bool, NatError>;

    /// Does what is due; returns when something is due next.
    fn tick(&mut self, _now: Instant) -> Option<Instant> {
        None
    }
}

/// Rouses the watching thread.
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
        // It can only fail when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Returns what becomes readable when it is woken.
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

    /// Forgets the calls of before.
    pub(crate) fn calm(&self) {
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }
}

/// The sockets that hear of changes.
#[derive(Debug)]
pub(crate) struct Watched {
    tables: Socket,
    routes: Socket,
}

impl Watched {
    /// Begins to hear; `groups` are those of routing.
    pub(crate) fn open(timeout: Duration, groups: u32) -> Result<Self, NatError> {
        let open = |family, groups, what| {
            Socket::open(family, groups, timeout).map_err(|error| NatError::Socket { what, error })
        };
        Ok(Self {
            tables: open(Family::Netfilter, EVENT_GROUP, "packet filter events")?,
            routes: open(Family::Route, groups, "routing events")?,
        })
    }

    /// The generations announced since the last time; `None` when some were lost.
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

    /// Whether anything about routes, addresses or interfaces was announced that is worth a look.
    fn routes_changed(&self, concerns: impl Fn(&[Message]) -> bool) -> bool {
        let mut changed = false;
        loop {
            match self.routes.receive_now() {
                Ok(messages) if messages.is_empty() => return changed,
                Ok(messages) => changed |= concerns(&messages),
                // An error says that events were lost.
                Err(_) => changed = true,
            }
        }
    }
}

/// Starts the watching thread. It is in the network namespace of the caller, as new threads are.
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
            std::thread::sleep(debounce);
            changed |= watched.routes_changed(concerns);
            let more = watched.generations();
            generations = generations.zip(more).map(|(found, more)| [found, more].concat());
        }
        let mut state = lock();
        let foreign = generations.is_none_or(|found| found.iter().any(|one| !state.made(*one)));
        let due = Instant::now() >= next_audit;
        if (changed || foreign || due)
            && let Err(error) = state.repair()
        {
            tracing::error!(%error, "the kernel could not be brought to what it should be");
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
    // An interrupted wait is a short one.
    let _ = poll(&mut fds, Some(&timeout));
}
