//! What the status of a `TLSRoute` says that is served: entries of ours for its parents, beside those of other controllers.

use super::super::Arguments;
use super::*;

const THEIRS: &str = "other.example/controller";

fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "tlsroutes.gateway.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": {"kind": "TLSRoute", "listKind": "TLSRouteList", "plural": "tlsroutes", "singular": "tlsroute"},
            "versions": [{
                "name": "v1alpha3", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}},
            }],
        },
    })
}

/// A route in a namespace, as others see it.
struct Route<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    name: &'a str,
}

impl Route<'_> {
    fn path(&self) -> String {
        let Self { namespace, name, .. } = self;
        format!("/apis/gateway.networking.k8s.io/v1alpha3/namespaces/{namespace}/tlsroutes/{name}")
    }

    async fn apply(&self, hostnames: &[&str], service: &str) {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1alpha3", "kind": "TLSRoute",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "hostnames": hostnames, "parentRefs": [{"name": "gateway"}, {"name": "edge", "namespace": "edge"}],
                "rules": [{"backendRefs": [{"name": service, "port": 6443}]}],
            },
        });
        self.cluster.env.create(&route).await;
    }

    /// Writes the status as another controller does, that knows of no entry but its own.
    async fn overwrite(&self) {
        let theirs =
            json!({"parentRef": {"name": "gateway"}, "controllerName": THEIRS, "conditions": []});
        let request = http::Request::builder()
            .method("PATCH")
            .uri(format!("{}/status?fieldManager=other", self.path()))
            .header("content-type", "application/merge-patch+json")
            .body(json!({"status": {"parents": [theirs]}}).to_string().into_bytes())
            .unwrap();
        self.cluster.env.client().request::<Value>(request).await.unwrap();
    }

    async fn entries(&self, controller: &str) -> Vec<Value> {
        let route = self.cluster.env.raw("GET", &self.path(), None).await.unwrap();
        let parents = route["status"]["parents"].as_array().cloned().unwrap_or_default();
        parents.into_iter().filter(|entry| entry["controllerName"] == controller).collect()
    }

    /// Conditions of our entries as `TYPE=STATUS/REASON`, of each parent.
    async fn said(&self) -> Vec<String> {
        let of_entry = |entry: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let conditions = entry["conditions"].as_array().cloned().unwrap_or_default();
            let shown = conditions.iter().map(|it| {
                format!("{}={}/{}", text(&it["type"]), text(&it["status"]), text(&it["reason"]))
            });
            format!(
                "{}: {}",
                text(&entry["parentRef"]["name"]),
                shown.collect::<Vec<_>>().join(" ")
            )
        };
        self.entries("durward.dev/gateway").await.iter().map(of_entry).collect()
    }

    async fn until(&self, wanted: impl Fn(&[String]) -> bool) {
        let is_so = eventually(DEADLINE, async || wanted(&self.said().await)).await;
        assert!(is_so, "{}: {:?}: {}", self.name, self.said().await, self.cluster.gateway.output());
    }
}

// S4.18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_route_has_conditions_for_each_parent_beside_those_of_other_controllers() {
    let env = TestEnv::start().await;
    env.define(&definition()).await;
    let kubeconfig = env.kubeconfig();
    let more = Arguments::new(&["--foreign-hosted-apis"], &[]);
    let cluster = Cluster::with(env, &kubeconfig, Form::OneProcess, more).await;
    let (ours, nobodys) =
        (namespace(&cluster, "acme").await, cluster.env.new_namespace(&json!({})).await);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "t1", "namespace": ours},
        "spec": {"ports": [{"name": "https", "port": 6443}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "t1-1", "namespace": ours, "labels": {"kubernetes.io/service-name": "t1"}},
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.88.0.9"], "conditions": {"ready": true}}],
    });
    cluster.env.create(&service).await;
    cluster.env.create(&slice).await;
    let entry = json!([{
        "address": unique_loopback().to_string(), "port": 8443, "protocol": "TLS", "shared": true,
        "names": ["*.k8s.acme.example"], "acceptHostedApis": true,
    }]);
    let egress = json!({"addresses": [unique_loopback().to_string()]});
    cluster.apply("acme", &json!({"namespace": ours, "egress": egress, "ingress": entry})).await;
    let route = |name, namespace| Route { cluster: &cluster, namespace, name };
    let (good, lost, foreign) =
        (route("good", &ours), route("lost", &ours), route("foreign", &ours));
    let elsewhere = route("elsewhere", &nobodys);

    elsewhere.apply(&["t9.k8s.acme.example"], "t1").await;
    good.apply(&["t1.k8s.acme.example"], "t1").await;
    good.overwrite().await;
    lost.apply(&["t2.k8s.acme.example"], "nothing").await;
    foreign.apply(&["t1.k8s.bank.example"], "t1").await;

    let all = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed";
    let of_both =
        |conditions: &str| [format!("gateway: {conditions}"), format!("edge: {conditions}")];
    good.until(|said| said == of_both(all)).await;
    assert_eq!(good.entries(THEIRS).await.len(), 1, "theirs is left alone");
    lost.until(|said| said.len() == 2 && said[0].contains("ResolvedRefs=False/BackendNotFound"))
        .await;
    foreign
        .until(|said| said.len() == 2 && said.iter().all(|it| it.contains("Accepted=False")))
        .await;

    // Who overwrites the list loses the entries of others: ours are there again.
    good.overwrite().await;
    good.until(|said| said == of_both(all)).await;
    assert_eq!(good.entries(THEIRS).await.len(), 1);

    // A route that names no host any more is for other gateways alone.
    good.apply(&[], "t1").await;
    good.until(<[String]>::is_empty).await;
    assert_eq!(good.entries(THEIRS).await.len(), 1);
    assert_eq!(elsewhere.said().await, Vec::<String>::new(), "in a namespace of nobody");
}
