//! The life of a connection, on one screen.
//!
//! Deliberately absent: the steps themselves; each has a room of its own.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use durward_model::listener::Protocol;
use durward_model::{ClientAddr, Destination};
use tokio::net::TcpStream;

use crate::admit::enter;
use crate::core::Core;
use crate::forward::socks::Greeted;
use crate::io::Io;
use crate::prepared::{PreparedBind, TenantView};
use crate::watch::Watch;
use crate::{forward, http, passthrough, tcp, turns};

/// A connection nobody knows anything of yet.
pub(crate) struct Accepted {
    /// The socket.
    pub(crate) stream: TcpStream,
    /// Its other end.
    pub(crate) peer: SocketAddr,
    /// Its own address.
    pub(crate) local: SocketAddr,
    /// What it was accepted on; `None` when the configuration has just given that up.
    pub(crate) bind: Option<Arc<PreparedBind>>,
    /// When it was accepted.
    pub(crate) at: Instant,
    /// The core it lives on.
    pub(crate) core: Rc<Core>,
    /// Its place among the connections that take turns there.
    pub(crate) turn: Rc<turns::Place>,
}

/// Serves a connection to its end. What became of it is recorded once: by the one that turned it away, or by the one that served it.
pub(crate) async fn serve(accepted: Accepted) {
    let entrance = match Box::pin(enter(accepted)).await {
        Ok(entrance) => entrance,
        Err(turned_away) => return Box::pin(turned_away.leave()).await,
    };
    let (admitted, _counted) = (entrance.admitted, entrance.counted);
    match admitted.view.listener().protocol() {
        Protocol::Http | Protocol::Https => Box::pin(http::serve(admitted)).await,
        Protocol::Forward => Box::pin(forward::serve(admitted)).await,
        Protocol::Tcp => Box::pin(tcp::serve(admitted)).await,
        Protocol::Tls => Box::pin(passthrough::serve(admitted)).await,
    }
}

/// A connection that may be served: its tenant is known, its source allowed, its TLS done.
pub(crate) struct Admitted {
    /// The bytes, after TLS where it is terminated here.
    pub(crate) io: Io,
    /// Bytes of the first flight that were read while peeking and not consumed (pass-through only; empty otherwise).
    pub(crate) early: Vec<u8>,
    /// The tenant's view.
    pub(crate) view: TenantView,
    /// What is known of the connection, for logs and headers.
    pub(crate) facts: Rc<ConnectionFacts>,
    /// Its deadlines.
    pub(crate) watch: Watch,
    /// The core it lives on.
    pub(crate) core: Rc<Core>,
    /// What a client that speaks SOCKS has said of itself at the door.
    pub(crate) greeted: Option<Greeted>,
}

/// What is known of a connection once it is admitted.
pub(crate) struct ConnectionFacts {
    /// When it was accepted.
    pub(crate) accepted: Instant,
    /// The client, by PROXY header where one is trusted.
    pub(crate) client: ClientAddr,
    /// The socket's peer: the client or the load balancer before us.
    pub(crate) peer: SocketAddr,
    /// Where the client connected.
    pub(crate) destination: Destination,
    /// What TLS says; `None` without TLS.
    pub(crate) tls: Option<TlsFacts>,
}

/// What is known of a TLS session.
pub(crate) struct TlsFacts {
    /// `TLSv1.3` or `TLSv1.2`; empty for pass-through.
    pub(crate) version: &'static str,
    /// IANA name of the cipher suite.
    pub(crate) cipher: String,
    /// What the client asked for, lower case.
    pub(crate) sni: Option<String>,
    /// Whether the session was resumed.
    pub(crate) resumed: bool,
    /// How long the handshake took.
    pub(crate) handshake: std::time::Duration,
    /// The client's certificate.
    pub(crate) client_certificate: Option<ClientCertificate>,
}

/// A verified client certificate, read once per connection.
pub(crate) struct ClientCertificate {
    /// Its subject's distinguished name.
    pub(crate) subject: String,
    /// The common name in it.
    pub(crate) common_name: Option<String>,
    /// SHA-256 of the subject public key info, lower-case hexadecimal.
    pub(crate) spki_sha256: String,
    /// SHA-256 of the leaf, lower-case hexadecimal.
    pub(crate) fingerprint: String,
    /// URI names, for XFCC.
    pub(crate) uris: Vec<String>,
    /// DNS names, for XFCC.
    pub(crate) dns: Vec<String>,
    /// `Client-Cert` field value (RFC 9440), made once.
    pub(crate) client_cert: String,
    /// `Client-Cert-Chain` field value; empty without intermediates.
    pub(crate) client_cert_chain: String,
}

impl ClientCertificate {
    /// All names it has.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let common = self.common_name.iter();
        common.chain(&self.uris).chain(&self.dns).map(String::as_str)
    }
}

impl TlsFacts {
    /// What is known where TLS goes on to the upstream: the name asked for.
    pub(crate) fn asked_for(sni: Option<String>, waited: std::time::Duration) -> Self {
        Self {
            version: "",
            cipher: String::new(),
            sni,
            resumed: false,
            handshake: waited,
            client_certificate: None,
        }
    }
}
