//! The double as a server: starting it, its faults, and what it has seen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use jiff::SignedDuration;
use rustls::ServerConfig;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::faults::{Fault, Requests, Seen};
use super::kind::GroupResource;
use super::request::User;
use super::state::typed;
use super::store::Key;
use super::{Presence, Shared, auth, rbac, serve};
use crate::certificates::{Authority, CertSpec, Identity, server_config_optional_client};
use crate::origin::Server;

/// Streams that one HTTP/2 connection may have open, as at a real server.
const STREAMS: u32 = 250;

/// Settings of a double before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    minor: u32,
    tls: bool,
    history: usize,
    controllers: bool,
}

impl Settings {
    /// Sets the minor version of Kubernetes that the double is: 25 to 37.
    #[must_use]
    pub fn version(mut self, minor: u32) -> Self {
        self.minor = minor;
        self
    }

    /// Serves TLS, with tokens and client certificates; without it every request is the administrator's.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Sets the changes that are kept for each resource type; watches that fall behind get 410.
    #[must_use]
    pub fn history(mut self, changes: usize) -> Self {
        self.history = changes;
        self
    }

    /// Leaves out garbage collection and the end of namespaces, as a server without a controller manager does.
    #[must_use]
    pub fn without_controllers(mut self) -> Self {
        self.controllers = false;
        self
    }

    /// Returns whether garbage collection and the end of namespaces are there.
    pub(crate) fn has_controllers(&self) -> bool {
        self.controllers
    }

    /// Starts the double on a free port of the loopback address.
    #[must_use]
    pub fn start(self) -> ApiServer {
        ApiServer::with(&self)
    }
}

/// An API server of Kubernetes in this process, without etcd: real HTTP/1.1 and HTTP/2 on a loopback port.
///
/// Dropping it closes its port and ends its connections.
pub struct ApiServer {
    shared: Arc<Shared>,
    server: Server,
    authority: Authority,
    tls: bool,
}

impl ApiServer {
    /// Returns the settings of a double: version 1.36, without TLS.
    #[must_use]
    pub fn settings() -> Settings {
        Settings { minor: 36, tls: false, history: 10_000, controllers: true }
    }

    /// Starts a double with these settings.
    #[must_use]
    pub fn start() -> Self {
        Self::settings().start()
    }

    fn with(settings: &Settings) -> Self {
        let authority = Authority::new("kubernetes");
        let shared = Arc::new(Shared::new(settings.minor, settings.history));
        shared.state().controllers = settings.controllers;
        let config = settings.tls.then(|| Arc::new(tls_config(&authority)));
        let served = Arc::clone(&shared);
        let server = Server::start("127.0.0.1:0", move |accepted| {
            connection(Arc::clone(&served), config.clone(), accepted.stream)
        });
        let started = Self { shared, server, authority, tls: settings.tls };
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            started.put(&json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            }));
        }
        rbac::default_roles().iter().for_each(|role| started.put(role));
        started
    }

    /// URL of the server.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// Address that the server listens at.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Authority of the server's certificate and of client certificates, PEM.
    #[must_use]
    pub fn authority(&self) -> String {
        self.authority.pem()
    }

    /// Issues a client certificate for a user of a group; `system:masters` may do everything.
    #[must_use]
    pub fn certificate(&self, user: &str, group: &str) -> Identity {
        self.authority.issue(&CertSpec::new().common_name(user).organization(group).client())
    }

    /// Makes a bearer token for a user.
    #[must_use]
    pub fn token(&self, user: &str, groups: &[&str]) -> String {
        let mut groups: Vec<String> = groups.iter().map(|&group| group.to_owned()).collect();
        groups.push("system:authenticated".to_owned());
        self.shared.auth().token(User { name: user.to_owned(), uid: String::new(), groups })
    }

    /// Makes the tokens of a user worthless.
    pub fn revoke_tokens(&self, user: &str) {
        self.shared.auth().revoke(user);
    }

    /// Refuses connections and ends those that are open, until `come_back`.
    pub fn go_away(&self) {
        self.server.stop();
    }

    /// Resets connections, open and new ones, until `come_back`.
    pub fn reset_connections(&self) {
        self.shared.presence.send_replace(Presence::Resetting);
    }

    /// Accepts connections and requests and answers none, until `come_back`.
    pub fn hang(&self) {
        self.shared.presence.send_replace(Presence::Hanging);
    }

    /// Ends `go_away`, `reset_connections` and `hang`.
    pub fn come_back(&self) {
        self.shared.presence.send_replace(Presence::Serving);
        self.server.restart();
    }

    /// Meets the next `times` of these requests with a fault.
    pub fn inject(&self, requests: Requests, fault: Fault, times: u64) {
        self.shared.faults().add(requests, fault, times);
    }

    /// Forgets the faults that were injected.
    pub fn clear_faults(&self) {
        self.shared.faults().clear();
    }

    /// Ends all watches as if their connections had been cut in an orderly way.
    pub fn cut_watches(&self) {
        self.shared.faults().cuts_with_error = false;
        self.shared.cut.send_modify(|count| *count += 1);
    }

    /// Ends all watches with an event that says 410.
    pub fn expire_watches(&self) {
        self.shared.faults().cuts_with_error = true;
        self.shared.cut.send_modify(|count| *count += 1);
    }

    /// Forgets all changes up to now: watches that begin before get 410 in an event.
    pub fn forget_history(&self) {
        let mut state = self.shared.state();
        let revision = state.store.revision();
        for resource in state.store.resources() {
            state.store.table(&resource).forget(revision);
        }
    }

    /// Forgets the rests of lists: the next page gets 410.
    pub fn forget_pages(&self) {
        self.shared.state().pages.clear();
    }

    /// Sets the time between two bookmarks; 10 s at first. Watches that are open take it up at their next bookmark.
    pub fn send_bookmarks_every(&self, time: Duration) {
        self.shared.faults().bookmark_every = time;
    }

    /// Leaves out the next bookmarks.
    pub fn drop_bookmarks(&self, count: u64) {
        self.shared.faults().bookmarks_to_drop = count;
    }

    /// Sets the server's clock ahead of this host's, by seconds; behind if negative.
    pub fn set_clock_ahead(&self, seconds: i64) {
        self.shared.state().clock_ahead = SignedDuration::from_secs(seconds);
    }

    /// Stores an object as it is, past every rule: also one that no server would accept.
    ///
    /// # Panics
    /// If its kind is not known.
    pub fn put(&self, object: &Value) {
        let mut state = self.shared.state();
        let version = object["apiVersion"].as_str().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let kind =
            state.kinds().find(|kind| kind.resource.group == group && kind.kind == object["kind"]);
        let Some(kind) = kind.cloned() else {
            panic!("the double has no kind {} of {version:?}", object["kind"]);
        };
        let mut object = object.clone();
        let key = Key::of(&object);
        let old = state.store.get(&kind.resource, &key).map(|old| old.value());
        let (uid, now) = (state.next_uid(), state.now());
        let old =
            old.unwrap_or_else(|| json!({"metadata": {"uid": uid, "creationTimestamp": now}}));
        for field in ["uid", "creationTimestamp"] {
            if object["metadata"][field].is_null() {
                object["metadata"][field] = old["metadata"][field].clone();
            }
        }
        state.store.put(&kind.resource, &object);
        if kind.resource == super::crd::resource() {
            super::crd::follow(&mut state, &key);
        }
    }

    /// Returns an object in its stored version. `resource` is as in `tenants.durward.dev`; `namespace` is empty for cluster-scoped objects.
    #[must_use]
    pub fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let state = self.shared.state();
        let kind = state.kind(&named(resource))?;
        let stored = state.store.get(&kind.resource, &Key::new(namespace, name))?;
        Some(typed(stored.value(), kind, &kind.storage().name))
    }

    /// Returns the objects of a resource type, sorted by namespace and name.
    #[must_use]
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let state = self.shared.state();
        let Some(kind) = state.kind(&named(resource)) else { return Vec::new() };
        let objects = state.store.objects(&kind.resource);
        objects.map(|stored| typed(stored.value(), kind, &kind.storage().name)).collect()
    }

    /// Returns how often a verb was used on a resource type, as in `tenants.durward.dev`; subresources included.
    #[must_use]
    pub fn count(&self, verb: &str, resource: &str) -> u64 {
        self.shared.counters().count(verb, resource)
    }

    /// Returns the writes of a status that changed it, and those that changed nothing.
    #[must_use]
    pub fn status_writes(&self, resource: &str) -> (u64, u64) {
        self.shared.counters().writes(resource, "status")
    }

    /// Returns the writes of objects themselves that changed something, and those that changed nothing.
    #[must_use]
    pub fn writes(&self, resource: &str) -> (u64, u64) {
        self.shared.counters().writes(resource, "")
    }

    /// Returns the requests that were answered, the last 50,000.
    #[must_use]
    pub fn log(&self) -> Vec<Seen> {
        self.shared.counters().log.iter().cloned().collect()
    }

    /// Forgets the log and the counts; open watches stay counted.
    pub fn clear_log(&self) {
        self.shared.counters().clear();
    }

    /// Returns the open watches of a resource type.
    #[must_use]
    pub fn open_watches(&self, resource: &str) -> u64 {
        let counters = self.shared.counters();
        counters.watches().get(&named(resource)).copied().unwrap_or_default()
    }

    /// Returns all open watches.
    #[must_use]
    pub fn all_open_watches(&self) -> u64 {
        self.shared.counters().watches().values().sum()
    }

    /// Returns the connections that were accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.server.connections()
    }

    /// Returns the connections that are open.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        self.server.open_connections()
    }

    /// Returns the resource version of the last change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.shared.state().store.revision()
    }
}

/// Reads a resource type of the form `tenants.durward.dev`.
fn named(text: &str) -> GroupResource {
    let (resource, group) = text.split_once('.').unwrap_or((text, ""));
    GroupResource::new(group, resource)
}

fn tls_config(authority: &Authority) -> ServerConfig {
    let spec = CertSpec::new().ip([127, 0, 0, 1]).dns("localhost").dns("kubernetes.default.svc");
    let identity = authority.issue(&spec.server());
    let mut config = server_config_optional_client(&identity, authority);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Serves one connection until it ends or the server is made to reset it.
async fn connection(shared: Arc<Shared>, config: Option<Arc<ServerConfig>>, stream: TcpStream) {
    let Ok(handle) = SockRef::from(&stream).try_clone() else { return };
    let mut presence = shared.presence.subscribe();
    let serving = async {
        match config {
            None => serve_stream(Arc::clone(&shared), stream, auth::administrator()).await,
            Some(config) => {
                let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                let certificates = stream.get_ref().1.peer_certificates();
                let first = certificates.and_then(|certificates| certificates.first());
                let user = first.and_then(|first| auth::of_certificate(first));
                serve_stream(Arc::clone(&shared), stream, user.unwrap_or_else(auth::anonymous))
                    .await;
            }
        }
    };
    let resetting = presence.wait_for(|presence| *presence == Presence::Resetting);
    tokio::select! {
        // A request that has come meanwhile is not answered.
        biased;
        _ = resetting => {
            // A close with lingering of no time is a reset.
            let _ = handle.set_linger(Some(Duration::ZERO));
        }
        () = serving => {}
    }
}

async fn serve_stream<S>(shared: Arc<Shared>, stream: S, peer: User)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let (shared, peer) = (Arc::clone(&shared), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(serve::respond(&shared, &peer, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(STREAMS);
    // A client that goes away is none of the double's business.
    drop(builder.serve_connection(TokioIo::new(stream), service).await);
}
