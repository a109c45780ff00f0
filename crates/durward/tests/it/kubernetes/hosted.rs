//! Hosted API servers as objects: several at a shared address, one at an address of its own, and what their status says.

mod tls_routes;

use std::net::SocketAddr;
use std::process::Command;

use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::kubernetes::TestEnv;
use durward_testkit::netns::{block_on, in_namespace, ip};
use durward_testkit::origin::Origin;
use durward_testkit::process::{eventually, unique_loopback};
use serde_json::{Value, json};

use super::cases::namespace;
use super::{Cluster, DEADLINE, Form};
use crate::support::stdout;

const TEST: &str =
    "kubernetes::hosted::both_modes_are_served_from_objects_and_the_status_names_who_has_a_name";

/// An API server of a tenant, behind a Service of its namespace.
struct Hosted {
    tenant: &'static str,
    host: &'static str,
    namespace: String,
    authority: Authority,
    server: Origin,
}

impl Hosted {
    /// Makes its namespace, Service and endpoints; they are on an address that endpoints may have.
    async fn new(
        cluster: &Cluster,
        tenant: &'static str,
        host: &'static str,
        address: &str,
    ) -> Self {
        let namespace = namespace(cluster, tenant).await;
        let authority = Authority::new(tenant);
        let identity = authority.issue(&CertSpec::new().dns(host).dns("kubernetes").server());
        let server =
            Origin::tls(format!("{address}:0"), &identity, Some(&authority), &["http/1.1"]);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "t1", "namespace": namespace},
            "spec": {"ports": [{"name": "https", "port": 6443, "targetPort": server.address().port()}]},
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "t1-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": "t1"}},
            "ports": [{"name": "https", "port": server.address().port(), "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        });
        cluster.env.create(&service).await;
        cluster.env.create(&slice).await;
        Self { tenant, host, namespace, authority, server }
    }

    async fn tenant(&self, cluster: &Cluster, ingress: &Value) {
        let egress = json!({"addresses": [unique_loopback().to_string()]});
        let spec = json!({"namespace": self.namespace, "egress": egress, "ingress": ingress});
        cluster.apply(self.tenant, &spec).await;
    }

    async fn object(&self, cluster: &Cluster, name: &str, host: &str, more: &Value) {
        let mut spec = json!({
            "names": [host], "upstream": {"service": {"name": "t1", "port": 6443}},
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object = json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": "HostedApi",
            "metadata": {"name": name, "namespace": self.namespace}, "spec": spec,
        });
        cluster.env.create(&object).await;
    }

    /// Returns a condition as `STATUS MESSAGE`.
    async fn condition(&self, env: &TestEnv, name: &str, of: &str) -> Option<String> {
        let path =
            format!("/apis/durward.dev/v1alpha1/namespaces/{}/hostedapis/{name}", self.namespace);
        let object = env.raw("GET", &path, None).await.ok()?;
        let conditions = object["status"]["conditions"].as_array()?.clone();
        let one = conditions.iter().find(|condition| condition["type"] == of)?;
        Some(format!("{} {}", one["status"].as_str()?, one["message"].as_str()?))
    }

    async fn until(&self, cluster: &Cluster, (name, of): (&str, &str), wanted: &[&str]) {
        let is_so = async || {
            let said = self.condition(&cluster.env, name, of).await.unwrap_or_default();
            wanted.iter().all(|part| said.contains(part))
        };
        let said = eventually(DEADLINE, is_so).await;
        let last = self.condition(&cluster.env, name, of).await;
        assert!(said, "{name}: {of} is {last:?}: {}", cluster.gateway.output());
    }

    /// Address of the server that a client with a certificate reaches.
    async fn reached(&self, at: SocketAddr, name: &str) -> Option<SocketAddr> {
        let user = self.authority.issue(&CertSpec::new().common_name("admin").client());
        let config = client_config(&self.authority, Some(&user));
        let mut http = RawHttp::connect_tls(at, None, config, Some(name)).await.ok()?;
        let echo = http.get(name, "/").await.ok()?.echo();
        assert_eq!(echo.tls_client_subject.as_deref(), Some("CN=admin"));
        Some(echo.local)
    }
}

// S4.63 S4.5 S4.21 S4.25+ S4.62+ S4.2+
#[test]
fn both_modes_are_served_from_objects_and_the_status_names_who_has_a_name() {
    in_namespace(TEST, || block_on(both_modes()));
}

async fn both_modes() {
    ip("link add pods0 type bridge");
    ip("address add 10.88.0.1/24 dev pods0");
    ip("address add 10.88.0.2/24 dev pods0");
    ip("link set pods0 up");
    let cluster = Cluster::start(Form::OneProcess).await;
    // Clients know port 443, whatever the API server's own is.
    let shared = SocketAddr::from((unique_loopback(), 443));
    let own = SocketAddr::from((unique_loopback(), 443));
    let acme = Hosted::new(&cluster, "acme", "t1.k8s.acme.example", "10.88.0.1").await;
    let bank = Hosted::new(&cluster, "bank", "b1.k8s.bank.example", "10.88.0.2").await;
    let entry = |names: &str| {
        json!([{
            "address": shared.ip().to_string(), "protocol": "TLS", "shared": true,
            "names": [names], "acceptHostedApis": true,
        }])
    };
    acme.tenant(&cluster, &entry(acme.host)).await;
    bank.tenant(&cluster, &entry(bank.host)).await;

    acme.object(&cluster, "t1", acme.host, &json!({})).await;
    bank.object(&cluster, "t1", bank.host, &json!({})).await;
    let alone = json!({"address": own.ip().to_string(), "shared": false});
    bank.object(&cluster, "alone", "alone.bank.example", &alone).await;

    for hosted in [&acme, &bank] {
        hosted.until(&cluster, ("t1", "Programmed"), &["True"]).await;
        let reached = hosted.reached(shared, hosted.host).await;
        assert_eq!(reached, Some(hosted.server.address()), "{}", hosted.host);
    }
    bank.until(&cluster, ("alone", "Programmed"), &["True"]).await;
    // At an address of its own any name that the certificate has leads to it.
    assert_eq!(bank.reached(own, "kubernetes").await, Some(bank.server.address()));
    assert_eq!(bank.reached(shared, "kubernetes").await, None);

    // A name that acme has: bank's object says who has it, and acme's clients go where they went.
    let at_shared = json!({"address": shared.ip().to_string()});
    bank.object(&cluster, "late", acme.host, &at_shared).await;
    bank.until(&cluster, ("late", "Accepted"), &["False", "acme"]).await;
    assert_eq!(acme.reached(shared, acme.host).await, Some(acme.server.address()));
    listed(&cluster, &bank.namespace);
}

/// kubectl shows the objects with their state, where it is installed.
fn listed(cluster: &Cluster, namespace: &str) {
    let kubeconfig = cluster.dir.join("kubeconfig");
    let mut kubectl = Command::new("kubectl");
    kubectl.arg("--kubeconfig").arg(kubeconfig).args(["-n", namespace, "get", "hostedapis"]);
    let Ok(told) = kubectl.output() else {
        eprintln!("SKIPPED kubectl in {TEST} (kubectl is missing)");
        return;
    };
    let text = stdout(&told);
    for name in ["t1", "alone", "late"] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{told:?}");
    }
}
