//! Host of a connection's first request, read before the codec gets a byte: it tells tenants apart at a shared address and port.
//!
//! The head is not judged here; the codec and its inspection read the same bytes again.

use crate::http2::frames::{END_HEADERS, Frames, Piece, kind};
use crate::http2::hpack::authority;
use crate::http2::inspect::fragment;
use crate::syntax::Fault;

/// Bytes of the client's connection preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// Reader of a connection's first frames, up to the end of the first header block.
pub(crate) struct FirstHead {
    frames: Frames,
    /// Bytes that were walked.
    read: usize,
    block: Vec<u8>,
    whole: Option<Result<Option<Vec<u8>>, Fault>>,
}

impl FirstHead {
    pub(crate) fn new() -> Self {
        Self { frames: Frames::new(PREFACE), read: 0, block: Vec::new(), whole: None }
    }

    /// Returns the `:authority` as sent, empty without one; `None` while the head is incomplete. `bytes` are those of the call before and more.
    ///
    /// # Errors
    /// Fails if the header block cannot be decoded.
    pub(crate) fn authority(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let Self { frames, read, block, whole } = self;
        frames.walk(&bytes[*read..], |piece| {
            if whole.is_none() {
                *whole = take(block, piece);
            }
        });
        *read = bytes.len();
        match self.whole.take() {
            None => Ok(None),
            Some(found) => Ok(Some(found?.unwrap_or_default())),
        }
    }
}

/// Adds a piece of a frame to the block; returns what the block says once it is complete.
fn take(block: &mut Vec<u8>, piece: Piece<'_>) -> Option<Result<Option<Vec<u8>>, Fault>> {
    let Piece { frame, payload, last, .. } = piece;
    let undecodable = || Some(Err(Fault::Malformed("header block cannot be decoded")));
    if !matches!(frame.kind, kind::HEADERS | kind::CONTINUATION) {
        return None;
    }
    block.extend_from_slice(payload);
    if !last {
        return None;
    }
    if frame.kind == kind::HEADERS {
        match fragment(frame, block) {
            Some((stripped, _)) => *block = stripped.to_vec(),
            None => return undecodable(),
        }
    }
    if frame.flags & END_HEADERS == 0 {
        return None;
    }
    authority(block).map_or_else(|_| undecodable(), |found| Some(Ok(found)))
}

#[cfg(test)]
mod tests {
    use durward_testkit::client::h2_frames::{flag, frame, get, header_block, kind, opening};

    use super::*;

    fn read(bytes: &[u8], step: usize) -> Result<Option<Vec<u8>>, Fault> {
        let mut head = FirstHead::new();
        let mut end = 0;
        while end < bytes.len() {
            end = bytes.len().min(end + step);
            if let Some(found) = head.authority(&bytes[..end])? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    #[test]
    fn the_first_authority_is_found_however_the_head_arrives() {
        let block = header_block(&[
            (":method", "GET"),
            ("x-long", "0123456789"),
            (":authority", "b.example"),
            (":path", "/"),
        ]);
        let (start, end) = block.split_at(block.len() / 2);
        let mut padded = vec![3];
        padded.extend_from_slice(&block);
        padded.extend_from_slice(&[0; 3]);
        let split = [
            opening(),
            frame(kind::HEADERS, flag::END_STREAM_OR_ACK, 1, start),
            frame(kind::CONTINUATION, flag::END_HEADERS, 1, end),
        ];
        let with_padding = [opening(), frame(kind::HEADERS, 0x8 | flag::END_HEADERS, 1, &padded)];
        let usual = [opening(), get(1, "http", "a.example:8080", "/")];
        let none = header_block(&[(":method", "GET"), (":path", "/"), ("host", "c.example")]);
        let without = [opening(), frame(kind::HEADERS, flag::END_HEADERS, 1, &none)];
        for (bytes, expected) in [
            (usual.concat(), "a.example:8080"),
            (split.concat(), "b.example"),
            (with_padding.concat(), "b.example"),
            (without.concat(), ""),
        ] {
            for step in [1, 7, bytes.len()] {
                assert_eq!(read(&bytes, step).unwrap(), Some(expected.as_bytes().to_vec()));
            }
            assert_eq!(read(&bytes[..bytes.len() - 1], 5).unwrap(), None);
        }
        let bad = [opening(), frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xff, 0xff])].concat();
        assert!(read(&bad, 64).is_err());
    }
}
