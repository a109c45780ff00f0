//! One connection of an HTTP origin, from handshake to end, with hyper as its engine.
//! What the answers are is decided in `paths.rs`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::record::Record;
use super::{Behaviour, Protocol, paths};
use crate::transport::Transport;

/// What all connections of an origin share.
pub(crate) struct Shared {
    pub(super) record: Record,
    pub(super) behaviour: watch::Sender<Behaviour>,
}

/// What a request may know of its connection.
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) tls_version: Option<String>,
    pub(super) tls_alpn: Option<String>,
    pub(super) tls_server_name: Option<String>,
    pub(super) tls_client_subject: Option<String>,
    pub(super) shared: Arc<Shared>,
    requests: AtomicU64,
    interim: Arc<Mutex<Vec<u8>>>,
}

impl Connection {
    /// The number of the request that begins now, from 1.
    pub(super) fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Sends these bytes before whatever HTTP/1.1 writes next: hyper itself cannot send an interim response.
    pub(super) fn send_first(&self, bytes: &[u8]) {
        self.interim.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }
}

/// Serves until the peer or the origin ends the connection.
pub(super) async fn serve(
    transport: Transport,
    server_name: Option<String>,
    id: u64,
    protocol: Protocol,
    shared: Arc<Shared>,
) {
    let Some(connection) = describe(&transport, server_name, id, shared) else { return };
    let interim = connection.interim.clone();
    let connection = Arc::new(connection);
    let service = service_fn(move |request| paths::answer(request, connection.clone()));

    // A connection that ends in an error is the peer's choice, and the test looks at the peer.
    let _ended = match protocol {
        Protocol::Http1 => {
            let io = Interjecting { io: TokioIo::new(transport), interim };
            http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(io, service)
                .with_upgrades()
                .await
        }
        Protocol::Http2 => {
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .enable_connect_protocol()
                .max_concurrent_streams(1000)
                .serve_connection(TokioIo::new(transport), service)
                .await
        }
    };
}

/// Nothing when the peer was gone before it was looked at.
fn describe(
    transport: &Transport,
    server_name: Option<String>,
    id: u64,
    shared: Arc<Shared>,
) -> Option<Connection> {
    let subject = transport.peer_certificate().and_then(|der| {
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        Some(certificate.subject().to_string())
    });
    Some(Connection {
        id,
        peer: transport.tcp().peer_addr().ok()?,
        local: transport.local_addr().ok()?,
        tls_version: transport
            .tls()
            .and_then(|tls| tls.protocol_version())
            .map(|version| format!("{version:?}")),
        tls_alpn: transport.alpn().map(|name| String::from_utf8_lossy(name).into_owned()),
        tls_server_name: server_name,
        tls_client_subject: subject,
        shared,
        requests: AtomicU64::new(0),
        interim: Arc::default(),
    })
}

/// A connection whose next write may be preceded by bytes of ours.
struct Interjecting {
    io: TokioIo<Transport>,
    interim: Arc<Mutex<Vec<u8>>>,
}

impl Read for Interjecting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Interjecting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut interim = this.interim.lock().unwrap_or_else(PoisonError::into_inner);
        while !interim.is_empty() {
            let written = ready!(Pin::new(&mut this.io).poll_write(cx, &interim))?;
            interim.drain(..written);
        }
        drop(interim);
        Pin::new(&mut this.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
