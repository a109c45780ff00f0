//! Server's side of one HTTP/2 connection (RFC 9113), without I/O: frames go in as bytes, frames come out as bytes, and exchanges read and write streams.
//!
//! Everything happens on the connection's core, so nothing is locked. A frame is read where it was received, its header block is decoded once, and what is
//! sent is encoded where it waits for the socket. The bounds on what a client can cause are in `http2::guard`; those on memory are kept here.

mod exchange;
mod frames;
mod heads;
mod output;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use self::output::Output;
use self::stream::Streams;
use crate::http::fields::Fields;
use crate::http::h2::decoder::Decoder;
use crate::http::h2::head::Rules;
use crate::http::message::PooledRequest;
use crate::http2::frames::{Frame, HEADER, LARGEST, kind};
use crate::http2::guard::Budget;
use crate::http2::hpack::Undecodable;
use crate::memory::ConnectionMemory;
use crate::refusal::Refusal;
use crate::syntax::Fault;

/// Bytes that open a connection (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Window of every connection, and of streams without SETTINGS, in octets (RFC 9113 section 6.9.2).
const WINDOW: i64 = 65_535;
/// Largest window in octets (RFC 9113 section 6.9.1).
const LARGEST_WINDOW: i64 = 0x7fff_ffff;
/// Stream windows that make up the connection's window.
const WINDOWS: u32 = 4;
/// Octets of DATA of one stream before another that waits has its turn.
const QUANTUM: usize = output::GATHER;
/// Streams that we may reset for the client's errors before the connection ends.
const MISTAKES: u32 = 256;
/// Answers to frames that may wait for a client that does not read; it is not read from while there are more.
const REPLIES: usize = 1024;
/// Frames that are read before other work gets its turn.
pub(crate) const AT_ONCE: usize = 64;
/// Memory in bytes kept for a stream's next data, and for the next header block.
const KEPT: usize = 16 * 1024;
/// Payload of the PING whose answer says that the client has our GOAWAY.
const LEAVING: [u8; 8] = *b"durward\0";

/// Error codes (RFC 9113 section 7).
pub(crate) mod code {
    pub(crate) const NO_ERROR: u32 = 0;
    pub(crate) const PROTOCOL_ERROR: u32 = 1;
    pub(crate) const INTERNAL_ERROR: u32 = 2;
    pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
    pub(crate) const STREAM_CLOSED: u32 = 5;
    pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
    pub(crate) const REFUSED_STREAM: u32 = 7;
    pub(crate) const CANCEL: u32 = 8;
    pub(crate) const COMPRESSION_ERROR: u32 = 9;
    pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Parameters of SETTINGS (RFC 9113 section 6.5.2, RFC 8441 section 3).
mod setting {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const MAX_FRAME_SIZE: u16 = 5;
    pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Limits that the client is told of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announced {
    /// Streams open at a time.
    pub(crate) streams: u32,
    /// Octets of a stream's window.
    pub(crate) window: u32,
    /// Octets of a field list, pseudo-header fields included.
    pub(crate) list: u32,
}

/// Reason the connection has to end.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Error code of the GOAWAY.
    pub(crate) code: u32,
    pub(crate) refusal: Refusal,
}

impl Broken {
    fn error(code: u32, detail: &'static str) -> Self {
        Self { code, refusal: Refusal::BadRequest { detail } }
    }

    fn protocol(detail: &'static str) -> Self {
        Self::error(code::PROTOCOL_ERROR, detail)
    }

    fn flood(detail: &'static str) -> Self {
        Self { code: code::ENHANCE_YOUR_CALM, refusal: Refusal::Flood { detail } }
    }
}

impl From<Undecodable> for Broken {
    fn from(_: Undecodable) -> Self {
        Self::error(code::COMPRESSION_ERROR, "header block cannot be decoded")
    }
}

/// Something of which the connection's task has to know.
pub(crate) enum Event {
    /// A request has begun.
    Begun(Begun),
    /// A request was turned away: its stream is reset.
    Rejected(Fault),
}

/// Request whose head is complete.
pub(crate) struct Begun {
    /// Slot of the stream.
    pub(crate) at: usize,
    pub(crate) request: PooledRequest,
    /// Rule that the head breaks, for which the request is answered with a refusal.
    pub(crate) fault: Option<Fault>,
}

/// Result of reading frames.
pub(crate) struct Received {
    /// Bytes of the frames read.
    pub(crate) used: usize,
    /// Number of frames read.
    pub(crate) frames: usize,
    /// The last frame's event.
    pub(crate) event: Option<Event>,
    /// True if the next frame begins a request, for which it is too early.
    pub(crate) waits: bool,
}

/// Next part of a request's body.
pub(crate) enum Taken {
    /// Data is in the buffer.
    Data,
    /// The body has ended, with these trailers.
    End(Option<Box<Fields>>),
    /// Nothing has come.
    Nothing,
    /// The body or its trailers break this rule.
    Malformed(&'static str),
    /// The stream was reset.
    Gone,
}

/// Header block under way.
#[derive(Clone, Copy, Debug)]
struct Open {
    stream: u32,
    ends: bool,
    depends_on_itself: bool,
}

/// Session with a client.
pub(crate) struct Session {
    announced: Announced,
    memory: Rc<ConnectionMemory>,
    budget: Budget,
    decoder: Decoder,
    output: Output,
    streams: Streams,
    /// Octets of the preface that have come.
    preface: usize,
    /// True once the client's first SETTINGS have come.
    settled: bool,
    open: Option<Open>,
    block: Vec<u8>,
    /// Frames and header blocks that were complete, which tells one that is incomplete from the next.
    passed: u64,
    /// True if the bytes left over are of a frame's header or of a header block.
    partial: bool,
    /// Octets that the client may send, and those that were taken and that it has not been told of.
    room: i64,
    taken: u32,
    /// Octets that we may send, and those that we may send on a new stream.
    window: i64,
    initial: i64,
    mistakes: u32,
    /// Streams that wait for room to send, in the order of their turns; and the one whose turn it is.
    waiting: VecDeque<usize>,
    granted: Option<usize>,
    /// Streams for whose exchange something has happened.
    woken: Vec<usize>,
    goodbye: Goodbye,
    /// True if the client has said that it opens no more streams.
    peer_leaves: bool,
    /// True once the connection is given up: streams end without a word.
    over: bool,
    /// Memory charged for bytes that wait for the socket and for the header block under way.
    held: usize,
}

/// Stage of our leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goodbye {
    None,
    /// The client is told; streams that are on their way are served.
    Announced,
    /// Streams after the last one served are skipped.
    Final(u32),
}

impl Session {
    /// Begins a session: our SETTINGS wait to be sent.
    pub(crate) fn new(announced: Announced, memory: Rc<ConnectionMemory>, now: Instant) -> Self {
        let mut session = Self {
            announced,
            memory,
            budget: Budget::of_client(now),
            decoder: Decoder::default(),
            output: Output::default(),
            streams: Streams::default(),
            preface: 0,
            settled: false,
            open: None,
            block: Vec::new(),
            passed: 0,
            partial: false,
            room: i64::from(announced.window * WINDOWS),
            taken: 0,
            window: WINDOW,
            initial: WINDOW,
            mistakes: 0,
            waiting: VecDeque::new(),
            granted: None,
            woken: Vec::new(),
            goodbye: Goodbye::None,
            peer_leaves: false,
            over: false,
            held: 0,
        };
        session.announce();
        session
    }

    fn announce(&mut self) {
        let Announced { streams, window, list } = self.announced;
        let mut payload = Vec::with_capacity(24);
        for (name, value) in [
            (setting::MAX_CONCURRENT_STREAMS, streams),
            (setting::INITIAL_WINDOW_SIZE, window),
            (setting::MAX_HEADER_LIST_SIZE, list),
            (setting::ENABLE_CONNECT_PROTOCOL, 1),
        ] {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.output.frame(kind::SETTINGS, 0, 0, &payload);
        let more = u32::try_from(self.room - WINDOW).unwrap_or(0);
        if more > 0 {
            self.output.frame(kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
    }

    /// Begins another read of the socket.
    pub(crate) fn renew_budget(&mut self, now: Instant) {
        self.budget.renew(now);
    }

    /// Reads frames up to one that has an event, or to the last complete one; without `begins`, up to the next that would begin a request. `rules` is called
    /// before a request's head is decoded.
    ///
    /// # Errors
    /// The connection has to end.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        begins: bool,
        rules: &mut dyn FnMut() -> Rules,
    ) -> Result<Received, Broken> {
        let mut received = Received { used: 0, frames: 0, event: None, waits: false };
        if self.preface < PREFACE.len() {
            received.used = self.read_preface(bytes)?;
        }
        loop {
            let rest = &bytes[received.used..];
            let Some(header) = rest.first_chunk() else {
                self.partial = !rest.is_empty() && self.preface == PREFACE.len();
                break;
            };
            let frame = Frame::parse(*header);
            if frame.length > LARGEST {
                return Err(Broken::error(code::FRAME_SIZE_ERROR, "frame too large"));
            }
            let Some(payload) = rest[HEADER..].get(..frame.length) else {
                self.partial = matches!(frame.kind, kind::HEADERS | kind::CONTINUATION);
                break;
            };
            let begins = begins && !self.output.is_full();
            received.waits = frame.kind == kind::HEADERS && !begins;
            if self.is_stuffed() || received.waits || received.frames == AT_ONCE {
                break;
            }
            self.partial = false;
            received.used += HEADER + frame.length;
            received.frames += 1;
            if let Some(detail) = self.budget.add(frame) {
                return Err(Broken::flood(detail));
            }
            let event = self.frame(frame, payload, rules)?;
            if self.open.is_none() {
                self.passed += 1;
            }
            if event.is_some() {
                received.event = event;
                break;
            }
        }
        Ok(received)
    }

    /// Returns the number of the header block, or of the frame's header, that is incomplete.
    pub(crate) fn incomplete(&self) -> Option<u64> {
        (self.partial || self.open.is_some()).then_some(self.passed)
    }

    /// Returns true once the preface has come.
    pub(crate) fn has_begun(&self) -> bool {
        self.preface == PREFACE.len()
    }

    /// Returns true if so many answers wait that nothing more is read.
    pub(crate) fn is_stuffed(&self) -> bool {
        self.output.replies > REPLIES
    }

    fn read_preface(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let left = &PREFACE[self.preface..];
        let count = left.len().min(bytes.len());
        if bytes[..count] != left[..count] {
            return Err(Broken::protocol("HTTP/2 connection preface"));
        }
        self.preface += count;
        Ok(count)
    }

    fn frame(
        &mut self,
        frame: Frame,
        payload: &[u8],
        rules: &mut dyn FnMut() -> Rules,
    ) -> Result<Option<Event>, Broken> {
        if self.open.is_some() && frame.kind != kind::CONTINUATION {
            return Err(Broken::protocol("frame within a header block"));
        }
        if !self.settled && (frame.kind != kind::SETTINGS || frame.acknowledges()) {
            return Err(Broken::protocol("connection that does not begin with SETTINGS"));
        }
        match frame.kind {
            kind::DATA => self.data_in(frame, payload)?,
            kind::HEADERS => return self.headers(frame, payload, rules),
            kind::CONTINUATION => return self.continuation(frame, payload, rules),
            kind::PRIORITY => self.priority(frame, payload)?,
            kind::RST_STREAM => self.reset_by_client(frame, payload)?,
            kind::SETTINGS => self.settings(frame, payload)?,
            kind::PING => self.ping(frame, payload)?,
            kind::GOAWAY => self.goaway(frame, payload)?,
            kind::WINDOW_UPDATE => self.window_update(frame, payload)?,
            // Push is turned off: only servers push.
            kind::PUSH_PROMISE => return Err(Broken::flood("PUSH_PROMISE although push is off")),
            _ => {}
        }
        Ok(None)
    }

    /// Returns the bytes that wait for the socket.
    pub(crate) fn pending(&self) -> &[u8] {
        self.output.pending()
    }

    /// Records that the first `count` bytes were written.
    pub(crate) fn written(&mut self, count: usize) {
        self.budget.sent(count as u64);
        self.output.written(count);
    }

    /// Charges the budget for the memory now held.
    ///
    /// # Errors
    /// There is no room for it: the connection has to end.
    pub(crate) fn settle(&mut self) -> Result<(), Refusal> {
        let held = self.output.size() + self.block.capacity();
        self.memory.add(held);
        self.memory.sub(std::mem::replace(&mut self.held, held));
        self.memory.settle()
    }

    /// Tells the client to open no more streams. Those that are on their way are served.
    pub(crate) fn leave(&mut self) {
        if self.goodbye == Goodbye::None && !self.over {
            self.goodbye = Goodbye::Announced;
            self.say_goodbye(0x7fff_ffff, code::NO_ERROR);
            self.output.frame(kind::PING, 0, 0, &LEAVING);
        }
    }

    /// Returns true if no stream will come any more.
    pub(crate) fn is_left(&self) -> bool {
        self.peer_leaves || matches!(self.goodbye, Goodbye::Final(_))
    }

    /// Ends the session: streams that still run end without a word.
    pub(crate) fn give_up_all(&mut self) {
        self.over = true;
    }

    /// Says goodbye for good, with an error code.
    pub(crate) fn leave_finally(&mut self, code: u32) {
        let last = match self.goodbye {
            Goodbye::Final(_) if code == code::NO_ERROR => return,
            Goodbye::Final(last) => last,
            Goodbye::None | Goodbye::Announced => self.streams.last,
        };
        self.goodbye = Goodbye::Final(last);
        self.say_goodbye(last, code);
    }

    fn say_goodbye(&mut self, last: u32, code: u32) {
        let payload = u64::from(last) << 32 | u64::from(code);
        self.output.frame(kind::GOAWAY, 0, 0, &payload.to_be_bytes());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.memory.sub(self.held);
    }
}
