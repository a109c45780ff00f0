//! Sets of fields, as `managedFields` names them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::shape::{ListKind, Shape};

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Field(String),
    /// Item of a list that is a map: its keys and their values, as JSON.
    Key(String),
    /// Item of a list that is a set, as JSON.
    Value(String),
}

/// Way from an object to one of its fields.
pub(crate) type Path = Vec<Step>;

/// Set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet(pub(crate) BTreeSet<Path>);

/// Fields of an object with the value of each that has no fields of its own.
pub(crate) type Leaves<'v> = BTreeMap<Path, Option<&'v Value>>;

/// Fields below `metadata` that nobody owns.
const UNOWNED: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Returns the fields of an object that can be owned.
pub(crate) fn leaves<'v>(object: &'v Value, shape: &Shape) -> Leaves<'v> {
    let mut found = Leaves::new();
    let mut path = Path::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            ("apiVersion" | "kind", _) => {}
            ("metadata", Value::Object(metadata)) => {
                path.push(Step::Field("metadata".to_owned()));
                let shape = shape.field("metadata").0;
                let owned = metadata.iter().filter(|(key, _)| !UNOWNED.contains(&key.as_str()));
                owned.for_each(|(key, value)| member(key, value, shape, &mut path, &mut found));
                path.pop();
            }
            _ => member(key, value, shape, &mut path, &mut found),
        }
    }
    found
}

fn member<'v>(
    key: &str,
    value: &'v Value,
    parent: &Shape,
    path: &mut Path,
    found: &mut Leaves<'v>,
) {
    let (shape, is_entry) = parent.field(key);
    path.push(Step::Field(key.to_owned()));
    descend(value, shape, path, found);
    if is_entry {
        found.entry(path.clone()).or_insert(None);
    }
    path.pop();
}

fn descend<'v>(value: &'v Value, shape: &Shape, path: &mut Path, found: &mut Leaves<'v>) {
    match value {
        Value::Object(map) if !shape.atomic && !map.is_empty() => {
            for (key, value) in map {
                member(key, value, shape, path, found);
            }
        }
        Value::Array(items) if shape.list != ListKind::Atomic => {
            for item in items {
                let Some(step) = step_of(item, &shape.list) else { continue };
                path.push(step);
                match item {
                    Value::Object(_) => descend(item, shape.items(), path, found),
                    _ => {}
                }
                found.entry(path.clone()).or_insert(if item.is_object() {
                    None
                } else {
                    Some(item)
                });
                path.pop();
            }
        }
        _ => {
            found.insert(path.clone(), Some(value));
        }
    }
}

/// Returns the step to an item of a list, if the list tells its items apart.
pub(crate) fn step_of(item: &Value, list: &ListKind) -> Option<Step> {
    match list {
        ListKind::Atomic => None,
        ListKind::Set => Some(Step::Value(item.to_string())),
        ListKind::Map(keys) => {
            let mut pairs: Vec<(&str, &Value)> = Vec::new();
            for (key, default) in keys {
                let value = item.get(key).or(default.as_ref())?;
                pairs.push((key, value));
            }
            pairs.sort_by_key(|(key, _)| *key);
            Some(Step::Key(object_text(&pairs)))
        }
    }
}

fn object_text(pairs: &[(&str, &Value)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{}:{value}", Value::from(*key))).collect();
    format!("{{{}}}", pairs.join(","))
}

impl FieldSet {
    pub(crate) fn of(leaves: &Leaves<'_>) -> Self {
        Self(leaves.keys().cloned().collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the set as `FieldsV1`.
    pub(crate) fn encode(&self) -> Value {
        let mut root = Node::default();
        for path in &self.0 {
            let mut node = &mut root;
            for step in path {
                node = node.children.entry(step.encode()).or_default();
            }
            node.is_member = true;
        }
        root.json()
    }

    /// Reads `FieldsV1`; parts that cannot be read are left out.
    pub(crate) fn decode(fields: &Value) -> Self {
        let mut set = Self::default();
        decode_into(fields, &mut Path::new(), &mut set);
        set
    }
}

fn decode_into(fields: &Value, path: &mut Path, set: &mut FieldSet) {
    let Some(map) = fields.as_object() else { return };
    if !path.is_empty() && (map.is_empty() || map.contains_key(".")) {
        set.0.insert(path.clone());
    }
    for (key, below) in map {
        let Some(step) = Step::decode(key) else { continue };
        path.push(step);
        decode_into(below, path, set);
        path.pop();
    }
}

#[derive(Default)]
struct Node {
    is_member: bool,
    children: BTreeMap<String, Self>,
}

impl Node {
    fn json(&self) -> Value {
        let mut map = Map::new();
        if self.is_member && !self.children.is_empty() {
            map.insert(".".to_owned(), Map::new().into());
        }
        map.extend(self.children.iter().map(|(step, node)| (step.clone(), node.json())));
        map.into()
    }
}

impl Step {
    fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(key) => format!("k:{key}"),
            Self::Value(value) => format!("v:{value}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::Field(rest.to_owned())),
            "k" => {
                let Ok(Value::Object(map)) = serde_json::from_str(rest) else { return None };
                let mut pairs: Vec<(&str, &Value)> =
                    map.iter().map(|(key, value)| (key.as_str(), value)).collect();
                pairs.sort_by_key(|(key, _)| *key);
                Some(Self::Key(object_text(&pairs)))
            }
            "v" => Some(Self::Value(rest.to_owned())),
            _ => None,
        }
    }
}

/// Formats a path as a conflict names it: `.spec.ports[port=80,protocol="TCP"].name`.
pub(crate) fn path_text(path: &Path) -> String {
    let mut text = String::new();
    for step in path {
        let _ = match step {
            Step::Field(name) => write!(text, ".{name}"),
            Step::Value(value) => write!(text, "[={value}]"),
            Step::Key(key) => write!(text, "[{}]", key_text(key)),
        };
    }
    text
}

fn key_text(key: &str) -> String {
    let Ok(Value::Object(map)) = serde_json::from_str(key) else { return key.to_owned() };
    let mut pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort();
    pairs.join(",")
}

/// Takes fields out of a value; what is left of an object or list stays.
pub(crate) fn take_out(value: &mut Value, shape: &Shape, gone: &[&[Step]]) {
    match value {
        Value::Object(map) => {
            let keys: BTreeSet<&str> = gone.iter().filter_map(|path| field_name(path)).collect();
            for key in keys {
                let below = below(gone, |step| matches!(step, Step::Field(name) if name == key));
                let is_whole = below.iter().any(|path| path.is_empty());
                match map.get_mut(key) {
                    Some(_) if is_whole => drop(map.remove(key)),
                    Some(child) => {
                        take_out(child, shape.field(key).0, &below);
                        // An object that had nothing else is gone with its last field.
                        if is_empty(child) {
                            map.remove(key);
                        }
                    }
                    None => {}
                }
            }
        }
        Value::Array(items) => items.retain_mut(|item| {
            let Some(own) = step_of(item, &shape.list) else { return true };
            let below = below(gone, |step| *step == own);
            if below.iter().any(|path| path.is_empty()) {
                return false;
            }
            take_out(item, shape.items(), &below);
            true
        }),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn field_name(path: &[Step]) -> Option<&str> {
    match path.first() {
        Some(Step::Field(name)) => Some(name),
        _ => None,
    }
}

fn below<'p>(paths: &[&'p [Step]], is_it: impl Fn(&Step) -> bool) -> Vec<&'p [Step]> {
    let through = paths.iter().filter(|path| path.first().is_some_and(&is_it));
    through.map(|path| &path[1..]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_a_service_are_named_as_the_server_names_them() {
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "a", "labels": {"app": "x"}, "finalizers": ["f"]},
            "spec": {"ports": [{"port": 80, "name": "web"}], "selector": {"app": "x"}},
        });

        let set = FieldSet::of(&leaves(&service, &Shape::built_in("Service")));

        let expected = json!({
            "f:metadata": {
                "f:labels": {"f:app": {}},
                "f:finalizers": {"v:\"f\"": {}},
            },
            "f:spec": {
                "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}}},
                "f:selector": {},
            },
        });
        assert_eq!(set.encode(), expected);
        assert_eq!(FieldSet::decode(&expected), set);
    }

    #[test]
    fn an_item_of_a_list_goes_without_its_neighbours() {
        let shape = Shape::built_in("Service");
        let mut service = json!({"spec": {"ports": [{"port": 80}, {"port": 81}], "type": "x"}});
        let path = vec![
            Step::Field("spec".to_owned()),
            Step::Field("ports".to_owned()),
            Step::Key("{\"port\":80,\"protocol\":\"TCP\"}".to_owned()),
        ];

        take_out(&mut service, &shape, &[&path]);

        assert_eq!(service, json!({"spec": {"ports": [{"port": 81}], "type": "x"}}));
        assert_eq!(path_text(&path), ".spec.ports[port=80,protocol=\"TCP\"]");
    }
}
