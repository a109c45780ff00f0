//! Targets of streams: a backend's host and port, as the agent knows them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Host and port of a backend behind the agent. The host is a name in lower case without a trailing dot, or an IP address in its usual spelling.
///
/// ```
/// let target: durward_link::Target = "Shop.Prod.svc.:8080".parse().unwrap();
/// assert_eq!(target.to_string(), "shop.prod.svc:8080");
/// let target: durward_link::Target = "[2001:DB8::1]:80".parse().unwrap();
/// assert_eq!(target.to_string(), "[2001:db8::1]:80");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    host: String,
    port: u16,
}

/// Kind of traffic on a stream, as far as the gateway knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// HTTP requests of the gateway's clients.
    Http,
    /// Bytes.
    Tcp,
    /// Datagrams between one client and the backend, as [capsules](crate::datagram).
    Udp,
    /// Connection of a program in the agent's cluster, which the gateway serves as a forward proxy. The agent answers once it has one.
    Out,
}

impl Kind {
    /// Returns the word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Out => "OUT",
        }
    }

    /// Returns the kind of a word on the wire.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        [Self::Http, Self::Tcp, Self::Udp, Self::Out].into_iter().find(|kind| kind.word() == word)
    }
}

/// A text that is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not HOST:PORT")]
pub struct BadTarget {
    text: String,
}

impl Target {
    /// Creates the target of a name or address.
    ///
    /// # Errors
    /// Fails if `host` is neither a DNS name nor an IP address, or `port` is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, BadTarget> {
        let bad = || BadTarget { text: format!("{host}:{port}") };
        let unbracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match unbracketed.unwrap_or(host).parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => name(host).ok_or_else(bad)?,
        };
        if port == 0 {
            return Err(bad());
        }
        Ok(Self { host, port })
    }

    /// Returns the target of streams that carry connections out of the cluster.
    #[must_use]
    pub fn out() -> Self {
        Self { host: "out.invalid".to_owned(), port: 1 }
    }

    /// Returns the name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Returns a DNS name in lower case. One of digits and dots is an address that was mistyped, or one in a spelling that programs read differently.
fn name(written: &str) -> Option<String> {
    let name = written.strip_suffix('.').unwrap_or(written).to_ascii_lowercase();
    let fits = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(inner)
            && !label.starts_with('-')
    };
    let last = name.rsplit('.').next()?;
    let numeric = last.starts_with(|first: char| first.is_ascii_digit());
    (name.len() <= 253 && name.split('.').all(fits) && !numeric).then_some(name)
}

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let bad = || BadTarget { text: text.chars().take(300).collect() };
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(bad());
        }
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        Self::new(host, port.parse().map_err(|_| bad())?)
    }
}

impl TryFrom<String> for Target {
    type Error = BadTarget;

    fn try_from(text: String) -> Result<Self, BadTarget> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_target_are_equal_and_others_are_refused() {
        let good = [
            ("my-app.shop.svc.cluster.local:8080", "my-app.shop.svc.cluster.local:8080"),
            ("My_App.:1", "my_app:1"),
            ("10.0.0.1:65535", "10.0.0.1:65535"),
            ("[::1]:80", "[::1]:80"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
        ];
        for (written, target) in good {
            assert_eq!(
                written.parse::<Target>().map(|target| target.to_string()),
                Ok(target.to_owned())
            );
        }
        let bad = [
            "",
            ":80",
            "a",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a b:1",
            "::1:80",
            "0x7f.1:80",
            "127.1:80",
            "2130706433:80",
            "a..b:1",
            "-a:1",
            "a/b:1",
            "a@b:1",
            "[::1:80",
            "é:80",
            "[a]:80",
        ];
        for written in bad {
            assert!(written.parse::<Target>().is_err(), "{written:?}");
        }
    }
}
