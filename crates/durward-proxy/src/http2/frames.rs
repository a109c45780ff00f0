//! Cuts a stream of bytes into HTTP/2 frames (RFC 9113 section 4.1).
//!
//! Both the frame budgets and the inspection of heads use this one walk. Payloads are not interpreted here.

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 9;
/// Largest payload in bytes that we accept: we announce no other SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 4.2).
pub(crate) const LARGEST: usize = 16 * 1024;

/// Flags of HEADERS frames (RFC 9113 section 6.2).
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

/// Frame types (RFC 9113 section 6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Header of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    /// Bytes of the payload.
    pub(crate) length: usize,
}

impl Frame {
    /// Reads the header of a frame.
    pub(crate) fn parse(header: [u8; HEADER]) -> Self {
        let [high, middle, low, kind, flags, id @ ..] = header;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        // The highest bit is reserved.
        Self { kind, flags, stream: u32::from_be_bytes(id) & 0x7fff_ffff, length }
    }

    /// Writes the header of a frame.
    pub(crate) fn encode(self) -> [u8; HEADER] {
        let [_, high, middle, low] = (self.length as u32).to_be_bytes();
        let [a, b, c, d] = self.stream.to_be_bytes();
        [high, middle, low, self.kind, self.flags, a, b, c, d]
    }

    /// Returns true if the sender's direction of the stream ends with this frame. Only for DATA and HEADERS.
    pub(crate) fn ends_stream(self) -> bool {
        self.flags & END_STREAM != 0
    }

    /// Returns true if the frame acknowledges the peer's SETTINGS or PING, which the same bit says there.
    pub(crate) fn acknowledges(self) -> bool {
        self.flags & END_STREAM != 0
    }
}

/// Consecutive bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'b> {
    pub(crate) frame: Frame,
    /// Bytes of the payload; empty if only the header has come.
    pub(crate) payload: &'b [u8],
    /// True for the first piece of the frame.
    pub(crate) first: bool,
    /// True for the last piece of the frame.
    pub(crate) last: bool,
    /// Start and end in the bytes that were walked, the piece's part of the frame's header included.
    pub(crate) at: (usize, usize),
}

/// Splitter of bytes into frames.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frames {
    /// Bytes to skip.
    skip: usize,
    header: [u8; HEADER],
    have: usize,
    frame: Frame,
    /// Bytes of the payload still to come.
    left: usize,
}

impl Frames {
    /// Skips the first `preface` bytes.
    pub(crate) fn new(preface: usize) -> Self {
        Self { skip: preface, ..Self::default() }
    }

    /// Splits the next bytes of the stream, and passes each piece of a frame to `each`.
    pub(crate) fn walk(&mut self, mut bytes: &[u8], mut each: impl FnMut(Piece<'_>)) {
        let total = bytes.len();
        let skipped = self.skip.min(total);
        self.skip -= skipped;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            let begin = total - bytes.len();
            let first = self.have < HEADER;
            if first && !self.take_header(&mut bytes) {
                return;
            }
            let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= payload.len();
            bytes = rest;
            let last = self.left == 0;
            if last {
                self.have = 0;
            }
            let at = (begin, total - bytes.len());
            each(Piece { frame: self.frame, payload, first, last, at });
        }
    }

    /// Returns the bytes read of an incomplete frame header.
    pub(crate) fn partial(&self) -> usize {
        self.have % HEADER
    }

    /// Reads the header of a frame; false if it is incomplete.
    fn take_header(&mut self, bytes: &mut &[u8]) -> bool {
        if self.have == 0
            && let Some((header, rest)) = bytes.split_first_chunk()
        {
            *bytes = rest;
            self.have = HEADER;
            self.begin(*header);
            return true;
        }
        let taken = (HEADER - self.have).min(bytes.len());
        self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
        self.have += taken;
        *bytes = &bytes[taken..];
        if self.have == HEADER {
            self.begin(self.header);
        }
        self.have == HEADER
    }

    fn begin(&mut self, header: [u8; HEADER]) {
        self.frame = Frame::parse(header);
        self.left = self.frame.length;
    }
}

/// Encodes a header block as HEADERS and, where one frame is not enough, CONTINUATION.
pub(crate) fn head(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut frames = Vec::with_capacity(block.len() + 2 * HEADER);
    let mut rest = block;
    loop {
        let first = frames.is_empty();
        let (part, after) = rest.split_at(rest.len().min(LARGEST));
        rest = after;
        let last = if rest.is_empty() { END_HEADERS } else { 0 };
        let (kind, flags) = if first { (kind::HEADERS, flags) } else { (kind::CONTINUATION, 0) };
        let frame = Frame { kind, flags: flags | last, stream, length: part.len() };
        frames.extend_from_slice(&frame.encode());
        frames.extend_from_slice(part);
        if rest.is_empty() {
            return frames;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames with the payloads that were put together again.
    fn walk(wire: &[u8], size: usize) -> Vec<(Frame, Vec<u8>)> {
        let (mut frames, mut found) = (Frames::new(3), Vec::new());
        let mut begun = Vec::new();
        for bytes in wire.chunks(size) {
            let mut end = None;
            frames.walk(bytes, |piece| {
                assert_eq!(piece.first, begun.is_empty());
                assert!(bytes[..piece.at.1].ends_with(piece.payload));
                assert!(end.is_none_or(|end| end == piece.at.0), "{piece:?}");
                end = Some(piece.at.1);
                begun.push(piece.payload.to_vec());
                if piece.last {
                    found.push((piece.frame, begun.drain(..).flatten().collect()));
                }
            });
        }
        found
    }

    #[test]
    fn a_frame_is_the_same_however_its_bytes_come() {
        let wire = [
            &b"abc"[..],
            &[0, 0, 5, kind::DATA, 1, 0x80, 0, 0, 3],
            b"hello",
            &[0, 0, 0, kind::SETTINGS, 1, 0, 0, 0, 0],
            &[0, 0, 1, kind::HEADERS, 4, 0, 0, 1, 1],
            b"x",
        ]
        .concat();
        let frame = |kind, flags, stream, length| Frame { kind, flags, stream, length };
        let whole = vec![
            (frame(kind::DATA, 1, 3, 5), b"hello".to_vec()),
            (frame(kind::SETTINGS, 1, 0, 0), Vec::new()),
            (frame(kind::HEADERS, 4, 257, 1), b"x".to_vec()),
        ];

        for size in 1..=wire.len() {
            assert_eq!(walk(&wire, size), whole, "pieces of {size}");
        }
    }

    #[test]
    fn a_frame_is_known_before_its_payload_comes() {
        let (mut frames, mut first) = (Frames::new(0), Vec::new());

        frames.walk(&[0, 1, 0, kind::DATA, 0, 0, 0, 0, 1], |piece| first.push(piece.frame.length));

        assert_eq!(first, [256]);
    }
}
