//! Gathers what the watches see, so that a burst of events becomes one change.
//!
//! Only the last state of each thing is kept, so memory is bounded by the number of things and not by the number of events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use durward_control::change::{Change, DocumentKey, Fact};
use durward_control::reference::Reference;
use durward_model::{Kind, ResourceId};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::object::Object;
use crate::resource_type::ResourceType;

/// Silence after which a burst counts as over.
const QUIET: Duration = Duration::from_millis(5);
/// Longest time that an event waits for others.
const LONGEST: Duration = Duration::from_millis(50);

/// Changes observed since the last time: each item once, in its last state.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Objects that are new or changed.
    pub upserts: Vec<Object>,
    /// Objects that are gone.
    pub deletes: Vec<ResourceId>,
    /// Facts that are new or changed; `None` for those that no document refers to any more.
    pub facts: Vec<(Reference, Option<Fact>)>,
}

impl Observed {
    /// Returns whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty() && self.facts.is_empty()
    }

    /// Returns the change that this is to the store. Objects are parsed here. Those of kinds that `compile` does not read yet are left out: it would take one for the
    /// tenant of the same name.
    #[must_use]
    pub fn into_change(self) -> Change {
        let is_read = |id: &ResourceId| {
            ResourceType::of(id.kind).is_some()
                || id.kind.is_foreign_api()
                || matches!(id.kind, Kind::Namespace | Kind::Mapping | Kind::Ingress)
        };
        let upserts = self.upserts.iter().filter(|object| is_read(&object.id));
        let (going, staying): (Vec<_>, Vec<_>) = upserts.partition(|object| object.is_going());
        let going = going.into_iter().map(|object| object.id.clone());
        let deletes = self.deletes.into_iter().filter(is_read).chain(going);
        Change {
            upserts: staying.into_iter().map(Object::document).collect(),
            deletes: deletes.map(DocumentKey::Object).collect(),
            facts: self.facts,
            links: None,
        }
    }
}

/// Collects what several watches see.
#[derive(Default)]
pub(crate) struct Gather {
    pending: Mutex<Pending>,
    arrived: Notify,
}

#[derive(Default)]
struct Pending {
    upserts: BTreeMap<ResourceId, Object>,
    deletes: BTreeSet<ResourceId>,
    facts: BTreeMap<Reference, Option<Fact>>,
    /// When the first and the last of these arrived.
    arrivals: Option<(Instant, Instant)>,
}

impl Gather {
    pub(crate) fn upsert(&self, object: Object) {
        let mut pending = self.pending();
        pending.deletes.remove(&object.id);
        pending.upserts.insert(object.id.clone(), object);
        self.note_arrival(&mut pending);
    }

    pub(crate) fn delete(&self, id: ResourceId) {
        let mut pending = self.pending();
        pending.upserts.remove(&id);
        pending.deletes.insert(id);
        self.note_arrival(&mut pending);
    }

    pub(crate) fn fact(&self, reference: Reference, fact: Option<Fact>) {
        let mut pending = self.pending();
        pending.facts.insert(reference, fact);
        self.note_arrival(&mut pending);
    }

    /// Ends the wait for a burst, though there may be nothing.
    pub(crate) fn wake(&self) {
        let mut pending = self.pending();
        self.note_arrival(&mut pending);
    }

    /// Waits for the end of a burst, and returns what it brought. Cancelling the wait loses nothing.
    pub(crate) async fn next(&self) -> Observed {
        loop {
            let arrived = self.arrived.notified();
            let due =
                self.pending().arrivals.map(|(first, last)| (last + QUIET).min(first + LONGEST));
            match due {
                None => arrived.await,
                Some(due) if Instant::now() >= due => return self.take(),
                Some(due) => sleep_until(due).await,
            }
        }
    }

    fn take(&self) -> Observed {
        let Pending { upserts, deletes, facts, arrivals: _ } = std::mem::take(&mut *self.pending());
        Observed {
            upserts: upserts.into_values().collect(),
            deletes: deletes.into_iter().collect(),
            facts: facts.into_iter().collect(),
        }
    }

    fn note_arrival(&self, pending: &mut Pending) {
        let now = Instant::now();
        let first = pending.arrivals.map_or(now, |(first, _)| first);
        pending.arrivals = Some((first, now));
        self.arrived.notify_one();
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{advance, sleep};

    use super::*;

    fn namespace(name: &str) -> Reference {
        Reference::Namespace(Arc::from(name))
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_event_waits_for_five_milliseconds() {
        let gather = Gather::default();
        gather.fact(namespace("a"), Some(Fact::Missing));
        let start = Instant::now();

        let observed = gather.next().await;

        assert_eq!(observed.facts, [(namespace("a"), Some(Fact::Missing))]);
        assert_eq!(start.elapsed(), QUIET);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_events_is_cut_after_fifty_milliseconds() {
        let gather = Arc::new(Gather::default());
        let writer = Arc::clone(&gather);
        let writing = tokio::spawn(async move {
            for number in 0..1_000 {
                writer.fact(namespace(&number.to_string()), Some(Fact::Missing));
                sleep(Duration::from_millis(1)).await;
            }
        });
        let start = Instant::now();

        let first = gather.next().await;

        assert!(start.elapsed() >= LONGEST && start.elapsed() <= LONGEST + QUIET);
        assert!((40..=60).contains(&first.facts.len()), "{}", first.facts.len());
        writing.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn of_each_thing_the_last_state_counts() {
        let gather = Gather::default();
        let id = ResourceId::new(Kind::Tenant, "acme");
        gather.fact(namespace("a"), Some(Fact::Missing));
        gather.fact(namespace("a"), None);
        gather.delete(id.clone());
        advance(Duration::from_millis(1)).await;

        let observed = gather.next().await;

        assert_eq!(observed.facts, [(namespace("a"), None)]);
        assert_eq!(observed.deletes, [id]);
        assert!(gather.take().is_empty());
    }

    #[test]
    fn an_object_that_compile_does_not_read_is_not_taken_for_the_tenant_of_its_name() {
        let object = |kind: Kind| {
            let json = r#"{"metadata": {"name": "acme", "namespace": "pay"}, "spec": {}}"#;
            Object::decode(kind, "durward.dev/v1alpha1", json).unwrap()
        };
        let observed = Observed {
            upserts: vec![object(Kind::AddressPool), object(Kind::PortMapping)],
            deletes: vec![ResourceId::namespaced(Kind::AddressPool, "pay", "globex")],
            facts: Vec::new(),
        };

        let change = observed.into_change();

        let id = ResourceId::namespaced(Kind::PortMapping, "pay", "acme");
        let keys: Vec<&DocumentKey> = change.upserts.iter().map(|document| &document.key).collect();
        assert_eq!(keys, [&DocumentKey::Object(id)]);
        assert!(change.deletes.is_empty());
    }
}
