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

/// What has fields of its own and can come and go with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Containers {
    /// Counted as fields: who makes one by an update owns it.
    Counted,
    /// Left out: who applies a field does not own what it is in.
    LeftOut,
}

/// Walk through an object.
struct Walk<'v> {
    containers: Containers,
    path: Path,
    found: Leaves<'v>,
}

/// Returns the fields of an object that can be owned.
pub(crate) fn leaves<'v>(object: &'v Value, shape: &Shape, containers: Containers) -> Leaves<'v> {
    let mut walk = Walk { containers, path: Path::new(), found: Leaves::new() };
    for (key, value) in object.as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            ("apiVersion" | "kind", _) => {}
            ("metadata", Value::Object(metadata)) => {
                walk.path.push(Step::Field("metadata".to_owned()));
                let shape = shape.field("metadata").0;
                let owned = metadata.iter().filter(|(key, _)| !UNOWNED.contains(&key.as_str()));
                owned.for_each(|(key, value)| walk.field(key, value, shape));
                walk.path.pop();
            }
            _ => walk.field(key, value, shape),
        }
    }
    walk.found
}

impl<'v> Walk<'v> {
    fn field(&mut self, key: &str, value: &'v Value, parent: &Shape) {
        let (shape, is_entry) = parent.field(key);
        self.path.push(Step::Field(key.to_owned()));
        self.descend(value, shape);
        if is_entry {
            self.found.entry(self.path.clone()).or_insert(None);
        }
        self.path.pop();
    }

    fn descend(&mut self, value: &'v Value, shape: &Shape) {
        match value {
            Value::Object(map) if !shape.atomic && !map.is_empty() => {
                self.container(shape.comes_and_goes());
                map.iter().for_each(|(key, value)| self.field(key, value, shape));
            }
            Value::Array(items) if shape.list != ListKind::Atomic => {
                self.container(!items.is_empty());
                items.iter().for_each(|item| self.item(item, shape));
            }
            _ => drop(self.found.insert(self.path.clone(), Some(value))),
        }
    }

    fn item(&mut self, item: &'v Value, shape: &Shape) {
        let Some(step) = step_of(item, &shape.list) else { return };
        self.path.push(step);
        let is_object = item.is_object();
        if is_object {
            self.descend(item, shape.items());
        }
        let value = if is_object { None } else { Some(item) };
        self.found.entry(self.path.clone()).or_insert(value);
        self.path.pop();
    }

    fn container(&mut self, comes_and_goes: bool) {
        if comes_and_goes && self.containers == Containers::Counted {
            self.found.insert(self.path.clone(), None);
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

/// Takes fields out of an object. What has lost its last field goes with it, unless it is kept for itself.
pub(crate) fn take_out(
    object: &mut Value,
    shape: &Shape,
    gone: &[&[Step]],
    is_kept: impl Fn(&Path) -> bool,
) {
    TakeOut { is_kept: &is_kept, path: Path::new() }.from(object, shape, gone);
}

struct TakeOut<'k> {
    is_kept: &'k dyn Fn(&Path) -> bool,
    path: Path,
}

impl TakeOut<'_> {
    fn from(&mut self, value: &mut Value, shape: &Shape, gone: &[&[Step]]) {
        match value {
            Value::Object(map) => {
                let keys: BTreeSet<&str> =
                    gone.iter().filter_map(|path| field_name(path)).collect();
                for key in keys {
                    let below =
                        below(gone, |step| matches!(step, Step::Field(name) if name == key));
                    if self.goes(map.get_mut(key), shape.field(key).0, key, &below) {
                        map.remove(key);
                    }
                }
            }
            Value::Array(items) => items.retain_mut(|item| {
                let Some(own) = step_of(item, &shape.list) else { return true };
                let below = below(gone, |step| *step == own);
                if below.iter().any(|path| path.is_empty()) {
                    return false;
                }
                self.path.push(own);
                self.from(item, shape.items(), &below);
                self.path.pop();
                true
            }),
            _ => {}
        }
    }

    /// Takes fields out of a field; true if it goes itself.
    fn goes(
        &mut self,
        value: Option<&mut Value>,
        shape: &Shape,
        key: &str,
        below: &[&[Step]],
    ) -> bool {
        let Some(value) = value else { return false };
        if below.iter().any(|path| path.is_empty()) {
            return true;
        }
        self.path.push(Step::Field(key.to_owned()));
        self.from(value, shape, below);
        let goes = is_empty(value) && !(self.is_kept)(&self.path);
        self.path.pop();
        goes
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

        let set = FieldSet::of(&leaves(&service, &Shape::built_in("Service"), Containers::LeftOut));

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

        take_out(&mut service, &shape, &[&path], |_| false);

        assert_eq!(service, json!({"spec": {"ports": [{"port": 81}], "type": "x"}}));
        assert_eq!(path_text(&path), ".spec.ports[port=80,protocol=\"TCP\"]");
    }
}
