//! Responses made here: refusals as problem documents (RFC 9457), redirects and fixed texts.
//!
//! Deliberately absent: upstream addresses, names of other tenants, and the details of refusals; those are for the log.

use std::fmt::Write;

use bytes::Bytes;

use crate::http::fields::Fields;
use crate::http::flow::{PollBody, Source, SourceFault};
use crate::http::framing::{Content, Kind, is_empty};
use crate::http::message::{Request, Response, Version};
use crate::http::names::Known;
use crate::refusal::Refusal;

use std::task::{Context, Poll};

/// Response made here.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    content_type: &'static str,
    body: Bytes,
    /// Additional fields.
    fields: Vec<(&'static str, String)>,
}

impl Answer {
    /// Builds a response with a fixed text.
    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: Bytes::copy_from_slice(body.as_bytes()),
            fields: Vec::new(),
        }
    }

    /// Builds a redirect.
    pub(crate) fn redirect(status: u16, location: String) -> Self {
        let mut answer = Self::text(status, "");
        answer.fields.push(("Location", location));
        answer
    }

    /// Builds the response to a refusal; `status` replaces the reason's own.
    pub(crate) fn refusal(refusal: &Refusal, status: Option<u16>, id: &str) -> Self {
        let (own, proxy_error) = refusal.status();
        let status = status.unwrap_or(own);
        let title = http::StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Error");
        let word = refusal.word();
        let mut fields = vec![("Cache-Control", "no-store".to_owned())];
        let mut proxy_status = "durward".to_owned();
        if let Some(error) = proxy_error {
            // Writing to a String cannot fail.
            let _ = write!(proxy_status, "; error={error}");
        }
        let _ = match refusal {
            Refusal::PolicyDenied { rule, .. } => {
                write!(proxy_status, "; details=\"{word}: {rule}\"")
            }
            _ => write!(proxy_status, "; details=\"{word}\""),
        };
        fields.push(("Proxy-Status", proxy_status));
        if let Some(seconds) = refusal.retry_after() {
            fields.push(("Retry-After", seconds.to_string()));
        }
        if status == 405 {
            fields.push(("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".to_owned()));
        }
        if status == 407 {
            fields.push((
                "Proxy-Authenticate",
                "Basic realm=\"durward\", charset=\"UTF-8\"".to_owned(),
            ));
            fields.push(("Proxy-Authenticate", "Bearer realm=\"durward\"".to_owned()));
        }
        let mut body = serde_json::json!({
            "type": format!("urn:durward:refusal:{word}"),
            "title": title,
            "status": status,
            "reason": word,
            "request": id,
        });
        if let Refusal::PolicyDenied { rule, contact } = refusal {
            body["rule"] = (**rule).into();
            if let Some(contact) = contact {
                body["contact"] = (**contact).into();
            }
        }
        Self {
            status,
            content_type: "application/problem+json",
            body: Bytes::from(format!("{body}\n")),
            fields,
        }
    }

    /// Converts a refusal for gRPC clients: a response of trailers only, with the gRPC status in its head.
    pub(crate) fn for_grpc(mut self, refusal: &Refusal) -> Self {
        self.fields.push(("grpc-status", grpc_status(self.status).to_string()));
        self.fields.push(("grpc-message", refusal.word().to_owned()));
        self.status = 200;
        self.content_type = "application/grpc";
        self.body = Bytes::new();
        self
    }

    /// Writes the head.
    pub(crate) fn write(&self, response: &mut Response) {
        response.clear();
        response.status = self.status;
        response.version = Version::Http11;
        let fields = &mut response.fields;
        if !self.body.is_empty() || self.content_type == "application/grpc" {
            fields.append(b"Content-Type", self.content_type.as_bytes());
        }
        let now = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
        fields.append(b"Date", now.to_string().as_bytes());
        for (name, value) in &self.fields {
            fields.append(name.as_bytes(), value.as_bytes());
        }
        // The Content-Length of a 304 would be that of another response.
        response.content = match self.status {
            304 => Content::Empty,
            _ => Content::Length(self.body.len() as u64),
        };
    }

    /// Returns the body, empty if the response to `request` has none.
    pub(crate) fn body(&self, request: &Request) -> Fixed {
        match is_empty(Kind::of(request), self.status) {
            true => Fixed(Bytes::new()),
            false => Fixed(self.body.clone()),
        }
    }
}

/// Maps an HTTP status to a gRPC code by gRPC's own table, except that rate limits are `RESOURCE_EXHAUSTED`.
fn grpc_status(status: u16) -> u8 {
    match status {
        400 | 413 | 431 => 13,
        401 => 16,
        403 => 7,
        404 | 405 | 501 => 12,
        408 | 504 => 4,
        429 | 502 | 503 => 14,
        _ => 2,
    }
}

/// Returns true if a request is gRPC.
pub(crate) fn is_grpc(request: &Request) -> bool {
    request.version == Version::Http2
        && request
            .fields
            .get(Known::ContentType)
            .is_some_and(|value| value.starts_with(b"application/grpc"))
}

/// Body in memory.
#[derive(Debug)]
pub(crate) struct Fixed(Bytes);

impl Source for Fixed {
    fn poll_fill(&mut self, _: &mut Context<'_>) -> Poll<Result<PollBody, SourceFault>> {
        Poll::Ready(Ok(if self.0.is_empty() { PollBody::End } else { PollBody::Data }))
    }

    fn data(&self) -> &[u8] {
        &self.0
    }

    fn consume(&mut self, count: usize) {
        let _ = self.0.split_to(count.min(self.0.len()));
    }

    fn take(&mut self, count: usize) -> Bytes {
        self.0.split_to(count.min(self.0.len()))
    }

    fn ends_after(&self, count: usize) -> bool {
        count == self.0.len()
    }

    fn trailers(&self) -> Option<&Fields> {
        None
    }
}
