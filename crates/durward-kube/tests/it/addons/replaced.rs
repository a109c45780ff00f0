//! A Secret whose kubeconfig is replaced by that of another cluster.

use durward_kube::addon::{ABANDONED_CONDITION, OWNER};
use durward_testkit::kubernetes::{ApiServer, TestEnv};
use serde_json::{Value, json};

use super::{DEPLOYMENT, SECRET, World, all_ready, is_there, options};
use crate::cluster::eventually;

const CLUSTER: &str = "durward.dev/api-proxy-cluster";
const ABANDONED: &str = "durward.dev/api-proxy-abandoned";

async fn uid_of(tenant: &TestEnv) -> String {
    let namespace = tenant.raw("GET", "/api/v1/namespaces/kube-system", None).await.unwrap();
    namespace["metadata"]["uid"].as_str().unwrap().to_owned()
}

async fn hosted(world: &World) -> Value {
    world.cluster.env.raw("GET", &world.path("t1"), None).await.unwrap()
}

/// Message of the condition that names clusters in which objects were left.
async fn abandonment(world: &World) -> Option<String> {
    let hosted = hosted(world).await;
    let conditions = hosted["status"]["conditions"].as_array()?.clone();
    let one = conditions.iter().find(|one| one["type"] == ABANDONED_CONDITION)?;
    Some(one["message"].as_str()?.to_owned())
}

/// Puts the kubeconfig of another cluster into the Secret, and waits until the proxies are ready there.
async fn replace(world: &World, other: &TestEnv) {
    world.secret("kubeconfig", &[("kubeconfig", &other.kubeconfig())]).await;
    eventually("they are in the other cluster", async || is_there(other, DEPLOYMENT).await).await;
    all_ready(other, 2).await;
    let other = uid_of(other).await;
    eventually("the other cluster is noted", async || {
        let hosted = hosted(world).await;
        let conditions = hosted["status"]["conditions"].as_array().cloned().unwrap_or_default();
        hosted["metadata"]["annotations"][CLUSTER] == *other
            && conditions.iter().any(|one| {
                one["reason"] == "Installed"
                    && one["message"].as_str().is_some_and(|text| text.contains(&other))
            })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_kubeconfig_is_replaced_is_left_by_the_process_that_installed_there() {
    let (world, _addons) = World::installed(options).await;
    assert_eq!(
        hosted(&world).await["metadata"]["annotations"][CLUSTER],
        *uid_of(&world.tenant).await
    );
    let other = TestEnv::on_double(ApiServer::settings().tls()).await;

    replace(&world, &other).await;

    eventually("nothing is left in the first cluster", async || {
        !is_there(&world.tenant, DEPLOYMENT).await && !is_there(&world.tenant, SECRET).await
    })
    .await;
    eventually("nothing is said of it", async || abandonment(&world).await.is_none()).await;
    assert!(is_there(&other, DEPLOYMENT).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_a_later_process_cannot_reach_is_named_until_its_annotation_is_taken_away() {
    let (world, addons) = World::installed(options).await;
    let first = uid_of(&world.tenant).await;
    drop(addons);
    let other = TestEnv::on_double(ApiServer::settings().tls()).await;
    world.secret("kubeconfig", &[("kubeconfig", &other.kubeconfig())]).await;

    let _addons = world.start_addons();
    replace(&world, &other).await;

    eventually("the first cluster is named", async || {
        abandonment(&world).await.is_some_and(|message| message.contains(&first))
    })
    .await;
    assert_eq!(hosted(&world).await["metadata"]["annotations"][ABANDONED], *first);
    assert!(is_there(&world.tenant, DEPLOYMENT).await, "nobody knows how to reach it");
    world
        .change("t1", |hosted| {
            hosted["metadata"]["annotations"].as_object_mut().unwrap().remove(ABANDONED);
        })
        .await;
    eventually("nothing is said", async || abandonment(&world).await.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_comes_back_is_abandoned_no_longer() {
    let (world, addons) = World::installed(options).await;
    drop(addons);
    let other = TestEnv::on_double(ApiServer::settings().tls()).await;
    world.secret("kubeconfig", &[("kubeconfig", &other.kubeconfig())]).await;
    let addons = world.start_addons();
    replace(&world, &other).await;
    eventually("it is named", async || abandonment(&world).await.is_some()).await;
    drop(addons);

    let _addons = world.start_addons();
    world.secret("kubeconfig", &[("kubeconfig", &world.tenant.kubeconfig())]).await;

    let second = uid_of(&other).await;
    eventually("the other one is named in its place", async || {
        hosted(&world).await["metadata"]["annotations"][ABANDONED] == *second
    })
    .await;
    let owner = world.tenant.raw("GET", DEPLOYMENT, None).await.unwrap();
    let uid = hosted(&world).await["metadata"]["uid"].clone();
    assert_eq!(owner["metadata"]["annotations"][OWNER], uid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubeconfig_that_may_not_read_the_identity_installs_as_ever() {
    let world = World::start().await;
    let kubeconfig = world.tenant.service_account("installer").await;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "installer"},
        "rules": [{
            "apiGroups": ["", "apps", "discovery.k8s.io"], "verbs": ["*"],
            "resources": ["secrets", "deployments", "configmaps", "endpoints", "endpointslices"],
        }],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "installer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "installer"},
        "subjects": [{"kind": "ServiceAccount", "name": "installer", "namespace": world.tenant.namespace()}],
    });
    world.tenant.create(&role).await;
    world.tenant.create(&binding).await;
    world.secret("kubeconfig", &[("kubeconfig", &kubeconfig)]).await;
    world.secret("proxy", &[("tls.key", "one")]).await;
    world.hosted("t1", &json!({})).await;
    let _addons = world.start_addons();

    world.until("t1", "False Progressing").await;
    world.all_ready(2).await;
    world.until("t1", "True Installed").await;

    assert!(hosted(&world).await["metadata"]["annotations"].get(CLUSTER).is_none());
}
