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

/// Time for which readiness waits for a watch that documents have begun.
const PATIENCE: Duration = Duration::from_secs(10);

/// State of all watches.
#[derive(Default)]
pub struct Health(Mutex<Watches>);

#[derive(Default)]
struct Watches {
    all: BTreeMap<&'static str, Watch>,
    /// True once everything was read that the start waits for.
    is_synced: bool,
}

struct Watch {
    health: Arc<WatchHealth>,
    /// When a document began it; `None` if it has been there from the start.
    begun: Option<Instant>,
}

impl Watch {
    /// Returns whether readiness does not wait for it. No document may keep the gateway from being ready for long.
    fn is_ready(&self, now: Instant) -> bool {
        let report = self.health.state();
        report.synced
            || self.begun.is_some_and(|begun| report.failures > 0 || now >= begun + PATIENCE)
    }
}

/// State of the watch of one kind, or of several watches of that kind.
#[derive(Default)]
pub struct WatchHealth(Mutex<Report>);

/// State of a watch.
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
    /// State of the watch.
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
    /// Error of the last attempt; `None` while the watch is up.
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
    /// Returns the state of a watch of `kind` that has been there from the start.
    pub(crate) fn of_start(&self, kind: &ResourceType) -> Arc<WatchHealth> {
        self.watch(kind, None)
    }

    /// Returns the state of a watch of `kind` that a document begins.
    pub(crate) fn of(&self, kind: &ResourceType) -> Arc<WatchHealth> {
        self.watch(kind, Some(Instant::now()))
    }

    fn watch(&self, kind: &ResourceType, begun: Option<Instant>) -> Arc<WatchHealth> {
        let mut watches = self.watches();
        let watch = watches.all.entry(kind.kind);
        let watch = watch.or_insert_with(|| Watch { health: Arc::default(), begun });
        Arc::clone(&watch.health)
    }

    /// Returns the state of every watch, by kind.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<&'static str, Report> {
        let watches = self.watches();
        watches.all.iter().map(|(kind, watch)| (*kind, watch.health.report())).collect()
    }

    /// Returns whether everything was read once that is watched from the start, and what documents named by then. A watch that a document begins is waited for briefly, and
    /// not at all once this was true.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        let (mut watches, now) = (self.watches(), Instant::now());
        watches.is_synced |= watches.all.values().all(|watch| watch.is_ready(now));
        watches.is_synced
    }

    /// Returns whether a start does not wait for this kind.
    pub(crate) fn is_ready(&self, kind: &ResourceType) -> bool {
        let now = Instant::now();
        self.watches().all.get(kind.kind).is_none_or(|watch| watch.is_ready(now))
    }

    /// Returns the kinds that were never read, though documents name objects of them or they are another controller's, each with the fault.
    #[must_use]
    pub fn unread(&self) -> Vec<(&'static str, String)> {
        let watches = self.watches();
        let begun = watches.all.iter().filter(|(_, watch)| watch.begun.is_some());
        let unread = begun.filter_map(|(kind, watch)| {
            let report = watch.health.state();
            Some((*kind, report.last_error.clone().filter(|_| !report.synced)?))
        });
        unread.collect()
    }

    /// Returns the longest time for which changes of any kind may have been missed.
    #[must_use]
    pub fn lag(&self) -> Duration {
        let now = Instant::now();
        let watches = self.watches();
        watches.all.values().map(|watch| watch.health.state().lag(now)).max().unwrap_or_default()
    }

    fn watches(&self) -> MutexGuard<'_, Watches> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource_type::{REFERENCE_GRANTS, SERVICES, TENANTS};

    fn forbidden() -> ApiError {
        ApiError::Forbidden("no".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_a_document_begins_delays_readiness_for_a_moment_only_and_never_ends_it() {
        let health = Health::default();
        let tenants = health.of_start(&TENANTS);
        let services = health.of(&SERVICES);
        tokio::time::advance(2 * PATIENCE).await;
        tenants.failed(&forbidden());
        let without_tenants = health.is_synced();

        tenants.listed(1);
        let with_tenants = health.is_synced();
        health.of(&REFERENCE_GRANTS).failed(&forbidden());

        assert!(!without_tenants && with_tenants && health.is_synced());
        let unread = health.unread();
        assert_eq!(unread, [("ReferenceGrant", "forbidden: no".to_owned())]);
        assert!(!services.is_synced());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_of_what_documents_name_at_the_start_is_waited_for_unless_it_fails() {
        let health = Health::default();
        health.of_start(&TENANTS).listed(1);
        let services = health.of(&SERVICES);

        let before = health.is_synced();
        services.failed(&forbidden());

        assert!(!before && health.is_synced());
    }
}
