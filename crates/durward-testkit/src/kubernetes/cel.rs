//! CEL: validation rules in schemas, and values for policies.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::objects::{Key, Map as CelMap};
use kube_cel::cel::{self, Context};
use kube_cel::{CompiledSchema, ErrorKind, KubeCelExt, compile_schema, validate_compiled};
use serde_json::Value;

use super::failure::Cause;
use super::schema::join;

/// Rules of one node of a schema.
#[derive(Debug)]
pub(crate) struct Rules {
    compiled: CompiledSchema,
}

/// Functions of CEL that older servers do not know, with the first minor version that does.
const FUNCTIONS: &[(&str, u32)] = &[
    ("isQuantity(", 29),
    ("quantity(", 29),
    ("isIP(", 30),
    ("isCIDR(", 30),
    ("cidr(", 30),
    ("format.", 32),
    ("isSemver(", 34),
    ("semver(", 34),
];

impl Rules {
    /// Reads the rules of a node; those of its parts are left to their own nodes.
    pub(crate) fn read(schema: &Value) -> Option<Self> {
        schema["x-kubernetes-validations"].as_array()?;
        let mut own = schema.clone();
        let parts = own.as_object_mut()?.iter_mut();
        parts
            .filter(|(key, _)| *key != "x-kubernetes-validations")
            .for_each(|(_, part)| strip(part));
        Some(Self { compiled: compile_schema(&own) })
    }

    /// Returns what keeps a rule from being compiled in this minor version of the server.
    pub(crate) fn errors_of(rule: &Value, minor: u32) -> Vec<String> {
        let text = rule["rule"].as_str().unwrap_or_default();
        let schema = serde_json::json!({"x-kubernetes-validations": [rule]});
        let compiled = compile_schema(&schema);
        let errors = compiled.compilation_errors().into_iter().map(ToString::to_string);
        let unknown = FUNCTIONS.iter().filter(|(name, since)| minor < *since && calls(text, name));
        let unknown = unknown.map(|(name, _)| {
            let name = name.trim_end_matches(['(', '.']);
            format!("ERROR: <input>:1:1: undeclared reference to '{name}' (in container '')")
        });
        errors.chain(unknown).collect()
    }

    /// Evaluates the rules.
    pub(crate) fn check(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        (minor, causes): (u32, &mut Vec<Cause>),
    ) {
        let Err(errors) = validate_compiled(&self.compiled, value, old) else { return };
        for error in errors {
            let field = match error.field_path.as_str() {
                "" => path.to_owned(),
                below => join(path, below.trim_start_matches('.')),
            };
            let field = if field.is_empty() { "<nil>".to_owned() } else { field };
            let message = &error.message;
            let is_failed = error.kind == ErrorKind::ValidationFailure;
            let has_parts = value.is_object() || value.is_array();
            causes.push(match error.reason.as_deref().filter(|_| is_failed) {
                Some("FieldValueForbidden") => Cause::forbidden(field, message),
                Some("FieldValueRequired") => Cause::required(field, message),
                Some("FieldValueDuplicate") => Cause::duplicate(field, &shown(value)),
                // Newer servers do not show what has parts.
                _ if is_failed && has_parts && minor >= UNSHOWN => {
                    Cause::invalid_unshown(field, message)
                }
                _ => Cause::invalid(field, &shown(value), message),
            });
        }
    }
}

/// First minor version that is known to leave out values with parts; 1.36 does.
const UNSHOWN: u32 = 36;

/// Value that a failed rule shows: the type of what has parts.
fn shown(value: &Value) -> Value {
    match value {
        Value::Object(_) => "object".into(),
        Value::Array(_) => "array".into(),
        scalar => scalar.clone(),
    }
}

fn calls(text: &str, name: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(name).any(|(at, _)| !text[..at].ends_with(is_word))
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // A property may have the name of the keyword; then it is an object and stays.
            if map.get("x-kubernetes-validations").is_some_and(Value::is_array) {
                map.remove("x-kubernetes-validations");
            }
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Returns a context with the functions of Kubernetes.
pub(crate) fn context() -> Context<'static> {
    Context::default().with_all()
}

/// Converts JSON to CEL; whole numbers are `int`.
pub(crate) fn value(json: &Value) -> cel::Value {
    match json {
        Value::Null => cel::Value::Null,
        Value::Bool(flag) => cel::Value::Bool(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => cel::Value::Int(whole),
            None => cel::Value::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(items) => cel::Value::List(Arc::new(items.iter().map(value).collect())),
        Value::Object(map) => {
            let map: HashMap<Key, cel::Value> = map
                .iter()
                .map(|(key, json)| (Key::String(Arc::new(key.clone())), value(json)))
                .collect();
            cel::Value::Map(CelMap { map: Arc::new(map) })
        }
    }
}
