//! Real servers for a gateway to stand before: HTTP origins, byte-exact raw origins and TCP echoes.
//! Each runs on a thread of its own, so a test may block and a server stays in the network namespace it was started in.

mod body;
mod connection;
mod echo;
mod paths;
mod raw;
mod raw_connection;
mod record;
mod server;
mod tcp_echo;
mod udp_echo;
mod upgrade;

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::ops::Deref;
use std::sync::Arc;

use http::StatusCode;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Authority, Identity, server_config};
use crate::transport::Transport;
pub use body::pattern;
use connection::Shared;
pub use echo::Echo;
pub use raw::RawOrigin;
pub use raw_connection::RawConnection;
pub use record::{SeenRequest, Uploaded};
pub use server::Server;
pub use tcp_echo::TcpEcho;
pub use udp_echo::UdpEcho;

/// An HTTP server whose paths do what a test of a proxy needs; README-like list in `paths.rs`.
///
/// Dereferences to [`Server`] for its address, its peers and its life.
pub struct Origin {
    server: Server,
    shared: Arc<Shared>,
    scheme: &'static str,
}

impl Deref for Origin {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// How an origin treats requests, changeable while it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    fail: Option<StatusCode>,
    fail_paths: BTreeMap<String, StatusCode>,
    stall: bool,
}

/// The HTTP version of a connection, when TLS does not decide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

impl Origin {
    /// A plain HTTP/1.1 server.
    #[must_use]
    pub fn http1(bind: impl ToSocketAddrs) -> Self {
        Self::plain(bind, Protocol::Http1)
    }

    /// A plain HTTP/2 server with prior knowledge; it does not speak HTTP/1.1.
    #[must_use]
    pub fn h2c(bind: impl ToSocketAddrs) -> Self {
        Self::plain(bind, Protocol::Http2)
    }

    /// A TLS server; `alpn` lists what it offers, for example `&["h2", "http/1.1"]`.
    /// Clients need a certificate of `client_authority` when one is given.
    #[must_use]
    pub fn tls(
        bind: impl ToSocketAddrs,
        identity: &Identity,
        client_authority: Option<&Authority>,
        alpn: &[&str],
    ) -> Self {
        let mut config = server_config(identity, client_authority);
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self::tls_with(bind, config)
    }

    /// A TLS server with any rustls configuration; it speaks HTTP/2 when `h2` was negotiated.
    #[must_use]
    pub fn tls_with(bind: impl ToSocketAddrs, config: ServerConfig) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let shared = Arc::new(Shared::new());
        let server = Server::start(bind, {
            let shared = shared.clone();
            move |accepted| {
                let (acceptor, shared) = (acceptor.clone(), shared.clone());
                async move {
                    let Ok(stream) = acceptor.accept(accepted.stream).await else {
                        shared.record.failed_handshake();
                        return;
                    };
                    let server_name = stream.get_ref().1.server_name().map(str::to_owned);
                    let transport = Transport::from(stream);
                    let protocol = if transport.alpn() == Some(b"h2") {
                        Protocol::Http2
                    } else {
                        Protocol::Http1
                    };
                    connection::serve(transport, server_name, accepted.id, protocol, shared).await;
                }
            }
        });
        Self { server, shared, scheme: "https" }
    }

    fn plain(bind: impl ToSocketAddrs, protocol: Protocol) -> Self {
        let shared = Arc::new(Shared::new());
        let server = Server::start(bind, {
            let shared = shared.clone();
            move |accepted| {
                connection::serve(
                    accepted.stream.into(),
                    None,
                    accepted.id,
                    protocol,
                    shared.clone(),
                )
            }
        });
        Self { server, shared, scheme: "http" }
    }

    /// The absolute URL of a path on this origin.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.server.address())
    }

    /// Answers every request with this status until `heal`.
    pub fn fail_with(&self, status: u16) {
        let status = StatusCode::from_u16(status).expect("a status has three digits");
        self.behave(|behaviour| behaviour.fail = Some(status));
    }

    /// Answers requests for exactly this path with this status until `heal`; for health checks.
    pub fn fail_path(&self, path: &str, status: u16) {
        let status = StatusCode::from_u16(status).expect("a status has three digits");
        self.behave(|behaviour| {
            behaviour.fail_paths.insert(path.to_owned(), status);
        });
    }

    /// Takes requests and answers none until `heal`, which lets the waiting ones go on.
    pub fn stall(&self) {
        self.behave(|behaviour| behaviour.stall = true);
    }

    /// Ends `fail_with`, `fail_path` and `stall`.
    pub fn heal(&self) {
        self.behave(|behaviour| *behaviour = Behaviour::default());
    }

    /// How many requests arrived.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.record.requests()
    }

    /// The last 10,000 requests, oldest first.
    #[must_use]
    pub fn seen(&self) -> Vec<SeenRequest> {
        self.shared.record.seen()
    }

    /// What `/upload` received, in the order the bodies ended, complete or not.
    #[must_use]
    pub fn uploads(&self) -> Vec<Uploaded> {
        self.shared.record.uploads()
    }

    /// How many exchanges the peer gave up before their response was complete.
    #[must_use]
    pub fn aborted(&self) -> u64 {
        self.shared.record.aborted()
    }

    /// How many TLS handshakes failed.
    #[must_use]
    pub fn failed_handshakes(&self) -> u64 {
        self.shared.record.failed_handshakes()
    }

    /// Forgets peers, requests, uploads and counts; connections stay.
    pub fn forget(&self) {
        self.server.forget_peers();
        self.shared.record.forget();
    }

    fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        self.shared.behaviour.send_modify(change);
    }
}

impl Shared {
    fn new() -> Self {
        Self {
            record: record::Record::default(),
            behaviour: watch::Sender::new(Behaviour::default()),
        }
    }
}
