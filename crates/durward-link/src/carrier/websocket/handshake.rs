//! Opening handshake of RFC 6455, section 4.

use std::io;
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::super::head::{self, Head};
use super::super::{PATH, SUBPROTOCOL};
use super::{Role, WebSocket};

/// Text that RFC 6455 adds to a key.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Handshake that failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection broke, or the other end does not speak HTTP.
    #[error("the WebSocket handshake failed")]
    Io(#[from] io::Error),
    /// The gateway, or a program before it, refused.
    #[error("the WebSocket handshake was answered with status {status}")]
    Refused {
        /// Status of the answer.
        status: u16,
        /// Time that it asked to wait.
        retry_after: Option<Duration>,
    },
    /// The other end does not speak the link's protocol.
    #[error("the WebSocket handshake failed: {0}")]
    Foreign(&'static str),
}

/// Opens a WebSocket on a connection to `authority`.
///
/// # Errors
/// Fails if the other end refuses or is no gateway.
pub async fn connect<I>(mut inner: I, authority: &str) -> Result<WebSocket<I>, HandshakeError>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let key = STANDARD.encode(random::<16>()?);
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    inner.write_all(request.as_bytes()).await?;
    inner.flush().await?;
    let (head, early) = head::read(&mut inner).await?;
    match head.status() {
        Some(101) => {}
        Some(status) => {
            let seconds = head.field("retry-after").and_then(|seconds| seconds.parse().ok());
            return Err(HandshakeError::Refused {
                status,
                retry_after: seconds.map(Duration::from_secs),
            });
        }
        None => return Err(HandshakeError::Foreign("the answer is not HTTP/1.1")),
    }
    if !is_upgrade(&head) {
        return Err(HandshakeError::Foreign("the answer does not switch to websocket"));
    }
    if head.field("sec-websocket-accept") != Some(accept_key(&key).as_str()) {
        return Err(HandshakeError::Foreign("the answer is not to this request"));
    }
    if head.field("sec-websocket-protocol") != Some(SUBPROTOCOL) {
        return Err(HandshakeError::Foreign("the other end does not speak durward-link.v1"));
    }
    let seed = u32::from_ne_bytes(random::<4>()?);
    Ok(WebSocket::new(inner, Role::Client, &early, seed))
}

/// First request on a connection, as far as its head.
#[derive(Debug)]
pub struct Request {
    head: Head,
    early: Vec<u8>,
}

impl Request {
    /// Reads the head of a request.
    ///
    /// # Errors
    /// Fails if the connection breaks, or what comes is no head of HTTP/1.1.
    pub async fn read<I: AsyncRead + Unpin>(inner: &mut I) -> io::Result<Self> {
        let (head, early) = head::read(inner).await?;
        Ok(Self { head, early })
    }

    /// Returns method and target of an HTTP/1.1 request.
    #[must_use]
    pub fn method_and_target(&self) -> Option<(&str, &str)> {
        let (line, version) = self.head.first.rsplit_once(' ')?;
        line.split_once(' ').filter(|_| version == "HTTP/1.1")
    }

    /// Returns the value of a field (its name in lower case) that is there once.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// Returns true if a field is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.head.has(name)
    }

    /// Returns bytes that came after the head.
    #[must_use]
    pub fn early(&self) -> &[u8] {
        &self.early
    }
}

/// Accepts a WebSocket of an agent.
///
/// # Errors
/// Fails if the request is none for a link; it was answered with 400 or 404.
pub async fn accept<I>(mut inner: I) -> Result<WebSocket<I>, HandshakeError>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let request = Request::read(&mut inner).await?;
    accept_request(inner, request).await
}

/// Accepts a WebSocket of an agent whose request was read.
///
/// # Errors
/// Fails if the request is none for a link; it was answered with 400 or 404.
pub async fn accept_request<I>(
    mut inner: I,
    Request { head, early }: Request,
) -> Result<WebSocket<I>, HandshakeError>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let key = match wanted(&head) {
        Ok(key) => accept_key(key),
        Err((status, reason)) => {
            let answer =
                format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            inner.write_all(answer.as_bytes()).await?;
            inner.shutdown().await?;
            return Err(HandshakeError::Foreign(reason));
        }
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    inner.write_all(answer.as_bytes()).await?;
    inner.flush().await?;
    Ok(WebSocket::new(inner, Role::Server, &early, 1))
}

/// Returns the key of a request for a link.
fn wanted(head: &Head) -> Result<&str, (&'static str, &'static str)> {
    let bad = |reason| ("400 Bad Request", reason);
    if head.first != format!("GET {PATH} HTTP/1.1") {
        return Err(("404 Not Found", "the request is not for the path of a link"));
    }
    if !is_upgrade(head) || head.field("sec-websocket-version") != Some("13") {
        return Err(bad("the request is not for a WebSocket of version 13"));
    }
    if !head.lists("sec-websocket-protocol", SUBPROTOCOL) {
        return Err(bad("the request is not for durward-link.v1"));
    }
    let key = head.field("sec-websocket-key").ok_or_else(|| bad("the request has no key"))?;
    match STANDARD.decode(key) {
        Ok(bytes) if bytes.len() == 16 => Ok(key),
        _ => Err(bad("the key is not 16 bytes in base64")),
    }
}

fn is_upgrade(head: &Head) -> bool {
    head.lists("connection", "upgrade") && head.lists("upgrade", "websocket")
}

fn accept_key(key: &str) -> String {
    let digest =
        digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes());
    STANDARD.encode(digest)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_is_answered_as_in_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
