//! Transport of an HTTP/2 connection to an upstream: counts frames in both directions, so that what the codec holds is known and bounded.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use durward_link::session::pace::Unanswered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::http2::frames::{Frames, kind};
use crate::http2::guard::FrameMeter;
use crate::http2::inspect::{Findings, Incoming};
use crate::http2::intake::Intake;
use crate::http2::streams::Streams;
use crate::io::Io;
use crate::turns;

/// Bytes of the field list of one head from an upstream (RFC 9113 section 6.5.2); equal to the limit of an HTTP/1 head.
pub(crate) const HEADER_LIST: u32 = 64 * 1024;
/// Bytes of the connection preface that precedes our frames.
const PREFACE: usize = 24;

/// Connection whose frames are counted, and whose heads and trailers are inspected.
pub(crate) struct Metered {
    io: Io,
    streams: Streams,
    intake: Intake,
    received: FrameMeter,
    sent: Frames,
    unanswered: Unanswered,
    /// Longest time from the first byte of a header block to its last.
    most: Duration,
    /// Number and deadline of the header block that is incomplete.
    incomplete: Option<(u64, Pin<Box<Sleep>>)>,
}

impl Metered {
    /// Wraps a connection on which nothing was sent yet, the preface included. The upstream may take `most` from the first byte of a header block to
    /// its last.
    pub(crate) fn new(io: Io, streams: Streams, findings: Rc<Findings>, most: Duration) -> Self {
        let incoming = Incoming::new(HEADER_LIST as usize, findings);
        Self {
            io,
            streams,
            intake: Intake::new(incoming),
            received: FrameMeter::of_upstream(Instant::now()),
            sent: Frames::new(PREFACE),
            unanswered: Unanswered::default(),
            most,
            incomplete: None,
        }
    }

    /// Waits for the end of the header block that is incomplete: nothing else can come on the connection before it.
    ///
    /// # Errors
    /// The deadline of the block has passed.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(number) = self.intake.incomplete() else {
            self.incomplete = None;
            return Poll::Pending;
        };
        let begun = self.incomplete.take().filter(|(known, _)| *known == number);
        let begun = begun.unwrap_or_else(|| (number, Box::pin(tokio::time::sleep(self.most))));
        let (_, deadline) = self.incomplete.insert(begun);
        ready!(deadline.as_mut().poll(cx));
        self.streams.late();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn note_sent(&mut self, parts: &[io::IoSlice<'_>], mut count: usize) {
        let (streams, intake) = (&self.streams, &mut self.intake);
        for part in parts {
            let written = part.len().min(count);
            self.sent.walk(&part[..written], |piece| {
                streams.sent(piece);
                if piece.first && piece.frame.kind == kind::RST_STREAM {
                    intake.reset(piece.frame.stream);
                }
            });
            count -= written;
            self.received.sent(written as u64);
        }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.streams.agree();
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.intake.serve(buf) {
            if this.unanswered.poll_room(cx)?.is_pending() {
                return this.poll_late(cx);
            }
            // Wakes itself, so that other tasks run before it goes on.
            if turns::is_over() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let before = buf.filled().len();
            if Pin::new(&mut this.io).poll_read(cx, buf)?.is_pending() {
                return this.poll_late(cx);
            }
            let (streams, intake) = (&this.streams, &mut this.intake);
            let new = &buf.filled()[before..];
            let mut frames = 0;
            let broken = this.received.received(new, Instant::now(), |piece| {
                frames += usize::from(piece.first);
                streams.received(piece);
                intake.received(piece, new);
            });
            this.unanswered.read(frames);
            if let Some(detail) = broken {
                streams.flooded(detail);
            }
            let passed = intake.finish(buf, before, this.received.partial());
            streams.settle().map_err(io::Error::other)?;
            if passed {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.unanswered.wrote(cx, &written);
        let written = ready!(written)?;
        this.note_sent(&[io::IoSlice::new(bytes)], written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, parts);
        this.unanswered.wrote(cx, &written);
        let written = ready!(written)?;
        this.note_sent(parts, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        this.unanswered.wrote(cx, &flushed);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
