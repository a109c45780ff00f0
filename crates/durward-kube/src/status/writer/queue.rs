//! Statuses that wait to be written: the newest change first, of those namespaces of which least was written lately.
//!
//! A status that could not be written is held back for a while and the next one is written, so that one object, or one tenant with many, does not keep the others waiting.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use durward_model::ResourceId;
use tokio::time::Instant;

use crate::backoff::between;

/// Time in which the writes of namespaces are compared.
const WINDOW: Duration = Duration::from_secs(10);
/// Pause after the first failure; each further one doubles it.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause, and the one after a refusal: a right may be granted meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Statuses that wait, one of each object at most. Every step takes the time of a look-up, however many wait.
#[derive(Default)]
pub(super) struct Queue {
    /// The objects, by the number of their change.
    changes: BTreeMap<u64, ResourceId>,
    numbers: HashMap<ResourceId, u64>,
    /// Namespaces with statuses that wait, or with writes in the present window. An object without a namespace counts by itself.
    turns: HashMap<Arc<str>, Turn>,
    /// Ranks of the namespaces with a status that may be written now.
    order: BTreeSet<Rank>,
    window_end: Option<Instant>,
    /// Objects whose status is being written: their next one waits for that.
    writing: HashSet<ResourceId>,
    held: HashMap<ResourceId, Held>,
    /// The objects that are held back, by the time at which they are tried again.
    wakes: BTreeSet<(Instant, ResourceId)>,
    refused: usize,
}

/// Place of a namespace: the one of which least was written in the present window comes first, then the one with the newest change.
type Rank = (u32, Reverse<u64>, Arc<str>);

#[derive(Default)]
struct Turn {
    /// Writes in the present window.
    spent: u32,
    /// Changes whose statuses may be written now.
    ready: BTreeSet<u64>,
}

struct Held {
    until: Instant,
    /// True until that time.
    is_asleep: bool,
    failures: u32,
    is_refused: bool,
}

/// The next thing to do.
pub(super) enum Next {
    /// Write the status of this object, because of this change.
    Write(u64, ResourceId),
    /// Wait until then: all are held back.
    Wait(Instant),
    /// Wait for a change.
    Idle,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Adds the status of an object, because of this change.
    pub(super) fn insert(&mut self, change: u64, id: &ResourceId) {
        if let Some(former) = self.numbers.insert(id.clone(), change).filter(|one| *one != change) {
            self.changes.remove(&former);
            self.turn(id, |turn| turn.ready.remove(&former));
        }
        self.changes.insert(change, id.clone());
        self.make_ready(id);
    }

    /// Lets the status of an object be written, unless it is held back or the one before is being written.
    fn make_ready(&mut self, id: &ResourceId) {
        let Some(change) = self.numbers.get(id).copied() else { return };
        let is_held = self.held.get(id).is_some_and(|held| held.is_asleep);
        if !is_held && !self.writing.contains(id) {
            self.turn(id, |turn| turn.ready.insert(change));
        }
    }

    /// Notes that the write of an object's status is over.
    pub(super) fn finish(&mut self, id: &ResourceId) {
        self.writing.remove(id);
        self.make_ready(id);
    }

    /// Removes a status. Returns whether it was there.
    pub(super) fn remove(&mut self, change: u64) -> bool {
        let Some(id) = self.changes.remove(&change) else { return false };
        self.numbers.remove(&id);
        self.turn(&id, |turn| turn.ready.remove(&change));
        true
    }

    /// Returns the next action. Tenants with many changes wait for those with few; a single change does not wait.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if self.window_end.is_none_or(|end| now >= end) {
            self.begin_window();
            self.window_end = Some(now + WINDOW);
        }
        self.wake(now);
        let first = self.order.first().map(|(_, Reverse(change), _)| *change);
        if let Some((change, id)) = first.and_then(|first| self.changes.get_key_value(&first)) {
            let (change, id) = (*change, id.clone());
            self.writing.insert(id.clone());
            self.turn(&id, |turn| {
                turn.spent += 1;
                turn.ready.remove(&change);
            });
            return Next::Write(change, id);
        }
        self.wakes.first().map_or(Next::Idle, |(until, _)| Next::Wait(*until))
    }

    /// Holds an object back after a failure, for longer each time. One that was refused is tried again each minute.
    pub(super) fn hold(&mut self, id: &ResourceId, is_refused: bool, now: Instant) {
        // Of an object that is gone meanwhile nothing is tried again.
        let Some(change) = self.numbers.get(id).copied() else { return self.release(id) };
        let failures = self.take_held(id).map_or(0, |held| held.failures);
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        let pause = if is_refused { LONGEST_PAUSE } else { PAUSE.saturating_mul(factor) };
        let pause = pause.min(LONGEST_PAUSE);
        let until = now + between(pause / 2, pause);
        let failures = failures.saturating_add(1);
        self.held.insert(id.clone(), Held { until, is_asleep: true, failures, is_refused });
        self.wakes.insert((until, id.clone()));
        self.refused += usize::from(is_refused);
        self.turn(id, |turn| turn.ready.remove(&change));
    }

    /// Forgets the failures of an object.
    pub(super) fn release(&mut self, id: &ResourceId) {
        if self.take_held(id).is_some() {
            self.make_ready(id);
        }
    }

    /// Returns the number of objects whose status was refused when it was last tried.
    pub(super) fn refused(&self) -> usize {
        self.refused
    }

    fn take_held(&mut self, id: &ResourceId) -> Option<Held> {
        let held = self.held.remove(id)?;
        self.wakes.remove(&(held.until, id.clone()));
        self.refused -= usize::from(held.is_refused);
        Some(held)
    }

    /// Lets the objects be tried again whose time has come.
    fn wake(&mut self, now: Instant) {
        while let Some((until, id)) = self.wakes.pop_first() {
            if until > now {
                self.wakes.insert((until, id));
                return;
            }
            if let Some(held) = self.held.get_mut(&id) {
                held.is_asleep = false;
            }
            self.make_ready(&id);
        }
    }

    /// Changes the turn of an object's namespace.
    fn turn<R>(&mut self, id: &ResourceId, change: impl FnOnce(&mut Turn) -> R) {
        let name = turn_of(id);
        let turn = self.turns.entry(Arc::clone(name)).or_default();
        if let Some(rank) = turn.rank(name) {
            self.order.remove(&rank);
        }
        change(turn);
        match turn.rank(name) {
            Some(rank) => drop(self.order.insert(rank)),
            None if turn.spent == 0 => drop(self.turns.remove(name)),
            None => {}
        }
    }

    fn begin_window(&mut self) {
        self.turns.retain(|_, turn| {
            turn.spent = 0;
            !turn.ready.is_empty()
        });
        self.order = self.turns.iter().filter_map(|(name, turn)| turn.rank(name)).collect();
    }
}

impl Turn {
    /// Returns the rank of the namespace; `None` if none of its statuses may be written now.
    fn rank(&self, name: &Arc<str>) -> Option<Rank> {
        self.ready.last().map(|newest| (self.spent, Reverse(*newest), Arc::clone(name)))
    }
}

fn turn_of(id: &ResourceId) -> &Arc<str> {
    id.namespace.as_ref().unwrap_or(&id.name)
}

#[cfg(test)]
mod tests {
    use durward_model::Kind;

    use super::*;

    fn id(namespace: &str, name: &str) -> ResourceId {
        ResourceId::namespaced(Kind::PortMapping, namespace, name)
    }

    fn drain(queue: &mut Queue, most: usize) -> Vec<String> {
        let mut names = Vec::new();
        while let Next::Write(change, id) = queue.next(Instant::now()) {
            queue.remove(change);
            queue.finish(&id);
            names.push(id.name.to_string());
            if names.len() == most {
                break;
            }
        }
        names
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_take_turns_and_the_newest_change_comes_first() {
        let mut queue = Queue::default();
        for number in 0..1_000 {
            queue.insert(number, &id("busy", &format!("b{number}")));
        }
        queue.insert(1_000, &id("calm", "c0"));
        queue.insert(1_001, &id("calm", "c1"));

        let first = drain(&mut queue, 5);
        queue.insert(1_002, &id("new", "n"));
        queue.insert(1_003, &id("busy", "b1000"));
        let then = drain(&mut queue, 2);

        assert_eq!(first, ["c1", "b999", "c0", "b998", "b997"]);
        assert_eq!(then, ["n", "b1000"], "one change waits for nobody's many");
        assert_eq!(queue.len(), 997);
    }

    /// The same with many in each namespace and many namespaces took minutes when the queue was searched for each.
    #[tokio::test(start_paused = true)]
    async fn of_each_namespace_one_comes_before_the_second_of_any() {
        const NAMESPACES: u64 = 2_000;
        const OF_EACH: u64 = 10;
        let mut queue = Queue::default();
        for number in 0..NAMESPACES * OF_EACH {
            queue.insert(number, &id(&format!("n{}", number / OF_EACH), &number.to_string()));
        }

        let names = drain(&mut queue, usize::MAX);

        let namespace = |name: &String| name.parse::<u64>().unwrap() / OF_EACH;
        let rounds: Vec<Vec<u64>> = names
            .chunks(NAMESPACES as usize)
            .map(|round| round.iter().map(namespace).collect())
            .collect();
        assert_eq!(rounds, vec![(0..NAMESPACES).rev().collect::<Vec<u64>>(); OF_EACH as usize]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_one_object_two_statuses_are_not_written_at_once() {
        let mut queue = Queue::default();
        queue.insert(1, &id("a", "first"));
        queue.insert(2, &id("a", "second"));
        let Next::Write(2, second) = queue.next(Instant::now()) else { panic!() };
        queue.remove(2);
        queue.insert(3, &second);

        let Next::Write(1, _) = queue.next(Instant::now()) else { panic!() };
        let none = queue.next(Instant::now());
        queue.finish(&second);

        assert!(matches!(none, Next::Idle));
        assert!(matches!(queue.next(Instant::now()), Next::Write(3, _)));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_tried_again_of_one_that_is_gone() {
        let mut queue = Queue::default();
        queue.insert(1, &id("a", "gone"));
        let Next::Write(1, gone) = queue.next(Instant::now()) else { panic!() };
        queue.remove(1);

        queue.hold(&gone, true, Instant::now());
        queue.finish(&gone);

        assert_eq!(queue.refused(), 0);
        assert!(matches!(queue.next(Instant::now()), Next::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_is_held_back_for_longer_each_time_and_the_next_one_comes() {
        let mut queue = Queue::default();
        queue.insert(1, &id("a", "good"));
        queue.insert(2, &id("a", "bad"));
        let Next::Write(2, bad) = queue.next(Instant::now()) else { panic!() };

        queue.hold(&bad, false, Instant::now());
        queue.finish(&bad);
        let meanwhile = drain(&mut queue, 9);
        let Next::Wait(until) = queue.next(Instant::now()) else { panic!() };
        let first = until - Instant::now();
        tokio::time::advance(PAUSE).await;
        let again = queue.next(Instant::now());
        queue.finish(&bad);
        for _ in 0..40 {
            queue.hold(&bad, false, Instant::now());
        }
        let Next::Wait(until) = queue.next(Instant::now()) else { panic!() };

        assert_eq!(meanwhile, ["good"]);
        assert!(first >= PAUSE / 2 && first <= PAUSE);
        assert!(matches!(again, Next::Write(2, _)));
        assert!(until - Instant::now() >= LONGEST_PAUSE / 2);
        assert!(until - Instant::now() <= LONGEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_refused_is_tried_again_within_a_minute_and_counted() {
        let mut queue = Queue::default();
        queue.insert(1, &id("a", "refused"));
        queue.hold(&id("a", "refused"), true, Instant::now());

        let refused = queue.refused();
        tokio::time::advance(LONGEST_PAUSE).await;
        let again = drain(&mut queue, 9);
        queue.release(&id("a", "refused"));

        assert_eq!((refused, again), (1, vec!["refused".to_owned()]));
        assert_eq!(queue.refused(), 0);
        assert!(matches!(queue.next(Instant::now()), Next::Idle));
    }
}
