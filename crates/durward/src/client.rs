//! HTTP/1.1 client of all commands: hyper's, over any stream that a command has opened.
//!
//! A command chooses itself where its bytes go.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, PROXY_AUTHORIZATION};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Byte stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connection that carries one request after another.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    /// Timeout of the head of a response, and of each piece of its body.
    patience: Duration,
}

/// Response with its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Answer of a proxy to CONNECT.
pub(crate) enum Tunnel {
    /// Tunnel to the target.
    Open(TokioIo<Upgraded>),
    /// Refusal, with status and fields.
    Refused(StatusCode, HeaderMap),
}

impl Client {
    /// Starts HTTP on a stream that has carried nothing yet.
    pub(crate) async fn on(
        stream: impl Stream + 'static,
        patience: Duration,
    ) -> Result<Self, String> {
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| sentence(&error))?;
        // An error of the connection shows in the next request.
        let driver = tokio::spawn(async move { drop(connection.with_upgrades().await) });
        Ok(Self { sender, driver, patience })
    }

    /// Returns true if another request can be sent.
    pub(crate) async fn is_open(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request and reads its response, whose body may have `limit` bytes.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        limit: usize,
    ) -> Result<Answer, String> {
        let (head, mut incoming) = self.head(request).await?.into_parts();
        let mut body = BytesMut::new();
        while let Some(frame) = self.in_time(incoming.frame()).await? {
            let frame =
                frame.map_err(|error| format!("the body ended early: {}", sentence(&error)))?;
            body.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            if body.len() > limit {
                return Err(format!("the body is longer than {limit} bytes"));
            }
        }
        Ok(Answer { status: head.status, headers: head.headers, body: body.freeze() })
    }

    async fn head(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        let sent = self.sender.send_request(request);
        self.in_time(sent).await?.map_err(|error| sentence(&error))
    }

    async fn in_time<T>(&self, wait: impl Future<Output = T>) -> Result<T, String> {
        let patience = self.patience;
        timeout(patience, wait).await.map_err(|_| format!("no answer within {patience:?}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Answer {
    /// Returns the body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Runs `work` to its end on this thread, which must not belong to a runtime.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    runtime()?.block_on(work)
}

/// Creates a runtime that works while the calling thread waits on it.
pub(crate) fn runtime() -> Result<Runtime, String> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("starting a runtime: {error}"))
}

/// Builds a GET request for a path or, of a proxy, a URL.
pub(crate) fn get(target: &str, host: &str) -> Result<Request<Full<Bytes>>, String> {
    let request = Request::get(target).header(HOST, host).body(Full::default());
    request.map_err(|error| format!("{target:?} cannot be asked for: {error}"))
}

/// Builds a POST request with JSON.
pub(crate) fn post(path: &str, host: &str, json: &str) -> Result<Request<Full<Bytes>>, String> {
    let request = Request::post(path).header(HOST, host).header(CONTENT_TYPE, "application/json");
    request.body(Full::from(json.to_owned())).map_err(|error| error.to_string())
}

/// Asks a proxy for a tunnel to `target`, which is sent as written.
pub(crate) async fn tunnel(
    stream: impl Stream + 'static,
    target: &str,
    authorization: Option<&str>,
    patience: Duration,
) -> Result<Tunnel, String> {
    let request = connect(target, authorization)?;
    let mut client = Client::on(stream, patience).await?;
    let response = client.head(request).await?;
    if !response.status().is_success() {
        let (head, _) = response.into_parts();
        return Ok(Tunnel::Refused(head.status, head.headers));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| sentence(&error))?;
    Ok(Tunnel::Open(TokioIo::new(upgraded)))
}

/// Builds a CONNECT request.
fn connect(target: &str, authorization: Option<&str>) -> Result<Request<Full<Bytes>>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{target:?} is not HOST:PORT: {error}");
    let authority: Authority = target.parse().map_err(|error| wrong(&error))?;
    let mut request =
        Request::builder().method(Method::CONNECT).uri(Uri::from(authority)).header(HOST, target);
    if let Some(shown) = authorization {
        request = request.header(PROXY_AUTHORIZATION, shown);
    }
    request.body(Full::default()).map_err(|error| wrong(&error))
}

/// Formats the cause of an error, which hyper keeps below its own message.
fn sentence(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Reads what was asked, up to the end of a head.
    async fn heard(far: &mut DuplexStream) -> String {
        let mut asked = String::new();
        while !asked.ends_with("\r\n\r\n") {
            asked.push(char::from(far.read_u8().await.unwrap()));
        }
        asked
    }

    /// Returns the request that a proxy with this answer receives, and the tunnel.
    async fn proxy_asked(
        target: &str,
        authorization: Option<&str>,
        answer: &str,
    ) -> (Result<Tunnel, String>, String, DuplexStream) {
        let (near, mut far) = duplex(64 * 1024);
        let answering = async {
            let asked = heard(&mut far).await;
            far.write_all(answer.as_bytes()).await.unwrap();
            asked
        };
        let (tunnel, asked) =
            tokio::join!(tunnel(near, target, authorization, PATIENCE), answering);
        (tunnel, asked, far)
    }

    #[tokio::test]
    async fn one_connection_carries_requests_one_after_another() {
        let (near, mut far) = duplex(64 * 1024);
        let serving = tokio::spawn(async move {
            let mut asked = String::new();
            for body in ["one", "two"] {
                asked += &heard(&mut far).await;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{body}");
                far.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        let mut client = Client::on(near, PATIENCE).await.unwrap();

        let first = client.send(get("/a", "h:1").unwrap(), 3).await.unwrap();
        let second = client.send(get("http://far/b", "far").unwrap(), 2).await;

        assert_eq!((first.status.as_u16(), first.text()), (200, "one".to_owned()));
        assert_eq!(second.unwrap_err(), "the body is longer than 2 bytes");
        assert_eq!(
            serving.await.unwrap(),
            "GET /a HTTP/1.1\r\nhost: h:1\r\n\r\nGET http://far/b HTTP/1.1\r\nhost: far\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn a_tunnel_carries_bytes_and_a_refusal_its_fields() {
        let target = "[::127.0.0.1]:1";
        let (opened, asked, mut far) =
            proxy_asked(target, Some("Basic eA=="), "HTTP/1.1 200 Fine\r\n\r\nhello").await;
        let Ok(Tunnel::Open(mut open)) = opened else { panic!("no tunnel") };
        let mut hello = [0; 5];
        open.read_exact(&mut hello).await.unwrap();
        open.write_all(b"!").await.unwrap();
        assert_eq!((&hello, far.read_u8().await.unwrap()), (b"hello", b'!'));
        assert_eq!(
            asked,
            "CONNECT [::127.0.0.1]:1 HTTP/1.1\r\nhost: [::127.0.0.1]:1\r\nproxy-authorization: Basic eA==\r\n\r\n"
        );

        let answer = "HTTP/1.1 403 No\r\nProxy-Status: durward\r\nContent-Length: 9\r\n\r\n";
        let (refused, ..) = proxy_asked("a:1", None, answer).await;
        assert!(
            matches!(refused, Ok(Tunnel::Refused(StatusCode::FORBIDDEN, fields)) if fields["proxy-status"] == "durward")
        );

        let (no_http, ..) = proxy_asked("a:1", None, "SSH-2.0-x\r\n\r\n").await;
        assert!(no_http.is_err());
    }
}
