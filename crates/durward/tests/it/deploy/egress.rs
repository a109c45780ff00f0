//! The client's side of the forward proxy: what its pods are told, and that they can go nowhere else.
//!
//! Deliberately absent: whether a network plugin enforces the policies; the evaluator here reads them as the API defines them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::policy::find;
use super::render::{kustomize, kustomize_edited, objects, schema_complaints};
use super::{RELEASES, policy};
use crate::root;
use crate::support::durward;

const DEVELOPMENT: &str = "deploy/egress/overlays/development";
const PRODUCTION: &str = "deploy/egress/overlays/production";
const PROXY: &str = "172.16.28.8";

fn pod(objects: &[Value]) -> &Value {
    &find(objects, "Deployment", "curl-demo").unwrap()["spec"]["template"]
}

fn container(objects: &[Value]) -> &Value {
    &pod(objects)["spec"]["containers"][0]
}

/// The ConfigMap, whose name ends in a hash.
fn settings(objects: &[Value]) -> &Value {
    let mut maps = objects.iter().filter(|object| object["kind"] == "ConfigMap");
    let map = maps.next().unwrap();
    assert!(maps.next().is_none(), "one ConfigMap");
    map
}

// S2.5 S2.18
#[test]
fn both_overlays_render_objects_every_release_has() {
    for path in [DEVELOPMENT, PRODUCTION] {
        let Some(objects) = kustomize(path) else { return };

        let kinds: Vec<&str> =
            objects.iter().filter_map(|object| object["kind"].as_str()).collect();
        assert_eq!(
            kinds,
            [
                "Namespace",
                "ServiceAccount",
                "ConfigMap",
                "Deployment",
                "NetworkPolicy",
                "NetworkPolicy",
                "NetworkPolicy"
            ],
            "{path}"
        );
        for release in RELEASES {
            let complaints = schema_complaints(&objects, release).unwrap_or_default();
            assert_eq!(complaints, Vec::<String>::new(), "{path} against {release}");
        }
        let deployment = find(&objects, "Deployment", "curl-demo").unwrap();
        let selector = &deployment["spec"]["selector"]["matchLabels"];
        assert!(policy::selects(selector, &pod(&objects)["metadata"]["labels"]), "{path}");
    }
}

// S2.16+ S2.17+
#[test]
fn the_namespace_is_the_seeds() {
    let Some(objects) = kustomize(DEVELOPMENT) else { return };

    let wanted = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "client-a-demo",
            "labels": {"tenant": "client-a", "network/isolation": "egress-proxy"},
            "annotations": {"description": "Namespace for client A egress traffic isolation via dedicated proxy"},
        },
    });
    assert_eq!(find(&objects, "Namespace", "client-a-demo"), Some(&wanted));
}

// S2.2 S2.7 S2.8
#[test]
fn pods_run_on_the_clients_own_nodes_only() {
    let Some(objects) = kustomize(PRODUCTION) else { return };

    let spec = &pod(&objects)["spec"];

    assert_eq!(spec["nodeSelector"], json!({"node-pool": "client-a-pool"}));
    let taint = "node-role.kubernetes.io/client-a=dedicated:NoSchedule";
    let toleration = &spec["tolerations"][0];
    let tolerated = format!(
        "{}={}:{}",
        toleration["key"].as_str().unwrap(),
        toleration["value"].as_str().unwrap(),
        toleration["effect"].as_str().unwrap()
    );
    assert_eq!(tolerated, taint);
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(1));
}

// S2.18 S2.19+
#[test]
fn the_program_is_the_seeds() {
    let Some(objects) = kustomize(DEVELOPMENT) else { return };

    let container = container(&objects);

    assert_eq!(container["command"], json!(["sh", "-c"]));
    let script = container["args"][0].as_str().unwrap();
    for line in [
        "echo \"=== Iniciando prueba de salida (egress) ===\"",
        "echo \"Proxy configurado: $HTTP_PROXY\"",
        "-w \"Código: %{http_code}, Duración: %{time_total}s\\n\" https://ifconfig.me/ip",
        "sleep 15",
    ] {
        assert!(script.contains(line), "{line}");
    }
}

// S2.20 S2.23
#[test]
fn each_environment_has_its_own_size() {
    for (path, replicas, environment) in
        [(DEVELOPMENT, 1, "development"), (PRODUCTION, 2, "production")]
    {
        let Some(objects) = kustomize(path) else { return };

        let deployment = find(&objects, "Deployment", "curl-demo").unwrap();
        assert_eq!(deployment["spec"]["replicas"], replicas, "{path}");
        let wanted = json!({
            "requests": {"memory": "64Mi", "cpu": "50m"},
            "limits": {"memory": "128Mi", "cpu": "100m"},
        });
        assert_eq!(container(&objects)["resources"], wanted, "{path}");
        assert_eq!(settings(&objects)["data"]["ENVIRONMENT"], environment, "{path}");
    }
}

// S2.21 S2.22 S2.24 S2.40
#[test]
fn programs_are_told_the_proxy_in_both_cases_from_the_one_config_map() {
    for path in [DEVELOPMENT, PRODUCTION] {
        let Some(objects) = kustomize(path) else { return };

        let environment = kubelet_environment(&objects);

        let proxy = format!("http://{PROXY}:3128");
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            assert_eq!(environment(name).as_deref(), Some(&*proxy), "{name} in {path}");
        }
        let direct = environment("NO_PROXY").unwrap();
        assert_eq!(environment("no_proxy").as_deref(), Some(&*direct), "{path}");
        for host in ["localhost", "127.0.0.1", ".svc.cluster.local", ".cluster.local", ".internal"]
        {
            assert!(direct.split(',').any(|entry| entry == host), "{host} in {path}");
        }
    }
}

/// The environment a kubelet makes: `envFrom` first, then `env`, each value expanded from what came before it.
fn kubelet_environment(objects: &[Value]) -> impl Fn(&str) -> Option<String> {
    let container = container(objects);
    let map = settings(objects);
    assert_eq!(container["envFrom"][0]["configMapRef"]["name"], map["metadata"]["name"]);
    let mut known: Vec<(String, String)> = Vec::new();
    for (name, value) in map["data"].as_object().unwrap() {
        known.push((name.clone(), value.as_str().unwrap().to_owned()));
    }
    for variable in container["env"].as_array().unwrap() {
        let mut value = variable["value"].as_str().unwrap().to_owned();
        for (name, known) in &known {
            value = value.replace(&format!("$({name})"), known);
        }
        known.push((variable["name"].as_str().unwrap().to_owned(), value));
    }
    move |name| known.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

// S2.25
#[test]
fn a_changed_value_starts_new_pods() {
    let Some(before) = kustomize(DEVELOPMENT) else { return };
    let file = "overlays/development/kustomization.yaml";
    let edit = ("PROXY_ADDRESS=172.16.28.8", "PROXY_ADDRESS=172.16.28.9");
    let after = kustomize_edited("deploy/egress", "overlays/development", file, edit).unwrap();

    let name = |objects: &[Value]| settings(objects)["metadata"]["name"].clone();
    assert_ne!(name(&before), name(&after));
    assert_eq!(container(&after)["envFrom"][0]["configMapRef"]["name"], name(&after));
    assert_ne!(pod(&before), pod(&after));
    assert!(Reach::of(&after).tcp("172.16.28.9", 3128), "the policy follows");
    assert!(!Reach::of(&after).tcp(PROXY, 3128), "the former address is closed");
}

// S2.46+
#[test]
fn the_test_runs_as_a_job_with_the_clients_own_settings() {
    let file = "overlays/development/kustomization.yaml";
    let edit = ("patches:", "components:\n  - ../../components/test\npatches:");
    let objects = kustomize_edited("deploy/egress", "overlays/development", file, edit);
    let Some(objects) = objects else { return };

    let job = find(&objects, "Job", "egress-test").unwrap();
    for release in RELEASES {
        let complaints = schema_complaints(&objects, release).unwrap_or_default();
        assert_eq!(complaints, Vec::<String>::new(), "{release}");
    }
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let settings = &settings(&objects)["metadata"]["name"];
    assert_eq!(container["envFrom"][0]["configMapRef"]["name"], *settings);
    assert_eq!(job["metadata"]["namespace"], "client-a-demo");
    let arguments: Vec<&str> =
        container["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let mut command = durward(&[&arguments[..], &["--help"]].concat());
    assert!(command.output().unwrap().status.success(), "{arguments:?}");
}

// S2.29 S2.39
#[test]
fn the_environments_differ_where_they_should_only() {
    let Some(mut development) = kustomize(DEVELOPMENT) else { return };
    let mut production = kustomize(PRODUCTION).unwrap();
    assert_ne!(development, production);

    for objects in [&mut development, &mut production] {
        for object in objects {
            let places = [
                "/spec/replicas",
                "/data/ENVIRONMENT",
                "/spec/template/spec/containers/0/envFrom/0/configMapRef/name",
            ];
            for place in places {
                if let Some(value) = object.pointer_mut(place) {
                    *value = Value::Null;
                }
            }
            if object["kind"] == "ConfigMap" {
                object["metadata"]["name"] = Value::Null;
            }
        }
    }

    assert_eq!(development, production);
}

// S2.34
#[test]
fn a_change_shows_in_what_is_rendered_and_nowhere_else() {
    let Some(before) = kustomize(PRODUCTION) else { return };
    let file = "overlays/production/deployment-patch.yaml";
    let edit = ("replicas: 2", "replicas: 3");
    let mut after = kustomize_edited("deploy/egress", "overlays/production", file, edit).unwrap();

    assert_ne!(before, after);
    let deployment = after.iter_mut().find(|object| object["kind"] == "Deployment").unwrap();
    assert_eq!(deployment["spec"]["replicas"], 3);
    deployment["spec"]["replicas"] = json!(2);
    assert_eq!(before, after);
    let page = crate::text("deploy/README.md");
    assert!(page.contains("kubectl kustomize deploy/egress/overlays/production | diff"), "{page}");
}

// S2.30+ S2.31+
#[test]
fn flux_follows_each_overlay_as_the_seed_says() {
    let read = |name: &str| {
        let text = std::fs::read_to_string(root().join("deploy/egress/flux").join(name)).unwrap();
        objects(&text).remove(0)
    };
    let source = json!({"kind": "GitRepository", "name": "scaleway-k8s-egres-proxy"});
    let mut wanted = json!({
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": {"name": "client-egress-dev", "namespace": "flux-system"},
        "spec": {"interval": "5m", "path": format!("./{DEVELOPMENT}"), "prune": true, "sourceRef": source},
    });

    assert_eq!(read("development.yaml"), wanted);
    wanted["metadata"]["name"] = json!("client-egress-prod");
    wanted["spec"] = json!({
        "interval": "1m", "path": format!("./{PRODUCTION}"), "prune": true, "sourceRef": source,
        "timeout": "5m", "retryInterval": "1m",
    });
    assert_eq!(read("production.yaml"), wanted);
    let repository = read("repository.yaml");
    assert_eq!(repository["metadata"]["name"], source["name"]);
    for path in [DEVELOPMENT, PRODUCTION] {
        assert!(root().join(path).join("kustomization.yaml").exists(), "{path}");
    }
}

// S2.41
#[test]
fn pods_reach_the_proxy_and_the_clusters_dns_and_nothing_else() {
    for path in [DEVELOPMENT, PRODUCTION] {
        let Some(objects) = kustomize(path) else { return };
        let reach = Reach::of(&objects);

        assert!(reach.tcp(PROXY, 3128), "{path}");
        for (address, port) in [
            (PROXY, 22),
            (PROXY, 9440),
            ("172.16.28.9", 3128),
            ("1.1.1.1", 443),
            ("8.8.8.8", 53),
            ("203.0.113.7", 80),
            ("169.254.169.254", 80),
            ("10.0.0.1", 443),
            ("2606:4700::1111", 443),
        ] {
            assert!(!reach.tcp(address, port), "{address}:{port} in {path}");
        }
    }
}

#[test]
fn the_evaluator_sees_the_originals_hole() {
    let Some(mut objects) = kustomize(DEVELOPMENT) else { return };
    objects.push(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "hole", "namespace": "client-a-demo"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{
            "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "172.16.0.0/12"]}}],
            "ports": [{"protocol": "TCP", "port": 443}],
        }]},
    }));
    let reach = Reach::of(&objects);

    assert!(reach.tcp("1.1.1.1", 443));
    assert!(!reach.tcp("1.1.1.1", 80) && !reach.tcp("10.0.0.1", 443));
    objects.retain(|object| object["kind"] != "NetworkPolicy");
    assert!(Reach::of(&objects).tcp("1.1.1.1", 80), "without a policy everything is open");
}

/// Where the demo's pods can connect to, by address.
struct Reach<'a> {
    policies: Vec<&'a Value>,
}

impl<'a> Reach<'a> {
    fn of(objects: &'a [Value]) -> Self {
        let pod = pod(objects);
        let namespace = &find(objects, "Deployment", "curl-demo").unwrap()["metadata"]["namespace"];
        let selects = |policy: &&Value| {
            let selector = &policy["spec"]["podSelector"];
            let everyone = selector.as_object().is_some_and(serde_json::Map::is_empty);
            let types = policy["spec"]["policyTypes"].as_array().unwrap();
            policy["kind"] == "NetworkPolicy"
                && policy["metadata"]["namespace"] == *namespace
                && types.iter().any(|name| name == "Egress")
                && (everyone
                    || policy::selects(&selector["matchLabels"], &pod["metadata"]["labels"]))
        };
        Self {
            policies: objects
                .iter()
                .filter(|object| object["kind"] == "NetworkPolicy")
                .filter(selects)
                .collect(),
        }
    }

    /// No policy at all means everything; otherwise one rule of one of them must let it through.
    fn tcp(&self, address: &str, port: u16) -> bool {
        let address: IpAddr = address.parse().unwrap();
        let rules = self.policies.iter().flat_map(|policy| list(&policy["spec"]["egress"]));
        let mut rules = rules.filter(|rule| {
            let peers = &rule["to"];
            let peer = peers.is_null() || list(peers).any(|peer| holds(&peer["ipBlock"], address));
            let ports = &rule["ports"];
            let open = |entry: &Value| {
                let tcp = entry["protocol"].is_null() || entry["protocol"] == "TCP";
                let first = entry["port"].as_u64();
                let last = entry["endPort"].as_u64().or(first);
                let within = |first| (first..=last.unwrap_or(first)).contains(&u64::from(port));
                tcp && first.is_none_or(within)
            };
            peer && (ports.is_null() || list(ports).any(open))
        });
        self.policies.is_empty() || rules.next().is_some()
    }
}

fn holds(block: &Value, address: IpAddr) -> bool {
    let contains = |block: &Value| {
        block.as_str().is_some_and(|block| block.parse::<IpNet>().unwrap().contains(&address))
    };
    contains(&block["cidr"]) && !list(&block["except"]).any(contains)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
