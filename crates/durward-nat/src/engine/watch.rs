//! Hears of changes to rulesets, interfaces, addresses, routes and rules, waits until they calm down, and repairs.
//!
//! Deliberately absent: polling, but for an audit now and then in case an event was lost.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::NatError;
use super::state::State;
use crate::netlink::{Family, Socket};
use crate::nftables::table::{EVENT_GROUP, new_generation};
use crate::rtnetlink::GROUPS;

/// Draining connections are looked at this often.
const DRAIN_STEP: Duration = Duration::from_secs(1);

/// Rouses the watching thread.
#[derive(Debug)]
pub(super) struct Waker {
    event: OwnedFd,
    stopping: AtomicBool,
}

impl Waker {
    pub(super) fn new() -> Result<Self, NatError> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| NatError::Kernel { what: "an event", errno })?;
        Ok(Self { event, stopping: AtomicBool::new(false) })
    }

    /// Makes the thread look at its timers.
    pub(super) fn wake(&self) {
        // It can only fail when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Makes the thread end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn calm(&self) {
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }
}

/// The sockets that hear of changes.
#[derive(Debug)]
pub(super) struct Watched {
    tables: Socket,
    routes: Socket,
}

impl Watched {
    pub(super) fn open(timeout: Duration) -> Result<Self, NatError> {
        let open = |family, groups, what| {
            Socket::open(family, groups, timeout).map_err(|error| NatError::Socket { what, error })
        };
        Ok(Self {
            tables: open(Family::Netfilter, EVENT_GROUP, "packet filter events")?,
            routes: open(Family::Route, GROUPS, "routing events")?,
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

    /// Whether anything about routes, addresses or interfaces was announced.
    fn routes_changed(&self) -> bool {
        let mut changed = false;
        loop {
            match self.routes.receive_now() {
                Ok(messages) if messages.is_empty() => return changed,
                // An error says that events were lost.
                Ok(_) | Err(_) => changed = true,
            }
        }
    }
}

/// Starts the watching thread. It is in the network namespace of the caller, as new threads are.
pub(super) fn spawn(
    state: Arc<Mutex<State>>,
    waker: Arc<Waker>,
    watched: Watched,
) -> Result<JoinHandle<()>, NatError> {
    let thread = std::thread::Builder::new().name("durward-nat".to_owned());
    thread
        .spawn(move || watch(&state, &waker, &watched))
        .map_err(|error| NatError::Socket { what: "the watching thread", error })
}

fn watch(state: &Mutex<State>, waker: &Waker, watched: &Watched) {
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let (debounce, audit) = {
        let state = lock();
        (state.options.debounce, state.options.audit)
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
        let mut changed = watched.routes_changed();
        let mut generations = watched.generations();
        if changed || generations.as_ref().is_none_or(|found| !found.is_empty()) {
            std::thread::sleep(debounce);
            changed |= watched.routes_changed();
            let more = watched.generations();
            generations = generations.zip(more).map(|(found, more)| [found, more].concat());
        }
        let mut state = lock();
        let foreign = generations
            .is_none_or(|found| found.iter().any(|one| !state.own_generations.contains(one)));
        let due = Instant::now() >= next_audit;
        if (changed || foreign || due)
            && let Err(error) = state.repair()
        {
            tracing::error!(%error, "the kernel could not be brought to the model");
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

impl State {
    /// Does what is due; returns when something is due next.
    fn tick(&mut self, now: Instant) -> Option<Instant> {
        let announcement = self.announcer.as_mut().and_then(|announcer| announcer.send_due(now));
        if self.draining.is_empty() {
            return announcement;
        }
        let policy = self.policy.clone();
        if let Err(error) = self.cut_connections(policy) {
            tracing::error!(%error, "drained connections could not be cut");
        }
        let drain = (!self.draining.is_empty()).then(|| now + DRAIN_STEP);
        announcement.into_iter().chain(drain).min()
    }
}
