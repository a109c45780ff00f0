//! Objects that are read from time to time, because there are too many for a watch each.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::index::Index;
use crate::backoff::between;
use crate::object::ObjectName;
use crate::request::ApiError;

/// Longest time between two readings of an object, if the rate allows it.
const ROUND: Duration = Duration::from_mins(1);
/// Shortest time between two readings of any objects: at most 50 a second.
const STEP: Duration = Duration::from_millis(20);

/// The objects, in the order in which they are read.
#[derive(Clone, Default)]
pub(super) struct Names(Arc<Mutex<Polled>>);

#[derive(Default)]
struct Polled {
    names: BTreeSet<ObjectName>,
    /// Those that were never read: they come first.
    new: BTreeSet<ObjectName>,
    last: Option<ObjectName>,
    has_begun: bool,
}

impl Names {
    /// Replaces the objects. Returns true if the reading has to begin.
    pub(super) fn replace(&self, names: BTreeSet<ObjectName>) -> bool {
        let mut polled = self.polled();
        polled.new = polled.new.intersection(&names).cloned().collect();
        let new: Vec<ObjectName> = names.difference(&polled.names).cloned().collect();
        polled.new.extend(new);
        polled.names = names;
        let begins = !polled.has_begun && !polled.names.is_empty();
        polled.has_begun |= begins;
        begins
    }

    pub(super) fn len(&self) -> usize {
        self.polled().names.len()
    }

    /// Returns the object whose turn it is, and the time until the next one.
    fn next(&self) -> (Option<ObjectName>, Duration) {
        let mut polled = self.polled();
        if let Some(name) = polled.new.pop_first() {
            return (Some(name), STEP);
        }
        let after = polled.last.clone();
        let later = after.and_then(|last| {
            let mut range =
                polled.names.range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded));
            range.next().cloned()
        });
        polled.last = later.or_else(|| polled.names.first().cloned());
        let count = u32::try_from(polled.names.len()).unwrap_or(u32::MAX).max(1);
        (polled.last.clone(), (ROUND / count).max(STEP))
    }

    fn polled(&self) -> MutexGuard<'_, Polled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the objects one after the other, without end.
pub(super) async fn run(client: kube::Client, index: Index, names: Names) {
    loop {
        let (name, pause) = names.next();
        if let Some(name) = name {
            match index.read(&client, &name, None).await {
                Ok(()) => {}
                Err(ApiError::Throttled { after, .. }) => {
                    sleep(after.min(Duration::from_mins(1))).await;
                }
                Err(error) => tracing::debug!(%name, %error, "object cannot be read"),
            }
        }
        sleep(between(pause / 2, pause)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_objects_come_first_and_then_each_in_turn() {
        let name = |name: &str| ObjectName::new("pay", name);
        let names = Names::default();
        let begins = names.replace(BTreeSet::from([name("a"), name("b")]));
        let first: Vec<_> = (0..3).filter_map(|_| names.next().0).collect();

        let again = names.replace(BTreeSet::from([name("a"), name("b"), name("c")]));
        let then: Vec<_> = (0..4).filter_map(|_| names.next().0).collect();

        assert!(begins && !again);
        assert_eq!(first, [name("a"), name("b"), name("a")]);
        assert_eq!(then, [name("c"), name("b"), name("c"), name("a")]);
    }

    #[test]
    fn ten_thousand_objects_do_not_make_more_than_fifty_requests_a_second() {
        let names = Names::default();
        let many = (0..10_000).map(|number| ObjectName::new("pay", &number.to_string()));
        names.replace(many.collect());
        for _ in 0..10_000 {
            names.next();
        }

        assert_eq!(names.next().1, STEP);
    }
}
