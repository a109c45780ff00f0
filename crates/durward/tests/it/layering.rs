//! The layers of the workspace, held by reading every crate's manifest; those of the proxy's rooms by reading its sources.
//!
//! Deliberately absent: `cargo metadata`; what matters is what somebody writes into a manifest, not what it pulls in.

mod rooms;

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::root;

const RULES: &[Rule] = &[
    Rule {
        crates: &["durward-model"],
        never: &[
            "tokio*",
            "hyper*",
            "h2",
            "rustls*",
            "kube*",
            "k8s-openapi",
            "socket2",
            "notify",
            "rustix",
            "libc",
            "durward*",
        ],
        why: "the model is values only: no I/O, no clock, nothing of ours below it",
    },
    Rule {
        crates: &["durward-control"],
        never: &[
            "durward-proxy",
            "durward-nat",
            "hyper*",
            "h2",
            "rustls",
            "tokio-rustls",
            "socket2",
        ],
        why: "control says what is true; it carries no bytes and knows no plane",
    },
    Rule {
        crates: &["durward-migrate"],
        never: &["durward-proxy", "durward-nat", "tokio*", "hyper*", "rustls*", "rustix", "notify"],
        why: "migrate turns texts into texts; it knows documents and the model, reads no file and no plane",
    },
    Rule {
        crates: &["durward-acme"],
        never: &["durward-*", "kube*", "notify"],
        why: "acme knows authorities and certificates; tenants, listeners and files are the application's",
    },
    Rule {
        crates: &["durward-apiproxy"],
        never: &["durward-*", "kube*", "k8s-openapi", "axum", "hyper*", "h2", "notify"],
        why: "apiproxy knows sockets and certificates; it runs where no tenant and no gateway is",
    },
    Rule {
        crates: &[
            "durward-control",
            "durward-proxy",
            "durward-nat",
            "durward-migrate",
            "durward-testkit",
        ],
        never: &["durward-acme", "instant-acme"],
        why: "only the application orders certificates",
    },
    Rule {
        crates: &["durward-control", "durward-proxy", "durward-nat", "durward-testkit"],
        never: &["durward-migrate"],
        why: "only the command line migrates",
    },
    Rule {
        crates: &["durward-proxy"],
        never: &[
            "durward-control",
            "durward-nat",
            "hyper*",
            "axum",
            "notify",
            "serde-saphyr",
            "schemars",
        ],
        why: "the proxy serves a snapshot; it knows no document and has its own HTTP engine",
    },
    Rule {
        crates: &["durward-nat"],
        never: &["durward-control", "durward-proxy", "hyper*", "rustls*"],
        why: "the kernel plane knows the model only",
    },
    Rule {
        crates: &["durward-link"],
        never: &["durward-*", "kube*", "hyper*", "axum"],
        why: "the link is what two programs say to each other; tenants are the gateway's, backends the agent's",
    },
    Rule {
        crates: &["durward-agent"],
        never: &["durward-proxy", "durward-nat", "durward-kube", "hyper*", "axum"],
        why: "the agent runs in another network than the gateway and needs none of its planes; of control it reads Ingresses",
    },
    Rule { crates: &["*"], never: &["durward"], why: "nothing stands above the binary" },
    Rule {
        crates: &["*"],
        never: &["durward-testkit"],
        why: "the test kit is for dev-dependencies",
    },
    Rule {
        crates: &[
            "durward-acme",
            "durward-control",
            "durward-migrate",
            "durward-model",
            "durward-proxy",
            "durward-nat",
        ],
        never: &["kube", "kube-*", "k8s-openapi", "gateway-api", "durward-kube"],
        why: "Kubernetes ends in durward-kube",
    },
    Rule {
        crates: &["durward"],
        never: &["kube", "kube-*", "gateway-api"],
        why: "the binary names the version of the API's types and knows none of them",
    },
    Rule {
        crates: &["durward-kube"],
        never: &["durward-proxy", "durward-nat", "durward-migrate", "durward-acme", "h2", "axum"],
        why: "the source of objects knows documents and the model, and no plane",
    },
];

struct Rule {
    crates: &'static [&'static str],
    never: &'static [&'static str],
    why: &'static str,
}

#[test]
fn every_crate_keeps_to_its_layer() {
    let manifests = manifests();

    let broken: Vec<String> =
        manifests.iter().flat_map(|(path, text)| violations(path, text)).collect();

    assert!(manifests.len() >= 12, "only {} manifests found", manifests.len());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_forbidden_dependency_is_seen_however_it_is_written() {
    let forbidden = [
        ("durward-model", "[dependencies]\ntokio.workspace = true"),
        ("durward-model", "[dependencies.hyper-util]\nversion = '1'"),
        ("durward-model", "[target.'cfg(unix)'.dependencies]\nrustls = '0.23'"),
        ("durward-model", "[build-dependencies]\nnotify = '8'"),
        ("durward-model", "[dependencies]\ninnocent = { package = 'socket2', version = '0.6' }"),
        ("durward-control", "[dependencies]\ndurward-proxy.workspace = true"),
        ("durward-control", "[dependencies]\ndurward-migrate.workspace = true"),
        ("durward-migrate", "[dependencies]\ndurward-nat.workspace = true"),
        ("durward-proxy", "[dependencies]\ndurward-control = { path = '../durward-control' }"),
        ("durward-proxy", "[dependencies]\nkube = '4'"),
        ("durward-control", "[dependencies]\nkube.workspace = true"),
        ("durward", "[dependencies]\nkube-runtime = '5'"),
        ("durward-kube", "[dependencies]\ndurward-nat.workspace = true"),
        ("durward-testkit", "[dependencies]\ndurward.workspace = true"),
        ("durward", "[dependencies]\ndurward-testkit.workspace = true"),
    ];

    for (name, dependencies) in forbidden {
        let manifest = format!("[package]\nname = '{name}'\n{dependencies}");

        assert_eq!(violations("fake", &manifest).len(), 1, "{manifest}");
    }
}

#[test]
fn what_is_allowed_is_not_reported() {
    let allowed = [
        ("durward-model", "[dev-dependencies]\ntokio.workspace = true"),
        ("durward-control", "[dependencies]\ndurward-model.workspace = true"),
        ("durward-kube", "[dependencies]\nkube = '5'\ndurward-control.workspace = true"),
        ("durward", "[dependencies]\nk8s-openapi = '0.29'\ndurward-kube.workspace = true"),
        ("durward-migrate", "[dependencies]\ndurward-control.workspace = true"),
        ("durward", "[dev-dependencies]\ndurward-testkit.workspace = true"),
    ];

    for (name, dependencies) in allowed {
        let manifest = format!("[package]\nname = '{name}'\n{dependencies}");

        assert_eq!(violations("fake", &manifest), Vec::<String>::new(), "{manifest}");
    }
}

fn violations(path: &str, manifest: &str) -> Vec<String> {
    let manifest: Table =
        manifest.parse().unwrap_or_else(|error| panic!("{path} is not TOML: {error}"));
    let name = manifest["package"]["name"].as_str().expect("package.name is a string");
    let dependencies = dependencies(&manifest);
    let applying = RULES.iter().filter(|rule| any_matches(rule.crates, name));
    applying
        .flat_map(|rule| {
            dependencies
                .iter()
                .filter(|dependency| any_matches(rule.never, dependency))
                .map(|dependency| format!("{path}: {name} depends on {dependency}: {}", rule.why))
        })
        .collect()
}

/// What is linked into the crate or its build script; development dependencies are free.
fn dependencies(manifest: &Table) -> BTreeSet<String> {
    let platforms = manifest.get("target").and_then(Value::as_table);
    let tables = std::iter::once(manifest)
        .chain(platforms.into_iter().flat_map(|table| table.values().filter_map(Value::as_table)));
    tables
        .flat_map(|table| ["dependencies", "build-dependencies"].map(|kind| table.get(kind)))
        .filter_map(|kind| kind.and_then(Value::as_table))
        .flatten()
        .map(|(key, value)| {
            let renamed = value.get("package").and_then(Value::as_str);
            renamed.unwrap_or(key).to_owned()
        })
        .collect()
}

fn any_matches(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => *pattern == name,
    })
}

fn manifests() -> Vec<(String, String)> {
    let crates = std::fs::read_dir(root().join("crates")).unwrap();
    crates
        .map(|entry| entry.unwrap().path().join("Cargo.toml"))
        .filter(|path| path.is_file())
        .map(|path| {
            (path.display().to_string(), std::fs::read_to_string(&path).expect("it is a file"))
        })
        .collect()
}
