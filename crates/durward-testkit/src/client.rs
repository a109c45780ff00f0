//! Clients that say exactly what a test wants said: raw HTTP/1, HTTP/2, TLS and PROXY headers.
//! They never retry, never pool and never follow anything.

pub mod client_hello;
mod h2_client;
pub mod h2_frames;
mod proxy_header;
mod raw_http;
mod response;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use h2_client::{H2Client, H2Error, H2Response};
pub use proxy_header::ProxyHeader;
pub use raw_http::RawHttp;
pub use response::{Interim, RawResponse};
pub use wire::ReadError;

/// How long a client waits for one connect, handshake, read or response unless told otherwise.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Opens a TCP connection, from a chosen address when one is given.
///
/// # Errors
/// When the connection is refused, or not made within [`DEADLINE`].
pub async fn tcp_connect(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = within(socket.connect(address)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens a TLS connection.
///
/// With a DNS name that name is sent and checked. With an IP literal no name is sent and the literal is checked.
/// Without a name none is sent and the address itself is checked. To send one name and check another, use
/// `client_config_expecting`; to send a name no library would, `client_hello`.
///
/// # Errors
/// When the connection is refused, a certificate is not accepted by either side before the handshake ends, or it all
/// takes longer than [`DEADLINE`]. A TLS 1.3 server refuses a client certificate only after this has returned.
pub async fn tls_connect(
    address: SocketAddr,
    source: Option<IpAddr>,
    config: impl Into<Arc<ClientConfig>>,
    server_name: Option<&str>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = tcp_connect(address, source).await?;
    tls_over(stream, config, server_name).await
}

/// Speaks TLS over a connection made elsewhere; see [`tls_connect`] for the names.
///
/// # Errors
/// When the handshake fails or takes too long.
pub async fn tls_over(
    stream: TcpStream,
    config: impl Into<Arc<ClientConfig>>,
    server_name: Option<&str>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = match server_name {
        None => ServerName::from(stream.peer_addr()?.ip()),
        Some(name) => ServerName::try_from(name.to_owned()).map_err(io::Error::other)?,
    };
    within(TlsConnector::from(config.into()).connect(name, stream)).await
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(DEADLINE, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
