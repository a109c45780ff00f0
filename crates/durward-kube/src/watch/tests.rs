//! What does not need a server.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::Full;
use kube::client::Body;
use tower::service_fn;

use super::*;
use crate::health::Phase;
use crate::resource_type::TENANTS;

/// Keeps all objects, and writes down which are gone.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Sink for Recorder {
    fn applied(&mut self, _: &Metadata, _: &str) -> Result<bool, String> {
        Ok(true)
    }

    fn deleted(&mut self, name: &ObjectName, _: Option<&str>) {
        self.0.lock().unwrap().push(name.to_string());
    }
}

fn reflector(sink: Recorder) -> Reflector<Recorder> {
    answered(sink, |_| Bytes::new())
}

/// A reflector of a server that answers each path so.
fn answered(
    sink: Recorder,
    answer: impl Fn(&str) -> Bytes + Clone + Send + 'static,
) -> Reflector<Recorder> {
    let service = service_fn(move |request: Request<Body>| {
        let bytes = answer(&request.uri().to_string());
        async move { Ok::<_, Infallible>(Response::new(Full::new(bytes))) }
    });
    let client = kube::Client::new(service, "default");
    Reflector::new(client, Scope::all(&TENANTS), sink, Arc::default(), Duration::from_secs(1))
}

fn event(json: &str) -> Bytes {
    Bytes::from(json.to_owned())
}

const ADDED: &str =
    r#"{"type": "ADDED", "object": {"metadata": {"name": "acme", "resourceVersion": "7"}}}"#;

#[test]
fn resource_versions_are_compared_as_numbers_of_any_length() {
    assert!(is_later("10", "9") && is_later("2", "1") && !is_later("9", "10"));
    assert!(!is_later("7", "7") && !is_later("", "1") && is_later("1", ""));
    assert!(is_later(
        "100000000000000000000000000000000001",
        "100000000000000000000000000000000000"
    ));
}

#[tokio::test]
async fn a_bookmark_within_a_list_shows_a_server_that_does_not_stream_lists() {
    let mut reflector = reflector(Recorder::default());
    let mut seen = Seen::default();
    assert!(matches!(reflector.event(&event(ADDED), Some(&mut seen)), Ok(After::GoOn)));

    let plain = r#"{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}"#;
    let after = reflector.event(&event(plain), Some(&mut seen));

    assert!(matches!(after, Err(ApiError::Unreadable(_))));
    assert_eq!((reflector.streams, reflector.version), (false, None), "read in pages from now on");
}

#[tokio::test]
async fn objects_of_a_list_do_not_say_where_to_go_on_and_its_bookmark_does() {
    let mut reflector = reflector(Recorder::default());
    let mut seen = Seen::default();
    reflector.event(&event(ADDED), Some(&mut seen)).unwrap();
    let before = reflector.version.clone();

    let end = r#"{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9",
        "annotations": {"k8s.io/initial-events-end": "true"}}}}"#;
    let after = reflector.event(&event(end), Some(&mut seen));

    assert!(matches!(after, Ok(After::Listed)));
    assert_eq!((before, reflector.version.as_deref()), (None, Some("9")));
}

#[tokio::test]
async fn a_kind_is_gone_with_its_objects_when_two_looks_do_not_find_it() {
    let recorder = Recorder::default();
    let mut reflector = reflector(recorder.clone());
    reflector.event(&event(ADDED), None).unwrap();

    reflector.note_absence();
    let once = (recorder.0.lock().unwrap().clone(), reflector.health.report().phase);
    reflector.note_absence();
    let twice = (recorder.0.lock().unwrap().clone(), reflector.health.report().phase);

    assert_eq!(once, (Vec::new(), Phase::Starting));
    assert_eq!(twice, (vec!["acme".to_owned()], Phase::Absent));
}

#[tokio::test]
async fn a_list_with_a_nameless_object_lets_nothing_go() {
    let recorder = Recorder::default();
    let mut reflector = reflector(recorder.clone());
    reflector.event(&event(ADDED), None).unwrap();
    let mut seen = Seen::default();

    let nameless = r#"{"type": "ADDED", "object": {"metadata": {"name": 7}}}"#;
    reflector.event(&event(nameless), Some(&mut seen)).unwrap();
    reflector.finish(&seen);
    let with_nameless = recorder.0.lock().unwrap().clone();
    reflector.finish(&Seen::default());

    assert_eq!(with_nameless, Vec::<String>::new());
    assert_eq!(*recorder.0.lock().unwrap(), ["acme"]);
}

/// Returns a number of the query of a path.
fn number(path: &str, name: &str) -> Option<usize> {
    let (_, query) = path.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

#[tokio::test]
async fn objects_that_are_too_large_for_one_page_are_read_in_smaller_ones() {
    let asked = Arc::<Mutex<Vec<(usize, usize)>>>::default();
    let server = {
        let asked = Arc::clone(&asked);
        // Objects 40 to 59 are so large that no more than three fit into an answer.
        move |path: &str| {
            let from = number(path, "continue").unwrap_or(0);
            let limit = number(path, "limit").unwrap();
            asked.lock().unwrap().push((from, limit));
            let to = (from + limit).min(100);
            let large = (from..to).filter(|number| (40..60).contains(number)).count();
            if large > 3 {
                return Bytes::from(vec![b' '; request::LONGEST + 1]);
            }
            let object = |number| {
                format!(r#"{{"metadata": {{"name": "t{number}", "resourceVersion": "1"}}}}"#)
            };
            let items: Vec<String> = (from..to).map(object).collect();
            let next = if to < 100 { to.to_string() } else { String::new() };
            Bytes::from(format!(
                r#"{{"metadata": {{"resourceVersion": "9", "continue": "{next}"}}, "items": [{}]}}"#,
                items.join(", ")
            ))
        }
    };
    let mut reflector = answered(Recorder::default(), server);

    reflector.list("v1alpha1").await.unwrap();

    assert_eq!(reflector.kept().lock().len(), 100);
    assert_eq!(reflector.version.as_deref(), Some("9"));
    let asked = asked.lock().unwrap().clone();
    assert_eq!(
        asked[..3],
        [(0, 500), (0, 250), (0, 125)],
        "halved until an answer is short enough"
    );
    assert!(asked.last().unwrap().1 > 3, "and more again where they fit: {asked:?}");
}

#[tokio::test]
async fn a_server_that_refuses_to_go_on_is_asked_for_everything_anew() {
    let mut reflector = reflector(Recorder::default());
    reflector.version = Some(Arc::from("900"));
    let refused = ApiError::Refused { status: 504, message: "Too large resource version".into() };

    for _ in 1..REFUSALS {
        reflector.note_answer(Some(&refused));
    }
    let before = reflector.version.clone();
    reflector.note_answer(Some(&ApiError::Unreachable("away".to_owned())));
    for _ in 0..REFUSALS {
        reflector.note_answer(Some(&refused));
    }

    assert_eq!((before.as_deref(), reflector.version), (Some("900"), None));
}
