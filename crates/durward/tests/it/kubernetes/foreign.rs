//! Objects of other controllers that name hosted API servers, end to end: whose API server a client reaches by which name.

use std::net::SocketAddr;

use durward_testkit::certificates::{
    Authority, CertSpec, client_config, server_config_optional_client,
};
use durward_testkit::client::RawHttp;
use durward_testkit::kubernetes::TestEnv;
use durward_testkit::origin::Origin;
use durward_testkit::process::{eventually, unique_loopback};
use serde_json::{Value, json};

use super::{Arguments, Cluster, DEADLINE, Form};

/// An API server of a tenant, behind a Service of its namespace.
struct ApiServer {
    tenant: String,
    namespace: String,
    authority: Authority,
    server: Origin,
}

impl ApiServer {
    async fn start(cluster: &Cluster, tenant: &str, at: SocketAddr) -> Self {
        let namespace = cluster.env.new_namespace(&json!({"durward.dev/tenant": tenant})).await;
        let authority = Authority::new(tenant);
        let identity = authority.issue(&CertSpec::new().dns(&format!("t1.k8s.{tenant}.example")));
        let server =
            Origin::tls_with("127.0.0.1:0", server_config_optional_client(&identity, &authority));
        let spec = json!({
            "egress": {"addresses": [unique_loopback().to_string()]},
            "ingress": [{"address": at.ip().to_string(), "port": at.port(), "protocol": "TLS", "shared": true,
                "names": [format!("*.k8s.{tenant}.example")], "acceptHostedApis": true}],
        });
        cluster.apply(tenant, &spec).await;
        let port = server.address().port();
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "t1", "namespace": namespace},
            "spec": {"ports": [{"name": "kube-apiserver", "port": 6443, "targetPort": port}]},
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "t1-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": "t1"}},
            "addressType": "IPv4",
            "ports": [{"name": "kube-apiserver", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        });
        cluster.env.create(&service).await;
        // Past the rule that no endpoint is on loopback, where everything of a test is.
        cluster.env.need_double("foreign").expect("these tests run on the double").put(&slice);
        Self { tenant: tenant.to_owned(), namespace, authority, server }
    }

    /// Asks by a name, and verifies who answers and is asked.
    async fn whoami(&self, at: SocketAddr, name: &str) -> Option<String> {
        let client = self.authority.issue(&CertSpec::new().common_name("admin").client());
        let config = client_config(&self.authority, Some(&client));
        let mut http = RawHttp::connect_tls(at, None, config, Some(name)).await.ok()?;
        let echo = http.get(name, "/").await.ok()?.echo();
        Some(format!("{} at {}", echo.tls_client_subject.unwrap_or_default(), self.tenant))
    }
}

fn definition(group: &str, kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    })
}

async fn served(form: Form) {
    let more = Arguments::new(&["--foreign-hosted-apis"], &[]);
    let env = TestEnv::start().await;
    // Kinds of other controllers are defined for a whole cluster, whose objects are not ours.
    let test = "control_planes_of_others_are_served_under_names_that_their_tenants_hold";
    if env.need_double(test).is_none() {
        return;
    }
    let kubeconfig = env.kubeconfig();
    let cluster = Cluster::with(env, &kubeconfig, form, more).await;
    let at = SocketAddr::from((unique_loopback(), 8443));
    let acme = ApiServer::start(&cluster, "acme", at).await;
    let globex = ApiServer::start(&cluster, "globex", at).await;

    // The kinds come after the gateway, as the first TenantControlPlane does.
    for (group, kind, plural) in [
        ("steward.butlerlabs.dev", "TenantControlPlane", "tenantcontrolplanes"),
        ("traefik.io", "IngressRouteTCP", "ingressroutetcps"),
    ] {
        cluster.env.define(&definition(group, kind, plural)).await;
    }
    let plane = json!({
        "apiVersion": "steward.butlerlabs.dev/v1alpha1", "kind": "TenantControlPlane",
        "metadata": {"name": "t1", "namespace": acme.namespace},
        "spec": {"controlPlane": {"ingress": {"hostname": "t1.k8s.acme.example:443"}}},
    });
    let route = |name: &str, namespace: &str, host: &str| {
        json!({
            "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRouteTCP",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"routes": [{"match": format!("HostSNI(`{host}`)"), "services": [{"name": "t1", "port": 6443}]}], "tls": {"passthrough": true}},
        })
    };
    cluster.env.create(&plane).await;
    cluster.env.create(&route("t1", &globex.namespace, "t1.k8s.globex.example")).await;
    // A tenant that asks for the other one's name.
    cluster.env.create(&route("theft", &globex.namespace, "t2.k8s.acme.example")).await;

    for (server, name) in [(&acme, "t1.k8s.acme.example"), (&globex, "t1.k8s.globex.example")] {
        let wanted = Some(format!("admin at {}", server.tenant));
        let is_served =
            async || server.whoami(at, name).await.map(|who| who.replace("CN=", "")) == wanted;
        assert!(
            eventually(DEADLINE, is_served).await,
            "{name}: {:?}",
            server.whoami(at, name).await
        );
    }
    assert_eq!(globex.whoami(at, "t2.k8s.acme.example").await, None);
    assert_eq!(globex.whoami(at, "kubernetes.default.svc").await, None);

    let path = format!(
        "/apis/steward.butlerlabs.dev/v1alpha1/namespaces/{}/tenantcontrolplanes/t1",
        acme.namespace
    );
    cluster.env.raw("DELETE", &path, None).await.unwrap();
    let is_gone = async || acme.whoami(at, "t1.k8s.acme.example").await.is_none();
    assert!(eventually(DEADLINE, is_gone).await);
    let _ = (&acme.server, &globex.server);
}

// S4.14+ S4.19+ S4.70+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_planes_of_others_are_served_under_names_that_their_tenants_hold() {
    served(Form::OneProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_planes_of_others_come_through_the_socket_too() {
    served(Form::TwoProcesses).await;
}
