//! Transfer of a body from one side of an exchange to the other, and the traits of the sides.
//!
//! A [`BodyCopy`] takes from a source only what its sink has room for; that is all the back-pressure there is.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Sleep;

use crate::http::fields::Fields;
use crate::http::message::{Request, Response};
use crate::refusal::Refusal;
use crate::turns;

/// State of a source after a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollBody {
    /// [`Source::data`] is not empty.
    Data,
    /// The body has ended.
    End,
}

/// Reason a body cannot be read on.
#[derive(Debug)]
pub(crate) enum SourceFault {
    /// The body breaks this rule.
    Malformed(&'static str),
    /// The body is larger than allowed.
    TooLarge,
    /// The sender has closed the connection.
    Closed,
    /// The sender has begun something, such as trailers, and did not finish it in time.
    Late,
}

/// Side a body comes from.
pub(crate) trait Source {
    /// Fills `data` with at least one byte, or returns that the body has ended.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<PollBody, SourceFault>>;
    /// Returns the bytes read and not yet consumed.
    fn data(&self) -> &[u8];
    /// Returns the bytes of memory held by data that cannot be passed on, except what is charged elsewhere.
    fn held(&self) -> usize {
        0
    }
    /// Consumes the first `count` bytes of `data`.
    fn consume(&mut self, count: usize);
    /// Takes the first `count` bytes of `data` out.
    fn take(&mut self, count: usize) -> Bytes {
        let taken = Bytes::copy_from_slice(&self.data()[..count]);
        self.consume(count);
        taken
    }
    /// Returns true if the first `count` bytes of `data` are known to be all that is left, trailers included.
    fn ends_after(&self, count: usize) -> bool;
    /// Returns the trailer fields, once the body has ended.
    fn trailers(&self) -> Option<&Fields>;
}

/// Side a body goes to.
pub(crate) trait Sink {
    /// Sends some of the source's data; returns the number of bytes.
    fn poll_send<S: Source>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<io::Result<usize>>;
    /// Ends the body.
    fn finish(&mut self, trailers: Option<&Fields>) -> io::Result<()>;
    /// Hands all queued bytes to the kernel.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Returns the bytes received and sent so far in this exchange.
    fn traffic(&self) -> (u64, u64);
}

/// Client's side of one exchange.
pub(crate) trait Downstream: Source + Sink {
    /// Queues an interim response (1xx).
    fn interim(&mut self, response: &Response) -> io::Result<()>;
    /// Queues the response's head and prepares for its body.
    fn head(&mut self, request: &Request, response: &Response) -> io::Result<()>;
    /// Completes when the client has gone and wants no response. Does not touch a body that is still to be read.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// Returns true if some of the request's body was consumed: the request cannot be sent again.
    fn consumed(&self) -> bool;
    /// Returns true if all of the request's body was consumed.
    fn is_read(&self) -> bool;
}

/// Upstream's side of one exchange.
pub(crate) trait Upstream: Source + Sink {
    /// Queues the request's head and prepares for its body.
    ///
    /// # Errors
    /// Fails if the request cannot be expressed in this upstream's protocol; nothing is sent then.
    fn request(&mut self, request: &Request) -> Result<(), Refusal>;
    /// Reads the next head of the response, interim or final.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request,
        response: &mut Response,
    ) -> Poll<Result<(), HeadFault>>;
    /// Returns true if no byte of a response has come.
    fn is_silent(&self) -> bool;
    /// Switches to a tunnel: bytes pass unframed from here on.
    fn tunnel(&mut self);
    /// Returns true if bytes after a request for another protocol must wait until that is granted.
    fn holds_upgrades(&self) -> bool;
}

/// Reason there is no response head.
#[derive(Debug)]
pub(crate) enum HeadFault {
    /// The upstream closed or reset the connection.
    Closed,
    /// The upstream says that it did not process the request.
    Refused,
    /// The upstream reset the request's stream with an HTTP/2 error code.
    Reset(&'static str),
    /// The bytes received are no head.
    Malformed(Refusal),
    /// The request cannot be sent to this upstream.
    Unfit(Refusal),
}

/// Side on which a copy failed.
#[derive(Debug)]
pub(crate) enum CopyFault {
    /// Reading from the source failed.
    Source(SourceFault),
    /// Writing to the sink failed.
    Sink,
}

/// Transfer of one body.
#[derive(Debug, Default)]
pub(crate) struct BodyCopy {
    stage: Stage,
    /// Bytes transferred.
    pub(crate) moved: u64,
    wait: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Moving,
    Flushing,
    Done,
}

impl BodyCopy {
    /// Returns true if all of the body, its end included, was handed to the kernel.
    pub(crate) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Transfers what can be transferred in one turn. `meter` gets the number of bytes and may ask for a pause.
    pub(crate) fn poll<S: Source, K: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut K,
        meter: &dyn Fn(u64) -> Option<Duration>,
    ) -> Poll<Result<(), CopyFault>> {
        let mut left = turns::BYTES;
        while self.stage == Stage::Moving {
            // Wakes itself, so that other tasks run before it goes on.
            if left == 0 || (left < turns::BYTES && turns::is_over()) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            match source.poll_fill(cx) {
                Poll::Ready(Ok(PollBody::Data)) => {}
                Poll::Ready(Ok(PollBody::End)) => {
                    sink.finish(source.trailers()).map_err(|_| CopyFault::Sink)?;
                    self.stage = Stage::Flushing;
                    break;
                }
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(CopyFault::Source(fault))),
                Poll::Pending => {
                    // While the source is silent, gathered bytes must not wait for more.
                    let _ = sink.poll_flush(cx).map_err(|_| CopyFault::Sink)?;
                    return Poll::Pending;
                }
            }
            let count = ready!(sink.poll_send(cx, source)).map_err(|_| CopyFault::Sink)?;
            self.moved += count as u64;
            let price = count.max(turns::PIECE);
            left = left.saturating_sub(price);
            turns::spend(price);
            if let Some(pause) = meter(count as u64) {
                let _ = sink.poll_flush(cx).map_err(|_| CopyFault::Sink)?;
                self.wait = Some(Box::pin(tokio::time::sleep(pause)));
            }
        }
        if self.stage == Stage::Flushing {
            ready!(sink.poll_flush(cx)).map_err(|_| CopyFault::Sink)?;
            self.stage = Stage::Done;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A body of so many bytes that comes one byte at a time.
    struct Drops(usize);

    impl Source for Drops {
        fn poll_fill(&mut self, _: &mut Context<'_>) -> Poll<Result<PollBody, SourceFault>> {
            Poll::Ready(Ok(if self.0 == 0 { PollBody::End } else { PollBody::Data }))
        }

        fn data(&self) -> &[u8] {
            b"x"
        }

        fn consume(&mut self, count: usize) {
            self.0 -= count;
        }

        fn ends_after(&self, count: usize) -> bool {
            self.0 == count
        }

        fn trailers(&self) -> Option<&Fields> {
            None
        }
    }

    struct Drain;

    impl Sink for Drain {
        fn poll_send<S: Source>(
            &mut self,
            _: &mut Context<'_>,
            source: &mut S,
        ) -> Poll<io::Result<usize>> {
            let count = source.data().len();
            source.consume(count);
            Poll::Ready(Ok(count))
        }

        fn finish(&mut self, _: Option<&Fields>) -> io::Result<()> {
            Ok(())
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn traffic(&self) -> (u64, u64) {
            (0, 0)
        }
    }

    #[test]
    fn a_body_of_single_bytes_takes_many_turns() {
        let (mut copy, mut source) = (BodyCopy::default(), Drops(1_000));
        let mut cx = Context::from_waker(Waker::noop());
        let mut polls = 1;

        while copy.poll(&mut cx, &mut source, &mut Drain, &|_| None).is_pending() {
            polls += 1;
        }

        assert_eq!((copy.moved, polls), (1_000, 1 + 1_000 / (turns::BYTES / turns::PIECE)));
    }
}
