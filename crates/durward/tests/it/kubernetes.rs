//! A gateway whose tenants are objects of a Kubernetes API, seen from outside: what is served, and what the objects say of it.
//!
//! The API server is the one that the environment asks for, by default the double of the test kit.

mod careless;
mod cases;
mod cold;
mod commands;
mod hosted;
mod hostile;
mod ingresses;
mod live;
mod policies;
mod programmed;
mod real;
mod restarts;
mod rights;
mod seed1;
mod two_processes;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use durward_testkit::kubernetes::TestEnv;
use durward_testkit::process::{Child, TempDir, eventually, unique_loopback};
use serde_json::{Value, json};

pub(crate) use cases::install;

use crate::support::{admin_address, durward, get};

/// Longer than anything here takes, also on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);
const TENANTS: &str = "/apis/durward.dev/v1alpha1/tenants";

/// Way in which a gateway comes by objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// It reads the API server.
    OneProcess,
    /// `durward kube` reads it, and hands over what it says.
    TwoProcesses,
}

/// Arguments of whoever reads the API server, and of the gateway. `DIR/` stands for the directory of the test.
#[derive(Clone, Debug, Default)]
struct Arguments {
    reader: Vec<String>,
    gateway: Vec<String>,
}

impl Arguments {
    fn new(reader: &[&str], gateway: &[&str]) -> Self {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        Self { reader: owned(reader), gateway: owned(gateway) }
    }

    fn reader(&self, dir: &TempDir) -> Vec<String> {
        Self::placed(&self.reader, dir)
    }

    fn gateway(&self, dir: &TempDir, form: Form) -> Vec<String> {
        let mut arguments = Self::placed(&self.gateway, dir);
        if form == Form::OneProcess {
            arguments.extend(self.reader(dir));
        }
        arguments
    }

    fn placed(arguments: &[String], dir: &TempDir) -> Vec<String> {
        let dir = format!("{}/", dir.path().display());
        arguments.iter().map(|argument| argument.replace("DIR/", &dir)).collect()
    }
}

/// A gateway whose tenants are objects of an API server, and that API server.
struct Cluster {
    env: TestEnv,
    dir: TempDir,
    form: Form,
    more: Arguments,
    /// The process that reads for the gateway.
    kube: Option<Child>,
    gateway: Child,
    admin: SocketAddr,
}

impl Cluster {
    async fn start(form: Form) -> Self {
        Self::on(TestEnv::start().await, form).await
    }

    async fn on(env: TestEnv, form: Form) -> Self {
        let kubeconfig = env.kubeconfig();
        Self::on_as(env, &kubeconfig, form).await
    }

    /// Starts with a process that has the rights of a kubeconfig.
    async fn on_as(env: TestEnv, kubeconfig: &str, form: Form) -> Self {
        Self::with(env, kubeconfig, form, Arguments::default()).await
    }

    /// Starts with more arguments.
    async fn with(env: TestEnv, kubeconfig: &str, form: Form, more: Arguments) -> Self {
        let definitions = String::from_utf8(durward(&["crds"]).output().unwrap().stdout).unwrap();
        for definition in definitions.split("---\n").filter(|part| !part.trim().is_empty()) {
            env.define(&serde_saphyr::from_str(definition).unwrap()).await;
        }
        let dir = TempDir::new();
        std::fs::write(dir.join("kubeconfig"), kubeconfig).unwrap();
        let admin = admin_address();
        let kube = (form == Form::TwoProcesses).then(|| kube(&dir, &more.reader(&dir)));
        let gateway = run(&dir, admin, form, &more.gateway(&dir, form));
        Self { env, dir, form, more, kube, gateway, admin }
    }

    /// Ends all processes without a word.
    fn kill(&mut self) {
        self.gateway.kill();
        self.kube.iter_mut().for_each(Child::kill);
    }

    /// Ends the processes without a word, and starts others that know nothing of them.
    fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    fn start_again(&mut self) {
        if let Some(old) = &mut self.kube {
            *old = kube(&self.dir, &self.more.reader(&self.dir));
        }
        // Another test may have the port by now.
        self.admin = admin_address();
        let more = self.more.gateway(&self.dir, self.form);
        self.gateway = run(&self.dir, self.admin, self.form, &more);
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

fn run(dir: &TempDir, admin: SocketAddr, form: Form, more: &[String]) -> Child {
    let (kubeconfig, socket) = (dir.join("kubeconfig"), dir.join("kube.sock"));
    let admin = admin.to_string();
    let objects = match form {
        Form::OneProcess => ["--kubernetes", "--kubeconfig", kubeconfig.to_str().unwrap()].to_vec(),
        Form::TwoProcesses => ["--kube-socket", socket.to_str().unwrap()].to_vec(),
    };
    let arguments = ["run", "--admin", &admin, "--access-log", "off", "--workers", "1"];
    let mut command = durward(&[&arguments[..], &objects].concat());
    command.args(more);
    if form == Form::TwoProcesses {
        // Nothing by which it could reach an API server.
        command
            .env_remove("KUBECONFIG")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env("HOME", "/nonexistent");
    }
    Child::spawn(command)
}

/// Starts the process that reads the API server.
fn kube(dir: &TempDir, more: &[String]) -> Child {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (kubeconfig, socket) = (text(&dir.join("kubeconfig")), text(&dir.join("kube.sock")));
    let arguments = ["kube", "--kubeconfig", &kubeconfig, "--socket", &socket, "--admin", "off"];
    let mut command = durward(&arguments);
    command.args(more);
    Child::spawn(command)
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
    cases::tenants_that_are_objects_are_served_and_say_so_in_their_status(Form::OneProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_to_what_an_older_object_has_is_refused_in_the_younger_ones_status() {
    cases::a_claim_to_what_an_older_object_has_is_refused_in_the_younger_ones_status(
        Form::OneProcess,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_object_is_served_as_it_was_also_by_a_process_that_starts_later() {
    cases::a_broken_object_is_served_as_it_was_also_by_a_process_that_starts_later(
        Form::OneProcess,
    )
    .await;
}

// S1.68+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_is_served_while_the_api_server_is_away() {
    cases::what_was_read_is_served_while_the_api_server_is_away(Form::OneProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_not_here_is_not_programmed() {
    cases::an_address_that_is_not_here_is_not_programmed(Form::OneProcess).await;
}

// S1.14 S1.17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_in_a_secret_is_served_and_renewed_while_it_is() {
    cases::a_certificate_in_a_secret_is_served_and_renewed_while_it_is(Form::OneProcess).await;
}

// S1.4+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_a_service_has_its_ready_pods() {
    cases::an_upstream_that_is_a_service_has_its_ready_pods(Form::OneProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_of_another_tenants_namespace_is_not_served() {
    cases::a_secret_of_another_tenants_namespace_is_not_served(Form::OneProcess).await;
}

// S1.65
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_in_the_manifests_suffice_and_open_no_other_secret() {
    cases::the_rights_in_the_manifests_suffice_and_open_no_other_secret(Form::OneProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reference_describes_the_metrics_of_the_api_server_and_no_others() {
    cases::the_reference_describes_the_metrics_of_the_api_server_and_no_others(Form::OneProcess)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_what_documents_name_and_writes_one_status() {
    cases::a_start_waits_for_what_documents_name_and_writes_one_status(Form::OneProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_of_a_last_accepted_revision_is_read_by_a_process_that_starts_later() {
    cases::the_secret_of_a_last_accepted_revision_is_read_by_a_process_that_starts_later(
        Form::OneProcess,
    )
    .await;
}

// S2.16 S2.17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn egress_policies_and_the_labels_of_a_namespace_add_to_the_rules_of_its_tenant() {
    policies::egress_policies_and_the_labels_of_a_namespace_add_to_the_rules_of_its_tenant(
        Form::OneProcess,
    )
    .await;
}
