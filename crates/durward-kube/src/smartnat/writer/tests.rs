//! The queue of steps, without an API server.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use durward_model::{Kind, Revision};
use http::{Request, Response};
use http_body_util::Full;
use kube::client::Body;
use serde_json::json;
use tokio::time::timeout;
use tower::service_fn;

use super::*;
use crate::status::{ACCEPTED, Judgement, Truth};

/// The Mappings. The last one has the newest change, so it is the first to be written.
const NAMES: [&str; 3] = ["one", "two", "bad"];

/// A server that gives requests about `bad` a status while it is faulty, and answers all others well.
#[derive(Default)]
struct Server {
    status: u16,
    is_faulty: AtomicBool,
    failed: AtomicUsize,
    /// Names of the Mappings that were written.
    written: Mutex<BTreeSet<String>>,
}

impl Server {
    fn faulty(status: u16) -> Arc<Self> {
        Arc::new(Self { status, is_faulty: AtomicBool::new(true), ..Self::default() })
    }

    fn client(self: &Arc<Self>) -> kube::Client {
        let server = Arc::clone(self);
        let service = service_fn(move |request: Request<Body>| {
            let response = Response::builder().status(server.status_of(request.uri().path()));
            let metadata = json!({"uid": "u", "resourceVersion": "9", "generation": 1});
            let body = Full::new(Bytes::from(json!({"metadata": metadata}).to_string()));
            std::future::ready(Ok::<_, Infallible>(response.body(body).unwrap()))
        });
        kube::Client::new(service, "default")
    }

    fn status_of(&self, path: &str) -> u16 {
        let is_of = |name: &&str| path.contains(&format!("/mappings/{name}"));
        let Some(name) = NAMES.into_iter().find(is_of) else { return 200 };
        if name == "bad" && self.is_faulty.load(Relaxed) {
            self.failed.fetch_add(1, Relaxed);
            return self.status;
        }
        self.written.lock().unwrap().insert(name.to_owned());
        200
    }

    async fn until_written(&self, names: &[&str]) {
        let waited = async {
            while !names.iter().all(|name| self.written.lock().unwrap().contains(*name)) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_mins(60), waited).await.expect("all are written in the end");
    }
}

fn wish() -> Wish {
    Wish::Say(Box::new(Said {
        revision: Revision { uid: Some(Arc::from("u")), generation: 1 },
        carried: false,
        invalid: Arc::from("it is"),
        accepted: Judgement::new(ACCEPTED, Truth::False, "Invalid", "it is"),
        service_vip: None,
        configured: BTreeMap::new(),
    }))
}

fn writer(client: kube::Client) -> MappingWriter {
    let writer = MappingWriter::start(client, &WriterOptions::default(), &Options::new("here"));
    for name in NAMES {
        let id = ResourceId::namespaced(Kind::Mapping, "acme", name);
        let (uid, version) = (Arc::from("u"), Arc::from("1"));
        let seen = Seen { uid, version, generation: 1, ..Seen::default() };
        writer.shared.observe(&id, seen);
        writer.want(&id, wish());
    }
    writer
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_the_server_cannot_write_keeps_no_other_from_its_status() {
    for status in [403, 422, 500, 503] {
        let server = Server::faulty(status);
        let _writer = writer(server.client());

        server.until_written(&["one", "two"]).await;

        assert!(server.failed.load(Relaxed) > 0, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_was_refused_is_written_once_the_right_is_granted() {
    for status in [403, 422, 503] {
        let server = Server::faulty(status);
        let _writer = writer(server.client());
        server.until_written(&["one", "two"]).await;
        sleep(Duration::from_mins(10)).await;
        let failed = server.failed.load(Relaxed);

        server.is_faulty.store(false, Relaxed);
        server.until_written(&["bad"]).await;

        assert!((2..60).contains(&failed), "{status}: asked {failed} times in ten minutes");
    }
}
