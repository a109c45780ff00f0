//! Both halves of a hosted API server as processes: the API proxy, and the gateway that it leads to.

use std::net::SocketAddr;

use durward_testkit::process::{Child, eventually, unique_loopback};
use serde_json::Value;

use super::{DEADLINE, NAME, Pki, api_server, ask, command};
use crate::support::{admin_address, durward, spawn, status};

/// Starts a gateway that hosts an API server, with further fields of the document. Its access log is `access.log`.
pub(super) async fn gateway(pki: &Pki, at: SocketAddr, api: SocketAddr, fields: &str) -> Child {
    let egress = unique_loopback();
    pki.dir.write(
        "documents.yaml",
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec: {{egress: {{addresses: [{egress}]}}}}\n\
             ---\napiVersion: durward.dev/v1alpha1\nkind: HostedApi\nmetadata: {{name: api}}\nspec:\n  tenant: acme\n  names: [{NAME}]\n  \
             address: {}\n  port: {}\n  upstream: {{endpoints: [\"{api}\"]}}\n  {fields}\n",
            at.ip(),
            at.port()
        ),
    );
    let (admin, log) = (admin_address(), pki.file("access.log"));
    let gateway = spawn(&pki.dir.join("documents.yaml"), admin, &["--access-log", &log]);
    let is_up = eventually(DEADLINE, async || status(admin, "/readyz") == Some(200)).await;
    assert!(is_up, "{}", gateway.output());
    gateway
}

/// Arguments of a proxy that listens at `own`. The slice is the API's matter, and there is none here: nothing is written before it was read.
pub(super) fn listening(pki: &Pki, own: SocketAddr, admin: SocketAddr) -> Vec<String> {
    pki.dir.write("kubeconfig", kubeconfig_of_nobody());
    let (node, port, admin) = (own.ip().to_string(), own.port().to_string(), admin.to_string());
    let kubeconfig = pki.file("kubeconfig");
    [
        ["--mode", "slice"],
        ["--node-ip", &node],
        ["--port", &port],
        ["--service-cidr", "10.96.0.0/16"],
        ["--admin", &admin],
        ["--kubeconfig", &kubeconfig],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect()
}

fn kubeconfig_of_nobody() -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", crate::support::nowhere())}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    })
    .to_string()
}

/// Waits for the line of a connection in the gateway's access log.
async fn line_of(pki: &Pki, id: &str) -> Value {
    let log = || std::fs::read_to_string(pki.file("access.log")).unwrap_or_default();
    let wanted = format!("\"connection_id\":\"{id}\"");
    let find = || log().lines().find(|line| line.contains(&wanted)).map(str::to_owned);
    assert!(eventually(DEADLINE, async || find().is_some()).await, "{id} in {}", log());
    serde_json::from_str(&find().unwrap()).unwrap()
}

/// Asks through a proxy, and returns the gateway's line of the connection.
async fn carried(pki: &Pki, proxy: &Child, own: SocketAddr, admin: SocketAddr) -> Value {
    let is_up = eventually(DEADLINE, async || status(admin, "/readyz") == Some(200)).await;
    assert!(is_up, "{}", proxy.output());

    let answer = ask(pki, own, true).await;

    assert_eq!(answer.unwrap(), "known", "{}", proxy.output());
    let line = proxy.wait_for_line("\"outcome\":\"closed\"", DEADLINE).await;
    let line: Value = serde_json::from_str(&line).unwrap();
    line_of(pki, line["id"].as_str().unwrap()).await
}

// S4.12+ S4.48
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_leads_from_the_log_of_the_proxy_to_that_of_the_gateway() {
    let pki = Pki::new();
    let at = SocketAddr::from((unique_loopback(), 8443));
    let relay = "relay: {certificate: {file: relay}, clientAuthorities: {caFile: proxies.crt}}";
    let _gateway = gateway(&pki, at, api_server(&pki).await, relay).await;
    let (own, admin) = (SocketAddr::from((unique_loopback(), 6443)), admin_address());
    let more = listening(&pki, own, admin);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let proxy = Child::spawn(command(&pki, at, &more));

    let line = carried(&pki, &proxy, own, admin).await;

    assert_eq!(line["kind"], "api_proxy");
}

// S4.67+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_trusted_network_the_proxys_header_alone_leads_to_the_api_server() {
    let pki = Pki::new();
    let at = SocketAddr::from((unique_loopback(), 8443));
    let trusted = "listen: {destination: ProxyProtocol, trustedProxies: [127.0.0.0/8]}";
    let _gateway = gateway(&pki, at, api_server(&pki).await, trusted).await;
    let (own, admin) = (SocketAddr::from((unique_loopback(), 6443)), admin_address());
    let (gateway, more) = (at.to_string(), listening(&pki, own, admin));
    let mut arguments = vec!["--log-format", "json", "api-proxy", "--server-name", NAME];
    arguments.extend(["--gateway", &*gateway, "--proxy-header"]);
    arguments.extend(more.iter().map(String::as_str));
    let proxy = Child::spawn(durward(&arguments));

    let line = carried(&pki, &proxy, own, admin).await;

    // What the client dialled is no address of the gateway.
    assert_eq!(line["inner_destination"], own.to_string(), "{line}");
    assert_eq!(line["destination"], at.to_string(), "{line}");
    assert_eq!(line["authority"], NAME, "{line}");
}
