//! Operators who delete definitions and take rights away while a gateway runs, and make good again what they did.

use durward_testkit::kubernetes::Backend;

use super::*;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Makes all definitions again.
async fn define(cluster: &Cluster) {
    let definitions = String::from_utf8(durward(&["crds"]).output().unwrap().stdout).unwrap();
    for definition in definitions.split("---\n").filter(|part| !part.trim().is_empty()) {
        cluster.env.define(&serde_saphyr::from_str(definition).unwrap()).await;
    }
}

/// Deletes a definition, and with it all objects of its kind.
async fn undefine(cluster: &Cluster, name: &str) {
    let path = format!("{DEFINITIONS}/{name}");
    cluster.env.raw("DELETE", &path, None).await.unwrap();
    let is_gone = async || cluster.env.raw("GET", &path, None).await.is_err();
    assert!(eventually(DEADLINE * 2, is_gone).await, "{name} is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_that_are_deleted_and_made_again_are_followed_without_a_restart() {
    let env = TestEnv::start().await;
    if env.backend() == Backend::Cluster || !env.need_controllers("deleted definitions") {
        return;
    }
    let (cluster, at) = (Cluster::on(env, Form::OneProcess).await, door());
    cluster.tenant("acme", at, "before").await;
    until_served(at, Some("before")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;

    for kind in ["egresspolicies", "portmappings", "hostedapis"] {
        undefine(&cluster, &format!("{kind}.durward.dev")).await;
    }
    cluster.tenant("acme", at, "meanwhile").await;
    until_served(at, Some("meanwhile")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
    undefine(&cluster, "tenants.durward.dev").await;
    until_served(at, None).await;
    define(&cluster).await;
    cluster.tenant("acme", at, "after").await;

    until_served(at, Some("after")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
    assert_eq!(crate::support::status(cluster.admin, "/readyz"), Some(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_taken_away_stop_nothing_and_are_used_again_once_given_back() {
    rights_come_and_go(Form::OneProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_reader_loses_its_rights_serves_on() {
    rights_come_and_go(Form::TwoProcesses).await;
}

async fn rights_come_and_go(form: Form) {
    let env = TestEnv::start().await;
    let kubeconfig = env.service_account("durward").await;
    let theirs = env.new_namespace(&json!({"durward.dev/tenant": "acme"})).await;
    install(&env, "deploy/kubernetes/rbac.yaml", &theirs).await;
    let (mut cluster, at) = (Cluster::on_as(env, &kubeconfig, form).await, door());
    cluster.tenant("acme", at, "before").await;
    until_served(at, Some("before")).await;
    cluster.until_condition("acme", "Ready", "True Ready").await;
    let binding = format!("durward-{}", cluster.env.namespace());
    let path = format!("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{binding}");

    cluster.env.raw("DELETE", &path, None).await.unwrap();
    if let Some(double) = cluster.env.double() {
        // A real server looks at rights when a watch begins, so that one goes on for minutes.
        double.reset_connections();
        tokio::time::sleep(Duration::from_millis(200)).await;
        double.come_back();
        // The connection of the test is a new one, too.
        let is_back = async || cluster.env.raw("GET", TENANTS, None).await.is_ok();
        assert!(eventually(DEADLINE, is_back).await);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(get(at, "/").unwrap().1, "before");
    cluster.tenant("acme", at, "meanwhile").await;
    install(&cluster.env, "deploy/kubernetes/rbac.yaml", &theirs).await;
    until_served_in(DEADLINE * 3, at, "meanwhile", &cluster).await;
    until_ready(&cluster, DEADLINE * 3).await;

    // A process that begins without rights has nothing to serve, and says so.
    cluster.env.raw("DELETE", &path, None).await.unwrap();
    cluster.restart();
    let is_told = async || {
        let ready = get(cluster.admin, "/readyz?verbose").map(|(_, text)| text).unwrap_or_default();
        ready.contains("orbidden") || cluster.gateway.output().contains("orbidden")
    };
    let told = eventually(DEADLINE, is_told).await;
    assert!(told || form == Form::TwoProcesses, "{}", cluster.gateway.output());
    install(&cluster.env, "deploy/kubernetes/rbac.yaml", &theirs).await;
    until_served_in(DEADLINE * 3, at, "meanwhile", &cluster).await;
    cluster.tenant("acme", at, "after").await;
    until_served_in(DEADLINE, at, "after", &cluster).await;
    until_ready(&cluster, DEADLINE * 3).await;
}

async fn until_served_in(patience: Duration, at: SocketAddr, says: &str, cluster: &Cluster) {
    let is_so = async || get(at, "/").is_some_and(|(_, body)| body == says);
    assert!(eventually(patience, is_so).await, "{}", cluster.gateway.output());
}

async fn until_ready(cluster: &Cluster, patience: Duration) {
    let ready = async || cluster.condition("acme", "Ready").await.as_deref() == Some("True Ready");
    assert!(eventually(patience, ready).await, "{}", cluster.gateway.output());
}
