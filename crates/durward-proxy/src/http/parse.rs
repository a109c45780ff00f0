//! Strict parser of HTTP/1 heads: what RFC 9112 forbids is refused, never repaired.
//!
//! One parser for both directions, called with the same bytes and more until a head is complete. Deliberately absent: bare LF, folded lines, white
//! space before a colon, and every other form that two servers could read differently (request smuggling).

mod connection;
mod request;
mod response;
mod target;

pub(crate) use durward_model::request::valid_authority;
pub(crate) use request::{parse_request, set_host};
pub(crate) use response::{Asked, parse_response};

use crate::http::fields::{Fields, Span};
use crate::http::names::Known;
use crate::syntax::{Fault, is_token_byte, is_value};

/// Result of parsing the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// More bytes are needed.
    Incomplete,
    /// The head is complete and this many bytes long.
    Head(usize),
}

/// Limits of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Bytes of the head.
    pub(crate) bytes: usize,
    /// Bytes of the first line.
    pub(crate) line: usize,
    /// Number of fields.
    pub(crate) fields: usize,
    /// True for a forward proxy: CONNECT is accepted, and the target alone decides the destination (RFC 9112 section 3.2.2).
    pub(crate) outward: bool,
}

impl HeadLimits {
    /// Limits of an upstream's response.
    pub(crate) const RESPONSE: Self =
        Self { bytes: 64 * 1024, line: 8 * 1024, fields: 256, outward: false };
}

/// Parser position within a head; reset for each head.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Offset of the first line that is not yet read.
    line: usize,
    /// Offset up to which there is no further line end.
    seen: usize,
    /// True if the first line is read.
    started: bool,
}

/// Next line of the input.
pub(crate) enum Line {
    /// Start and end of a line, without CRLF.
    Text(usize, usize),
    /// Empty line: the end of the section.
    Empty,
    /// No complete line.
    Incomplete,
}

impl Progress {
    /// Returns the next complete line.
    pub(crate) fn next_line(&mut self, input: &[u8]) -> Result<Line, Fault> {
        let from = self.seen.max(self.line);
        let Some(length) = input.get(from..).and_then(find_line_feed) else {
            self.seen = input.len();
            return Ok(Line::Incomplete);
        };
        let end = from + length;
        let start = std::mem::replace(&mut self.line, end + 1);
        if end == start || input[end - 1] != b'\r' {
            return Err(Fault::Malformed("bare LF"));
        }
        Ok(if end - 1 == start { Line::Empty } else { Line::Text(start, end - 1) })
    }

    /// Returns the bytes read for good.
    pub(crate) fn read(&self) -> usize {
        self.line
    }
}

/// Finds a line feed, eight bytes at a time: this search is most of a head's parsing time.
fn find_line_feed(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    let words = bytes.chunks_exact(8);
    let tail = words.remainder();
    for (at, word) in words.enumerate() {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        // Line feeds become zero bytes, and subtraction borrows first at the lowest zero byte.
        let word = u64::from_le_bytes(eight) ^ (ONES * u64::from(b'\n'));
        let zeros = word.wrapping_sub(ONES) & !word & (ONES * 0x80);
        if zeros != 0 {
            return Some(at * 8 + (zeros.trailing_zeros() / 8) as usize);
        }
    }
    let before = bytes.len() - tail.len();
    tail.iter().position(|byte| *byte == b'\n').map(|at| before + at)
}

/// Notes the field in `input[start..end]`.
pub(crate) fn field_line(
    input: &[u8],
    start: usize,
    end: usize,
    fields: &mut Fields,
) -> Result<(Known, Span), Fault> {
    let line = &input[start..end];
    let colon = line
        .iter()
        .position(|byte| !is_token_byte(*byte))
        .ok_or(Fault::Malformed("field without colon"))?;
    match line[colon] {
        b':' if colon > 0 => {}
        b':' => return Err(Fault::Malformed("empty field name")),
        b' ' | b'\t' if colon == 0 => return Err(Fault::Malformed("folded line")),
        b' ' | b'\t' => return Err(Fault::Malformed("white space before colon")),
        _ => return Err(Fault::Malformed("field name is not a token")),
    }
    let value = &line[colon + 1..];
    if !is_value(value) {
        return Err(Fault::Malformed("control character in field value"));
    }
    let lead = value.iter().take_while(|byte| is_blank(**byte)).count();
    let tail = value[lead..].iter().rev().take_while(|byte| is_blank(**byte)).count();
    let name = Span::new(start, start + colon);
    let value = Span::new(start + colon + 1 + lead, end - tail);
    let known = Known::of(&line[..colon]);
    fields.note(known, name, value);
    Ok((known, value))
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn line_feeds_are_found_where_they_are(bytes in proptest::collection::vec(prop::sample::select(b"\n\x0b\x09\x8a\x00ab".to_vec()), 0..40)) {
            prop_assert_eq!(find_line_feed(&bytes), bytes.iter().position(|byte| *byte == b'\n'));
        }
    }
}
