//! Response bodies of origins, and the guard that notices when a peer gives one up.
//! Bodies are made while they are sent, so a gigabyte costs no memory.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body, Frame, SizeHint};

use super::connection::Shared;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(super) type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// Byte `index` of the body of `/bytes/N`, for checking what came through.
#[must_use]
pub fn pattern(index: u64) -> u8 {
    // 251 is prime, so that blocks that are lost or swapped do not go unnoticed.
    (index % 251) as u8
}

pub(super) fn empty() -> ResponseBody {
    Empty::new().map_err(never).boxed_unsync()
}

pub(super) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(never).boxed_unsync()
}

/// `total` bytes of the pattern, with a known length.
pub(super) fn patterned(total: u64) -> ResponseBody {
    Patterned { sent: 0, total }.map_err(never).boxed_unsync()
}

/// `count` numbered chunks, a pause before each; of unknown length.
pub(super) fn drip(count: u64, pause: Duration, chunk: fn(u64) -> String) -> ResponseBody {
    let chunks = stream::unfold(0, move |index| async move {
        if index == count {
            return None;
        }
        tokio::time::sleep(pause).await;
        Some((Ok(Frame::data(Bytes::from(chunk(index)))), index + 1))
    });
    StreamBody::new(chunks).boxed_unsync()
}

/// A chunked body followed by trailer fields.
pub(super) fn with_trailers(
    text: &'static str,
    trailers: &[(&'static str, &'static str)],
) -> ResponseBody {
    let data = Frame::data(Bytes::from_static(text.as_bytes()));
    let frames = [Ok(data), Ok(Frame::trailers(fields(trailers)))];
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

pub(super) fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    fields.iter().map(field).collect()
}

fn never(never: Infallible) -> BoxError {
    match never {}
}

struct Patterned {
    sent: u64,
    total: u64,
}

impl Body for Patterned {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let left = self.total - self.sent;
        if left == 0 {
            return Poll::Ready(None);
        }
        let start = self.sent;
        let end = start + left.min(64 * 1024);
        self.sent = end;
        let block: Vec<u8> = (start..end).map(pattern).collect();
        Poll::Ready(Some(Ok(Frame::data(block.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.total
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.total - self.sent)
    }
}

/// Counts the exchange as aborted unless it was finished before its drop.
pub(super) struct AbortGuard {
    shared: Arc<Shared>,
    finished: bool,
}

impl AbortGuard {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, finished: false }
    }

    /// Moves on into the body, which finishes when it has ended.
    pub(super) fn watch(self, body: ResponseBody) -> ResponseBody {
        Watched { body, guard: self }.boxed_unsync()
    }

    /// Ends without a body to watch.
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for AbortGuard {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.record.abort();
        }
    }
}

struct Watched {
    body: ResponseBody,
    guard: AbortGuard,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        // HTTP never asks again after the last frame of a body of known length.
        self.guard.finished = frame.is_none() || self.body.is_end_stream();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
