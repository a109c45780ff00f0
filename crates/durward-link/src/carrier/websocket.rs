//! WebSocket as a stream of bytes (RFC 6455): binary messages of one frame each, without extensions.
//!
//! Deliberately absent: message boundaries; a link has its own.

mod frame;
mod handshake;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use frame::{Header, Opcode, Parsed};
pub use handshake::{HandshakeError, Request, accept, accept_request, connect};

/// Bytes of payload sent in one frame.
const CHUNK: usize = 16 * 1024;
/// Bytes read from the carrier at once.
const READ: usize = 16 * 1024;
/// Frames read before other tasks run.
const FRAMES: usize = 256;

/// End of a WebSocket that this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that dialled: it masks what it sends.
    Client,
    /// The one that accepted.
    Server,
}

/// WebSocket whose messages are one stream of bytes.
#[derive(Debug)]
pub struct WebSocket<I> {
    inner: I,
    role: Role,
    /// Received and not parsed yet.
    received: BytesMut,
    /// Payload of the present data frame that is to come.
    left: u64,
    mask: Option<[u8; 4]>,
    /// Position in the mask.
    at: usize,
    /// Frames to be sent.
    unsent: BytesMut,
    masks: u32,
    /// True once the other end has ended its direction.
    ended: bool,
    closing: bool,
}

impl<I> WebSocket<I> {
    /// Wraps a connection after the handshake; `early` are bytes that came with it. `seed` begins the series of masks, which keep nothing secret under TLS.
    fn new(inner: I, role: Role, early: &[u8], seed: u32) -> Self {
        Self {
            inner,
            role,
            received: BytesMut::from(early),
            left: 0,
            mask: None,
            at: 0,
            unsent: BytesMut::new(),
            masks: seed | 1,
            ended: false,
            closing: false,
        }
    }

    /// Returns the connection underneath.
    pub fn get_ref(&self) -> &I {
        &self.inner
    }

    fn queue(&mut self, opcode: Opcode, payload: &[u8]) {
        let mask = (self.role == Role::Client).then(|| {
            // xorshift32
            self.masks ^= self.masks << 13;
            self.masks ^= self.masks >> 17;
            self.masks ^= self.masks << 5;
            self.masks.to_ne_bytes()
        });
        frame::write(&mut self.unsent, opcode, mask, payload);
    }

    /// Acts on whole control frames and the header of the next data frame. Returns true if there is anything more to take from what was received.
    fn parse(&mut self) -> io::Result<bool> {
        let Some(Parsed { header, size }) = frame::parse(&self.received, self.role)? else {
            return Ok(false);
        };
        let Header { opcode, length, mask } = header;
        if opcode.is_data() {
            self.received.advance(size);
            (self.left, self.mask, self.at) = (length, mask, 0);
            return Ok(true);
        }
        // Control frames have 125 bytes at most, so waiting for all of them is bounded.
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if self.received.len() - size < length {
            return Ok(false);
        }
        self.received.advance(size);
        let mut payload = self.received.split_to(length);
        frame::unmask(&mut payload, mask, 0);
        match opcode {
            // One answer is enough, however many pings wait.
            Opcode::Ping if self.unsent.len() < CHUNK => self.queue(Opcode::Pong, &payload),
            Opcode::Close => {
                self.ended = true;
                if !std::mem::replace(&mut self.closing, true) {
                    self.queue(Opcode::Close, &payload[..payload.len().min(2)]);
                }
            }
            Opcode::Ping | Opcode::Pong | Opcode::Binary | Opcode::Continuation => {}
        }
        Ok(true)
    }

    /// Moves payload that was received to the reader.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = self.received.len().min(buf.remaining()).min(left);
        let mut payload = self.received.split_to(most);
        frame::unmask(&mut payload, self.mask, self.at);
        self.at = (self.at + most) % 4;
        self.left -= most as u64;
        buf.put_slice(&payload);
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> WebSocket<I> {
    /// Writes waiting frames.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.unsent))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut frames = 0;
        loop {
            if this.left > 0 && !this.received.is_empty() {
                this.hand_out(buf);
                return Poll::Ready(Ok(()));
            }
            let more = this.left == 0 && !this.ended && this.parse()?;
            // A pong or close frame is sent even if the application writes nothing.
            if !this.unsent.is_empty()
                && let Poll::Ready(Err(error)) = this.poll_send(cx)
            {
                return Poll::Ready(Err(error));
            }
            if more {
                frames += 1;
                if frames > FRAMES {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            this.received.reserve(READ);
            let mut room = [0; READ];
            let mut read = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                // Without a close frame it was broken off.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            this.received.extend_from_slice(read.filled());
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // At most one frame waits, so a slow carrier is felt.
        ready!(this.poll_send(cx))?;
        let most = buf.len().min(CHUNK);
        if most > 0 {
            this.queue(Opcode::Binary, &buf[..most]);
            if let Poll::Ready(Err(error)) = this.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(most))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.closing, true) {
            this.queue(Opcode::Close, &frame::NORMAL.to_be_bytes());
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
