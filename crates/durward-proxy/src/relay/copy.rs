//! Relay by copying, where TLS is on either side.
//!
//! Bytes are written at once from the core's scratch buffer; only what the receiver does not take is kept.

use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::meter::Meter;
use super::{BURST, Broken, SCRATCH, SCRATCH_BYTES, Way};
use crate::io::Io;
use crate::memory::Hold;

/// Copies bytes until both directions have ended.
pub(super) async fn both(
    meter: &Meter<'_>,
    client: &mut Io,
    upstream: &mut Io,
    to_upstream: Vec<u8>,
    to_client: Vec<u8>,
) -> Result<(), Broken> {
    let mut up = Flow::new(Way::ToUpstream, to_upstream);
    let mut down = Flow::new(Way::ToClient, to_client);
    poll_fn(|cx| {
        let up_ended = up.poll(cx, meter, client, upstream)?.is_ready();
        let down_ended = down.poll(cx, meter, upstream, client)?.is_ready();
        match up_ended && down_ended {
            true => Poll::Ready(up.ending.and(down.ending)),
            false => Poll::Pending,
        }
    })
    .await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The sender may send more.
    Open,
    /// The sender has ended its direction; the receiver's is still to be shut down.
    Ending,
    /// The sender closed without `close_notify`. The receiver gets none either, so that it notices the truncation too.
    CutShort,
    /// Both ends are done.
    Ended,
}

/// One direction.
struct Flow {
    way: Way,
    state: State,
    /// Error if the receiver is gone.
    ending: Result<(), Broken>,
    /// Bytes that the receiver has not taken yet.
    held: Vec<u8>,
    /// Memory charged for them.
    memory: Option<Hold>,
    taken: usize,
    unflushed: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Flow {
    fn new(way: Way, held: Vec<u8>) -> Self {
        Self {
            way,
            state: State::Open,
            ending: Ok(()),
            held,
            memory: None,
            taken: 0,
            unflushed: false,
            pause: None,
        }
    }

    /// Moves what can be moved. An error means that the sender is gone; a receiver that is gone only ends this direction.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        meter: &Meter<'_>,
        from: &mut Io,
        to: &mut Io,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..BURST {
            if self.state == State::Ended {
                return Poll::Ready(Ok(()));
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.step(cx, meter, from, to)) {
                Ok(()) => {}
                Err(broken) if broken == self.way.source() || broken == Broken::Memory => {
                    return Poll::Ready(Err(broken));
                }
                Err(broken) => {
                    self.ending = Err(broken);
                    self.state = State::Ended;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn step(
        &mut self,
        cx: &mut Context<'_>,
        meter: &Meter<'_>,
        from: &mut Io,
        to: &mut Io,
    ) -> Poll<Result<(), Broken>> {
        ready!(self.write_held(cx, meter, to))?;
        if self.state != State::Open {
            return self.finish(cx, to);
        }
        let read = SCRATCH_BYTES.with_borrow_mut(|scratch| {
            let portion = meter.portion(self.way, SCRATCH);
            let mut buffer = ReadBuf::new(&mut scratch[..portion]);
            match Pin::new(from).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => Poll::Ready(self.pass_on(cx, meter, buffer.filled(), to)),
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.state = State::CutShort;
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(Err(_)) => Poll::Ready(Err(self.way.source())),
                Poll::Pending => Poll::Pending,
            }
        });
        if read.is_pending() && self.unflushed {
            ready!(Pin::new(to).poll_flush(cx)).map_err(|_| self.way.sink())?;
            self.unflushed = false;
        }
        read
    }

    /// Shuts the receiver's direction down.
    fn finish(&mut self, cx: &mut Context<'_>, to: &mut Io) -> Poll<Result<(), Broken>> {
        if self.state == State::Ending {
            ready!(Pin::new(to).poll_shutdown(cx)).map_err(|_| self.way.sink())?;
        } else {
            ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| self.way.sink())?;
            match to.socket() {
                Some(socket) => {
                    let socket = socket2::SockRef::from(socket);
                    socket.shutdown(Shutdown::Write).map_err(|_| self.way.sink())?;
                }
                // A stream of a link has nothing below its end, like plain TCP.
                None => ready!(Pin::new(to).poll_shutdown(cx)).map_err(|_| self.way.sink())?,
            }
        }
        self.state = State::Ended;
        Poll::Ready(Ok(()))
    }

    fn write_held(
        &mut self,
        cx: &mut Context<'_>,
        meter: &Meter<'_>,
        to: &mut Io,
    ) -> Poll<Result<(), Broken>> {
        while self.taken < self.held.len() {
            let attempt = ready!(Pin::new(&mut *to).poll_write(cx, &self.held[self.taken..]));
            self.taken += self.written(meter, attempt.ok())?;
        }
        if !self.held.is_empty() {
            (self.held, self.taken, self.memory) = (Vec::new(), 0, None);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes bytes; keeps what is not taken at once.
    fn pass_on(
        &mut self,
        cx: &mut Context<'_>,
        meter: &Meter<'_>,
        mut bytes: &[u8],
        to: &mut Io,
    ) -> Result<(), Broken> {
        if bytes.is_empty() {
            self.state = State::Ending;
            return Ok(());
        }
        meter.read(self.way, bytes.len());
        self.pause =
            meter.wait(self.way, bytes.len()).map(|wait| Box::pin(tokio::time::sleep(wait)));
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(attempt) => bytes = &bytes[self.written(meter, attempt.ok())?..],
                Poll::Pending => {
                    self.memory = Some(meter.hold(bytes.len()).ok_or(Broken::Memory)?);
                    self.held = bytes.to_vec();
                    break;
                }
            }
        }
        Ok(())
    }

    fn written(&mut self, meter: &Meter<'_>, attempt: Option<usize>) -> Result<usize, Broken> {
        match attempt {
            Some(written) if written > 0 => {
                meter.written(self.way, written);
                self.unflushed = true;
                Ok(written)
            }
            _ => Err(self.way.sink()),
        }
    }
}
