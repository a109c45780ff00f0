//! kubectl against a real API server behind the gateway, where `KUBEBUILDER_ASSETS` names the programs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use durward_testkit::kubernetes::{Backend, TestEnv};
use durward_testkit::process::{Child, TempDir, free_port, unique_loopback};
use serde_json::{Value, json};

use crate::support::{admin_address, spawn, status};

/// Longer than a control plane takes on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(180);

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
    fn kubectl(&self, server: &str, arguments: &[&str]) -> Command {
        let mut kubeconfig: Value = serde_json::from_str(&self.env.kubeconfig()).unwrap();
        kubeconfig["clusters"][0]["cluster"]["server"] = server.into();
        let name = format!("kubeconfig-{}", server.replace(['/', ':'], "-"));
        let file = self.dir.write(name, kubeconfig.to_string());
        let mut command = Command::new(&self.kubectl);
        command.env_clear().env("HOME", self.dir.path()).arg("--kubeconfig").arg(file);
        command.args(["--namespace", self.env.namespace()]).args(arguments);
        command
    }

    fn run(&self, server: &str, arguments: &[&str]) -> Value {
        let output = self.kubectl(server, arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kubectl {arguments:?}: {text}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Shows that a client certificate arrives, and that a watch that was idle sees a change.
    async fn serves(&self, server: &str, name: &str) {
        let whoami = self.run(server, &["auth", "whoami", "-o", "json"]);
        let user = &whoami["status"]["userInfo"];
        assert_eq!(user["username"], "kubernetes-admin");
        assert!(
            user["groups"]
                .as_array()
                .is_some_and(|groups| groups.contains(&"system:masters".into()))
        );

        let watching = self.kubectl(server, &["get", "configmaps", "--watch", "-o", "name"]);
        let watch = Child::spawn(watching);
        // The namespace has this one from the start.
        watch.wait_for_line("kube-root-ca.crt", DEADLINE).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.run(server, &["create", "configmap", name, "-o", "json", "--from-literal=a=b"]);
        watch.wait_for_line(&format!("configmap/{name}"), DEADLINE).await;
        let patch = json!({"data": {"a": "c"}}).to_string();
        let patched = self.run(server, &["patch", "configmap", name, "-o", "json", "-p", &patch]);
        assert_eq!(patched["data"]["a"], "c");
    }
}

// S4.1+ S4.11+ S4.63+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_with_a_client_certificate_is_the_right_user_behind_a_shared_address() {
    let test = "kubectl_with_a_client_certificate_is_the_right_user_behind_a_shared_address";
    let Some(stage) = Stage::start(test).await else { return };
    let port = free_port([127, 0, 0, 1]);
    let (own, other) = (unique_loopback(), unique_loopback());
    let tenant = |name: &str, host: &str, endpoint: SocketAddr, egress| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n    - {{address: 127.0.0.1, port: {port}, protocol: TLS, shared: true, names: [{host}], upstream: api}}\n  upstreams: {{api: {{endpoints: [\"{endpoint}\"]}}}}\n  egress: {{addresses: [{egress}]}}\n"
        )
    };
    let documents = TempDir::new();
    documents.write("acme.yaml", tenant("acme", "localhost", stage.api(), own));
    documents
        .write("globex.yaml", tenant("globex", "globex.test", SocketAddr::from((other, 9)), other));
    let admin = admin_address();
    let gateway = spawn(documents.path(), admin, &[]);
    let ready = durward_testkit::process::eventually(DEADLINE, async || {
        status(admin, "/readyz") == Some(200)
    })
    .await;
    assert!(ready, "{}", gateway.output());

    stage.serves(&format!("https://localhost:{port}"), "by-sni").await;
}
