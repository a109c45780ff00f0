//! Objects with every field that holds a string.

use durward_model::Kind;
use serde_json::{Value, json};

/// An object, of which a string is replaced by others.
pub(super) struct Example {
    /// Name of the example.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) namespace: &'static str,
    /// Its `spec` and its `annotations`.
    pub(super) whole: Value,
    /// Part of the errors that the example has anyway.
    pub(super) expected: Option<&'static str>,
}

macro_rules! example {
    ($name:literal, $kind:ident, $namespace:literal, $expected:expr) => {
        Example {
            name: $name,
            kind: Kind::$kind,
            namespace: $namespace,
            whole: json!({"spec": serde_saphyr::from_str::<Value>(include_str!(concat!($name, ".yaml"))).unwrap()}),
            expected: $expected,
        }
    };
}

/// Certificates by ACME are ordered for documents of files alone.
const NO_ACME: Option<&str> = Some("acme");

/// Returns all examples.
pub(super) fn examples() -> Vec<Example> {
    let mut examples = ours();
    examples.extend(foreign());
    examples
}

fn ours() -> Vec<Example> {
    vec![
        example!("tenant-http", Tenant, "", None),
        example!("tenant-egress", Tenant, "", None),
        example!("tenant-transparent", Tenant, "", None),
        example!("tenant-acme", Tenant, "", NO_ACME),
        example!("tenant-link", Tenant, "", None),
        // The certificates at hand are no authorities.
        example!("tenant-join", Tenant, "", Some("agentAuthority")),
        // The fields of a health check over HTTP are an upstream's.
        example!("mapping", PortMapping, "acme", Some("is for upstreams")),
        example!("mapping-in-own-namespace", PortMapping, "durward", None),
        example!("policy", EgressPolicy, "acme", None),
        example!("policy-in-own-namespace", EgressPolicy, "durward", None),
        example!("hosted", HostedApi, "acme", None),
        example!("hosted-by-address", HostedApi, "durward", Some("is for other upstreams")),
        example!("hosted-in-one-file", HostedApi, "durward", None),
        example!("hosted-by-acme", HostedApi, "durward", NO_ACME),
    ]
}

fn foreign() -> Vec<Example> {
    let of = |name, kind, spec: Value| Example {
        name,
        kind,
        namespace: "acme",
        whole: json!({"spec": spec}),
        expected: None,
    };
    let mapping = json!({
        "addresses": ["198.51.100.3"], "allowedSources": ["192.0.2.0/24"], "mode": "service", "serviceName": "pay",
        "ports": [{"port": 80, "protocol": "tcp", "servicePort": 80}],
    });
    let ingress = json!({
        "tls": [{"hosts": ["shop.acme.example"], "secretName": "all"}],
        "rules": [{"host": "shop.acme.example", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "pay", "port": {"name": "http"}}}},
        ]}}],
        "defaultBackend": {"service": {"name": "pay", "port": {"number": 80}}},
    });
    let control_plane = json!({
        "controlPlane": {"ingress": {"hostname": "t1.k8s.acme.example"}},
        "networkProfile": {"port": 6443},
    });
    let traefik = json!({
        "entryPoints": ["websecure"],
        "routes": [{"match": "HostSNI(`t1.k8s.acme.example`)", "services": [{"name": "pay", "port": "http"}]}],
        "tls": {"passthrough": true},
    });
    let tls_route = json!({
        "hostnames": ["t1.k8s.acme.example"],
        "rules": [{"backendRefs": [{"name": "pay", "port": 6443}]}],
    });
    let mut foreign = vec![
        of("smartnat", Kind::Mapping, mapping),
        of("ingress", Kind::Ingress, ingress),
        of("kamaji", Kind::KamajiControlPlane, control_plane.clone()),
        of("steward", Kind::StewardControlPlane, control_plane),
        of("traefik", Kind::IngressRouteTcp, traefik),
        of("tls-route", Kind::TlsRoute, tls_route),
    ];
    foreign[0].whole["annotations"] = json!({"durward.dev/shared": "true"});
    foreign[1].whole["annotations"] = json!({
        "nginx.ingress.kubernetes.io/ssl-redirect": "false",
        "nginx.ingress.kubernetes.io/proxy-read-timeout": "30",
    });
    foreign
}
