//! An HTTP/2 client for whole exchanges, many at a time, trailers and resets included.
//! For frames no library would send, see `h2_frames`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Uri};
use rustls::ClientConfig;
use tokio::task::JoinHandle;

use super::{DEADLINE, tcp_connect, tls_connect};
use crate::origin::Echo;
use crate::transport::Transport;

/// One HTTP/2 connection; exchanges run side by side on clones.
#[derive(Clone)]
pub struct H2Client {
    requests: SendRequest<Bytes>,
    scheme: &'static str,
    authority: String,
    deadline: Duration,
    connection: Arc<Driver>,
}

/// The task that moves the connection's frames; it ends with the last clone.
struct Driver(
    tokio::sync::Mutex<Option<JoinHandle<Result<(), h2::Error>>>>,
    tokio::task::AbortHandle,
);

impl Drop for Driver {
    fn drop(&mut self) {
        self.1.abort();
    }
}

/// A complete response.
#[derive(Clone, Debug)]
pub struct H2Response {
    /// The status code.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// Trailer fields; none when the stream ended without any.
    pub trailers: Option<HeaderMap>,
}

impl H2Response {
    /// The first value of a header field, when it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The first value of a trailer field, when it is text.
    #[must_use]
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.as_ref()?.get(name)?.to_str().ok()
    }

    /// The body as text; bytes outside UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as the request an origin saw.
    ///
    /// # Panics
    /// When it is not an [`Echo`]; the message carries its text.
    #[must_use]
    #[track_caller]
    pub fn echo(&self) -> Echo {
        Echo::parse(&self.body)
    }
}

impl H2Client {
    /// Connects without TLS, by prior knowledge.
    ///
    /// # Errors
    /// When the connection or the preface fails.
    pub async fn h2c(address: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let stream = tcp_connect(address, source).await?;
        Self::over(stream, &Builder::new(), &address.to_string()).await
    }

    /// Connects with TLS and ALPN `h2`; see [`tls_connect`] for the names. Requests carry the name, or the address.
    ///
    /// # Errors
    /// When the handshake fails or the server does not choose `h2`.
    pub async fn tls(
        address: SocketAddr,
        source: Option<IpAddr>,
        mut config: ClientConfig,
        server_name: Option<&str>,
    ) -> io::Result<Self> {
        config.alpn_protocols = vec![b"h2".to_vec()];
        let transport = Transport::from(tls_connect(address, source, config, server_name).await?);
        if transport.alpn() != Some(b"h2") {
            return Err(io::Error::other("the server did not choose h2"));
        }
        let authority = server_name.map_or_else(|| address.to_string(), str::to_owned);
        Self::over(transport, &Builder::new(), &authority).await
    }

    /// Speaks over a connection made elsewhere, with settings of the caller's.
    ///
    /// # Errors
    /// When the preface cannot be sent.
    pub async fn over(
        transport: impl Into<Transport>,
        builder: &Builder,
        authority: &str,
    ) -> io::Result<Self> {
        let transport = transport.into();
        let scheme = if transport.tls().is_some() { "https" } else { "http" };
        let (requests, connection) =
            builder.handshake(transport).await.map_err(io::Error::other)?;
        let task = tokio::spawn(connection);
        let abort = task.abort_handle();
        Ok(Self {
            requests,
            scheme,
            authority: authority.to_owned(),
            deadline: DEADLINE,
            connection: Arc::new(Driver(tokio::sync::Mutex::new(Some(task)), abort)),
        })
    }

    /// Sets the authority of requests built here.
    #[must_use]
    pub fn authority(mut self, authority: &str) -> Self {
        authority.clone_into(&mut self.authority);
        self
    }

    /// Sets how long a whole exchange may take; 10 seconds at first.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// A request for a path on this connection's authority, to add header fields to.
    #[must_use]
    pub fn request(&self, method: Method, path: &str) -> Request<()> {
        let uri = format!("{}://{}{path}", self.scheme, self.authority);
        let uri: Uri = uri.parse().unwrap_or_else(|error| panic!("{uri}: {error}"));
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request
    }

    /// Sends a GET and reads its response.
    ///
    /// # Errors
    /// When the stream or the connection fails; `io::ErrorKind::TimedOut` when the deadline passes.
    pub async fn get(&self, path: &str) -> Result<H2Response, H2Error> {
        self.send(self.request(Method::GET, path), Bytes::new(), None).await
    }

    /// Sends a POST with a body and reads its response.
    ///
    /// # Errors
    /// See `get`.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Result<H2Response, H2Error> {
        self.send(self.request(Method::POST, path), body.into(), None).await
    }

    /// Sends any request with a body and perhaps trailers, and reads its response.
    ///
    /// # Errors
    /// See `get`.
    pub async fn send(
        &self,
        request: Request<()>,
        body: Bytes,
        trailers: Option<HeaderMap>,
    ) -> Result<H2Response, H2Error> {
        let exchange = async {
            let bodiless = body.is_empty() && trailers.is_none();
            let (response, stream) = self.open(request, bodiless).await?;
            // The response is read while the body is sent: a server that streams back must not fill up both windows.
            let sending = async {
                if bodiless {
                    return Ok(());
                }
                send_body(stream, body, trailers).await
            };
            let (sent, received) = tokio::join!(sending, receive(response));
            // A server may answer without reading the whole body.
            received.or_else(|error| sent.and(Err(error)))
        };
        match tokio::time::timeout(self.deadline, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(H2Error::Timeout { deadline: self.deadline }),
        }
    }

    /// Begins an exchange and leaves its two directions to the caller.
    ///
    /// # Errors
    /// When the connection takes no further stream.
    pub async fn open(
        &self,
        request: Request<()>,
        end_of_stream: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), H2Error> {
        let mut requests = self.requests.clone().ready().await?;
        Ok(requests.send_request(request, end_of_stream)?)
    }

    /// Waits until the connection has ended and says how.
    ///
    /// # Errors
    /// When it did not end in order.
    ///
    /// # Panics
    /// When it is called twice.
    pub async fn closed(&self) -> Result<(), H2Error> {
        let task = self.connection.0.lock().await.take().expect("`closed` is called once");
        match tokio::time::timeout(self.deadline, task).await {
            Ok(Ok(ended)) => Ok(ended?),
            Ok(Err(_aborted)) => Ok(()),
            Err(_) => Err(H2Error::Timeout { deadline: self.deadline }),
        }
    }
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum H2Error {
    /// The stream or the connection failed.
    #[error("HTTP/2 failed")]
    Protocol {
        /// What the peer or the library said.
        #[from]
        source: h2::Error,
    },
    /// The exchange took too long.
    #[error("no complete response within {deadline:?}")]
    Timeout {
        /// How long was waited.
        deadline: Duration,
    },
}

impl H2Error {
    /// The error code of a RST_STREAM or GOAWAY.
    #[must_use]
    pub fn reason(&self) -> Option<h2::Reason> {
        match self {
            Self::Protocol { source } => source.reason(),
            Self::Timeout { .. } => None,
        }
    }
}

/// Sends a body as the peer's window allows.
async fn send_body(
    mut stream: SendStream<Bytes>,
    mut body: Bytes,
    trailers: Option<HeaderMap>,
) -> Result<(), H2Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len().min(64 * 1024));
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(granted) = granted else { return Ok(()) };
        let part = body.split_to(granted?.min(body.len()));
        stream.send_data(part, body.is_empty() && trailers.is_none())?;
    }
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers)?;
    }
    Ok(())
}

/// Reads a whole response and gives its window back.
async fn receive(response: ResponseFuture) -> Result<H2Response, H2Error> {
    let (head, mut stream): (_, RecvStream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    let trailers = stream.trailers().await?;
    Ok(H2Response { status: head.status.as_u16(), headers: head.headers, body, trailers })
}
