//! SmartNat's objects as our documents, as text a person reads before it is used.
//!
//! Deliberately absent: a cluster; objects are given as text, like `kubectl get … -o yaml` writes them.

mod objects;

use std::fmt::Write as _;

use serde_json::Value;

pub use objects::SmartNatOptions;

/// What came of a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migration {
    /// The documents of each tenant, as YAML, with the name their file should have.
    pub documents: Vec<(String, String)>,
    /// How many mappings are among them.
    pub mappings: usize,
    /// What a person should look at.
    pub notes: Vec<String>,
}

/// Turns SmartNat's `Mapping` objects into `PortMapping` and `Tenant` documents, one tenant per namespace. `texts` may hold the
/// `Service` and `EndpointSlice` objects the mappings refer to; without them endpoints are left for a person to fill in.
///
/// # Errors
/// When a text is neither YAML nor JSON; the sentence says where.
pub fn migrate(texts: &[(String, String)], options: SmartNatOptions) -> Result<Migration, String> {
    let mut objects = Vec::new();
    for (file, text) in texts {
        for part in crate::spec::document::split(text) {
            let value: Value = serde_saphyr::from_str(part.text).map_err(|error| {
                let first = error.to_string();
                let first = first.lines().next().unwrap_or_default().to_owned();
                format!("{file}:{}: {first}", part.first_line)
            })?;
            flatten(value, &mut objects);
        }
    }
    Ok(objects::migrate(&objects, options))
}

/// Lists become their items.
fn flatten(value: Value, into: &mut Vec<Value>) {
    match value {
        Value::Object(mut object)
            if object
                .get("kind")
                .is_some_and(|kind| kind.as_str().is_some_and(|kind| kind.ends_with("List"))) =>
        {
            if let Some(Value::Array(items)) = object.remove("items") {
                items.into_iter().for_each(|item| flatten(item, into));
            }
        }
        other => into.push(other),
    }
}

/// A text as YAML: quoted unless it cannot be anything else.
fn scalar(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    let begins = text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
        .contains(&text.to_ascii_lowercase().as_str());
    if begins && !word && text.bytes().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            other if other.is_control() => drop(write!(quoted, "\\u{:04x}", u32::from(other))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| scalar(&item)).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_unless_they_are_plain() {
        assert_eq!(scalar("acme-desk"), "acme-desk");
        assert_eq!(scalar("203.0.113.1"), "\"203.0.113.1\"");
        assert_eq!(scalar("No"), "\"No\"");
        assert_eq!(scalar("a: {b}\n\"c\""), "\"a: {b}\\u000a\\\"c\\\"\"");
    }
}
