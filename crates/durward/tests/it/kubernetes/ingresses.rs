//! Ingresses of a tenant's namespaces: served at the listeners that take them, with a status that says where, and Events that say what is not done.

use std::net::SocketAddr;
use std::sync::Arc;

use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::kubernetes::TestEnv;
use durward_testkit::process::{eventually, unique_loopback};
use serde_json::{Value, json};

use super::cases::{install, namespace};
use super::{Arguments, Cluster, DEADLINE, Form, door};
use crate::support::{get, status};

const INGRESSES: &str = "apis/networking.k8s.io/v1";

/// Starts with the rights of the repository, in a cluster with a namespace of tenant `acme`.
async fn start(form: Form) -> (Cluster, String) {
    let env = TestEnv::start().await;
    let kubeconfig = env.service_account("durward").await;
    let theirs = env.new_namespace(&json!({"durward.dev/tenant": "acme"})).await;
    for file in ["rbac.yaml", "ingresses/ingresses.yaml", "tenant-secrets.yaml"] {
        install(&env, &format!("deploy/kubernetes/{file}"), &theirs).await;
    }
    let more = Arguments::new(&["--kube-ingresses"], &[]);
    (Cluster::with(env, &kubeconfig, form, more).await, theirs)
}

/// Makes a tenant whose listeners take Ingresses: plain HTTP, and HTTPS.
async fn tenant(cluster: &Cluster, theirs: &str, [plain, secured]: [SocketAddr; 2]) {
    let entry = |at: SocketAddr, protocol: &str| {
        json!({"address": at.ip().to_string(), "port": at.port(), "protocol": protocol,
            "allowedRoutes": {"kinds": ["Ingress"]}})
    };
    let spec = json!({
        "namespace": theirs, "egress": {"addresses": [unique_loopback().to_string()]},
        "ingress": [entry(plain, "HTTP"), entry(secured, "HTTPS")],
    });
    cluster.apply("acme", &spec).await;
}

fn ingress(namespace: &str, name: &str, annotations: &Value, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["ingressClassName"] = json!("durward");
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": spec,
    })
}

fn to(service: &str) -> Value {
    json!({"service": {"name": service, "port": {"name": "http"}}})
}

/// Annotations by which every request is answered 301.
fn redirect() -> Value {
    json!({"nginx.ingress.kubernetes.io/permanent-redirect": "https://shop.example/"})
}

async fn addresses(cluster: &Cluster, namespace: &str, name: &str) -> Vec<String> {
    let path = format!("/{INGRESSES}/namespaces/{namespace}/ingresses/{name}");
    let ingress = cluster.env.raw("GET", &path, None).await.unwrap();
    let entries = ingress["status"]["loadBalancer"]["ingress"].as_array().cloned();
    let text = |entry: Value| entry["ip"].as_str().unwrap_or_default().to_owned();
    entries.unwrap_or_default().into_iter().map(text).collect()
}

async fn until_addresses(cluster: &Cluster, (namespace, name): (&str, &str), wanted: &[String]) {
    let is_so = async || addresses(cluster, namespace, name).await == wanted;
    let is_so = eventually(DEADLINE, is_so).await;
    let last = addresses(cluster, namespace, name).await;
    assert!(is_so, "{last:?} {}", cluster.gateway.output());
}

/// Waits for a Warning about an Ingress whose note has these words.
async fn until_warned(cluster: &Cluster, (namespace, name): (&str, &str), words: &str) {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let is_so = async || {
        let events = cluster.env.raw("GET", &path, None).await.unwrap();
        let events = events["items"].as_array().cloned().unwrap_or_default();
        events.iter().any(|event| {
            event["type"] == "Warning"
                && event["regarding"]["kind"] == "Ingress"
                && event["regarding"]["name"] == name
                && event["note"].as_str().is_some_and(|note| note.contains(words))
        })
    };
    assert!(eventually(DEADLINE, is_so).await, "{words} {}", cluster.gateway.output());
}

async fn until_status(at: SocketAddr, wanted: u16) {
    let is_so = eventually(DEADLINE, async || status(at, "/") == Some(wanted)).await;
    assert!(is_so, "{at} answers {:?}, not {wanted}", status(at, "/"));
}

pub(super) async fn an_ingress_is_served_where_its_tenant_takes_it_and_says_so(form: Form) {
    let (cluster, theirs) = start(form).await;
    let [plain, secured] = [door(), door()];
    tenant(&cluster, &theirs, [plain, secured]).await;
    until_status(plain, 404).await;

    let spec = json!({"defaultBackend": to("shop")});
    cluster.env.create(&ingress(&theirs, "shop", &redirect(), &spec)).await;
    until_status(plain, 301).await;
    let mut both = [plain.ip(), secured.ip()];
    both.sort_unstable();
    let both = both.map(|ip| ip.to_string());
    until_addresses(&cluster, (&theirs, "shop"), &both).await;

    // One of another class is left to its controller.
    let mut other = ingress(&theirs, "other", &redirect(), &spec);
    other["spec"]["ingressClassName"] = json!("somebody-elses");
    cluster.env.create(&other).await;
    // Another tenant has no listener that takes Ingresses, and gets none of this one's.
    let mallory = namespace(&cluster, "mallory").await;
    cluster
        .apply("mallory", &json!({"egress": {"addresses": [unique_loopback().to_string()]}}))
        .await;
    cluster.env.create(&ingress(&mallory, "stolen", &json!({}), &spec)).await;
    until_warned(&cluster, (&mallory, "stolen"), "allowedRoutes").await;
    assert_eq!(addresses(&cluster, &mallory, "stolen").await, [""; 0]);
    assert_eq!(addresses(&cluster, &theirs, "other").await, [""; 0]);

    // What is not understood is said with its name.
    let odd = json!({"nginx.ingress.kubernetes.io/made-up": "1"});
    let rule = json!({"rules": [{"host": "odd.example", "http": {"paths": [
        {"path": "/", "pathType": "Prefix", "backend": to("shop")}
    ]}}]});
    cluster.env.create(&ingress(&theirs, "odd", &odd, &rule)).await;
    until_warned(&cluster, (&theirs, "odd"), "nginx.ingress.kubernetes.io/made-up").await;

    let path = format!("/{INGRESSES}/namespaces/{theirs}/ingresses/shop");
    cluster.env.raw("DELETE", &path, None).await.unwrap();
    until_status(plain, 404).await;
}

// S3.27+ S1.17+
pub(super) async fn the_secret_of_an_ingress_is_shown_and_its_service_has_its_ready_pods(
    form: Form,
) {
    let (cluster, theirs) = start(form).await;
    let [plain, secured] = [door(), door()];
    tenant(&cluster, &theirs, [plain, secured]).await;
    let authority = Authority::new("acme");
    let issued = authority.issue(&CertSpec::new().dns("shop.example").server());
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "shop", "namespace": theirs},
        "stringData": {"tls.crt": issued.chain_pem, "tls.key": issued.key_pem},
    });
    cluster.env.create(&secret).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "shop", "namespace": theirs},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    cluster.env.create(&service).await;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "shop-1", "namespace": theirs, "labels": {"kubernetes.io/service-name": "shop"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}],
    });
    cluster.env.create(&slice).await;
    let path =
        |path: &str, kind: &str| json!({"path": path, "pathType": kind, "backend": to("shop")});
    let spec = json!({
        "tls": [{"hosts": ["shop.example"], "secretName": "shop"}],
        "rules": [{"host": "shop.example", "http": {"paths": [path("/api", "Prefix")]}}],
    });
    cluster.env.create(&ingress(&theirs, "shop", &json!({}), &spec)).await;

    let answers = async || {
        let config = Arc::new(client_config(&authority, None));
        let connected = RawHttp::connect_tls(secured, None, config, Some("shop.example")).await;
        let Ok(mut http) = connected else { return None };
        Some(http.get("shop.example", "/other").await.ok()?.status)
    };
    let is_so = eventually(DEADLINE, async || answers().await == Some(404)).await;
    assert!(is_so, "{:?} {}", answers().await, cluster.gateway.output());
    let shown = async || {
        get(cluster.admin, "/snapshot?tenant=acme")
            .is_some_and(|(_, it)| it.contains("192.0.2.1:8080"))
    };
    assert!(eventually(DEADLINE, shown).await, "{:?}", get(cluster.admin, "/snapshot?tenant=acme"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingress_in_one_process() {
    an_ingress_is_served_where_its_tenant_takes_it_and_says_so(Form::OneProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingress_in_two_processes() {
    an_ingress_is_served_where_its_tenant_takes_it_and_says_so(Form::TwoProcesses).await;
}

// S3.27+ S1.17+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_and_service_of_an_ingress_in_one_process() {
    the_secret_of_an_ingress_is_shown_and_its_service_has_its_ready_pods(Form::OneProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_and_service_of_an_ingress_in_two_processes() {
    the_secret_of_an_ingress_is_shown_and_its_service_has_its_ready_pods(Form::TwoProcesses).await;
}
