//! Buffer between socket and codec: a header block is passed on only when it is whole, and in a form that the codec accepts.
//!
//! Bytes stay in the read buffer unless a header block is cut by the end of a read, or has to be rewritten (`hpack/rewrite.rs`).

use tokio::io::ReadBuf;

use crate::http2::frames::{END_HEADERS, Piece, kind};
use crate::http2::inspect::Incoming;

/// Memory in bytes kept for the next bytes.
const KEPT: usize = 4096;

/// Inspection of inbound bytes before the codec.
#[derive(Debug)]
pub(crate) struct Intake {
    incoming: Incoming,
    /// Bytes of earlier reads that wait for the end of a header block, or of a frame's header.
    held: Vec<u8>,
    /// Bytes to pass on, and how many of them were.
    ready: Vec<u8>,
    served: usize,
    /// Offset in the present bytes of the first that cannot be passed on yet.
    open: Option<usize>,
    /// Bytes of the present ones that were copied or replaced.
    copied: usize,
    /// Number of header blocks and frame headers that were passed on, which tells one that is incomplete from the next.
    passed: u64,
}

impl Intake {
    pub(crate) fn new(incoming: Incoming) -> Self {
        let (held, ready) = (Vec::new(), Vec::new());
        Self { incoming, held, ready, served: 0, open: None, copied: 0, passed: 0 }
    }

    /// Removes a stream that was reset.
    pub(crate) fn reset(&mut self, stream: u32) {
        self.incoming.reset(stream);
    }

    /// Returns the number of the header block that is incomplete, if one is.
    pub(crate) fn incomplete(&self) -> Option<u64> {
        (!self.held.is_empty()).then_some(self.passed)
    }

    /// Passes on bytes that are ready; false if there are none.
    pub(crate) fn serve(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let left = &self.ready[self.served..];
        if left.is_empty() {
            return false;
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(&left[..count]);
        self.served += count;
        if self.served == self.ready.len() {
            self.served = 0;
            self.ready.clear();
            self.ready.shrink_to(KEPT);
        }
        true
    }

    /// Inspects a piece of the bytes that have just arrived.
    pub(crate) fn received(&mut self, piece: Piece<'_>, bytes: &[u8]) {
        self.incoming.received(piece);
        let frame = piece.frame;
        let open = *self.open.get_or_insert(if self.held.is_empty() { piece.at.0 } else { 0 });
        let of_block = matches!(frame.kind, kind::HEADERS | kind::CONTINUATION);
        if !of_block || self.incoming.is_lost() {
            return self.release();
        }
        if !piece.last || frame.flags & END_HEADERS == 0 {
            return;
        }
        match self.incoming.take_rewritten() {
            Some(mut frames) => {
                self.held.clear();
                self.ready.extend_from_slice(&bytes[self.copied..open]);
                self.ready.append(&mut frames);
                self.copied = piece.at.1;
                self.open = None;
                self.passed += 1;
            }
            None => self.release(),
        }
    }

    fn release(&mut self) {
        self.ready.append(&mut self.held);
        self.open = None;
        self.passed += 1;
    }

    /// Leaves in `buf`, of the bytes that arrived behind `before`, those that may be passed on; false if there are none. The last `partial` bytes
    /// belong to an incomplete frame header.
    pub(crate) fn finish(&mut self, buf: &mut ReadBuf<'_>, before: usize, partial: usize) -> bool {
        let new = &buf.filled()[before..];
        if new.is_empty() {
            // End of the stream: the codec judges the incomplete bytes.
            self.release();
            return self.serve(buf) || self.ready.is_empty();
        }
        let cut = new.len().saturating_sub(partial);
        let open = match self.open.take() {
            Some(open) => open.min(cut),
            None if self.held.is_empty() => cut,
            None => 0,
        };
        if open == new.len() && self.copied == 0 && self.ready.is_empty() {
            return true;
        }
        self.ready.extend_from_slice(&new[self.copied..open]);
        self.held.extend_from_slice(&new[open..]);
        self.copied = 0;
        buf.set_filled(before);
        self.serve(buf)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use durward_testkit::client::h2_frames::{frame, get, header_block};
    use proptest::prelude::*;

    use super::*;
    use crate::http2::frames::Frames;
    use crate::http2::inspect::Findings;

    /// Returns the bytes that the codec gets if `wire` arrives in pieces of these sizes, and then of `room`.
    fn given(wire: &[u8], sizes: &[usize], room: usize) -> Vec<u8> {
        let findings = Rc::new(Findings::default());
        let mut intake = Intake::new(Incoming::new(64 * 1024, findings));
        let (mut frames, mut out) = (Frames::default(), Vec::new());
        let (mut rest, mut sizes) = (wire, sizes.iter().copied().chain(std::iter::repeat(room)));
        loop {
            let mut memory = vec![0; room];
            let mut buf = ReadBuf::new(&mut memory);
            while !intake.serve(&mut buf) {
                let (new, after) = rest.split_at(sizes.next().unwrap().min(room).min(rest.len()));
                let before = buf.filled().len();
                buf.put_slice(new);
                rest = after;
                frames.walk(new, |piece| intake.received(piece, new));
                if intake.finish(&mut buf, before, frames.partial()) {
                    break;
                }
            }
            if buf.filled().is_empty() {
                return out;
            }
            out.extend_from_slice(buf.filled());
        }
    }

    /// Frames of every kind, with heads in one frame and in several, and the same with a field that the codec cannot take.
    fn wire(name: &str) -> Vec<u8> {
        let block = header_block(&[(":method", "GET"), (name, &"v".repeat(40)), ("z", "1")]);
        [
            frame(kind::SETTINGS, 0, 0, &[]),
            get(1, "http", "a", "/"),
            frame(kind::HEADERS, 1, 3, &block[..7]),
            frame(kind::CONTINUATION, 0, 3, &block[7..20]),
            frame(kind::CONTINUATION, END_HEADERS, 3, &block[20..]),
            frame(kind::DATA, 0, 1, &[7; 50]),
            frame(kind::HEADERS, END_HEADERS | 0x8, 5, &[&[2][..], &block, &[0; 2]].concat()),
            frame(kind::PING, 0, 0, &[0; 8]),
            get(7, "http", "a", "/"),
            frame(kind::DATA, 1, 5, b"end"),
        ]
        .concat()
    }

    fn reads() -> impl Strategy<Value = (Vec<usize>, usize)> {
        (proptest::collection::vec(1usize..80, 0..40), 1usize..120)
    }

    proptest! {
        #[test]
        fn sound_bytes_pass_as_they_are((sizes, room) in reads()) {
            prop_assert_eq!(given(&wire("x"), &sizes, room), wire("x"));
        }

        #[test]
        fn what_stands_for_a_block_does_not_depend_on_how_it_comes((sizes, room) in reads()) {
            let whole = given(&wire("X"), &[], 4096);

            prop_assert!(!whole.windows(2).any(|pair| pair == b"X("), "the name is left out");
            prop_assert_eq!(given(&wire("X"), &sizes, room), whole);
        }

        #[test]
        fn a_connection_that_ends_within_a_block_gives_what_came((sizes, room) in reads(), end in 0usize..400) {
            let wire = wire("x");
            let wire = &wire[..end.min(wire.len())];

            prop_assert_eq!(given(wire, &sizes, room), wire);
        }
    }
}
