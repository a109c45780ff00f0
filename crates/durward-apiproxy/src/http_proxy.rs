//! The network's own HTTP proxy on the way to a gateway: `HTTPS_PROXY` and `NO_PROXY`.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use ipnet::IpNet;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use crate::settings::{Malformed, Target};
use crate::stream::BoxStream;

/// Longest head of an answer to CONNECT that is read.
const LONGEST_HEAD: usize = 16 << 10;

/// A proxy that is asked with CONNECT.
#[derive(Clone)]
pub struct HttpProxy {
    /// Address of the proxy.
    pub target: Target,
    /// True if the proxy is reached over TLS.
    pub tls: bool,
    /// Value of `Proxy-Authorization`.
    authorization: Option<Arc<str>>,
    exceptions: Vec<Exception>,
}

/// A destination that is reached without the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    All,
    Network(IpNet),
    /// A name and the names below it.
    Domain(String),
}

impl std::fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let authorization = self.authorization.as_ref().map(|_| "redacted");
        f.debug_struct("HttpProxy")
            .field("target", &self.target)
            .field("tls", &self.tls)
            .field("authorization", &authorization)
            .field("exceptions", &self.exceptions)
            .finish()
    }
}

/// A reason why the proxy did not connect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the connection to the HTTP proxy broke")]
    Broken(#[from] std::io::Error),
    #[error("the HTTP proxy refuses CONNECT with status {0}")]
    Refused(u16),
    #[error("the HTTP proxy's answer to CONNECT cannot be read")]
    Unreadable,
}

impl HttpProxy {
    /// Reads the values of `HTTPS_PROXY` and `NO_PROXY`; `None` if there is no proxy.
    ///
    /// # Errors
    /// Fails if `https_proxy` is no URL of an HTTP proxy. The message does not repeat a password.
    pub fn parse(https_proxy: &str, no_proxy: &str) -> Result<Option<Self>, Malformed> {
        let fault = || {
            Malformed(
                "HTTPS_PROXY is not http://[USER:PASSWORD@]HOST[:PORT] or https://…".to_owned(),
            )
        };
        let url = https_proxy.trim();
        if url.is_empty() {
            return Ok(None);
        }
        let (tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(fault()),
            None => (false, url),
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let target = Target::parse(host, if tls { 443 } else { 80 }).map_err(|_| fault())?;
        let authorization = user.map(|user| {
            let plain = unescape(user);
            Arc::from(format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(plain)))
        });
        let exceptions =
            no_proxy.split(',').filter_map(|text| Exception::parse(text.trim())).collect();
        Ok(Some(Self { target, tls, authorization, exceptions }))
    }

    /// Returns whether `target` is reached through the proxy.
    #[must_use]
    pub fn applies_to(&self, target: &Target) -> bool {
        !self.exceptions.iter().any(|exception| exception.covers(target))
    }

    /// Asks the proxy at the other end of `stream` for a connection to `target`.
    pub(crate) async fn connect(
        &self,
        mut stream: BoxStream,
        target: &Target,
        tls: &TlsConnector,
    ) -> Result<BoxStream, ConnectError> {
        if self.tls {
            let name = ServerName::try_from(self.target.host.clone())
                .map_err(|_| ConnectError::Unreadable)?;
            stream = Box::new(tls.connect(name, stream).await?);
        }
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let head = read_head(&mut stream).await?;
        match status(&head) {
            Some(200..=299) => Ok(stream),
            Some(status) => Err(ConnectError::Refused(status)),
            None => Err(ConnectError::Unreadable),
        }
    }
}

/// Reads a head byte by byte, because the byte after it belongs to the tunnel.
async fn read_head(stream: &mut BoxStream) -> Result<Vec<u8>, ConnectError> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == LONGEST_HEAD {
            return Err(ConnectError::Unreadable);
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "" => None,
            "*" => Some(Self::All),
            text => {
                let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
                let domain = || text.trim_start_matches("*.").trim_start_matches('.');
                Some(
                    network.map_or_else(
                        |_| Self::Domain(domain().to_ascii_lowercase()),
                        Self::Network,
                    ),
                )
            }
        }
    }

    fn covers(&self, target: &Target) -> bool {
        match self {
            Self::All => true,
            Self::Network(network) => target.ip().is_some_and(|ip| network.contains(&ip)),
            Self::Domain(domain) => {
                let above = target.host.strip_suffix(domain.as_str());
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
        }
    }
}

/// Resolves `%XX` of a URL's user information.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        let escaped = (byte == b'%').then(|| {
            let mut ahead = bytes.clone();
            let digits = [ahead.next()?, ahead.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, ahead))
        });
        match escaped.flatten() {
            Some((value, ahead)) => {
                plain.push(value);
                bytes = ahead;
            }
            None => plain.push(byte),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(url: &str, no_proxy: &str) -> HttpProxy {
        HttpProxy::parse(url, no_proxy).unwrap().unwrap()
    }

    #[test]
    fn the_url_has_a_scheme_a_user_and_a_port_or_not() {
        let plain = proxy("proxy.example", "");
        let full = proxy("https://me:p%40ss@proxy.example:3129/", "");

        assert_eq!((plain.target.to_string(), plain.tls), ("proxy.example:80".to_owned(), false));
        assert_eq!((full.target.to_string(), full.tls), ("proxy.example:3129".to_owned(), true));
        assert_eq!(full.authorization.as_deref(), Some("Basic bWU6cEBzcw=="));
        assert!(!format!("{full:?}").contains("bWU6"));
        assert!(HttpProxy::parse(" ", "").unwrap().is_none());
        let fault = HttpProxy::parse("socks5://me:secret@proxy", "").unwrap_err();
        assert!(!fault.to_string().contains("secret"));
    }

    #[test]
    fn no_proxy_names_domains_networks_or_everything() {
        let some = proxy("http://p.example", "corp.example, .intra,10.0.0.0/8,192.0.2.7");
        let applies = |host: &str| some.applies_to(&Target::parse(host, 443).unwrap());

        for direct in ["corp.example", "api.corp.example", "a.intra", "10.1.2.3", "192.0.2.7"] {
            assert!(!applies(direct), "{direct}");
        }
        for through in ["notcorp.example", "api.example", "192.0.2.8", "172.16.0.1"] {
            assert!(applies(through), "{through}");
        }
        assert!(!proxy("p", "*").applies_to(&Target::parse("a.b", 1).unwrap()));
    }

    #[test]
    fn the_status_is_the_second_word_of_an_http1_answer() {
        assert_eq!(status(b"HTTP/1.1 200 Connection established\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 407 No\r\n\r\n"), Some(407));
        assert_eq!(status(b"SSH-2.0-x 200\r\n\r\n"), None);
    }
}
