//! Transport of an HTTP/2 connection to an upstream: counts frames in both directions, so that what the codec holds is known and bounded.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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
}

impl Metered {
    /// Wraps a connection on which nothing was sent yet, the preface included.
    pub(crate) fn new(io: Io, streams: Streams, findings: Rc<Findings>) -> Self {
        let incoming = Incoming::of_upstream(HEADER_LIST as usize, findings);
        Self {
            io,
            streams,
            intake: Intake::new(incoming),
            received: FrameMeter::of_upstream(Instant::now()),
            sent: Frames::new(PREFACE),
        }
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

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.intake.serve(buf) {
            // Wakes itself, so that other tasks run before it goes on.
            if turns::is_over() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let (streams, intake) = (&this.streams, &mut this.intake);
            let new = &buf.filled()[before..];
            let broken = this.received.received(new, Instant::now(), |piece| {
                streams.received(piece);
                intake.received(piece, new);
            });
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
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        this.note_sent(&[io::IoSlice::new(bytes)], written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, parts))?;
        this.note_sent(parts, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
