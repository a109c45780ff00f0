//! One request through a forward proxy, as an ordinary client makes it, without redirects.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Uri};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::proxy::ProxyUrl;
use crate::client::{self, Answer, Stream, Tunnel};

/// Bytes read of a body at most.
const BODY: usize = 64 * 1024;

/// Result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Answer of the destination: the status, and the beginning of the body.
    Answered(u16, String),
    /// Refusal of the proxy: the status, and the reason if it is given.
    Refused(u16, String),
    /// No answer, for this reason.
    Nothing(String),
}

/// Client of a proxy.
pub(crate) struct Client {
    pub(crate) proxy: ProxyUrl,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) timeout: Duration,
}

impl Client {
    /// Requests a URL with GET.
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
        let stream = self.proxy().await?;
        if url.scheme_str() != Some("https") {
            return self.request(stream, url, url.to_string(), true).await;
        }
        let target = format!("{host}:{}", url.port_u16().unwrap_or(443));
        let shown = self.proxy.authorization.as_deref();
        let stream = match client::tunnel(stream, &target, shown, self.timeout).await {
            Ok(Tunnel::Open(stream)) => self.secured(stream, host).await?,
            Ok(Tunnel::Refused(status, fields)) => {
                return Ok(Reached::Refused(status.as_u16(), proxy_status(&fields)));
            }
            Err(error) => return Err(format!("the proxy does not answer to CONNECT: {error}")),
        };
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

    async fn request(
        &self,
        stream: Box<dyn Stream>,
        url: &Uri,
        target: String,
        to_proxy: bool,
    ) -> Result<Reached, String> {
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let mut request = client::get(&target, authority)?;
        let fields = request.headers_mut();
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
        if let Some(shown) = self.proxy.authorization.as_ref().filter(|_| to_proxy) {
            let shown = shown.parse().map_err(|error| format!("the credential: {error}"))?;
            fields.insert(PROXY_AUTHORIZATION, shown);
        }
        let mut client = client::Client::on(stream, self.timeout).await?;
        let answer = client.send(request, BODY).await?;
        Ok(read(&answer, to_proxy))
    }
}

fn read(answer: &Answer, from_proxy: bool) -> Reached {
    let status = answer.status.as_u16();
    let refused = status == 407 || answer.headers.contains_key(PROXY_STATUS);
    if from_proxy && refused {
        return Reached::Refused(status, proxy_status(&answer.headers));
    }
    Reached::Answered(status, answer.text().trim().to_owned())
}

/// Field with a proxy's reason (RFC 9209).
const PROXY_STATUS: &str = "proxy-status";

fn proxy_status(fields: &HeaderMap) -> String {
    let value = fields.get(PROXY_STATUS).map(HeaderValue::as_bytes).unwrap_or_default();
    String::from_utf8_lossy(value).trim().to_owned()
}
