//! Streams of a client's connection (RFC 9113 section 5.1), by slot: a slot is one exchange's until the exchange ends.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use crate::http::fields::Fields;
use crate::http2::StreamHasher;

/// Streams that we have reset, of which the newest are remembered: the client may not know yet.
const FORGOTTEN: usize = 256;

/// Slots for which memory is kept while none is used.
const KEPT: usize = 16;

/// Reason a stream's client gets and gives nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// The client has reset it.
    Client,
    /// We have reset it: the body or the trailers break this rule.
    Malformed(&'static str),
    /// We have reset it for something else.
    Reset,
}

/// Stream with an exchange.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// Data received and not taken.
    pub(super) inbox: Vec<u8>,
    /// Trailers received and not taken.
    pub(super) trailers: Option<Box<Fields>>,
    /// True if the client has sent its end.
    pub(super) ended: bool,
    pub(super) gone: Option<Gone>,
    /// Octets of content still to come, where they were declared.
    pub(super) left: Option<u64>,
    /// Octets that the client may send.
    pub(super) room: i64,
    /// Octets that were taken and that the client has not been told of.
    pub(super) taken: u32,
    /// Octets that we may send.
    pub(super) window: i64,
    /// True if we have sent our end.
    pub(super) finished: bool,
    /// Octets of DATA left in this run of the exchange, if others wait.
    pub(super) quantum: usize,
    /// True while the stream is in the queue of those that wait to send.
    pub(super) waits: bool,
    /// True if the SETTINGS frame that is read has woken it.
    pub(super) resized: bool,
    /// Memory charged for data received and trailers.
    pub(super) held: usize,
}

/// Place of a stream that has ended, or never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client has not opened it, or has skipped it lately.
    Idle,
    /// We have reset it, perhaps while the frame was on its way.
    ByUs,
    /// Both sides have ended it.
    Closed,
}

/// Streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<usize>,
    by_id: HashMap<u32, usize, BuildHasherDefault<StreamHasher>>,
    /// Last stream that the client opened.
    pub(super) last: u32,
    reset: VecDeque<u32>,
    /// Streams up to this one may have been reset by us and forgotten.
    forgotten: u32,
    /// Streams that the client skipped when it opened the newest: first, and the one after the last.
    skipped: (u32, u32),
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn insert(&mut self, stream: Stream) -> usize {
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.by_id.insert(stream.id, at);
        self.slots[at] = Some(stream);
        at
    }

    pub(super) fn get(&self, at: usize) -> Option<&Stream> {
        self.slots.get(at)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Stream> {
        self.slots.get_mut(at)?.as_mut()
    }

    pub(super) fn slot_of(&self, id: u32) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn remove(&mut self, at: usize) -> Option<Stream> {
        let stream = self.slots.get_mut(at)?.take()?;
        self.by_id.remove(&stream.id);
        self.free.push(at);
        // Slots are numbered from 0 again: what their exchanges keep by slot is forgotten as well.
        if self.by_id.is_empty() {
            self.slots.clear();
            self.free.clear();
            self.slots.shrink_to(KEPT);
            self.free.shrink_to(KEPT);
            self.by_id.shrink_to(KEPT);
        }
        Some(stream)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Stream)> {
        self.slots.iter_mut().enumerate().filter_map(|(at, slot)| Some((at, slot.as_mut()?)))
    }

    /// Records that the client has opened a stream.
    pub(super) fn open(&mut self, id: u32) {
        let next = if self.last == 0 { 1 } else { self.last + 2 };
        if id > next {
            self.skipped = (next, id);
        }
        self.last = id;
    }

    /// Remembers that we have reset a stream.
    pub(super) fn note_reset(&mut self, id: u32) {
        if self.reset.len() == FORGOTTEN
            && let Some(oldest) = self.reset.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.reset.push_back(id);
    }

    /// Returns what has become of a stream without an exchange.
    pub(super) fn ended(&self, id: u32) -> Ended {
        let skipped = (self.skipped.0..self.skipped.1).contains(&id);
        if id > self.last || id.is_multiple_of(2) || skipped {
            return Ended::Idle;
        }
        match id <= self.forgotten || self.reset.contains(&id) {
            true => Ended::ByUs,
            false => Ended::Closed,
        }
    }
}
