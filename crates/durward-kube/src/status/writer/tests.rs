//! The queue, without an API server.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use durward_model::{DocumentKey, Kind, Origin};
use http::{Request, Response};
use http_body_util::Full;
use kube::client::Body;
use serde_json::json;
use tower::service_fn;

use super::*;

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
