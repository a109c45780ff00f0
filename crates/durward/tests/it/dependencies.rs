//! What the workspace is built from: where it comes from, under which licence, and not older than what repaired a known fault.
//!
//! `deny.toml` says it, and `cargo deny` reads it too. Deliberately absent: new advisories, which need the network; `.ci/audit` asks for those.

use std::process::Command;

use serde_json::Value as Json;
use toml::{Table, Value};

use crate::{root, text};

/// Versions that repaired faults a gateway suffers from; of each crate the oldest of those that are good.
const REPAIRED: &[(&str, [u64; 3])] = &[
    ("h2", [0, 4, 16]),
    ("hickory-proto", [0, 26, 1]),
    ("rustls", [0, 23, 18]),
    ("rustls-webpki", [0, 103, 13]),
    ("tokio", [1, 44, 2]),
];

// S2.50
#[test]
fn every_dependency_has_a_licence_that_is_allowed_and_comes_from_the_registry() {
    let rules = rules();
    let allowed = texts(&rules["licenses"]["allow"]);
    let banned: Vec<&str> = rules["bans"]["deny"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["crate"].as_str().unwrap())
        .collect();
    let packages = packages();

    let mut faults = Vec::new();
    for package in &packages {
        let (name, license) = (word(package, "name"), word(package, "license"));
        if !is_allowed(license, &allowed) {
            faults.push(format!("{name}: {license}"));
        }
        if banned.contains(&name) {
            faults.push(format!("{name} is banned"));
        }
        if package["source"].as_str().is_some_and(|source| !source.starts_with("registry+")) {
            faults.push(format!("{name}: {}", package["source"]));
        }
    }

    assert_eq!(faults, Vec::<String>::new());
    assert!(packages.len() > 100 && !banned.is_empty() && !allowed.is_empty());
}

// S2.50
#[test]
fn nothing_is_older_than_what_repaired_it() {
    let packages = packages();

    for (name, oldest) in REPAIRED {
        let mut seen = 0;
        for package in packages.iter().filter(|package| word(package, "name") == *name) {
            let version = word(package, "version");
            let numbers: Vec<u64> =
                version.split(['.', '-', '+']).take(3).map(|part| part.parse().unwrap()).collect();
            assert!(numbers.as_slice() >= oldest.as_slice(), "{name} {version}: {oldest:?}");
            seen += 1;
        }
        assert!(seen > 0, "{name} is no dependency any more; take it from the list");
    }
}

#[test]
fn the_workspace_declares_no_dependency_that_no_crate_has() {
    let manifest: Table = text("Cargo.toml").parse().unwrap();
    let declared = manifest["workspace"]["dependencies"].as_table().unwrap();
    let crates = std::fs::read_dir(root().join("crates")).unwrap();
    let manifests: Vec<Table> = crates
        .map(|entry| std::fs::read_to_string(entry.unwrap().path().join("Cargo.toml")).unwrap())
        .map(|text| text.parse().unwrap())
        .collect();

    let used = |name: &str| {
        let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
        let mut tables = manifests.iter().flat_map(|manifest| kinds.map(|kind| manifest.get(kind)));
        tables.any(|table| table.is_some_and(|table| table.get(name).is_some()))
    };
    let unused: Vec<_> = declared.keys().filter(|name| !used(name)).collect();

    assert!(declared.len() > 40 && manifests.len() > 6);
    assert_eq!(unused, Vec::<&String>::new());
}

// S2.50
#[test]
fn advisories_are_asked_for_by_a_command_that_ignores_none() {
    let audit = text(".ci/audit");

    assert!(audit.contains("cargo deny check"), "{audit}");
    assert_eq!(texts(&rules()["advisories"]["ignore"]), Vec::<&str>::new());
}

#[test]
fn a_licence_that_needs_another_beside_it_needs_both() {
    let allowed = ["MIT", "ISC"];

    for good in ["MIT", "MIT OR GPL-3.0", "GPL-3.0/MIT", "ISC AND (GPL-2.0 OR MIT)"] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-2.0", ""] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}

/// Whether an SPDX expression can be met: all of its parts at `AND`, one of each at `OR`.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    split(expression, &[" AND "]).iter().all(|part| {
        let part = part.trim();
        let inner = part.strip_prefix('(').and_then(|part| part.strip_suffix(')'));
        match inner {
            Some(inner) => is_allowed(inner, allowed),
            None => {
                let choices = split(part, &[" OR ", "/"]);
                if choices.len() == 1 {
                    allowed.contains(&part)
                } else {
                    choices.iter().any(|choice| is_allowed(choice.trim(), allowed))
                }
            }
        }
    })
}

/// The parts between separators that stand outside of parentheses.
fn split<'a>(expression: &'a str, separators: &[&str]) -> Vec<&'a str> {
    let (mut parts, mut depth, mut from, mut at) = (Vec::new(), 0, 0, 0);
    while at < expression.len() {
        let rest = &expression[at..];
        match rest.as_bytes()[0] {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        let separator =
            separators.iter().find(|separator| depth == 0 && rest.starts_with(**separator));
        if let Some(separator) = separator {
            parts.push(&expression[from..at]);
            at += separator.len();
            from = at;
        } else {
            at += 1;
        }
    }
    parts.push(&expression[from..]);
    parts
}

fn rules() -> Table {
    text("deny.toml").parse().unwrap()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect()
}

fn word<'a>(package: &'a Json, field: &str) -> &'a str {
    package[field].as_str().unwrap_or_default()
}

/// All packages of the lock file that a build on Linux takes.
fn packages() -> Vec<Json> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH)])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let mut metadata: Json = serde_json::from_slice(&metadata.stdout).unwrap();
    match metadata["packages"].take() {
        Json::Array(packages) => packages,
        other => panic!("{other}"),
    }
}
