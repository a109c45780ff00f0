//! Connection under HTTP/2 that goes on being read while nothing can be written, and knows when the peer gave a sign of life.
//!
//! `h2` reads no frame as long as a PING, its acknowledgement or an acknowledgement of SETTINGS waits for room to be written. Where both ends have such a
//! frame to send and both sockets are full of bulk, neither would read again. A [`Wire`] takes what such a frame needs beyond what the socket takes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes taken beyond the socket at most: the frame that HTTP/2 is writing, and thousands of acknowledgements after it.
const SPILL: usize = 64 * 1024;

/// Signs of life of a peer: they grow in number as long as it sends, or takes what waited for it.
#[derive(Clone, Debug, Default)]
pub struct Signs(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    signs: AtomicU64,
    bytes: AtomicU64,
}

impl Signs {
    /// Returns the number of signs so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.signs.load(Relaxed)
    }

    /// Returns the number of bytes that came so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }

    fn note(&self) {
        self.0.signs.fetch_add(1, Relaxed);
    }

    fn received(&self, bytes: usize) {
        self.note();
        self.0.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

/// Connection between HTTP/2 and a socket.
#[derive(Debug)]
pub struct Wire<I> {
    inner: I,
    signs: Signs,
    /// Bytes that HTTP/2 has written and the socket has not taken.
    spilled: BytesMut,
    /// True if the socket took nothing at the last attempt.
    blocked: bool,
    /// True if HTTP/2 found nothing to read after the socket last took nothing: it waits for the socket, and not with a frame that keeps it from reading.
    reads: bool,
}

impl<I> Wire<I> {
    /// Wraps a connection; returns the signs of its peer's life, too.
    pub fn new(inner: I) -> (Self, Signs) {
        let signs = Signs::default();
        let wire = Self {
            inner,
            signs: signs.clone(),
            spilled: BytesMut::new(),
            blocked: false,
            reads: false,
        };
        (wire, signs)
    }

    /// Returns the connection underneath.
    pub fn get_ref(&self) -> &I {
        &self.inner
    }

    /// Takes note of an attempt to write.
    fn tried<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let was_blocked = std::mem::replace(&mut self.blocked, written.is_pending());
        // What a socket takes at once may stay in its buffer; when it takes more than it could, the peer has made room.
        if was_blocked && matches!(written, Poll::Ready(Ok(_))) {
            self.signs.note();
        }
        written
    }

    /// Returns true if the bytes that the socket does not take keep HTTP/2 from reading.
    fn is_stuck(&mut self) -> bool {
        !std::mem::take(&mut self.reads)
    }

    /// Takes bytes beyond the socket. Returns how many.
    fn spill(&mut self, parts: &[IoSlice<'_>]) -> usize {
        let before = self.spilled.len();
        for part in parts {
            let room = SPILL.saturating_sub(self.spilled.len()).min(part.len());
            self.spilled.extend_from_slice(&part[..room]);
        }
        self.spilled.len() - before
    }
}

impl<I: AsyncWrite + Unpin> Wire<I> {
    /// Writes what was taken beyond the socket.
    fn poll_spilled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.spilled.is_empty() {
            let written = Pin::new(&mut self.inner).poll_write(cx, &self.spilled);
            let written = ready!(self.tried(written))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.spilled.advance(written);
        }
        self.spilled = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.poll_spilled(cx)?.is_ready() {
            let inner = Pin::new(&mut self.inner);
            let written = match parts {
                [one] => inner.poll_write(cx, one),
                _ => inner.poll_write_vectored(cx, parts),
            };
            if let Poll::Ready(written) = self.tried(written) {
                return Poll::Ready(written);
            }
        }
        if self.is_stuck() {
            let taken = self.spill(parts);
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
        Poll::Pending
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(Err(error)) = this.poll_spilled(cx) {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        this.reads = read.is_pending();
        let received = buf.filled().len() - before;
        if received > 0 {
            this.signs.received(received);
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Wire<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_parts(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_parts(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match this.poll_spilled(cx)? {
            Poll::Ready(()) => {
                let flushed = Pin::new(&mut this.inner).poll_flush(cx);
                this.tried(flushed)
            }
            Poll::Pending => Poll::Pending,
        };
        // Flushed later: HTTP/2 flushes whenever it has written all that it has.
        if flushed.is_pending() && this.is_stuck() { Poll::Ready(Ok(())) } else { flushed }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_spilled(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}
