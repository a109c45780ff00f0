//! Inspection of the heads and trailers of an HTTP/2 connection on the wire: notes faults that `h2` silently repairs, and requests that `h2` rejects
//! without telling us.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use crate::http2::frames::{END_HEADERS, END_STREAM, Frame, Piece, head, kind};
use crate::http2::hpack::{Blocks, Section};
use crate::syntax::Fault;

/// Flags of HEADERS frames (RFC 9113 section 6.2).
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const REFUSED_STREAM: u32 = 7;

/// Faults and heads that may wait until `h2` hands their request over; a client with more breaks rules faster than they are handled.
const WAITING: usize = 1024;
/// Memory in bytes kept for the next header block.
const KEPT: usize = 4096;

/// Verdict on a request that `h2` has handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// No fault is known.
    Sound,
    /// The head breaks a rule.
    Faulty(Fault),
    /// `h2` has reset the stream since; that is recorded already.
    Reset,
}

/// Faults noted of a connection's requests. Shared by the wire, the session and the bodies of its streams.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Streams whose head came in and that `h2` has neither handed over nor reset.
    heads: RefCell<VecDeque<u32>>,
    /// Rules that heads and trailers break, by stream.
    faults: RefCell<VecDeque<(u32, Fault)>>,
    /// Requests that `h2` has reset or answered by itself.
    rejected: RefCell<VecDeque<Fault>>,
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

    /// Notes that `h2` has handed a request over, and takes the fault of its head.
    pub(crate) fn accepted(&self, stream: u32) -> Accepted {
        if self.settle(stream) || self.lost.get() {
            self.take(stream).map_or(Accepted::Sound, Accepted::Faulty)
        } else {
            Accepted::Reset
        }
    }

    /// Takes the fault of a request that `h2` has rejected by itself, or of the connection if `h2` has ended that.
    pub(crate) fn rejected(&self) -> Option<Fault> {
        self.rejected.borrow_mut().pop_front()
    }

    /// Returns true if header blocks cannot be decoded any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.get()
    }

    /// Takes any fault that is noted.
    pub(crate) fn any(&self) -> Option<Fault> {
        self.faults.borrow_mut().pop_front().map(|(_, fault)| fault)
    }

    fn begun(&self, stream: u32) {
        let mut heads = self.heads.borrow_mut();
        if heads.len() == WAITING {
            self.lost.set(true);
        } else {
            heads.push_back(stream);
        }
    }

    fn note(&self, stream: u32, fault: Fault) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() == WAITING {
            self.lost.set(true);
        } else {
            faults.push_back((stream, fault));
        }
    }

    /// Removes a head that waits; false if there is none.
    fn settle(&self, stream: u32) -> bool {
        let mut heads = self.heads.borrow_mut();
        let at = heads.iter().position(|waiting| *waiting == stream);
        at.is_some_and(|at| heads.remove(at).is_some())
    }

    /// Notes that `h2` has answered a request by itself: its field list is too large.
    fn answered(&self, stream: u32) {
        if self.settle(stream) {
            let fault = self.take(stream).unwrap_or(Fault::TooLarge);
            self.rejected.borrow_mut().push_back(fault);
        }
    }

    fn reset(&self, stream: u32, code: u32) {
        if !self.settle(stream) || code == REFUSED_STREAM {
            return;
        }
        let fault = self.take(stream).unwrap_or(Fault::Malformed("head that HTTP/2 forbids"));
        self.rejected.borrow_mut().push_back(fault);
    }
}

/// Sender, with the state that tells heads from trailers.
#[derive(Debug)]
enum Peer {
    /// Client, and its newest stream: a header block on an older one is a trailer section.
    Client { newest: u32 },
    /// Upstream, and the streams whose final head has come: a later header block is a trailer section.
    Upstream { answered: BTreeSet<u32> },
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
    peer: Peer,
    /// Frames that replace the block that has just ended, if the codec cannot take that.
    rewritten: Option<Vec<u8>>,
    findings: Rc<Findings>,
}

impl Incoming {
    /// Creates the inspection of a client's frames; `h2` accepts field lists up to `list` bytes.
    pub(crate) fn of_client(list: usize, findings: Rc<Findings>) -> Self {
        Self::new(Peer::Client { newest: 0 }, list, findings)
    }

    /// Creates the inspection of an upstream's frames; `h2` accepts field lists up to `list` bytes.
    pub(crate) fn of_upstream(list: usize, findings: Rc<Findings>) -> Self {
        Self::new(Peer::Upstream { answered: BTreeSet::new() }, list, findings)
    }

    fn new(peer: Peer, list: usize, findings: Rc<Findings>) -> Self {
        let bounds = (list.saturating_mul(2).max(64 * 1024), list);
        let (blocks, block) = (Blocks::default(), Vec::new());
        let (ends, depends_on_itself, rewritten) = (false, false, None);
        Self { blocks, block, ends, depends_on_itself, bounds, peer, rewritten, findings }
    }

    /// Removes a stream that was reset.
    pub(crate) fn reset(&mut self, stream: u32) {
        if let Peer::Upstream { answered } = &mut self.peer {
            answered.remove(&stream);
        }
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
        let section = match &mut self.peer {
            Peer::Client { newest } if stream > *newest => {
                *newest = stream;
                self.findings.begun(stream);
                Section::Request
            }
            Peer::Upstream { answered } if !answered.contains(&stream) => Section::Response,
            Peer::Client { .. } | Peer::Upstream { .. } => Section::Trailers,
        };
        match self.blocks.read(block, section) {
            Ok(summary) => {
                if let Peer::Upstream { answered } = &mut self.peer {
                    match (self.ends, section) {
                        (true, _) => answered.remove(&stream),
                        (false, Section::Response) => !summary.interim && answered.insert(stream),
                        (false, _) => false,
                    };
                }
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

/// Inspection of the frames that `h2` sends.
#[derive(Debug)]
pub(crate) struct Outgoing {
    code: u32,
    findings: Rc<Findings>,
}

impl Outgoing {
    pub(crate) fn new(findings: Rc<Findings>) -> Self {
        Self { code: 0, findings }
    }

    /// Notes streams that `h2` resets or answers.
    pub(crate) fn sent(&mut self, piece: Piece<'_>) {
        let Piece { frame, payload, last, .. } = piece;
        match frame.kind {
            kind::HEADERS if last => self.findings.answered(frame.stream),
            kind::RST_STREAM => {
                let code =
                    payload.iter().fold(self.code, |code, byte| code << 8 | u32::from(*byte));
                self.code = if last { 0 } else { code };
                if last {
                    self.findings.reset(frame.stream, code);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use durward_testkit::client::h2_frames::{PREFACE as OPENING, frame, get, header_block};
    use proptest::prelude::*;

    use super::*;
    use crate::http2::frames::Frames;

    fn inspect(wire: &[u8], cuts: &[usize]) -> Rc<Findings> {
        let findings = Rc::new(Findings::default());
        let mut incoming = Incoming::of_client(1024, Rc::clone(&findings));
        let mut frames = Frames::new(OPENING.len());
        let mut start = 0;
        for end in cuts.iter().copied().chain([wire.len()]) {
            let end = end.clamp(start, wire.len());
            frames.walk(&wire[start..end], |piece| incoming.received(piece));
            start = end;
        }
        findings
    }

    fn wire() -> Vec<u8> {
        let trailers = header_block(&[(":path", "/evil")]);
        let padded = [&[2, 0, 0, 0, 0, 9][..], &header_block(&[(":path", "/a#b")]), &[0; 2]];
        let large = header_block(&[("x", &"y".repeat(2000))]);
        [
            OPENING.to_vec(),
            get(1, "http", "a", "/"),
            frame(kind::DATA, 0, 1, b"hi"),
            frame(kind::HEADERS, 5, 1, &trailers),
            frame(kind::HEADERS, PADDED | PRIORITY | END_HEADERS, 3, &padded.concat()),
            frame(kind::HEADERS, 0, 5, &large[..9]),
            frame(kind::CONTINUATION, END_HEADERS, 5, &large[9..]),
            get(7, "http", "a", "/"),
        ]
        .concat()
    }

    #[test]
    fn faults_are_noted_for_their_stream() {
        let findings = inspect(&wire(), &[]);

        let malformed = |detail| Accepted::Faulty(Fault::Malformed(detail));
        assert_eq!(findings.accepted(1), malformed("pseudo-header field in trailers"));
        assert_eq!(findings.accepted(3), malformed("fragment in :path"));
        assert_eq!(findings.accepted(5), Accepted::Faulty(Fault::TooLarge));
        assert_eq!(findings.accepted(7), Accepted::Sound);
        assert!(findings.heads.borrow().is_empty() && findings.faults.borrow().is_empty());
    }

    #[test]
    fn a_reset_counts_for_what_was_not_handed_over() {
        let findings = inspect(&wire(), &[]);
        let mut outgoing = Outgoing::new(Rc::clone(&findings));
        let mut frames = Frames::default();
        let _ = (findings.accepted(1), findings.accepted(3));

        for (stream, code) in [(1, 1u32), (3, 1), (5, 1), (7, REFUSED_STREAM)] {
            for byte in frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes()) {
                frames.walk(&[byte], |piece| outgoing.sent(piece));
            }
        }

        assert_eq!(findings.rejected(), Some(Fault::TooLarge));
        assert_eq!((findings.rejected(), findings.accepted(5)), (None, Accepted::Reset));
    }

    #[test]
    fn after_a_block_that_cannot_be_decoded_nothing_is_trusted() {
        let wire =
            [OPENING, &frame(kind::HEADERS, END_HEADERS, 1, &[0x80]), &get(3, "http", "a", "/")];

        let findings = inspect(&wire.concat(), &[]);

        assert!(matches!(findings.accepted(3), Accepted::Faulty(_)));
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
        let mut incoming = Incoming::of_upstream(1024, Rc::clone(&findings));

        let mut frames = Frames::default();
        for bytes in wire.concat().chunks(7) {
            frames.walk(bytes, |piece| incoming.received(piece));
        }

        let fault = Some(Fault::Malformed("pseudo-header field in trailers"));
        let found = [1, 3, 5, 7, 9].map(|stream| findings.take(stream));
        assert_eq!(found, [None, None, fault, None, fault]);
        assert!(matches!(&incoming.peer, Peer::Upstream { answered } if answered.is_empty()));
    }

    proptest! {
        #[test]
        fn splits_do_not_hide_faults(mut cuts in proptest::collection::vec(0usize..2300, 0..30)) {
            cuts.sort_unstable();
            let whole = inspect(&wire(), &[]);
            let split = inspect(&wire(), &cuts);

            prop_assert_eq!(&*whole.faults.borrow(), &*split.faults.borrow());
            prop_assert_eq!(&*whole.heads.borrow(), &*split.heads.borrow());
        }
    }
}
