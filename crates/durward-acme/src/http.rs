//! HTTPS client towards authorities: verified against the given roots, one connection per request, with deadlines and bounds.
//!
//! An authority gets a dozen requests per certificate, so connections are not kept. Deliberately absent: redirects, proxies, and plain HTTP.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::fault::Fault;

/// Time for one request, from the look-up of the name to the end of the body.
const REQUEST: Duration = Duration::from_secs(30);
/// Time for one address to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest body of a response in bytes; a chain of ten certificates has 20 KiB.
const LARGEST: usize = 1024 * 1024;
/// Longest wait that an authority can ask for; Let's Encrypt counts in weeks.
const LONGEST_WAIT: Duration = Duration::from_secs(8 * 86_400);

/// Authorities of web servers that are trusted, DER.
pub type Roots = Arc<Vec<CertificateDer<'static>>>;

/// Client of one authority.
#[derive(Clone)]
pub(crate) struct Client {
    tls: TlsConnector,
    seen: Arc<Mutex<Seen>>,
}

/// Facts of the last response.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Time that it asked to wait.
    pub(crate) retry_after: Option<Duration>,
    /// Seconds by which the clock of this host is ahead of the authority's `Date`; negative if behind.
    pub(crate) clock_ahead: Option<i64>,
}

impl Client {
    /// Builds a client that trusts `roots`.
    ///
    /// # Errors
    /// If no root can be used.
    pub(crate) fn new(roots: &Roots) -> Result<Self, Fault> {
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(roots.iter().cloned());
        if added == 0 {
            let sentence = "no certificate authority is trusted for the connection to it: name a file with --acme-ca";
            return Err(Fault::Unreachable(sentence.to_owned()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Fault::Unreachable(error.to_string()))?
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), seen: Arc::default() })
    }

    /// Returns the facts of the last response.
    pub(crate) fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the body of a GET; a status other than 2xx is an error.
    pub(crate) async fn get(&self, uri: &str) -> Result<Bytes, Fault> {
        let request = Request::get(uri).body(Bytes::new());
        let request = request.map_err(|error| Fault::Unreachable(error.to_string()))?;
        let response = self.send(request).await.map_err(|error| unreachable(&error))?;
        if !response.status().is_success() {
            return Err(Fault::Unreachable(format!("{uri} answered {}", response.status())));
        }
        Ok(response.into_body())
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Failed> {
        let answered = tokio::time::timeout(REQUEST, self.exchange(request)).await;
        let response = answered.map_err(|_| "no answer within 30 s")??;
        let seen = Seen::of(response.headers(), SystemTime::now());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        Ok(response)
    }

    async fn exchange(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, Failed> {
        let (host, port) = host_and_port(request.uri())?;
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
        *request.uri_mut() = path;
        request.headers_mut().insert(header::HOST, authority.parse()?);
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT.parse()?);
        let stream = connect(&host, port).await?;
        let name = ServerName::try_from(host)?;
        let stream = self.tls.connect(name, stream).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let exchange = async {
            let response = sender.send_request(request.map(Full::new)).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        // The connection is driven here, so that nothing of it outlives the request.
        tokio::pin!(connection);
        tokio::pin!(exchange);
        tokio::select! {
            answered = &mut exchange => answered,
            ended = &mut connection => {
                ended?;
                exchange.await
            }
        }
    }
}

const USER_AGENT: &str = concat!("durward/", env!("CARGO_PKG_VERSION"));

type Failed = Box<dyn StdError + Send + Sync>;

fn unreachable(error: &Failed) -> Fault {
    Fault::Unreachable(crate::fault::printable(&chain(&**error)))
}

/// Returns an error with its causes.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(&format!(": {next}"));
        }
        cause = error.source();
    }
    text
}

fn host_and_port(uri: &Uri) -> Result<(String, u16), Failed> {
    if uri.scheme_str() != Some("https") {
        return Err(format!("{uri} is not an https URL").into());
    }
    let host = uri.host().ok_or("the URL has no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((host, uri.port_u16().unwrap_or(443)))
}

/// Connects to the first address that accepts.
async fn connect(host: &str, port: u16) -> Result<TcpStream, Failed> {
    let mut last: Failed = format!("{host} does not resolve").into();
    let addresses = tokio::net::lookup_host((host, port)).await;
    for address in addresses.map_err(|error| format!("{host} does not resolve: {error}"))? {
        last = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => format!("cannot connect to {address}: {error}").into(),
            Err(_) => format!("{address} did not accept a connection within 10 s").into(),
        };
    }
    Err(last)
}

impl Seen {
    fn of(headers: &HeaderMap, now: SystemTime) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).cast_signed();
        let date = text(header::DATE).and_then(http_date);
        let retry_after = text(header::RETRY_AFTER).and_then(|value| {
            let seconds = value.parse::<u64>().ok();
            // A date is compared with the authority's own clock.
            let until = || Some(http_date(value)?.saturating_sub(date.unwrap_or(now)).max(0));
            seconds.or_else(|| until().map(i64::cast_unsigned))
        });
        let retry_after = retry_after.map(|wait| Duration::from_secs(wait).min(LONGEST_WAIT));
        Self { retry_after, clock_ahead: date.map(|date| now - date) }
    }
}

/// Parses an HTTP date as seconds since the Unix epoch.
fn http_date(text: &str) -> Option<i64> {
    let time = jiff::fmt::strtime::parse("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
    let time = time.to_datetime().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(time.timestamp().as_second())
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes);
            let response = client.send(Request::from_parts(head, body)).await;
            let response = response.map_err(|error| Error::Other(chain(&*error).into()))?;
            Ok(BytesResponse::from(response.map(Full::new)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_as_seconds_or_as_a_date_of_the_authoritys_clock() {
        let seen = |fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            fields.iter().for_each(|(name, value)| {
                headers.insert(*name, value.parse().unwrap());
            });
            Seen::of(&headers, UNIX_EPOCH + Duration::from_secs(1_800_000_000))
        };
        let date = ("date", "Fri, 15 Jan 2027 07:00:00 GMT");

        assert_eq!(seen(&[("retry-after", "120")]).retry_after, Some(Duration::from_secs(120)));
        let by_date = seen(&[date, ("retry-after", "Fri, 15 Jan 2027 07:01:00 GMT")]);
        assert_eq!(by_date.retry_after, Some(Duration::from_secs(60)));
        assert_eq!(by_date.clock_ahead, Some(3_600));
        assert_eq!(seen(&[("retry-after", "99999999999")]).retry_after, Some(LONGEST_WAIT));
        assert_eq!(seen(&[("retry-after", "soon"), ("date", "junk")]).retry_after, None);
    }

    #[test]
    fn only_https_is_spoken() {
        assert!(host_and_port(&"http://ca.example/dir".parse().unwrap()).is_err());
        let named = host_and_port(&"https://[::1]:14000/dir".parse().unwrap()).unwrap();
        assert_eq!(named, ("::1".to_owned(), 14_000));
    }
}
