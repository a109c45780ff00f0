//! Digests of a snapshot, by tenant and by mapping, so that a running gateway can be compared with files.
//!
//! A digest leaves out places in files, because the same documents may lie in another directory, and secrets, because the digest of a short secret
//! reveals it. A changed private key shows in its certificate; a changed credential does not show.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use durward_model::Snapshot;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Digests of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digests {
    /// Digests by tenant: listeners, upstreams, limits, egress.
    tenants: BTreeMap<String, String>,
    /// Digests by `tenant/mapping`.
    mappings: BTreeMap<String, String>,
}

/// Difference between a gateway's configuration and files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Name that only the files have.
    OnlyInFiles(String),
    /// Name that only the gateway serves.
    OnlyServed(String),
    /// Name that both have, with different content.
    Differs(String),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OnlyInFiles(what) => write!(f, "{what} is in the files and not served"),
            Self::OnlyServed(what) => write!(f, "{what} is served and not in the files"),
            Self::Differs(what) => {
                write!(f, "{what} is served as something else than the files say")
            }
        }
    }
}

impl Digests {
    /// Computes the digests of everything in `snapshot`.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let nat = &snapshot.nat;
        let mut rules: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for rule in &nat.egress {
            rules.entry(rule.tenant.as_str()).or_default().push(rule);
        }
        let tenants = snapshot.tenants.iter().map(|(id, tenant)| {
            let rules = rules.get(id.as_str());
            (id.to_string(), hash(json!([tenant, rules])))
        });
        let mappings = nat
            .mappings
            .iter()
            .map(|mapping| (format!("{}/{}", mapping.tenant, mapping.name), hash(json!(mapping))));
        Self { tenants: tenants.collect(), mappings: mappings.collect() }
    }

    /// Returns the differences of the served configuration, `self`, from the files.
    pub(crate) fn differences(&self, files: &Self) -> Vec<Difference> {
        let mut all = compare("tenant", &self.tenants, &files.tenants);
        all.extend(compare("mapping", &self.mappings, &files.mappings));
        all
    }
}

fn compare(
    kind: &str,
    served: &BTreeMap<String, String>,
    files: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let name = |name: &String| format!("{kind} {name}");
    let missing = served.keys().filter(|one| !files.contains_key(*one));
    let missing = missing.map(|one| Difference::OnlyServed(name(one)));
    let others = files.iter().filter_map(|(one, digest)| match served.get(one) {
        None => Some(Difference::OnlyInFiles(name(one))),
        Some(known) if known != digest => Some(Difference::Differs(name(one))),
        Some(_) => None,
    });
    missing.chain(others).collect()
}

fn hash(mut value: Value) -> String {
    forget_places(&mut value);
    // Keys of JSON objects are sorted, so equal values have equal texts.
    let text = value.to_string();
    let digest = digest(&SHA256, text.as_bytes());
    digest.as_ref().iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

fn forget_places(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("origin");
            fields.values_mut().for_each(forget_places);
        }
        Value::Array(values) => values.iter_mut().for_each(forget_places),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_value_is_no_part_of_its_digest() {
        let one = json!({"a": 1, "b": [{"origin": {"file": "x", "line": 1}, "c": 2}]});
        let moved = json!({"b": [{"c": 2, "origin": {"file": "y", "line": 9}}], "a": 1});
        let changed = json!({"a": 1, "b": [{"c": 3}]});

        assert_eq!(hash(one.clone()), hash(moved));
        assert_ne!(hash(one), hash(changed));
    }

    #[test]
    fn differences_name_what_is_missing_on_either_side() {
        let of = |tenants: &[(&str, &str)]| Digests {
            tenants: tenants.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            mappings: BTreeMap::new(),
        };
        let (served, files) = (of(&[("a", "1"), ("b", "1")]), of(&[("b", "2"), ("c", "1")]));

        let told: Vec<String> =
            served.differences(&files).iter().map(ToString::to_string).collect();

        assert_eq!(
            told,
            [
                "tenant a is served and not in the files",
                "tenant b is served as something else than the files say",
                "tenant c is in the files and not served"
            ]
        );
        assert!(served.differences(&served).is_empty());
    }
}
