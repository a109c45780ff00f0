//! Takes the steps that Mappings ask for: so many a second, those that are being deleted first.

mod requests;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use durward_model::ResourceId;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::Options;
use super::seen::Seen;
use super::step::{Said, Step, Wish, step};
use crate::backoff::{Backoff, between};
use crate::events::Events;
use crate::object::Object;
use crate::request::ApiError;
use crate::status::{WriterOptions, WriterReport};
use crate::watch::is_later;

/// Writes of one status, though nothing else was to be said, after which others write it differently: from then on it is written more and more seldom.
const PATIENT: u32 = 3;
/// Longest pause between two of these.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// Pause of a Mapping after its first failure; each further one doubles it.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Longest pause of these, and the one after a refusal: a right may be granted meanwhile.
const LONGEST_AFTER_FAILURE: Duration = Duration::from_mins(1);
/// Age from which the server's time is requested again.
const CLOCK: Duration = Duration::from_mins(5);

/// Writes this gateway's share of Mappings until it is dropped.
pub struct MappingWriter {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    client: kube::Client,
    manager: String,
    longest_wait: Duration,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    objects: HashMap<ResourceId, Entry>,
    /// Mappings with a step to take: those that are being deleted first, then the newest change.
    due: BTreeMap<Place, ResourceId>,
    timers: BTreeSet<(Instant, ResourceId)>,
    changes: u64,
    /// The server's time, and when it was so.
    clock: Option<(Instant, Timestamp)>,
    report: WriterReport,
}

/// Place among the Mappings with a step to take.
type Place = (bool, Reverse<u64>);

#[derive(Default)]
struct Entry {
    seen: Option<Seen>,
    wish: Option<Wish>,
    place: Option<Place>,
    timer: Option<Instant>,
    /// Status written last, the number of times in a row, and the time.
    written: Option<(Box<Said>, u32, Instant)>,
    /// Time before which nothing is written.
    pause: Option<Instant>,
    /// Steps in a row that failed.
    failures: u32,
}

/// A step that is due.
struct Due {
    id: ResourceId,
    step: Step,
    seen: Seen,
}

impl MappingWriter {
    /// Starts to write. Called within a runtime.
    #[must_use]
    pub fn start(client: kube::Client, writer: &WriterOptions, options: &Options) -> Self {
        let shared = Arc::new(Shared {
            client,
            manager: options.manager(),
            longest_wait: options.longest_wait,
            state: Mutex::default(),
            arrived: Notify::new(),
        });
        let task = tokio::spawn(run(Arc::clone(&shared), writer.clone()));
        Self { shared, task }
    }

    /// Records a `Mapping` as it is in the API server.
    pub fn observe(&self, object: &Object) {
        if let Some(mapping) = &object.mapping {
            self.shared.observe(&object.id, mapping.seen.clone());
        }
    }

    /// Forgets a `Mapping` that is gone.
    pub fn forget(&self, id: &ResourceId) {
        let mut state = self.shared.state();
        state.unplace(id);
        state.objects.remove(id);
        state.report.pending = state.due.len();
    }

    /// Says what is wanted of a `Mapping`.
    pub fn want(&self, id: &ResourceId, wish: Wish) {
        let mut state = self.shared.state();
        let entry = state.objects.entry(id.clone()).or_default();
        if entry.wish.as_ref() == Some(&wish) {
            return;
        }
        (entry.wish, entry.pause) = (Some(wish), None);
        self.shared.settle(&mut state, id);
    }

    /// Returns what was done and is to be done.
    #[must_use]
    pub fn report(&self) -> WriterReport {
        self.shared.state().report.clone()
    }
}

impl Drop for MappingWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    /// Takes a `Mapping` out of the queue and the timers.
    fn unplace(&mut self, id: &ResourceId) {
        let Some(entry) = self.objects.get_mut(id) else { return };
        if let Some(place) = entry.place.take() {
            self.due.remove(&place);
        }
        if let Some(timer) = entry.timer.take() {
            self.timers.remove(&(timer, id.clone()));
        }
    }

    /// Returns the server's time, as far as it is known.
    fn now(&self) -> Timestamp {
        let known = self.clock.and_then(|(then, time)| time.checked_add(then.elapsed()).ok());
        known.unwrap_or_else(Timestamp::now)
    }

    fn has_clock(&self) -> bool {
        self.clock.is_some_and(|(then, _)| then.elapsed() < CLOCK)
    }
}

impl Shared {
    fn observe(&self, id: &ResourceId, seen: Seen) {
        let mut state = self.state();
        let entry = state.objects.entry(id.clone()).or_default();
        let known = entry.seen.as_ref();
        // A watch may bring a state from before our own last write.
        if known.is_some_and(|it| it.uid == seen.uid && is_later(&it.version, &seen.version)) {
            return;
        }
        if known.is_some_and(|it| it.uid != seen.uid) {
            (entry.written, entry.pause) = (None, None);
        }
        entry.seen = Some(seen);
        self.settle(&mut state, id);
    }

    /// Puts a `Mapping` into the queue if there is a step to take, or sets its timer.
    fn settle(&self, state: &mut State, id: &ResourceId) {
        state.unplace(id);
        let (now, has_clock) = (state.now(), state.has_clock());
        state.changes += 1;
        let change = state.changes;
        let State { objects, due, timers, report, .. } = state;
        let Some(entry) = objects.get_mut(id) else { return };
        let (Some(seen), Some(wish)) = (&entry.seen, &entry.wish) else { return };
        let is_alive = seen.deleted.is_none();
        let timer = match step(seen, wish, now, self.longest_wait) {
            Step::Rest => None,
            Step::Wait(until) if has_clock => {
                let time = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                Some(Instant::now() + time)
            }
            step => {
                if let Step::Status(said) = &step {
                    entry.hesitate(said);
                }
                match entry.pause.filter(|pause| *pause > Instant::now()) {
                    Some(pause) => Some(pause),
                    None => {
                        let place = (is_alive, Reverse(change));
                        due.insert(place, id.clone());
                        entry.place = Some(place);
                        None
                    }
                }
            }
        };
        if let Some(timer) = timer {
            timers.insert((timer, id.clone()));
            entry.timer = Some(timer);
        }
        report.pending = due.len();
        self.arrived.notify_one();
    }

    /// Settles the Mappings whose timers are over, and returns the next timer.
    fn timers(&self) -> Option<Instant> {
        let mut state = self.state();
        loop {
            let (timer, id) = state.timers.first()?.clone();
            if timer > Instant::now() {
                return Some(timer);
            }
            self.settle(&mut state, &id);
        }
    }

    /// Returns the step that is to be taken first.
    fn first(&self) -> Option<Due> {
        let mut state = self.state();
        loop {
            let (_, id) = state.due.first_key_value()?;
            let id = id.clone();
            let now = state.now();
            let entry = state.objects.get(&id);
            let found = entry.and_then(|entry| Some((entry.seen.as_ref()?, entry.wish.as_ref()?)));
            if let Some((seen, wish)) = found {
                let step = step(seen, wish, now, self.longest_wait);
                return Some(Due { step, seen: seen.clone(), id });
            }
            state.unplace(&id);
        }
    }

    /// Takes a `Mapping` out of the queue of which a step that succeeded has changed nothing.
    fn let_rest(&self, due: &Due) {
        let same = |now: Due| now.step == due.step && now.seen.version == due.seen.version;
        if self.first_of(&due.id).is_some_and(same) {
            self.postpone(&due.id);
        }
    }

    /// Lets a `Mapping` wait after a failure, for longer each time, and others be written meanwhile. One that was refused is tried again each minute:
    /// no watch says that a right was granted.
    fn hold(&self, id: &ResourceId, is_refused: bool) {
        let mut state = self.state();
        if let Some(entry) = state.objects.get_mut(id) {
            let factor = 1_u32.checked_shl(entry.failures).unwrap_or(u32::MAX);
            let pause = PAUSE_AFTER_FAILURE.saturating_mul(factor).min(LONGEST_AFTER_FAILURE);
            let pause = if is_refused { LONGEST_AFTER_FAILURE } else { pause };
            entry.failures = entry.failures.saturating_add(1);
            entry.pause = Some(Instant::now() + between(pause / 2, pause));
        }
        self.settle(&mut state, id);
    }

    fn note_success(&self, id: &ResourceId) {
        if let Some(entry) = self.state().objects.get_mut(id) {
            entry.failures = 0;
        }
    }

    /// Takes a `Mapping` out of the queue until the watch brings something new of it.
    fn postpone(&self, id: &ResourceId) {
        let mut state = self.state();
        state.unplace(id);
        state.report.pending = state.due.len();
    }

    fn note_failure(&self, error: &ApiError) {
        let mut state = self.state();
        state.report.failed += 1;
        state.report.last_error = Some(error.to_string());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Lets time pass before a status is written that was written already and that others write differently.
    fn hesitate(&mut self, said: &Said) {
        let Some((written, times, last)) = &self.written else { return };
        let is_again = **written == *said && last.elapsed() < 2 * LONGEST_PAUSE;
        if is_again && *times >= PATIENT && self.pause.is_none() {
            let pause = Duration::from_secs(1 << (*times - PATIENT).min(16)).min(LONGEST_PAUSE);
            self.pause = Some(Instant::now() + pause);
        }
    }

    fn note_written(&mut self, said: &Said) {
        let times = match &self.written {
            Some((written, times, last))
                if **written == *said && last.elapsed() < 2 * LONGEST_PAUSE =>
            {
                times.saturating_add(1)
            }
            _ => 1,
        };
        (self.written, self.pause) = (Some((Box::new(said.clone()), times, Instant::now())), None);
    }
}

async fn run(shared: Arc<Shared>, options: WriterOptions) {
    let mut events = Events::new(shared.client.clone(), &options);
    let mut pace = interval(Duration::from_secs(1) / options.rate.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
    loop {
        let arrived = shared.arrived.notified();
        let timer = shared.timers();
        if shared.first().is_none() {
            match timer {
                None => arrived.await,
                Some(timer) => {
                    tokio::select! {
                        () = arrived => {}
                        () = sleep_until(timer) => {}
                    }
                }
            }
            continue;
        }
        pace.tick().await;
        // The first in the queue may have changed.
        let Some(due) = shared.first() else { continue };
        match requests::take(&shared, &due).await {
            Ok(()) => {
                backoff.reset();
                shared.note_success(&due.id);
                shared.let_rest(&due);
                requests::tell(&shared, &mut events, &due).await;
            }
            Err(error) => {
                shared.note_failure(&error);
                // Whatever arrives meanwhile does not make the server come back sooner.
                sleep(react(&shared, &due, &error, &mut backoff)).await;
            }
        }
    }
}

/// Decides when the step is tried again, and returns the time for which none is.
fn react(shared: &Shared, due: &Due, error: &ApiError, backoff: &mut Backoff) -> Duration {
    match error {
        ApiError::Unreachable(_) | ApiError::Unauthorized(_) => backoff.next(),
        ApiError::Throttled { after, .. } => {
            shared.hold(&due.id, false);
            (*after).min(Duration::from_mins(1)) + backoff.next()
        }
        // One that the server cannot write, because a webhook fails for instance, says nothing of the others.
        error if error.is_passing() => {
            shared.hold(&due.id, false);
            Duration::ZERO
        }
        ApiError::Forbidden(_) | ApiError::Refused { .. } => {
            tracing::debug!(id = %due.id, %error, "mapping is refused");
            shared.hold(&due.id, true);
            Duration::ZERO
        }
        error => {
            tracing::debug!(id = %due.id, %error, "mapping was not written");
            shared.postpone(&due.id);
            Duration::ZERO
        }
    }
}

impl Shared {
    /// Returns the step that a `Mapping` asks for now.
    fn first_of(&self, id: &ResourceId) -> Option<Due> {
        let state = self.state();
        let Entry { seen, wish, .. } = state.objects.get(id)?;
        let (seen, wish) = (seen.clone()?, wish.as_ref()?);
        let step = step(&seen, wish, state.now(), self.longest_wait);
        Some(Due { id: id.clone(), step, seen })
    }
}
