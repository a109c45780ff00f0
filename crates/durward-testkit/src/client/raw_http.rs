//! An HTTP/1 client that sends the bytes it is given and reads responses strictly.
//! It builds no request beyond `get`, because what a test sends is the test.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;

use super::response::{self, RawResponse};
use super::wire::{ReadError, Wire};
use super::{tcp_connect, tls_connect};
use crate::transport::Transport;

/// One client connection.
pub struct RawHttp {
    wire: Wire,
}

impl RawHttp {
    /// Connects without TLS.
    ///
    /// # Errors
    /// See [`tcp_connect`].
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::over(tcp_connect(address, None).await?))
    }

    /// Connects without TLS from a chosen address.
    ///
    /// # Errors
    /// See [`tcp_connect`].
    pub async fn connect_from(source: IpAddr, address: SocketAddr) -> io::Result<Self> {
        Ok(Self::over(tcp_connect(address, Some(source)).await?))
    }

    /// Connects with TLS; see [`tls_connect`] for the names.
    ///
    /// # Errors
    /// See [`tls_connect`].
    pub async fn connect_tls(
        address: SocketAddr,
        source: Option<IpAddr>,
        config: impl Into<Arc<ClientConfig>>,
        server_name: Option<&str>,
    ) -> io::Result<Self> {
        Ok(Self::over(tls_connect(address, source, config, server_name).await?))
    }

    /// Speaks over a connection made elsewhere.
    #[must_use]
    pub fn over(transport: impl Into<Transport>) -> Self {
        Self { wire: Wire::new(transport.into()) }
    }

    /// Sets how long each read and write may wait; 10 seconds at first.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.wire.deadline = deadline;
        self
    }

    /// The connection below.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.wire.transport
    }

    /// The address of this end.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.wire.transport.local_addr()
    }

    /// Sends exactly these bytes.
    ///
    /// # Errors
    /// When the peer no longer takes them.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.send(bytes.as_ref()).await
    }

    /// Sends these bytes in pieces, with a pause after each.
    ///
    /// # Errors
    /// When the peer no longer takes them.
    pub async fn send_slowly(
        &mut self,
        bytes: &[u8],
        piece: usize,
        pause: Duration,
    ) -> io::Result<()> {
        for piece in bytes.chunks(piece) {
            self.wire.send(piece).await?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Sends a plain GET and reads its response.
    ///
    /// # Errors
    /// When the request cannot be sent or no well-formed response comes.
    pub async fn get(&mut self, host: &str, path: &str) -> Result<RawResponse, ReadError> {
        self.exchange(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
    }

    /// Sends these bytes and reads one response. The method is taken from their first word.
    ///
    /// # Errors
    /// When no well-formed response comes; a response that arrives although the sending failed is returned.
    pub async fn exchange(&mut self, request: impl AsRef<[u8]>) -> Result<RawResponse, ReadError> {
        let request = request.as_ref();
        let method = request.split(|&byte| byte == b' ').next().unwrap_or_default();
        let sent = self.wire.send(request).await;
        match (self.read_response_to(&String::from_utf8_lossy(method)).await, sent) {
            (Err(ReadError::Closed), Err(source)) => Err(ReadError::Broken { source }),
            (read, _) => read,
        }
    }

    /// Reads the response to a request that was no HEAD and no CONNECT, with the interim responses before it.
    ///
    /// # Errors
    /// When no well-formed response comes.
    pub async fn read_response(&mut self) -> Result<RawResponse, ReadError> {
        response::read(&mut self.wire, "GET").await
    }

    /// Reads the response to a request with this method, which decides whether a body follows.
    ///
    /// # Errors
    /// When no well-formed response comes.
    pub async fn read_response_to(&mut self, method: &str) -> Result<RawResponse, ReadError> {
        response::read(&mut self.wire, method).await
    }

    /// Reads whatever comes next; empty at the end of the stream.
    ///
    /// # Errors
    /// When the connection breaks or nothing comes in time.
    pub async fn read_some(&mut self) -> Result<Vec<u8>, ReadError> {
        self.wire.some().await
    }

    /// Reads exactly this many bytes.
    ///
    /// # Errors
    /// When fewer come.
    pub async fn read_exactly(&mut self, count: usize) -> Result<Vec<u8>, ReadError> {
        self.wire.exactly(count, "bytes").await
    }

    /// Reads everything until the peer ends the connection in order.
    ///
    /// # Errors
    /// When the connection breaks (a reset is an error) or nothing comes in time.
    pub async fn read_until_close(&mut self) -> Result<Vec<u8>, ReadError> {
        self.wire.until_end().await
    }

    /// Whether the peer has ended the connection, by order or by a reset, without another byte. Waits for the deadline.
    pub async fn is_closed(&mut self) -> bool {
        match self.wire.some().await {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => error.is_end(),
        }
    }

    /// Ends our direction and leaves the other open.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn half_close(&mut self) -> io::Result<()> {
        self.wire.transport.shutdown().await
    }

    /// Ends the connection with a reset (RST).
    pub fn reset(self) {
        self.wire.transport.reset_on_drop();
    }

    /// Gives the connection back, for example after a 101. Bytes read ahead are lost; a server that speaks first
    /// after an upgrade is read with `read_some`.
    #[must_use]
    pub fn into_transport(self) -> Transport {
        self.wire.transport
    }
}
