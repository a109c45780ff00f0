//! Commands that look at a cluster: what they answer from objects is what they answer from files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use durward_testkit::certificates::Authority;
use durward_testkit::kubernetes::TestEnv;
use durward_testkit::process::{TempDir, unique_loopback};
use serde_json::{Value, json};

use super::cases::tls_secret;
use super::{door, spec};
use crate::support::{durward, stderr, stdout};

/// An API server with two tenants, one of which is broken.
struct Looked {
    env: TestEnv,
    dir: TempDir,
    /// Where the good tenant is served.
    at: std::net::SocketAddr,
    egress: String,
}

impl Looked {
    async fn start() -> Self {
        let (env, dir) = (TestEnv::start().await, TempDir::new());
        let definitions = stdout(&durward(&["crds"]).output().unwrap());
        for definition in definitions.split("---\n").filter(|part| !part.trim().is_empty()) {
            env.define(&serde_saphyr::from_str(definition).unwrap()).await;
        }
        std::fs::write(dir.join("kubeconfig"), env.kubeconfig()).unwrap();
        let (at, egress) = (door(), unique_loopback().to_string());
        let looked = Self { env, dir, at, egress };
        looked.make().await;
        looked
    }

    /// Name of a tenant that no other test on the same server has.
    fn name(&self, of: &str) -> String {
        format!("{of}-{}", self.env.namespace())
    }

    async fn make(&self) {
        let name = self.name("acme");
        let theirs = self.env.new_namespace(&json!({"durward.dev/tenant": name})).await;
        let authority = Authority::new("partners");
        self.env.create(&tls_secret(&theirs, "shop", &authority, self.at)).await;
        let mut https = spec(self.at, "secure");
        https["namespace"] = json!(theirs);
        https["ingress"][0]["protocol"] = json!("HTTPS");
        https["ingress"][0]["certificate"] = json!({"secretName": "shop"});
        https["egress"] = json!({"addresses": [self.egress]});
        let mut broken = spec(door(), "");
        broken["ingress"][0]["routes"] = json!([{"upstream": "nobody"}]);
        for (name, spec) in [(name, https), (self.name("broken"), broken)] {
            let tenant = json!({
                "apiVersion": "durward.dev/v1alpha1", "kind": "Tenant",
                "metadata": {"name": name}, "spec": spec,
            });
            self.env.create(&tenant).await;
        }
    }

    /// Runs a command with the rights of the test.
    async fn run(&self, arguments: &[&str]) -> Output {
        let kubeconfig = self.dir.join("kubeconfig");
        let kubeconfig = kubeconfig.to_str().unwrap();
        let all = [arguments, &["--kubernetes", "--kubeconfig", kubeconfig]].concat();
        output(durward(&all)).await
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["-o", "json"]].concat()).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)))
    }
}

/// Runs a command while the test's own runtime serves the double.
async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_validated_and_explained_as_files_are() {
    let looked = Looked::start().await;

    let output = looked.run(&["validate"]).await;
    let report = looked.json(&["validate"]).await;
    let answer = looked.json(&["explain", &format!("https://{}/", looked.at)]).await;

    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let verdicts = report["verdicts"].as_array().unwrap();
    let outcome = |name: &str| {
        let verdict = verdicts.iter().find(|verdict| verdict["name"] == looked.name(name));
        verdict.unwrap()["outcome"].clone()
    };
    assert_eq!([outcome("acme"), outcome("broken")], [json!("Accepted"), json!("Rejected")]);
    let text = answer.to_string();
    assert!(text.contains(&looked.name("acme")), "{text}");
    let object = looked.name("acme");
    assert!(text.contains(&format!(r#""name":"{object}""#)), "the origin is the object: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_in_secrets_are_listed_and_checked() {
    let looked = Looked::start().await;

    let rows = looked.json(&["certs", "list"]).await;
    let checked = looked.json(&["check", "--admin", "off"]).await;

    let row = rows.as_array().unwrap().iter().find(|row| row["tenant"] == looked.name("acme"));
    let row = row.unwrap_or_else(|| panic!("{rows}"));
    assert_eq!(row["names"], json!([format!("IP:{}", looked.at.ip())]));
    assert!(checked.to_string().contains(&looked.name("broken")), "{checked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passport_has_the_addresses_and_certificates_that_partners_need_and_no_key() {
    let looked = Looked::start().await;
    let name = looked.name("acme");

    let passport = looked.json(&["tenant", "passport", &name]).await;
    let table = looked.run(&["tenant", "passport", &name]).await;
    let unknown = looked.run(&["tenant", "passport", &looked.name("broken")]).await;

    assert_eq!(passport["egressAddresses"], json!([looked.egress]));
    let [door] = passport["doors"].as_array().unwrap().as_slice() else { panic!("{passport}") };
    assert_eq!(door["address"], looked.at.ip().to_string());
    assert_eq!((&door["port"], &door["protocol"]), (&json!("8080"), &json!("HTTPS")));
    let [shown] = passport["certificates"].as_array().unwrap().as_slice() else { panic!() };
    assert_eq!(shown["sha256"].as_str().map(str::len), Some(64));
    let table = stdout(&table);
    for wanted in [looked.egress.as_str(), "8080", shown["sha256"].as_str().unwrap()] {
        assert!(table.contains(wanted), "{wanted} in {table}");
    }
    assert!(!table.contains("PRIVATE"));
    assert_eq!(unknown.status.code(), Some(3), "{}", stderr(&unknown));
    assert!(stderr(&unknown).contains(&name), "{}", stderr(&unknown));
}

/// The binary under the name that kubectl looks for.
fn plugin(dir: &TempDir) -> PathBuf {
    let path = dir.join("kubectl-durward");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_durward"), &path).unwrap();
    path
}

fn kubectl_is_there() -> bool {
    Command::new("kubectl").args(["version", "--client"]).output().is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_of_kubectl_looks_at_the_cluster_unless_files_are_named() {
    let looked = Looked::start().await;
    let (plugin, kubeconfig) = (plugin(&looked.dir), looked.dir.join("kubeconfig"));
    let file = looked.dir.join("other.yaml");
    std::fs::write(&file, "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: of-file}\nspec: {egress: {addresses: [192.0.2.1]}}\n").unwrap();
    let run = async |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.env_remove("DURWARD_CONFIG").env("KUBECONFIG", &kubeconfig).args(arguments);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", looked.dir.path().display()));
        output(command).await
    };

    let objects = run(&plugin, &["validate"]).await;
    let files = run(&plugin, &["validate", "-c", file.to_str().unwrap()]).await;
    let help = run(&plugin, &["validate", "--help"]).await;

    assert!(stdout(&objects).contains(&looked.name("acme")), "{}", stderr(&objects));
    let files = stdout(&files);
    assert!(files.contains("of-file") && !files.contains(&looked.name("acme")), "{files}");
    assert!(stdout(&help).contains("Usage: kubectl durward validate"), "{}", stdout(&help));
    if !kubectl_is_there() {
        return durward_testkit::netns::skip("a plugin of kubectl", "no kubectl");
    }
    let by_kubectl = run(Path::new("kubectl"), &["durward", "validate"]).await;
    assert!(stdout(&by_kubectl).contains(&looked.name("acme")), "{}", stderr(&by_kubectl));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_does_not_answer_is_code_4_and_options_of_it_need_the_flag() {
    let dir = TempDir::new();
    let nobody = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nclusters: [{{name: c, cluster: {{server: \"http://{}:1\"}}}}]\nusers: [{{name: u, user: {{}}}}]\n",
        unique_loopback()
    );
    dir.write("kubeconfig", nobody);
    let path = dir.join("kubeconfig");
    let path = path.to_str().unwrap();

    let away = output(durward(&["validate", "--kubernetes", "--kubeconfig", path])).await;
    let without = output(durward(&["validate", "--kubeconfig", path])).await;

    assert_eq!(away.status.code(), Some(4), "{}", stderr(&away));
    assert_eq!(without.status.code(), Some(2), "{}", stderr(&without));
}
