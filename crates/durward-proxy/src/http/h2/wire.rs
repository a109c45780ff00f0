//! Transport of an HTTP/2 connection below `h2`: counts inbound frames and gathers outbound ones.
//!
//! `h2` flushes after every DATA frame; sixteen small responses would be sixteen TLS records and system calls. Here its flush does nothing, and the
//! connection's task flushes once it has polled all its streams.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::buffer::{Buffer, SIZE, give_write, take_write};
use crate::http2::Streams;
use crate::http2::frames::Frames;
use crate::http2::guard::FrameMeter;
use crate::http2::inspect::{Findings, Incoming, Outgoing};
use crate::http2::intake::Intake;
use crate::io::Io;
use crate::turns;

/// Connection shared by `h2`, which reads and writes, and the task, which flushes.
#[derive(Clone)]
pub(crate) struct Wire(Rc<RefCell<State>>);

struct State {
    io: Io,
    early: Buffer,
    meter: FrameMeter,
    intake: Intake,
    outgoing: Outgoing,
    findings: Rc<Findings>,
    broken: Option<&'static str>,
    streams: Streams,
    /// Outbound frames.
    sent: Frames,
    /// True if reading stopped because too many heads wait to be taken.
    held_back: bool,
    out: Vec<u8>,
    start: usize,
}

impl Wire {
    /// Wraps `io`, of which `early` was read already. Memory of its streams is counted in `streams`; `h2` accepts lists of fields up to `list` bytes.
    pub(crate) fn new(io: Io, early: &[u8], streams: Streams, list: usize) -> Self {
        let findings = Rc::<Findings>::default();
        let mut buffer = Buffer::default();
        buffer.preload(early);
        Self(Rc::new(RefCell::new(State {
            io,
            early: buffer,
            meter: FrameMeter::of_client(Instant::now()),
            intake: Intake::new(Incoming::of_client(list, Rc::clone(&findings))),
            outgoing: Outgoing::new(Rc::clone(&findings)),
            findings,
            broken: None,
            streams,
            sent: Frames::default(),
            held_back: false,
            out: Vec::new(),
            start: 0,
        })))
    }

    /// Returns the faults noted of the connection's requests.
    pub(crate) fn findings(&self) -> Rc<Findings> {
        Rc::clone(&self.0.borrow().findings)
    }

    /// Returns the frame budget that the peer exceeded, if any. Nothing more is read then.
    pub(crate) fn broken(&self) -> Option<&'static str> {
        self.0.borrow().broken
    }

    /// Returns the number of the header block that the client has begun and not finished, if any.
    pub(crate) fn incomplete(&self) -> Option<u64> {
        self.0.borrow().intake.incomplete()
    }

    /// Returns true if reading stopped, since the last call, because too many heads wait to be taken.
    pub(crate) fn was_held_back(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().held_back)
    }

    /// Returns how many gathered bytes the kernel has not got.
    pub(crate) fn unsent(&self) -> usize {
        let state = self.0.borrow();
        state.out.len() - state.start
    }

    /// Hands all gathered bytes to the kernel.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        ready!(state.poll_drain(cx))?;
        Pin::new(&mut state.io).poll_flush(cx)
    }
}

impl State {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.start < self.out.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.start..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += count;
            self.meter.sent(count as u64);
        }
        give_write(std::mem::take(&mut self.out));
        self.start = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_gather(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if self.out.len() + total > SIZE {
            // Each write costs time, and the codec has as much to write as its streams' windows allow.
            if turns::is_over() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(self.poll_drain(cx))?;
        }
        if self.out.capacity() == 0 {
            self.out = take_write();
        }
        // One write may be larger than the buffer should grow.
        let mut room = SIZE;
        for part in parts {
            let count = part.len().min(room);
            self.out.extend_from_slice(&part[..count]);
            let (streams, outgoing) = (&self.streams, &mut self.outgoing);
            self.sent.walk(&part[..count], |piece| {
                streams.sent(piece);
                outgoing.sent(piece);
            });
            room -= count;
        }
        Poll::Ready(Ok(SIZE - room))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.broken.is_some() {
            return Poll::Pending;
        }
        while !self.intake.serve(buf) {
            // Each frame costs time, however small it is.
            if turns::has_moved() && turns::is_over() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // The task that polls takes the heads and then reads on, so no wake-up is needed.
            if self.streams.is_full() {
                self.held_back = true;
                return Poll::Pending;
            }
            let before = buf.filled().len();
            ready!(self.poll_arrive(cx, buf))?;
            let (streams, intake) = (&self.streams, &mut self.intake);
            let new = &buf.filled()[before..];
            self.broken = self.meter.received(new, Instant::now(), |piece| {
                streams.received(piece);
                intake.received(piece, new);
            });
            if intake.finish(buf, before, self.meter.partial()) {
                break;
            }
            if self.broken.is_some() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads the bytes that came before the connection was known to be HTTP/2, and then those of the socket.
    fn poll_arrive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = self.early.filled().len().min(buf.remaining());
        buf.put_slice(&self.early.filled()[..count]);
        self.early.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.0.borrow_mut().io).poll_shutdown(cx)
    }
}
