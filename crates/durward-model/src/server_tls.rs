//! TLS that a listener terminates: certificates, what is asked of clients, and the protocols offered by ALPN.
//!
//! Deliberately absent: keys in the form of a TLS library, which the proxy makes.

use std::sync::Arc;

use serde::Serialize;

use crate::certificate::Certificate;
use crate::client_auth::ClientAuth;

/// Application protocol that a tenant cluster's API proxy offers in its outer TLS connection. No Kubernetes client offers it.
pub const API_PROXY: &[u8] = b"durward-api/1";

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerTls {
    /// The first answers when no other has the SNI; none while the only one has not been issued yet.
    pub certificates: Vec<Arc<Certificate>>,
    /// Client authentication.
    pub client_auth: ClientAuth,
    /// Refuse TLS 1.2.
    pub tls13_only: bool,
    /// Offered by ALPN, most wanted first.
    pub alpn: Vec<Alpn>,
}

/// Application protocols offered by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Alpn {
    /// `h2`
    Http2,
    /// `http/1.1`
    Http11,
    /// The outer connection of a tenant cluster's API proxy.
    ApiProxy,
    /// `durward-link/1`
    Link,
}

impl Alpn {
    /// The protocol's identifier on the wire.
    #[must_use]
    pub fn id(self) -> &'static [u8] {
        match self {
            Self::Http2 => b"h2",
            Self::Http11 => b"http/1.1",
            Self::ApiProxy => API_PROXY,
            Self::Link => b"durward-link/1",
        }
    }
}

impl ServerTls {
    /// The certificate for a client that asked for `sni` (lower case), as an index into `certificates`: one that names it, or the first.
    #[must_use]
    pub fn certificate_for(&self, sni: Option<&str>) -> usize {
        let named = sni.and_then(|name| {
            self.certificates.iter().position(|certificate| certificate.covers_host(name))
        });
        named.unwrap_or(0)
    }

    /// The certificates for a client that asked for `sni` (lower case), as indices in order: those that name it, or the first and those
    /// for the same names. They differ in their keys, and the client's algorithms decide among them.
    pub fn alternatives(&self, sni: Option<&str>) -> impl Iterator<Item = usize> {
        let first = self.certificate_for(sni);
        let shown = self.certificates.get(first);
        let named = sni.filter(|name| shown.is_some_and(|shown| shown.covers_host(name)));
        let alike = move |at: &usize| match (named, &self.certificates[*at]) {
            (Some(name), other) => other.covers_host(name),
            (None, other) => {
                let first = &self.certificates[first];
                (&first.dns_names, &first.ip_names) == (&other.dns_names, &other.ip_names)
            }
        };
        (first..self.certificates.len()).filter(alike)
    }

    /// Returns whether a client that asked for `sni` may ask for `host` on the same connection: each certificate that it may have been shown
    /// for the one name is for the other, too. What is asked of clients is the same for all certificates of a listener.
    #[must_use]
    pub fn serves_alike(&self, sni: &str, host: &str) -> bool {
        let mut shown = self.certificates.iter().filter(|shown| shown.covers_host(sni)).peekable();
        shown.peek().is_some() && shown.all(|shown| shown.covers_host(host))
    }
}
