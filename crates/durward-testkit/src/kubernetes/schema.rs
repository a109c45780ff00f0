//! Structural schema of a custom kind: what is pruned, defaulted, and how lists merge.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde_json::{Map, Value};

use super::cel::Rules;
use super::shape::{ListKind, Shape};

/// Node of a schema.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    /// `object`, `array`, `string`, `integer`, `number` or `boolean`; empty for any.
    pub(crate) kind: String,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    pub(crate) preserves_unknown: bool,
    pub(crate) embedded: bool,
    pub(crate) properties: BTreeMap<String, Self>,
    /// Values of a map.
    pub(crate) additional: Option<Box<Self>>,
    pub(crate) items: Option<Box<Self>>,
    pub(crate) required: Vec<String>,
    pub(crate) values: Vec<Value>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) format: String,
    pub(crate) limits: Limits,
    pub(crate) default: Option<Value>,
    pub(crate) all_of: Vec<Self>,
    pub(crate) any_of: Vec<Self>,
    pub(crate) one_of: Vec<Self>,
    pub(crate) not: Option<Box<Self>>,
    pub(crate) list: ListKind,
    pub(crate) atomic: bool,
    pub(crate) rules: Option<Rules>,
}

/// Regular expression of a string; `None` where it cannot be compiled here.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    pub(crate) regex: Option<Regex>,
}

/// Bounds of a value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
}

impl Limits {
    fn read(schema: &Value) -> Self {
        let number = |key: &str| schema[key].as_f64();
        let count = |key: &str| schema[key].as_u64();
        Self {
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: is_true(schema, "exclusiveMinimum"),
            exclusive_maximum: is_true(schema, "exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
        }
    }
}

fn is_true(schema: &Value, key: &str) -> bool {
    schema[key] == true
}

fn text(schema: &Value, key: &str) -> String {
    schema[key].as_str().unwrap_or_default().to_owned()
}

fn texts(schema: &Value, key: &str) -> Vec<String> {
    let texts = schema[key].as_array().into_iter().flatten();
    texts.filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Schema {
    /// Reads an OpenAPI v3 schema as a CustomResourceDefinition has it.
    pub(crate) fn read(schema: &Value) -> Self {
        let many = |key: &str| -> Vec<Self> {
            schema[key].as_array().into_iter().flatten().map(Self::read).collect()
        };
        let one = |key: &str| match &schema[key] {
            Value::Object(_) => Some(Box::new(Self::read(&schema[key]))),
            _ => None,
        };
        let properties = schema["properties"].as_object().into_iter().flatten();
        let properties: BTreeMap<String, Self> =
            properties.map(|(name, property)| (name.clone(), Self::read(property))).collect();
        let additional = match &schema["additionalProperties"] {
            Value::Bool(true) => Some(Box::new(Self::anything())),
            _ => one("additionalProperties"),
        };
        let list = list_kind(schema);
        Self {
            kind: text(schema, "type"),
            nullable: is_true(schema, "nullable"),
            int_or_string: is_true(schema, "x-kubernetes-int-or-string"),
            preserves_unknown: is_true(schema, "x-kubernetes-preserve-unknown-fields"),
            embedded: is_true(schema, "x-kubernetes-embedded-resource"),
            properties,
            additional,
            items: one("items"),
            required: texts(schema, "required"),
            values: schema["enum"].as_array().cloned().unwrap_or_default(),
            pattern: schema["pattern"].as_str().map(Pattern::new),
            format: text(schema, "format"),
            limits: Limits::read(schema),
            default: schema.get("default").cloned(),
            all_of: many("allOf"),
            any_of: many("anyOf"),
            one_of: many("oneOf"),
            not: one("not"),
            list,
            atomic: schema["x-kubernetes-map-type"] == "atomic",
            rules: Rules::read(schema),
        }
    }

    fn anything() -> Self {
        Self { preserves_unknown: true, ..Self::default() }
    }

    /// Returns how values of the schema merge.
    pub(crate) fn shape(&self) -> Shape {
        let untyped = self.preserves_unknown || self.kind.is_empty();
        let mut shape = if untyped { Shape::untyped() } else { Shape::field_of_type() };
        shape.atomic = self.atomic;
        shape.optional = true;
        shape.list = self.list.clone();
        let fields = self.properties.iter();
        shape.fields = fields.map(|(name, schema)| (name.clone(), schema.shape())).collect();
        shape.entries = self.additional.as_ref().map(|schema| Box::new(schema.shape()));
        shape.items = self.items.as_ref().map(|schema| Box::new(schema.shape()));
        if self.embedded {
            shape.fields.insert("metadata".to_owned(), Shape::metadata());
        }
        shape
    }

    /// Removes fields that the schema does not know and returns their paths.
    pub(crate) fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        self.prune_at(object, "", true, &mut unknown);
        unknown
    }

    fn prune_at(&self, value: &mut Value, path: &str, is_object: bool, unknown: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                let is_kept = |key: &str| {
                    self.preserves_unknown
                        || self.properties.contains_key(key)
                        || self.additional.is_some()
                        || (is_object && matches!(key, "apiVersion" | "kind" | "metadata"))
                };
                let gone: Vec<String> = map.keys().filter(|key| !is_kept(key)).cloned().collect();
                for key in gone {
                    map.remove(&key);
                    unknown.push(join(path, &key));
                }
                for (key, value) in map.iter_mut() {
                    if is_object && key == "metadata" {
                        continue;
                    }
                    if let Some(schema) = self.child(key) {
                        schema.prune_at(value, &join(path, key), schema.embedded, unknown);
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                for (index, item) in items.iter_mut().enumerate() {
                    let path = format!("{path}[{index}]");
                    schema.prune_at(item, &path, schema.embedded, unknown);
                }
            }
            _ => {}
        }
    }

    /// Returns the schema of a field or of a map's value.
    pub(crate) fn child(&self, key: &str) -> Option<&Self> {
        self.properties.get(key).or(self.additional.as_deref())
    }

    /// Fills in defaults; a `null` that is not allowed counts as missing.
    pub(crate) fn fill_in(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                self.fill_in_fields(map);
                for (key, value) in map.iter_mut() {
                    if let Some(schema) = self.child(key) {
                        schema.fill_in(value);
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                items.iter_mut().for_each(|item| schema.fill_in(item));
            }
            _ => {}
        }
    }

    fn fill_in_fields(&self, map: &mut Map<String, Value>) {
        let is_dropped = |key: &String, value: &Value| {
            value.is_null() && self.child(key).is_some_and(|schema| !schema.allows_null())
        };
        map.retain(|key, value| !is_dropped(key, value));
        for (name, schema) in &self.properties {
            let Some(default) = &schema.default else { continue };
            if !map.contains_key(name) {
                map.insert(name.clone(), default.clone());
            }
        }
    }

    fn allows_null(&self) -> bool {
        self.nullable || (self.kind.is_empty() && self.preserves_unknown)
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), regex: Regex::new(text).ok() }
    }
}

fn list_kind(schema: &Value) -> ListKind {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => ListKind::Set,
        Some("map") => {
            let default = |key: &str| schema["items"]["properties"][key].get("default").cloned();
            let keys = texts(schema, "x-kubernetes-list-map-keys");
            ListKind::Map(keys.into_iter().map(|key| (key.clone(), default(&key))).collect())
        }
        _ => ListKind::Atomic,
    }
}

/// Adds a field to a path.
pub(crate) fn join(path: &str, field: &str) -> String {
    match path {
        "" => field.to_owned(),
        path => format!("{path}.{field}"),
    }
}
