//! Bytes that a stream has received and its reader has not taken.
//!
//! HTTP/2 keeps every DATA frame that waits in a slot of hundreds of bytes, however short the frame is, so single bytes for a reader that stalls would
//! take memory that no window bounds. A [`Pump`] takes the frames as they come and joins small ones. Credit returns to the peer when the reader has
//! taken the bytes.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, Stream};
use h2::RecvStream;
use tokio::sync::mpsc;

use super::stream::broken;

/// Bytes that may wait without being charged to the stream's account, where that does not say otherwise.
const FREE: usize = 64 * 1024;
/// Bytes charged at once.
const STEP: usize = 64 * 1024;
/// Length from which a frame is kept as it is. A shorter one would keep the rest of the buffer that it was read into.
const LARGE: usize = 8 * 1024;
/// Bytes joined into one piece.
const JOINED: usize = 16 * 1024;

/// Memory account of one stream.
pub trait Account: Send {
    /// Holds `bytes` in all. Returns false if there is no room for them: then the stream breaks.
    fn hold(&mut self, bytes: usize) -> bool;

    /// Returns the bytes that may wait without being held: its owner has paid for them with the stream itself.
    fn free(&self) -> usize {
        FREE
    }
}

/// Reader's end of the bytes received.
pub(super) struct Inbound(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    pieces: VecDeque<Bytes>,
    /// Small frames, joined; they follow the pieces.
    joined: BytesMut,
    bytes: usize,
    end: Option<End>,
    account: Option<Box<dyn Account>>,
    charged: usize,
    /// True once the reader has gone.
    dropped: bool,
    reader: Option<Waker>,
    /// Waiter for the end, who does not read.
    watcher: Option<Waker>,
    pump: Option<Waker>,
}

enum End {
    Whole,
    Broken(Option<io::Error>),
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").field("bytes", &lock(&self.0).bytes).finish_non_exhaustive()
    }
}

impl State {
    fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        if !self.charge() {
            self.clear();
            let full = "no memory is left for what the stream has received";
            return self
                .finish(End::Broken(Some(io::Error::new(io::ErrorKind::OutOfMemory, full))));
        }
        if bytes.len() >= LARGE && self.bytes < FREE {
            self.close_joined();
            self.pieces.push_back(bytes);
            return;
        }
        self.joined.extend_from_slice(&bytes);
        if self.joined.len() >= JOINED {
            self.close_joined();
        }
    }

    /// Forgets what waits; returns its bytes.
    fn clear(&mut self) -> usize {
        self.pieces = VecDeque::new();
        self.joined = BytesMut::new();
        let bytes = std::mem::take(&mut self.bytes);
        self.charge();
        bytes
    }

    fn close_joined(&mut self) {
        if !self.joined.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.joined).freeze());
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.close_joined();
        }
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.len();
        self.charge();
        Some(piece)
    }

    /// Adjusts the charge to what waits. Returns false if there is no room.
    fn charge(&mut self) -> bool {
        let free = self.account.as_ref().map_or(FREE, |account| account.free());
        let wanted = self.bytes.saturating_sub(free).next_multiple_of(STEP);
        if wanted == std::mem::replace(&mut self.charged, wanted) {
            return true;
        }
        self.account.as_mut().is_none_or(|account| account.hold(wanted))
    }

    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Takes the reader, and at the end who waits for that.
    fn woken(&mut self) -> impl Iterator<Item = Waker> + use<> {
        let watcher = if self.end.is_some() { self.watcher.take() } else { None };
        self.reader.take().into_iter().chain(watcher)
    }
}

impl Inbound {
    /// Splits the receiving half of a stream: its reader's end, and the pump that its carrier drives.
    pub(super) fn new(receive: RecvStream, account: Option<Box<dyn Account>>) -> (Self, Pump) {
        let state = Arc::new(Mutex::new(State { account, ..State::default() }));
        (Self(Arc::clone(&state)), Pump { receive, state })
    }

    /// Returns the next piece; empty once the peer has ended its direction.
    ///
    /// # Errors
    /// Fails if the stream broke.
    pub(super) fn poll_piece(&self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let mut state = lock(&self.0);
        if let Some(piece) = state.pop() {
            return Poll::Ready(Ok(piece));
        }
        match &mut state.end {
            Some(End::Whole) => return Poll::Ready(Ok(Bytes::new())),
            Some(End::Broken(error)) => {
                let error = error.take().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
                return Poll::Ready(Err(error));
            }
            None => {}
        }
        remember(&mut state.reader, cx);
        Poll::Pending
    }

    /// Returns true if the stream broke; wakes the caller when it ends in any way.
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = lock(&self.0);
        if let Some(end) = &state.end {
            return Poll::Ready(matches!(end, End::Broken(_)));
        }
        remember(&mut state.watcher, cx);
        Poll::Pending
    }

    /// Ends the pump; returns how many bytes nobody will read.
    pub(super) fn drop_rest(&self) -> usize {
        let mut state = lock(&self.0);
        state.dropped = true;
        let (rest, pump) = (state.clear(), state.pump.take());
        drop(state);
        pump.into_iter().for_each(Waker::wake);
        rest
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let state = lock(&self.0);
        let slots = state.pieces.capacity() * size_of::<Bytes>();
        slots + state.bytes + state.joined.capacity()
    }
}

/// Mover of a stream's frames from HTTP/2 to its reader.
pub(super) struct Pump {
    receive: RecvStream,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").finish_non_exhaustive()
    }
}

impl Future for Pump {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            let mut state = lock(&this.state);
            if state.dropped || state.end.is_some() {
                return Poll::Ready(());
            }
            remember(&mut state.pump, cx);
            drop(state);
            let received = ready!(this.receive.poll_data(cx));
            let mut state = lock(&this.state);
            match received {
                Some(Ok(bytes)) => state.push(bytes),
                Some(Err(error)) => state.finish(End::Broken(Some(broken(error)))),
                None => state.finish(End::Whole),
            }
            let woken = state.woken();
            drop(state);
            woken.for_each(Waker::wake);
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.finish(End::Broken(None));
        let woken = state.woken();
        drop(state);
        woken.for_each(Waker::wake);
    }
}

/// Pumps of all streams of one carrier.
pub(super) struct Pumps {
    new: mpsc::UnboundedReceiver<Pump>,
    running: FuturesUnordered<Pump>,
    /// Number of those that run.
    open: Arc<AtomicU32>,
}

impl Pumps {
    /// Returns the pumps of a carrier, and where its streams hand theirs in.
    pub(super) fn new() -> (mpsc::UnboundedSender<Pump>, Self) {
        let (hand_in, new) = mpsc::unbounded_channel();
        (hand_in, Self { new, running: FuturesUnordered::new(), open: Arc::default() })
    }

    /// Returns the number of streams that receive, as it changes.
    pub(super) fn open(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.open)
    }

    /// Runs the pumps; never completes. May be cancelled and called again.
    pub(super) fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(Some(pump)) = self.new.poll_recv(cx) {
            self.running.push(pump);
        }
        while let Poll::Ready(Some(())) = Pin::new(&mut self.running).poll_next(cx) {}
        self.open.store(u32::try_from(self.running.len()).unwrap_or(u32::MAX), Relaxed);
        Poll::Pending
    }

    /// Moves what HTTP/2 has received by the end of its connection.
    pub(super) fn finish(mut self) {
        self.new.close();
        let _ = self.poll_run(&mut Context::from_waker(Waker::noop()));
    }
}

/// Hands a pump in at its carrier. At one that has ended, the pump runs once, for what has come by then.
pub(super) fn hand_in(to: &mpsc::UnboundedSender<Pump>, pump: Pump) {
    if let Err(mpsc::error::SendError(mut pump)) = to.send(pump) {
        let _ = Pin::new(&mut pump).poll(&mut Context::from_waker(Waker::noop()));
    }
}

/// Moves bytes of the piece to a buffer.
pub(super) fn take(piece: &mut Bytes, buf: &mut tokio::io::ReadBuf<'_>) -> usize {
    let most = piece.len().min(buf.remaining());
    buf.put_slice(&piece[..most]);
    piece.advance(most);
    most
}

fn remember(waker: &mut Option<Waker>, cx: &Context<'_>) {
    if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
