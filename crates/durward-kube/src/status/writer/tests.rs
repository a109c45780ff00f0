//! The queue, without an API server.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use durward_model::{DocumentKey, Kind, Origin};
use http::{Method, Request, Response};
use http_body_util::Full;
use kube::client::Body;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tower::service_fn;

use super::*;
use crate::status::with_times;

/// A client that counts the requests and answers none well.
fn counting(requests: &Arc<AtomicUsize>) -> kube::Client {
    let requests = Arc::clone(requests);
    let service = service_fn(move |_: Request<Body>| {
        requests.fetch_add(1, Relaxed);
        async {
            Ok::<_, Infallible>(
                Response::builder().status(500).body(Full::new(Bytes::new())).unwrap(),
            )
        }
    });
    kube::Client::new(service, "default")
}

fn object(name: &str, conditions: &[Condition]) -> Object {
    let json = json!({
        "metadata": {"name": name, "uid": name, "generation": 1, "resourceVersion": "1"},
        "spec": {}, "status": {"conditions": conditions},
    });
    Object::decode(Kind::Tenant, "durward.dev/v1alpha1", &json.to_string()).unwrap()
}

fn desired(object: &Object) -> Desired {
    let verdict = Verdict {
        document: DocumentKey::Object(object.id.clone()),
        resource: object.id.clone(),
        observed: object.revision.clone(),
        outcome: Outcome::Accepted,
        findings: Vec::new(),
        origin: Origin::default(),
    };
    let confirmed = Some(object.revision.clone());
    let plane = PlaneReport { plane: Arc::from("proxy"), confirmed, problem: None };
    Desired::new(object, &verdict, &[plane])
}

#[tokio::test]
async fn a_start_over_a_hundred_thousand_objects_whose_status_is_right_asks_the_server_nothing() {
    let requests = Arc::default();
    let writer = Writer::start(counting(&requests), WriterOptions::default());
    let first = object("first", &[]);
    let now = Arc::from("2026-11-01T00:00:00Z");
    let right = with_times(&desired(&first).judgements, 1, &[], &now);
    let template = object("template", &right);

    for number in 0..100_000 {
        let mut object = template.clone();
        object.id.name = Arc::from(format!("t{number}"));
        writer.observe(&object);
        writer.want(&object.id, desired(&object));
    }
    sleep(Duration::from_millis(100)).await;

    let report = writer.report();
    assert_eq!((report.pending, report.unchanged, requests.load(Relaxed)), (0, 100_000, 0));
}

#[tokio::test]
async fn a_verdict_on_an_earlier_revision_says_which_and_keeps_no_text_of_the_present_one() {
    let mut object = object("acme", &[]);
    let earlier = desired(&object);
    object.revision.generation = 2;
    object.text = Arc::from("newer");

    let verdict = Verdict {
        document: DocumentKey::Object(object.id.clone()),
        resource: object.id.clone(),
        observed: earlier.revision.clone(),
        outcome: Outcome::Accepted,
        findings: Vec::new(),
        origin: Origin::default(),
    };
    let desired = Desired::new(&object, &verdict, &[]);

    assert_eq!((desired.revision.generation, desired.accepted), (1, None));
    assert!(earlier.accepted.is_some());
}

/// A client of a server that answers all well but what `fault` gives a status of HTTP for, by the path.
fn faulty(fault: impl Fn(&str) -> Option<u16> + Clone + Send + 'static) -> kube::Client {
    let service = service_fn(move |request: Request<Body>| {
        let path = request.uri().path().to_owned();
        let is_new = request.method() == Method::GET;
        let status = fault(&path).unwrap_or(if is_new { 404 } else { 200 });
        let body = json!({"metadata": {"name": "x", "resourceVersion": "9"}}).to_string();
        async move {
            let response = Response::builder().status(status);
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from(body))).unwrap())
        }
    });
    kube::Client::new(service, "default")
}

async fn written(writer: &Writer, wanted: u64) {
    let waited = async {
        while writer.report().written < wanted {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_mins(60), waited).await.expect("it is written in the end");
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_status_the_server_cannot_write_keeps_no_other_from_its_own() {
    for status in [500, 503, 403, 422] {
        let client = faulty(move |path| path.ends_with("/bad/status").then_some(status));
        let writer = Writer::start(client, WriterOptions::default());
        let objects = ["one", "two", "three", "bad"].map(|name| object(name, &[]));

        objects.iter().for_each(|object| {
            writer.observe(object);
            writer.want(&object.id, desired(object));
        });
        written(&writer, 3).await;

        let report = writer.report();
        assert_eq!((report.written, report.pending), (3, 1), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_was_refused_is_counted_and_written_once_the_right_is_granted() {
    let granted = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let client = {
        let granted = Arc::clone(&granted);
        faulty(move |path| {
            let is_refused = path.ends_with("/acme/status") && !granted.load(Relaxed);
            is_refused.then_some(403)
        })
    };
    let writer = Writer::start(client, WriterOptions::default());
    for object in ["acme", "other"].map(|name| object(name, &[])) {
        writer.observe(&object);
        writer.want(&object.id, desired(&object));
    }
    written(&writer, 1).await;
    let refused = async {
        while writer.report().refused == 0 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_mins(60), refused).await.expect("it is refused");
    let before = writer.report();

    granted.store(true, Relaxed);
    written(&writer, 2).await;

    assert_eq!((before.refused, before.pending), (1, 1));
    assert!(before.last_error.is_some_and(|error| error.contains("forbidden")));
    let after = writer.report();
    assert_eq!((after.refused, after.pending, after.last_error), (0, 0, None));
}

/// Requests for statuses, none of which is ever answered.
#[derive(Default)]
struct Hanging {
    begun: AtomicUsize,
    withdrawn: AtomicUsize,
    is_lease_lost: std::sync::atomic::AtomicBool,
}

/// A request under way.
struct Guard(Arc<Hanging>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.withdrawn.fetch_add(1, Relaxed);
    }
}

impl Hanging {
    /// A client of a server that grants a Lease until it is lost, and answers neither statuses nor then a word about the Lease.
    fn client(self: &Arc<Self>) -> kube::Client {
        let shared = Arc::clone(self);
        let service = service_fn(move |request: Request<Body>| {
            let shared = Arc::clone(&shared);
            async move {
                if request.uri().path().ends_with("/status") {
                    shared.begun.fetch_add(1, Relaxed);
                    let _guard = Guard(shared);
                    return std::future::pending().await;
                }
                let is_lease = request.uri().path().contains("/leases");
                if is_lease && shared.is_lease_lost.load(Relaxed) {
                    std::future::pending::<()>().await;
                }
                let status = if request.method() == Method::GET { 404 } else { 201 };
                let body = json!({"metadata": {"resourceVersion": "9"}}).to_string();
                let body = Full::new(Bytes::from(body));
                Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
            }
        });
        kube::Client::new(service, "default")
    }

    fn counts(&self) -> (usize, usize) {
        (self.begun.load(Relaxed), self.withdrawn.load(Relaxed))
    }
}

#[tokio::test(start_paused = true)]
async fn once_the_lease_is_over_statuses_under_way_are_withdrawn_and_none_is_sent() {
    let server = Arc::new(Hanging::default());
    let duration = Duration::from_secs(3);
    let lease =
        LeaseOptions { name: "l".into(), namespace: "n".into(), identity: "me".into(), duration };
    let options = WriterOptions { lease: Some(lease), ..WriterOptions::default() };
    let writer = Writer::start(server.client(), options);
    for number in 0..20 {
        let object = object(&format!("t{number}"), &[]);
        writer.observe(&object);
        writer.want(&object.id, desired(&object));
    }
    sleep(duration * 5).await;
    let held = server.counts();

    server.is_lease_lost.store(true, Relaxed);
    sleep(duration * 5).await;
    let lost = server.counts();

    assert!(held.0 > 0 && held.1 == 0, "while it is held they are sent: {held:?}");
    assert_eq!(lost, (held.0, held.0));
    assert_eq!(writer.report().pending, 20, "they wait until the Lease is held again");
}
