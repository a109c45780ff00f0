//! HTTP proxies on an agent's way out, as `HTTPS_PROXY` names them.

use std::fmt;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::dial::DialError;
use super::head;

/// HTTP proxy that is asked for a tunnel by CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpProxy {
    host: String,
    port: u16,
    /// `user:password`.
    credentials: Option<String>,
}

/// A text that names no proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proxy is not of the form http://[USER:PASSWORD@]HOST[:PORT]")]
pub struct BadProxy;

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = self.credentials.as_ref().map(|_| "redacted");
        let mut shown = f.debug_struct("HttpProxy");
        shown.field("host", &self.host).field("port", &self.port);
        shown.field("credentials", &credentials).finish()
    }
}

impl HttpProxy {
    /// Reads a proxy as `HTTPS_PROXY` has it. User and password may be percent-encoded.
    ///
    /// # Errors
    /// Fails if the text is of another form. The error does not repeat it, since it may have a password.
    pub fn parse(text: &str) -> Result<Self, BadProxy> {
        let rest = text.strip_prefix("http://").unwrap_or(text);
        if rest.contains("://") {
            return Err(BadProxy);
        }
        let rest = rest.split('/').next().unwrap_or(rest);
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(decoded(credentials).ok_or(BadProxy)?), place),
            None => (None, rest),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| BadProxy)?)
            }
            _ => (place, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || credentials.as_ref().is_some_and(|both| !both.contains(':')) {
            return Err(BadProxy);
        }
        Ok(Self { host, port, credentials })
    }

    /// Returns host and port of the proxy.
    #[must_use]
    pub fn place(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Opens a tunnel to `authority`.
    pub(super) async fn tunnel(&self, authority: &str) -> Result<TcpStream, DialError> {
        let mut stream = TcpStream::connect(self.place()).await.map_err(DialError::Connect)?;
        let authorization = self.credentials.as_ref().map(|credentials| {
            format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(credentials))
        });
        let request = format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{}\r\n",
            authorization.unwrap_or_default()
        );
        stream.write_all(request.as_bytes()).await.map_err(DialError::Connect)?;
        let (head, rest) = head::read(&mut stream).await.map_err(DialError::Connect)?;
        match head.status() {
            // A server that speaks first would not be one of TLS.
            Some(200..=299) if rest.is_empty() => Ok(stream),
            Some(status @ 300..) => Err(DialError::ProxyRefused { status }),
            _ => Err(DialError::Connect(io::ErrorKind::InvalidData.into())),
        }
    }
}

/// Decodes percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_as_the_environment_has_them() {
        let read = |text| {
            HttpProxy::parse(text).map(|proxy| (proxy.host.clone(), proxy.port, proxy.credentials))
        };
        let place = |host: &str, port, credentials: Option<&str>| {
            Ok((host.to_owned(), port, credentials.map(str::to_owned)))
        };
        assert_eq!(read("http://proxy.corp:3128"), place("proxy.corp", 3128, None));
        assert_eq!(read("proxy.corp:3128/"), place("proxy.corp", 3128, None));
        assert_eq!(read("http://10.0.0.1"), place("10.0.0.1", 80, None));
        assert_eq!(read("http://[fd00::1]:8080"), place("fd00::1", 8080, None));
        assert_eq!(read("http://me:p%40ss@proxy:1"), place("proxy", 1, Some("me:p@ss")));
        for bad in [
            "",
            "https://proxy:1",
            "socks5://proxy:1",
            "http://proxy:x",
            "http://me@proxy:1",
            "http://a%4:b@c:1",
        ] {
            assert_eq!(read(bad), Err(BadProxy), "{bad}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let proxy = HttpProxy::parse("http://me:secret@proxy:1").unwrap();

        assert!(!format!("{proxy:?}").contains("secret"));
    }
}
