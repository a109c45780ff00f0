//! Field ownership: `managedFields` of an object, kept by manager.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::fields::{Containers, FieldSet, Leaves, Path, leaves};
use super::shape::Shape;

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Apply,
    Update,
}

/// Writer of fields.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Manager {
    pub(crate) operation: Operation,
    pub(crate) name: String,
    pub(crate) api_version: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
}

/// Fields of one manager.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) manager: Manager,
    pub(crate) fields: FieldSet,
    /// Last change of the set, RFC 3339.
    pub(crate) time: String,
}

/// Difference between two versions of an object.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// Fields that are new or have another value.
    pub(crate) changed: BTreeSet<Path>,
    pub(crate) removed: BTreeSet<Path>,
}

impl Manager {
    /// Returns whether both are the same writer; an applier is the same in any version.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let same_version =
            self.operation == Operation::Apply || self.api_version == other.api_version;
        self.operation == other.operation
            && self.name == other.name
            && self.subresource == other.subresource
            && same_version
    }

    /// Returns the words that a conflict names the manager by.
    pub(crate) fn words(&self) -> String {
        let mut words = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            words = format!("{words} with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            words = format!("{words} using {}", self.api_version);
        }
        words
    }
}

/// Reads the managers of an object.
pub(crate) fn read(object: &Value) -> Vec<Entry> {
    let entries = object["metadata"]["managedFields"].as_array();
    entries.into_iter().flatten().filter_map(read_entry).collect()
}

fn read_entry(entry: &Value) -> Option<Entry> {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let operation = match entry["operation"].as_str()? {
        "Apply" => Operation::Apply,
        _ => Operation::Update,
    };
    let manager = Manager {
        operation,
        name: text("manager"),
        api_version: text("apiVersion"),
        subresource: text("subresource"),
    };
    Some(Entry { manager, fields: FieldSet::decode(&entry["fieldsV1"]), time: text("time") })
}

/// Writes the managers into an object, those without fields left out.
pub(crate) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by(|a, b| {
        let key = |entry: &Entry| (entry.manager.operation, entry.time.clone());
        key(a).cmp(&key(b)).then_with(|| a.manager.cmp(&b.manager))
    });
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    if entries.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    let entries: Vec<Value> = entries.iter().map(entry_json).collect();
    metadata.insert("managedFields".to_owned(), entries.into());
}

fn entry_json(entry: &Entry) -> Value {
    let manager = &entry.manager;
    let mut json = json!({
        "manager": manager.name,
        "operation": format!("{:?}", manager.operation),
        "apiVersion": manager.api_version,
        "time": entry.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": entry.fields.encode(),
    });
    if !manager.subresource.is_empty() {
        json["subresource"] = manager.subresource.as_str().into();
    }
    json
}

/// Compares two versions of an object.
pub(crate) fn difference(old: &Leaves<'_>, new: &Leaves<'_>) -> Difference {
    let is_changed = |(path, value): &(&Path, &Option<&Value>)| match (old.get(*path), value) {
        (None, _) => true,
        (Some(Some(old)), Some(new)) => old != new,
        _ => false,
    };
    let changed = new.iter().filter(is_changed).map(|(path, _)| path.clone()).collect();
    let removed = old.keys().filter(|path| !new.contains_key(*path)).cloned().collect();
    Difference { changed, removed }
}

/// Records a write that is no apply: the manager owns what it changed, and nobody else does.
///
/// `old` is the version before, `new` is written to.
pub(crate) fn record_update(
    old: Option<&Value>,
    new: &mut Value,
    shape: &Shape,
    manager: &Manager,
    now: &str,
) {
    let mut entries = match was_reset(new) {
        true => Vec::new(),
        false => old.map(read).unwrap_or_default(),
    };
    let empty = Value::Object(Map::new());
    let old_leaves = leaves(old.unwrap_or(&empty), shape, Containers::Counted);
    let difference = difference(&old_leaves, &leaves(new, shape, Containers::Counted));
    take_from_others(&mut entries, &difference, |entry| entry.manager == *manager);
    match entries.iter_mut().find(|entry| entry.manager == *manager) {
        Some(own) => {
            let before = own.fields.clone();
            own.fields.0.extend(difference.changed);
            own.fields.0.retain(|path| !difference.removed.contains(path));
            if own.fields != before {
                now.clone_into(&mut own.time);
            }
        }
        None => entries.push(Entry {
            manager: manager.clone(),
            fields: FieldSet(difference.changed),
            time: now.to_owned(),
        }),
    }
    write(new, entries);
}

/// Takes changed and removed fields from all managers but one.
pub(crate) fn take_from_others(
    entries: &mut [Entry],
    difference: &Difference,
    is_own: impl Fn(&Entry) -> bool,
) {
    let is_gone =
        |path: &Path| difference.changed.contains(path) || difference.removed.contains(path);
    for entry in entries.iter_mut().filter(|entry| !is_own(entry)) {
        entry.fields.0.retain(|path| !is_gone(path));
    }
}

/// Returns whether a client asks to forget all managers: an empty list, or one empty entry.
fn was_reset(object: &Value) -> bool {
    let Some(entries) = object["metadata"]["managedFields"].as_array() else { return false };
    match entries.as_slice() {
        [] => true,
        [only] => only.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// Returns the object without what changes at each write though nothing else does.
pub(crate) fn comparable(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        metadata.remove("generation");
        let entries = metadata.get_mut("managedFields").and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten().filter_map(Value::as_object_mut) {
            entry.remove("time");
        }
    }
    object
}
