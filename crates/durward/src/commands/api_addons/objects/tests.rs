use std::collections::BTreeMap;

use super::*;

fn plan() -> ApiProxyPlan {
    ApiProxyPlan {
        kubeconfig_secret: "k".to_owned(),
        certificate_secret: "c".to_owned(),
        serving_secret: None,
        mode: ModeSpec::Advertised,
        server_name: "t1.api.example".to_owned(),
        image: None,
        advertise: vec!["172.31.255.1".parse().unwrap()],
        port: 6443,
        pods: vec!["10.244.0.0/16".parse().unwrap()],
        services: vec!["10.96.0.0/16".parse().unwrap()],
        gateways: vec![("t1.api.example".to_owned(), 443)],
        internal_endpoint: None,
        host_aliases: Vec::new(),
        replicas: None,
        resources: None,
    }
}

fn entries(keys: &[&str]) -> SecretEntries {
    let entries = keys.iter().map(|key| ((*key).to_owned(), key.as_bytes().to_vec()));
    SecretEntries(entries.collect::<BTreeMap<_, _>>())
}

fn rendered(plan: &ApiProxyPlan) -> Vec<Value> {
    let material = Material {
        plan,
        certificate: entries(&["ca.crt", "tls.crt", "tls.key", "other"]),
        serving: plan.serving_secret.as_ref().map(|_| entries(&["tls.crt", "tls.key", "other"])),
    };
    Objects::new("registry.example/durward:1").unwrap().render(&material).unwrap()
}

fn names(objects: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let name = |object: &Value| {
        let metadata = &object["metadata"];
        format!(
            "{} {}/{}",
            text(&object["kind"]),
            text(&metadata["namespace"]),
            text(&metadata["name"])
        )
    };
    objects.iter().map(name).collect()
}

// S4.27 S4.55+ S4.56 S4.58
#[test]
fn what_is_installed_is_the_manifest_with_arguments_in_place_of_its_config_map() {
    let objects = rendered(&plan());

    assert_eq!(
        names(&objects),
        [
            "ServiceAccount kube-system/durward-api-proxy",
            "Secret kube-system/durward-api-proxy",
            "DaemonSet kube-system/durward-api-proxy",
        ]
    );
    let mut manifest: Value = serde_saphyr::from_str(DAEMON_SET).unwrap();
    let mut installed = objects[2].clone();
    for workload in [&mut manifest, &mut installed] {
        let container = &mut workload["spec"]["template"]["spec"]["containers"][0];
        for field in ["args", "env", "envFrom", "image"] {
            container.as_object_mut().unwrap().remove(field);
        }
        workload["spec"]["template"]["spec"]["volumes"][0]["secret"]["defaultMode"] = json!(0);
        workload["metadata"]["labels"].as_object_mut().unwrap().remove(MANAGED_BY.0);
    }
    assert_eq!(installed, manifest);
    let container = &objects[2]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example/durward:1");
    let arguments: Vec<&str> =
        container["args"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert_eq!(
        arguments,
        [
            "api-proxy",
            "--drain-grace=45s",
            "--server-name=t1.api.example",
            "--mode=advertised",
            "--port=6443",
            "--advertise-address=172.31.255.1",
            "--device=durward-api",
            "--pod-cidr=10.244.0.0/16",
            "--service-cidr=10.96.0.0/16",
            "--gateway=t1.api.example:443",
            "--ca=/etc/durward-api-proxy/ca.crt",
            "--cert=/etc/durward-api-proxy/tls.crt",
            "--key=/etc/durward-api-proxy/tls.key",
        ]
    );
}

// S4.28 S4.29 S4.30 S4.50+
#[test]
fn a_deployment_of_two_keeps_the_slice_with_the_overrides_of_its_hosted_api() {
    let quantities = |cpu: &str| durward_control::spec::api_proxy::QuantitiesSpec {
        cpu: Some(cpu.to_owned()),
        memory: Some("64Mi".to_owned()),
    };
    let resources = durward_control::spec::api_proxy::ResourcesSpec {
        requests: Some(quantities("10m")),
        limits: Some(quantities("100m")),
    };
    let plan = ApiProxyPlan {
        mode: ModeSpec::Slice,
        advertise: Vec::new(),
        replicas: Some(2),
        image: Some("private.example/api-proxy@sha256:00".to_owned()),
        internal_endpoint: Some("10.40.0.201".to_owned()),
        host_aliases: vec![("10.0.0.50".parse().unwrap(), vec!["t1.api.example".to_owned()])],
        resources: Some(resources),
        ..plan()
    };

    let objects = rendered(&plan);

    let names = names(&objects);
    assert_eq!(names.last().unwrap(), "Deployment kube-system/durward-api-proxy");
    assert!(names.contains(&"RoleBinding default/durward-api-proxy".to_owned()), "{names:?}");
    let workload = objects.last().unwrap();
    let pod = &workload["spec"]["template"]["spec"];
    assert_eq!(workload["spec"]["replicas"], 2);
    assert_eq!(pod["hostAliases"], json!([{"ip": "10.0.0.50", "hostnames": ["t1.api.example"]}]));
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "private.example/api-proxy@sha256:00");
    assert_eq!(container["resources"]["limits"], json!({"cpu": "100m", "memory": "64Mi"}));
    assert_eq!(container["securityContext"]["runAsNonRoot"], true);
    assert!(
        container["args"].as_array().unwrap().contains(&json!("--internal-endpoint=10.40.0.201"))
    );
    assert!(
        container["env"]
            .as_array()
            .unwrap()
            .contains(&json!({"name": "KUBERNETES_SERVICE_HOST", "value": "t1.api.example"}))
    );
}

// S4.50+
#[test]
fn the_api_servers_key_is_installed_where_tls_ends_and_nowhere_else() {
    let reoriginate = ApiProxyPlan {
        mode: ModeSpec::Reoriginate,
        advertise: Vec::new(),
        serving_secret: Some("s".to_owned()),
        ..plan()
    };

    let objects = rendered(&reoriginate);

    let keys = |at: usize| {
        objects[at]["data"].as_object().unwrap().keys().cloned().collect::<Vec<String>>()
    };
    assert_eq!(keys(1), ["ca.crt"]);
    assert_eq!(names(&objects)[2], "Secret kube-system/durward-api-proxy-serving");
    assert_eq!(keys(2), ["tls.crt", "tls.key"]);
    let others = rendered(&plan());
    assert!(!names(&others).iter().any(|name| name.contains("serving")));
    // Whatever else the Secret of the management cluster holds stays there.
    assert!(!others[1]["data"].as_object().unwrap().contains_key("other"));
}

#[test]
fn a_secret_without_what_is_needed_is_said_by_its_key() {
    let objects = Objects::new("i").unwrap();
    let plan = plan();
    for (keys, lacking) in
        [(&["tls.crt", "tls.key"][..], "ca.crt"), (&["ca.crt", "tls.crt"], "tls.key")]
    {
        let material = Material { plan: &plan, certificate: entries(keys), serving: None };

        let fault = objects.render(&material).unwrap_err();

        assert_eq!(fault, format!("Secret \"c\" has no {lacking}: add it"));
    }
}

#[test]
fn everything_that_may_be_installed_is_known_for_its_removal() {
    let known = names(&Objects::new("i").unwrap().known());

    for plan in [
        plan(),
        ApiProxyPlan { mode: ModeSpec::Slice, advertise: Vec::new(), ..plan() },
        ApiProxyPlan { mode: ModeSpec::Slice, advertise: Vec::new(), replicas: Some(2), ..plan() },
        ApiProxyPlan {
            mode: ModeSpec::Reoriginate,
            advertise: Vec::new(),
            serving_secret: Some("s".to_owned()),
            ..plan()
        },
    ] {
        for name in names(&rendered(&plan)) {
            assert!(known.contains(&name), "{name}");
        }
    }
}
