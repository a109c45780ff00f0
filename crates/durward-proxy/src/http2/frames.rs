//! The nine bytes before each HTTP/2 frame, found in a stream of bytes. Payloads are passed over.

/// Bytes of a frame's header.
const HEADER: usize = 9;

/// Frame types (RFC 9113 section 6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    /// Bytes of the payload.
    pub(crate) length: usize,
}

impl Frame {
    /// Returns whether the sender's direction of the stream ends with this frame. Only of DATA and HEADERS.
    pub(crate) fn ends_stream(self) -> bool {
        self.flags & 1 != 0
    }
}

/// Reads frame headers out of bytes as they come.
#[derive(Clone, Debug)]
pub(crate) struct Scanner {
    header: [u8; HEADER],
    have: usize,
    skip: usize,
}

impl Scanner {
    /// Passes over the first `preface` bytes.
    pub(crate) fn new(preface: usize) -> Self {
        Self { header: [0; HEADER], have: 0, skip: preface }
    }

    /// Looks at bytes that follow those before, and hands over each frame whose header ends in them.
    pub(crate) fn scan(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            bytes = &bytes[passed..];
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER {
                self.have = 0;
                let [high, middle, low, kind, flags, id @ ..] = self.header;
                let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.skip = length;
                // The highest bit is reserved.
                let stream = u32::from_be_bytes(id) & 0x7fff_ffff;
                found(Frame { kind, flags, stream, length });
            }
        }
    }
}
