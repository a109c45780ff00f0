//! The gateway on each node whose kernel carries traffic: what it may do more than the others, and nothing else.

use serde_json::json;

use super::policy::complaints;
use super::render::kustomize_edited;
use super::{find, kustomize};

const OVERLAY: &str = "deploy/kustomize/overlays/nat";

// S5.11
#[test]
fn a_gateway_on_each_node_has_two_capabilities_and_no_token() {
    let Some(objects) = kustomize(OVERLAY) else { return };

    assert_eq!(
        complaints(&objects),
        ["DaemonSet \"durward\": may run as root", "DaemonSet \"durward\": added capabilities"]
    );
    let pod = &find(&objects, "DaemonSet", "durward").unwrap()["spec"]["template"]["spec"];
    assert_eq!((&pod["hostNetwork"], &pod["hostPID"]), (&json!(true), &json!(null)));
    let containers = pod["containers"].as_array().unwrap();
    let [gateway, reader] = &containers[..] else { panic!("{containers:?}") };
    let capabilities = json!({"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]});
    assert_eq!(gateway["securityContext"]["capabilities"], capabilities);
    assert_eq!(gateway["securityContext"]["privileged"], json!(null));
    assert_eq!(reader["securityContext"]["runAsNonRoot"], true);
    assert_eq!(reader["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    // Each accepts the other one's user only.
    let has = |container: &serde_json::Value, argument: &str| {
        container["args"].as_array().unwrap().contains(&json!(argument))
    };
    assert!(has(gateway, "--kube-peer=65532") && has(reader, "--peer=0"));
    assert!(has(reader, "--smartnat-mappings"));
}

/// Returns the parameters that a text names.
fn parameters(text: &str) -> Vec<&str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("#   net."));
    lines.filter_map(|line| line.split('=').next()).collect()
}

// S5.11+
#[test]
fn the_parameters_that_nodes_need_are_those_that_are_looked_at() {
    let page = crate::text("deploy/kustomize/components/nat/kustomization.yaml");

    let mut told: Vec<String> =
        parameters(&page).iter().map(|name| name.replace('.', "/")).collect();
    for name in ["rp_filter", "arp_ignore", "arp_announce"] {
        assert!(page.contains(&format!("{name}=")), "{name}");
        told.push(format!("ipv4/conf/*/{name}"));
    }

    let mut looked_at: Vec<String> =
        durward_nat::sysctl::WANTED.iter().map(|(path, _)| (*path).to_owned()).collect();
    told.sort();
    looked_at.sort();
    assert_eq!(told, looked_at);
}

#[test]
fn a_capability_more_is_found() {
    let file = "kustomize/components/nat/kustomization.yaml";
    let edit = ("drop: [ALL], add", "add");
    let Some(objects) = kustomize_edited("deploy", "kustomize/overlays/nat", file, edit) else {
        return;
    };

    assert!(complaints(&objects).iter().any(|it| it.ends_with("durward\": capabilities")));
}
