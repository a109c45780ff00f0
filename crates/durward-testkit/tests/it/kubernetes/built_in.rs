//! Built-in kinds that Durward reads and writes.

use durward_testkit::kubernetes::TestEnv;
use durward_testkit::serde_json::json;
use kube::api::{Patch, PatchParams};

use super::*;

fn slices(env: &TestEnv) -> Api<DynamicObject> {
    env.api("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", true)
}

fn slice(name: &str, addresses: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": addresses, "conditions": {"ready": true}}],
        "ports": [{"port": 80}],
    })
}

fn secret(name: &str, kind: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": kind,
        "data": data,
    })
}

#[tokio::test]
async fn endpoints_are_not_on_this_host() {
    let env = TestEnv::start().await;
    let table = [
        ("127.0.0.1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        ("169.254.1.1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        ("224.0.0.1", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
        ("0.0.0.0", "may not be unspecified (0.0.0.0)"),
    ];

    for (address, detail) in table {
        let status = refused(create(&slices(&env), &slice("a", &json!([address]))).await);

        assert_eq!(status.code, 422);
        let expected = format!(
            "EndpointSlice.discovery.k8s.io \"a\" is invalid: endpoints[0].addresses[0]: Invalid value: \"{address}\": {detail}"
        );
        assert_eq!(status.message, expected);
    }
}

#[tokio::test]
async fn a_slice_gets_defaults_and_a_generation() {
    let env = TestEnv::start().await;
    let api = slices(&env);

    let made = created(&api, &slice("a", &json!(["10.0.0.1"]))).await;
    let change =
        json!({"endpoints": [{"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]});
    let changed = api.patch("a", &PatchParams::default(), &Patch::Merge(&change)).await;

    assert_eq!(made.data["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(changed.expect("it is changed").metadata.generation, Some(2));
}

#[tokio::test]
async fn the_family_of_a_slice_stays() {
    let env = TestEnv::start().await;
    let api = slices(&env);
    created(&api, &slice("a", &json!(["10.0.0.1"]))).await;

    let change = json!({"addressType": "IPv6", "endpoints": []});
    let status = refused(api.patch("a", &PatchParams::default(), &Patch::Merge(&change)).await);

    assert!(
        status.message.contains("addressType: Invalid value: \"IPv6\": field is immutable"),
        "{}",
        status.message
    );
}

#[tokio::test]
async fn a_secret_of_tls_has_both_halves() {
    let env = TestEnv::start().await;
    let api = env.api("v1", "Secret", "secrets", true);

    let status =
        refused(create(&api, &secret("a", "kubernetes.io/tls", &json!({"tls.crt": ""}))).await);

    assert_eq!(status.code, 422);
    assert_eq!(status.message, "Secret \"a\" is invalid: data[tls.key]: Required value");
}

#[tokio::test]
async fn a_secret_takes_plain_text_and_keeps_its_type() {
    let env = TestEnv::start().await;
    let api = env.api("v1", "Secret", "secrets", true);
    let json = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "a"},
        "stringData": {"x": "text"},
    });

    let made = created(&api, &json).await;
    let change = json!({"type": "other"});
    let status = refused(api.patch("a", &PatchParams::default(), &Patch::Merge(&change)).await);

    assert_eq!(made.data["data"]["x"], "dGV4dA==");
    assert_eq!(made.data["type"], "Opaque");
    assert_eq!(made.data.get("stringData"), None);
    assert_eq!(
        status.message,
        "Secret \"a\" is invalid: type: Invalid value: \"other\": field is immutable"
    );
}

#[tokio::test]
async fn a_service_gets_an_address_and_a_status_of_its_own() {
    let env = TestEnv::start().await;
    let api = env.api("v1", "Service", "services", true);
    let json = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    });

    let made = created(&api, &json).await;
    let address =
        json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "Proxy"}]}}});
    let params = PatchParams::default();
    let typed =
        json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "durward.dev/gateway"}});
    api.patch("web", &params, &Patch::Merge(&typed)).await.expect("another type");
    let written =
        api.patch_status("web", &params, &Patch::Merge(&address)).await.expect("a status");

    let spec = &made.data["spec"];
    assert!(spec["clusterIP"].as_str().is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_ok()));
    assert_eq!(spec["type"], "ClusterIP");
    let port = json!({"port": 80, "protocol": "TCP", "targetPort": 80});
    assert_eq!(spec["ports"], json!([port]));
    assert_eq!(written.data["status"]["loadBalancer"]["ingress"][0]["ip"], "192.0.2.1");
    assert_eq!(written.data["spec"]["clusterIP"], spec["clusterIP"]);
    assert_eq!(written.metadata.generation, None, "a Service has no generation");
}

#[tokio::test]
async fn an_ingress_says_how_its_paths_match() {
    let env = TestEnv::start().await;
    let api = env.api("networking.k8s.io/v1", "Ingress", "ingresses", true);
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let json = |path: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "a"},
            "spec": {"rules": [{"host": "a.test", "http": {"paths": [path]}}]},
        })
    };

    let status = refused(create(&api, &json(json!({"path": "/", "backend": backend}))).await);
    let fine = json(json!({"path": "/", "pathType": "Prefix", "backend": backend}));
    let made = created(&api, &fine).await;

    assert_eq!(
        status.message,
        "Ingress.networking.k8s.io \"a\" is invalid: spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"
    );
    assert_eq!(made.metadata.generation, Some(1));
}

#[tokio::test]
async fn a_revision_keeps_its_data() {
    let env = TestEnv::start().await;
    let api = env.api("apps/v1", "ControllerRevision", "controllerrevisions", true);
    let json = json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {"name": "a"},
        "revision": 1,
        "data": {"any": {"thing": 1}},
    });

    let made = created(&api, &json).await;
    let params = PatchParams::default();
    let moved = api.patch("a", &params, &Patch::Merge(&json!({"revision": 2}))).await;
    let status =
        refused(api.patch("a", &params, &Patch::Merge(&json!({"data": {"any": 2}}))).await);

    assert_eq!(made.data["data"], json!({"any": {"thing": 1}}));
    assert_eq!(moved.expect("the number may move").data["revision"], 2);
    assert!(status.message.contains("data: Invalid value"), "{}", status.message);
    assert!(status.message.ends_with("field is immutable"), "{}", status.message);
}

#[tokio::test]
async fn an_event_is_in_a_namespace_and_says_when() {
    let env = TestEnv::start().await;
    let api = env.api("events.k8s.io/v1", "Event", "events", true);
    let json = |name: &str, regarding: Value| {
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name},
            "eventTime": "2026-11-29T00:00:00.000000Z",
            "reportingController": "durward.dev/gateway",
            "reportingInstance": "one",
            "action": "Compile",
            "reason": "Accepted",
            "type": "Normal",
            "note": "fine",
            "regarding": regarding,
        })
    };

    let cluster_scoped = refused(create(&api, &json("a", json!({"kind": "Node"}))).await);
    let home = json!({"kind": "ConfigMap", "namespace": env.namespace()});
    let made = create(&api, &json("a", home)).await;
    let mut untimed = json("b", json!({"kind": "ConfigMap", "namespace": env.namespace()}));
    untimed["eventTime"] = Value::Null;
    untimed["type"] = "Odd".into();
    let untimed = refused(create(&api, &untimed).await);

    assert_eq!(
        cluster_scoped.message,
        "Event \"a\" is invalid: involvedObject.namespace: Invalid value: \"\": does not match event.namespace"
    );
    assert_eq!(made.expect("it is at home").data["note"], "fine");
    assert_eq!(
        untimed.message,
        "Event \"b\" is invalid: [eventTime: Required value, type: Invalid value: \"\": has invalid value: Odd]"
    );
}

#[tokio::test]
async fn a_namespace_says_its_name_in_a_label() {
    let env = TestEnv::start().await;
    let name = env.new_namespace(&json!({"durward.dev/tenant": "acme"})).await;

    let read =
        env.api("v1", "Namespace", "namespaces", false).get(&name).await.expect("it is there");

    let labels = read.metadata.labels.expect("labels");
    assert_eq!(labels.get("kubernetes.io/metadata.name"), Some(&name));
    assert_eq!(labels.get("durward.dev/tenant").map(String::as_str), Some("acme"));
    assert_eq!(read.data["status"]["phase"], "Active");
}

#[tokio::test]
async fn data_that_cannot_be_read_is_a_bad_request() {
    let env = TestEnv::start().await;
    let secrets = env.api("v1", "Secret", "secrets", true);

    let number = refused(create(&config_maps(&env), &config_map("a", &json!({"x": 1}))).await);
    let odd = refused(create(&secrets, &secret("a", "Opaque", &json!({"x": "%%"}))).await);
    let key = refused(create(&secrets, &secret("a", "Opaque", &json!({"a b": ""}))).await);

    assert_eq!((number.code, number.reason.as_str()), (400, "BadRequest"));
    let begin =
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal";
    assert!(number.message.starts_with(begin), "{}", number.message);
    assert_eq!(
        odd.message,
        "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 0"
    );
    assert!(
        key.message.contains("data[a b]: Invalid value: \"a b\": a valid config key must"),
        "{}",
        key.message
    );
}

#[tokio::test]
async fn what_an_ingress_must_say_is_required() {
    let env = TestEnv::start().await;
    let api = env.api("networking.k8s.io/v1", "Ingress", "ingresses", true);
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let one_path = |path: Value| json!({"rules": [{"http": {"paths": [path]}}]});
    let table = [
        (
            json!({}),
            "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified",
        ),
        (
            json!({"rules": [{"host": "1.2.3.4"}]}),
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
        ),
        (
            one_path(json!({"path": "x", "pathType": "Prefix", "backend": backend})),
            "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
        ),
        (
            one_path(json!({"path": "/", "pathType": "Odd", "backend": backend})),
            "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Odd\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
        ),
        (
            one_path(json!({"path": "/", "pathType": "Exact", "backend": {}})),
            "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is required",
        ),
        (
            one_path(
                json!({"path": "/", "pathType": "Exact", "backend": {"service": {"name": "w", "port": {}}}}),
            ),
            "spec.rules[0].http.paths[0].backend: Required value: port name or number is required",
        ),
    ];

    for (spec, expected) in table {
        let json = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "a"},
            "spec": spec,
        });
        let status = refused(create(&api, &json).await);

        let expected = format!("Ingress.networking.k8s.io \"a\" is invalid: {expected}");
        assert_eq!(status.message, expected);
    }
}

#[tokio::test]
async fn what_a_service_must_say_is_required() {
    let env = TestEnv::start().await;
    let api = env.api("v1", "Service", "services", true);
    let table = [
        (json!({}), "spec.ports: Required value"),
        (
            json!({"ports": [{"port": 80}, {"port": 81}]}),
            "[spec.ports[0].name: Required value, spec.ports[1].name: Required value]",
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}),
            "spec.ports[1].name: Duplicate value: \"a\"",
        ),
        (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
    ];

    for (spec, expected) in table {
        let json = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "a"},
            "spec": spec,
        });
        let status = refused(create(&api, &json).await);

        assert_eq!(status.message, format!("Service \"a\" is invalid: {expected}"));
    }
}

#[tokio::test]
async fn metadata_is_written_with_the_status_of_a_built_in_kind_only() {
    let env = TestEnv::start().await;
    env.define(&widget_definition(&env, &plain_spec())).await;
    created(&widgets(&env), &widget(&env, "a", &json!({"size": 1}))).await;
    let ingresses = env.api("networking.k8s.io/v1", "Ingress", "ingresses", true);
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "a"},
        "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}},
    });
    created(&ingresses, &ingress).await;
    let labelled = json!({"metadata": {"labels": {"via": "status"}}});
    let params = PatchParams::default();

    let built_in = ingresses.patch_status("a", &params, &Patch::Merge(&labelled)).await;
    let custom = widgets(&env).patch_status("a", &params, &Patch::Merge(&labelled)).await;

    let labels = |object: DynamicObject| object.metadata.labels.unwrap_or_default();
    assert_eq!(
        labels(built_in.expect("it is written")).get("via").map(String::as_str),
        Some("status")
    );
    assert!(labels(custom.expect("it is written")).is_empty());
}

#[tokio::test]
async fn a_service_that_is_balanced_no_longer_loses_what_belongs_to_it() {
    let env = TestEnv::start().await;
    let api = env.api("v1", "Service", "services", true);
    let json = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": "durward.dev/a", "ports": [{"port": 80}]},
    });
    let params = PatchParams::default();
    let made = created(&api, &json).await;
    let address = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});

    let no_address = json!({"status": {"loadBalancer": {"ingress": [{"ip": "x"}]}}});
    let no_address = refused(api.patch_status("web", &params, &Patch::Merge(&no_address)).await);
    let written =
        api.patch_status("web", &params, &Patch::Merge(&address)).await.expect("it is balanced");
    let class = json!({"spec": {"loadBalancerClass": "durward.dev/b"}});
    let class = refused(api.patch("web", &params, &Patch::Merge(&class)).await);
    let plain = json!({"spec": {"type": "ClusterIP"}});
    let plain = api.patch("web", &params, &Patch::Merge(&plain)).await.expect("another type");
    let late = refused(api.patch_status("web", &params, &Patch::Merge(&address)).await);

    assert!(made.data["spec"]["ports"][0]["nodePort"].is_number());
    assert!(
        no_address.message.contains(
            "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address"
        ),
        "{}",
        no_address.message
    );
    assert_eq!(
        written.data["status"]["loadBalancer"]["ingress"],
        json!([{"ip": "192.0.2.1", "ipMode": "VIP"}])
    );
    assert_eq!(
        class.message,
        "Service \"web\" is invalid: spec.loadBalancerClass: Invalid value: \"durward.dev/b\": may not change once set"
    );
    assert_eq!(plain.data["status"], json!({"loadBalancer": {}}));
    assert_eq!(plain.data["spec"].get("loadBalancerClass"), None);
    assert_eq!(
        plain.data["spec"]["ports"],
        json!([{"port": 80, "protocol": "TCP", "targetPort": 80}])
    );
    assert_eq!(
        late.message,
        "Service \"web\" is invalid: status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"
    );
}
