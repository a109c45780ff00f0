//! Certificates that an ACME authority issues for a listener, and the answers by which the authority validates names.
//!
//! Deliberately absent: the protocol; whoever orders reads here what is wanted.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::origin::Origin;
use crate::secret::Secret;

/// Path below which HTTP-01 challenges are answered (RFC 8555 §8.3).
pub const HTTP_PATH: &str = "/.well-known/acme-challenge/";
/// ALPN protocol of TLS-ALPN-01 (RFC 8737 §6.2).
pub const TLS_PROTOCOL: &[u8] = b"acme-tls/1";

/// ACME at a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Acme {
    /// Certificates of this listener that an authority issues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<Arc<Order>>,
    /// Answers to challenges of the same tenant that can be given here.
    #[serde(skip)]
    pub answers: Vec<Answer>,
}

/// Certificate to be ordered and renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Identifier, the same for all listeners of the tenant that want this certificate; a file name.
    pub id: Arc<str>,
    /// Names of the certificate, in order.
    pub names: Vec<Name>,
    /// URL of the authority's directory.
    pub directory: Arc<str>,
    /// Contacts for the authority, as URIs.
    pub contacts: Vec<Arc<str>>,
    /// Challenge by which the authority validates the names.
    pub challenge: Challenge,
    /// Profile of the authority.
    pub profile: Option<Arc<str>>,
    /// Account key in PKCS#8; `None` makes one for the tenant.
    #[serde(skip)]
    pub account_key: Option<Secret>,
    /// File in which the certificate and its key are kept.
    #[serde(skip)]
    pub file: PathBuf,
    /// File in which answers to challenges are kept while the authority validates.
    #[serde(skip)]
    pub answers_file: PathBuf,
    /// True once the file holds a certificate that is served.
    pub issued: bool,
    /// True if it is the first certificate of its listener, shown to clients that name no other.
    pub first: bool,
    /// Origin: file and line, or object and field.
    pub origin: Origin,
}

/// Name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// Host name, lower case.
    Dns(Arc<str>),
    /// IP address.
    Ip(IpAddr),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Challenge by which an authority validates names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Challenge {
    /// A text at port 80.
    #[serde(rename = "HTTP-01")]
    Http01,
    /// A certificate at port 443.
    #[serde(rename = "TLS-ALPN-01")]
    TlsAlpn01,
}

impl Challenge {
    /// Returns the word of documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http01 => "HTTP-01",
            Self::TlsAlpn01 => "TLS-ALPN-01",
        }
    }
}

/// Answer to one challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Text at [`HTTP_PATH`] and the token.
    Http {
        /// Last segment of the path.
        token: Arc<str>,
        /// The text.
        text: Arc<str>,
    },
    /// Certificate for clients that offer [`TLS_PROTOCOL`] alone.
    Tls {
        /// Server name that the authority asks for.
        server_name: Arc<str>,
        /// Certificate in DER.
        certificate: Arc<[u8]>,
        /// Private key in PKCS#8.
        key: Secret,
    },
}

impl Acme {
    /// Returns true if there is nothing of ACME.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.answers.is_empty()
    }

    /// Returns the text for a request, if it asks for that of a challenge. The target is compared as it was sent.
    #[must_use]
    pub fn http_answer(&self, method: &str, target: &str) -> Option<&str> {
        if self.answers.is_empty() || !["GET", "HEAD"].contains(&method) {
            return None;
        }
        let asked = target.strip_prefix(HTTP_PATH)?;
        self.answers.iter().find_map(|answer| match answer {
            Answer::Http { token, text } if **token == *asked => Some(&**text),
            _ => None,
        })
    }

    /// Returns the certificate (DER) and key (PKCS#8) for a validation that asks for this server name (lower case).
    #[must_use]
    pub fn tls_answer(&self, server_name: &str) -> Option<(&Arc<[u8]>, &Secret)> {
        self.answers.iter().find_map(|answer| match answer {
            Answer::Tls { server_name: name, certificate, key } if **name == *server_name => {
                Some((certificate, key))
            }
            _ => None,
        })
    }
}

impl Order {
    /// Returns the names, with commas.
    #[must_use]
    pub fn names_text(&self) -> String {
        let names: Vec<String> = self.names.iter().map(Name::to_string).collect();
        names.join(", ")
    }

    /// Returns true if it names a host (lower case).
    #[must_use]
    pub fn names_host(&self, host: &str) -> bool {
        self.names.iter().any(|name| matches!(name, Name::Dns(name) if **name == *host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_for_its_token_and_name_alone() {
        let acme = Acme {
            orders: Vec::new(),
            answers: vec![
                Answer::Http { token: "t1".into(), text: "t1.key".into() },
                Answer::Tls {
                    server_name: "a.example".into(),
                    certificate: Arc::from([1].as_slice()),
                    key: Secret::new(vec![2]),
                },
            ],
        };

        let path = "/.well-known/acme-challenge/t1";
        assert_eq!(acme.http_answer("GET", path), Some("t1.key"));
        assert_eq!(acme.http_answer("POST", path), None);
        for path in ["/.well-known/acme-challenge/t2", "/.well-known/acme-challenge/", "/t1"] {
            assert_eq!(acme.http_answer("GET", path), None, "{path}");
        }
        assert!(acme.tls_answer("a.example").is_some());
        assert!(acme.tls_answer("b.example").is_none());
        assert!(!format!("{acme:?}").contains("[2]"));
    }
}
