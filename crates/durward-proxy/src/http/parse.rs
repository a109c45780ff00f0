//! Heads of HTTP/1 messages, read strictly: what RFC 9112 forbids is refused, never repaired.
//!
//! One parser for both directions, fed with the same bytes and more until a head is complete. Deliberately absent: bare LF, folded
//! lines, white space before a colon, and every other thing that two servers could read differently.

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

/// What became of the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// More are needed.
    Incomplete,
    /// The head is this many bytes long.
    Head(usize),
}

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Bytes of all of it.
    pub(crate) bytes: usize,
    /// Bytes of the first line.
    pub(crate) line: usize,
    /// Number of fields.
    pub(crate) fields: usize,
    /// Whether it is for a forward proxy: CONNECT is understood, and the target alone says where to (RFC 9112 section 3.2.2).
    pub(crate) outward: bool,
}

impl HeadLimits {
    /// What an upstream may send.
    pub(crate) const RESPONSE: Self =
        Self { bytes: 64 * 1024, line: 8 * 1024, fields: 256, outward: false };
}

/// Where in a head the parser is. Starts anew for each head.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Where the line begins that is not yet read.
    line: usize,
    /// Up to where there is known to be no further line end.
    seen: usize,
    /// The first line is read.
    started: bool,
}

/// The complete lines among `input`, one by one.
pub(crate) enum Line {
    /// From here to there, without CRLF.
    Text(usize, usize),
    /// An empty line: the end of the section.
    Empty,
    /// There is no complete line.
    Incomplete,
}

impl Progress {
    /// The next complete line.
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

    /// How many bytes are read for good.
    pub(crate) fn read(&self) -> usize {
        self.line
    }
}

/// Looks at eight bytes at a time: this is where most of a head's reading time would go.
fn find_line_feed(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    let words = bytes.chunks_exact(8);
    let tail = words.remainder();
    for (at, word) in words.enumerate() {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        // Line feeds become zero bytes, and the lowest zero byte borrows first.
        let word = u64::from_le_bytes(eight) ^ (ONES * u64::from(b'\n'));
        let zeros = word.wrapping_sub(ONES) & !word & (ONES * 0x80);
        if zeros != 0 {
            return Some(at * 8 + (zeros.trailing_zeros() / 8) as usize);
        }
    }
    let before = bytes.len() - tail.len();
    tail.iter().position(|byte| *byte == b'\n').map(|at| before + at)
}

/// Notes the field that stands in `input[start..end]`.
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
