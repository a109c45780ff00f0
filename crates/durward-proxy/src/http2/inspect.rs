//! Inspection of the heads and trailers of an HTTP/2 connection to an upstream on the wire: notes faults that `h2` silently repairs.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use crate::http2::frames::{END_HEADERS, END_STREAM, Frame, Piece, head, kind};
use crate::http2::hpack::{Blocks, Section};
use crate::syntax::Fault;

/// Flags of HEADERS frames (RFC 9113 section 6.2).
pub(crate) const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Faults that may wait until `h2` hands their response over; an upstream with more breaks rules faster than they are handled.
const WAITING: usize = 1024;
/// Memory in bytes kept for the next header block.
const KEPT: usize = 4096;

/// Faults noted of a connection's responses. Shared by the wire and the connection's streams.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Rules that heads and trailers break, by stream.
    faults: RefCell<VecDeque<(u32, Fault)>>,
    /// True if header blocks cannot be decoded any more.
    lost: Cell<bool>,
}

impl Findings {
    /// Takes the fault of a stream's head or trailers. If header blocks cannot be decoded any more, every one is faulty.
    pub(crate) fn take(&self, stream: u32) -> Option<Fault> {
        if self.lost.get() {
            return Some(Fault::Malformed("header block cannot be decoded"));
        }
        let mut faults = self.faults.borrow_mut();
        if faults.is_empty() {
            return None;
        }
        let at = faults.iter().position(|(faulty, _)| *faulty == stream)?;
        faults.remove(at).map(|(_, fault)| fault)
    }

    /// Returns true if header blocks cannot be decoded any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.get()
    }

    fn note(&self, stream: u32, fault: Fault) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() == WAITING {
            self.lost.set(true);
        } else {
            faults.push_back((stream, fault));
        }
    }
}

/// Inspection of inbound frames.
#[derive(Debug)]
pub(crate) struct Incoming {
    blocks: Blocks,
    block: Vec<u8>,
    /// True if the block under way ends the stream.
    ends: bool,
    /// True if the block under way makes its stream depend on itself.
    depends_on_itself: bool,
    /// Largest block, and largest field list that `h2` hands over, in octets.
    bounds: (usize, usize),
    /// Streams whose final head has come: a later header block is a trailer section.
    answered: BTreeSet<u32>,
    /// Frames that replace the block that has just ended, if the codec cannot take that.
    rewritten: Option<Vec<u8>>,
    findings: Rc<Findings>,
}

impl Incoming {
    /// Creates the inspection of a connection's frames; `h2` accepts field lists up to `list` bytes.
    pub(crate) fn new(list: usize, findings: Rc<Findings>) -> Self {
        let bounds = (list.saturating_mul(2).max(64 * 1024), list);
        let (blocks, block, answered) = (Blocks::default(), Vec::new(), BTreeSet::new());
        let (ends, depends_on_itself, rewritten) = (false, false, None);
        Self { blocks, block, ends, depends_on_itself, bounds, answered, rewritten, findings }
    }

    /// Removes a stream that was reset.
    pub(crate) fn reset(&mut self, stream: u32) {
        self.answered.remove(&stream);
    }

    /// Takes the frames that replace the block that has just ended; `None` if the block stays.
    pub(crate) fn take_rewritten(&mut self) -> Option<Vec<u8>> {
        self.rewritten.take()
    }

    /// Returns true if header blocks cannot be decoded any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.findings.is_lost()
    }

    /// Inspects a piece of a frame before `h2` gets it.
    pub(crate) fn received(&mut self, piece: Piece<'_>) {
        let Piece { frame, payload, last, .. } = piece;
        if frame.kind == kind::RST_STREAM && last {
            self.reset(frame.stream);
        }
        if !matches!(frame.kind, kind::HEADERS | kind::CONTINUATION) || self.findings.lost.get() {
            return;
        }
        if self.block.len() + payload.len() > self.bounds.0 {
            return self.findings.lost.set(true);
        }
        if frame.kind == kind::HEADERS {
            self.ends = frame.flags & END_STREAM != 0;
        }
        // Common case: a head in one piece is read in place, without a copy.
        let whole = piece.first && last && frame.kind == kind::HEADERS;
        if whole && frame.flags & END_HEADERS != 0 {
            return match fragment(frame, payload) {
                Some((block, dependency)) => {
                    self.depends_on_itself = dependency == Some(frame.stream);
                    self.section(frame.stream, block);
                }
                None => self.findings.lost.set(true),
            };
        }
        self.block.extend_from_slice(payload);
        if !last {
            return;
        }
        let mut block = std::mem::take(&mut self.block);
        if frame.kind == kind::HEADERS {
            match fragment(frame, &block) {
                Some((stripped, dependency)) => {
                    self.depends_on_itself = dependency == Some(frame.stream);
                    block = stripped.to_vec();
                }
                None => return self.findings.lost.set(true),
            }
        }
        if frame.flags & END_HEADERS != 0 {
            self.section(frame.stream, &block);
        } else {
            self.block = block;
        }
    }

    fn section(&mut self, stream: u32, block: &[u8]) {
        let section = match self.answered.contains(&stream) {
            false => Section::Response,
            true => Section::Trailers,
        };
        match self.blocks.read(block, section) {
            Ok(summary) => {
                match (self.ends, section) {
                    (true, _) => self.answered.remove(&stream),
                    (false, Section::Response) => !summary.interim && self.answered.insert(stream),
                    (false, _) => false,
                };
                let itself = self.depends_on_itself.then_some("stream that depends on itself");
                let malformed = summary.fault.or(itself).map(Fault::Malformed);
                let large = (summary.size > self.bounds.1).then_some(Fault::TooLarge);
                if let Some(fault) = malformed.or(large) {
                    self.findings.note(stream, fault);
                }
            }
            Err(_) => self.findings.lost.set(true),
        }
        let flags = if self.ends { END_STREAM } else { 0 };
        let rewritten = self.blocks.take_rewritten();
        // For such a block `h2` resets the stream without decoding it, and its table lacks the entries (RFC 7540 section 5.3.1).
        let rewritten = rewritten.or_else(|| self.depends_on_itself.then(|| block.to_vec()));
        self.rewritten = rewritten.map(|block| head(stream, flags, &block));
        self.blocks.trim(KEPT);
    }
}

/// Returns the part of a header block in a HEADERS frame's payload, without padding and priority, and the stream on which that makes its own depend;
/// `None` if padding and priority are longer than the payload.
pub(crate) fn fragment(frame: Frame, payload: &[u8]) -> Option<(&[u8], Option<u32>)> {
    let mut block = payload;
    if frame.flags & PADDED != 0 {
        let (padding, rest) = block.split_first()?;
        let end = rest.len().checked_sub(usize::from(*padding))?;
        block = &rest[..end];
    }
    if frame.flags & PRIORITY == 0 {
        return Some((block, None));
    }
    let (dependency, rest) = block.split_first_chunk()?;
    // The highest bit says that the dependency is exclusive; a weight follows.
    Some((rest.get(1..)?, Some(u32::from_be_bytes(*dependency) & 0x7fff_ffff)))
}

#[cfg(test)]
mod tests {
    use durward_testkit::client::h2_frames::{frame, header_block};
    use proptest::prelude::*;

    use super::*;
    use crate::http2::frames::Frames;

    fn inspect(wire: &[u8], cuts: &[usize]) -> Rc<Findings> {
        let findings = Rc::new(Findings::default());
        let mut incoming = Incoming::new(1024, Rc::clone(&findings));
        let mut frames = Frames::default();
        let mut start = 0;
        for end in cuts.iter().copied().chain([wire.len()]) {
            let end = end.clamp(start, wire.len());
            frames.walk(&wire[start..end], |piece| incoming.received(piece));
            start = end;
        }
        findings
    }

    fn wire() -> Vec<u8> {
        let head = header_block(&[(":status", "200")]);
        let trailers = header_block(&[(":path", "/evil")]);
        let faulty = header_block(&[(":status", "200"), ("a b", "c")]);
        let padded = [&[2, 0, 0, 0, 0, 9][..], &faulty, &[0; 2]];
        let large = header_block(&[(":status", "200"), ("x", &"y".repeat(2000))]);
        [
            frame(kind::HEADERS, END_HEADERS, 1, &head),
            frame(kind::DATA, 0, 1, b"hi"),
            frame(kind::HEADERS, 5, 1, &trailers),
            frame(kind::HEADERS, PADDED | PRIORITY | END_HEADERS, 3, &padded.concat()),
            frame(kind::HEADERS, 0, 5, &large[..9]),
            frame(kind::CONTINUATION, END_HEADERS, 5, &large[9..]),
            frame(kind::HEADERS, END_HEADERS, 7, &head),
        ]
        .concat()
    }

    #[test]
    fn faults_are_noted_for_their_stream() {
        let findings = inspect(&wire(), &[]);

        let malformed = |detail| Some(Fault::Malformed(detail));
        assert_eq!(findings.take(1), malformed("pseudo-header field in trailers"));
        assert_eq!(findings.take(3), malformed("field name is not a token"));
        assert_eq!(findings.take(5), Some(Fault::TooLarge));
        assert_eq!(findings.take(7), None);
        assert!(findings.faults.borrow().is_empty());
    }

    #[test]
    fn after_a_block_that_cannot_be_decoded_nothing_is_trusted() {
        let head = header_block(&[(":status", "200")]);
        let wire = [
            frame(kind::HEADERS, END_HEADERS, 1, &[0x80]),
            frame(kind::HEADERS, END_HEADERS, 3, &head),
        ];

        let findings = inspect(&wire.concat(), &[]);

        assert!(findings.is_lost() && findings.take(3).is_some());
    }

    #[test]
    fn heads_of_responses_are_told_from_trailers() {
        let block = |fields: &[(&str, &str)]| header_block(fields);
        let (early, head) = (block(&[(":status", "103")]), block(&[(":status", "200")]));
        let (trailers, evil) = (block(&[("x", "y")]), block(&[("x", "y"), (":status", "500")]));
        let whole = END_HEADERS | END_STREAM;
        let wire = [
            frame(kind::HEADERS, END_HEADERS, 1, &early),
            frame(kind::HEADERS, whole, 1, &head),
            frame(kind::HEADERS, END_HEADERS, 3, &head),
            frame(kind::DATA, 0, 3, b"hi"),
            frame(kind::HEADERS, whole, 3, &trailers),
            frame(kind::HEADERS, END_HEADERS, 5, &head),
            frame(kind::HEADERS, whole, 5, &evil),
            frame(kind::HEADERS, END_HEADERS, 7, &head),
            frame(kind::RST_STREAM, 0, 7, &[0; 4]),
            frame(kind::HEADERS, END_HEADERS, 9, &early),
            frame(kind::HEADERS, END_HEADERS, 9, &head),
            frame(kind::HEADERS, 1, 9, &evil[..1]),
            frame(kind::CONTINUATION, END_HEADERS, 9, &evil[1..]),
        ];
        let findings = Rc::new(Findings::default());
        let mut incoming = Incoming::new(1024, Rc::clone(&findings));

        let mut frames = Frames::default();
        for bytes in wire.concat().chunks(7) {
            frames.walk(bytes, |piece| incoming.received(piece));
        }

        let fault = Some(Fault::Malformed("pseudo-header field in trailers"));
        let found = [1, 3, 5, 7, 9].map(|stream| findings.take(stream));
        assert_eq!(found, [None, None, fault, None, fault]);
        assert!(incoming.answered.is_empty());
    }

    proptest! {
        #[test]
        fn splits_do_not_hide_faults(mut cuts in proptest::collection::vec(0usize..2300, 0..30)) {
            cuts.sort_unstable();
            let whole = inspect(&wire(), &[]);
            let split = inspect(&wire(), &cuts);

            prop_assert_eq!(&*whole.faults.borrow(), &*split.faults.borrow());
        }
    }
}
