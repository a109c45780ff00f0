//! Secrets, ConfigMaps, Services and namespaces that documents refer to.

use std::collections::BTreeMap;
use std::sync::Arc;

use durward_control::change::{Entries, Fact};
use durward_control::reference::Reference;
use durward_kube::source::Reading;
use durward_kube::{Source, Sources};
use durward_testkit::kubernetes::{ApiServer, TestEnv};
use serde_json::json;

use crate::cluster::{Cluster, eventually, fact, gather, sources};
use crate::sources::grant;

fn secret(namespace: &str, name: &str) -> Reference {
    Reference::Secret { namespace: Arc::from(namespace), name: Arc::from(name) }
}

fn service(namespace: &str, name: &str, port: &str) -> Reference {
    let text = |text: &str| Arc::<str>::from(text);
    Reference::Service { namespace: text(namespace), name: text(name), port: text(port) }
}

/// Returns what is said of a Secret with one entry.
fn bytes(key: &str, value: &str) -> Option<Fact> {
    let entries = BTreeMap::from([(Arc::from(key), Arc::from(value.as_bytes()))]);
    Some(Fact::Bytes(Entries::from(entries).of_type(Some(Arc::from("Opaque")))))
}

async fn put_secret(cluster: &Cluster, name: &str, value: &str) {
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
        "stringData": {"key": value}});
    cluster.env.create(&object).await;
}

async fn put_slice(cluster: &Cluster, name: &str, of: &str, addresses: &[&str]) {
    let endpoints: Vec<_> = addresses.iter().map(|it| json!({"addresses": [it]})).collect();
    let object = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]});
    cluster.env.create(&object).await;
}

async fn put_service(cluster: &Cluster, name: &str) {
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    cluster.env.create(&object).await;
}

async fn until(source: &Source, reference: &Reference, wanted: &Option<Fact>) {
    gather(source, |seen| fact(seen, reference) == Some(wanted)).await;
}

#[tokio::test]
async fn secrets_are_read_by_name_and_followed() {
    let cluster = Cluster::start().await;
    let namespace = cluster.env.namespace().to_owned();
    put_secret(&cluster, "named", "one").await;
    put_secret(&cluster, "other", "hidden").await;
    let mut source = cluster.source(&sources());
    let (named, missing) = (secret(&namespace, "named"), secret(&namespace, "missing"));

    source.want([&named, &missing]);
    let first = gather(&source, |_| source.waiting() == 0).await;
    let first = gather_more(&source, first).await;
    put_secret(&cluster, "named", "two").await;
    until(&source, &named, &bytes("key", "two")).await;
    put_secret(&cluster, "missing", "there").await;
    until(&source, &missing, &bytes("key", "there")).await;
    cluster.delete(&format!("/api/v1/namespaces/{namespace}/secrets/named")).await;
    until(&source, &named, &Some(Fact::Missing)).await;
    source.want([] as [&Reference; 0]);
    until(&source, &named, &None).await;

    assert_eq!(first[&named], bytes("key", "one"));
    assert_eq!(first[&missing], Some(Fact::Missing));
    if let Some(double) = cluster.env.double() {
        assert_eq!(double.count("watch", "secrets"), 2, "one for each that is named");
        eventually("closed", async || double.open_watches("secrets") == 0).await;
    }
}

/// Takes in what is said until both facts are there: `waiting` is zero before the last of them is handed out.
async fn gather_more(
    source: &Source,
    seen: durward_kube::source::Observed,
) -> BTreeMap<Reference, Option<Fact>> {
    let mut facts: BTreeMap<_, _> = seen.facts.into_iter().collect();
    while facts.len() < 2 {
        let more = gather(source, |seen| !seen.facts.is_empty()).await;
        facts.extend(more.facts);
    }
    facts
}

#[tokio::test]
async fn secrets_beyond_the_bound_are_read_without_a_watch() {
    let cluster = Cluster::start().await;
    let namespace = cluster.env.namespace().to_owned();
    let names: Vec<String> = (0..6).map(|number| format!("s{number}")).collect();
    for name in &names {
        put_secret(&cluster, name, name).await;
    }
    let bound = Sources { secrets: Reading::ByName { watches: 2 }, ..sources() };
    let mut source = cluster.source(&bound);
    let references: Vec<Reference> = names.iter().map(|name| secret(&namespace, name)).collect();

    source.want(&references);
    let seen = gather(&source, |seen| seen.facts.len() >= 6).await;
    let report = source.named()[0].clone();

    for (reference, name) in references.iter().zip(&names) {
        assert_eq!(fact(&seen, reference), Some(&bytes("key", name)));
    }
    assert_eq!((report.wanted, report.watches, report.polled), (6, 2, 4));
    if let Some(double) = cluster.env.double() {
        eventually("two watches", async || double.open_watches("secrets") == 2).await;
    }
}

#[tokio::test]
async fn a_namespace_of_secrets_is_read_with_one_watch() {
    let cluster = Cluster::start().await;
    let namespace = cluster.env.namespace().to_owned();
    for name in ["a", "b", "c"] {
        put_secret(&cluster, name, name).await;
    }
    let only = Sources { secrets: Reading::Namespace(Arc::from(&*namespace)), ..sources() };
    let mut source = cluster.source(&only);
    let [a, b] = ["a", "b"].map(|name| secret(&namespace, name));

    source.want([&a]);
    until(&source, &a, &bytes("key", "a")).await;
    source.want([&a, &b]);
    until(&source, &b, &bytes("key", "b")).await;
    put_secret(&cluster, "b", "changed").await;
    until(&source, &b, &bytes("key", "changed")).await;

    if let Some(double) = cluster.env.double() {
        assert_eq!(double.open_watches("secrets"), 1);
    }
}

#[tokio::test]
async fn a_secret_that_may_not_be_read_costs_no_other() {
    let cluster = Cluster::with_tls().await;
    let namespace = cluster.env.namespace().to_owned();
    put_secret(&cluster, "mine", "value").await;
    put_secret(&cluster, "theirs", "value").await;
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"],
        "verbs": ["get", "list", "watch"]}]);
    let cluster_rules = json!([
        {"apiGroups": ["durward.dev"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]}]);
    let kubeconfig = cluster.env.service_account("durward").await;
    grant(&cluster, &namespace, &rules, &cluster_rules).await;
    let clients = cluster.clients_of(&kubeconfig).await;
    let mut source = Source::start(&clients, &sources());
    let (mine, theirs) = (secret(&namespace, "mine"), secret(&namespace, "theirs"));

    source.want([&mine, &theirs]);
    let seen = gather(&source, |seen| seen.facts.len() >= 2).await;

    assert_eq!(fact(&seen, &mine), Some(&bytes("key", "value")));
    let Some(Some(Fact::Unreadable(reason))) = fact(&seen, &theirs) else { panic!("{seen:?}") };
    assert!(reason.contains(&format!("Secret {namespace}/theirs")), "{reason}");
}

#[tokio::test]
async fn endpoints_of_a_service_are_followed_and_those_of_others_are_not_kept() {
    let cluster = Cluster::start().await;
    let namespace = cluster.env.namespace().to_owned();
    put_service(&cluster, "api").await;
    put_slice(&cluster, "api-1", "api", &["10.0.0.1"]).await;
    put_slice(&cluster, "other-1", "other", &["10.0.0.9"]).await;
    let mut source = cluster.source(&sources());
    let api = service(&namespace, "api", "80");
    let endpoints = |addresses: &[&str]| {
        Some(Fact::Endpoints(addresses.iter().map(|it| it.parse().unwrap()).collect()))
    };

    source.want([&api]);
    until(&source, &api, &endpoints(&["10.0.0.1:8080"])).await;
    put_slice(&cluster, "api-2", "api", &["10.0.0.2", "10.0.0.3"]).await;
    until(&source, &api, &endpoints(&["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"])).await;
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    cluster.delete(&format!("{slices}/api-1")).await;
    until(&source, &api, &endpoints(&["10.0.0.2:8080", "10.0.0.3:8080"])).await;
    cluster.delete(&format!("/api/v1/namespaces/{namespace}/services/api")).await;
    until(&source, &api, &Some(Fact::Missing)).await;

    assert_eq!(source.health().reports()["EndpointSlice"].objects, 1);
}

#[tokio::test]
async fn a_service_that_is_named_later_is_found_and_then_followed() {
    let cluster = Cluster::start().await;
    let namespace = cluster.env.namespace().to_owned();
    for name in ["api", "web"] {
        put_service(&cluster, name).await;
        put_slice(&cluster, &format!("{name}-1"), name, &["10.0.0.1"]).await;
    }
    let mut source = cluster.source(&sources());
    let [api, web] = ["api", "web"].map(|name| service(&namespace, name, "http"));
    let endpoints =
        |address: &str| Some(Fact::Endpoints([address.parse().unwrap()].into_iter().collect()));
    source.want([&api]);
    until(&source, &api, &endpoints("10.0.0.1:8080")).await;

    source.want([&api, &web]);
    until(&source, &web, &endpoints("10.0.0.1:8080")).await;
    put_slice(&cluster, "web-1", "web", &["10.0.0.2"]).await;
    until(&source, &web, &endpoints("10.0.0.2:8080")).await;
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    cluster.delete(&format!("{slices}/web-1")).await;

    until(&source, &web, &Some(Fact::Endpoints(Default::default()))).await;
}

#[tokio::test]
async fn labels_of_a_namespace_are_followed() {
    let cluster = Cluster::start().await;
    let namespace = cluster.env.new_namespace(&json!({"tenant": "acme"})).await;
    let mut source = cluster.source(&sources());
    let reference = Reference::Namespace(Arc::from(&*namespace));
    let tenant = |seen: &durward_kube::source::Observed| match fact(seen, &reference) {
        Some(Some(Fact::Labels(labels))) => labels.get("tenant").map(ToString::to_string),
        _ => None,
    };

    source.want([&reference]);
    gather(&source, |seen| tenant(seen).as_deref() == Some("acme")).await;
    let relabelled = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": namespace, "labels": {"tenant": "globex"}}});
    cluster.env.create(&relabelled).await;

    gather(&source, |seen| tenant(seen).as_deref() == Some("globex")).await;
}

#[tokio::test]
async fn a_server_without_http2_is_not_asked_for_more_watches_than_it_has_connections() {
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let cluster = Cluster::on(env).await;
    cluster.install().await;
    let namespace = cluster.env.namespace().to_owned();
    let names: Vec<String> = (0..80).map(|number| format!("s{number}")).collect();
    for name in &names {
        put_secret(&cluster, name, name).await;
    }
    let mut source = cluster.source(&sources());
    eventually("synced", async || source.health().is_synced()).await;
    let references: Vec<Reference> = names.iter().map(|name| secret(&namespace, name)).collect();

    source.want(&references);
    gather(&source, |seen| seen.facts.len() >= 80).await;
    cluster.env.double().unwrap().cut_watches();
    cluster.tenant("late", "203.0.113.1").await;
    gather(&source, |seen| seen.upserts.iter().any(|object| &*object.id.name == "late")).await;

    let report = source.named()[0].clone();
    assert_eq!(cluster.clients.traffic[0].capacity(), 64);
    assert_eq!((report.watches, report.polled), (21, 59));
}
