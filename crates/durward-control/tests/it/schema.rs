//! The JSON schema and the examples: what is documented is what is read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use durward_control::{FileSource, Issuance, compile, schema};
use durward_model::verdict::Severity;

use crate::certificates::NOW;

#[test]
fn the_schema_names_every_part_of_a_tenant() {
    let schema = schema().to_string();

    for word in [
        "apiVersion",
        "clientCertificates",
        "minTlsVersion",
        "pathPrefix",
        "sourceAddresses",
        "streamIdle",
    ] {
        assert!(schema.contains(&format!("\"{word}\"")), "{word}");
    }
}

fn reference() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/configuration.md");
    fs::read_to_string(path).unwrap()
}

/// The names of all properties in a schema.
fn properties(schema: &serde_json::Value, found: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(object) => {
            let named = object.get("properties").and_then(serde_json::Value::as_object);
            found.extend(named.into_iter().flat_map(|named| named.keys().cloned()));
            object.values().for_each(|value| properties(value, found));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| properties(item, found)),
        _ => {}
    }
}

#[test]
fn the_reference_names_every_field() {
    let mut fields = BTreeSet::new();
    properties(&schema(), &mut fields);
    let reference = reference();
    assert!(fields.len() > 80, "{} fields", fields.len());

    let missing: Vec<_> =
        fields.iter().filter(|field| !reference.contains(field.as_str())).collect();

    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_reference_names_every_reason_the_cases_show() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut reasons = BTreeSet::new();
    for entry in fs::read_dir(cases).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "snap") {
            let text = fs::read_to_string(path).unwrap();
            let found = text.lines().filter_map(|line| {
                line.strip_prefix("  Error ")
                    .or_else(|| line.strip_prefix("  Warning "))?
                    .split(' ')
                    .next()
            });
            reasons.extend(found.map(str::to_owned));
        }
    }
    let reference = reference();
    assert!(reasons.len() > 50, "{} reasons", reasons.len());

    let missing: Vec<_> =
        reasons.iter().filter(|reason| !reference.contains(&format!("`{reason}`"))).collect();

    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_examples_have_no_fault_but_missing_certificates() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut seen = 0;

    for entry in fs::read_dir(&examples).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() || path.extension().is_none_or(|ending| ending == "md") {
            continue;
        }
        seen += 1;
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().to_owned();
        let issuance = Issuance { directory, authorities: Vec::new() };
        let source = FileSource::default().with_issuance(issuance);
        let resources = source.load(std::slice::from_ref(&path));
        let compiled = compile(&resources, None, NOW);
        let faults: Vec<_> = compiled
            .verdicts
            .findings()
            .filter(|(_, finding)| {
                finding.severity == Severity::Error && &*finding.reason != "FileMissing"
            })
            .map(|(_, finding)| finding.to_string())
            .filter(|finding| !finding.contains("\"canary\" is left out"))
            .collect();
        assert!(faults.is_empty(), "{}: {faults:#?}", path.display());
        assert!(!compiled.verdicts.is_empty(), "{} says nothing", path.display());
    }
    assert!(seen >= 4, "{seen} examples");
}
