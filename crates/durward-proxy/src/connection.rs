//! Facts of one connection: its addresses, its TLS session, its client certificate.
//!
//! Vocabulary of every room above: values only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use durward_model::{ClientAddr, Destination};

use crate::watch::ShownChain;

/// Facts of an admitted connection.
pub(crate) struct ConnectionFacts {
    /// Time of `accept`.
    pub(crate) accepted: Instant,
    /// The client, by PROXY header where one is trusted.
    pub(crate) client: ClientAddr,
    /// The socket's peer: the client or the load balancer before us.
    pub(crate) peer: SocketAddr,
    /// Address and port the client connected to.
    pub(crate) destination: Destination,
    /// TLS session; `None` without TLS.
    pub(crate) tls: Option<TlsFacts>,
    /// Link that the connection comes out of a cluster by.
    pub(crate) link: Option<Arc<str>>,
    /// Further statements of PROXY headers, beside client and destination; `None` if there are none.
    pub(crate) proxied: Option<Box<ProxyFacts>>,
}

/// Statements of PROXY headers for the log. They are not verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProxyFacts {
    /// Host name that the client asked the sender for; of the last header that has one.
    pub(crate) authority: Option<String>,
    /// Identifier that the sender gave the connection; of the last header that has one.
    pub(crate) connection_id: Option<String>,
    /// Source and destination of the last header after the first.
    pub(crate) inner: Option<(SocketAddr, SocketAddr)>,
}

impl ProxyFacts {
    /// Returns the facts boxed, or `None` if there are none.
    pub(crate) fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// Facts of a TLS session.
pub(crate) struct TlsFacts {
    /// `TLSv1.3` or `TLSv1.2`; empty for pass-through.
    pub(crate) version: &'static str,
    /// IANA name of the cipher suite.
    pub(crate) cipher: String,
    /// Server name of the ClientHello, lower case.
    pub(crate) sni: Option<String>,
    /// True if the session was resumed.
    pub(crate) resumed: bool,
    /// Duration of the handshake.
    pub(crate) handshake: std::time::Duration,
    /// The client's certificate.
    pub(crate) client_certificate: Option<ClientCertificate>,
    /// The certificates that the client has shown; `None` without one.
    pub(crate) shown: Option<Arc<ShownChain>>,
}

/// A verified client certificate, read once per connection.
pub(crate) struct ClientCertificate {
    /// Distinguished name of the subject.
    pub(crate) subject: String,
    /// Common name of the subject.
    pub(crate) common_name: Option<String>,
    /// SHA-256 of the subject public key info, lower-case hexadecimal.
    pub(crate) spki_sha256: String,
    /// SHA-256 of the leaf, lower-case hexadecimal.
    pub(crate) fingerprint: String,
    /// URI names of the SAN extension, for XFCC.
    pub(crate) uris: Vec<String>,
    /// DNS names of the SAN extension, for XFCC.
    pub(crate) dns: Vec<String>,
    /// `Client-Cert` field value (RFC 9440), made once.
    pub(crate) client_cert: String,
    /// `Client-Cert-Chain` field value; empty without intermediates.
    pub(crate) client_cert_chain: String,
}

impl ClientCertificate {
    /// Returns all names in the certificate.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let common = self.common_name.iter();
        common.chain(&self.uris).chain(&self.dns).map(String::as_str)
    }
}

impl TlsFacts {
    /// Builds the facts of a pass-through connection: the server name only.
    pub(crate) fn asked_for(sni: Option<String>, waited: std::time::Duration) -> Self {
        Self {
            version: "",
            cipher: String::new(),
            sni,
            resumed: false,
            handshake: waited,
            client_certificate: None,
            shown: None,
        }
    }
}
