//! SmartNat's Mappings and several gateways at one API server: who writes what, and when a deleted one is gone.
//!
//! The kernel is left out: a gateway of a test carries the addresses that it is given, and lets go of them when it is told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use durward_control::spec::smartnat::VALID;
use durward_kube::smartnat::{FINALIZER, MappingWriter, Options, Said, Wish};
use durward_kube::status::{ACCEPTED, Judgement, Truth, WriterOptions};
use durward_kube::{Source, Sources};
use durward_testkit::kubernetes::{ApiServer, Fault, Requests, TestEnv};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, eventually, sources};

const RESOURCE: &str = "mappings.smartnat.aureacentral.com";

/// Reads a manifest of the repository.
fn manifest(path: &str) -> Value {
    let file = format!("{}/../../deploy/smartnat/config/{path}", env!("CARGO_MANIFEST_DIR"));
    serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

async fn cluster_on(env: TestEnv) -> Cluster {
    let cluster = Cluster::on(env).await;
    cluster.install().await;
    cluster.env.define(&manifest("crds/smartnat_v1alpha1_mapping.yaml")).await;
    cluster
}

async fn cluster() -> Cluster {
    cluster_on(TestEnv::start().await).await
}

fn path(cluster: &Cluster, name: &str) -> String {
    let namespace = cluster.env.namespace();
    format!("/apis/smartnat.aureacentral.com/v1alpha1/namespaces/{namespace}/mappings/{name}")
}

/// Makes a Mapping with these addresses.
async fn mapping(cluster: &Cluster, name: &str, addresses: &[&str]) {
    let object = json!({
        "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
        "metadata": {"name": name},
        "spec": {"addresses": addresses, "serviceName": "echo", "mode": "service", "ports": [{"port": 8080}]},
    });
    cluster.env.create(&object).await;
}

async fn read(cluster: &Cluster, name: &str) -> Option<Value> {
    cluster.env.raw("GET", &path(cluster, name), None).await.ok()
}

async fn delete(cluster: &Cluster, name: &str) {
    cluster.env.raw("DELETE", &path(cluster, name), None).await.unwrap();
}

/// State of the kernel of a gateway of a test.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Obeys,
    Stuck,
}

/// A gateway without a kernel and without a proxy.
struct Instance {
    kernel: watch::Sender<Kernel>,
    task: JoinHandle<()>,
}

impl Instance {
    fn start(cluster: &Cluster, name: &str, addresses: &[&str]) -> Self {
        Self::with(cluster, &Options::new(name), addresses)
    }

    fn with(cluster: &Cluster, options: &Options, addresses: &[&str]) -> Self {
        // Other tests may have Mappings at the same server.
        let namespace = Some(Arc::from(cluster.env.namespace()));
        let smartnat = Some(Arc::new(options.clone()));
        let sources = Sources { namespace, smartnat, ..sources() };
        let source = cluster.source(&sources);
        let writing = WriterOptions { rate: 1_000, ..WriterOptions::default() };
        let writer = MappingWriter::start(cluster.clients.write.clone(), &writing, options);
        let (kernel, obeys) = watch::channel(Kernel::Obeys);
        let addresses: Vec<Arc<str>> = addresses.iter().map(|one| Arc::from(*one)).collect();
        let task = tokio::spawn(run(source, writer, addresses, obeys));
        Self { kernel, task }
    }

    /// Ends it without a word.
    fn kill(&self) {
        self.task.abort();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Does what a gateway does with Mappings.
async fn run(
    source: Source,
    writer: MappingWriter,
    addresses: Vec<Arc<str>>,
    mut kernel: watch::Receiver<Kernel>,
) {
    loop {
        let observed = source.next().await;
        observed.deletes.iter().for_each(|id| writer.forget(id));
        for object in &observed.upserts {
            writer.observe(object);
            let Some(mapping) = &object.mapping else { continue };
            if object.is_going() {
                writer.want(&object.id, Wish::Hold);
                let _ = kernel.wait_for(|kernel| *kernel == Kernel::Obeys).await;
                let here = mapping.configured().filter(|one| addresses.contains(one));
                writer.want(&object.id, Wish::LetGo { here: here.cloned().collect() });
                continue;
            }
            let here = mapping.spec.addresses.iter().map(|one| Arc::from(one.as_str()));
            let here = here.filter(|one| addresses.contains(one));
            let pods = || vec![Arc::from("10.244.0.5")];
            let configured: BTreeMap<Arc<str>, _> = here.map(|one| (one, pods())).collect();
            let said = Said {
                revision: object.revision.clone(),
                carried: !configured.is_empty(),
                invalid: Arc::from(VALID),
                accepted: Judgement {
                    r#type: ACCEPTED,
                    status: Truth::True,
                    reason: Arc::from("Accepted"),
                    message: Arc::from("all of it is served"),
                },
                service_vip: Some(Arc::from("10.96.0.7")),
                configured,
            };
            writer.want(&object.id, Wish::Say(Box::new(said)));
        }
    }
}

/// Waits until the status has these addresses and no others.
async fn until_configured(cluster: &Cluster, name: &str, addresses: &[&str]) {
    eventually(&format!("{name} has {addresses:?}"), async || {
        let Some(object) = read(cluster, name).await else { return false };
        let configured = object["status"]["configuredAddresses"].as_object();
        let configured: Vec<&str> =
            configured.into_iter().flatten().map(|(key, _)| &**key).collect();
        configured == addresses
    })
    .await;
}

async fn until_gone(cluster: &Cluster, name: &str) {
    eventually("the Mapping is gone", async || read(cluster, name).await.is_none()).await;
}

// S5.45+ S5.53+
#[tokio::test]
async fn the_gateway_that_has_an_address_says_so_holds_the_finalizer_and_lets_go() {
    let cluster = cluster().await;
    let _here = Instance::start(&cluster, "here", &["203.0.113.1"]);
    let _elsewhere = Instance::start(&cluster, "elsewhere", &["203.0.113.9"]);
    mapping(&cluster, "web", &["203.0.113.1", "203.0.113.2"]).await;

    until_configured(&cluster, "web", &["203.0.113.1"]).await;

    let object = read(&cluster, "web").await.unwrap();
    assert_eq!(object["metadata"]["finalizers"], json!([FINALIZER]));
    let status = &object["status"];
    assert_eq!(status["invalid"], "no");
    assert_eq!(status["serviceVIP"], "10.96.0.7");
    assert_eq!(status["configuredAddresses"]["203.0.113.1"], json!({"podIPs": ["10.244.0.5"]}));
    assert_eq!(status["observedGeneration"], 1);
    assert_eq!(status["conditions"][0]["type"], "Accepted");
    assert!(!object["metadata"]["managedFields"].to_string().contains("elsewhere"), "{object}");

    delete(&cluster, "web").await;
    until_gone(&cluster, "web").await;
}

// S5.53+ S5.54 S5.57
#[tokio::test]
async fn any_number_of_gateways_writes_without_conflict_and_the_last_lets_the_object_go() {
    for count in 1..=4 {
        let cluster = cluster().await;
        let addresses: Vec<String> = (1..=count).map(|last| format!("203.0.113.{last}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let instances: Vec<Instance> = addresses
            .iter()
            .map(|address| Instance::start(&cluster, &format!("gw{address}"), &[*address]))
            .collect();
        mapping(&cluster, "web", &addresses).await;
        until_configured(&cluster, "web", &addresses).await;
        let last = instances.last().unwrap();
        last.kernel.send_replace(Kernel::Stuck);

        delete(&cluster, "web").await;

        until_configured(&cluster, "web", &addresses[addresses.len() - 1..]).await;
        let object = read(&cluster, "web").await.unwrap();
        assert_eq!(object["metadata"]["finalizers"], json!([FINALIZER]));
        last.kernel.send_replace(Kernel::Obeys);
        until_gone(&cluster, "web").await;
        let Some(double) = cluster.env.double() else { continue };
        let log = double.log();
        let refused: Vec<_> =
            log.iter().filter(|it| it.verb == "patch" && it.code == 409).collect();
        assert!(refused.is_empty(), "{refused:?}");
    }
}

#[tokio::test]
async fn gateways_that_agree_write_once_each() {
    let cluster = cluster_on(TestEnv::on_double(ApiServer::settings()).await).await;
    let _one = Instance::start(&cluster, "one", &["203.0.113.1"]);
    let _two = Instance::start(&cluster, "two", &["203.0.113.2"]);
    mapping(&cluster, "web", &["203.0.113.1", "203.0.113.2"]).await;
    until_configured(&cluster, "web", &["203.0.113.1", "203.0.113.2"]).await;

    // Whatever would be written needlessly is written by now.
    sleep(Duration::from_millis(500)).await;

    let double = cluster.env.double().unwrap();
    assert_eq!(double.status_writes(RESOURCE), (2, 0));
    // The second gateway's share of the finalizer changes who holds it.
    let (changed, unchanged) = double.writes(RESOURCE);
    assert_eq!((changed, unchanged), (3, 0), "the object itself and two shares of its finalizer");
}

// S5.55+
#[tokio::test]
async fn a_mapping_that_nobody_serves_any_more_can_be_deleted() {
    let cluster = cluster().await;
    mapping(&cluster, "web", &["203.0.113.1"]).await;
    // As SmartNat leaves it: written by updates, with an address of a host that is ours by now.
    let status = json!({"configuredAddresses": {"203.0.113.1": {"podIPs": ["10.244.0.5"]}}});
    for (path, body) in [
        (path(&cluster, "web"), json!({"metadata": {"finalizers": [FINALIZER]}})),
        (format!("{}/status", path(&cluster, "web")), json!({"status": status})),
    ] {
        let request = http::Request::patch(path)
            .header("content-type", "application/merge-patch+json")
            .body(body.to_string().into_bytes());
        cluster.env.client().request::<Value>(request.unwrap()).await.unwrap();
    }
    delete(&cluster, "web").await;

    // It has no address of the Mapping by its documents, as where the Mapping is invalid.
    let _gateway = Instance::start(&cluster, "a", &["203.0.113.1"]);

    until_gone(&cluster, "web").await;
}

// S5.3 S5.30 S5.56
#[tokio::test]
async fn a_dead_gateway_is_waited_for_as_long_as_the_servers_clock_says_and_no_longer() {
    let cluster = cluster_on(TestEnv::on_double(ApiServer::settings()).await).await;
    let double = cluster.env.double().unwrap();
    // This host's clock is a day behind.
    double.set_clock_ahead(86_400);
    let dead = Instance::start(&cluster, "dead", &["203.0.113.2"]);
    let _alive = Instance::start(&cluster, "alive", &["203.0.113.1"]);
    mapping(&cluster, "web", &["203.0.113.1", "203.0.113.2"]).await;
    until_configured(&cluster, "web", &["203.0.113.1", "203.0.113.2"]).await;
    dead.kill();

    delete(&cluster, "web").await;

    until_configured(&cluster, "web", &["203.0.113.2"]).await;
    sleep(Duration::from_millis(300)).await;
    assert!(read(&cluster, "web").await.is_some(), "the wait has only begun");
    // An hour later, to a gateway that has just started.
    double.set_clock_ahead(86_400 + 3_601);
    let _other = Instance::start(&cluster, "other", &[]);
    until_gone(&cluster, "web").await;
}

// S5.56+
#[tokio::test]
async fn a_gateway_that_starts_again_lets_go_of_what_was_its_own() {
    let cluster = cluster().await;
    let before = Instance::start(&cluster, "a", &["203.0.113.1"]);
    mapping(&cluster, "web", &["203.0.113.1"]).await;
    until_configured(&cluster, "web", &["203.0.113.1"]).await;
    before.kill();
    delete(&cluster, "web").await;
    assert!(read(&cluster, "web").await.is_some());

    // Its address is another host's by now.
    let _after = Instance::start(&cluster, "a", &[]);

    until_gone(&cluster, "web").await;
}

#[tokio::test]
async fn an_address_that_moves_is_the_new_hosts_and_faults_of_the_server_cost_time_only() {
    let cluster = cluster_on(TestEnv::on_double(ApiServer::settings()).await).await;
    let double = cluster.env.double().unwrap();
    let before = Instance::start(&cluster, "a", &["203.0.113.1"]);
    mapping(&cluster, "web", &["203.0.113.1", "203.0.113.2"]).await;
    until_configured(&cluster, "web", &["203.0.113.1"]).await;
    before.kill();
    double.inject(Requests::all().verb("patch").resource(RESOURCE), Fault::InternalError, 3);

    let _a = Instance::start(&cluster, "a", &["203.0.113.2"]);
    let _b = Instance::start(&cluster, "b", &["203.0.113.1"]);

    until_configured(&cluster, "web", &["203.0.113.1", "203.0.113.2"]).await;
    let held = |object: &Value| object["metadata"]["managedFields"].to_string();
    eventually("both hold it", async || {
        let object = read(&cluster, "web").await.unwrap();
        held(&object).contains("durward-mapping-a") && held(&object).contains("durward-mapping-b")
    })
    .await;
}

// S5.32+ S5.34+
#[tokio::test]
async fn the_definition_takes_the_samples_and_refuses_what_smartnats_own_refuses() {
    let cluster = cluster().await;
    for sample in ["smartnat_v1alpha1_mapping.yaml", "smartnat_v1alpha1_simple.yaml"] {
        cluster.env.create(&manifest(&format!("samples/{sample}"))).await;
    }
    let collection = path(&cluster, "");
    let collection = collection.trim_end_matches('/');
    let spec = |field: &str, value: Value| {
        let mut spec = json!({"addresses": ["203.0.113.1"], "allowedSources": ["0.0.0.0/0"],
            "serviceName": "echo", "mode": "service", "ports": [{"port": 80, "protocol": "UDP"}]});
        spec[field] = value;
        spec
    };
    let mut accepted = 0;
    for (name, spec, is_taken) in [
        ("good", spec("mode", json!("service")), true),
        ("a", spec("addresses", json!([])), false),
        ("b", spec("mode", json!("direct")), false),
        ("c", spec("serviceName", json!("")), false),
        ("d", spec("serviceName", json!("a".repeat(63))), false),
        ("e", spec("ports", json!([])), false),
        ("f", spec("ports", json!([{"port": 0}])), false),
        ("g", spec("ports", json!([{"port": 65_536}])), false),
        ("h", spec("ports", json!([{"port": 80, "protocol": "icmp"}])), false),
    ] {
        let object = json!({
            "apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping",
            "metadata": {"name": name}, "spec": spec,
        });
        let made = cluster.env.raw("POST", collection, Some(&object)).await;
        assert_eq!(made.is_ok(), is_taken, "{name}: {made:?}");
        accepted += usize::from(made.is_ok());
    }
    assert_eq!(accepted, 1);
}

#[tokio::test]
async fn convergence_takes_less_than_two_seconds_where_nobody_is_dead() {
    let cluster = cluster().await;
    let _one = Instance::start(&cluster, "one", &["203.0.113.1"]);
    let _two = Instance::start(&cluster, "two", &["203.0.113.2"]);
    let _three = Instance::start(&cluster, "three", &["203.0.113.3"]);
    mapping(&cluster, "web", &["203.0.113.1", "203.0.113.2", "203.0.113.3"]).await;
    until_configured(&cluster, "web", &["203.0.113.1", "203.0.113.2", "203.0.113.3"]).await;

    let begun = Instant::now();
    delete(&cluster, "web").await;
    until_gone(&cluster, "web").await;

    println!("gone after {:?}", begun.elapsed());
    // No wait of the protocol is part of it: what was done is counted.
    let Some(double) = cluster.env.double() else { return };
    let log = double.log();
    let deleted = log.iter().position(|it| it.verb == "delete").unwrap();
    let patches = log[deleted..].iter().filter(|it| it.verb == "patch" && it.name == "web").count();
    assert_eq!(patches, 6, "each of three withdraws its share of the status and of the finalizer");
}
