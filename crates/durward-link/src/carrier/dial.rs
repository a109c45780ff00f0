//! Dialling a gateway.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ALPN;
use super::http_proxy::HttpProxy;
use super::websocket::{self, HandshakeError, WebSocket};
use crate::bounds::UNSENT;
use crate::target::Target;

/// Kind of a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// TLS with the application protocol of the link.
    Tls,
    /// WebSocket over TLS.
    WebSocket,
}

impl Scheme {
    /// Returns the word in addresses.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::WebSocket => "wss",
        }
    }
}

/// Address of a gateway: `tls://HOST[:PORT]` or `wss://HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayUrl {
    /// Kind of the carrier.
    pub scheme: Scheme,
    /// Host and port. Default of the port: 443.
    pub place: Target,
}

/// A text that is no address of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not tls://HOST[:PORT] or wss://HOST[:PORT]")]
pub struct BadUrl(String);

impl std::str::FromStr for GatewayUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl(text.chars().take(300).collect());
        let schemes = [Scheme::Tls, Scheme::WebSocket];
        let (scheme, rest) = schemes
            .into_iter()
            .find_map(|scheme| {
                let rest = text.strip_prefix(scheme.word())?.strip_prefix("://")?;
                Some((scheme, rest.strip_suffix('/').unwrap_or(rest)))
            })
            .ok_or_else(bad)?;
        let place = match rest.parse() {
            Ok(place) => place,
            Err(_) => Target::new(rest, 443).map_err(|_| bad())?,
        };
        Ok(Self { scheme, place })
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.word(), self.place)
    }
}

/// Carrier that could not be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection to the gateway or the proxy.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The proxy refused the tunnel.
    #[error("the HTTP proxy answered with status {status}")]
    ProxyRefused {
        /// Status of the answer; 407 asks for credentials.
        status: u16,
    },
    /// The handshake failed: the certificate of one of the two, most often.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The gateway did not agree to the link's protocol.
    #[error(
        "the other end does not speak durward-link/1 by ALPN: dial a listener for agents, or use wss:// where a program looks into TLS"
    )]
    NoAlpn,
    /// The WebSocket was refused.
    #[error(transparent)]
    WebSocket(#[from] HandshakeError),
    /// Timed out.
    #[error("no connection within {} seconds", .0.as_secs())]
    Timeout(Duration),
}

impl DialError {
    /// Returns the time that the other end asked to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::WebSocket(HandshakeError::Refused { retry_after, .. }) => *retry_after,
            _ => None,
        }
    }
}

/// Dials gateways.
#[derive(Clone, Debug)]
pub struct Dialler {
    tls: Arc<ClientConfig>,
    web: Arc<ClientConfig>,
    server_name: Option<String>,
    proxy: Option<HttpProxy>,
    timeout: Duration,
}

impl Dialler {
    /// Creates a dialler. `config` has the authorities to trust and the agent's certificate; `server_name` is what the gateway's certificate must carry where
    /// that is not the host of its address.
    #[must_use]
    pub fn new(
        config: &ClientConfig,
        server_name: Option<String>,
        proxy: Option<HttpProxy>,
        timeout: Duration,
    ) -> Self {
        let with = |protocols: Vec<Vec<u8>>| {
            let mut config = config.clone();
            config.alpn_protocols = protocols;
            Arc::new(config)
        };
        let (tls, web) = (with(vec![ALPN.to_vec()]), with(vec![b"http/1.1".to_vec()]));
        Self { tls, web, server_name, proxy, timeout }
    }

    /// Dials one address.
    ///
    /// # Errors
    /// Fails if no carrier comes about within the timeout.
    pub async fn dial(&self, url: &GatewayUrl) -> Result<Dialled, DialError> {
        match tokio::time::timeout(self.timeout, self.connect(url)).await {
            Ok(dialled) => dialled,
            Err(_) => Err(DialError::Timeout(self.timeout)),
        }
    }

    /// Sends one HTTP request to an address over TLS, and returns what comes until the connection ends, `most` bytes at most.
    ///
    /// # Errors
    /// Fails if there is no whole answer within the timeout.
    pub async fn ask(
        &self,
        url: &GatewayUrl,
        request: &[u8],
        most: u64,
    ) -> Result<Vec<u8>, DialError> {
        let asking = async {
            let mut stream = self.secured(&url.place, &self.web).await?;
            stream.write_all(request).await.map_err(DialError::Connect)?;
            stream.flush().await.map_err(DialError::Connect)?;
            let mut answer = Vec::new();
            let read = stream.take(most).read_to_end(&mut answer).await;
            read.map_err(DialError::Connect)?;
            Ok(answer)
        };
        match tokio::time::timeout(self.timeout, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(DialError::Timeout(self.timeout)),
        }
    }

    /// Connects to a place and agrees on TLS.
    async fn secured(
        &self,
        place: &Target,
        config: &Arc<ClientConfig>,
    ) -> Result<TlsStream<TcpStream>, DialError> {
        let stream = match &self.proxy {
            Some(proxy) => proxy.tunnel(&place.to_string()).await?,
            None => {
                let connecting = TcpStream::connect((place.host(), place.port()));
                connecting.await.map_err(DialError::Connect)?
            }
        };
        stream.set_nodelay(true).map_err(DialError::Connect)?;
        // Without it bulk fills the socket, and a small stream waits behind that. Not every kernel has it.
        let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
        let name = self.server_name.as_deref().unwrap_or_else(|| place.host()).to_owned();
        let name = ServerName::try_from(name)
            .map_err(|error| DialError::Tls(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let connector = TlsConnector::from(Arc::clone(config));
        connector.connect(name, stream).await.map_err(DialError::Tls)
    }

    async fn connect(&self, url: &GatewayUrl) -> Result<Dialled, DialError> {
        let config = match url.scheme {
            Scheme::Tls => &self.tls,
            Scheme::WebSocket => &self.web,
        };
        let stream = self.secured(&url.place, config).await?;
        match url.scheme {
            Scheme::Tls if stream.get_ref().1.alpn_protocol() != Some(ALPN) => {
                Err(DialError::NoAlpn)
            }
            Scheme::Tls => Ok(Dialled::Tls(Box::new(stream))),
            Scheme::WebSocket => {
                let socket = websocket::connect(stream, &url.place.to_string()).await?;
                Ok(Dialled::WebSocket(Box::new(socket)))
            }
        }
    }
}

/// Carrier that was dialled.
#[derive(Debug)]
pub enum Dialled {
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
    /// WebSocket over TLS.
    WebSocket(Box<WebSocket<TlsStream<TcpStream>>>),
}

impl AsyncRead for Dialled {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::WebSocket(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::WebSocket(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::WebSocket(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::WebSocket(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_gateways_say_their_carrier() {
        let good = [
            ("tls://link.example", "tls://link.example:443"),
            ("wss://link.example:8443/", "wss://link.example:8443"),
            ("tls://192.0.2.1", "tls://192.0.2.1:443"),
            ("tls://[2001:db8::1]:7443", "tls://[2001:db8::1]:7443"),
            ("tls://[2001:db8::1]", "tls://[2001:db8::1]:443"),
        ];
        for (written, url) in good {
            assert_eq!(
                written.parse::<GatewayUrl>().map(|url| url.to_string()),
                Ok(url.to_owned())
            );
        }
        for bad in
            ["link.example", "http://link.example", "ws://link.example", "tls://", "tls://a/b"]
        {
            assert!(bad.parse::<GatewayUrl>().is_err(), "{bad}");
        }
    }
}
