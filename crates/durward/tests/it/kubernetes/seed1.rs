//! The first original in a cluster: a ConfigMap with `routing.json`, Secrets with the certificates, and Services that say their address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use durward_testkit::certificates::{Authority, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::kubernetes::{ApiServer, TestEnv};
use durward_testkit::process::{eventually, unique_loopback};
use serde_json::{Value, json};

use super::cases::{install, namespace, tls_secret};
use super::{Arguments, Cluster, DEADLINE, Form, door, spec, until_served};
use crate::support::get;

const CONFIG_MAP: &str = "pingora-tenant-routing";

/// Starts a gateway that reads the ConfigMap of its own namespace.
async fn start(form: Form) -> Cluster {
    start_on(TestEnv::start().await, form).await
}

async fn start_on(env: TestEnv, form: Form) -> Cluster {
    let kubeconfig = env.service_account("durward").await;
    let theirs = env.namespace().to_owned();
    install(&env, "deploy/kubernetes/rbac.yaml", &theirs).await;
    install(&env, "deploy/kubernetes/routing.yaml", &theirs).await;
    let port = unique_loopback().octets();
    // Loopback addresses are bound on a port that needs no right.
    let port = 20_000 + u16::from(port[2]) % 128 * 64 + u16::from(port[3]) % 64;
    let bind = format!("0.0.0.0:{port}");
    let both = ["--gateway-namespace", &theirs, "--kube-routing", CONFIG_MAP];
    let gateway = [&both[..], &["--routing-bind", &bind]].concat();
    let reader = if form == Form::TwoProcesses { &both[..] } else { &[] };
    Cluster::with(env, &kubeconfig, form, Arguments::new(reader, &gateway)).await
}

/// Waits until the certificate at an address is one of the authority.
async fn until_trusted(at: SocketAddr, authority: &Authority) {
    let trusted = eventually(DEADLINE, async || {
        let config = Arc::new(client_config(authority, None));
        RawHttp::connect_tls(at, None, config, None).await.is_ok()
    });
    assert!(trusted.await, "no certificate of the authority is served at {at}");
}

fn bound(cluster: &Cluster, address: IpAddr) -> SocketAddr {
    let more = &cluster.more.gateway;
    let at = more.iter().position(|one| one == "--routing-bind").unwrap();
    let bind: SocketAddr = more[at + 1].parse().unwrap();
    SocketAddr::new(address, bind.port())
}

/// Writes the ConfigMap with an entry for each of these tenants.
async fn route(cluster: &Cluster, tenants: &[(&str, IpAddr)]) {
    let entries = tenants.iter().map(|(tenant, address)| {
        let egress = unique_loopback().to_string();
        let entry = json!({"tenant": tenant, "backend": "10.244.1.5", "egressIP": egress});
        (address.to_string(), entry)
    });
    let routing: serde_json::Map<String, Value> = entries.collect();
    write(cluster, &Value::from(routing).to_string()).await;
}

async fn write(cluster: &Cluster, text: &str) {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG_MAP},
        "data": {"routing.json": text},
    });
    cluster.env.create(&map).await;
}

async fn certificate(cluster: &Cluster, name: &str, authority: &Authority, address: IpAddr) {
    let at = SocketAddr::new(address, 443);
    cluster.env.create(&tls_secret(cluster.env.namespace(), name, authority, at)).await;
}

// S1.4+ S1.17+ S1.20 S1.21 S1.23 S1.56+ S1.61+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_map_and_secrets_are_served_followed_and_survive_a_bad_edit() {
    served_followed_and_survives(Form::OneProcess).await;
}

// S1.4+ S1.17+ S1.20+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_map_and_secrets_are_served_by_a_gateway_without_any_right() {
    served_followed_and_survives(Form::TwoProcesses).await;
}

async fn served_followed_and_survives(form: Form) {
    let cluster = start(form).await;
    let (a, b): (IpAddr, IpAddr) = (unique_loopback().into(), unique_loopback().into());
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    route(&cluster, &[("tenant-A", a)]).await;
    certificate(&cluster, "tenant-a-cert", &first, a).await;

    until_trusted(bound(&cluster, a), &first).await;
    certificate(&cluster, "tenant-a-cert", &second, a).await;
    until_trusted(bound(&cluster, a), &second).await;
    certificate(&cluster, "tenant-b-cert", &first, b).await;
    route(&cluster, &[("tenant-A", a), ("tenant-B", b)]).await;
    until_trusted(bound(&cluster, b), &first).await;

    write(&cluster, "{ not JSON").await;
    let is_told = async || {
        let told = get(cluster.admin, "/readyz?verbose").map(|(_, text)| text).unwrap_or_default();
        told.contains(CONFIG_MAP) && told.contains("not valid JSON")
    };
    let verbose = || get(cluster.admin, "/readyz?verbose");
    assert!(eventually(DEADLINE, is_told).await, "{:?} {}", verbose(), cluster.gateway.output());
    until_trusted(bound(&cluster, a), &second).await;
    until_trusted(bound(&cluster, b), &first).await;
    route(&cluster, &[("tenant-B", b)]).await;
    let gone = async || {
        get(cluster.admin, "/snapshot").is_some_and(|(_, text)| !text.contains("tenant-A"))
    };
    assert!(eventually(DEADLINE, gone).await);
    until_trusted(bound(&cluster, b), &first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_map_is_served_from_the_cache_by_a_start_without_an_api_server() {
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let mut cluster = start_on(env, Form::OneProcess).await;
    cluster.dir.write("cache.key", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
    let key = cluster.dir.join("cache.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let cached = ["--kube-cache", "DIR/cluster.cache", "--kube-cache-key", "DIR/cache.key"];
    cluster.more.gateway.extend(cached.map(str::to_owned));
    cluster.restart();
    let (a, authority): (IpAddr, _) = (unique_loopback().into(), Authority::new("first"));
    certificate(&cluster, "tenant-a-cert", &authority, a).await;
    route(&cluster, &[("tenant-A", a)]).await;
    until_trusted(bound(&cluster, a), &authority).await;
    let cache = cluster.dir.join("cluster.cache");
    let written = || std::fs::metadata(&cache).and_then(|found| found.modified()).ok();
    let before = written();
    // A cache that was written after all of this.
    cluster.tenant("last", door(), "last").await;
    cluster.until_condition("last", "Ready", "True Ready").await;
    let is_written = async || written() > before;
    assert!(eventually(DEADLINE, is_written).await, "{}", cluster.gateway.output());

    cluster.kill();
    let server = cluster.env.double().unwrap();
    server.go_away();
    server.reset_connections();
    cluster.start_again();

    until_trusted(bound(&cluster, a), &authority).await;
    cluster.env.double().unwrap().come_back();
    let b: IpAddr = unique_loopback().into();
    certificate(&cluster, "tenant-b-cert", &authority, b).await;
    route(&cluster, &[("tenant-B", b)]).await;
    until_trusted(bound(&cluster, b), &authority).await;
    let gone = async || {
        get(cluster.admin, "/snapshot").is_some_and(|(_, text)| !text.contains("tenant-A"))
    };
    assert!(eventually(DEADLINE, gone).await, "{}", cluster.gateway.output());
}

/// Makes a Service of our class that asks for an address.
async fn service(cluster: &Cluster, namespace: &str, name: &str, asked: &Value) {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "durward.dev/gateway",
            "ports": [{"port": 443, "targetPort": 8443}],
        },
    });
    for (part, fields) in asked.as_object().unwrap() {
        service[part].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    }
    cluster.env.create(&service).await;
}

/// Returns what the status of a Service has, as `ADDRESS MODE`.
async fn balanced(cluster: &Cluster, namespace: &str, name: &str) -> Vec<String> {
    let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
    let service = cluster.env.raw("GET", &path, None).await.unwrap();
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |one: Value| format!("{} {}", text(&one["ip"]), text(&one["ipMode"]));
    ingress.unwrap_or_default().into_iter().map(one).collect()
}

async fn until_balanced(cluster: &Cluster, namespace: &str, name: &str, wanted: &[String]) {
    let is_so = async || balanced(cluster, namespace, name).await == wanted;
    let last = balanced(cluster, namespace, name).await;
    assert!(eventually(DEADLINE, is_so).await, "{last:?} {}", cluster.gateway.output());
}

async fn has_event(cluster: &Cluster, namespace: &str, reason: &str, of: &str) -> bool {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let events = cluster.env.raw("GET", &path, None).await.unwrap();
    let events = events["items"].as_array().cloned().unwrap_or_default();
    events.iter().any(|event| event["reason"] == reason && event["regarding"]["name"] == of)
}

// S1.24 S1.48
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_says_the_address_that_its_tenant_serves_and_no_other() {
    says_the_address_and_no_other(Form::OneProcess).await;
}

// S1.24+ S1.48+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_says_the_address_that_a_gateway_without_any_right_serves() {
    says_the_address_and_no_other(Form::TwoProcesses).await;
}

async fn says_the_address_and_no_other(form: Form) {
    let env = TestEnv::start().await;
    let kubeconfig = env.service_account("durward").await;
    let theirs = env.new_namespace(&json!({"durward.dev/tenant": "acme"})).await;
    install(&env, "deploy/kubernetes/rbac.yaml", &theirs).await;
    install(&env, "deploy/kubernetes/load-balancers.yaml", &theirs).await;
    let more = Arguments::new(&["--kube-load-balancers"], &[]);
    let cluster = Cluster::with(env, &kubeconfig, form, more).await;
    let mallory = namespace(&cluster, "mallory").await;
    let nobody = cluster.env.new_namespace(&json!({})).await;
    let at = door();
    let address = at.ip().to_string();

    let asked = json!({"spec": {"loadBalancerIP": address}});
    service(&cluster, &theirs, "early", &asked).await;
    let event = async || has_event(&cluster, &theirs, "AddressNotOwned", "early").await;
    assert!(eventually(DEADLINE, event).await, "{}", cluster.gateway.output());
    cluster.apply("acme", &spec(at, "acme")).await;
    until_served(at, Some("acme")).await;
    let served = [format!("{address} Proxy")];
    until_balanced(&cluster, &theirs, "early", &served).await;
    let annotated = json!({"metadata": {"annotations": {"durward.dev/addresses": address}}});
    service(&cluster, &theirs, "annotated", &annotated).await;
    until_balanced(&cluster, &theirs, "annotated", &served).await;

    // CVE-2020-8554: whoever may write Services claims no address by one.
    service(&cluster, &mallory, "stolen", &asked).await;
    service(&cluster, &nobody, "stray", &asked).await;
    let event = async || has_event(&cluster, &mallory, "AddressNotOwned", "stolen").await;
    assert!(eventually(DEADLINE, event).await);
    let event = async || has_event(&cluster, &nobody, "NamespaceWithoutTenant", "stray").await;
    assert!(eventually(DEADLINE, event).await);
    assert_eq!(balanced(&cluster, &mallory, "stolen").await, [""; 0]);
    assert_eq!(balanced(&cluster, &nobody, "stray").await, [""; 0]);
    assert_eq!(get(at, "/").unwrap().1, "acme");

    cluster.delete("acme").await;
    until_balanced(&cluster, &theirs, "early", &[]).await;
    until_balanced(&cluster, &theirs, "annotated", &[]).await;
}
