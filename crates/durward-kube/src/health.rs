//! State of the watches, for readiness, for people, and for `/metrics`.
//!
//! A watch that is away makes nothing invalid: what was read is served on. This module says since when it may be out of date, and why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::object::ObjectName;
use crate::request::ApiError;
use crate::resource_type::ResourceType;

/// Objects that could not be decoded, of which this many are named.
const NAMED_FAULTS: usize = 100;

/// State of all watches.
#[derive(Default)]
pub struct Health(Mutex<BTreeMap<&'static str, Arc<WatchHealth>>>);

/// State of the watch of one kind, or of several watches of that kind.
#[derive(Default)]
pub struct WatchHealth(Mutex<Report>);

/// Whether a watch is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not everything was read yet.
    #[default]
    Starting,
    /// The server has no such kind; it is looked for from time to time.
    Absent,
    /// The watch is up.
    Live,
    /// The watch is down since then; what was read before is served on.
    Stale(Instant),
}

/// State of a watch at one moment, and what was counted since the start.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Whether the watch is up.
    pub phase: Phase,
    /// Everything was read at least once, or the server has no such kind.
    pub synced: bool,
    /// Objects that are kept.
    pub objects: usize,
    /// Objects and bookmarks that came in.
    pub events: u64,
    /// Whole lists that were read, the first one included.
    pub lists: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Objects that could not be decoded, with the reason; the form they had before is kept.
    pub undecodable: BTreeMap<ObjectName, String>,
    /// Why the last attempt failed; `None` while the watch is up.
    pub last_error: Option<String>,
}

impl Report {
    /// Returns the time for which changes may have been missed: zero while the watch is up.
    #[must_use]
    pub fn lag(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::Stale(since) => now.saturating_duration_since(since),
            Phase::Starting | Phase::Absent | Phase::Live => Duration::ZERO,
        }
    }
}

impl Health {
    /// Returns the state of the watch of `kind`, which is new if there was none.
    pub(crate) fn of(&self, kind: &ResourceType) -> Arc<WatchHealth> {
        Arc::clone(self.watches().entry(kind.kind).or_default())
    }

    /// Returns the state of every watch, by kind.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<&'static str, Report> {
        self.watches().iter().map(|(kind, watch)| (*kind, watch.report())).collect()
    }

    /// Returns whether everything that is watched was read at least once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.watches().values().all(|watch| watch.is_synced())
    }

    /// Returns the longest time for which changes of any kind may have been missed.
    #[must_use]
    pub fn lag(&self) -> Duration {
        let now = Instant::now();
        self.watches().values().map(|watch| watch.report().lag(now)).max().unwrap_or_default()
    }

    fn watches(&self) -> MutexGuard<'_, BTreeMap<&'static str, Arc<WatchHealth>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WatchHealth {
    /// Returns the state.
    #[must_use]
    pub fn report(&self) -> Report {
        self.state().clone()
    }

    /// Returns whether everything was read at least once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.state().synced
    }

    pub(crate) fn event(&self) {
        self.state().events += 1;
    }

    /// Everything was read.
    pub(crate) fn listed(&self, objects: usize) {
        let mut state = self.state();
        state.lists += 1;
        state.objects = objects;
        state.synced = true;
    }

    pub(crate) fn holds(&self, objects: usize) {
        self.state().objects = objects;
    }

    pub(crate) fn live(&self) {
        let mut state = self.state();
        state.phase = Phase::Live;
        state.last_error = None;
    }

    pub(crate) fn absent(&self) {
        let mut state = self.state();
        state.phase = Phase::Absent;
        state.synced = true;
        state.last_error = None;
    }

    pub(crate) fn failed(&self, error: &ApiError) {
        let mut state = self.state();
        state.failures += 1;
        state.last_error = Some(error.to_string());
        if matches!(state.phase, Phase::Live) {
            state.phase = Phase::Stale(Instant::now());
        }
    }

    pub(crate) fn undecodable(&self, name: &ObjectName, fault: String) {
        let mut state = self.state();
        if state.undecodable.len() < NAMED_FAULTS || state.undecodable.contains_key(name) {
            state.undecodable.insert(name.clone(), fault);
        }
    }

    pub(crate) fn decoded(&self, name: &ObjectName) {
        self.state().undecodable.remove(name);
    }

    fn state(&self) -> MutexGuard<'_, Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
