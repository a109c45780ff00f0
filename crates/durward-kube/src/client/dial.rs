//! One new connection to the API server: TCP, TLS, and the HTTP version that both sides speak.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::Config;
use kube::client::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::reach::Reach;
use super::tls;
use super::transport::TransportError;

/// Bytes that one stream may have under way.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes that a connection may have under way: no less than the windows of all its streams, or one reader that is slow would stop the others.
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;
/// Time between pings. A connection whose peer is gone is noticed after this time and [`PING_TIMEOUT`].
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The sending half of a connection.
pub(super) enum Dialled {
    /// Many requests at once.
    Http2(http2::SendRequest<Body>),
    /// One request at a time.
    Http1(http1::SendRequest<Body>),
}

/// Connects to the server of `config`, at an address that `reach` allows. The connection runs in `tasks`.
pub(super) async fn dial(
    config: &Config,
    reach: Option<&Reach>,
    tasks: &mut JoinSet<()>,
) -> Result<Dialled, TransportError> {
    let url = &config.cluster_url;
    let is_tls = url.scheme_str() != Some("http");
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let socket = connect(host, port, reach).await?;
    socket.set_nodelay(true).map_err(TransportError::Connect)?;
    if !is_tls {
        return http1(socket, tasks).await;
    }
    let tls = TlsConnector::from(tls::client_config(config)?)
        .connect(tls::server_name(config)?, socket)
        .await
        .map_err(TransportError::Tls)?;
    if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2(tls, tasks).await
    } else {
        http1(tls, tasks).await
    }
}

async fn connect(
    host: &str,
    port: u16,
    reach: Option<&Reach>,
) -> Result<TcpStream, TransportError> {
    let Some(reach) = reach else {
        return TcpStream::connect((host, port)).await.map_err(TransportError::Connect);
    };
    // Resolved once: another answer of DNS a moment later is not dialled.
    let found = lookup_host((host, port)).await.map_err(TransportError::Connect)?;
    let found: Vec<SocketAddr> = found.collect();
    if let Some(refused) = found.iter().find(|address| !reach.allows(address.ip())) {
        return Err(TransportError::OutOfReach(refused.ip()));
    }
    TcpStream::connect(&*found).await.map_err(TransportError::Connect)
}

async fn http2<T>(io: T, tasks: &mut JoinSet<()>) -> Result<Dialled, TransportError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(io))
        .await
        .map_err(TransportError::Http)?;
    tasks.spawn(async move { ended(connection.await) });
    Ok(Dialled::Http2(sender))
}

async fn http1<T>(io: T, tasks: &mut JoinSet<()>) -> Result<Dialled, TransportError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(io)).await.map_err(TransportError::Http)?;
    tasks.spawn(async move { ended(connection.await) });
    Ok(Dialled::Http1(sender))
}

/// The requests on the connection report its end too; here it is for whoever looks at connections.
fn ended(end: Result<(), hyper::Error>) {
    match end {
        Ok(()) => tracing::debug!("connection to the API server closed"),
        Err(error) => tracing::debug!(%error, "connection to the API server failed"),
    }
}
