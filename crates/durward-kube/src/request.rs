//! Requests to the API server by path: whole answers, and streams of lines.
//!
//! Objects are decoded one by one by the callers, from the bytes, so that one that cannot be decoded costs no other.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use kube::client::Body;
use serde::Deserialize;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

use crate::client::{TransportError, chain};

/// Longest answer that is read, and longest line of a watch, in bytes. etcd holds objects of up to 1.5 MiB, unless it is told otherwise.
pub(crate) const LONGEST: usize = 32 << 20;
/// Longest answer to one object that is read, in bytes.
pub(crate) const LONGEST_OBJECT: usize = 2 << 20;
/// Longest answer to a request that failed that is read, in bytes.
const LONGEST_FAILURE: usize = 64 << 10;
/// Time without a byte after which an answer counts as broken off.
const SILENCE: Duration = Duration::from_secs(30);
/// Time after which an answer counts as broken off though some bytes of it come now and then.
const WHOLE: Duration = Duration::from_mins(3);

/// A reason why a request did not succeed, one variant for each reaction.
#[derive(Debug, Error)]
pub enum ApiError {
    /// No answer: the server is away, or the connection broke.
    #[error("API server cannot be reached: {0}")]
    Unreachable(String),
    /// We may not do that.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// The server does not know who we are.
    #[error("credentials are not accepted: {0}")]
    Unauthorized(String),
    /// No such object, or no such kind.
    #[error("not found: {0}")]
    NotFound(String),
    /// The object is not the one that was meant, or exists already.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The version to go on from is no longer known: list again.
    #[error("resource version is too old: {0}")]
    Gone(String),
    /// The server asks to come back later.
    #[error("API server is overloaded: {message}")]
    Throttled {
        /// The server's words.
        message: String,
        /// The time it asks for.
        after: Duration,
    },
    /// The request is refused as it is.
    #[error("refused with status {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// The answer is longer than is read: ask for fewer objects.
    #[error("answer is longer than is read")]
    TooLong,
    /// The answer is not what the API defines.
    #[error("answer cannot be read: {0}")]
    Unreadable(String),
}

impl ApiError {
    /// Returns whether another attempt may succeed though nothing else changes.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_)
            | Self::Unauthorized(_)
            | Self::Throttled { .. }
            | Self::TooLong
            | Self::Unreadable(_) => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::Forbidden(_) | Self::NotFound(_) | Self::Conflict(_) | Self::Gone(_) => false,
        }
    }

    /// Returns the error that a `Status` object of a watch says.
    pub(crate) fn of_status(status: &Status) -> Self {
        let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::of(code, status.message.clone(), None)
    }

    fn of(status: StatusCode, message: String, after: Option<Duration>) -> Self {
        match status {
            StatusCode::FORBIDDEN => Self::Forbidden(message),
            StatusCode::UNAUTHORIZED => Self::Unauthorized(message),
            StatusCode::NOT_FOUND => Self::NotFound(message),
            StatusCode::CONFLICT => Self::Conflict(message),
            StatusCode::GONE => Self::Gone(message),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Self::Throttled { message, after: after.unwrap_or(Duration::from_secs(1)) }
            }
            status => Self::Refused { status: status.as_u16(), message },
        }
    }
}

/// The `Status` object that answers a request that failed.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Status {
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) code: u16,
    #[serde(default)]
    pub(crate) message: String,
}

/// Returns the path and query of a request, with the values of the query escaped.
pub(crate) fn path(base: &str, query: &[(&str, &str)]) -> String {
    let mut path = base.to_owned();
    for (at, (name, value)) in query.iter().enumerate() {
        path.push(if at == 0 { '?' } else { '&' });
        path.push_str(name);
        path.push('=');
        path.extend(percent_encoding::utf8_percent_encode(
            value,
            percent_encoding::NON_ALPHANUMERIC,
        ));
    }
    path
}

/// Returns the whole answer to a GET.
pub(crate) async fn get(client: &kube::Client, path: &str) -> Result<Bytes, ApiError> {
    get_within(client, path, LONGEST).await
}

/// Returns the whole answer to a GET if it is no longer than `longest` bytes.
pub(crate) async fn get_within(
    client: &kube::Client,
    path: &str,
    longest: usize,
) -> Result<Bytes, ApiError> {
    let response = respond(client, Method::GET, path, None, Bytes::new()).await?;
    collect(response.into_body(), longest).await
}

/// Sends `body` and returns the whole answer.
pub(crate) async fn send(
    client: &kube::Client,
    method: Method,
    path: &str,
    content_type: &'static str,
    body: Bytes,
) -> Result<Bytes, ApiError> {
    send_within(client, method, path, content_type, body, LONGEST).await
}

/// Sends `body` and returns the whole answer if it is no longer than `longest` bytes.
pub(crate) async fn send_within(
    client: &kube::Client,
    method: Method,
    path: &str,
    content_type: &'static str,
    body: Bytes,
    longest: usize,
) -> Result<Bytes, ApiError> {
    let response = respond(client, method, path, Some(content_type), body).await?;
    collect(response.into_body(), longest).await
}

/// A whole answer, and the server's time.
pub(crate) struct Dated {
    pub(crate) body: Bytes,
    /// The time by the server's clock, to the second; `None` if it does not say.
    pub(crate) time: Option<Timestamp>,
}

/// Sends `body`, if it has a content type, and returns the whole answer with the server's time.
pub(crate) async fn dated(
    client: &kube::Client,
    method: Method,
    path: &str,
    content_type: Option<&'static str>,
    body: Bytes,
) -> Result<Dated, ApiError> {
    let response = respond(client, method, path, content_type, body).await?;
    let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    let time = date.and_then(|date| DateTimeParser::new().parse_timestamp(date).ok());
    Ok(Dated { body: collect(response.into_body(), LONGEST).await?, time })
}

/// Returns the lines of the answer to a GET.
pub(crate) async fn lines(client: &kube::Client, path: &str) -> Result<Lines, ApiError> {
    let response = respond(client, Method::GET, path, None, Bytes::new()).await?;
    let body = Box::pin(response.into_body());
    Ok(Lines { body, held: BytesMut::new(), searched: 0 })
}

async fn respond(
    client: &kube::Client,
    method: Method,
    path: &str,
    content_type: Option<&'static str>,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(content_type) = content_type {
        request = request.header(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    let request =
        request.body(Body::from(body)).map_err(|error| ApiError::Unreadable(error.to_string()))?;
    let response = client.send(request).await.map_err(|error| unreachable(&error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let after = response.headers().get(header::RETRY_AFTER);
    let after = after.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    let said = collect(response.into_body(), LONGEST_FAILURE).await.unwrap_or_default();
    Err(ApiError::of(status, words(&said), after))
}

/// Returns the words of an answer to a request that failed.
fn words(answer: &[u8]) -> String {
    match serde_json::from_slice::<Status>(answer) {
        Ok(said) if said.kind == "Status" && !said.message.is_empty() => said.message,
        // A page of a proxy, or of something that is no API server. Conditions repeat these words, and whoever chose the server must not read pages by them.
        _ => {
            let page: String = String::from_utf8_lossy(answer).chars().take(200).collect();
            tracing::debug!(page, "answer is no Status of the Kubernetes API");
            "the answer is not of the Kubernetes API".to_owned()
        }
    }
}

fn unreachable(error: &kube::Error) -> ApiError {
    let own = match error {
        kube::Error::Service(error) => error.downcast_ref::<TransportError>(),
        _ => None,
    };
    ApiError::Unreachable(own.map_or_else(|| chain(error), |error| chain(error)))
}

async fn collect(body: Body, longest: usize) -> Result<Bytes, ApiError> {
    let mut body = Box::pin(body);
    let mut held = BytesMut::new();
    let end = Instant::now() + WHOLE;
    while let Some(data) = next(&mut body, end.min(Instant::now() + SILENCE)).await? {
        if held.len() + data.len() > longest {
            return Err(ApiError::TooLong);
        }
        held.extend_from_slice(&data);
    }
    Ok(held.freeze())
}

/// Returns the next bytes of a body; `None` at its end.
async fn next(body: &mut Pin<Box<Body>>, deadline: Instant) -> Result<Option<Bytes>, ApiError> {
    loop {
        let frame = std::future::poll_fn(|context| body.as_mut().poll_frame(context));
        let Ok(frame) = timeout_at(deadline, frame).await else {
            return Err(ApiError::Unreachable("connection is silent".to_owned()));
        };
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(ApiError::Unreachable(chain(&error))),
            // Trailers say nothing of interest.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// The lines of a body that goes on.
pub(crate) struct Lines {
    body: Pin<Box<Body>>,
    held: BytesMut,
    /// Bytes of `held` that hold no end of line.
    searched: usize,
}

impl Lines {
    /// Returns the next line without its end; `None` when the server closed the stream. A line that the server did not finish is not returned.
    ///
    /// # Errors
    /// Fails if the line is not there at the deadline, however many bytes of it came.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Result<Option<Bytes>, ApiError> {
        loop {
            let end = self.held[self.searched..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let line = self.held.split_to(self.searched + end).freeze();
                self.held.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.held.len();
            if self.held.len() > LONGEST {
                return Err(ApiError::TooLong);
            }
            match next(&mut self.body, deadline).await? {
                Some(data) => self.held.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;

    #[test]
    fn values_of_a_query_are_escaped() {
        let path = path("/api/v1/secrets", &[("fieldSelector", "metadata.name=a b"), ("x", "1")]);

        assert_eq!(path, "/api/v1/secrets?fieldSelector=metadata%2Ename%3Da%20b&x=1");
    }

    #[test]
    fn each_status_has_its_reaction() {
        let of = |code| {
            let status = Status { code, message: "why".to_owned(), ..Status::default() };
            ApiError::of_status(&status)
        };

        assert!(matches!(of(410), ApiError::Gone(_)));
        assert!(matches!(of(403), ApiError::Forbidden(_)) && !of(403).is_passing());
        assert!(matches!(of(429), ApiError::Throttled { .. }) && of(429).is_passing());
        assert!(of(500).is_passing() && !of(422).is_passing());
    }

    /// Answers every request with this status and body.
    fn answering(status: u16, body: &str) -> kube::Client {
        let body = Bytes::from(body.to_owned());
        let service = tower::service_fn(move |_: Request<Body>| {
            let body = http_body_util::Full::new(body.clone());
            let response = Response::builder().status(status).body(body);
            std::future::ready(Ok::<_, std::convert::Infallible>(response.unwrap()))
        });
        kube::Client::new(service, "default")
    }

    #[tokio::test]
    async fn an_answer_is_no_longer_than_the_caller_reads() {
        let client = answering(200, &"[0,0]".repeat(10));

        let (read, refused) =
            (get_within(&client, "/api", 50).await, get_within(&client, "/api", 49).await);

        assert!(read.is_ok() && matches!(refused, Err(ApiError::TooLong)));
    }

    #[tokio::test]
    async fn only_the_words_of_the_kubernetes_api_are_repeated() {
        let said = |body: &str| {
            let client = answering(500, body);
            async move { get(&client, "/api").await.unwrap_err().to_string() }
        };
        let long = format!(r#"{{"kind": "Status", "message": "{}"}}"#, "a".repeat(LONGEST_FAILURE));

        let status = said(r#"{"kind": "Status", "message": "etcd is full"}"#).await;
        assert_eq!(status, "refused with status 500: etcd is full");
        for page in ["<p>password: hunter2</p>", r#"{"message": "hunter2"}"#, "", &*long] {
            let words = said(page).await;
            assert_eq!(words, "refused with status 500: the answer is not of the Kubernetes API");
        }
    }

    /// An answer of which a byte comes each `pause`, without end.
    struct Drip(Duration, Pin<Box<tokio::time::Sleep>>);

    impl http_body::Body for Drip {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            if self.1.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.1 = Box::pin(tokio::time::sleep(self.0));
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
        }
    }

    fn dripping(pause: Duration) -> kube::Client {
        let service = tower::service_fn(move |_: Request<Body>| async move {
            let drip = Drip(pause, Box::pin(tokio::time::sleep(pause)));
            Ok::<_, std::convert::Infallible>(Response::new(drip))
        });
        kube::Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_which_a_byte_comes_now_and_then_is_not_waited_for_without_end() {
        let client = dripping(SILENCE / 2);
        let start = Instant::now();

        let whole = tokio::time::timeout(2 * WHOLE, get(&client, "/api")).await.unwrap();
        let after_whole = start.elapsed();
        let mut lines = lines(&client, "/api").await.unwrap();
        let start = Instant::now();
        let line = lines.next(start + SILENCE);
        let line = tokio::time::timeout(2 * SILENCE, line).await.unwrap();

        assert!(matches!(whole, Err(ApiError::Unreachable(_))) && after_whole == WHOLE);
        assert!(matches!(line, Err(ApiError::Unreachable(_))) && start.elapsed() == SILENCE);
    }
}
