//! The deployment artefacts render, and keep the promises their comments make.
//!
//! `kubectl`, and `helm` or the Python packages of `tools/deploy-requirements.txt`, render and validate them; without these the tests say
//! so and pass, unless `DURWARD_REQUIRE_RENDER` is set. Deliberately absent: a cluster.

mod agent;
mod api_proxy;
mod dry_run;
mod egress;
mod host;
mod nat;
mod objects_of_cluster;
mod observe;
mod policy;
mod render;
mod rights;
mod terraform;

use serde_json::{Value, json};

pub(crate) use policy::find;
pub(crate) use render::{kustomize, objects};

use policy::{complaints, missing_kinds};
use render::{helm, schema_complaints};

/// The oldest release that is promised, and the newest whose schemas are at hand.
const RELEASES: &[&str] = &["1.25", "1.37"];

const KUSTOMIZATIONS: &[&str] = &[
    "deploy/seed1",
    "deploy/seed1-host-network",
    "deploy/kustomize/base",
    "deploy/kustomize/overlays/development",
    "deploy/kustomize/overlays/production",
    "deploy/kustomize/overlays/kubernetes",
];

// S1.7 S1.8+ S1.16+ S1.27 S1.65
#[test]
fn every_kustomization_keeps_the_policy() {
    for path in KUSTOMIZATIONS {
        let Some(objects) = kustomize(path) else { return };

        assert_eq!(complaints(&objects), Vec::<String>::new(), "{path}");
    }
}

// S1.7
#[test]
fn every_kustomization_has_the_schemas_of_the_oldest_and_the_newest_release() {
    for path in KUSTOMIZATIONS.iter().chain([&"deploy/kustomize/overlays/nat"]) {
        for release in RELEASES {
            let Some(objects) = kustomize(path) else { return };
            let Some(complaints) = schema_complaints(&objects, release) else { return };

            assert_eq!(complaints, Vec::<String>::new(), "{path} against {release}");
        }
    }
}

// S1.32 S1.45+
#[test]
fn what_is_meant_for_production_is_complete() {
    for path in [
        "deploy/seed1",
        "deploy/seed1-host-network",
        "deploy/kustomize/overlays/production",
        "deploy/kustomize/overlays/kubernetes",
    ] {
        let Some(objects) = kustomize(path) else { return };

        assert_eq!(missing_kinds(&objects), Vec::<&str>::new(), "{path}");
        assert_eq!(policy::availability_complaints(&objects), Vec::<String>::new(), "{path}");
    }
}

// S1.24
#[test]
fn each_ingress_address_has_its_own_service_and_its_own_tenant() {
    let Some(objects) = kustomize("deploy/seed1") else { return };

    let routing: Value = serde_json::from_str(
        find(&objects, "ConfigMap", "pingora-tenant-routing").unwrap()["data"]["routing.json"]
            .as_str()
            .unwrap(),
    )
    .unwrap();
    let balanced: Vec<&Value> = objects
        .iter()
        .filter(|object| object["kind"] == "Service" && object["spec"]["type"] == "LoadBalancer")
        .collect();

    let routing = routing.as_object().unwrap();
    assert_eq!(balanced.len(), routing.len());
    for service in balanced {
        let address = service["spec"]["loadBalancerIP"].as_str().unwrap();
        assert_eq!(service["metadata"]["annotations"]["metallb.io/loadBalancerIPs"], address);
        assert_eq!(
            service["metadata"]["labels"]["durward.dev/tenant"], routing[address]["tenant"],
            "{address}"
        );
        assert_eq!(service["spec"]["ports"][0]["port"], 443);
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 8443);
    }
}

// S1.28+ S1.30+ S1.31+ S1.58+
#[test]
fn the_seeds_deployment_is_mounted_where_its_environment_says_and_drains() {
    let Some(objects) = kustomize("deploy/seed1") else { return };

    let pod = &find(&objects, "Deployment", "pingora").unwrap()["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let certificates: Vec<(&str, &str)> = pod["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|volume| volume["projected"]["sources"].as_array())
        .flatten()
        .flat_map(|source| source["secret"]["items"].as_array().unwrap())
        .map(|item| (item["key"].as_str().unwrap(), item["path"].as_str().unwrap()))
        .collect();

    assert_eq!(
        container["env"][0],
        json!({"name": "ROUTING_CONFIG_PATH", "value": "/etc/pingora/config/routing.json"})
    );
    assert_eq!(
        certificates,
        [
            ("tls.crt", "tenant-A.crt"),
            ("tls.key", "tenant-A.key"),
            ("tls.crt", "tenant-B.crt"),
            ("tls.key", "tenant-B.key")
        ]
    );
    let after = |flag: &str| {
        let arguments = container["args"].as_array().unwrap();
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments[at + 1].as_str()?.strip_suffix('s')?.parse::<u64>().ok()
    };
    let delay = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .find(|variable| variable["name"] == "DURWARD_DRAIN_DELAY");
    let delay: u64 =
        delay.unwrap()["value"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
    let grace = after("--drain-grace").unwrap();
    assert!(delay >= 5, "kube-proxy needs a moment to notice");
    assert!(pod["terminationGracePeriodSeconds"].as_u64() >= Some(delay + grace + 5));
}

#[test]
fn the_schemas_see_a_misspelt_field_and_a_later_one() {
    let Some(mut objects) = kustomize("deploy/seed1") else { return };
    let deployment = objects.iter_mut().find(|object| object["kind"] == "Deployment").unwrap();
    let container = &mut deployment["spec"]["template"]["spec"]["containers"][0];
    container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 5}}});
    let Some(old) = schema_complaints(&objects, "1.25") else { return };

    let new = schema_complaints(&objects, "1.37").unwrap();

    assert!(!old.is_empty(), "1.25 has no sleep action");
    assert_eq!(new, Vec::<String>::new());
}

#[test]
fn the_policy_sees_each_mistake() {
    let Some(good) = kustomize("deploy/seed1") else { return };
    let deployment = |pointer: &'static str, value: Value| ("Deployment", pointer, value);
    let mistakes = [
        deployment("/spec/selector/matchLabels/app", json!("other")),
        deployment("/spec/template/metadata/labels/app", json!("other")),
        deployment("/spec/template/spec/containers/0/readinessProbe", Value::Null),
        deployment("/spec/template/spec/containers/0/livenessProbe/httpGet/path", json!("/readyz")),
        deployment("/spec/template/spec/containers/0/resources/requests", Value::Null),
        deployment("/spec/template/spec/containers/0/resources/limits/memory", Value::Null),
        deployment(
            "/spec/template/spec/containers/0/securityContext/readOnlyRootFilesystem",
            json!(false),
        ),
        deployment("/spec/template/spec/containers/0/securityContext/capabilities/drop", json!([])),
        deployment("/spec/template/spec/securityContext/runAsUser", json!(0)),
        deployment("/spec/template/spec/automountServiceAccountToken", json!(true)),
        deployment(
            "/spec/template/spec/containers/0/volumeMounts/0/mountPath",
            json!("/etc/elsewhere"),
        ),
        deployment("/spec/template/spec/containers/0/volumeMounts/1/readOnly", json!(false)),
        deployment("/spec/template/spec/containers/0/image", json!("cloudflare/pingora:latest")),
        deployment("/spec/template/spec/terminationGracePeriodSeconds", json!(5)),
        deployment("/apiVersion", json!("extensions/v1beta1")),
        deployment("/metadata/name", json!("Pingora")),
        ("Service", "/spec/selector/app", json!("other")),
        ("Service", "/spec/ports/0/targetPort", json!(8444)),
        ("PodDisruptionBudget", "/spec/selector/matchLabels/app", json!("other")),
        ("HorizontalPodAutoscaler", "/spec/scaleTargetRef/name", json!("other")),
        ("NetworkPolicy", "/spec/podSelector/matchLabels/app", json!("other")),
        ("ConfigMap", "/metadata/name", json!("elsewhere")),
    ];

    for (kind, pointer, value) in mistakes {
        let mut objects = good.clone();
        let object = objects.iter_mut().find(|object| object["kind"] == kind).unwrap();
        *object.pointer_mut(pointer).unwrap_or_else(|| panic!("{kind} has no {pointer}")) =
            value.clone();

        assert!(!complaints(&objects).is_empty(), "{kind} {pointer} = {value} is not seen");
    }
    let mut with_role = good;
    with_role.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]}));
    assert!(!complaints(&with_role).is_empty(), "a Role that lists Secrets is not seen");
}

// S1.12 S1.57
#[test]
fn the_chart_renders_what_the_kustomization_says() {
    let values = json!({
        "tenants": {"acme": {"ingress": [{"address": "198.51.100.2", "port": 443}]}},
        "services": [{"name": "acme", "loadBalancerIP": "198.51.100.2", "loadBalancerClass": "example.com/lb", "externalIPs": ["198.51.100.9"]}],
        "autoscaling": {"enabled": true},
        "rolloutOnChange": true,
    });
    let Some(objects) = helm(&values) else { return };

    let pods = &find(&objects, "Deployment", "edge").unwrap()["spec"]["template"];
    let service = find(&objects, "Service", "edge-acme").unwrap();

    for release in RELEASES {
        assert_eq!(schema_complaints(&objects, release).unwrap_or_default(), Vec::<String>::new());
    }
    assert_eq!(complaints(&objects), Vec::<String>::new());
    assert_eq!(missing_kinds(&objects), Vec::<&str>::new());
    assert_eq!(policy::availability_complaints(&objects), Vec::<String>::new());
    assert_eq!(pods["metadata"]["annotations"]["checksum/config"].as_str().map(str::len), Some(64));
    assert_eq!(service["spec"]["loadBalancerClass"], "example.com/lb");
    assert_eq!(service["spec"]["externalIPs"], json!(["198.51.100.9"]));
}

// S1.12 S1.31+
#[test]
fn the_chart_renders_the_seeds_layout() {
    let routing = json!({"198.51.100.2": {"tenant": "tenant-A", "backend": "10.244.1.5", "egressIP": "203.0.113.2"}});
    let values = json!({"routing": routing, "routingCertificates": {"tenant-A": "tenant-a-cert"}, "hostNetwork": true});
    let Some(objects) = helm(&values) else { return };

    let map = find(&objects, "ConfigMap", "edge").unwrap();
    let rendered: Value =
        serde_json::from_str(map["data"]["routing.json"].as_str().unwrap()).unwrap();

    assert_eq!(complaints(&objects), Vec::<String>::new());
    assert_eq!(rendered, routing);
}

// S1.57
#[test]
fn the_chart_restarts_pods_only_when_asked_to() {
    let checksum = |path: &str, on: bool| {
        let values =
            json!({"tenants": {"acme": {"egress": {"addresses": [path]}}}, "rolloutOnChange": on});
        let objects = helm(&values)?;
        let deployment = find(&objects, "Deployment", "edge").unwrap();
        Some(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone())
    };
    let Some(first) = checksum("203.0.113.2", true) else { return };

    assert_ne!(Some(&first), checksum("203.0.113.3", true).as_ref());
    assert_eq!(Some(&first), checksum("203.0.113.2", true).as_ref());
    assert_eq!(Some(Value::Null), checksum("203.0.113.2", false));
}

// S1.12
#[test]
fn the_chart_refuses_a_misspelt_value() {
    let Some(refusal) = render::helm_refusal(&json!({"tenant": {}})) else { return };

    assert!(refusal.contains("tenant"), "{refusal}");
}

#[test]
fn on_the_nodes_own_network_only_the_node_reaches_the_admin_listener() {
    let mut seen = 0;

    for path in KUSTOMIZATIONS {
        let Some(objects) = kustomize(path) else { return };
        let deployments = objects.iter().filter(|object| object["kind"] == "Deployment");
        for pod in deployments.map(|object| &object["spec"]["template"]["spec"]) {
            let container = &pod["containers"][0];
            let probes = ["startupProbe", "livenessProbe", "readinessProbe"];
            let arguments = container["args"].as_array().unwrap();
            let at = arguments.iter().position(|argument| argument == "--admin").unwrap() + 1;
            let on_host = pod["hostNetwork"] == true;
            let wanted = if on_host { "127.0.0.1:9440" } else { "0.0.0.0:9440" };

            assert_eq!(arguments[at], wanted, "{path}");
            for probe in probes {
                let host = &container[probe]["httpGet"]["host"];
                assert_eq!(host == "127.0.0.1", on_host, "{path}: {probe}");
            }
            seen += 1;
        }
    }

    assert!(seen >= 4, "{seen}");
}
