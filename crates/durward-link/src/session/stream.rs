//! One stream of a carrier, as a connection: bytes both ways, half-close, reset.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{FlowControl, Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use super::gateway::Carrier;
use super::inbound::{self, Account, Inbound, Pump};
use super::outgoing::{Frame, Waiting};

/// Bytes handed to HTTP/2 at once: one frame.
const CHUNK: usize = 16 * 1024;

/// Connection to a backend through the agent, or to the gateway's client on the agent's side.
///
/// Dropped before both directions have ended, it resets the stream.
#[derive(Debug)]
pub struct LinkStream {
    send: SendStream<Frame>,
    /// Our frames that HTTP/2 has not written yet.
    waiting: Arc<Waiting>,
    inbound: Inbound,
    credits: FlowControl,
    /// Present piece of what was received. Its credit is given back when all of it was read.
    unread: Bytes,
    credit: usize,
    /// True once our direction has ended.
    sent_end: bool,
    counted: Option<Counted>,
}

/// Stream counted at its carrier.
#[derive(Debug)]
pub(super) struct Counted(pub(super) Arc<Carrier>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.stream_ended();
    }
}

impl LinkStream {
    /// Creates the connection of both halves of a stream. `pumps` are those of its carrier, `account` pays for what is received and not read.
    pub(super) fn new(
        send: SendStream<Frame>,
        mut receive: RecvStream,
        pumps: &mpsc::UnboundedSender<Pump>,
        account: Option<Box<dyn Account>>,
        counted: Option<Counted>,
    ) -> Self {
        let credits = receive.flow_control().clone();
        let (inbound, pump) = Inbound::new(receive, account);
        inbound::hand_in(pumps, pump);
        Self {
            send,
            waiting: Arc::default(),
            inbound,
            credits,
            unread: Bytes::new(),
            credit: 0,
            sent_end: false,
            counted,
        }
    }

    /// Returns the carrier, on the gateway's side.
    #[must_use]
    pub fn carrier(&self) -> Option<&Arc<Carrier>> {
        self.counted.as_ref().map(|counted| &counted.0)
    }

    /// Resets the stream, so that the other end does not take the end of the bytes for a good one.
    pub fn reset(&mut self) {
        self.sent_end = true;
        self.send.send_reset(Reason::CANCEL);
    }

    /// Completes when the stream broke, was reset or lost its carrier. A reader hears of that only when it reads, and one that has read all or waits for a backend does not.
    pub fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.inbound.poll_end(cx)) {
            return Poll::Ready(());
        }
        // What ended it makes no difference.
        self.send.poll_reset(cx).map(drop)
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.inbound.held()
    }

    fn give_back_credit(&mut self) {
        let credit = std::mem::take(&mut self.credit);
        if credit == 0 {
            return;
        }
        // Fails only for a stream that has ended, which needs no credit.
        let _ = self.credits.release_capacity(credit);
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.unread.is_empty() {
            this.unread = ready!(this.inbound.poll_piece(cx))?;
            this.credit = this.unread.len();
        }
        inbound::take(&mut this.unread, buf);
        if this.unread.is_empty() {
            this.give_back_credit();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The carrier's driver sends what it has.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.sent_end, true) {
            this.send.send_data(Bytes::new().into(), true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl LinkStream {
    /// Sends as much of the parts as one frame and the window take.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.sent_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let whole = parts.iter().map(|part| part.len()).sum::<usize>().min(CHUNK);
        if whole == 0 {
            return Poll::Ready(Ok(0));
        }
        ready!(self.waiting.poll_room(cx));
        self.send.reserve_capacity(whole);
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(self.reset_by_peer(cx))),
            }
        }
        let most = self.send.capacity().min(whole);
        let mut frame = BytesMut::with_capacity(most);
        for part in parts {
            frame.extend_from_slice(&part[..part.len().min(most - frame.len())]);
        }
        match self.send.send_data(Frame::counted(frame.freeze(), &self.waiting), false) {
            Ok(()) => Poll::Ready(Ok(most)),
            Err(error) => Poll::Ready(Err(broken(error))),
        }
    }

    fn reset_by_peer(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => broken(reason.into()),
            Poll::Ready(Err(error)) => broken(error),
            Poll::Pending => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        self.credit += self.inbound.drop_rest();
        self.give_back_credit();
        if !self.sent_end {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}

/// Converts an error of HTTP/2 to what a socket would say.
pub(super) fn broken(error: h2::Error) -> io::Error {
    if error.is_reset() || error.is_go_away() {
        return io::Error::new(io::ErrorKind::ConnectionReset, error);
    }
    match error.into_io() {
        Some(error) => error,
        None => io::ErrorKind::ConnectionReset.into(),
    }
}
