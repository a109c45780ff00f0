//! Statuses that wait to be written: the newest change first, of those namespaces of which least was written lately.
//!
//! A status that could not be written is held back for a while and the next one is written, so that one object, or one tenant with many, does not keep the others waiting.

use std::collections::{BTreeMap, HashMap};
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

/// Statuses that wait.
#[derive(Default)]
pub(super) struct Queue {
    /// The objects, by the number of their change.
    changes: BTreeMap<u64, ResourceId>,
    /// Writes of each namespace in the present window. An object without a namespace counts by itself.
    spent: HashMap<Arc<str>, u32>,
    window_end: Option<Instant>,
    held: HashMap<ResourceId, Held>,
}

struct Held {
    until: Instant,
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

    pub(super) fn insert(&mut self, change: u64, id: &ResourceId) {
        self.changes.insert(change, id.clone());
    }

    /// Removes a status. Returns whether it was there.
    pub(super) fn remove(&mut self, change: u64) -> bool {
        self.changes.remove(&change).is_some()
    }

    /// Returns the next action. Tenants with many changes wait for those with few; a single change does not wait.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if self.window_end.is_none_or(|end| now >= end) {
            self.spent.clear();
            self.window_end = Some(now + WINDOW);
        }
        let (mut best, mut wait): (Option<(u32, u64)>, Option<Instant>) = (None, None);
        for (change, id) in self.changes.iter().rev() {
            if let Some(until) = self.held.get(id).map(|held| held.until).filter(|it| *it > now) {
                wait = Some(wait.map_or(until, |wait| wait.min(until)));
                continue;
            }
            let spent = self.spent.get(turn_of(id)).copied().unwrap_or_default();
            if best.is_none_or(|(least, _)| spent < least) {
                best = Some((spent, *change));
            }
            if spent == 0 {
                break;
            }
        }
        let best = best.and_then(|(_, change)| Some((change, self.changes.get(&change)?)));
        match (best, wait) {
            (Some((change, id)), _) => {
                *self.spent.entry(Arc::clone(turn_of(id))).or_default() += 1;
                Next::Write(change, id.clone())
            }
            (None, Some(wait)) => Next::Wait(wait),
            (None, None) => Next::Idle,
        }
    }

    /// Holds an object back after a failure, for longer each time. One that was refused is tried again each minute.
    pub(super) fn hold(&mut self, id: &ResourceId, is_refused: bool, now: Instant) {
        let failures = self.held.get(id).map_or(0, |held| held.failures);
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        let pause = if is_refused { LONGEST_PAUSE } else { PAUSE.saturating_mul(factor) };
        let pause = pause.min(LONGEST_PAUSE);
        let held = Held {
            until: now + between(pause / 2, pause),
            failures: failures.saturating_add(1),
            is_refused,
        };
        self.held.insert(id.clone(), held);
    }

    /// Forgets the failures of an object.
    pub(super) fn release(&mut self, id: &ResourceId) {
        self.held.remove(id);
    }

    /// Returns the number of objects whose status was refused when it was last tried.
    pub(super) fn refused(&self) -> usize {
        self.held.values().filter(|held| held.is_refused).count()
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

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_is_held_back_for_longer_each_time_and_the_next_one_comes() {
        let mut queue = Queue::default();
        queue.insert(1, &id("a", "good"));
        queue.insert(2, &id("a", "bad"));
        let Next::Write(2, bad) = queue.next(Instant::now()) else { panic!() };

        queue.hold(&bad, false, Instant::now());
        let meanwhile = drain(&mut queue, 9);
        let Next::Wait(until) = queue.next(Instant::now()) else { panic!() };
        let first = until - Instant::now();
        tokio::time::advance(PAUSE).await;
        let again = queue.next(Instant::now());
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
