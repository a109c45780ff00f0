//! The manifests of the proxy inside a tenant's cluster.

use serde_json::{Value, json};

use super::render::schema_complaints;
use super::{RELEASES, find, kustomize, objects};

const BASE: &str = "deploy/api-proxy/base";
const SLICE: &str = "deploy/api-proxy/slice";

fn pod(objects: &[Value]) -> Value {
    let set = find(objects, "DaemonSet", "durward-api-proxy").unwrap();
    set["spec"]["template"]["spec"].clone()
}

// S4.27+
#[test]
fn the_manifests_of_the_api_proxy_have_the_schemas_of_all_releases() {
    for path in [BASE, SLICE] {
        for release in RELEASES {
            let Some(objects) = kustomize(path) else { return };
            let Some(complaints) = schema_complaints(&objects, release) else { return };

            assert_eq!(complaints, Vec::<String>::new(), "{path} against {release}");
        }
    }
}

// S4.55+ S4.56 S4.58 S4.29+
#[test]
fn the_api_proxy_runs_before_the_pod_network_and_is_not_stopped_for_its_memory() {
    for path in [BASE, SLICE] {
        let Some(objects) = kustomize(path) else { return };
        let pod = pod(&objects);

        assert_eq!(pod["hostNetwork"], true);
        assert_eq!(pod["dnsPolicy"], "ClusterFirstWithHostNet");
        assert_eq!(pod["priorityClassName"], "system-node-critical");
        let tolerated: Vec<(&str, &str)> = pod["tolerations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| (it["key"].as_str().unwrap(), it["effect"].as_str().unwrap()))
            .collect();
        for wanted in [
            ("node.kubernetes.io/not-ready", "NoSchedule"),
            ("node.kubernetes.io/not-ready", "NoExecute"),
            ("node.cilium.io/agent-not-ready", "NoSchedule"),
        ] {
            assert!(tolerated.contains(&wanted), "{wanted:?} in {path}");
        }
        let container = &pod["containers"][0];
        assert_eq!(container["resources"]["requests"], json!({"cpu": "10m", "memory": "32Mi"}));
        assert!(container["resources"].get("limits").is_none());
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"]["host"], "127.0.0.1", "{probe}");
        }
    }
}

// S4.50+
#[test]
fn an_advertised_proxy_has_no_token_and_one_that_keeps_the_slice_may_write_that_slice_alone() {
    let (Some(base), Some(slice)) = (kustomize(BASE), kustomize(SLICE)) else { return };

    assert_eq!(pod(&base)["automountServiceAccountToken"], false);
    assert!(base.iter().all(|object| !object["kind"].as_str().unwrap().contains("Role")));
    let capabilities = |objects: &[Value]| {
        pod(objects)["containers"][0]["securityContext"]["capabilities"].clone()
    };
    assert_eq!(capabilities(&base), json!({"drop": ["ALL"], "add": ["NET_ADMIN"]}));
    assert_eq!(capabilities(&slice), json!({"drop": ["ALL"]}));
    assert_eq!(pod(&slice)["automountServiceAccountToken"], true);
    assert!(slice.iter().all(|object| object["kind"] != "ClusterRole"));
    let roles = slice.iter().filter(|object| object["kind"] == "Role");
    let rules = roles.flat_map(|role| role["rules"].as_array().unwrap());
    let writes = rules.filter(|rule| {
        let verbs = rule["verbs"].as_array().unwrap();
        verbs
            .iter()
            .any(|verb| ["create", "patch", "update", "delete"].contains(&verb.as_str().unwrap()))
    });
    let writes: Vec<&Value> = writes.collect();
    assert_eq!(writes.len(), 2);
    for rule in writes {
        let names = rule["resourceNames"].as_array().unwrap();
        assert!(
            names.iter().all(|name| name.as_str().unwrap().starts_with("kubernetes")),
            "{rule}"
        );
    }
    // Secrets are the operator's: none is in the manifests.
    for objects in [&base, &slice] {
        assert!(objects.iter().all(|object| object["kind"] != "Secret"));
    }
}

#[test]
fn the_installer_has_a_memory_limit_and_a_policy_before_its_admin_port() {
    let manifest = objects(&crate::text("deploy/kubernetes/api-addons.yaml"));

    let deployment = find(&manifest, "Deployment", "durward-api-addons").unwrap();
    let template = &deployment["spec"]["template"];
    let container = &template["spec"]["containers"][0];
    assert!(container["resources"]["limits"]["memory"].is_string());
    let policy = find(&manifest, "NetworkPolicy", "durward-api-addons").unwrap();
    assert_eq!(policy["metadata"]["namespace"], deployment["metadata"]["namespace"]);
    let chosen = &policy["spec"]["podSelector"]["matchLabels"];
    assert_eq!(*chosen, template["metadata"]["labels"]);
    let [rule] = &policy["spec"]["ingress"].as_array().unwrap()[..] else { panic!("one rule") };
    assert!(rule["from"][0]["namespaceSelector"]["matchLabels"].is_object());
    assert_eq!(rule["ports"][0]["port"], container["ports"][0]["containerPort"]);
}

// S4.59
#[test]
fn the_proxy_reads_the_api_by_the_servers_outer_name() {
    let Some(objects) = kustomize(SLICE) else { return };

    let variables = objects.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let data = &variables["data"];
    assert_eq!(data["KUBERNETES_SERVICE_HOST"], data["DURWARD_API_SERVER_NAME"]);
    let name = variables["metadata"]["name"].as_str().unwrap();
    let from = &pod(&objects)["containers"][0]["envFrom"][0]["configMapRef"]["name"];
    assert_eq!(from, name);
}
