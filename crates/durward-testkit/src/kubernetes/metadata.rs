//! What the server refuses of an object's metadata.

use serde_json::Value;

use super::failure::Cause;
use super::kind::NameRule;
use super::state::Place;

/// Finalizers without a slash that belong to the control plane.
const STANDARD_FINALIZERS: &[&str] = &["orphan", "foregroundDeletion", "kubernetes"];

/// Returns what is wrong with an object's metadata.
pub(crate) fn causes(place: &Place, minor: u32, object: &Value) -> Vec<Cause> {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let mut causes = Vec::new();
    // Names of Services may begin with a digit since 1.36.
    let rule = match place.kind.names {
        NameRule::ServiceLabel if minor >= 36 => NameRule::Label,
        rule => rule,
    };
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Some(detail) = name_error(rule, name) {
        causes.push(Cause::invalid("metadata.name", &name.into(), detail));
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        label(&mut causes, key, value);
    }
    for owner in items(&metadata["ownerReferences"]) {
        owner_reference(&mut causes, owner);
    }
    for (index, finalizer) in items(&metadata["finalizers"]).enumerate() {
        let text = finalizer.as_str().unwrap_or_default();
        if place.kind.custom {
            // Of custom kinds the server asks only for what may stand in a label's place, and does not say which one it is.
            if let Some(detail) = key_error(text) {
                causes.push(Cause::invalid("metadata.finalizers", finalizer, detail));
            }
        } else if !text.contains('/') && !STANDARD_FINALIZERS.contains(&text) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            let field = format!("metadata.finalizers[{index}]");
            causes.push(Cause::invalid(field, finalizer, detail));
        }
    }
    causes
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Returns what is wrong with the key of a label or the name of a finalizer.
fn key_error(key: &str) -> Option<&'static str> {
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    let is_wrong = name.is_empty() || !is_label_value(name);
    is_wrong.then_some(
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
    )
}

fn label(causes: &mut Vec<Cause>, key: &str, value: &Value) {
    if let Some(detail) = key_error(key) {
        causes.push(Cause::invalid("metadata.labels", &key.into(), detail));
    }
    let text = value.as_str().unwrap_or_default();
    if text.len() > 63 {
        let detail = "must be no more than 63 bytes";
        causes.push(Cause::invalid("metadata.labels", value, detail));
    } else if !text.is_empty() && !is_label_value(text) {
        let detail = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
        causes.push(Cause::invalid("metadata.labels", value, detail));
    }
}

fn owner_reference(causes: &mut Vec<Cause>, owner: &Value) {
    let fields = [
        ("apiVersion", "version must not be empty"),
        ("kind", "must not be empty"),
        ("name", "must not be empty"),
        ("uid", "must not be empty"),
    ];
    for (key, detail) in fields {
        if owner[key].as_str().unwrap_or_default().is_empty() {
            let field = format!("metadata.ownerReferences.{key}");
            causes.push(Cause::invalid(field, &"".into(), detail));
        }
    }
}

fn is_label_value(text: &str) -> bool {
    let is_end = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
    is_end(text.chars().next())
        && is_end(text.chars().last())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
}

/// Returns what is wrong with a name.
pub(crate) fn name_error(rule: NameRule, name: &str) -> Option<&'static str> {
    let lower = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let is_label = |label: &str| {
        label.starts_with(lower)
            && label.ends_with(lower)
            && label.chars().all(|letter| lower(letter) || letter == '-')
    };
    match rule {
        NameRule::PathSegment => {
            (name == "." || name == ".." || name.contains(['/', '%']))
                .then_some("may not contain '/' or '%'")
        }
        NameRule::Subdomain if name.len() > 253 => Some("must be no more than 253 characters"),
        NameRule::Subdomain => (!name.split('.').all(is_label)).then_some(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
        NameRule::Label | NameRule::ServiceLabel if name.len() > 63 => {
            Some("must be no more than 63 characters")
        }
        NameRule::Label if name.contains('.') => Some("must not contain dots"),
        NameRule::Label => (!is_label(name)).then_some(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        NameRule::ServiceLabel => {
            (!is_label(name) || !name.starts_with(|letter: char| letter.is_ascii_lowercase()))
                .then_some(
                    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
                )
        }
    }
}
