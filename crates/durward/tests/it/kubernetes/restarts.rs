//! Restarts and hand-overs of gateways whose tenants are objects, and starts while the API server is away.

use std::sync::Arc;
use std::time::Duration;

use durward_testkit::certificates::{Authority, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::kubernetes::{ApiServer, TestEnv};
use durward_testkit::process::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::cases::{namespace, tls_secret};
use super::{Arguments, Cluster, DEADLINE, Form, door, spec, until_served};
use crate::supervise::process;
use crate::support::{get, status};

/// Waits until a younger process has taken over from the older one, and returns it.
fn handed_over(cluster: &mut Cluster) -> Younger {
    cluster.gateway.signal(Signal::USR2);
    tokio::task::block_in_place(|| {
        let line = cluster.gateway.wait_for_line_blocking("the new process serves", DEADLINE);
        let younger = Younger(process(&line));
        assert!(cluster.gateway.wait_blocking(DEADLINE).success(), "{}", cluster.gateway.output());
        younger
    })
}

/// The process that took over. It ends with the test.
struct Younger(Pid);

impl Drop for Younger {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill_process(self.0, Signal::KILL);
    }
}

async fn a_younger_process_takes_over_tenants_that_are_objects(form: Form) {
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let (mut cluster, at, other) = (Cluster::on(env, form).await, door(), door());
    cluster.tenant("acme", at, "acme").await;
    cluster.tenant("globex", other, "good").await;
    until_served(at, Some("acme")).await;
    until_served(other, Some("good")).await;
    cluster.until_condition("globex", "Ready", "True Ready").await;
    let mut broken = spec(other, "bad");
    broken["ingress"][0]["routes"] = json!([{"upstream": "nobody"}]);
    cluster.apply("globex", &broken).await;
    cluster.until_condition("globex", "Programmed", "False NotAccepted").await;
    cluster.until_condition("acme", "Ready", "True Ready").await;

    let _younger = handed_over(&mut cluster);

    assert_eq!(get(at, "/").unwrap().1, "acme");
    assert_eq!(get(other, "/").unwrap().1, "good", "a broken object is served as it was");
    cluster.tenant("acme", at, "later").await;
    until_served(at, Some("later")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
    cluster.tenant("globex", other, "mended").await;
    until_served(other, Some("mended")).await;
    cluster.until_condition("globex", "Ready", "True Ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_reads_the_api_hands_over() {
    a_younger_process_takes_over_tenants_that_are_objects(Form::OneProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_durward_kube_reads_for_hands_over() {
    a_younger_process_takes_over_tenants_that_are_objects(Form::TwoProcesses).await;
}

/// Without statuses no accepted revision is kept in the API server.
async fn the_state_directory_has_what_a_broken_object_was(form: Form) {
    let more = Arguments::new(&["--status-rate", "0"], &["--state-dir", "DIR/state"]);
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let kubeconfig = env.kubeconfig();
    let (mut cluster, at) = (Cluster::with(env, &kubeconfig, form, more).await, door());
    std::fs::create_dir_all(cluster.dir.join("state")).unwrap();
    cluster.restart();
    cluster.tenant("acme", at, "good").await;
    until_served(at, Some("good")).await;
    let mut broken = spec(at, "bad");
    broken["ingress"][0]["routes"] = json!([{"upstream": "nobody"}]);
    cluster.apply("acme", &broken).await;
    let admin = cluster.admin;
    let is_kept = async || {
        get(admin, "/readyz?verbose").is_some_and(|(_, text)| text.contains("1 kept last good"))
    };
    assert!(eventually(DEADLINE, is_kept).await, "{:?}", get(admin, "/readyz?verbose"));
    let file = cluster.dir.join("state/claims.json");
    let is_saved = async || std::fs::read_to_string(&file).is_ok_and(|text| text.contains("good"));
    assert!(eventually(DEADLINE, is_saved).await);

    if form == Form::TwoProcesses {
        // `durward kube` keeps it too: this is about the gateway's own state.
        cluster.kill();
        cluster.start_again();
    } else {
        cluster.restart();
    }

    until_served(at, Some("good")).await;
    cluster.tenant("acme", at, "mended").await;
    until_served(at, Some("mended")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_a_state_directory_serves_a_broken_object_as_it_was() {
    the_state_directory_has_what_a_broken_object_was(Form::OneProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_of_durward_kube_with_a_state_directory_serves_a_broken_object_as_it_was() {
    the_state_directory_has_what_a_broken_object_was(Form::TwoProcesses).await;
}

/// Arguments by which everything that was read is kept, encrypted.
fn cached() -> Arguments {
    Arguments::new(&["--kube-cache", "DIR/cluster.cache", "--kube-cache-key", "DIR/cache.key"], &[])
}

async fn is_trusted(at: std::net::SocketAddr, authority: &Authority) -> bool {
    let config = Arc::new(client_config(authority, None));
    let Ok(mut http) = RawHttp::connect_tls(at, None, config, None).await else { return false };
    http.get("x.example", "/").await.is_ok_and(|response| response.status == 200)
}

async fn a_start_without_an_api_server_serves_what_was_read(form: Form) {
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let kubeconfig = env.kubeconfig();
    // The first processes have no key yet.
    let mut cluster = Cluster::on_as(env, &kubeconfig, form).await;
    cluster.more = cached();
    cluster.dir.write("cache.key", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
    let key = cluster.dir.join("cache.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    cluster.restart();
    let (secure, broken, gone) = (door(), door(), door());
    let authority = Authority::new("acme");
    let theirs = namespace(&cluster, "acme").await;
    cluster.env.create(&tls_secret(&theirs, "shop", &authority, secure)).await;
    let mut https = spec(secure, "secure");
    https["namespace"] = json!(theirs);
    https["ingress"][0]["protocol"] = json!("HTTPS");
    https["ingress"][0]["certificate"] = json!({"secretName": "shop"});
    cluster.apply("acme", &https).await;
    cluster.tenant("broken", broken, "good").await;
    cluster.tenant("gone", gone, "gone").await;
    for name in ["acme", "broken", "gone"] {
        cluster.until_condition(name, "Ready", "True Ready").await;
    }
    let mut bad = spec(broken, "bad");
    bad["ingress"][0]["routes"] = json!([{"upstream": "nobody"}]);
    cluster.apply("broken", &bad).await;
    cluster.until_condition("broken", "Programmed", "False NotAccepted").await;
    // A cache that was written after all of this.
    let cache = cluster.dir.join("cluster.cache");
    let written = || std::fs::metadata(&cache).and_then(|found| found.modified()).ok();
    let before = written();
    cluster.tenant("last", door(), "last").await;
    cluster.until_condition("last", "Ready", "True Ready").await;
    let is_written = async || written() > before;
    assert!(eventually(DEADLINE, is_written).await, "{}", cluster.gateway.output());
    tokio::time::sleep(Duration::from_secs(3)).await;

    cluster.kill();
    let server = cluster.env.double().unwrap();
    server.go_away();
    server.reset_connections();
    cluster.start_again();

    assert!(eventually(DEADLINE, async || is_trusted(secure, &authority).await).await);
    until_served(broken, Some("good")).await;
    until_served(gone, Some("gone")).await;
    let admin = cluster.admin;
    let is_ready = async || status(admin, "/readyz") == Some(200);
    assert!(eventually(DEADLINE, is_ready).await, "{:?}", get(admin, "/readyz"));
    let says = async || get(admin, "/readyz?verbose").unwrap().1.contains("a cache of 20");
    assert!(eventually(DEADLINE, says).await, "{:?}", get(admin, "/readyz?verbose"));

    let server = cluster.env.double().unwrap();
    server.come_back();
    cluster.delete("gone").await;
    until_served(gone, None).await;
    cluster.tenant("broken", broken, "mended").await;
    until_served(broken, Some("mended")).await;
    cluster.until_condition("broken", "Ready", "True Ready").await;
    assert!(is_trusted(secure, &authority).await);
    let is_quiet = async || !get(admin, "/readyz?verbose").unwrap().1.contains("a cache of 20");
    assert!(eventually(DEADLINE, is_quiet).await, "{:?}", get(admin, "/readyz?verbose"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_cache_a_start_without_an_api_server_serves_everything() {
    a_start_without_an_api_server_serves_what_was_read(Form::OneProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_cache_durward_kube_hands_over_everything_without_an_api_server() {
    a_start_without_an_api_server_serves_what_was_read(Form::TwoProcesses).await;
}
