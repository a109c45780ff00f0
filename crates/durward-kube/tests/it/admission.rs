//! What the API server refuses is what `compile` rejects, for the same reason: one table of cases for both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use durward_control::change::{Change, Fact};
use durward_control::reference::Reference;
use durward_control::{Cluster, Store, compile};
use durward_kube::object::Object;
use durward_kube::{admission, crds};
use durward_model::verdict::{Outcome, Severity};
use durward_model::{DocumentKey, Kind};
use durward_testkit::kubernetes::TestEnv;
use durward_testkit::process::eventually;
use serde_json::{Value, json};

/// Longer than any server takes until a policy counts.
const PATIENCE: Duration = Duration::from_secs(60);

/// Names of the namespaces of a test: those of two tenants, one of nobody, and the gateway's own.
struct Names {
    acme: String,
    globex: String,
    nobody: String,
    /// Globex's by the labels of isolation.
    isolated: String,
    gateway: String,
}

/// One object, and the reason why it is refused; `None` if it is not.
struct Case {
    what: &'static str,
    object: Value,
    refused: Option<&'static str>,
}

fn tenant(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "durward.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec})
}

fn mapping(namespace: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    if spec.get("addresses").is_none() {
        spec["addresses"] = json!(["203.0.113.50"]);
    }
    spec["ports"] = spec.get("ports").cloned().unwrap_or_else(|| json!([{"port": 80}]));
    if spec["ports"][0].get("service").is_none() {
        spec["endpoints"] = json!(["192.0.2.1:80"]);
    }
    json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "PortMapping",
        "metadata": {"name": "case", "namespace": namespace}, "spec": spec,
    })
}

/// An object of a kind that adds to a tenant.
fn part(kind: &str, namespace: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": kind,
        "metadata": {"name": "case", "namespace": namespace}, "spec": spec,
    })
}

/// The tenants that are there before a case.
fn residents(names: &Names) -> [Value; 2] {
    let acme = json!({
        "namespace": names.acme,
        "ingress": [
            {"address": "198.51.100.1", "port": 80, "protocol": "HTTP", "routes": [{"respond": {"body": "a"}}]},
            {"address": "198.51.100.7", "port": 80, "protocol": "HTTP", "shared": true, "routes": [{"respond": {"body": "a"}}]},
        ],
        "egress": {"addresses": ["203.0.113.1", "2001:db8::1"]},
    });
    let globex = json!({"namespace": names.globex, "egress": {"addresses": ["203.0.113.20"],
        "proxy": [{"address": "198.51.100.30", "port": 3128, "allowedSources": ["192.0.2.0/24"]}]}});
    [tenant(&names.acme, &acme), tenant(&names.globex, &globex)]
}

#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn cases(names: &Names) -> Vec<Case> {
    let Names { acme, globex, nobody, isolated, gateway } = names;
    let case = |what, object, refused| Case { what, object, refused };
    let door = |address: &str, more: &Value| {
        let mut entry = json!({"address": address, "port": 80, "protocol": "HTTP", "routes": [{"respond": {"body": "x"}}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            entry[key] = value.clone();
        }
        json!({"namespace": globex, "ingress": [entry]})
    };
    let service = |namespace: &str| json!({"ports": [{"port": 80, "service": {"name": "pay", "port": "http", "namespace": namespace}}]});
    let globex_has = |spec: Value| tenant(globex, &spec);
    vec![
        case("a mapping of a tenant's namespace", mapping(globex, &json!({})), None),
        case("one that says its tenant", mapping(globex, &json!({"tenant": globex})), None),
        case(
            "one that says another",
            mapping(globex, &json!({"tenant": acme})),
            Some("TenantMismatch"),
        ),
        case(
            "one in nobody's namespace",
            mapping(nobody, &json!({})),
            Some("NamespaceWithoutTenant"),
        ),
        case("one in the gateway's namespace", mapping(gateway, &json!({"tenant": globex})), None),
        case(
            "one there without a tenant",
            mapping(gateway, &json!({})),
            Some("NamespaceWithoutTenant"),
        ),
        case("one in a namespace of isolation", mapping(isolated, &json!({})), None),
        case(
            "a policy of a tenant's namespace",
            part("EgressPolicy", globex, &json!({"allow": [{"host": "pay.example"}]})),
            None,
        ),
        case(
            "a policy that says another tenant",
            part(
                "EgressPolicy",
                globex,
                &json!({"tenant": acme, "allow": [{"host": "pay.example"}]}),
            ),
            Some("TenantMismatch"),
        ),
        case(
            "a policy in nobody's namespace",
            part("EgressPolicy", nobody, &json!({"allow": [{"host": "pay.example"}]})),
            Some("NamespaceWithoutTenant"),
        ),
        case(
            "no address",
            mapping(globex, &json!({"addresses": ["203.0.113"]})),
            Some("BadAddress"),
        ),
        case(
            "another's ingress address",
            mapping(globex, &json!({"addresses": ["198.51.100.1"]})),
            Some("AddressTaken"),
        ),
        case(
            "another's egress address in another spelling",
            mapping(globex, &json!({"addresses": ["2001:DB8:0::1"]})),
            Some("AddressTaken"),
        ),
        case(
            "one that only the other shares",
            mapping(globex, &json!({"addresses": ["198.51.100.7"], "ports": [{"port": 90}]})),
            Some("AddressTaken"),
        ),
        case(
            "one that both share",
            mapping(
                globex,
                &json!({"addresses": ["198.51.100.7"], "shared": true, "ports": [{"port": 90}]}),
            ),
            None,
        ),
        case(
            "its own tenant's address",
            mapping(acme, &json!({"addresses": ["198.51.100.1"], "ports": [{"port": 90}]})),
            None,
        ),
        case(
            "a service of another tenant",
            mapping(globex, &service(acme)),
            Some("NamespaceForeign"),
        ),
        case("a service of nobody", mapping(globex, &service(nobody)), Some("NamespaceForeign")),
        case("a door of its own", globex_has(door("198.51.100.2", &json!({}))), None),
        case("another's door", globex_has(door("198.51.100.1", &json!({}))), Some("AddressTaken")),
        case(
            "a name at the address that both share",
            globex_has(door("198.51.100.7", &json!({"shared": true, "port": 81}))),
            None,
        ),
        case(
            "a door that is no address",
            globex_has(door("door.example", &json!({}))),
            Some("BadAddress"),
        ),
        case(
            "another's egress address",
            globex_has(json!({"egress": {"addresses": ["203.0.113.1"]}})),
            Some("EgressTaken"),
        ),
        case(
            "a certificate of another tenant",
            globex_has(door(
                "198.51.100.2",
                &json!({"port": 443, "protocol": "HTTPS", "certificate": {"secretName": format!("{acme}/shop")}}),
            )),
            Some("NamespaceForeign"),
        ),
        case(
            "one of several certificates",
            globex_has(door(
                "198.51.100.2",
                &json!({"port": 443, "protocol": "HTTPS", "certificates": [{"secretName": format!("{acme}/shop")}]}),
            )),
            Some("NamespaceForeign"),
        ),
        case(
            "a certificate by entries of another tenant",
            globex_has(door(
                "198.51.100.2",
                &json!({"port": 443, "protocol": "HTTPS", "certificate":
                {"certificateFile": format!("secret:{acme}/shop/tls.crt"), "keyFile": format!("secret:{acme}/shop/tls.key")}}),
            )),
            Some("NamespaceForeign"),
        ),
        case(
            "a file of the host",
            globex_has(door(
                "198.51.100.2",
                &json!({"port": 443, "protocol": "HTTPS", "certificate": {"certificateFile": "/etc/shop.crt", "keyFile": "/etc/shop.key"}}),
            )),
            Some("FileOutside"),
        ),
        case(
            "names looked up in another's namespace",
            {
                let mut spec = door(
                    "198.51.100.2",
                    &json!({"port": 443, "protocol": "HTTPS", "certificate": {"secretName": "shop"}}),
                );
                spec["namespace"] = json!(acme);
                globex_has(spec)
            },
            Some("NamespaceForeign"),
        ),
        case(
            "a service of another tenant's namespace",
            globex_has(
                json!({"namespace": globex, "egress": {"addresses": ["203.0.113.9"]}, "upstreams": {"pay": {"service": {"name": "pay", "port": "http", "namespace": acme}}},
                "ingress": [{"address": "198.51.100.2", "port": 80, "protocol": "HTTP", "upstream": "pay"}]}),
            ),
            Some("NamespaceForeign"),
        ),
    ]
}

/// Label of everything that belongs to a test: other tests on the same server have their own objects.
const CASE: &str = "durward.test/case";

/// Makes the namespaces. Each tenant has the name of its namespace, so that no other test has one of that name.
async fn names(env: &TestEnv) -> Names {
    let labels = json!({ CASE: env.namespace() });
    let acme = env.new_namespace(&labels).await;
    let globex = env.new_namespace(&labels).await;
    for name in [&acme, &globex] {
        let path = format!("/api/v1/namespaces/{name}");
        let mut namespace = env.raw("GET", &path, None).await.unwrap();
        namespace["metadata"]["labels"]["durward.dev/tenant"] = json!(name);
        env.raw("PUT", &path, Some(&namespace)).await.unwrap();
    }
    let nobody = env.new_namespace(&labels).await;
    let labels =
        json!({ CASE: env.namespace(), "tenant": globex, "network/isolation": "egress-proxy" });
    let isolated = env.new_namespace(&labels).await;
    Names { acme, globex, nobody, isolated, gateway: env.namespace().to_owned() }
}

/// Returns the policies, for the objects of this test alone.
fn policies(env: &TestEnv) -> Vec<Value> {
    let of_test = json!({ "matchLabels": { CASE: env.namespace() } });
    let mut policies = admission::policies(env.namespace());
    for object in &mut policies {
        let name = |name: &Value| json!(format!("{}-{}", name.as_str().unwrap(), env.namespace()));
        object["metadata"]["name"] = name(&object["metadata"]["name"]);
        if object["kind"] == "ValidatingAdmissionPolicyBinding" {
            object["spec"]["policyName"] = name(&object["spec"]["policyName"]);
            object["spec"]["matchResources"] = json!({ "objectSelector": of_test });
            if object["spec"].get("paramRef").is_some() {
                object["spec"]["paramRef"]["selector"] = of_test.clone();
            }
        }
    }
    policies
}

fn labelled(env: &TestEnv, object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"]["labels"] = json!({ CASE: env.namespace() });
    object
}

fn path(object: &Value) -> String {
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => {
            let plural = match object["kind"].as_str().unwrap() {
                "EgressPolicy" => "egresspolicies",
                _ => "portmappings",
            };
            format!("/apis/durward.dev/v1alpha1/namespaces/{namespace}/{plural}")
        }
        None => "/apis/durward.dev/v1alpha1/tenants".to_owned(),
    }
}

/// Returns the reason why the API server refuses an object; `None` if it takes it. It is not stored.
async fn refused(env: &TestEnv, object: &Value) -> Option<String> {
    let name = object["metadata"]["name"].as_str().unwrap();
    let exists = env.raw("GET", &format!("{}/{name}", path(object)), None).await.ok();
    let answer = match exists {
        Some(stored) => {
            let mut object = object.clone();
            object["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
            env.raw("PUT", &format!("{}/{name}?dryRun=All", path(&object)), Some(&object)).await
        }
        None => env.raw("POST", &format!("{}?dryRun=All", path(object)), Some(object)).await,
    };
    let error = answer.err()?.to_string();
    let (_, message) = error.split_once("denied request: ").unwrap_or(("", &error));
    Some(message.split(':').next().unwrap_or_default().to_owned())
}

/// Returns the reason of the first error that `compile` finds in the object, beside the others.
fn rejected(names: &Names, object: &Value) -> Option<String> {
    let mut store = Store::default();
    store.read_cluster(Some(Cluster::new(&names.gateway)));
    let labels = |namespace: &str| {
        let mut labels = BTreeMap::new();
        if [&names.acme, &names.globex].into_iter().any(|one| one == namespace) {
            labels.insert(Arc::from("durward.dev/tenant"), Arc::from(namespace));
        }
        if *namespace == names.isolated {
            labels.insert(Arc::from("tenant"), Arc::from(names.globex.as_str()));
            labels.insert(Arc::from("network/isolation"), Arc::from("egress-proxy"));
        }
        (Reference::Namespace(Arc::from(namespace)), Some(Fact::Labels(labels)))
    };
    let all = [&names.acme, &names.globex, &names.nobody, &names.isolated, &names.gateway];
    let residents = residents(names);
    let mut objects: Vec<Value> = residents
        .into_iter()
        .filter(|one| {
            one["metadata"]["name"] != object["metadata"]["name"] || one["kind"] != object["kind"]
        })
        .collect();
    objects.push(object.clone());
    let documents = objects.iter().enumerate().map(|(age, object)| {
        let mut object = object.clone();
        object["metadata"]["creationTimestamp"] = json!(format!("2026-11-01T10:00:{age:02}Z"));
        object["metadata"]["uid"] = json!(age.to_string());
        let kind = object["kind"].as_str().unwrap().parse::<Kind>().unwrap();
        Object::decode(kind, "durward.dev/v1alpha1", &object.to_string()).unwrap().document()
    });
    let documents: Vec<_> = documents.collect();
    let key = documents.last().unwrap().key.clone();
    store.apply(Change {
        upserts: documents,
        facts: all.into_iter().map(|namespace| labels(namespace)).collect(),
        ..Change::default()
    });
    let compiled = compile(&store, None, 1_800_000_000);
    let verdict = compiled.verdicts.on(&key).unwrap();
    assert!(matches!(key, DocumentKey::Object(_)));
    if verdict.outcome == Outcome::Accepted {
        return None;
    }
    let mut errors = verdict.findings.iter().filter(|one| one.severity == Severity::Error);
    errors.next().map(|finding| finding.reason.to_string())
}

#[tokio::test]
async fn the_api_server_refuses_what_compile_rejects_for_the_same_reason() {
    let env = TestEnv::start().await;
    for definition in crds::definitions() {
        env.define(&definition).await;
    }
    let names = names(&env).await;
    for resident in residents(&names) {
        env.create(&labelled(&env, &resident)).await;
    }
    for object in policies(&env) {
        env.create(&object).await;
    }
    let mut cases = cases(&names);
    cases.iter_mut().for_each(|case| case.object = labelled(&env, &case.object));
    assert!(cases.len() >= 20);
    // Each policy counts from some moment on.
    for case in cases.iter().filter(|case| case.refused.is_some()) {
        let is_refused = eventually(PATIENCE, async || refused(&env, &case.object).await.is_some());
        assert!(is_refused.await, "{} is not refused", case.what);
    }

    for Case { what, object, refused: reason } in &cases {
        let at_admission = refused(&env, object).await;
        assert_eq!(at_admission.as_deref(), *reason, "at admission: {what}");
        assert_eq!(rejected(&names, object).as_deref(), *reason, "in compile: {what}");
    }

    for object in policies(&env) {
        let plural = match object["kind"].as_str().unwrap() {
            "ValidatingAdmissionPolicy" => "validatingadmissionpolicies",
            _ => "validatingadmissionpolicybindings",
        };
        let path = format!(
            "/apis/admissionregistration.k8s.io/v1/{plural}/{}",
            object["metadata"]["name"].as_str().unwrap()
        );
        env.raw("DELETE", &path, None).await.unwrap();
    }
}
