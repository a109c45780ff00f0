//! A real API server that dies under a running gateway, where `KUBEBUILDER_ASSETS` names the programs.

use std::path::PathBuf;
use std::time::Duration;

use durward_testkit::kubernetes::{ControlPlane, PlaneSettings, TestEnv};
use durward_testkit::netns::skip;
use durward_testkit::process::eventually;

use super::{Cluster, DEADLINE, Form, TENANTS, door, until_served};
use crate::support::{get, status};

#[test]
fn a_real_api_server_that_dies_and_returns_is_followed_on() {
    dies_and_returns("a_real_api_server_that_dies_and_returns_is_followed_on", Form::OneProcess);
}

#[test]
fn a_real_api_server_that_dies_and_returns_is_followed_on_by_two_processes() {
    let name = "a_real_api_server_that_dies_and_returns_is_followed_on_by_two_processes";
    dies_and_returns(name, Form::TwoProcesses);
}

fn dies_and_returns(name: &str, form: Form) {
    let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
        skip(name, "KUBEBUILDER_ASSETS names no kube-apiserver");
        return;
    };
    let mut plane = ControlPlane::start(&assets, PlaneSettings::local());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    let at = door();
    let cluster = runtime.block_on(async {
        let cluster = Cluster::on(TestEnv::on_plane(&plane).await, form).await;
        cluster.tenant("acme", at, "before").await;
        until_served(at, Some("before")).await;
        cluster.until_condition("acme", "Ready", "True Ready").await;
        cluster
    });

    plane.kill_server();

    for _ in 0..40 {
        assert_eq!(get(at, "/").unwrap().1, "before");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(status(cluster.admin, "/readyz"), Some(200));
    plane.start_server_again();
    runtime.block_on(async {
        // The test's own client may hold connections to the server that is gone.
        let answers = async || cluster.env.raw("GET", TENANTS, None).await.is_ok();
        assert!(eventually(DEADLINE, answers).await);
        cluster.tenant("acme", at, "after").await;
        until_served(at, Some("after")).await;
        cluster.until_condition("acme", "Ready", "True Ready").await;
        cluster.delete("acme").await;
        until_served(at, None).await;
    });
}
