//! Bounds of lists, maps and texts, and the rules that the API server checks.
//!
//! Without bounds the server has to take the longest list that fits into an object for granted, and then refuses rules about its entries as too dear.

use serde_json::{Value, json};

const TEXT: u32 = 1_024;
const ITEMS: u32 = 64;
const ENTRIES: u32 = 64;

/// Lengths of texts that are not [`TEXT`].
const TEXTS: &[(&str, u32)] = &[("address", 253), ("name", 253), ("host", 253), ("body", 65_536)];
/// Items of lists that are not [`ITEMS`].
const LISTS: &[(&str, u32)] = &[
    ("routes", 512),
    ("endpoints", 512),
    ("ports", 256),
    ("allow", 512),
    ("deny", 512),
    ("hosts", 512),
    ("cidrs", 512),
    ("sources", 256),
    ("allowedSources", 512),
    ("names", 100),
];
/// Entries of maps that are not [`ENTRIES`].
const MAPS: &[(&str, u32)] = &[("upstreams", 256)];

/// Rules by the fields that only their object has.
const RULES: &[(&[&str], &str, &str)] = &[
    (
        &["port", "endPort"],
        "!has(self.endPort) || self.endPort >= self.port",
        "endPort must not be less than port",
    ),
    (
        &["burst", "requestsPerSecond"],
        "!has(self.burst) || has(self.requestsPerSecond)",
        "burst needs requestsPerSecond",
    ),
    (
        &["certificateFile", "keyFile"],
        "has(self.certificateFile) == has(self.keyFile)",
        "certificateFile and keyFile belong together",
    ),
];

/// Bounds a schema, and adds the rules.
pub(super) fn bound(schema: &mut Value) {
    of_field("", schema);
}

fn of_field(name: &str, schema: &mut Value) {
    let of = |table: &[(&str, u32)], usual: u32| {
        table.iter().find(|(field, _)| *field == name).map_or(usual, |(_, most)| *most)
    };
    match schema["type"].as_str() {
        Some("string") if schema.get("enum").is_none() => {
            schema["maxLength"] = json!(of(TEXTS, TEXT));
        }
        Some("array") => {
            schema["maxItems"] = json!(of(LISTS, ITEMS));
            // The bound of the texts in a list is that of a text, whatever the list is called.
            of_field("", &mut schema["items"]);
        }
        Some("object") if schema.get("additionalProperties").is_some() => {
            schema["maxProperties"] = json!(of(MAPS, ENTRIES));
            of_field("", &mut schema["additionalProperties"]);
        }
        Some("object") => of_object(schema),
        _ => {}
    }
}

fn of_object(schema: &mut Value) {
    let Some(fields) = schema["properties"].as_object_mut() else { return };
    fields.iter_mut().for_each(|(name, field)| of_field(name, field));
    let rules: Vec<Value> = RULES
        .iter()
        .filter(|(needed, _, _)| needed.iter().all(|name| fields.contains_key(*name)))
        .map(|(_, rule, message)| json!({ "rule": rule, "message": message }))
        .collect();
    if !rules.is_empty() {
        schema["x-kubernetes-validations"] = json!(rules);
    }
}
