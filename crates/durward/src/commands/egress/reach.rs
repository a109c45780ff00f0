//! One request through a forward proxy, as an ordinary client makes it.
//!
//! Deliberately absent: redirects and pools; one request answers one question.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::proxy::ProxyUrl;

/// Any stream of bytes.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How much of a body is of interest.
const BODY: usize = 64 * 1024;
/// A proxy's answer to CONNECT is not longer.
const HEAD: usize = 16 * 1024;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// The destination answered: the status, and the beginning of the body.
    Answered(u16, String),
    /// The proxy refused: the status, and why where it says so.
    Refused(u16, String),
    /// Neither; why.
    Nothing(String),
}

/// A client of a proxy.
pub(crate) struct Client {
    pub(crate) proxy: ProxyUrl,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) timeout: Duration,
}

impl Client {
    /// Asks for a URL with GET.
    pub(crate) async fn get(&self, url: &Uri) -> Reached {
        let asked = tokio::time::timeout(self.timeout, self.ask(url)).await;
        match asked {
            Ok(Ok(reached)) => reached,
            Ok(Err(error)) => Reached::Nothing(error),
            Err(_) => Reached::Nothing(format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn ask(&self, url: &Uri) -> Result<Reached, String> {
        let host = url.host().ok_or("the URL names no host")?;
        let mut stream = self.proxy().await?;
        if url.scheme_str() != Some("https") {
            return self.request(stream, url, url.to_string(), true).await;
        }
        let target = format!("{host}:{}", url.port_u16().unwrap_or(443));
        if let Some(refused) = self.tunnel(&mut stream, &target).await? {
            return Ok(refused);
        }
        let stream = self.secured(stream, host).await?;
        let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        self.request(stream, url, path, false).await
    }

    async fn proxy(&self) -> Result<Box<dyn Stream>, String> {
        let (host, port) = (self.proxy.host.as_str(), self.proxy.port);
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|error| format!("the proxy {host} port {port} does not answer: {error}"))?;
        if self.proxy.tls { self.secured(stream, host).await } else { Ok(Box::new(stream)) }
    }

    async fn secured(
        &self,
        stream: impl Stream + 'static,
        host: &str,
    ) -> Result<Box<dyn Stream>, String> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|error| format!("{host}: {error}"))?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| format!("TLS with {host}: {error}"))?;
        Ok(Box::new(stream))
    }

    /// Asks for a tunnel; `Some` when it was refused.
    async fn tunnel(
        &self,
        stream: &mut Box<dyn Stream>,
        target: &str,
    ) -> Result<Option<Reached>, String> {
        let shown = self.proxy.authorization.as_ref();
        let shown =
            shown.map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{shown}\r\n");
        let talk = async {
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD {
                head.push(stream.read_u8().await?);
            }
            std::io::Result::Ok(head)
        };
        let head = talk.await.map_err(|error| format!("the proxy hung up: {error}"))?;
        let head = String::from_utf8_lossy(&head);
        let status = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
        match status {
            Some(200..=299) => Ok(None),
            Some(status) => Ok(Some(Reached::Refused(status, proxy_status(head.lines())))),
            None => Err("what the proxy says is not HTTP".to_owned()),
        }
    }

    async fn request(
        &self,
        stream: Box<dyn Stream>,
        url: &Uri,
        target: String,
        to_proxy: bool,
    ) -> Result<Reached, String> {
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let mut request =
            Request::get(target).header("host", authority).header("connection", "close");
        if let Some(shown) = self.proxy.authorization.as_ref().filter(|_| to_proxy) {
            request = request.header("proxy-authorization", shown);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Its end shows in the answer.
        let driver = tokio::spawn(async move { drop(connection.await) });
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let reached = read(answer, to_proxy).await;
        driver.abort();
        reached
    }
}

async fn read(answer: Response<Incoming>, from_proxy: bool) -> Result<Reached, String> {
    let status = answer.status().as_u16();
    let said = answer.headers().get("proxy-status").map(|value| {
        let line = format!("proxy-status: {}", String::from_utf8_lossy(value.as_bytes()));
        proxy_status(std::iter::once(&*line))
    });
    if let Some(why) = said.filter(|_| from_proxy) {
        return Ok(Reached::Refused(status, why));
    }
    if from_proxy && status == 407 {
        return Ok(Reached::Refused(status, String::new()));
    }
    let body = Limited::new(answer.into_body(), BODY).collect().await;
    let body = body.map_err(|error| format!("the body ended early: {error}"))?.to_bytes();
    Ok(Reached::Answered(status, String::from_utf8_lossy(&body).trim().to_owned()))
}

/// What the proxy's `Proxy-Status` field (RFC 9209) gives as the reason.
fn proxy_status<'a>(mut lines: impl Iterator<Item = &'a str>) -> String {
    let field = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-status").then(|| value.trim().to_owned())
    });
    field.unwrap_or_default()
}
