//! The JSON schema and the examples: what is documented is what is read.

use std::fs;
use std::path::Path;

use durward_control::{FileSource, compile, schema};
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
        let resources = FileSource::default().load(std::slice::from_ref(&path));
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
        assert!(!compiled.verdicts.verdicts.is_empty(), "{} says nothing", path.display());
    }
    assert!(seen >= 4, "{seen} examples");
}
