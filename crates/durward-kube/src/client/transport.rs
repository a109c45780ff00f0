//! The service below `kube::Client`: a bounded set of connections to one API server, shared by all requests.
//!
//! A request takes a slot of an open connection, or opens one, or waits until a slot is free. The slot is given back when the body of the response has ended or is dropped;
//! a watch holds one for its whole life.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use kube::Config;
use kube::client::Body;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tower::{BoxError, Service};

use super::access::{self, AccessError, Location};
use super::dial::{Dialled, dial};
use super::target::{addressed, to_origin_form};
use super::token::TokenFile;
use super::{ConnectError, Limits};

/// A reason why a request got no response.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The kubeconfig or the service account changed to something that cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No TCP connection.
    #[error("connection to the API server failed")]
    Connect(#[source] std::io::Error),
    /// The server has an address that is not connected to.
    #[error("server has the address {0}, which is not connected to")]
    OutOfReach(std::net::IpAddr),
    /// No TLS session: an unknown authority, a wrong name, a refused certificate.
    #[error("TLS handshake with the API server failed")]
    Tls(#[source] std::io::Error),
    /// The connection broke.
    #[error("connection to the API server broke")]
    Http(#[source] hyper::Error),
    /// The server does not answer in time.
    #[error("API server did not answer in time: {0}")]
    Late(&'static str),
    /// The request has an address that cannot be sent.
    #[error("request cannot be sent: {0}")]
    Malformed(String),
    /// Another request found no connection while this one waited for it.
    #[error("{0}")]
    Shared(Arc<str>),
}

/// Requests and connections of a transport, counted since its start.
#[derive(Clone)]
pub struct Traffic(Arc<Counters>);

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    failures: AtomicU64,
    connections: AtomicU64,
    open: AtomicUsize,
    streams: AtomicUsize,
    /// Requests that are possible at once with the HTTP version of the last connection.
    capacity: AtomicUsize,
}

impl Traffic {
    /// Requests that were sent or were to be sent.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Relaxed)
    }

    /// Requests that got no response.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Relaxed)
    }

    /// Connections that were opened.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.0.connections.load(Relaxed)
    }

    /// Connections that accept requests now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.0.open.load(Relaxed)
    }

    /// Requests in progress now, watches among them.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.streams.load(Relaxed)
    }

    /// Requests that are possible at once. Without HTTP/2 they are far fewer.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity.load(Relaxed)
    }
}

/// Sends requests to one API server.
#[derive(Clone)]
pub struct Transport(Arc<Shared>);

struct Shared {
    location: Location,
    limits: Limits,
    token: Option<TokenFile>,
    origin: Uri,
    pool: Mutex<Pool>,
    dialling: tokio::sync::Mutex<Dialling>,
    freed: Notify,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Pool {
    http2: Vec<Arc<Http2>>,
    http1: Vec<http1::SendRequest<Body>>,
    /// HTTP/1.1 connections, idle ones included.
    open_http1: usize,
}

/// Connections are opened one after the other, so that a thousand waiting requests do not open a thousand.
#[derive(Default)]
struct Dialling {
    tasks: JoinSet<()>,
    failures: u64,
    last_failure: Arc<str>,
}

struct Http2 {
    sender: http2::SendRequest<Body>,
    born: Instant,
    used: AtomicUsize,
    is_retired: AtomicBool,
}

/// A place on a connection for one request.
enum Lease {
    Http2(Arc<Http2>),
    Http1(Option<http1::SendRequest<Body>>),
}

impl Transport {
    /// Makes a transport to the server of `config`, which `location` gave.
    ///
    /// # Errors
    /// Fails if the certificates of `config` cannot be used.
    pub fn new(location: Location, config: &Config, limits: Limits) -> Result<Self, ConnectError> {
        if config.cluster_url.scheme_str() != Some("http") {
            // What cannot be used is said now and not by the first request.
            super::tls::client_config(config)?;
            super::tls::server_name(config)?;
        }
        Ok(Self(Arc::new(Shared {
            location,
            limits,
            token: access::token_file(config).map(TokenFile::new),
            origin: config.cluster_url.clone(),
            pool: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
            freed: Notify::new(),
            counters: Arc::new(Counters {
                capacity: AtomicUsize::new(limits.connections * limits.streams),
                ..Counters::default()
            }),
        })))
    }

    /// Returns a view of the counters.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic(Arc::clone(&self.0.counters))
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Held>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Held>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            shared.counters.requests.fetch_add(1, Relaxed);
            let sent = shared.exchange(request).await;
            sent.map_err(|error| {
                shared.counters.failures.fetch_add(1, Relaxed);
                BoxError::from(error)
            })
        })
    }
}

impl Shared {
    async fn exchange(
        self: &Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<Held>, TransportError> {
        let mut request = addressed(&self.origin, request)?;
        if let Some(token) = self.token.as_ref().and_then(TokenFile::header) {
            request.headers_mut().insert(header::AUTHORIZATION, token);
        }
        let mut slot = Slot::new(self, self.lease().await?);
        let response = match timeout(self.limits.head, slot.send(request)).await {
            Ok(sent) => sent?,
            Err(_) => {
                // The server may accept fewer streams than we think; those that wait for one would wait for ever.
                slot.lease.iter().for_each(Lease::retire);
                return Err(TransportError::Late("no response to a request"));
            }
        };
        if response.status() == StatusCode::UNAUTHORIZED {
            self.token.iter().for_each(TokenFile::distrust);
        }
        Ok(response.map(|body| Held { body, slot: Some(slot) }))
    }

    /// Returns a place on a connection; waits for one if all are taken.
    async fn lease(&self) -> Result<Lease, TransportError> {
        let failures_before = self.dialling.try_lock().ok().map(|dialling| dialling.failures);
        loop {
            // Registered before the pool is checked, so that a slot that is freed in between is not missed.
            let freed = self.freed.notified();
            if let Some(lease) = self.free_lease() {
                return Ok(lease);
            }
            if !self.may_dial() {
                freed.await;
            } else if let Some(lease) = self.dial(failures_before).await? {
                return Ok(lease);
            }
        }
    }

    /// Opens a connection, unless others that came first left a place or took the last one: then there is nothing to open.
    async fn dial(&self, failures_before: Option<u64>) -> Result<Option<Lease>, TransportError> {
        let waited = failures_before.is_none();
        let mut dialling = self.dialling.lock().await;
        while dialling.tasks.try_join_next().is_some() {}
        let free = self.free_lease();
        if free.is_some() || !self.may_dial() {
            return Ok(free);
        }
        // Whoever waited for an attempt that failed does not wait for one more.
        let failed_meanwhile = failures_before.is_some_and(|before| before != dialling.failures);
        if failed_meanwhile || (waited && !dialling.last_failure.is_empty()) {
            return Err(TransportError::Shared(Arc::clone(&dialling.last_failure)));
        }
        let dialled = timeout(self.limits.connect, async {
            let config = self.location.load().await?;
            dial(&config, self.location.reach(), &mut dialling.tasks).await
        });
        let dialled = dialled.await.unwrap_or(Err(TransportError::Late("no connection")));
        match dialled {
            Ok(dialled) => {
                dialling.last_failure = Arc::default();
                self.counters.connections.fetch_add(1, Relaxed);
                Ok(Some(self.adopt(dialled)))
            }
            Err(error) => {
                dialling.failures += 1;
                dialling.last_failure = Arc::from(chain(&error));
                Err(error)
            }
        }
    }

    fn adopt(&self, dialled: Dialled) -> Lease {
        let mut pool = self.pool();
        let lease = match dialled {
            Dialled::Http1(sender) => {
                pool.open_http1 += 1;
                self.counters.capacity.store(self.limits.http1_connections, Relaxed);
                Lease::Http1(Some(sender))
            }
            Dialled::Http2(sender) => {
                let connection = Arc::new(Http2 {
                    sender,
                    born: Instant::now(),
                    used: AtomicUsize::new(1),
                    is_retired: AtomicBool::new(false),
                });
                pool.http2.push(Arc::clone(&connection));
                let capacity = self.limits.connections * self.limits.streams;
                self.counters.capacity.store(capacity, Relaxed);
                Lease::Http2(connection)
            }
        };
        self.note_open(&pool);
        // Whoever waited for this one may have a place on it too.
        self.freed.notify_waiters();
        lease
    }

    fn free_lease(&self) -> Option<Lease> {
        let mut pool = self.pool();
        let limits = &self.limits;
        pool.http2.retain(|connection| connection.is_usable(limits));
        while let Some(sender) = pool.http1.pop() {
            if !sender.is_closed() {
                return Some(Lease::Http1(Some(sender)));
            }
            pool.open_http1 -= 1;
        }
        self.note_open(&pool);
        let free = pool.http2.iter().find(|connection| connection.take(limits.streams));
        free.map(|connection| Lease::Http2(Arc::clone(connection)))
    }

    fn may_dial(&self) -> bool {
        let pool = self.pool();
        pool.http2.len() < self.limits.connections
            && pool.open_http1 < self.limits.http1_connections
    }

    fn note_open(&self, pool: &Pool) {
        self.counters.open.store(pool.http2.len() + pool.open_http1, Relaxed);
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection back; `ended` says that the exchange is complete.
    fn give_back(&self, lease: Lease, ended: bool) {
        match lease {
            Lease::Http2(connection) => {
                connection.used.fetch_sub(1, Relaxed);
            }
            Lease::Http1(sender) => {
                let mut pool = self.pool();
                match sender.filter(|sender| ended && !sender.is_closed()) {
                    Some(sender) => pool.http1.push(sender),
                    None => pool.open_http1 = pool.open_http1.saturating_sub(1),
                }
                self.note_open(&pool);
            }
        }
        self.counters.streams.fetch_sub(1, Relaxed);
        self.freed.notify_one();
    }
}

impl Http2 {
    fn is_usable(&self, limits: &Limits) -> bool {
        !self.sender.is_closed()
            && !self.is_retired.load(Relaxed)
            && self.born.elapsed() < limits.max_age
    }

    fn take(&self, streams: usize) -> bool {
        let more = |used| (used < streams).then_some(used + 1);
        self.used.fetch_update(Relaxed, Relaxed, more).is_ok()
    }
}

impl Lease {
    async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, TransportError> {
        match self {
            Self::Http2(connection) => {
                let mut sender = connection.sender.clone();
                sender.ready().await.map_err(TransportError::Http)?;
                sender.send_request(request).await.map_err(TransportError::Http)
            }
            Self::Http1(sender) => {
                let Some(sender) = sender else {
                    return Err(TransportError::Late("connection is closed"));
                };
                sender.ready().await.map_err(TransportError::Http)?;
                sender.send_request(to_origin_form(request)).await.map_err(TransportError::Http)
            }
        }
    }

    fn retire(&self) {
        if let Self::Http2(connection) = self {
            connection.is_retired.store(true, Relaxed);
        }
    }
}

/// A request's place on its connection, until the response has ended.
struct Slot {
    shared: Arc<Shared>,
    lease: Option<Lease>,
}

/// The body of a response, which keeps the place on the connection.
pub struct Held {
    body: Incoming,
    slot: Option<Slot>,
}

impl Slot {
    fn new(shared: &Arc<Shared>, lease: Lease) -> Self {
        shared.counters.streams.fetch_add(1, Relaxed);
        Self { shared: Arc::clone(shared), lease: Some(lease) }
    }

    async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, TransportError> {
        match self.lease.as_mut() {
            Some(lease) => lease.send(request).await,
            None => Err(TransportError::Late("connection was given back")),
        }
    }

    /// Gives the connection back after a complete exchange.
    fn release(mut self) {
        self.give_back(true);
    }

    fn give_back(&mut self, ended: bool) {
        if let Some(lease) = self.lease.take() {
            self.shared.give_back(lease, ended);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.give_back(false);
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none()
            && let Some(slot) = self.slot.take()
        {
            slot.release();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // Always polled to its end: that is when the slot is given back.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Returns an error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}
