//! The paths of an HTTP origin and what each answers.
//! Anything not listed answers like `/`: with the request as the origin saw it.
//!
//! | path | answer |
//! |---|---|
//! | `/` | JSON, see `Echo`; reads the whole body first |
//! | `/status/N` | status N; `Retry-After: 1` with 429 and 503 |
//! | `/slow/MS` | like `/`, after that many milliseconds |
//! | `/bytes/N` | N bytes of `pattern`, with a length |
//! | `/head/N` | a header `x-fill` of N bytes |
//! | `/drip/N/MS` | N chunks `chunk 0\n` …, a pause before each |
//! | `/sse` | server-sent events `data: 0` …, one each 50 ms, without end |
//! | `/trailers` | a chunked body with trailers (HTTP/1.1: only after `TE: trailers`) |
//! | `/early-hints` | HTTP/1.1: 103 with `Link`, then 200; HTTP/2: only the 200 |
//! | `/upload` | JSON, see `Uploaded` |
//! | `/echo-body` | the body, streamed back while it arrives, trailers too |
//! | `/ws` | 101 to any `Upgrade` (200 to extended CONNECT), then each byte back |
//! | `/close` | no answer: the connection (HTTP/2: the stream) ends |
//! | `/last` | like `/`, with `Connection: close` |
//! | `/hang` | nothing, ever |
//!
//! A POST with `content-type: application/grpc…` gets its body back and the trailer `grpc-status: 0`, on any path.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use http::header::{CONNECTION, CONTENT_TYPE, LINK, RETRY_AFTER, TRAILER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::body::{self, AbortGuard, BoxError, ResponseBody};
use super::connection::Connection;
use super::echo::{Echo, header_list};
use super::record::{SeenRequest, Uploaded};
use super::upgrade;

type Answer = Response<ResponseBody>;

/// Answers one request; an error ends the connection without an answer.
pub(super) async fn answer(
    request: Request<Incoming>,
    connection: Arc<Connection>,
) -> Result<Answer, BoxError> {
    let number = connection.next_request();
    connection.shared.record.request(SeenRequest {
        method: request.method().to_string(),
        path: path_and_query(&request),
        headers: header_list(request.headers()),
        peer: connection.peer,
        connection_id: connection.id,
    });
    let guard = AbortGuard::new(connection.shared.clone());
    let behaved = behave(request.uri().path(), &connection).await;
    let answered = match behaved {
        Some(status) => Ok(with_status(status)),
        None => dispatch(request, number, &connection).await,
    };
    match answered {
        Ok(answer) => Ok(answer.map(|body| guard.watch(body))),
        Err(error) => {
            guard.finish();
            Err(error)
        }
    }
}

/// Waits while the origin stalls, then says whether it fails this request.
async fn behave(path: &str, connection: &Connection) -> Option<StatusCode> {
    let mut behaviour = connection.shared.behaviour.subscribe();
    let now = behaviour.wait_for(|behaviour| !behaviour.stall).await.ok()?;
    now.fail.or_else(|| now.fail_paths.get(path).copied())
}

async fn dispatch(
    request: Request<Incoming>,
    number: u64,
    connection: &Connection,
) -> Result<Answer, BoxError> {
    if is_grpc(&request) {
        return Ok(grpc(request));
    }
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let counted = |text: &str| text.parse::<u64>().map_err(BoxError::from);
    let millis = |text: &str| counted(text).map(Duration::from_millis);
    Ok(match segments.as_slice() {
        ["status", code] => with_status(code.parse()?),
        ["slow", pause] => {
            tokio::time::sleep(millis(pause)?).await;
            echo(request, number, connection).await?
        }
        ["bytes", count] => Response::new(body::patterned(counted(count)?)),
        ["head", count] => with_long_header(counted(count)?)?,
        ["drip", count, pause] => {
            Response::new(body::drip(counted(count)?, millis(pause)?, |index| {
                format!("chunk {index}\n")
            }))
        }
        ["sse"] => events(),
        ["trailers"] => trailers(),
        ["early-hints"] => {
            if request.version() == Version::HTTP_11 {
                connection.send_first(
                    b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n",
                );
            }
            Response::builder()
                .header(LINK, "</style.css>; rel=preload")
                .body(body::full("hinted\n"))?
        }
        ["upload"] => upload(request, connection).await?,
        ["echo-body"] => Response::new(request.into_body().map_err(BoxError::from).boxed_unsync()),
        ["ws"] => upgrade::accept(request),
        ["close"] => return Err("this path closes the connection".into()),
        ["last"] => {
            let mut answer = echo(request, number, connection).await?;
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            answer
        }
        ["hang"] => std::future::pending().await,
        _ => echo(request, number, connection).await?,
    })
}

async fn echo(
    request: Request<Incoming>,
    number: u64,
    connection: &Connection,
) -> Result<Answer, BoxError> {
    let path = path_and_query(&request);
    let (head, mut incoming) = request.into_parts();
    let mut body_len = 0;
    while let Some(frame) = incoming.frame().await {
        body_len += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    let echo = Echo {
        method: head.method.to_string(),
        path,
        version: format!("{:?}", head.version),
        authority: head.uri.authority().map(ToString::to_string),
        headers: header_list(&head.headers),
        peer: connection.peer,
        local: connection.local,
        tls_version: connection.tls_version.clone(),
        tls_alpn: connection.tls_alpn.clone(),
        tls_server_name: connection.tls_server_name.clone(),
        tls_client_subject: connection.tls_client_subject.clone(),
        body_len,
        connection_id: connection.id,
        request_number_on_connection: number,
    };
    json(&echo)
}

async fn upload(request: Request<Incoming>, connection: &Connection) -> Result<Answer, BoxError> {
    let mut incoming = request.into_body();
    let mut upload = Upload::new(connection);
    while let Some(frame) = incoming.frame().await {
        match frame?.into_data() {
            Ok(data) => upload.data(&data),
            Err(frame) => upload.trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    upload.complete = true;
    json(&upload.record())
}

/// A body being received, recorded as incomplete when it is dropped on the way.
struct Upload<'a> {
    connection: &'a Connection,
    bytes: u64,
    hash: digest::Context,
    trailers: HeaderMap,
    complete: bool,
    recorded: bool,
}

impl<'a> Upload<'a> {
    fn new(connection: &'a Connection) -> Self {
        let hash = digest::Context::new(&digest::SHA256);
        Self {
            connection,
            bytes: 0,
            hash,
            trailers: HeaderMap::new(),
            complete: false,
            recorded: false,
        }
    }

    fn data(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.hash.update(data);
    }

    fn record(&mut self) -> Uploaded {
        let sha256 =
            self.hash.clone().finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let trailers = header_list(&self.trailers);
        let uploaded = Uploaded { bytes: self.bytes, sha256, complete: self.complete, trailers };
        self.connection.shared.record.upload(uploaded.clone());
        self.recorded = true;
        uploaded
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if !self.recorded {
            let _ = self.record();
        }
    }
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    request.method() == Method::POST && kind.starts_with(b"application/grpc")
}

fn grpc(request: Request<Incoming>) -> Answer {
    let trailers = body::fields(&[("grpc-status", "0"), ("grpc-message", "echoed")]);
    let echoed =
        request.into_body().map_err(BoxError::from).with_trailers(async { Some(Ok(trailers)) });
    let mut answer = Response::new(echoed.boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

fn with_status(status: StatusCode) -> Answer {
    let mut answer = Response::new(body::full(format!("{status}\n")));
    if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        *answer.body_mut() = body::empty();
    }
    if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    *answer.status_mut() = status;
    answer
}

fn with_long_header(length: u64) -> Result<Answer, BoxError> {
    let value = "x".repeat(usize::try_from(length)?);
    Ok(Response::builder().header("x-fill", value).body(body::full("filled\n"))?)
}

fn events() -> Answer {
    let body =
        body::drip(u64::MAX, Duration::from_millis(50), |index| format!("data: {index}\n\n"));
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer
}

fn trailers() -> Answer {
    let body =
        body::with_trailers("before the trailers\n", &[("x-checksum", "1234"), ("x-end", "yes")]);
    let mut answer = Response::new(body);
    answer.headers_mut().insert(TRAILER, HeaderValue::from_static("x-checksum, x-end"));
    answer
}

fn json(value: &impl serde::Serialize) -> Result<Answer, BoxError> {
    let mut answer = Response::new(body::full(serde_json::to_vec(value)?));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

fn path_and_query(request: &Request<Incoming>) -> String {
    request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string)
}
