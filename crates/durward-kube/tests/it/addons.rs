//! The installer of API proxies: two API servers, one with `HostedApi`s and one of a tenant.

mod guards;
mod replaced;
mod routes;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use durward_kube::Reach;
use durward_kube::addon::{AddonOptions, Addons, CONDITION, MANAGED_BY, Material};
use durward_testkit::kubernetes::{ApiServer, TestEnv};
use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually};

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/kube-system/deployments/proxy";
const SECRET: &str = "/api/v1/namespaces/kube-system/secrets/proxy";

/// A cluster with `HostedApi`s, and that of a tenant.
struct World {
    cluster: Cluster,
    tenant: TestEnv,
}

impl World {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let tenant = TestEnv::on_double(ApiServer::settings().tls()).await;
        Self { cluster, tenant }
    }

    fn namespace(&self) -> &str {
        self.cluster.env.namespace()
    }

    async fn secret(&self, name: &str, entries: &[(&str, &str)]) {
        let data =
            entries.iter().map(|(key, value)| ((*key).to_owned(), json!(STANDARD.encode(value))));
        let data: serde_json::Map<String, Value> = data.collect();
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data});
        self.cluster.env.create(&secret).await;
    }

    async fn hosted(&self, name: &str, more: &Value) {
        let mut spec = json!({
            "names": [format!("{name}.api.example")], "address": "203.0.113.10",
            "upstream": {"service": {"name": name, "port": 6443}},
            "relay": {"certificate": {"secretName": "relay"}, "clientAuthorities": {"caFile": "configMap:ca/ca.crt"}},
            "mode": "Slice", "kubeconfigSecretName": "kubeconfig", "apiProxy": {"certificateSecretName": "proxy"},
        });
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let hosted = json!({"apiVersion": "durward.dev/v1alpha1", "kind": "HostedApi", "metadata": {"name": name}, "spec": spec});
        self.cluster.env.create(&hosted).await;
    }

    fn path(&self, name: &str) -> String {
        format!("/apis/durward.dev/v1alpha1/namespaces/{}/hostedapis/{name}", self.namespace())
    }

    /// Returns the condition of the installation as `STATUS REASON`.
    async fn condition(&self, name: &str) -> Option<String> {
        let hosted = self.cluster.env.raw("GET", &self.path(name), None).await.ok()?;
        let conditions = hosted["status"]["conditions"].as_array()?;
        let one = conditions.iter().find(|condition| condition["type"] == CONDITION)?;
        Some(format!("{} {}", one["status"].as_str()?, one["reason"].as_str()?))
    }

    async fn until(&self, name: &str, wanted: &str) {
        eventually(&format!("{name} is {wanted}"), async || {
            self.condition(name).await.as_deref() == Some(wanted)
        })
        .await;
    }

    async fn all_ready(&self, replicas: u64) {
        all_ready(&self.tenant, replicas).await;
    }

    /// Starts with the Secrets and one `HostedApi` whose proxies are installed and ready.
    async fn installed(options: impl FnOnce(&str) -> AddonOptions) -> (Self, Addons) {
        let world = Self::start().await;
        world.secret("kubeconfig", &[("kubeconfig", &world.tenant.kubeconfig())]).await;
        world.secret("proxy", &[("tls.key", "one")]).await;
        world.hosted("t1", &json!({})).await;
        let addons = Addons::start(&world.cluster.clients, options(world.namespace()));
        world.until("t1", "False Progressing").await;
        world.all_ready(2).await;
        world.until("t1", "True Installed").await;
        (world, addons)
    }

    /// Changes a `HostedApi` as its owner would.
    async fn change(&self, name: &str, change: impl Fn(&mut Value)) {
        eventually("the HostedApi is changed", async || {
            let mut hosted = self.cluster.env.raw("GET", &self.path(name), None).await.unwrap();
            change(&mut hosted);
            self.cluster.env.raw("PUT", &self.path(name), Some(&hosted)).await.is_ok()
        })
        .await;
    }

    async fn until_gone(&self, name: &str) {
        eventually("the HostedApi is gone", async || {
            !is_there(&self.cluster.env, &self.path(name)).await
        })
        .await;
    }

    fn start_addons(&self) -> Addons {
        Addons::start(&self.cluster.clients, options(self.namespace()))
    }
}

/// Says in a tenant's cluster that all proxies are ready, as its controllers would.
async fn all_ready(tenant: &TestEnv, replicas: u64) {
    eventually("the workload can be marked as ready", async || {
        let Ok(mut there) = tenant.raw("GET", DEPLOYMENT, None).await else { return false };
        let generation = there["metadata"]["generation"].clone();
        there["status"] = json!({
            "observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas,
        });
        tenant.raw("PUT", &format!("{DEPLOYMENT}/status"), Some(&there)).await.is_ok()
    })
    .await;
}

fn options(namespace: &str) -> AddonOptions {
    let known = [("v1", "Secret"), ("apps/v1", "Deployment"), ("v1", "ConfigMap")];
    let known = known.map(|(version, kind)| {
        json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": "kube-system", "name": "proxy"}})
    });
    AddonOptions {
        namespace: Some(Arc::from(namespace)),
        render: Arc::new(render),
        known: known.to_vec(),
        resync: Duration::from_millis(200),
        longest_wait: Duration::from_secs(1),
        at_once: 4,
        patience: Duration::from_secs(10),
        recheck: Duration::from_hours(1),
        // The doubles are on this host.
        reach: Arc::new(Reach::new(vec!["127.0.0.0/8".parse().unwrap()])),
    }
}

fn render(material: &Material<'_>) -> Result<Vec<Value>, String> {
    let image = material.plan.image.as_deref().unwrap_or("proxy:1");
    let key = material.certificate.0.get("tls.key").ok_or("Secret has no tls.key: add it")?;
    let (label, value) = MANAGED_BY;
    let metadata = json!({"namespace": "kube-system", "name": "proxy", "labels": {label: value}});
    let labels = json!({"app": "proxy"});
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"tls.key": STANDARD.encode(key)}}),
    ];
    // Stands for what one mode has and another has not.
    if material.plan.replicas == Some(2) {
        objects.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}));
    }
    objects.push(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "proxy", "image": image}]}}},
    }));
    Ok(objects)
}

async fn is_there(env: &TestEnv, path: &str) -> bool {
    env.raw("GET", path, None).await.is_ok()
}

// S4.54 S4.27+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_are_installed_upgraded_and_removed_through_the_tenants_kubeconfig() {
    let world = World::start().await;
    world.secret("kubeconfig", &[("kubeconfig", &world.tenant.kubeconfig())]).await;
    world.secret("proxy", &[("tls.key", "one")]).await;
    let two = json!({"apiProxy": {"certificateSecretName": "proxy", "replicas": 2}});
    world.hosted("t1", &two).await;
    let addons = world.start_addons();

    world.until("t1", "False Progressing").await;
    world.all_ready(2).await;
    world.until("t1", "True Installed").await;
    let config_map = "/api/v1/namespaces/kube-system/configmaps/proxy";
    assert!(is_there(&world.tenant, config_map).await);
    assert_eq!(addons.report().installed, 1);

    // A new image, a renewed key, and a mode that needs less.
    let image = json!({"apiProxy": {"certificateSecretName": "proxy", "image": "proxy:2"}});
    world.hosted("t1", &image).await;
    world.secret("proxy", &[("tls.key", "two")]).await;
    eventually("the new image is there", async || {
        let there = world.tenant.raw("GET", DEPLOYMENT, None).await.unwrap();
        there["spec"]["template"]["spec"]["containers"][0]["image"] == "proxy:2"
    })
    .await;
    eventually("what the new mode lacks is gone", async || {
        !is_there(&world.tenant, config_map).await
    })
    .await;
    eventually("the renewed key is there", async || {
        let there = world.tenant.raw("GET", SECRET, None).await.unwrap();
        there["data"]["tls.key"] == STANDARD.encode("two")
    })
    .await;

    world.cluster.delete(&world.path("t1")).await;
    eventually("everything is gone", async || {
        !is_there(&world.tenant, DEPLOYMENT).await
            && !is_there(&world.tenant, SECRET).await
            && !is_there(&world.cluster.env, &world.path("t1")).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hosted_api_that_asks_for_no_proxies_any_more_has_them_removed_and_nothing_of_others() {
    let world = World::start().await;
    world.secret("kubeconfig", &[("kubeconfig", &world.tenant.kubeconfig())]).await;
    world.secret("proxy", &[("tls.key", "one")]).await;
    let own = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "proxy", "namespace": "kube-system"}});
    world.tenant.create(&own).await;
    world.hosted("t1", &json!({})).await;
    let _addons = world.start_addons();
    world.until("t1", "False Progressing").await;

    let mut hosted = world.cluster.env.raw("GET", &world.path("t1"), None).await.unwrap();
    for field in ["mode", "apiProxy", "kubeconfigSecretName"] {
        hosted["spec"].as_object_mut().unwrap().remove(field);
    }
    eventually("the field is taken away", async || {
        let now = world.cluster.env.raw("GET", &world.path("t1"), None).await.unwrap();
        hosted["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
        world.cluster.env.raw("PUT", &world.path("t1"), Some(&hosted)).await.is_ok()
    })
    .await;

    eventually("the proxies are gone", async || {
        let hosted = world.cluster.env.raw("GET", &world.path("t1"), None).await.unwrap();
        !is_there(&world.tenant, DEPLOYMENT).await
            && hosted["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
            && world.condition("t1").await.is_none()
    })
    .await;
    assert!(is_there(&world.tenant, "/api/v1/namespaces/kube-system/configmaps/proxy").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_a_revoked_and_a_missing_kubeconfig_cost_that_tenant_only() {
    let world = World::start().await;
    world.secret("proxy", &[("tls.key", "one")]).await;
    let good = world.tenant.kubeconfig();
    let other = TestEnv::on_double(ApiServer::settings().tls()).await;
    let mut revoked: Value = serde_json::from_str(&other.kubeconfig()).unwrap();
    revoked["users"][0]["user"]["token"] = json!("nobody's");
    let mut program: Value = serde_json::from_str(&good).unwrap();
    program["users"][0]["user"] =
        json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/false"}});
    let mut foreign: Value = serde_json::from_str(&good).unwrap();
    // The server of one cluster with the authority of another.
    foreign["clusters"][0]["cluster"]["server"] = serde_json::from_str::<Value>(
        &other.kubeconfig(),
    )
    .unwrap()["clusters"][0]["cluster"]["server"]
        .clone();
    for (name, kubeconfig, reason) in [
        ("revoked", revoked.to_string(), "CredentialsRefused"),
        ("program", program.to_string(), "KubeconfigUnusable"),
        ("foreign", foreign.to_string(), "ClusterUnreachable"),
        ("nothing", String::new(), "KubeconfigUnusable"),
    ] {
        world.secret(&format!("of-{name}"), &[("value", &kubeconfig)]).await;
        world.hosted(name, &json!({"kubeconfigSecretName": format!("of-{name}")})).await;
        let _ = reason;
    }
    world.hosted("missing", &json!({"kubeconfigSecretName": "nowhere"})).await;
    world.secret("kubeconfig", &[("admin.conf", &good)]).await;
    world.hosted("good", &json!({})).await;
    let addons = world.start_addons();

    world.until("good", "False Progressing").await;
    world.all_ready(2).await;
    world.until("good", "True Installed").await;
    for (name, wanted) in [
        ("revoked", "False CredentialsRefused"),
        ("program", "False KubeconfigUnusable"),
        ("foreign", "False ClusterUnreachable"),
        ("nothing", "False KubeconfigUnusable"),
        ("missing", "False SecretMissing"),
    ] {
        world.until(name, wanted).await;
    }
    assert_eq!(addons.report().failed.len(), 5);

    // One whose cluster cannot be reached is let go after a while, and one that holds nothing at once.
    for name in ["revoked", "missing"] {
        world.cluster.delete(&world.path(name)).await;
        eventually("it is let go", async || !is_there(&world.cluster.env, &world.path(name)).await)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_in_which_nothing_changes_cost_neither_requests_nor_connections() {
    const CLUSTERS: usize = 5;
    let world = World::start().await;
    world.secret("proxy", &[("tls.key", "one")]).await;
    let addons = world.start_addons();
    let mut tenants = Vec::new();
    for at in 0..CLUSTERS {
        let tenant = TestEnv::on_double(ApiServer::settings().tls()).await;
        let name = format!("t{at}");
        world.secret(&name, &[("kubeconfig", &tenant.kubeconfig())]).await;
        world.hosted(&name, &json!({"kubeconfigSecretName": name})).await;
        world.until(&name, "False Progressing").await;
        all_ready(&tenant, 2).await;
        tenants.push(tenant);
    }
    eventually("all are installed", async || addons.report().installed == CLUSTERS).await;

    let doubles = || tenants.iter().map(|tenant| tenant.double().unwrap());
    let connections = || doubles().map(ApiServer::connections).collect::<Vec<_>>();
    let (before, attempts) = (connections(), addons.report().attempts);
    // Ten looks at the Secrets of each.
    tokio::time::sleep(Duration::from_secs(2)).await;

    assert_eq!((connections(), addons.report().attempts), (before, attempts));
    // The test's own client keeps one or two.
    eventually("no connection is left open", async || {
        doubles().all(|double| double.open_connections() <= 2)
    })
    .await;
}
