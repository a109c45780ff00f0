//! Objects that come in any order, and Secrets that are wrong, mended and renewed while clients connect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use durward_testkit::certificates::{Authority, CertSpec, client_config, client_config_expecting};
use durward_testkit::client::RawHttp;

use super::cases::namespace;
use super::*;

/// Certificates that are renewed one after the other.
const RENEWALS: usize = 12;
/// Clients that connect meanwhile, one connection after the other.
const CLIENTS: usize = 4;

fn secret(namespace: &str, authority: &Authority, of: CertSpec) -> Value {
    let issued = authority.issue(&of.server());
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "shop", "namespace": namespace},
        "stringData": {"tls.crt": issued.chain_pem, "tls.key": issued.key_pem},
    })
}

fn https(namespace: &str, at: SocketAddr) -> Value {
    let mut https = spec(at, "secure");
    https["namespace"] = json!(namespace);
    https["ingress"][0]["protocol"] = json!("HTTPS");
    https["ingress"][0]["certificate"] = json!({"secretName": "shop"});
    https
}

async fn is_trusted(at: SocketAddr, config: Arc<rustls::ClientConfig>) -> bool {
    let Ok(mut http) = RawHttp::connect_tls(at, None, config, None).await else { return false };
    http.get("x.example", "/").await.is_ok_and(|response| response.status == 200)
}

async fn until_trusted(at: SocketAddr, authority: &Authority) {
    let config = Arc::new(client_config(authority, None));
    let trusted = eventually(DEADLINE, async || is_trusted(at, Arc::clone(&config)).await);
    assert!(trusted.await, "no certificate of the authority is served at {at}");
}

/// Returns all objects that a tenant needs to be served: the label of its namespace is one of them.
fn objects(
    namespace: &str,
    name: &str,
    at: SocketAddr,
    authority: &Authority,
    pod: &str,
) -> Vec<Value> {
    let mut tenant = https(namespace, at);
    tenant["ingress"][0]["routes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"pathPrefix": "/pay", "upstream": "pay"}));
    tenant["upstreams"] = json!({"pay": {"service": {"name": "pay", "port": "http"}}});
    tenant["egress"] = json!({"addresses": [unique_loopback().to_string()]});
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"durward.dev/tenant": name}}}),
        secret(namespace, authority, CertSpec::new().ip(at.ip())),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "pay", "namespace": namespace},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "pay-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": "pay"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [pod], "conditions": {"ready": true}}],
        }),
        json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": tenant,
        }),
    ]
}

// S1.46
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_are_applied_in_any_order_are_served_alike() {
    let (cluster, authority) = (Cluster::start(Form::OneProcess).await, Authority::new("any"));
    let mut orders: Vec<Vec<usize>> =
        (0..5).map(|by| (0..5).map(|at| (at + by) % 5).collect()).collect();
    let backwards: Vec<Vec<usize>> =
        orders.iter().map(|order| order.iter().rev().copied().collect()).collect();
    orders.extend(backwards);

    for (number, order) in orders.iter().enumerate() {
        let (at, name, pod) =
            (door(), format!("order-{number}"), format!("192.0.2.{}", number + 1));
        let theirs = cluster.env.new_namespace(&json!({})).await;
        let objects = objects(&theirs, &name, at, &authority, &pod);
        for one in order {
            cluster.env.create(&objects[*one]).await;
            // Each is seen by itself.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        until_trusted(at, &authority).await;
        cluster.until_condition(&name, "Ready", "True Ready").await;
        cluster.until_condition(&name, "Accepted", "True Accepted").await;
        let has = async || {
            let shown = get(cluster.admin, &format!("/snapshot?tenant={name}"));
            shown.is_some_and(|(_, text)| text.contains(&format!("{pod}:8080")))
        };
        assert!(eventually(DEADLINE, has).await, "{order:?}");
    }
}

// S1.61
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_without_the_address_is_named_in_the_condition_and_mended_without_a_restart()
{
    let (cluster, at) = (Cluster::start(Form::OneProcess).await, door());
    let (authority, theirs) = (Authority::new("shop"), namespace(&cluster, "acme").await);
    let elsewhere = CertSpec::new().ip([192, 0, 2, 1]);
    cluster.env.create(&secret(&theirs, &authority, elsewhere)).await;

    cluster.apply("acme", &https(&theirs, at)).await;

    cluster.until_condition("acme", "Accepted", "False IpSanMissing").await;
    let tenant = cluster.env.raw("GET", &format!("{TENANTS}/acme"), None).await.unwrap();
    let conditions = tenant["status"]["conditions"].as_array().unwrap();
    let accepted = conditions.iter().find(|one| one["type"] == "Accepted").unwrap();
    let message = accepted["message"].as_str().unwrap();
    assert!(message.contains(&at.ip().to_string()), "{message}");
    assert!(message.contains("spec.ingress[0].certificate"), "{message}");
    cluster.env.create(&secret(&theirs, &authority, CertSpec::new().ip(at.ip()))).await;
    until_trusted(at, &authority).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
}

// S1.56
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_secret_that_is_replaced_serves_the_next_handshakes_and_fails_none() {
    let (cluster, at) = (Cluster::start(Form::OneProcess).await, door());
    let (authority, theirs) = (Authority::new("shop"), namespace(&cluster, "acme").await);
    let named = |number: usize| format!("n{number}.example");
    let renewed = |number: usize| {
        let of = CertSpec::new().ip(at.ip()).dns(&named(number));
        secret(&theirs, &authority, of)
    };
    cluster.env.create(&renewed(0)).await;
    cluster.apply("acme", &https(&theirs, at)).await;
    until_trusted(at, &authority).await;
    let (is_over, good, bad) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let config = Arc::new(client_config(&authority, None));
            let (is_over, good, bad) = (Arc::clone(&is_over), Arc::clone(&good), Arc::clone(&bad));
            tokio::spawn(async move {
                while !is_over.load(Relaxed) {
                    let counter =
                        if is_trusted(at, Arc::clone(&config)).await { &good } else { &bad };
                    counter.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();

    for number in 1..=RENEWALS {
        cluster.env.create(&renewed(number)).await;
        let expecting = Arc::new(client_config_expecting(&authority, None, &named(number)));
        let served = eventually(DEADLINE, async || is_trusted(at, Arc::clone(&expecting)).await);
        assert!(served.await, "renewal {number}");
    }
    is_over.store(true, Relaxed);
    for client in clients {
        client.await.unwrap();
    }

    assert_eq!(bad.load(Relaxed), 0, "of {} handshakes", good.load(Relaxed));
    assert!(good.load(Relaxed) > RENEWALS);
}
