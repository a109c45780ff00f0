//! Objects in namespaces that add to a tenant, in both forms: rules of its egress, and the labels of a Namespace.

use std::net::SocketAddr;

use durward_testkit::process::{eventually, unique_loopback};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::cases::namespace;
use super::{Cluster, DEADLINE, Form, door};

/// Returns the status of a request for a host by a forward proxy, from one of the tenant's clients.
async fn asked_for(proxy: SocketAddr, host: &str) -> Option<String> {
    let mut stream = TcpStream::connect(proxy).await.ok()?;
    let request =
        format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).map(str::to_owned)
}

/// Waits until a forward proxy denies requests for a host, or lets them through; nobody answers then, for there is no such host.
async fn until_denied(proxy: SocketAddr, host: &str, denied: bool) {
    let is_so = async || {
        let status = asked_for(proxy, host).await;
        status.is_some_and(|status| (status == "403") == denied)
    };
    assert!(eventually(DEADLINE, is_so).await, "{:?}", asked_for(proxy, host).await);
}

pub(super) async fn egress_policies_and_the_labels_of_a_namespace_add_to_the_rules_of_its_tenant(
    form: Form,
) {
    let (mut cluster, proxy) = (Cluster::start(form).await, door());
    let theirs = namespace(&cluster, "acme").await;
    let tenant = json!({
        "egress": {
            "addresses": [unique_loopback().to_string()],
            // Nobody answers there.
            "resolvers": [format!("{}:1", unique_loopback())],
            "proxy": [{"address": proxy.ip().to_string(), "port": proxy.port(), "allowedSources": ["127.0.0.0/8"]}],
        },
    });
    cluster.apply("acme", &tenant).await;
    until_denied(proxy, "pay.example", true).await;
    let policy = |rules: Value| {
        json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": "EgressPolicy",
            "metadata": {"name": "pay", "namespace": theirs}, "spec": rules,
        })
    };
    let path = format!("/apis/durward.dev/v1alpha1/namespaces/{theirs}/egresspolicies/pay");

    cluster.env.create(&policy(json!({"allow": [{"host": "pay.example"}]}))).await;
    until_denied(proxy, "pay.example", false).await;
    until_policy(&cluster, &path, "Ready", "True Ready").await;

    // A mistake is said, and what was served stays, also for the next process.
    cluster.env.create(&policy(json!({"allow": [{"host": "pay example"}]}))).await;
    until_policy(&cluster, &path, "Accepted", "False BadHost").await;
    until_policy(&cluster, &path, "Programmed", "False NotAccepted").await;
    until_denied(proxy, "pay.example", false).await;
    cluster.restart();
    until_denied(proxy, "pay.example", false).await;
    cluster.env.raw("DELETE", &path, None).await.unwrap();
    until_denied(proxy, "pay.example", true).await;

    let labels = json!({"tenant": "acme", "network/isolation": "egress-proxy"});
    cluster.env.new_namespace(&labels).await;
    until_denied(proxy, "pay.example", false).await;
    assert_eq!(asked_for(proxy, "127.0.0.1").await.as_deref(), Some("403"), "it is guarded");
}

/// Waits for a condition of the object at a path, as `STATUS REASON`, about the object as it is now.
async fn until_policy(cluster: &Cluster, path: &str, of: &str, wanted: &str) {
    let is_so = async || {
        let Ok(object) = cluster.env.raw("GET", path, None).await else { return false };
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let current = conditions.iter().find(|condition| {
            condition["type"] == of
                && condition["observedGeneration"] == object["metadata"]["generation"]
        });
        let text = |condition: &Value, field: &str| condition[field].as_str().unwrap().to_owned();
        let said = current.map(|it| format!("{} {}", text(it, "status"), text(it, "reason")));
        said.as_deref() == Some(wanted)
    };
    assert!(eventually(DEADLINE, is_so).await, "{of} of {path} is not {wanted}");
}
