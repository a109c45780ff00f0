//! Objects of the double, numbered by one revision, with a bounded history of their changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use super::kind::GroupResource;

/// Place of an object within its resource type.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Empty for cluster-scoped objects.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of(object: &Value) -> Self {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        Self::new(text("namespace"), text("name"))
    }
}

/// One version of an object.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) revision: u64,
    pub(crate) labels: BTreeMap<String, String>,
    /// UIDs of its owners.
    pub(crate) owners: Vec<String>,
    /// JSON without `apiVersion` and `kind`, which depend on the reader.
    pub(crate) body: Bytes,
}

impl Stored {
    fn new(object: &Value, revision: Option<u64>) -> Self {
        let metadata = &object["metadata"];
        let labels = metadata["labels"].as_object().into_iter().flatten();
        let labels =
            labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
        let mut body = object.clone();
        if let Some(map) = body.as_object_mut() {
            map.remove("apiVersion");
            map.remove("kind");
            if let Some(revision) = revision {
                map["metadata"]["resourceVersion"] = revision.to_string().into();
            }
        }
        Self {
            key: Key::of(object),
            uid: metadata["uid"].as_str().unwrap_or_default().to_owned(),
            revision: revision.unwrap_or_default(),
            labels: labels.collect(),
            owners: owners.filter_map(|owner| Some(owner["uid"].as_str()?.to_owned())).collect(),
            body: body.to_string().into(),
        }
    }

    /// Returns the object without `apiVersion` and `kind`.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).expect("what was written as JSON is read as JSON")
    }
}

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

/// Change of an object.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) change: Change,
    pub(crate) object: Arc<Stored>,
    /// Version before.
    pub(crate) previous: Option<Arc<Stored>>,
}

/// Objects of one resource type.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) objects: BTreeMap<Key, Arc<Stored>>,
    history: VecDeque<Event>,
    /// Changes up to this revision are no longer in the history.
    forgotten: u64,
    changed: watch::Sender<u64>,
}

impl Default for Table {
    fn default() -> Self {
        let changed = watch::Sender::new(0);
        Self { objects: BTreeMap::new(), history: VecDeque::new(), forgotten: 0, changed }
    }
}

impl Table {
    /// Returns the changes after a revision, at most `most`.
    ///
    /// # Errors
    /// If the history does not reach back so far: the oldest revision that it reaches.
    pub(crate) fn events_after(&self, revision: u64, most: usize) -> Result<Vec<Event>, u64> {
        if revision < self.forgotten {
            return Err(self.forgotten);
        }
        let first = self.history.partition_point(|event| event.revision <= revision);
        Ok(self.history.range(first..).take(most).cloned().collect())
    }

    /// Forgets all changes up to now.
    pub(crate) fn forget(&mut self, revision: u64) {
        self.history.clear();
        self.forgotten = revision;
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn record(&mut self, event: Event, most: usize) {
        let revision = event.revision;
        self.history.push_back(event);
        while self.history.len() > most {
            let oldest = self.history.pop_front();
            self.forgotten = oldest.map_or(self.forgotten, |oldest| oldest.revision);
        }
        self.changed.send_replace(revision);
    }
}

/// All objects.
#[derive(Debug)]
pub(crate) struct Store {
    revision: u64,
    tables: HashMap<GroupResource, Table>,
    /// Objects by the UID of an owner.
    dependents: HashMap<String, BTreeSet<(GroupResource, Key)>>,
    /// UIDs of all objects.
    uids: HashMap<String, (GroupResource, Key)>,
    /// Changes kept for each resource type.
    history: usize,
}

impl Store {
    pub(crate) fn new(history: usize) -> Self {
        Self {
            revision: 0,
            tables: HashMap::new(),
            dependents: HashMap::new(),
            uids: HashMap::new(),
            history,
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn table(&mut self, resource: &GroupResource) -> &mut Table {
        if !self.tables.contains_key(resource) {
            self.tables.insert(resource.clone(), Table::default());
        }
        self.tables.get_mut(resource).expect("the table was just made")
    }

    pub(crate) fn get(&self, resource: &GroupResource, key: &Key) -> Option<Arc<Stored>> {
        self.tables.get(resource)?.objects.get(key).cloned()
    }

    /// Returns the objects of a resource type.
    pub(crate) fn objects<'s>(
        &'s self,
        resource: &GroupResource,
    ) -> impl Iterator<Item = &'s Arc<Stored>> + use<'s> {
        self.tables.get(resource).into_iter().flat_map(|table| table.objects.values())
    }

    /// Resource types that have had objects.
    pub(crate) fn resources(&self) -> Vec<GroupResource> {
        let mut resources: Vec<_> = self.tables.keys().cloned().collect();
        resources.sort();
        resources
    }

    pub(crate) fn by_uid(&self, uid: &str) -> Option<&(GroupResource, Key)> {
        self.uids.get(uid)
    }

    /// Returns the objects that name an owner of this UID.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<(GroupResource, Key)> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Stores an object under its name, with the next revision.
    pub(crate) fn put(&mut self, resource: &GroupResource, object: &Value) -> Arc<Stored> {
        self.revision += 1;
        let stored = Arc::new(Stored::new(object, Some(self.revision)));
        let history = self.history;
        let table = self.table(resource);
        let previous = table.objects.insert(stored.key.clone(), Arc::clone(&stored));
        let event = Event {
            revision: stored.revision,
            change: if previous.is_some() { Change::Modified } else { Change::Added },
            object: Arc::clone(&stored),
            previous: previous.clone(),
        };
        table.record(event, history);
        if let Some(previous) = previous {
            self.unlink(resource, &previous);
        }
        let place = (resource.clone(), stored.key.clone());
        for owner in &stored.owners {
            self.dependents.entry(owner.clone()).or_default().insert(place.clone());
        }
        self.uids.insert(stored.uid.clone(), place);
        stored
    }

    /// Removes an object; returns its last version, numbered by the removal.
    pub(crate) fn remove(&mut self, resource: &GroupResource, key: &Key) -> Option<Arc<Stored>> {
        let history = self.history;
        let previous = self.table(resource).objects.remove(key)?;
        self.revision += 1;
        let last = Arc::new(Stored::new(&previous.value(), Some(self.revision)));
        let event = Event {
            revision: self.revision,
            change: Change::Deleted,
            object: Arc::clone(&last),
            previous: Some(Arc::clone(&previous)),
        };
        self.table(resource).record(event, history);
        self.unlink(resource, &previous);
        Some(last)
    }

    /// Returns what an object would be; its resource version stays that of the version before, if there is one.
    pub(crate) fn preview(object: &Value) -> Arc<Stored> {
        Arc::new(Stored::new(object, None))
    }

    fn unlink(&mut self, resource: &GroupResource, object: &Stored) {
        self.uids.remove(&object.uid);
        let place = (resource.clone(), object.key.clone());
        for owner in &object.owners {
            if let Some(dependents) = self.dependents.get_mut(owner) {
                dependents.remove(&place);
                if dependents.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str) -> Value {
        json!({"metadata": {"name": name, "uid": name}})
    }

    #[test]
    fn a_history_says_how_far_back_it_reaches() {
        let resource = GroupResource::new("", "configmaps");
        let mut store = Store::new(2);
        for name in ["a", "b", "c"] {
            store.put(&resource, &object(name));
        }

        let table = store.table(&resource);

        assert_eq!(table.events_after(1, 10).map(|events| events.len()), Ok(2));
        assert_eq!(table.events_after(0, 10).map(|events| events.len()), Err(1));
    }

    #[test]
    fn a_removed_object_carries_the_revision_of_its_removal() {
        let resource = GroupResource::new("", "configmaps");
        let mut store = Store::new(9);
        store.put(&resource, &object("a"));

        let last = store.remove(&resource, &Key::new("", "a")).expect("it was there");

        assert_eq!(last.value()["metadata"]["resourceVersion"], "2");
    }
}
