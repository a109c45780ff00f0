//! Facts of one connection: its addresses, its TLS session, its client certificate.
//!
//! Vocabulary of every room above: values only, and nothing of ours below.

use std::net::SocketAddr;
use std::time::Instant;

use durward_model::{ClientAddr, Destination};

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
