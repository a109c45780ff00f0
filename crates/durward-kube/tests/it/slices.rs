//! The endpoints of `default/kubernetes` at an API server, kept by two proxies with the rights of the manifest.

mod edited;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use durward_kube::object::ObjectName;
use durward_kube::slice::{Family, SliceKeeper, SliceOptions, Target, hand_back, read};
use durward_testkit::kubernetes::TestEnv;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, watch};

use crate::cluster::{Cluster, eventually};

const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
const SECOND_SLICE: &str =
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes-ipv6";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";
const SERVICE: &str = "durward-api-proxy";

/// A real server has one such object for all tests of a process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

struct Stage {
    cluster: Cluster,
    account: String,
    _turn: MutexGuard<'static, ()>,
}

struct Proxy {
    keeper: SliceKeeper,
    ready: watch::Sender<bool>,
}

impl Stage {
    async fn start() -> Self {
        let turn = ONE_AT_A_TIME.lock().await;
        let cluster = Cluster::on(TestEnv::start().await).await;
        for path in [SLICE, SECOND_SLICE, ENDPOINTS] {
            // What an earlier test has left.
            drop(cluster.env.raw("DELETE", path, None).await);
        }
        let account = cluster.env.service_account("durward-api-proxy").await;
        let stage = Self { cluster, account, _turn: turn };
        stage.grant().await;
        stage
    }

    /// Applies the roles of the manifest for this test's namespace.
    async fn grant(&self) {
        let namespace = self.cluster.env.namespace();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let roles = std::fs::read_to_string(root.join("deploy/api-proxy/slice/role.yaml")).unwrap();
        let roles = roles.replace("kube-system", namespace);
        for role in roles.split("---\n") {
            let mut role: Value = serde_saphyr::from_str(role).unwrap();
            if role["metadata"]["namespace"] == "default" {
                // The binding in the namespace that tests share has a name of its own.
                role["metadata"]["name"] = namespace.into();
                if role["kind"] == "RoleBinding" {
                    role["roleRef"]["name"] = namespace.into();
                }
            }
            self.cluster.env.create(&role).await;
        }
    }

    /// Says which proxies are ready, as the controller of Kubernetes does.
    async fn members(&self, ready: &[&str], not_ready: &[&str]) {
        for (family, name) in [("IPv4", "m4"), ("IPv6", "m6")] {
            let of = |ips: &[&str], ready: bool| -> Vec<Value> {
                let ips = ips.iter().filter(|ip| ip.contains(':') == (family == "IPv6"));
                ips.map(|ip| json!({"addresses": [ip], "conditions": {"ready": ready}})).collect()
            };
            let endpoints = [of(ready, true), of(not_ready, false)].concat();
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": SERVICE}},
                "addressType": family,
                "endpoints": endpoints,
                "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
            });
            self.cluster.env.create(&slice).await;
        }
    }

    async fn proxy(&self, name: &str, own: &[&str]) -> Proxy {
        let clients = self.cluster.clients_of(&self.account).await;
        let (ready, is_ready) = watch::channel(true);
        let options = SliceOptions {
            proxy: Arc::from(name),
            own: own.iter().map(|ip| ip.parse().unwrap()).collect(),
            port: 6443,
            service: ObjectName::new(self.cluster.env.namespace(), SERVICE),
            excluded: vec!["10.96.0.0/16".parse().unwrap()],
            primary: Family::V4,
        };
        Proxy { keeper: SliceKeeper::start(&clients, options, is_ready), ready }
    }

    async fn get(&self, path: &str) -> Option<Value> {
        self.cluster.env.raw("GET", path, None).await.ok()
    }

    /// Returns the addresses that slice and Endpoints lead to, if both agree.
    async fn addresses(&self) -> Option<BTreeSet<String>> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let slice = self.get(SLICE).await?;
        let of_slice: BTreeSet<String> =
            list(&slice["endpoints"]).filter_map(|it| text(&it["addresses"][0])).collect();
        let endpoints = self.get(ENDPOINTS).await?;
        let subsets = list(&endpoints["subsets"]);
        let of_endpoints: BTreeSet<String> = subsets
            .flat_map(|it| list(&it["addresses"]))
            .filter_map(|it| text(&it["ip"]))
            .collect();
        (of_slice == of_endpoints).then_some(of_slice)
    }

    async fn leads_to(&self, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|ip| (*ip).to_owned()).collect();
        let what = format!("endpoints {expected:?}");
        eventually(&what, async || self.addresses().await.as_ref() == Some(&expected)).await;
    }

    async fn patch(&self, path: &str, manager: &str, patch: &Value) {
        self.try_patch(path, manager, patch).await.unwrap();
    }

    async fn try_patch(
        &self,
        path: &str,
        manager: &str,
        patch: &Value,
    ) -> Result<Value, kube::Error> {
        let request = http::Request::builder()
            .method("PATCH")
            .uri(format!("{path}?fieldManager={manager}"))
            .header("content-type", "application/merge-patch+json")
            .body(patch.to_string().into_bytes())
            .unwrap();
        self.cluster.env.client().request::<Value>(request).await
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

// S4.7 S4.50+ S4.53 S4.59+
#[tokio::test]
async fn slice_and_endpoints_lead_to_the_ready_proxies_and_two_keepers_agree() {
    let stage = Stage::start().await;
    stage.members(&["10.1.0.1", "10.1.0.2", "fd00:1::1", "10.96.0.9"], &["10.1.0.3"]).await;

    let one = stage.proxy("node-1", &["10.1.0.1", "fd00:1::1"]).await;
    let two = stage.proxy("node-2", &["10.1.0.2"]).await;
    stage.leads_to(&["10.1.0.1", "10.1.0.2"]).await;
    let (mut first, mut second) = (one.keeper.report(), two.keeper.report());
    first.wait_for(|report| report.right).await.unwrap();
    second.wait_for(|report| report.right).await.unwrap();

    let slice = stage.get(SLICE).await.unwrap();
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(slice["ports"], json!([{"name": "https", "port": 6443, "protocol": "TCP"}]));
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "kubernetes");
    let sixth = stage.get(SECOND_SLICE).await.unwrap();
    assert_eq!(sixth["endpoints"][0]["addresses"], json!(["fd00:1::1"]));
    let endpoints = stage.get(ENDPOINTS).await.unwrap();
    let label = "endpointslice.kubernetes.io/skip-mirror";
    assert_eq!(endpoints["metadata"]["labels"][label], "true");
    // Nobody writes once everything is right.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let later = stage.get(SLICE).await.unwrap();
    assert_eq!(later["metadata"]["resourceVersion"], slice["metadata"]["resourceVersion"]);
    assert!(one.keeper.report().borrow().contest.is_none());
}

// S4.51
#[tokio::test]
async fn what_somebody_edits_or_deletes_is_mended() {
    let stage = Stage::start().await;
    stage.members(&["10.1.0.1", "10.1.0.2"], &[]).await;
    let _one = stage.proxy("node-1", &["10.1.0.1"]).await;
    let _two = stage.proxy("node-2", &["10.1.0.2"]).await;
    let both = ["10.1.0.1", "10.1.0.2"];
    stage.leads_to(&both).await;

    let wrong = json!({"endpoints": [{"addresses": ["10.9.9.9"]}]});
    stage.patch(SLICE, "kubectl-edit", &wrong).await;
    stage.leads_to(&both).await;
    stage.patch(SLICE, "kubectl-edit", &json!({"ports": [{"name": "https", "port": 1}]})).await;
    eventually("the port is mended", async || {
        stage.get(SLICE).await.is_some_and(|slice| slice["ports"][0]["port"] == 6443)
    })
    .await;
    let label = json!({"metadata": {"labels": {"kubernetes.io/service-name": null}}});
    stage.patch(SLICE, "kubectl-edit", &label).await;
    eventually("the label is mended", async || {
        let slice = stage.get(SLICE).await.unwrap_or_default();
        slice["metadata"]["labels"]["kubernetes.io/service-name"] == "kubernetes"
    })
    .await;
    stage.cluster.delete(SLICE).await;
    stage.cluster.delete(ENDPOINTS).await;
    stage.leads_to(&both).await;
}

// S4.52
#[tokio::test]
async fn a_proxy_that_is_not_ready_leaves_at_once_and_returns() {
    let stage = Stage::start().await;
    stage.members(&["10.1.0.1", "10.1.0.2"], &[]).await;
    let one = stage.proxy("node-1", &["10.1.0.1"]).await;
    let _two = stage.proxy("node-2", &["10.1.0.2"]).await;
    stage.leads_to(&["10.1.0.1", "10.1.0.2"]).await;

    // Its Service still counts it.
    one.ready.send_replace(false);
    stage.leads_to(&["10.1.0.2"]).await;
    stage.members(&["10.1.0.2"], &["10.1.0.1"]).await;
    one.keeper.report().wait_for(|report| report.withdrawn).await.unwrap();
    one.ready.send_replace(true);
    stage.members(&["10.1.0.1", "10.1.0.2"], &[]).await;

    stage.leads_to(&["10.1.0.1", "10.1.0.2"]).await;
    eventually("the mark is gone", async || {
        let slice = stage.get(SLICE).await.unwrap_or_default();
        let annotations = slice["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        !annotations.keys().any(|key| key.contains("withdrawn"))
    })
    .await;
}

// S4.49
#[tokio::test]
async fn an_api_server_that_writes_the_endpoints_all_the_same_is_reported() {
    let stage = Stage::start().await;
    stage.members(&["10.1.0.1"], &[]).await;
    let one = stage.proxy("node-1", &["10.1.0.1"]).await;
    stage.leads_to(&["10.1.0.1"]).await;
    let mut report = one.keeper.report();
    report.wait_for(|report| report.right).await.unwrap();

    // What an API server with the lease reconciler does every ten seconds.
    let its_own =
        json!({"endpoints": [{"addresses": ["172.16.0.1"], "conditions": {"ready": true}}]});
    stage.patch(SLICE, "kube-apiserver", &its_own).await;

    let contest = report.wait_for(|report| report.contest.is_some()).await.unwrap().contest.clone();
    let contest = contest.unwrap().to_string();
    assert!(contest.starts_with("SliceContested: kube-apiserver"), "{contest}");
    assert!(contest.contains("--endpoint-reconciler-type=none"), "{contest}");
    stage.leads_to(&["10.1.0.1"]).await;
}

// S4.54
#[tokio::test]
async fn what_was_there_before_is_given_back_and_what_was_made_is_removed() {
    let stage = Stage::start().await;
    stage.members(&["10.1.0.1", "fd00:1::1"], &[]).await;
    stage
        .cluster
        .env
        .create(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["172.16.0.1"], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": 6444, "protocol": "TCP"}],
        }))
        .await;
    let one = stage.proxy("node-1", &["10.1.0.1", "fd00:1::1"]).await;
    stage.leads_to(&["10.1.0.1"]).await;
    one.keeper.report().wait_for(|report| report.right).await.unwrap();
    drop(one);

    // The proxies may give back themselves; nobody needs more rights for it.
    let client = stage.cluster.clients_of(&stage.account).await.write;
    let changed = hand_back(&client).await.unwrap();
    let again = hand_back(&client).await.unwrap();

    assert_eq!(changed.len(), 3, "{changed:?}");
    assert_eq!(again, []);
    let slice = stage.get(SLICE).await.unwrap();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["172.16.0.1"]));
    assert_eq!(slice["ports"][0]["port"], 6444);
    assert!(stage.get(SECOND_SLICE).await.is_none() && stage.get(ENDPOINTS).await.is_none());
}

// S4.50
#[tokio::test]
async fn a_proxy_may_write_no_other_slice_and_read_no_secret() {
    let stage = Stage::start().await;
    let client = stage.cluster.clients_of(&stage.account).await.write;
    let objects = read(&client).await.unwrap();
    assert!(objects[&Target::Primary].is_none());

    let account = stage.cluster.env.namespace().to_owned();
    let user = format!("system:serviceaccount:{account}:durward-api-proxy");
    let can = async |verb: &str, group: &str, resource: &str, name: &str, namespace: &str| {
        let attributes = json!({"verb": verb, "group": group, "resource": resource, "name": name, "namespace": namespace});
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": attributes},
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = stage.cluster.env.raw("POST", path, Some(&review)).await.unwrap();
        answer["status"]["allowed"] == true
    };
    let slices = ("discovery.k8s.io", "endpointslices");
    assert!(can("patch", slices.0, slices.1, "kubernetes", "default").await);
    assert!(can("watch", slices.0, slices.1, "kubernetes", "default").await);
    for (verb, group, resource, name, namespace) in [
        ("patch", slices.0, slices.1, "other", "default"),
        ("list", slices.0, slices.1, "", "default"),
        ("patch", slices.0, slices.1, "m4", &account),
        ("patch", slices.0, slices.1, "kubernetes", &account),
        ("get", "", "secrets", "any", &account),
        ("patch", "", "services", "kubernetes", "default"),
    ] {
        let is_allowed = can(verb, group, resource, name, namespace).await;
        assert!(!is_allowed, "{verb} {resource} {namespace}/{name}");
    }
}
