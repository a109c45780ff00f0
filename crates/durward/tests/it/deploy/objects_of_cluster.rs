//! Deployments whose tenants are objects of the cluster: who has a token, and where the state is.

use serde_json::{Value, json};

use super::policy::complaints;
use super::render::{helm, helm_refusal, kustomize_edited};
use super::{find, kustomize, objects};

const OVERLAY: &str = "deploy/kustomize/overlays/kubernetes";
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn containers<'a>(objects: &'a [Value], deployment: &str) -> &'a [Value] {
    let deployment = find(objects, "Deployment", deployment).unwrap();
    deployment["spec"]["template"]["spec"]["containers"].as_array().unwrap()
}

fn has_argument(container: &Value, wanted: &str) -> bool {
    container["args"].as_array().unwrap().iter().any(|argument| argument == wanted)
}

fn has_token(container: &Value) -> bool {
    let mut mounts = container["volumeMounts"].as_array().unwrap().iter();
    mounts.any(|mount| mount["mountPath"] == TOKEN)
}

/// The gateway has the socket and no token; the other container has both.
fn assert_two_processes(containers: &[Value]) {
    let [gateway, reader] = containers else { panic!("{containers:?}") };
    assert!(has_argument(gateway, "--kube-socket") && has_argument(reader, "kube"));
    assert_eq!([has_token(gateway), has_token(reader)], [false, true]);
    for container in containers {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let socket = mounts.iter().find(|mount| mount["name"] == "socket").unwrap();
        assert_eq!(socket["mountPath"], "/run/durward");
        assert!(has_argument(container, "/run/durward/kube.sock"), "{container}");
    }
}

// S1.65+
#[test]
fn only_the_process_that_reads_the_api_has_a_token() {
    let Some(objects) = kustomize(OVERLAY) else { return };
    assert_two_processes(containers(&objects, "durward"));

    let Some(objects) = helm(&json!({"kubernetes": {"enabled": true}})) else { return };
    assert_eq!(complaints(&objects), Vec::<String>::new());
    assert_two_processes(containers(&objects, "edge"));
}

#[test]
fn in_one_process_the_gateway_has_the_token() {
    let two = "  - ../../components/kubernetes\n  - ../../components/hostnetwork\n  - ../../components/kubernetes-hostnetwork\n";
    let one = "  - ../../components/kubernetes-one-process\n  - ../../components/hostnetwork\n";
    let file = "kustomize/overlays/kubernetes/kustomization.yaml";
    let path = "kustomize/overlays/kubernetes";
    let Some(objects) = kustomize_edited("deploy", path, file, (two, one)) else { return };
    assert_eq!(complaints(&objects), Vec::<String>::new());
    let [gateway] = containers(&objects, "durward") else { panic!("one container") };
    assert!(has_argument(gateway, "--kubernetes") && has_token(gateway));

    let values = json!({"kubernetes": {"enabled": true, "oneProcess": true}, "hostNetwork": true});
    let Some(objects) = helm(&values) else { return };
    assert_eq!(complaints(&objects), Vec::<String>::new());
    let [gateway] = containers(&objects, "edge") else { panic!("one container") };
    assert!(has_argument(gateway, "--kubernetes") && has_token(gateway));
}

#[test]
fn a_component_has_ingresses_read_by_the_process_that_has_the_token() {
    let listed = "  - ../../components/kubernetes\n";
    let with = "  - ../../components/kubernetes\n  - ../../components/kubernetes-ingresses\n";
    let file = "kustomize/overlays/kubernetes/kustomization.yaml";
    let path = "kustomize/overlays/kubernetes";
    let Some(objects) = kustomize_edited("deploy", path, file, (listed, with)) else { return };

    assert_eq!(complaints(&objects), Vec::<String>::new());
    let [gateway, reader] = containers(&objects, "durward") else { panic!("two containers") };
    let reads = |container: &Value| {
        let mut variables = container["env"].as_array().unwrap().iter();
        variables.any(|it| it["name"] == "DURWARD_KUBE_INGRESSES" && it["value"] == "true")
    };
    assert_eq!([reads(gateway), reads(reader)], [false, true]);
    assert!(find(&objects, "IngressClass", "durward").is_some());
    assert!(find(&objects, "ClusterRole", "durward-ingresses").is_some());
}

#[test]
fn the_policy_sees_a_token_in_the_gateway_and_a_role_that_opens_secrets() {
    let Some(good) = kustomize(OVERLAY) else { return };
    let mut with_token = good.clone();
    let deployment = with_token.iter_mut().find(|one| one["kind"] == "Deployment").unwrap();
    let mounts = deployment.pointer_mut("/spec/template/spec/containers/0/volumeMounts").unwrap();
    let token = json!({"name": "token", "mountPath": TOKEN, "readOnly": true});
    mounts.as_array_mut().unwrap().push(token);
    let mut with_secrets = good;
    let role = with_secrets.iter_mut().find(|one| one["kind"] == "ClusterRole").unwrap();
    let rule = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]});
    role["rules"].as_array_mut().unwrap().push(rule);

    assert!(!complaints(&with_token).is_empty());
    assert!(!complaints(&with_secrets).is_empty());
}

#[test]
fn the_chart_has_the_rights_of_the_manifests_and_secrets_only_where_asked() {
    let rendered =
        |secrets: &str| helm(&json!({"kubernetes": {"enabled": true, "secrets": secrets}}));
    let Some(by_name) = rendered("names") else { return };
    let (certs, cluster) = (rendered("namespace/certs").unwrap(), rendered("cluster").unwrap());

    let manifests = objects(&crate::text("deploy/kubernetes/rbac.yaml"));
    let wanted = &find(&manifests, "ClusterRole", "durward").unwrap()["rules"];
    let rules = |objects: &[Value]| find(objects, "ClusterRole", "edge").unwrap()["rules"].clone();
    let secrets =
        json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]});
    assert_eq!(rules(&by_name), *wanted);
    assert_eq!(rules(&certs), *wanted);
    let of_ingresses = objects(&crate::text("deploy/kubernetes/ingresses/ingresses.yaml"));
    let of_ingresses = &find(&of_ingresses, "ClusterRole", "durward-ingresses").unwrap()["rules"];
    let both = wanted.as_array().unwrap().iter().chain(of_ingresses.as_array().unwrap());
    let with_ingresses =
        helm(&json!({"kubernetes": {"enabled": true, "ingresses": true}})).unwrap();
    assert_eq!(rules(&with_ingresses), Value::Array(both.cloned().collect()));
    let class = find(&with_ingresses, "IngressClass", "edge").unwrap();
    assert_eq!(class["spec"]["controller"], "durward.dev/ingress");
    let leases =
        |objects: &[Value], name: &str| find(objects, "Role", name).unwrap()["rules"].clone();
    assert_eq!(leases(&by_name, "edge"), leases(&manifests, "durward"));
    let role = find(&certs, "Role", "edge-secrets").unwrap();
    assert_eq!((&role["metadata"]["namespace"], &role["rules"][0]), (&json!("certs"), &secrets));
    assert!(rules(&cluster).as_array().unwrap().contains(&secrets));
}

#[test]
fn the_state_is_where_the_values_say_and_two_pods_do_not_share_a_claim() {
    let state = |values: &Value| {
        let objects = helm(values)?;
        let pod = find(&objects, "Deployment", "edge").unwrap()["spec"].clone();
        let volumes = pod["template"]["spec"]["volumes"].as_array().unwrap();
        let state = volumes.iter().find(|volume| volume["name"] == "state").unwrap().clone();
        assert_eq!(complaints(&objects), Vec::<String>::new());
        Some((
            state,
            pod["strategy"]["type"].clone(),
            find(&objects, "PersistentVolumeClaim", "edge-state").cloned(),
        ))
    };
    let of = |kind: &str| json!({"replicas": 1, "state": {"type": kind, "size": "1Gi"}});
    let Some((empty, _, _)) = state(&of("emptyDir")) else { return };

    let (claimed, strategy, claim) = state(&of("persistentVolumeClaim")).unwrap();
    let (on_host, _, none) = state(&of("hostPath")).unwrap();

    assert_eq!(empty["emptyDir"]["sizeLimit"], "1Gi");
    assert_eq!(claimed["persistentVolumeClaim"]["claimName"], "edge-state");
    assert_eq!(strategy, "Recreate");
    assert_eq!(claim.unwrap()["spec"]["resources"]["requests"]["storage"], "1Gi");
    assert_eq!(on_host["hostPath"]["path"], "/var/lib/durward");
    assert!(none.is_none());
    let refusal = helm_refusal(&json!({"state": {"type": "persistentVolumeClaim"}})).unwrap();
    assert!(refusal.contains("one replica"), "{refusal}");
}

/// The base with a component, as the manifests to be applied without kustomize have it.
fn base_with(component: &str) -> Option<Vec<Value>> {
    let listed = "components:\n  - ../../components/ha\n  - ../../components/monitoring\n  - ../../components/networkpolicy\n  - ../../components/kubernetes\n  - ../../components/hostnetwork\n  - ../../components/kubernetes-hostnetwork\n";
    let one = format!("components:\n  - ../../components/{component}\n");
    let file = "kustomize/overlays/kubernetes/kustomization.yaml";
    kustomize_edited("deploy", "kustomize/overlays/kubernetes", file, (listed, &one))
}

#[test]
fn the_plain_manifests_are_what_the_base_renders() {
    let wanted = ["Namespace", "ServiceAccount", "Service", "Deployment"];
    for (component, file) in
        [("kubernetes", "gateway"), ("kubernetes-one-process", "gateway-one-process")]
    {
        let Some(mut rendered) = base_with(component) else { return };
        rendered.retain(|object| wanted.iter().any(|kind| object["kind"] == *kind));

        assert_eq!(objects(&crate::text(&format!("deploy/kubernetes/{file}.yaml"))), rendered);
    }
}

#[test]
fn init_writes_manifests_that_keep_the_policy_and_overwrites_nothing() {
    let place = durward_testkit::process::TempDir::new();
    let run = |more: &[&str]| {
        let arguments = [
            "init",
            "--kubernetes",
            "--namespace",
            "edge",
            "--image",
            "r.example/d:1",
            "-d",
            "out",
        ];
        let mut command = crate::support::durward(&[&arguments[..], more].concat());
        command.current_dir(place.path()).output().unwrap()
    };
    let written =
        |name: &str| objects(&std::fs::read_to_string(place.join(format!("out/{name}"))).unwrap());

    let output = run(&["--admission"]);
    assert!(output.status.success(), "{}", crate::support::stderr(&output));
    let (gateway, rights) = (written("gateway.yaml"), written("rights.yaml"));

    assert_eq!(complaints(&[gateway.clone(), rights.clone()].concat()), Vec::<String>::new());
    assert_two_processes(containers(&gateway, "durward"));
    assert!(containers(&gateway, "durward").iter().all(|one| one["image"] == "r.example/d:1"));
    let namespaced =
        gateway.iter().chain(&rights).filter_map(|one| one["metadata"].get("namespace"));
    assert!(namespaced.clone().count() > 3 && namespaced.clone().all(|one| one == "edge"));
    let bindings = rights.iter().filter_map(|one| one.get("subjects"));
    assert!(
        bindings.clone().count() == 2 && bindings.clone().all(|one| one[0]["namespace"] == "edge")
    );
    let kinds: Vec<Value> =
        written("definitions.yaml").iter().map(|one| one["kind"].clone()).collect();
    assert!(kinds.contains(&json!("ValidatingAdmissionPolicy")), "{kinds:?}");
    assert!(kinds.contains(&json!("CustomResourceDefinition")), "{kinds:?}");

    let again = run(&[]);
    assert_eq!(again.status.code(), Some(1), "{}", crate::support::stderr(&again));
    let forced = run(&["--force", "--one-process"]);
    assert!(forced.status.success());
    assert_eq!(containers(&written("gateway.yaml"), "durward").len(), 1);
    if let Ok(rendered) =
        std::process::Command::new("kubectl").arg("kustomize").arg(place.join("out")).output()
    {
        assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    }
}
