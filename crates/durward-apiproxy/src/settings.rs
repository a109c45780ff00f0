//! Settings of the proxy in a tenant cluster.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use crate::http_proxy::HttpProxy;
use crate::resolve::Resolution;

/// ALPN protocol of the outer connection: an API client never offers it, so one port of the gateway serves both.
pub const ALPN: &[u8] = b"durward-api/1";

/// How the proxy works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the hosted API server: SNI of the outer connection, and AUTHORITY of the PROXY header. Lower case.
    pub server_name: String,
    /// Gateways in the order of preference.
    pub gateways: Vec<Target>,
    /// How the gateways' names become addresses.
    pub resolution: Resolution,
    /// Proxy of the network that connections to the gateways go through.
    pub http_proxy: Option<HttpProxy>,
    /// What travels to the gateway.
    pub carrier: Carrier,
    /// Bounds.
    pub limits: Limits,
}

/// What travels to the gateway.
#[derive(Clone, Debug)]
pub enum Carrier {
    /// Outer TLS, then a PROXY v2 header and the client's bytes untouched.
    OuterTls {
        /// How the gateway proves what it is.
        trust: Trust,
        /// Client certificate shown to the gateway.
        identity: IdentityFiles,
    },
    /// A PROXY v2 header and the client's bytes untouched, without outer TLS. The gateway accepts this from trusted networks only.
    ProxyHeader,
    /// The client's TLS ends here, and new TLS begins; client certificates of API clients are lost.
    Reoriginate {
        /// Certificate of the API server, shown to clients.
        serving: IdentityFiles,
        /// How the API server behind the ingress controller proves what it is.
        trust: Trust,
    },
}

/// How a TLS server is verified. Each variant verifies something: there is none that verifies nothing.
#[derive(Clone, Debug)]
pub enum Trust {
    /// A chain to one of the authorities in this PEM file, and the server's name.
    Authorities(PathBuf),
    /// The server's public key has one of these SHA-256 digests (of its `SubjectPublicKeyInfo`, DER). Name and chain are not looked at.
    Pins(Vec<KeyPin>),
}

/// SHA-256 digest of a public key (`SubjectPublicKeyInfo`, DER).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPin(pub [u8; 32]);

/// A certificate chain and its private key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The chain, the leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// DNS name in lower case, or IP address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Bounds of the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; `None` for no bound.
    pub connections: Option<usize>,
    /// Connections at once of one client address; `None` for no bound.
    pub per_client: Option<usize>,
    /// Time for one gateway to accept a connection, TLS included.
    pub attempt: Duration,
    /// Time after which the next gateway is tried beside one that has not answered.
    pub stagger: Duration,
    /// Time for any gateway to accept a connection.
    pub connect: Duration,
    /// Time without a byte in either direction after which a connection is closed. Watches are silent for long.
    pub idle: Duration,
    /// Time between two checks of a gateway that does not answer; one that answers is checked after six of them.
    pub check: Duration,
}

/// Descriptors that no connection may take: listeners, the admin listener, checks of gateways, watches of the API.
const SPARE: usize = 128;
/// Most connections of one client by default: the kernel has about 28,000 ports for connections to one gateway.
const PER_CLIENT: usize = 7_000;

impl Limits {
    /// Fills in the bounds on connections that are not set, for a process that may have this many descriptors. A client has a quarter of all connections:
    /// one pod must not keep the others from the API.
    #[must_use]
    pub fn within(self, descriptors: usize) -> Self {
        // One towards the client, and one towards the gateway.
        let all =
            self.connections.unwrap_or_else(|| (descriptors.saturating_sub(SPARE) / 2).max(1));
        let per_client = self.per_client.unwrap_or_else(|| (all / 4).clamp(1, PER_CLIENT));
        Self { connections: Some(all), per_client: Some(per_client), ..self }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: None,
            per_client: None,
            attempt: Duration::from_secs(5),
            stagger: Duration::from_millis(300),
            connect: Duration::from_secs(15),
            idle: Duration::from_hours(24),
            check: Duration::from_secs(5),
        }
    }
}

/// A text that is no [`Target`] or [`KeyPin`], with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Target {
    /// Reads `HOST`, `HOST:PORT`, `IPV6` or `[IPV6]:PORT`.
    ///
    /// # Errors
    /// Fails if the host is empty or no name, or the port is none.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, Malformed> {
        let fault = || Malformed(format!("{text:?} is not HOST or HOST:PORT"));
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { host: address.ip().to_string(), port: address.port() });
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Self { host: ip.to_string(), port: default_port });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| fault())?),
            None => (text, default_port),
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if port == 0 || !is_host_name(&host) {
            return Err(fault());
        }
        Ok(Self { host, port })
    }

    /// Returns the host as an address, if it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.port)),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Returns whether `name` is a host name of RFC 1123 in lower case.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

impl FromStr for KeyPin {
    type Err = Malformed;

    /// Reads `sha256/BASE64`, as HTTP public key pinning (RFC 7469) writes digests, or 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        use base64::Engine as _;
        let fault = || Malformed(format!("{text:?} is not sha256/BASE64 or 64 hexadecimal digits"));
        let bytes = match text.strip_prefix("sha256/") {
            Some(base64) => base64::prelude::BASE64_STANDARD.decode(base64).map_err(|_| fault())?,
            None => hexadecimal(text).ok_or_else(fault)?,
        };
        Ok(Self(bytes.try_into().map_err(|_| fault())?))
    }
}

impl fmt::Display for KeyPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::Engine as _;
        write!(f, "sha256/{}", base64::prelude::BASE64_STANDARD.encode(self.0))
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_with_or_without_a_port() {
        let parsed = |text: &str| Target::parse(text, 443).map(|target| target.to_string());

        assert_eq!(parsed("API.acme.example."), Ok("api.acme.example:443".to_owned()));
        assert_eq!(parsed("api.acme.example:6443"), Ok("api.acme.example:6443".to_owned()));
        assert_eq!(parsed("192.0.2.1"), Ok("192.0.2.1:443".to_owned()));
        assert_eq!(parsed("[2001:db8::1]:8443"), Ok("[2001:db8::1]:8443".to_owned()));
        assert_eq!(parsed("2001:db8::1"), Ok("[2001:db8::1]:443".to_owned()));
        for bad in ["", ":443", "a b", "api:0", "api:x", "-api", "https://api"] {
            assert!(parsed(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bounds_that_are_not_set_leave_room_for_other_clients_and_for_checks() {
        let bounds = |connections, per_client, descriptors| {
            let limits = Limits { connections, per_client, ..Limits::default() };
            let limits = limits.within(descriptors);
            (limits.connections.unwrap(), limits.per_client.unwrap())
        };

        assert_eq!(bounds(None, None, 1_024), (448, 112));
        assert_eq!(bounds(None, None, 1 << 20), (524_224, 7_000));
        assert_eq!(bounds(Some(100), None, 1_024), (100, 25));
        assert_eq!(bounds(Some(100), Some(90), 1_024), (100, 90));
        assert_eq!(bounds(None, None, 10), (1, 1));
    }

    #[test]
    fn a_pin_is_written_in_base64_or_hexadecimal() {
        let pin = KeyPin([0xab; 32]);

        assert_eq!(pin.to_string().parse(), Ok(pin));
        assert_eq!("ab".repeat(32).parse(), Ok(pin));
        for bad in ["", "sha256/", "sha256/q6s=", "zz", &"ab".repeat(31)] {
            assert!(bad.parse::<KeyPin>().is_err(), "{bad:?}");
        }
    }
}
