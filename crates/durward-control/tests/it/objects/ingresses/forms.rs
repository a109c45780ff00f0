//! Every form of an Ingress that an API server takes, as an object of a cluster: served, or said in a finding.

use super::*;

/// A name, a spec, the requests with what is done with each, and the reasons of the findings.
struct Case {
    name: &'static str,
    spec: Value,
    requests: &'static [(&'static str, &'static str, &'static str)],
    reasons: &'static [&'static str],
}

const WEB: &str = "service/acme/web:http";
const API: &str = "service/acme/api:80";

fn to_web() -> Value {
    json!({"service": {"name": "web", "port": {"name": "http"}}})
}

fn to_api() -> Value {
    json!({"service": {"name": "api", "port": {"number": 80}}})
}

fn path(path: &str, kind: &str, backend: &Value) -> Value {
    json!({"path": path, "pathType": kind, "backend": backend})
}

fn on(host: &str, paths: &[Value]) -> Value {
    json!({"host": host, "http": {"paths": paths}})
}

/// Ports and backends.
fn backends() -> Vec<Case> {
    let bucket = json!({"resource": {"apiGroup": "k8s.example", "kind": "Bucket", "name": "b"}});
    vec![
        Case {
            name: "ports by name and by number",
            spec: rules(&[on(
                "a.example",
                &[path("/", "Prefix", &to_web()), path("/api", "Prefix", &to_api())],
            )]),
            requests: &[("a.example", "/x", WEB), ("a.example", "/api/x", API)],
            reasons: &[],
        },
        Case {
            name: "defaultBackend alone",
            spec: json!({"defaultBackend": to_api()}),
            requests: &[("a.example", "/", API), ("b.example", "/x", API)],
            reasons: &[],
        },
        Case {
            name: "defaultBackend beside rules",
            spec: json!({"defaultBackend": to_api(), "rules": [on("a.example", &[path("/x", "Prefix", &to_web())])]}),
            requests: &[("a.example", "/x", WEB), ("b.example", "/", API)],
            reasons: &[],
        },
        Case {
            name: "a host without http is the default backend's",
            spec: json!({"defaultBackend": to_api(), "rules": [{"host": "a.example"}]}),
            requests: &[("a.example", "/", API)],
            reasons: &[],
        },
        Case {
            name: "a host without http and without a default backend",
            spec: rules(&[json!({"host": "a.example"})]),
            requests: &[("a.example", "/", "none")],
            reasons: &["NothingServed", "NothingServed"],
        },
        Case {
            name: "a resource as backend",
            spec: rules(&[on("a.example", &[path("/", "Prefix", &bucket)])]),
            requests: &[("a.example", "/", "503")],
            reasons: &["ResourceBackend"],
        },
        Case {
            name: "a resource as default backend",
            spec: json!({"defaultBackend": bucket}),
            requests: &[("a.example", "/", "503")],
            reasons: &["ResourceBackend"],
        },
    ]
}

/// Hosts, and several paths.
fn hosts() -> Vec<Case> {
    let web = &to_web();
    vec![
        Case {
            name: "several hosts, paths and rules",
            spec: rules(&[
                on("a.example", &[path("/x", "Prefix", web), path("/x/y", "Prefix", &to_api())]),
                on("b.example", &[path("/", "Prefix", &to_api())]),
            ]),
            requests: &[
                ("a.example", "/x", WEB),
                ("a.example", "/x/y/z", API),
                ("a.example", "/xy", "none"),
                ("b.example", "/", API),
            ],
            reasons: &[],
        },
        Case {
            name: "a wildcard",
            spec: rules(&[
                on("*.example", &[path("/", "Prefix", web)]),
                on("a.example", &[path("/", "Prefix", &to_api())]),
            ]),
            requests: &[("a.example", "/", API), ("b.example", "/", WEB), ("example", "/", "none")],
            reasons: &["WildcardDeeper"],
        },
        Case {
            name: "no host",
            spec: rules(&[json!({"http": {"paths": [path("/", "Prefix", web)]}})]),
            requests: &[("a.example", "/", WEB)],
            reasons: &[],
        },
        Case {
            name: "an empty host",
            spec: rules(&[on("", &[path("/", "Prefix", web)])]),
            requests: &[("a.example", "/", WEB)],
            reasons: &[],
        },
    ]
}

/// Types of paths.
fn path_types() -> Vec<Case> {
    let web = &to_web();
    vec![
        Case {
            name: "Exact before Prefix",
            spec: rules(&[on(
                "a.example",
                &[path("/a", "Prefix", web), path("/a", "Exact", &to_api())],
            )]),
            requests: &[
                ("a.example", "/a", API),
                ("a.example", "/a/", WEB),
                ("a.example", "/ab", "none"),
            ],
            reasons: &[],
        },
        Case {
            name: "ImplementationSpecific",
            spec: rules(&[on("a.example", &[path("/a", "ImplementationSpecific", web)])]),
            requests: &[("a.example", "/a/b", WEB), ("a.example", "/b", "none")],
            reasons: &[],
        },
        Case {
            name: "no path and no type",
            spec: rules(&[on("a.example", &[json!({"backend": web})])]),
            requests: &[("a.example", "/a", WEB)],
            reasons: &[],
        },
        Case {
            name: "a regular expression",
            spec: rules(&[on("a.example", &[path("/x(/|$)(.*)", "ImplementationSpecific", web)])]),
            requests: &[("a.example", "/x/y", "503"), ("a.example", "/y", "none")],
            reasons: &["RegularExpression"],
        },
    ]
}

// S3.27
#[test]
fn every_form_of_an_ingress_in_a_cluster_is_served_or_reported() {
    let cases: Vec<Case> = [backends(), hosts(), path_types()].into_iter().flatten().collect();
    assert_eq!(cases.len(), 15);

    for Case { name, spec, requests, reasons } in &cases {
        let mut world = world(&http(""));
        world.service_port(("acme", "api"), "80", &["10.0.0.12:8080"]);
        world.put(ingress(("acme", "shop"), &json!({}), spec));

        world.compile();

        for (host, path, wanted) in *requests {
            assert_eq!(done(&world, 80, host, path), *wanted, "{name}: {host}{path}");
        }
        assert_eq!(world.reasons("shop"), *reasons, "{name} {:?}", world.findings("shop"));
    }
}
