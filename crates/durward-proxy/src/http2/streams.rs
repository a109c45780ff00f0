//! Memory that the HTTP/2 codec holds for each stream of a connection to an upstream: heads that no exchange has taken yet, data queued and not sent.
//!
//! HPACK lets one byte stand for a field of four kilobytes, so a head is charged at the size it may have once it is decoded. The charges go to the
//! connection's account.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::http2::frames::{Piece, kind};
use crate::memory::ConnectionMemory;
use crate::refusal::Refusal;

/// Bytes of memory per byte of a header block at most: a reference to the HPACK table becomes an entry of a map.
const EXPANSION: usize = 112;
/// Bytes of memory that a head may take for each byte of its field list (RFC 9113 section 6.5.2).
const HEAD_MOST: usize = 4;
/// Largest heads that all heads of one stream together may equal, interim responses and trailers included.
const HEADS: usize = 4;

/// Streams of one connection and the memory charged for them.
#[derive(Clone)]
pub(crate) struct Streams(Rc<State>);

struct State {
    memory: Rc<ConnectionMemory>,
    open: RefCell<HashMap<u32, Stream, BuildHasherDefault<StreamHasher>>>,
    /// Largest charge of one head in bytes.
    head_most: usize,
    /// Header block under way: its stream id, and its bytes so far.
    block: Cell<(u32, usize)>,
    /// Bytes charged for a block under way whose stream is over, or never was.
    stray: Cell<usize>,
    broken: Cell<Option<&'static str>>,
    /// True if the peer did not finish a header block in time.
    late: Cell<bool>,
    /// True if the budget had no room for the memory held.
    exhausted: Cell<bool>,
    /// True once the codec has acknowledged the peer's settings, or the connection is over.
    agreed: Cell<bool>,
    /// Wakers of those that wait for it.
    undecided: RefCell<Vec<Waker>>,
}

#[derive(Default)]
struct Stream {
    heads: usize,
    queued: usize,
    /// Number and bytes of our heads that wait to be sent.
    leaving: (u32, usize),
    /// True if the exchange is over.
    ended: bool,
    /// True if the peer has sent its end of the stream.
    whole: bool,
}

impl Stream {
    /// Returns the bytes released by sending one of our heads: all of them with the last head, none before, because heads are not told apart.
    fn head_sent(&mut self) -> usize {
        self.leaving.0 = self.leaving.0.saturating_sub(1);
        if self.leaving.0 == 0 { std::mem::take(&mut self.leaving.1) } else { 0 }
    }
}

impl Streams {
    /// Creates the streams of a connection, whose heads may have field lists of `list` bytes.
    pub(crate) fn new(memory: Rc<ConnectionMemory>, list: usize) -> Self {
        Self(Rc::new(State {
            memory,
            open: RefCell::default(),
            head_most: list.saturating_mul(HEAD_MOST),
            block: Cell::new((0, 0)),
            stray: Cell::new(0),
            broken: Cell::new(None),
            late: Cell::new(false),
            exhausted: Cell::new(false),
            agreed: Cell::new(false),
            undecided: RefCell::default(),
        }))
    }

    /// Charges for a piece of a frame that came in.
    pub(crate) fn received(&self, piece: Piece<'_>) {
        let (state, frame) = (&*self.0, piece.frame);
        if piece.first && frame.kind != kind::CONTINUATION {
            // The block before is complete, and the codec has released it.
            state.memory.sub(state.stray.take());
        }
        if piece.last && frame.ends_stream() && matches!(frame.kind, kind::DATA | kind::HEADERS) {
            let mut open = state.open.borrow_mut();
            if let Some(stream) = open.get_mut(&frame.stream) {
                stream.whole = true;
            }
        }
        match frame.kind {
            _ if !piece.first => {}
            kind::HEADERS => {
                state.block.set((frame.stream, 0));
                state.head(frame.length);
            }
            kind::CONTINUATION => state.head(frame.length),
            kind::RST_STREAM => state.reset(frame.stream),
            // Push is turned off: a peer that promises nevertheless is cut off.
            kind::PUSH_PROMISE => state.broken.set(Some("PUSH_PROMISE although push is off")),
            _ => {}
        }
    }

    /// Marks the connection as broken: the peer sends more frames of a kind than its budget allows.
    pub(crate) fn flooded(&self, detail: &'static str) {
        self.0.broken.set(Some(detail));
    }

    /// Marks the connection as broken: the upstream has begun a header block and does not finish it.
    pub(crate) fn late(&self) {
        self.0.late.set(true);
    }

    /// Releases memory for a piece of a frame that went out.
    pub(crate) fn sent(&self, piece: Piece<'_>) {
        let (state, frame) = (&*self.0, piece.frame);
        match frame.kind {
            _ if !piece.first => {}
            kind::DATA => {
                state.change(frame.stream, |stream| less(&mut stream.queued, frame.length));
                if frame.ends_stream() {
                    state.closed(frame.stream);
                }
            }
            kind::HEADERS => {
                state.change(frame.stream, Stream::head_sent);
                if frame.ends_stream() {
                    state.closed(frame.stream);
                }
            }
            kind::RST_STREAM => state.reset(frame.stream),
            kind::SETTINGS if frame.acknowledges() => self.agree(),
            _ => {}
        }
    }

    /// Wakes those that wait for the peer's settings: the codec has them, or they will not come.
    pub(crate) fn agree(&self) {
        self.0.agreed.set(true);
        self.0.undecided.take().into_iter().for_each(Waker::wake);
    }

    /// Waits for the peer's first settings: until then, nothing is known of what it supports (RFC 9113 section 3.4).
    pub(crate) fn poll_agreed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.agreed.get() {
            return Poll::Ready(());
        }
        self.0.undecided.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }

    /// Assigns a stream, and the head that opened it, to an exchange.
    pub(crate) fn serve(&self, stream: u32) -> StreamAccount {
        let state = &*self.0;
        state.open.borrow_mut().entry(stream).or_default();
        let account = StreamAccount { streams: self.clone(), stream };
        account.heads_taken();
        account
    }

    /// Charges the budget for the memory now held.
    ///
    /// # Errors
    /// Returns why the connection has to end.
    pub(crate) fn settle(&self) -> Result<(), Refusal> {
        if let Some(refusal) = self.broken() {
            return Err(refusal);
        }
        self.0.memory.settle().inspect_err(|_| self.0.exhausted.set(true))
    }

    /// Returns why the connection has to end: the bound that the peer exceeded, or no memory for what it holds.
    pub(crate) fn broken(&self) -> Option<Refusal> {
        if self.0.exhausted.get() {
            return Some(Refusal::Memory);
        }
        if self.0.late.get() {
            return Some(Refusal::ResponseTimeout);
        }
        let detail = self.0.broken.get()?;
        Some(Refusal::BadResponse { detail })
    }
}

impl State {
    /// Charges for a frame of a header block: the price of the block so far, less what was charged before.
    fn head(&self, length: usize) {
        let (id, before) = self.block.get();
        self.block.set((id, before.saturating_add(length)));
        let price = |bytes: usize| bytes.saturating_mul(EXPANSION).min(self.head_most);
        let more = price(before.saturating_add(length)) - price(before);
        let mut open = self.open.borrow_mut();
        let Some(stream) = open.get_mut(&id) else {
            // The codec buffers the block all the same, and so does the inspection.
            self.stray.set(self.stray.get() + more);
            return self.memory.add(more);
        };
        stream.heads += more;
        self.memory.add(more);
        if stream.heads > self.head_most.saturating_mul(HEADS) {
            self.broken.set(Some("too many heads on one stream"));
        }
    }

    /// Changes the memory held of a stream; removes the stream if its exchange is over and nothing is queued.
    fn change(&self, id: u32, with: impl FnOnce(&mut Stream) -> usize) {
        let mut open = self.open.borrow_mut();
        let Some(stream) = open.get_mut(&id) else { return };
        self.memory.sub(with(stream));
        if stream.ended && stream.queued == 0 && stream.leaving.0 == 0 {
            self.forget(open.remove(&id));
        }
    }

    fn forget(&self, stream: Option<Stream>) {
        let Some(stream) = stream else { return };
        self.memory.sub(stream.heads + stream.queued + stream.leaving.1);
    }

    /// Handles the end of our direction of a stream.
    fn closed(&self, id: u32) {
        let mut open = self.open.borrow_mut();
        if open.get(&id).is_some_and(|stream| stream.ended) {
            self.forget(open.remove(&id));
        }
    }

    /// Releases queued memory of a stream that was reset.
    fn reset(&self, id: u32) {
        self.change(id, |stream| {
            std::mem::take(&mut stream.queued) + std::mem::take(&mut stream.leaving).1
        });
        self.closed(id);
    }
}

fn less(count: &mut usize, by: usize) -> usize {
    let by = by.min(*count);
    *count -= by;
    by
}

/// Memory of one exchange's stream; released on drop, except for what is still queued.
pub(crate) struct StreamAccount {
    streams: Streams,
    stream: u32,
}

impl StreamAccount {
    fn state(&self) -> &State {
        &self.streams.0
    }

    /// Marks the heads received so far as taken.
    pub(crate) fn heads_taken(&self) {
        let state = self.state();
        state.change(self.stream, |stream| std::mem::take(&mut stream.heads));
    }

    /// Returns true if the peer has sent its end of the stream.
    pub(crate) fn is_whole(&self) -> bool {
        self.state().open.borrow().get(&self.stream).is_some_and(|stream| stream.whole)
    }

    /// Records that a head was queued.
    pub(crate) fn head_queued(&self, bytes: usize) {
        let state = self.state();
        if let Some(stream) = state.open.borrow_mut().get_mut(&self.stream) {
            stream.leaving = (stream.leaving.0 + 1, stream.leaving.1 + bytes);
            state.memory.add(bytes);
        }
    }

    /// Records that data was queued.
    pub(crate) fn queued(&self, bytes: usize) {
        let state = self.state();
        if let Some(stream) = state.open.borrow_mut().get_mut(&self.stream) {
            stream.queued += bytes;
            state.memory.add(bytes);
        }
    }
}

impl Drop for StreamAccount {
    fn drop(&mut self) {
        self.heads_taken();
        self.state().change(self.stream, |stream| {
            stream.ended = true;
            0
        });
    }
}

/// Hasher for stream ids, which only rise; spreading their bits is enough.
#[derive(Default)]
pub(crate) struct StreamHasher(u64);

impl Hasher for StreamHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http2::frames::Frame;
    use crate::memory::{Kind, Memory};

    const LIST: usize = 64 * 1024;

    fn budget() -> (Arc<Memory>, Rc<ConnectionMemory>) {
        let memory = Arc::new(Memory::new(1 << 30));
        let of_connection = ConnectionMemory::new(memory.hold(&Arc::default(), Kind::Clients));
        (memory, of_connection)
    }

    fn frame(kind: u8, stream: u32, length: usize) -> Piece<'static> {
        whole(Frame { kind, flags: 0, stream, length })
    }

    fn whole(frame: Frame) -> Piece<'static> {
        Piece { frame, payload: &[], first: true, last: true, at: (0, 0) }
    }

    #[test]
    fn everything_a_stream_held_is_given_back_when_it_is_over() {
        let (memory, of_connection) = budget();
        let streams = Streams::new(of_connection, LIST);
        let account = streams.serve(1);

        streams.received(frame(kind::HEADERS, 1, 9_000));
        streams.received(frame(kind::CONTINUATION, 1, 9_000));
        streams.settle().unwrap();
        assert!(memory.used() > 200_000, "{}", memory.used());
        account.heads_taken();
        account.queued(70_000);
        drop(account);
        streams.settle().unwrap();
        assert!((50_000..150_000).contains(&memory.used()), "{}", memory.used());
        streams.sent(frame(kind::DATA, 1, 70_000));

        assert!(streams.0.open.borrow().is_empty());
        streams.settle().unwrap();
        drop(streams);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_head_that_the_upstream_does_not_read_stays_counted_after_its_exchange() {
        let (memory, of_connection) = budget();
        let streams = Streams::new(of_connection, LIST);

        let account = streams.serve(1);
        account.head_queued(100);
        account.head_queued(100_000);
        drop(account);
        streams.sent(frame(kind::HEADERS, 1, 10));
        streams.settle().unwrap();
        assert!(memory.used() >= 90_000, "{}", memory.used());
        streams.sent(frame(kind::HEADERS, 1, 60_000));

        assert!(streams.0.open.borrow().is_empty());
    }

    #[test]
    fn streams_whose_exchange_is_over_are_forgotten_once_they_are_reset() {
        let (_memory, of_connection) = budget();
        let streams = Streams::new(of_connection, LIST);
        for stream in [1, 3, 5] {
            streams.serve(stream).queued(100);
        }
        assert_eq!(streams.0.open.borrow().len(), 3);

        streams.sent(whole(Frame { flags: 1, ..frame(kind::DATA, 1, 100).frame }));
        streams.sent(frame(kind::RST_STREAM, 3, 4));
        streams.received(frame(kind::RST_STREAM, 5, 4));

        assert!(streams.0.open.borrow().is_empty());
    }

    #[test]
    fn one_byte_of_a_header_block_is_counted_at_what_it_may_become() {
        let (memory, of_connection) = budget();
        let streams = Streams::new(of_connection, LIST);
        let accounts: Vec<_> = (0..20).map(|at| streams.serve(2 * at + 1)).collect();

        (0..20).for_each(|at| streams.received(frame(kind::HEADERS, 2 * at + 1, 4_000)));

        streams.settle().unwrap();
        assert!(memory.used() >= 20 * HEAD_MOST * LIST);
        drop(accounts);
    }

    #[test]
    fn a_header_block_on_a_stream_that_is_over_is_counted_until_it_is_whole() {
        let (memory, of_connection) = budget();
        let streams = Streams::new(of_connection, LIST);
        let before = memory.used();

        streams.received(frame(kind::HEADERS, 1, 16_000));
        streams.received(frame(kind::CONTINUATION, 1, 16_000));
        streams.settle().unwrap();
        let held = memory.used();
        streams.received(frame(kind::PING, 0, 8));
        streams.settle().unwrap();

        assert!(held - before >= 32_000, "{before} {held}");
        drop(streams);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn an_upstream_cannot_send_heads_without_end_on_a_stream() {
        let (_memory, of_connection) = budget();
        let streams = Streams::new(of_connection, LIST);
        let account = streams.serve(1);

        for _ in 0..20 {
            streams.received(frame(kind::HEADERS, 1, 5_000));
        }

        assert!(matches!(streams.settle(), Err(Refusal::BadResponse { .. })));
        assert!(streams.broken().is_some());
        drop(account);
    }
}
