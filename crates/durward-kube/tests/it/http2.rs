//! The connections to an API server: how many there are, and what becomes of them.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use durward_kube::{Clients, Limits, Location};
use durward_testkit::certificates::{Authority, CertSpec, Identity, server_config};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use kube::client::Body;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Longer than anything here takes, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server has seen.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: AtomicUsize,
    authorizations: Mutex<Vec<String>>,
    /// Released: requests for `/held` are answered to their end.
    release: Notify,
}

struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    async fn start(identity: &Identity, protocols: &[&str]) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), identity, protocols)
    }

    fn at(listener: TcpListener, identity: &Identity, protocols: &[&str]) -> Self {
        let mut tls = server_config(identity, None);
        tls.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let (address, seen) = (listener.local_addr().unwrap(), Arc::<Seen>::default());
        let counted = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&counted));
                connections.spawn(async move {
                    let Ok(tls) = acceptor.accept(socket).await else { return };
                    seen.connections.fetch_add(1, SeqCst);
                    let answer = service_fn(move |request| {
                        std::future::ready(Ok::<_, Infallible>(answer(&seen, &request)))
                    });
                    let mut server = auto::Builder::new(TokioExecutor::new());
                    server.http2().max_concurrent_streams(250);
                    let _ = server.serve_connection(TokioIo::new(tls), answer).await;
                });
            }
        });
        Self { address, seen, accepting }
    }

    fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }

    /// Ends the server; its port is free afterwards.
    async fn stop(mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

fn answer(
    seen: &Arc<Seen>,
    request: &Request<Incoming>,
) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    seen.requests.fetch_add(1, SeqCst);
    let shown = request.headers().get("authorization").map(|it| it.to_str().unwrap().to_owned());
    let shown = shown.unwrap_or_default();
    seen.authorizations.lock().unwrap().push(shown.clone());
    if shown == "Bearer expired" {
        let body = Full::new(Bytes::from("{}")).boxed_unsync();
        return Response::builder().status(401).body(body).unwrap();
    }
    let body = if request.uri().path().ends_with("/held") {
        // Like a watch: a first line, and then nothing until the end.
        let (lines, body) = tokio::sync::mpsc::channel::<Bytes>(1);
        let seen = Arc::clone(seen);
        tokio::spawn(async move {
            let _ = lines.send(Bytes::from("begun\n")).await;
            seen.release.notified().await;
        });
        Streamed(body).boxed_unsync()
    } else {
        Full::new(Bytes::from(request.uri().path().to_owned())).boxed_unsync()
    };
    Response::new(body)
}

struct Streamed(tokio::sync::mpsc::Receiver<Bytes>);

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

struct Setup {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Setup {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new("cluster");
        std::fs::write(directory.path().join("ca.crt"), authority.pem()).unwrap();
        Self { directory, authority }
    }

    fn identity(&self) -> Identity {
        self.authority.issue(&CertSpec::new().ip([127, 0, 0, 1]))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn kubeconfig(&self, server: SocketAddr, user: &str) -> Location {
        let path = self.path("config");
        kubeconfig(&path, &format!("https://{server}"), user);
        Location::Kubeconfig { file: Some(path), context: None }
    }
}

fn kubeconfig(path: &Path, server: &str, user: &str) {
    let mut file = std::fs::File::create(path).unwrap();
    write!(
        file,
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         contexts: [{{name: c, context: {{cluster: k, user: u, namespace: here}}}}]\n\
         clusters: [{{name: k, cluster: {{server: \"{server}\", certificate-authority: ca.crt}}}}]\n\
         users: [{{name: u, user: {{{user}}}}}]\n"
    )
    .unwrap();
}

fn request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

async fn get(client: &kube::Client, path: &str) -> Result<String, kube::Error> {
    let response = timeout(PATIENCE, client.send(request(path))).await.expect("an answer")?;
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// Opens a response that goes on, and reads its beginning.
async fn hold(client: &kube::Client) -> Body {
    let response = timeout(PATIENCE, client.send(request("/held"))).await.expect("a head").unwrap();
    let mut body = response.into_body();
    let first = timeout(PATIENCE, body.frame()).await.expect("a line").unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "begun\n");
    body
}

#[tokio::test]
async fn a_hundred_watches_share_one_connection_and_writes_have_their_own() {
    let setup = Setup::new();
    let server = Server::start(&setup.identity(), &["h2", "http/1.1"]).await;
    let location = setup.kubeconfig(server.address, "");
    let clients = Clients::new(location, Limits::default()).await.unwrap();

    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(hold(&clients.watch).await);
    }
    let with_watches = server.connections();
    get(&clients.write, "/write").await.unwrap();
    let with_write = server.connections();
    held.push(hold(&clients.watch).await);

    assert_eq!((with_watches, with_write, server.connections()), (1, 2, 3));
    assert_eq!(clients.traffic[0].streams(), 101);
    drop(held);
    assert_eq!(clients.traffic[0].streams(), 0);
}

#[tokio::test]
async fn a_request_beyond_the_bound_waits_until_another_ends() {
    let setup = Setup::new();
    let server = Server::start(&setup.identity(), &["h2"]).await;
    let location = setup.kubeconfig(server.address, "");
    let limits = Limits { connections: 2, streams: 2, ..Limits::default() };
    let clients = Clients::new(location, limits).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(hold(&clients.watch).await);
    }

    let client = clients.watch.clone();
    let mut waiting = tokio::spawn(async move { get(&client, "/late").await.unwrap() });
    let early = timeout(Duration::from_millis(200), &mut waiting).await;
    held.pop();
    let late = timeout(PATIENCE, waiting).await.expect("a place").unwrap();

    assert!(early.is_err());
    assert_eq!((late.as_str(), server.connections()), ("/late", 2));
}

#[tokio::test]
async fn many_requests_at_once_open_no_more_connections_than_allowed() {
    let setup = Setup::new();
    let server = Server::start(&setup.identity(), &["h2"]).await;
    let location = setup.kubeconfig(server.address, "");
    let limits = Limits { connections: 2, streams: 3, ..Limits::default() };
    let clients = Clients::new(location, limits).await.unwrap();

    let asked: Vec<_> = (0..60)
        .map(|_| {
            let client = clients.watch.clone();
            tokio::spawn(async move { get(&client, "/x").await.unwrap() })
        })
        .collect();
    for one in asked {
        assert_eq!(timeout(PATIENCE, one).await.expect("an answer").unwrap(), "/x");
    }

    assert!(server.connections() <= 2, "{}", server.connections());
}

#[tokio::test]
async fn a_server_without_http2_is_spoken_to_with_connections_that_are_used_again() {
    let setup = Setup::new();
    let server = Server::start(&setup.identity(), &["http/1.1"]).await;
    let location = setup.kubeconfig(server.address, "");
    let clients = Clients::new(location, Limits::default()).await.unwrap();

    for _ in 0..5 {
        assert_eq!(get(&clients.watch, "/one").await.unwrap(), "/one");
    }
    let one_after_the_other = server.connections();
    let held = hold(&clients.watch).await;
    let held_too = hold(&clients.watch).await;
    let beside = server.connections();
    drop((held, held_too));
    get(&clients.watch, "/after").await.unwrap();

    assert_eq!((one_after_the_other, beside), (1, 2));
    assert_eq!(server.seen.requests.load(SeqCst), 8);
    assert_eq!(clients.traffic[0].open_connections(), 1, "those that were cut are not counted");
}

#[tokio::test]
async fn a_token_that_the_server_refuses_is_read_again() {
    let setup = Setup::new();
    let server = Server::start(&setup.identity(), &["h2"]).await;
    let token = setup.path("token");
    std::fs::write(&token, "expired\n").unwrap();
    let location = setup.kubeconfig(server.address, &format!("tokenFile: \"{}\"", token.display()));
    let clients = Clients::new(location, Limits::default()).await.unwrap();

    get(&clients.watch, "/a").await.unwrap();
    std::fs::write(&token, "fresh\n").unwrap();
    get(&clients.watch, "/b").await.unwrap();

    let shown = server.seen.authorizations.lock().unwrap().clone();
    assert_eq!(shown, ["Bearer expired", "Bearer fresh"]);
}

#[tokio::test]
async fn a_server_that_comes_back_with_another_authority_is_reached_once_the_file_says_so() {
    let setup = Setup::new();
    let server = Server::start(&setup.identity(), &["h2"]).await;
    let address = server.address;
    let location = setup.kubeconfig(address, "");
    let clients = Clients::new(location, Limits::default()).await.unwrap();
    get(&clients.watch, "/before").await.unwrap();

    server.stop().await;
    let other = Authority::new("renewed");
    let identity = other.issue(&CertSpec::new().ip([127, 0, 0, 1]));
    let listener = bound(address);
    let renewed = Server::at(listener, &identity, &["h2"]);
    let refused = eventually_refused(&clients.watch).await;
    std::fs::write(setup.path("ca.crt"), other.pem()).unwrap();
    let after = get(&clients.watch, "/after").await.unwrap();

    assert!(refused.contains("UnknownIssuer"), "{refused}");
    assert_eq!((after.as_str(), renewed.connections()), ("/after", 1));
}

/// Returns the first error that is about TLS; the end of the old connection may come before it.
async fn eventually_refused(client: &kube::Client) -> String {
    for _ in 0..200 {
        if let Err(error) = get(client, "/refused").await {
            let text = format!("{error:?}");
            if text.contains("UnknownIssuer") {
                return text;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the server with the unknown certificate was never refused");
}

fn bound(address: SocketAddr) -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(64).unwrap()
}

#[tokio::test]
async fn a_connection_that_is_too_old_gets_no_new_requests() {
    let setup = Setup::new();
    let server = Server::start(&setup.identity(), &["h2"]).await;
    let location = setup.kubeconfig(server.address, "");
    let limits = Limits { max_age: Duration::ZERO, ..Limits::default() };
    let clients = Clients::new(location, limits).await.unwrap();

    let mut held = hold(&clients.watch).await;
    get(&clients.watch, "/next").await.unwrap();
    let still = timeout(Duration::from_millis(100), held.frame()).await;
    server.seen.release.notify_waiters();
    let rest = timeout(PATIENCE, held.collect()).await.expect("an end").unwrap().to_bytes();

    assert_eq!(server.connections(), 2);
    assert!(still.is_err(), "the watch on the old one goes on: {still:?}");
    assert_eq!(rest, "", "and comes to its end");
}

#[tokio::test]
async fn a_thousand_requests_to_a_server_that_is_away_do_not_wait_for_each_other() {
    let setup = Setup::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let location = setup.kubeconfig(address, "");
    let clients = Clients::new(location, Limits::default()).await.unwrap();

    let asked: Vec<_> = (0..1_000)
        .map(|_| {
            let client = clients.watch.clone();
            tokio::spawn(async move { get(&client, "/away").await.is_err() })
        })
        .collect();
    let mut failed = 0;
    for one in asked {
        failed += usize::from(timeout(PATIENCE, one).await.expect("an end").unwrap());
    }

    assert_eq!(failed, 1_000);
    assert_eq!(clients.traffic[0].failures(), 1_000);
}

#[tokio::test]
async fn a_kubeconfig_that_turns_verification_off_is_refused() {
    let setup = Setup::new();
    let path = setup.path("config");
    std::fs::write(
        &path,
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         contexts: [{name: c, context: {cluster: k, user: u}}]\n\
         clusters: [{name: k, cluster: {server: \"https://127.0.0.1:1\", insecure-skip-tls-verify: true}}]\n\
         users: [{name: u, user: {}}]\n",
    )
    .unwrap();

    let location = Location::Kubeconfig { file: Some(path), context: None };
    let Err(error) = Clients::new(location, Limits::default()).await else { panic!("accepted") };

    assert!(error.to_string().contains("insecure-skip-tls-verify"), "{error}");
}

#[tokio::test]
async fn a_path_before_the_api_is_kept() {
    let setup = Setup::new();
    let server = Server::start(&setup.identity(), &["h2"]).await;
    let path = setup.path("config");
    kubeconfig(&path, &format!("https://{}/k8s/clusters/c-1", server.address), "");
    let location = Location::Kubeconfig { file: Some(path), context: None };
    let clients = Clients::new(location, Limits::default()).await.unwrap();

    let asked = get(&clients.watch, "/api/v1/namespaces").await.unwrap();

    assert_eq!(asked, "/k8s/clusters/c-1/api/v1/namespaces");
    assert_eq!(clients.watch.default_namespace(), "here");
}
