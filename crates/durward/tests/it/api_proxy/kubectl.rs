//! kubectl against a real API server behind the gateway, where `KUBEBUILDER_ASSETS` names the programs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use durward_testkit::kubernetes::{Backend, TestEnv};
use durward_testkit::process::{Child, TempDir, eventually, free_port, unique_loopback};
use serde_json::{Value, json};

use super::{Pki, command};
use crate::support::{admin_address, get, spawn, status};

/// Longer than a control plane takes on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(180);

/// URL of a server, and the name that its certificate is verified against if it is another one.
type Way<'a> = (&'a str, Option<&'a str>);

/// A control plane, and kubectl with a kubeconfig of its own for each way to it.
struct Stage {
    env: TestEnv,
    dir: TempDir,
    kubectl: PathBuf,
}

impl Stage {
    /// Starts; `None`, after saying so, where there is no real API server or no kubectl.
    async fn start(test: &str) -> Option<Self> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let kubectl = assets.map(|assets| assets.join("kubectl")).filter(|file| file.is_file());
        let Some(kubectl) = kubectl.filter(|_| Backend::chosen() == Backend::Assets) else {
            eprintln!("SKIPPED {test} (KUBEBUILDER_ASSETS names no kube-apiserver and kubectl)");
            return None;
        };
        Some(Self { env: TestEnv::start().await, dir: TempDir::new(), kubectl })
    }

    /// Address of the API server.
    fn api(&self) -> SocketAddr {
        let kubeconfig: Value = serde_json::from_str(&self.env.kubeconfig()).unwrap();
        let server = kubeconfig["clusters"][0]["cluster"]["server"].as_str().unwrap();
        server.strip_prefix("https://").unwrap().parse().unwrap()
    }

    /// Returns kubectl for the administrator's client certificate and a server at this URL.
    fn kubectl(&self, (server, name): Way<'_>, arguments: &[&str]) -> Command {
        let mut kubeconfig: Value = serde_json::from_str(&self.env.kubeconfig()).unwrap();
        let cluster = &mut kubeconfig["clusters"][0]["cluster"];
        cluster["server"] = server.into();
        if let Some(name) = name {
            cluster["tls-server-name"] = name.into();
        }
        let name = format!("kubeconfig-{}", server.replace(['/', ':'], "-"));
        let file = self.dir.write(name, kubeconfig.to_string());
        let mut command = Command::new(&self.kubectl);
        command.env_clear().env("HOME", self.dir.path()).arg("--kubeconfig").arg(file);
        command.args(["--namespace", self.env.namespace()]).args(arguments);
        command
    }

    fn run(&self, way: Way<'_>, arguments: &[&str]) -> Value {
        let output = self.kubectl(way, arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kubectl {arguments:?}: {text}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Shows that a client certificate arrives, and that a watch that was idle sees a change.
    async fn serves(&self, server: &str, tls_name: Option<&str>, name: &str) {
        let way = (server, tls_name);
        let whoami = self.run(way, &["auth", "whoami", "-o", "json"]);
        let user = &whoami["status"]["userInfo"];
        assert_eq!(user["username"], "kubernetes-admin");
        assert!(
            user["groups"]
                .as_array()
                .is_some_and(|groups| groups.contains(&"system:masters".into()))
        );

        let watching = self.kubectl(way, &["get", "configmaps", "--watch", "-o", "name"]);
        let watch = Child::spawn(watching);
        // The namespace has this one from the start.
        watch.wait_for_line("kube-root-ca.crt", DEADLINE).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.run(way, &["create", "configmap", name, "-o", "json", "--from-literal=a=b"]);
        watch.wait_for_line(&format!("configmap/{name}"), DEADLINE).await;
        let patch = json!({"data": {"a": "c"}}).to_string();
        let patched = self.run(way, &["patch", "configmap", name, "-o", "json", "-p", &patch]);
        assert_eq!(patched["data"]["a"], "c");
    }
}

// S4.1+ S4.11+ S4.12+ S4.63+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_is_the_right_user_behind_a_shared_address_and_through_the_proxy_of_its_cluster() {
    let test =
        "kubectl_is_the_right_user_behind_a_shared_address_and_through_the_proxy_of_its_cluster";
    let Some(stage) = Stage::start(test).await else { return };
    let port = free_port([127, 0, 0, 1]);
    let pki = Pki::named("localhost");
    let kubeconfig: Value = serde_json::from_str(&stage.env.kubeconfig()).unwrap();
    let authority = &kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"];
    let authority = BASE64_STANDARD.decode(authority.as_str().unwrap()).unwrap();
    std::fs::write(pki.file("api-ca.crt"), authority).unwrap();
    let nowhere = SocketAddr::from((unique_loopback(), 9));
    let documents = hosted("acme", "localhost", port, stage.api())
        + "    caFile: api-ca.crt\n  relay: {certificate: {file: relay}, clientAuthorities: {caFile: proxies.crt}}\n"
        + &hosted("globex", "globex.test", port, nowhere);
    pki.dir.write("documents.yaml", documents);
    let admin = admin_address();
    let gateway = spawn(&pki.dir.join("documents.yaml"), admin, &[]);
    let ready = eventually(DEADLINE, async || status(admin, "/readyz") == Some(200)).await;
    assert!(ready, "{}", gateway.output());

    stage.serves(&format!("https://localhost:{port}"), None, "by-sni").await;

    let kubeconfig = stage.dir.write("admin", stage.env.kubeconfig());
    let (own, own_admin) = (unique_loopback().to_string(), admin_address().to_string());
    let more = [
        "--mode",
        "slice",
        "--node-ip",
        &own,
        "--service-cidr",
        "10.96.0.0/16",
        "--admin",
        &own_admin,
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
    ];
    let proxy = Child::spawn(command(&pki, SocketAddr::from(([127, 0, 0, 1], port)), &more));
    let own_admin: SocketAddr = own_admin.parse().unwrap();
    let ready = eventually(DEADLINE, async || status(own_admin, "/readyz") == Some(200)).await;
    assert!(ready, "{}", proxy.output());

    let server = format!("https://{own}:6443");
    stage.serves(&server, Some("kubernetes.default.svc"), "through-the-proxy").await;
    let (_, verbose) = get(own_admin, "/readyz?verbose").unwrap();
    assert!(verbose.contains("endpoints of default/kubernetes: right, 0 ready"), "{verbose}");
}

fn hosted(tenant: &str, name: &str, port: u16, endpoint: SocketAddr) -> String {
    let egress = unique_loopback();
    format!(
        "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {tenant}}}\nspec: {{egress: {{addresses: [{egress}]}}}}\n\
         ---\napiVersion: durward.dev/v1alpha1\nkind: HostedApi\nmetadata: {{name: api}}\nspec:\n  tenant: {tenant}\n  names: [{name}]\n  \
         address: 127.0.0.1\n  port: {port}\n  upstream:\n    endpoints: [\"{endpoint}\"]\n"
    )
}
