//! A gateway whose tenants are objects of a Kubernetes API, seen from outside: what is served, and what the objects say of it.
//!
//! The API server is the one that the environment asks for, by default the double of the test kit.

use std::net::SocketAddr;
use std::time::Duration;

use durward_testkit::kubernetes::{ApiServer, TestEnv};
use durward_testkit::process::{Child, TempDir, eventually, unique_loopback};
use serde_json::{Value, json};

use crate::support::{admin_address, durward, get, status};

/// Longer than anything here takes, also on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);
const TENANTS: &str = "/apis/durward.dev/v1alpha1/tenants";

/// A process that reads an API server, and that API server.
struct Cluster {
    env: TestEnv,
    dir: TempDir,
    gateway: Child,
    admin: SocketAddr,
}

impl Cluster {
    async fn start() -> Self {
        Self::on(TestEnv::start().await).await
    }

    async fn on(env: TestEnv) -> Self {
        let definitions = String::from_utf8(durward(&["crds"]).output().unwrap().stdout).unwrap();
        for definition in definitions.split("---\n").filter(|part| !part.trim().is_empty()) {
            env.define(&serde_saphyr::from_str(definition).unwrap()).await;
        }
        let dir = TempDir::new();
        std::fs::write(dir.join("kubeconfig"), env.kubeconfig()).unwrap();
        let admin = admin_address();
        let gateway = run(&dir, admin);
        Self { env, dir, gateway, admin }
    }

    /// Ends the process without a word, and starts another that knows nothing of it.
    fn restart(&mut self) {
        self.gateway.kill();
        self.gateway = run(&self.dir, self.admin);
    }

    /// Makes or changes a tenant that answers every request with `says`.
    async fn tenant(&self, name: &str, at: SocketAddr, says: &str) {
        self.apply(name, &spec(at, says)).await;
    }

    async fn apply(&self, name: &str, spec: &Value) {
        let tenant = json!({
            "apiVersion": "durward.dev/v1alpha1",
            "kind": "Tenant",
            "metadata": {"name": name},
            "spec": spec,
        });
        self.env.create(&tenant).await;
    }

    async fn delete(&self, name: &str) {
        self.env.raw("DELETE", &format!("{TENANTS}/{name}"), None).await.unwrap();
    }

    /// Returns a condition of a tenant, as `STATUS REASON`, if it is about the object as it is now.
    async fn condition(&self, name: &str, of: &str) -> Option<String> {
        let tenant = self.env.raw("GET", &format!("{TENANTS}/{name}"), None).await.ok()?;
        let conditions = tenant["status"]["conditions"].as_array()?;
        let condition = conditions.iter().find(|condition| condition["type"] == of)?;
        let is_current = condition["observedGeneration"] == tenant["metadata"]["generation"];
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        is_current.then(|| format!("{} {}", text("status"), text("reason")))
    }

    async fn until_condition(&self, name: &str, of: &str, wanted: &str) {
        let mut last = None;
        for _ in 0..DEADLINE.as_millis() / 50 {
            last = self.condition(name, of).await;
            if last.as_deref() == Some(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{of} of {name} is {last:?} and not {wanted}");
    }
}

fn spec(at: SocketAddr, says: &str) -> Value {
    json!({
        "ingress": [{
            "address": at.ip().to_string(), "port": at.port(), "protocol": "HTTP",
            "routes": [{"respond": {"body": says}}],
        }],
    })
}

fn run(dir: &TempDir, admin: SocketAddr) -> Child {
    let (kubeconfig, admin) = (dir.join("kubeconfig"), admin.to_string());
    let kubeconfig = kubeconfig.to_str().unwrap();
    let arguments = ["run", "--kubernetes", "--kubeconfig", kubeconfig, "--admin", &admin];
    Child::spawn(durward(&[&arguments[..], &["--access-log", "off", "--workers", "1"]].concat()))
}

fn door() -> SocketAddr {
    SocketAddr::from((unique_loopback(), 8080))
}

/// Waits until a request is answered with `says`; with `None`, until nobody answers.
async fn until_served(at: SocketAddr, says: Option<&str>) {
    let is_so = || get(at, "/").map(|(_, body)| body).as_deref() == says;
    assert!(
        eventually(DEADLINE, async || is_so()).await,
        "{at} answers {:?}, not {says:?}",
        get(at, "/")
    );
}

// S1.14 S1.18+ S1.23+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_that_are_objects_are_served_and_say_so_in_their_status() {
    let (cluster, at, other) = (Cluster::start().await, door(), door());

    cluster.tenant("acme", at, "first").await;
    until_served(at, Some("first")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
    cluster.until_condition("acme", "Programmed", "True Programmed").await;
    assert_eq!(status(cluster.admin, "/readyz"), Some(200));

    cluster.tenant("acme", at, "second").await;
    cluster.tenant("globex", other, "globex").await;
    until_served(at, Some("second")).await;
    until_served(other, Some("globex")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;

    cluster.delete("acme").await;
    until_served(at, None).await;
    assert_eq!(get(other, "/").unwrap().1, "globex");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_to_what_an_older_object_has_is_refused_in_the_younger_ones_status() {
    let (cluster, at) = (Cluster::start().await, door());
    cluster.tenant("older", at, "older").await;
    until_served(at, Some("older")).await;

    cluster.tenant("aaa-younger", at, "younger").await;

    cluster.until_condition("aaa-younger", "Accepted", "False AddressTaken").await;
    cluster.until_condition("aaa-younger", "Programmed", "False NotAccepted").await;
    assert_eq!(get(at, "/").unwrap().1, "older");
    cluster.delete("older").await;
    until_served(at, Some("younger")).await;
    cluster.until_condition("aaa-younger", "Ready", "True Ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_object_is_served_as_it_was_also_by_a_process_that_starts_later() {
    let (mut cluster, at) = (Cluster::start().await, door());
    cluster.tenant("acme", at, "good").await;
    until_served(at, Some("good")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
    let mut broken = spec(at, "bad");
    broken["ingress"][0]["routes"] = json!([{"upstream": "nobody"}]);

    cluster.apply("acme", &broken).await;

    cluster.until_condition("acme", "Programmed", "False NotAccepted").await;
    assert_eq!(get(at, "/").unwrap().1, "good");
    cluster.restart();
    until_served(at, Some("good")).await;
    cluster.tenant("acme", at, "mended").await;
    until_served(at, Some("mended")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_is_served_while_the_api_server_is_away() {
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let (cluster, at) = (Cluster::on(env).await, door());
    let server = cluster.env.double().unwrap();
    cluster.tenant("acme", at, "before").await;
    until_served(at, Some("before")).await;

    server.go_away();
    server.reset_connections();

    for _ in 0..20 {
        assert_eq!(get(at, "/").unwrap().1, "before");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status(cluster.admin, "/readyz"), Some(200));
    server.come_back();
    cluster.tenant("acme", at, "after").await;
    until_served(at, Some("after")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_not_here_is_not_programmed() {
    let cluster = Cluster::start().await;
    // RFC 5737: on no host.
    let at = SocketAddr::from(([192, 0, 2, 77], 8080));

    cluster.tenant("acme", at, "nobody").await;

    cluster.until_condition("acme", "Accepted", "True Accepted").await;
    cluster.until_condition("acme", "Programmed", "False ListenerDown").await;
    cluster.until_condition("acme", "Ready", "False ListenerDown").await;
}
