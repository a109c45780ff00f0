//! A gateway to which `durward kube` hands what it reads: every case of one process, and those of two.

use std::time::Duration;

use durward_testkit::kubernetes::{ApiServer, TestEnv};
use durward_testkit::process::eventually;
use serde_json::json;

use super::{
    Arguments, Cluster, DEADLINE, Form, cases, door, kube, policies, run, spec, until_served,
};
use crate::support::{durward, get, status};

// S1.14+ S1.18+ S1.23+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_that_are_objects_are_served_and_say_so_in_their_status() {
    cases::tenants_that_are_objects_are_served_and_say_so_in_their_status(Form::TwoProcesses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_to_what_an_older_object_has_is_refused_in_the_younger_ones_status() {
    cases::a_claim_to_what_an_older_object_has_is_refused_in_the_younger_ones_status(
        Form::TwoProcesses,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_object_is_served_as_it_was_also_by_a_process_that_starts_later() {
    cases::a_broken_object_is_served_as_it_was_also_by_a_process_that_starts_later(
        Form::TwoProcesses,
    )
    .await;
}

// S1.68+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_is_served_while_the_api_server_is_away() {
    cases::what_was_read_is_served_while_the_api_server_is_away(Form::TwoProcesses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_not_here_is_not_programmed() {
    cases::an_address_that_is_not_here_is_not_programmed(Form::TwoProcesses).await;
}

// S1.14+ S1.17+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_in_a_secret_is_served_and_renewed_while_it_is() {
    cases::a_certificate_in_a_secret_is_served_and_renewed_while_it_is(Form::TwoProcesses).await;
}

// S1.4+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_a_service_has_its_ready_pods() {
    cases::an_upstream_that_is_a_service_has_its_ready_pods(Form::TwoProcesses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_of_another_tenants_namespace_is_not_served() {
    cases::a_secret_of_another_tenants_namespace_is_not_served(Form::TwoProcesses).await;
}

// S1.65+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_in_the_manifests_suffice_and_open_no_other_secret() {
    cases::the_rights_in_the_manifests_suffice_and_open_no_other_secret(Form::TwoProcesses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_what_documents_name_and_writes_one_status() {
    cases::a_start_waits_for_what_documents_name_and_writes_one_status(Form::TwoProcesses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_of_a_last_accepted_revision_is_read_by_a_process_that_starts_later() {
    cases::the_secret_of_a_last_accepted_revision_is_read_by_a_process_that_starts_later(
        Form::TwoProcesses,
    )
    .await;
}

// S2.16+ S2.17+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn egress_policies_and_the_labels_of_a_namespace_add_to_the_rules_of_its_tenant() {
    policies::egress_policies_and_the_labels_of_a_namespace_add_to_the_rules_of_its_tenant(
        Form::TwoProcesses,
    )
    .await;
}

#[test]
fn what_is_for_the_process_that_reads_the_api_is_refused_by_the_other() {
    let gateway = ["run", "--kube-socket", "/nonexistent/kube.sock"];
    for option in ["--smartnat-mappings", "--kube-load-balancers", "--kube-ingresses"] {
        let output = durward(&gateway).arg(option).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(option) && said.contains("durward kube"), "{said}");
    }
    let output = durward(&["run", "--kube-routing", "routing"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--kube-socket"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_map_that_is_not_handed_over_is_said() {
    let env = TestEnv::start().await;
    let kubeconfig = env.kubeconfig();
    let more = Arguments::new(&[], &["--kube-routing", "routing"]);
    let cluster = Cluster::with(env, &kubeconfig, Form::TwoProcesses, more).await;

    let says = async || readiness(&cluster).contains("give durward kube the same --kube-routing");
    assert!(eventually(DEADLINE, says).await, "{}", readiness(&cluster));
}

/// Returns what the gateway's readiness says.
fn readiness(cluster: &Cluster) -> String {
    get(cluster.admin, "/readyz?verbose").map(|(_, text)| text).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_serves_on_while_durward_kube_is_away_and_its_readiness_says_so() {
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let (mut cluster, at) = (Cluster::on(env, Form::TwoProcesses).await, door());
    cluster.tenant("acme", at, "before").await;
    until_served(at, Some("before")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
    let writes = cluster.env.double().unwrap().status_writes("tenants.durward.dev");

    cluster.kube.as_mut().unwrap().kill();

    let says = async || readiness(&cluster).contains("durward kube is away");
    assert!(eventually(DEADLINE, says).await, "{}", readiness(&cluster));
    assert_eq!(status(cluster.admin, "/readyz"), Some(200));
    assert_eq!(get(at, "/").unwrap().1, "before");
    cluster.kube = Some(kube(&cluster.dir, &[]));
    let says = async || !readiness(&cluster).contains("durward kube");
    assert!(eventually(DEADLINE, says).await, "{}", readiness(&cluster));
    // Everything was said again by then, and nothing was new.
    cluster.tenant("acme", at, "after").await;
    until_served(at, Some("after")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
    let since = cluster.env.double().unwrap().status_writes("tenants.durward.dev");
    assert_eq!(since.1, writes.1, "no write changed nothing: {since:?} after {writes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_while_durward_kube_was_away_is_gone_when_it_is_back() {
    let (mut cluster, at, other) = (Cluster::start(Form::TwoProcesses).await, door(), door());
    cluster.tenant("acme", at, "acme").await;
    cluster.tenant("globex", other, "globex").await;
    until_served(at, Some("acme")).await;
    until_served(other, Some("globex")).await;
    cluster.kube.as_mut().unwrap().kill();

    cluster.delete("acme").await;
    cluster.tenant("globex", other, "changed").await;
    cluster.kube = Some(kube(&cluster.dir, &[]));

    until_served(at, None).await;
    until_served(other, Some("changed")).await;
    cluster.until_condition("globex", "Ready", "True Ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_starts_is_given_the_last_served_revision_of_a_broken_object() {
    let (mut cluster, at) = (Cluster::start(Form::TwoProcesses).await, door());
    cluster.tenant("acme", at, "good").await;
    until_served(at, Some("good")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
    let mut broken = spec(at, "bad");
    broken["ingress"][0]["routes"] = json!([{"upstream": "nobody"}]);
    cluster.apply("acme", &broken).await;
    cluster.until_condition("acme", "Programmed", "False NotAccepted").await;

    cluster.gateway.kill();
    cluster.gateway = run(&cluster.dir, cluster.admin, cluster.form, &[]);

    until_served(at, Some("good")).await;
    cluster.tenant("acme", at, "mended").await;
    until_served(at, Some("mended")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_starts_alone_waits_for_durward_kube_and_is_not_ready() {
    let mut cluster = Cluster::start(Form::TwoProcesses).await;
    let at = door();
    cluster.tenant("acme", at, "acme").await;
    until_served(at, Some("acme")).await;
    cluster.kube.as_mut().unwrap().kill();
    cluster.gateway.kill();

    cluster.gateway = run(&cluster.dir, cluster.admin, cluster.form, &[]);

    let is_unready = async || status(cluster.admin, "/readyz") == Some(503);
    assert!(eventually(DEADLINE, is_unready).await, "{}", cluster.gateway.output());
    let text = get(cluster.admin, "/readyz").unwrap().1;
    assert!(text.contains("durward kube"), "{text}");
    cluster.kube = Some(kube(&cluster.dir, &[]));
    until_served(at, Some("acme")).await;
    let is_ready = async || status(cluster.admin, "/readyz") == Some(200);
    assert!(eventually(Duration::from_secs(60), is_ready).await, "{}", readiness(&cluster));
}
