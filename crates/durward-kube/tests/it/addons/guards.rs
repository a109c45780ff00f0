//! What a tenant, a cluster of a tenant or an accident must not do by way of the installer.

use std::sync::Arc;
use std::time::Duration;

use durward_kube::Reach;
use durward_kube::addon::{AddonOptions, Addons, FINALIZER, MANAGED_BY, OWNER};
use durward_testkit::kubernetes::{ApiServer, Fault, Requests, TestEnv};
use serde_json::{Value, json};

use super::{DEPLOYMENT, SECRET, World, all_ready, is_there, options};
use crate::cluster::{PATIENCE, eventually};

const KUBECONFIG: &str = "durward.dev/api-proxy-kubeconfig";

async fn uid_of(tenant: &TestEnv, path: &str) -> Value {
    tenant.raw("GET", path, None).await.unwrap()["metadata"]["uid"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_hosted_api_with_the_same_cluster_is_refused_and_removes_nothing() {
    let (world, addons) = World::installed(options).await;
    let deployment = uid_of(&world.tenant, DEPLOYMENT).await;

    world.hosted("t2", &json!({})).await;
    world.until("t2", "False ClusterTaken").await;
    world.cluster.delete(&world.path("t2")).await;
    world.until_gone("t2").await;

    assert_eq!(uid_of(&world.tenant, DEPLOYMENT).await, deployment);
    assert!(is_there(&world.tenant, SECRET).await);
    assert_eq!(world.condition("t1").await.as_deref(), Some("True Installed"));
    assert_eq!(addons.report().installed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_installed_before_owners_were_noted_is_taken_over() {
    let world = World::start().await;
    world.secret("kubeconfig", &[("kubeconfig", &world.tenant.kubeconfig())]).await;
    world.secret("proxy", &[("tls.key", "one")]).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {
        "name": "proxy", "namespace": "kube-system", "labels": {MANAGED_BY.0: MANAGED_BY.1}}});
    world.tenant.create(&secret).await;
    let before = uid_of(&world.tenant, SECRET).await;
    world.hosted("t1", &json!({})).await;
    let _addons = world.start_addons();

    world.until("t1", "False Progressing").await;

    let there = world.tenant.raw("GET", SECRET, None).await.unwrap();
    let hosted = world.cluster.env.raw("GET", &world.path("t1"), None).await.unwrap();
    assert_eq!(there["metadata"]["uid"], before);
    assert_eq!(there["metadata"]["annotations"][OWNER], hosted["metadata"]["uid"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_was_not_installed_from_here_is_neither_changed_nor_removed() {
    let world = World::start().await;
    world.secret("kubeconfig", &[("kubeconfig", &world.tenant.kubeconfig())]).await;
    world.secret("proxy", &[("tls.key", "one")]).await;
    let own = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "proxy", "namespace": "kube-system"},
        "stringData": {"own": "yes"}});
    world.tenant.create(&own).await;
    let before = world.tenant.raw("GET", SECRET, None).await.unwrap();
    world.hosted("t1", &json!({})).await;
    let _addons = world.start_addons();

    world.until("t1", "False ObjectForeign").await;
    world.cluster.delete(&world.path("t1")).await;
    world.until_gone("t1").await;

    assert_eq!(world.tenant.raw("GET", SECRET, None).await.unwrap(), before);
    assert!(!is_there(&world.tenant, DEPLOYMENT).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_in_the_tenants_cluster_comes_back() {
    let often = |namespace: &str| AddonOptions {
        recheck: Duration::from_millis(500),
        ..options(namespace)
    };
    let (world, _addons) = World::installed(often).await;
    let before = uid_of(&world.tenant, DEPLOYMENT).await;

    world.tenant.raw("DELETE", DEPLOYMENT, None).await.unwrap();

    eventually("it is there again", async || is_there(&world.tenant, DEPLOYMENT).await).await;
    assert_ne!(uid_of(&world.tenant, DEPLOYMENT).await, before);
    world.until("t1", "False Progressing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hosted_api_that_moves_to_another_cluster_leaves_the_first() {
    let (world, _addons) = World::installed(options).await;
    let other = TestEnv::on_double(ApiServer::settings().tls()).await;
    let deployment = uid_of(&world.tenant, DEPLOYMENT).await;

    // Another name of the same cluster moves nothing.
    world.secret("renamed", &[("kubeconfig", &world.tenant.kubeconfig())]).await;
    world.hosted("t1", &json!({"kubeconfigSecretName": "renamed"})).await;
    eventually("the new name is noted", async || {
        let hosted = world.cluster.env.raw("GET", &world.path("t1"), None).await.unwrap();
        hosted["metadata"]["annotations"][KUBECONFIG] == "renamed"
    })
    .await;
    assert_eq!(uid_of(&world.tenant, DEPLOYMENT).await, deployment);

    world.secret("other", &[("kubeconfig", &other.kubeconfig())]).await;
    world.hosted("t1", &json!({"kubeconfigSecretName": "other"})).await;
    eventually("they are in the other cluster", async || is_there(&other, DEPLOYMENT).await).await;
    assert!(!is_there(&world.tenant, DEPLOYMENT).await && !is_there(&world.tenant, SECRET).await);
    all_ready(&other, 2).await;
    world.until("t1", "True Installed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finalizer_that_was_taken_away_comes_back_while_proxies_are_installed() {
    let (world, _addons) = World::installed(options).await;

    world
        .change("t1", |hosted| {
            let metadata = hosted["metadata"].as_object_mut().unwrap();
            metadata.remove("finalizers");
            metadata.remove("annotations");
        })
        .await;

    eventually("the finalizer is there again", async || {
        let hosted = world.cluster.env.raw("GET", &world.path("t1"), None).await.unwrap();
        hosted["metadata"]["finalizers"] == json!([FINALIZER])
            && hosted["metadata"]["annotations"][KUBECONFIG] == "kubeconfig"
    })
    .await;
    world.cluster.delete(&world.path("t1")).await;
    world.until_gone("t1").await;
    assert!(!is_there(&world.tenant, DEPLOYMENT).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finalizer_without_its_annotation_is_released_after_the_objects_were_removed() {
    let (world, addons) = World::installed(options).await;
    drop(addons);
    world
        .change("t1", |hosted| {
            hosted["metadata"].as_object_mut().unwrap().remove("annotations");
        })
        .await;
    world.cluster.delete(&world.path("t1")).await;

    let _addons = world.start_addons();

    world.until_gone("t1").await;
    assert!(!is_there(&world.tenant, DEPLOYMENT).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finalizer_that_somebody_else_wrote_is_released_where_nothing_is_installed() {
    let world = World::start().await;
    let hosted = json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "HostedApi",
        "metadata": {"name": "t1", "finalizers": ["example.com/other", FINALIZER]},
        "spec": {"names": ["t1.api.example"], "upstream": {"service": {"name": "t1", "port": 6443}}},
    });
    world.cluster.env.create(&hosted).await;

    let _addons = world.start_addons();

    eventually("ours is gone, and nobody else's", async || {
        let hosted = world.cluster.env.raw("GET", &world.path("t1"), None).await.unwrap();
        hosted["metadata"]["finalizers"] == json!(["example.com/other"])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_to_this_host_is_not_connected_to() {
    let world = World::start().await;
    let double = world.tenant.double().unwrap();
    let mut kubeconfig: Value = serde_json::from_str(&world.tenant.kubeconfig()).unwrap();
    let server = &mut kubeconfig["clusters"][0]["cluster"]["server"];
    *server = server.as_str().unwrap().replace("127.0.0.1", "localhost").into();
    world.secret("kubeconfig", &[("kubeconfig", &kubeconfig.to_string())]).await;
    world.secret("proxy", &[("tls.key", "one")]).await;
    world.hosted("t1", &json!({})).await;
    let before = double.connections();
    let reach = Arc::new(Reach::default());
    let options = AddonOptions { reach, ..options(world.namespace()) };
    let _addons = Addons::start(&world.cluster.clients, options);

    world.until("t1", "False ClusterUnreachable").await;

    assert_eq!(double.connections(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_answers_each_request_late_does_not_hold_its_place_for_all_of_them() {
    let world = World::start().await;
    world.secret("kubeconfig", &[("kubeconfig", &world.tenant.kubeconfig())]).await;
    world.secret("proxy", &[("tls.key", "one")]).await;
    world.hosted("t1", &json!({})).await;
    let late = Fault::Delay(Duration::from_millis(900));
    world.tenant.double().unwrap().inject(Requests::all(), late, u64::MAX);
    let patience = Duration::from_secs(1);
    let options = AddonOptions { patience, ..options(world.namespace()) };
    let _addons = Addons::start(&world.cluster.clients, options);

    world.until("t1", "False ClusterUnreachable").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_waits_for_the_pods_and_hands_back_what_they_wrote_meanwhile() {
    const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let patient = |namespace: &str| AddonOptions {
        longest_wait: Duration::from_hours(1),
        ..options(namespace)
    };
    let (world, _addons) = World::installed(patient).await;
    // Stands for pods that take their time.
    let mut deployment = world.tenant.raw("GET", DEPLOYMENT, None).await.unwrap();
    deployment["metadata"]["finalizers"] = json!(["example.com/pods"]);
    world.tenant.raw("PUT", DEPLOYMENT, Some(&deployment)).await.unwrap();

    world.cluster.delete(&world.path("t1")).await;
    world.until("t1", "False Removing").await;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {
            "kubernetes.io/service-name": "kubernetes", "endpointslice.kubernetes.io/managed-by": "durward-api-proxy"}},
        "endpoints": [{"addresses": ["10.0.0.7"]}], "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    });
    world.tenant.create(&slice).await;
    eventually("the pods end", async || {
        let Ok(mut there) = world.tenant.raw("GET", DEPLOYMENT, None).await else { return true };
        there["metadata"]["finalizers"] = json!([]);
        world.tenant.raw("PUT", DEPLOYMENT, Some(&there)).await.is_ok()
    })
    .await;
    world.until_gone("t1").await;

    assert!(!is_there(&world.tenant, SLICE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_the_management_cluster_gives_no_tenant_cluster_up() {
    let impatient =
        |namespace: &str| AddonOptions { longest_wait: Duration::ZERO, ..options(namespace) };
    let (world, _addons) = World::installed(impatient).await;
    let Some(double) = world.cluster.env.need_double("faults are injected") else { return };
    let secrets = Requests::all().verb("get").resource("secrets");
    double.inject(secrets, Fault::InternalError, u64::MAX);

    world.cluster.delete(&world.path("t1")).await;
    world.until("t1", "False SecretUnreadable").await;
    assert!(is_there(&world.tenant, DEPLOYMENT).await);

    double.clear_faults();
    world.until_gone("t1").await;
    assert!(!is_there(&world.tenant, DEPLOYMENT).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_during_a_downtime_is_tried_for_as_long_as_any_other() {
    let wait = Duration::from_secs(4);
    let waiting = |namespace: &str| AddonOptions { longest_wait: wait, ..options(namespace) };
    let (world, addons) = World::installed(waiting).await;
    drop(addons);
    world.secret("kubeconfig", &[("kubeconfig", "none")]).await;
    world.cluster.delete(&world.path("t1")).await;
    tokio::time::sleep(wait + Duration::from_secs(1)).await;

    let _addons = Addons::start(&world.cluster.clients, waiting(world.namespace()));
    world.until("t1", "False KubeconfigUnusable").await;
    world.secret("kubeconfig", &[("kubeconfig", &world.tenant.kubeconfig())]).await;

    world.until_gone("t1").await;
    assert!(!is_there(&world.tenant, DEPLOYMENT).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_is_written_however_long_the_faults_are() {
    let (world, _addons) = World::installed(options).await;
    let networks = vec![json!("x".repeat(1_000)); 32];

    let proxy =
        json!({"certificateSecretName": "proxy", "podCidrs": networks, "serviceCidrs": networks});
    world.hosted("t1", &json!({"apiProxy": proxy})).await;

    world.until("t1", "False Invalid").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_that_meets_another_write_is_written_at_once() {
    let rarely = |namespace: &str| AddonOptions { resync: PATIENCE * 10, ..options(namespace) };
    let (world, _addons) = World::installed(rarely).await;
    let Some(double) = world.cluster.env.need_double("faults are injected") else { return };
    let writes = Requests::all().verb("patch").resource("hostedapis.durward.dev");
    double.inject(writes.subresource("status"), Fault::Conflict, 1);

    // What is applied is the same, so the next look is far away.
    world.hosted("t1", &json!({"idleTimeout": "1h"})).await;

    eventually("the condition is of this generation", async || {
        let hosted = world.cluster.env.raw("GET", &world.path("t1"), None).await.unwrap();
        let conditions = hosted["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["observedGeneration"] == hosted["metadata"]["generation"])
    })
    .await;
}
