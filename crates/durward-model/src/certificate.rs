//! A certificate with its private key, parsed once when configuration is loaded.
//!
//! Deliberately absent: a TLS library's types; the proxy makes those from the DER held here.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::origin::Origin;
use crate::secret::Secret;

/// A certificate chain, its key, and what people and checks need to know of the leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// How the document calls it: the file stem or the Secret's name.
    pub name: Arc<str>,
    /// DER, leaf first.
    #[serde(skip)]
    pub chain: Vec<Arc<[u8]>>,
    /// The private key in DER, and its container.
    #[serde(skip)]
    pub key: PrivateKey,
    /// Subject alternative names of type iPAddress.
    pub ip_names: Vec<IpAddr>,
    /// Subject alternative names of type dNSName, lower case, wildcards as written.
    pub dns_names: Vec<Arc<str>>,
    /// The subject's distinguished name, RFC 4514 order as printed by common tools.
    pub subject: Arc<str>,
    /// The issuer's distinguished name.
    pub issuer: Arc<str>,
    /// `RSA-2048`, `ECDSA-P256`, `Ed25519` …
    pub key_type: Arc<str>,
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
    /// SHA-256 of the leaf, lower-case hexadecimal.
    pub fingerprint: Arc<str>,
    /// Where the document names it.
    pub origin: Origin,
    /// The file of the chain, as it was found.
    #[serde(skip)]
    pub chain_file: PathBuf,
    /// The file of the key, as it was found.
    #[serde(skip)]
    pub key_file: PathBuf,
}

/// A private key in DER with the container it was found in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateKey {
    /// The container.
    pub encoding: KeyEncoding,
    /// The DER.
    pub der: Secret,
}

/// The containers a private key comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEncoding {
    /// RFC 5958 `PRIVATE KEY`.
    Pkcs8,
    /// RFC 8017 `RSA PRIVATE KEY`.
    Pkcs1,
    /// RFC 5915 `EC PRIVATE KEY`.
    Sec1,
}

impl Certificate {
    /// Whether the leaf names `address` in its subject alternative names.
    #[must_use]
    pub fn covers_ip(&self, address: IpAddr) -> bool {
        self.ip_names.contains(&address.to_canonical())
    }

    /// Whether the leaf names `host` (lower case, no trailing dot), a wildcard covering exactly one label (RFC 9525).
    #[must_use]
    pub fn covers_host(&self, host: &str) -> bool {
        self.dns_names.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
            None => **name == *host,
        })
    }

    /// Whole days until the certificate ends; negative once it has.
    #[must_use]
    pub fn days_left(&self, now_unix_seconds: i64) -> i64 {
        (self.not_after - now_unix_seconds).div_euclid(86_400)
    }
}
