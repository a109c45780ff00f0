//! What a test asks of a certificate, said in one chain of words.
//! Nothing is checked here: a test may want exactly the certificate nobody should accept.

use std::net::IpAddr;
use std::time::SystemTime;

use super::{DAY, KeyKind};

/// The wishes for one certificate. Without any, it is a server certificate without names, valid from yesterday for 90 days.
#[derive(Clone, Debug)]
pub struct CertSpec {
    pub(super) ips: Vec<IpAddr>,
    pub(super) dns: Vec<String>,
    pub(super) uris: Vec<String>,
    pub(super) common_name: Option<String>,
    pub(super) organization: Option<String>,
    pub(super) client: bool,
    pub(super) server: bool,
    pub(super) without_eku: bool,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) key: KeyKind,
    pub(super) serial: Option<u64>,
    pub(super) version_1: bool,
}

impl Default for CertSpec {
    fn default() -> Self {
        Self::new()
    }
}

impl CertSpec {
    /// A server certificate without names.
    #[must_use]
    pub fn new() -> Self {
        let now = SystemTime::now();
        Self {
            ips: Vec::new(),
            dns: Vec::new(),
            uris: Vec::new(),
            common_name: None,
            organization: None,
            client: false,
            server: false,
            without_eku: false,
            not_before: now - DAY,
            not_after: now + 90 * DAY,
            key: KeyKind::EcdsaP256,
            serial: None,
            version_1: false,
        }
    }

    /// Adds an IP subject alternative name.
    #[must_use]
    pub fn ip(mut self, ip: impl Into<IpAddr>) -> Self {
        self.ips.push(ip.into());
        self
    }

    /// Adds a DNS subject alternative name; wildcards are allowed.
    #[must_use]
    pub fn dns(mut self, name: &str) -> Self {
        self.dns.push(name.to_owned());
        self
    }

    /// Adds a URI subject alternative name, for example a SPIFFE identity.
    #[must_use]
    pub fn uri(mut self, uri: &str) -> Self {
        self.uris.push(uri.to_owned());
        self
    }

    /// Sets the common name of the subject.
    #[must_use]
    pub fn common_name(mut self, name: &str) -> Self {
        self.common_name = Some(name.to_owned());
        self
    }

    /// Sets the organization of the subject; Kubernetes reads it as a group.
    #[must_use]
    pub fn organization(mut self, name: &str) -> Self {
        self.organization = Some(name.to_owned());
        self
    }

    /// Allows client authentication; alone, it allows nothing else.
    #[must_use]
    pub fn client(mut self) -> Self {
        self.client = true;
        self
    }

    /// Allows server authentication, the default when nothing is said.
    #[must_use]
    pub fn server(mut self) -> Self {
        self.server = true;
        self
    }

    /// Leaves the extended key usage out.
    #[must_use]
    pub fn no_eku(mut self) -> Self {
        self.without_eku = true;
        self
    }

    /// Sets the first moment of validity, in whole seconds.
    #[must_use]
    pub fn not_before(mut self, time: SystemTime) -> Self {
        self.not_before = time;
        self
    }

    /// Sets the last moment of validity, in whole seconds.
    #[must_use]
    pub fn not_after(mut self, time: SystemTime) -> Self {
        self.not_after = time;
        self
    }

    /// Makes the certificate one that ended yesterday.
    #[must_use]
    pub fn expired(self) -> Self {
        let now = SystemTime::now();
        self.not_before(now - 30 * DAY).not_after(now - DAY)
    }

    /// Makes the certificate one that begins tomorrow.
    #[must_use]
    pub fn not_yet_valid(self) -> Self {
        let now = SystemTime::now();
        self.not_before(now + DAY).not_after(now + 30 * DAY)
    }

    /// Sets the kind of key.
    #[must_use]
    pub fn key(mut self, key: KeyKind) -> Self {
        self.key = key;
        self
    }

    /// Sets the serial number; otherwise each certificate gets its own.
    #[must_use]
    pub fn serial(mut self, serial: u64) -> Self {
        self.serial = Some(serial);
        self
    }

    /// Makes an X.509 version 1 certificate: the common name stays, names and usages are left out.
    #[must_use]
    pub fn version_1(mut self) -> Self {
        self.version_1 = true;
        self
    }
}
