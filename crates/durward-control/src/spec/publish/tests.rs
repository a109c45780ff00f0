use super::*;
use crate::document::Content;
use crate::spec::document;

const SERVED: &str = "names: [T1.k8s.example., t1-old.k8s.example], upstream: {service: {name: t1, port: 6443}}, konnectivity: {name: t1.konnectivity.example, service: {name: t1, port: 8132}}";

fn written(spec: &str) -> Result<Vec<Value>, Vec<String>> {
    let text = format!(
        "apiVersion: durward.dev/v1alpha1\nkind: HostedApi\nmetadata: {{name: t1}}\nspec: {{{spec}}}\n"
    );
    let kind = durward_model::Kind::HostedApi;
    let source = document::source(kind, &"f".into(), text.into(), 1, Vec::new());
    let content = document::content(&source);
    let Content::HostedApi(hosted) = content else { panic!("{content:?}") };
    objects("t1", &hosted.spec).map_err(|faults| {
        faults.iter().map(|fault| format!("{} {}", fault.field, fault.sentence)).collect()
    })
}

fn published(publish: &str) -> Result<Vec<Value>, Vec<String>> {
    written(&format!("{SERVED}, publish: {{{publish}}}"))
}

#[test]
fn for_traefik_one_route_has_a_rule_for_each_server_and_passes_tls_through() {
    let written = published("controller: Traefik, ingressClassName: traefik").unwrap();

    assert_eq!(
        written,
        [json!({
            "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRouteTCP",
            "metadata": {"name": "t1", "annotations": {"kubernetes.io/ingress.class": "traefik"}},
            "spec": {
                "entryPoints": ["websecure"],
                "routes": [
                    {"match": "HostSNI(`t1.k8s.example`) || HostSNI(`t1-old.k8s.example`)", "services": [{"name": "t1", "port": 6443}]},
                    {"match": "HostSNI(`t1.konnectivity.example`)", "services": [{"name": "t1", "port": 8132}]},
                ],
                "tls": {"passthrough": true},
            },
        })]
    );
}

// S4.26
#[test]
fn an_ingress_has_the_annotations_of_its_controller_and_those_of_the_user() {
    let own = "annotations: {a: b, nginx.ingress.kubernetes.io/ssl-passthrough: 'false'}, labels: {team: x}, ingressClassName: c";
    for (controller, theirs) in [
        (
            "HAProxy",
            json!({
                "a": "b", "nginx.ingress.kubernetes.io/ssl-passthrough": "false",
                "haproxy.org/ssl-passthrough": "true", "haproxy-ingress.github.io/ssl-passthrough": "true",
            }),
        ),
        (
            "NGINX",
            json!({
                "a": "b", "nginx.ingress.kubernetes.io/ssl-passthrough": "true",
                "nginx.ingress.kubernetes.io/backend-protocol": "HTTPS",
            }),
        ),
        ("Generic", json!({"a": "b", "nginx.ingress.kubernetes.io/ssl-passthrough": "false"})),
    ] {
        let written = published(&format!("controller: {controller}, {own}")).unwrap();

        let [ingress] = &written[..] else { panic!("{written:?}") };
        assert_eq!(ingress["metadata"]["annotations"], theirs, "{controller}");
        assert_eq!(ingress["metadata"]["labels"], json!({"team": "x"}));
        assert_eq!(ingress["spec"]["ingressClassName"], "c");
        let rules = ingress["spec"]["rules"].as_array().unwrap();
        let hosts: Vec<_> = rules.iter().map(|rule| rule["host"].as_str().unwrap()).collect();
        assert_eq!(hosts, ["t1.k8s.example", "t1-old.k8s.example", "t1.konnectivity.example"]);
        let backend = &rules[2]["http"]["paths"][0]["backend"]["service"];
        assert_eq!(*backend, json!({"name": "t1", "port": {"number": 8132}}));
    }
}

#[test]
fn each_server_has_a_tls_route_of_its_own() {
    let refs = "parentRefs: [{name: gateway, namespace: infra, sectionName: tls, port: 443}]";
    let written = published(&format!("controller: TLSRoute, {refs}")).unwrap();

    let names: Vec<_> = written.iter().map(|one| one["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["t1", "t1-konnectivity"]);
    let parent =
        json!([{"name": "gateway", "namespace": "infra", "sectionName": "tls", "port": 443}]);
    assert!(written.iter().all(|one| one["spec"]["parentRefs"] == parent));
    assert_eq!(written[1]["spec"]["hostnames"], json!(["t1.konnectivity.example"]));
    let backends = json!([{"backendRefs": [{"name": "t1", "port": 8132}]}]);
    assert_eq!(written[1]["spec"]["rules"], backends);
    let all = known("t1");
    for one in &written {
        assert!(all.iter().any(|known| {
            known["kind"] == one["kind"] && known["metadata"]["name"] == one["metadata"]["name"]
        }));
    }
}

/// What stands for what most of the specs below have.
const PARTS: [(&str, &str); 2] = [
    ("API", "names: [t1.k8s.example], upstream: {service: {name: t1, port: 6443}}"),
    ("TRAEFIK", "publish: {controller: Traefik}"),
];
/// A spec, the field that is refused, and words of the reason.
const UNFIT: &[(&str, &str, &str)] = &[
    (
        "names: [kubernetes.default.svc], upstream: {service: {name: t1, port: 1}}, TRAEFIK",
        "spec.names[0]",
        "other tenants",
    ),
    (
        "names: ['*.k8s.example'], upstream: {service: {name: t1, port: 1}}, TRAEFIK",
        "spec.names[0]",
        "host name",
    ),
    (
        "names: [a.example], upstream: {endpoints: [10.0.0.1]}, TRAEFIK",
        "spec.upstream.service",
        "leads to a Service",
    ),
    (
        "names: [a.example], upstream: {service: {name: t1, port: 1, namespace: b}}, TRAEFIK",
        "spec.upstream.service.namespace",
        "own namespace",
    ),
    (
        "API, konnectivity: {name: T1.k8s.example, service: {name: t1, port: 1}}, TRAEFIK",
        "spec.konnectivity.name",
        "agents would reach",
    ),
    ("API, allowedSources: [192.0.2.0/24], TRAEFIK", "spec.allowedSources", "everybody could"),
    ("API, publish: {controller: NGINX, entryPoints: [a]}", "spec.publish.entryPoints", "Traefik"),
    ("API, publish: {controller: TLSRoute}", "spec.publish.parentRefs", "Gateway"),
    (
        "API, publish: {controller: Traefik, parentRefs: [{name: a}]}",
        "spec.publish.parentRefs",
        "remove",
    ),
    (
        "names: [a.example], upstream: {service: {name: t1, port: https}}, publish: {controller: TLSRoute, parentRefs: [{name: a}]}",
        "spec.upstream.service.port",
        "no number",
    ),
];

#[test]
fn what_a_controller_of_others_would_not_do_is_no_route() {
    let spelled = |spec: &str| {
        PARTS.iter().fold(spec.to_owned(), |spec, (short, long)| spec.replace(short, long))
    };

    for (spec, field, cure) in UNFIT {
        let faults = written(&spelled(spec)).unwrap_err();
        assert_eq!(faults.len(), 1, "{spec}: {faults:?}");
        assert!(
            faults[0].starts_with(&format!("{field} ")) && faults[0].contains(cure),
            "{spec}: {faults:?}"
        );
    }
    assert_eq!(written(&spelled("API")), Ok(Vec::new()));
}
