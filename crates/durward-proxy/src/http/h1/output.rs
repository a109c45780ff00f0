//! Outbound direction: a head and a small body in one write, a large body as it arrives, with new chunk framing.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::http::buffer::{give_write, take_write};
use crate::http::fields::Fields;
use crate::http::flow::Source;
use crate::http::message::Framing;
use crate::io::Io;

/// Bytes gathered before a write at most.
const GATHER: usize = 16 * 1024;

/// Framing of the outbound body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Encoding {
    /// No body.
    #[default]
    None,
    /// Bytes left.
    Length(u64),
    /// Chunked; bytes left of the chunk that was begun.
    Chunked { open: usize },
    /// Unframed.
    Raw,
}

/// Bytes queued for writing, and the framing of the body.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pending: Vec<u8>,
    start: usize,
    encoding: Encoding,
    flushed: bool,
    /// Bytes written in this exchange.
    pub(crate) sent: u64,
}

impl Output {
    /// Queues a head and prepares for a body of this framing.
    pub(crate) fn begin(&mut self, framing: Framing, write: impl FnOnce(&mut Vec<u8>)) {
        if self.pending.capacity() == 0 {
            self.pending = take_write();
        }
        write(&mut self.pending);
        self.encoding = match framing {
            Framing::None => Encoding::None,
            Framing::Length(length) => Encoding::Length(length),
            Framing::Chunked => Encoding::Chunked { open: 0 },
            Framing::UntilClose => Encoding::Raw,
        };
    }

    /// Returns true if everything was handed to the kernel.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.pending.len()
    }

    /// Returns the memory held by queued bytes.
    pub(crate) fn size(&self) -> usize {
        if self.is_empty() { 0 } else { self.pending.capacity() }
    }

    /// Returns true if the framing of the last message was completed.
    pub(crate) fn is_complete(&self) -> bool {
        self.encoding == Encoding::None
    }

    /// Returns true if at least one message was sent, and all of it.
    pub(crate) fn is_finished(&self) -> bool {
        self.sent > 0 && self.is_empty() && self.is_complete()
    }

    /// Returns true if a body is under way that ends with the connection.
    pub(crate) fn is_raw(&self) -> bool {
        self.encoding == Encoding::Raw
    }

    pub(crate) fn poll_send<S: Source>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
        source: &mut S,
    ) -> Poll<io::Result<usize>> {
        let room = match self.encoding {
            Encoding::None => 0,
            Encoding::Length(left) => usize::try_from(left).unwrap_or(usize::MAX),
            Encoding::Chunked { open: 0 } | Encoding::Raw => usize::MAX,
            Encoding::Chunked { open } => open,
        };
        let count = source.data().len().min(room);
        if count == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "body too long")));
        }
        let gathers = self.pending.len() - self.start + count <= GATHER;
        if self.encoding == (Encoding::Chunked { open: 0 }) {
            // Writing to a Vec cannot fail.
            let _ = write!(self.pending_mut(), "{count:x}\r\n");
            self.encoding = Encoding::Chunked { open: count };
        }
        let moved = if gathers {
            self.pending_mut().extend_from_slice(&source.data()[..count]);
            count
        } else {
            ready!(self.poll_write(cx, io, &source.data()[..count]))?
        };
        source.consume(moved);
        self.advance(moved);
        Poll::Ready(Ok(moved))
    }

    fn pending_mut(&mut self) -> &mut Vec<u8> {
        if self.pending.capacity() == 0 {
            self.pending = take_write();
        }
        &mut self.pending
    }

    fn advance(&mut self, moved: usize) {
        match &mut self.encoding {
            Encoding::Length(left) => *left -= moved as u64,
            Encoding::Chunked { open } => {
                *open -= moved;
                if *open == 0 {
                    self.pending_mut().extend_from_slice(b"\r\n");
                }
            }
            Encoding::None | Encoding::Raw => {}
        }
    }

    /// Writes the queue and then some of `data`; returns the bytes of `data` written, at least one.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let waiting = &self.pending[self.start..];
            let written = if waiting.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, data))?
            } else {
                let both = [IoSlice::new(waiting), IoSlice::new(data)];
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &both))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written as u64;
            self.flushed = false;
            let rest = written.saturating_sub(waiting.len());
            self.written(written);
            if rest > 0 {
                return Poll::Ready(Ok(rest));
            }
        }
    }

    fn written(&mut self, count: usize) {
        self.start = (self.start + count).min(self.pending.len());
        if self.is_empty() {
            self.pending.clear();
            self.start = 0;
        }
    }

    pub(crate) fn finish(&mut self, trailers: Option<&Fields>) -> io::Result<()> {
        match std::mem::take(&mut self.encoding) {
            Encoding::Length(left) if left > 0 => {
                self.encoding = Encoding::Length(left);
                Err(io::Error::new(io::ErrorKind::InvalidData, "body too short"))
            }
            Encoding::Chunked { .. } => {
                let out = self.pending_mut();
                out.extend_from_slice(b"0\r\n");
                for field in trailers.into_iter().flat_map(Fields::iter) {
                    super::write::field(out, field.name, field.value);
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
            Encoding::None | Encoding::Length(_) | Encoding::Raw => Ok(()),
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let written = ready!(Pin::new(&mut *io).poll_write(cx, &self.pending[self.start..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written as u64;
            self.flushed = false;
            self.written(written);
        }
        give_write(std::mem::take(&mut self.pending));
        self.start = 0;
        if !self.flushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}
