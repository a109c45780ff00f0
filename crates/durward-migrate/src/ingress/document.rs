//! The documents: an entry's settings on lines of their own, a route or upstream on one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use durward_control::foreign::Merged;
use durward_control::spec::tenant::{API_VERSION, KIND};
use serde::Serialize;
use serde_json::{Map, Value, json};
use serde_saphyr::{FlowMap, SerializerOptions, ser_options};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    api_version: &'static str,
    kind: &'static str,
    metadata: FlowMap<Map<String, Value>>,
    spec: Spec,
}

#[derive(Serialize)]
struct Spec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ingress: Vec<Entry>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    upstreams: BTreeMap<String, FlowMap<Map<String, Value>>>,
    egress: FlowMap<Map<String, Value>>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    limits: Map<String, Value>,
}

#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    fields: Map<String, Value>,
    routes: Vec<FlowMap<Map<String, Value>>>,
}

/// Writes the document of a tenant.
pub(super) fn tenant(name: &str, merged: &Merged, egress: &[IpAddr], is_shared: bool) -> String {
    let entries = merged.ingress.iter().map(|entry| {
        let mut fields = fields(entry);
        let routes = match fields.remove("routes") {
            Some(Value::Array(routes)) => routes,
            _ => Vec::new(),
        };
        Entry { fields, routes: routes.into_iter().map(object).map(FlowMap).collect() }
    });
    let upstreams = merged.upstreams.iter();
    let upstreams =
        upstreams.map(|(name, upstream)| (name.value.clone(), FlowMap(fields(upstream))));
    let mut leaves = object(json!({"addresses": egress}));
    if is_shared {
        leaves.insert("shared".to_owned(), Value::Bool(true));
    }
    let document = Document {
        api_version: API_VERSION,
        kind: KIND,
        metadata: FlowMap(object(json!({"name": name}))),
        spec: Spec {
            ingress: entries.collect(),
            upstreams: upstreams.collect(),
            egress: FlowMap(leaves),
            limits: fields(&merged.limits),
        },
    };
    serde_saphyr::to_string_with_options(&document, options())
        .expect("texts, numbers and lists have a YAML form")
}

/// The fields that say something. None of those that are left out means anything else when it is written than when it is not.
fn fields(value: &impl Serialize) -> Map<String, Value> {
    let value = serde_json::to_value(value).expect("texts, numbers and lists have a JSON form");
    object(said(value))
}

fn said(value: Value) -> Value {
    let is_silent = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (name, said(value)));
            Value::Object(fields.filter(|(_, value)| !is_silent(value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(said).collect()),
        other => other,
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Long texts are not folded: a reader of the file looks for what was written.
fn options() -> SerializerOptions {
    ser_options! { prefer_block_scalars: false, compact_list_indent: false }
}
