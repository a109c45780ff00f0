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
    /// Minor version of the server that knows all functions, and the first function that needs it.
    pub(crate) needs: Option<(u32, &'static str)>,
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
        let rules = schema["x-kubernetes-validations"].as_array()?;
        let mut own = schema.clone();
        let parts = own.as_object_mut()?.iter_mut();
        parts
            .filter(|(key, _)| *key != "x-kubernetes-validations")
            .for_each(|(_, part)| strip(part));
        let texts = || rules.iter().filter_map(|rule| rule["rule"].as_str());
        let needs = FUNCTIONS.iter().filter(|(name, _)| texts().any(|text| calls(text, name)));
        let needs = needs.max_by_key(|(_, minor)| *minor).map(|&(name, minor)| (minor, name));
        Some(Self { compiled: compile_schema(&own), needs })
    }

    /// Returns what keeps a rule from being compiled.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.compiled.compilation_errors().iter().map(ToString::to_string).collect()
    }

    /// Evaluates the rules.
    pub(crate) fn check(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        causes: &mut Vec<Cause>,
    ) {
        let Err(errors) = validate_compiled(&self.compiled, value, old) else { return };
        for error in errors {
            let field = match error.field_path.as_str() {
                "" => path.to_owned(),
                below => join(path, below.trim_start_matches('.')),
            };
            let field = if field.is_empty() { "<nil>".to_owned() } else { field };
            let mut cause = match (error.kind, error.reason.as_deref()) {
                (ErrorKind::ValidationFailure, Some("FieldValueForbidden")) => {
                    Cause::forbidden(field, &error.message)
                }
                (ErrorKind::ValidationFailure, Some("FieldValueRequired")) => {
                    Cause::required(field, &error.message)
                }
                _ => Cause::invalid(field, &shown(value), &error.message),
            };
            if error.reason.as_deref() == Some("FieldValueDuplicate") {
                cause.reason = "FieldValueDuplicate";
            }
            causes.push(cause);
        }
    }
}

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
