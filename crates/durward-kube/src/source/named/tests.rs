//! What becomes of objects that are named, without an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use durward_control::change::Fact;
use durward_control::reference::Reference;
use http::{Request, Response};
use http_body_util::Full;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::index::{Index, NamedSink};
use super::read_alone;
use crate::object::{Metadata, ObjectName};
use crate::pace::Gather;
use crate::request::ApiError;
use crate::resource_type::{CONFIG_MAPS, ResourceType, SECRETS};
use crate::watch::{Kept, Sink as _};

struct Bench {
    gather: Arc<Gather>,
    index: Index,
    sink: NamedSink,
}

impl Bench {
    fn new(kind: &'static ResourceType, namespace: Option<&str>) -> Self {
        let gather = Arc::new(Gather::default());
        let index = Index::new(kind, namespace.map(Arc::from), Arc::clone(&gather));
        Self { sink: NamedSink::of_all(index.clone()), gather, index }
    }

    fn want(&self, names: &[(&str, &str)]) -> Vec<ObjectName> {
        let names = names.iter().map(|(namespace, name)| ObjectName::new(namespace, name));
        self.index.want(&names.collect::<BTreeSet<_>>())
    }

    fn apply(&mut self, name: &str, version: u64, object: &Value) -> Result<bool, String> {
        let metadata: Metadata = serde_json::from_value(json!({
            "name": name, "namespace": "pay", "resourceVersion": version.to_string()}))
        .unwrap();
        self.sink.applied(&metadata, &object.to_string())
    }

    async fn facts(&self) -> Vec<(Reference, Option<Fact>)> {
        let observed = timeout(Duration::from_mins(5), self.gather.next()).await;
        observed.expect("a fact is said").facts
    }
}

fn secret(name: &str) -> Reference {
    Reference::Secret { namespace: Arc::from("pay"), name: Arc::from(name) }
}

fn bytes(entries: &[(&str, &[u8])]) -> Option<Fact> {
    let entries = entries.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value)));
    Some(Fact::Bytes(entries.collect::<BTreeMap<_, _>>().into()))
}

#[tokio::test(start_paused = true)]
async fn entries_of_a_secret_are_decoded_and_those_nobody_named_are_let_go() {
    let mut bench = Bench::new(&SECRETS, None);
    bench.want(&[("pay", "cert"), ("pay", "gone")]);

    let kept = bench.apply("cert", 1, &json!({"data": {"tls.crt": "YWJj", "empty": ""}}));
    let other = bench.apply("other", 2, &json!({"data": {"key": "not base64 at all"}}));
    bench.sink.listed();

    assert_eq!((kept, other), (Ok(true), Ok(false)));
    assert_eq!(
        bench.facts().await,
        [
            (secret("cert"), bytes(&[("empty", b""), ("tls.crt", b"abc")])),
            (secret("gone"), Some(Fact::Missing)),
        ]
    );
    assert_eq!(bench.index.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_cannot_be_decoded_keeps_what_it_was_and_shows_no_value() {
    let mut bench = Bench::new(&SECRETS, None);
    bench.want(&[("pay", "cert")]);
    bench.apply("cert", 1, &json!({"data": {"a": "YWJj"}})).unwrap();
    bench.facts().await;

    let fault = bench.apply("cert", 2, &json!({"data": {"a": "s3cret!"}})).unwrap_err();

    assert!(fault.contains("entry a") && !fault.contains("s3cret"), "{fault}");
    let soon = Duration::from_secs(1);
    assert!(timeout(soon, bench.gather.next()).await.is_err(), "nothing changed");
}

#[tokio::test(start_paused = true)]
async fn a_config_map_has_texts_and_bytes() {
    let mut bench = Bench::new(&CONFIG_MAPS, None);
    bench.want(&[("pay", "routes")]);

    let object = json!({"data": {"routing.json": "{}"}, "binaryData": {"x": "YWJj"}});
    bench.apply("routes", 1, &object).unwrap();

    let reference = Reference::ConfigMap { namespace: Arc::from("pay"), name: Arc::from("routes") };
    let all = bytes(&[("routing.json", b"{}"), ("x", b"abc")]);
    assert_eq!(bench.facts().await, [(reference, all)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_forbidden_is_said_unless_it_was_read_before() {
    let mut bench = Bench::new(&SECRETS, None);
    bench.want(&[("pay", "known"), ("pay", "new")]);
    bench.apply("known", 1, &json!({"data": {}})).unwrap();
    bench.facts().await;

    bench.sink.failed(&ApiError::Unreachable("away".to_owned()));
    bench.sink.failed(&ApiError::Forbidden("no".to_owned()));
    let facts = bench.facts().await;

    let [(reference, Some(Fact::Unreadable(reason)))] = &facts[..] else { panic!("{facts:?}") };
    assert_eq!(*reference, secret("new"));
    assert_eq!(reason, "may not be read: grant get, list and watch on Secret pay/new");
}

#[tokio::test(start_paused = true)]
async fn a_secret_outside_of_the_only_namespace_is_said_to_be_unreadable() {
    let bench = Bench::new(&SECRETS, Some("certificates"));

    let new = bench.want(&[("pay", "cert"), ("certificates", "cert")]);

    assert_eq!(new, [ObjectName::new("certificates", "cert")]);
    let facts = bench.facts().await;
    let [(reference, Some(Fact::Unreadable(reason)))] = &facts[..] else { panic!("{facts:?}") };
    assert_eq!(*reference, secret("cert"));
    assert_eq!(reason, "is in namespace pay, and Secrets are read from certificates alone");
}

#[tokio::test(start_paused = true)]
async fn an_older_state_does_not_replace_a_newer_one() {
    let mut bench = Bench::new(&SECRETS, None);
    bench.want(&[("pay", "cert")]);

    bench.apply("cert", 100, &json!({"data": {"a": "YWJj"}})).unwrap();
    bench.apply("cert", 99, &json!({"data": {}})).unwrap();

    assert_eq!(bench.facts().await, [(secret("cert"), bytes(&[("a", b"abc")]))]);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_may_not_be_read_is_tried_again_until_the_right_is_granted() {
    let granted = Arc::new(AtomicBool::new(false));
    let service = {
        let granted = Arc::clone(&granted);
        tower::service_fn(move |_: Request<Body>| {
            let status = if granted.load(Relaxed) { 200 } else { 403 };
            let object = json!({"metadata": {"name": "cert", "namespace": "pay",
                "resourceVersion": "1"}, "data": {"a": "YWJj"}});
            let body = Full::new(Bytes::from(object.to_string()));
            async move { Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap()) }
        })
    };
    let client = kube::Client::new(service, "default");
    let bench = Bench::new(&SECRETS, None);
    let name = ObjectName::new("pay", "cert");
    bench.want(&[("pay", "cert")]);
    let (index, at_once) = (bench.index.clone(), Arc::new(Semaphore::new(1)));
    let permits = Arc::clone(&at_once);
    let reading = tokio::spawn(async move {
        read_alone(&client, &index, &name, &Kept::default(), &permits).await;
    });

    let refused = bench.facts().await;
    let is_free = at_once.available_permits() == 1;
    granted.store(true, Relaxed);
    let read = bench.facts().await;
    reading.await.unwrap();

    assert!(matches!(refused[..], [(_, Some(Fact::Unreadable(_)))]) && is_free);
    assert_eq!(read, [(secret("cert"), bytes(&[("a", b"abc")]))]);
}

#[tokio::test(start_paused = true)]
async fn what_a_list_shows_counts_also_if_the_versions_of_the_server_began_anew() {
    let mut bench = Bench::new(&SECRETS, None);
    bench.want(&[("pay", "cert")]);
    bench.apply("cert", 100, &json!({"data": {}})).unwrap();
    bench.facts().await;

    bench.sink.listing();
    bench.apply("cert", 7, &json!({"data": {"a": "YWJj"}})).unwrap();

    assert_eq!(bench.facts().await, [(secret("cert"), bytes(&[("a", b"abc")]))]);
}
