//! Rewrites header blocks in which `h2` would end the connection for a malformed field.
//!
//! A malformed request costs its stream only (RFC 9113 section 8.1.1), but `h2` treats a field that it cannot represent as a decoder error, which
//! ends the connection. Such a field is left out, or, if it enters the dynamic table, replaced by one of other bytes and equal length: the peer's
//! later references stay valid. The request is refused for its fault, so nobody sees the other bytes.

use super::fields::{Name, is_status};
use super::{Entry, OVERHEAD, TABLE, Undecodable};
use crate::syntax::{is_token, is_value};

/// Octet that fills replaced names and values, that of `:status` too.
const FILL: u8 = b'2';
/// Longest name that is kept, in octets; `h2` rejects names of 64 KiB.
const LONGEST_NAME: usize = 0xf000;
/// First octet of a literal with indexing whose name is written out (RFC 7541 section 6.2.1).
const NEW_NAME: u8 = 0x40;
/// Largest length that is encoded in one octet (RFC 7541 section 5.1).
const SHORT: usize = 127;

/// Fault of a name that begins with a colon and is no pseudo-header field's.
const UNKNOWN: &str = "unknown pseudo-header field";

/// Part of a literal that the codec accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fits {
    All,
    Name,
    Nothing,
}

/// Literal field as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Literal {
    pub(super) entry: Entry,
    /// Octets that the literal takes in the block.
    pub(super) length: usize,
    /// Offset of the value's encoding in the literal.
    pub(super) value_at: usize,
    /// Octets of the value.
    pub(super) value: usize,
    pub(super) fits: Fits,
}

/// Returns true if the codec can represent a field with this name.
pub(super) fn name_fits(name: &[u8]) -> bool {
    match Name::of(name) {
        Name::Unknown => false,
        Name::Regular => {
            let plain = !name.iter().any(u8::is_ascii_uppercase);
            is_token(name) && plain && name.len() <= LONGEST_NAME
        }
        _ => true,
    }
}

/// Returns the part of a literal that the codec accepts.
pub(super) fn fitness(name: Name, name_fits: bool, value: &[u8]) -> Fits {
    let value_fits = match name {
        Name::Method => is_token(value),
        Name::Status => is_status(value),
        Name::Regular => is_value(value),
        _ => str::from_utf8(value).is_ok(),
    };
    match (name_fits, value_fits) {
        (true, true) => Fits::All,
        // The codec accepts no fill of this length as a value.
        (true, false) if name == Name::Method && value.is_empty() => Fits::Nothing,
        (true, false) if name == Name::Status && value.len() != 3 => Fits::Nothing,
        (true, false) => Fits::Name,
        (false, _) => Fits::Nothing,
    }
}

/// Rewriting of one block.
pub(super) struct Rewrite<'b> {
    block: &'b [u8],
    /// Octets of the block that were copied or replaced.
    done: usize,
    out: Option<Vec<u8>>,
}

impl<'b> Rewrite<'b> {
    pub(super) fn of(block: &'b [u8]) -> Self {
        Self { block, done: 0, out: None }
    }

    /// Handles a literal that does not enter the table; `rest` follows it.
    pub(super) fn passing(&mut self, literal: &Literal, rest: &[u8]) {
        if literal.fits != Fits::All {
            let begin = self.block.len() - rest.len() - literal.length;
            self.copy(begin, begin + literal.length);
        }
    }

    /// Handles a literal that enters the table; `rest` follows it.
    pub(super) fn inserted(
        &mut self,
        literal: &mut Literal,
        rest: &[u8],
    ) -> Result<(), Undecodable> {
        let begin = self.block.len() - rest.len() - literal.length;
        let end = begin + literal.length;
        match literal.fits {
            Fits::All => {}
            Fits::Name => fill(self.copy(begin + literal.value_at, end), literal.value),
            Fits::Nothing => {
                let (name, value) = lengths(literal)?;
                let out = self.copy(begin, end);
                out.push(NEW_NAME);
                fill(out, name);
                fill(out, value);
                // The codec has the entry under another name, so every reference to it is a fault.
                let entry = &mut literal.entry;
                entry.fault = entry.fault.or(Some(UNKNOWN));
                entry.name_fault = entry.fault;
                entry.name = Name::Regular;
            }
        }
        Ok(())
    }

    /// Copies the octets up to `until` that were not copied, and skips those up to `next`.
    fn copy(&mut self, until: usize, next: usize) -> &mut Vec<u8> {
        let out = self.out.get_or_insert_default();
        out.extend_from_slice(&self.block[self.done..until]);
        self.done = next;
        out
    }

    /// Returns the block for the codec; `None` if it is the one that was read.
    pub(super) fn end(mut self) -> Option<Vec<u8>> {
        let out = self.out.as_mut()?;
        out.extend_from_slice(&self.block[self.done..]);
        self.out
    }
}

/// Returns lengths of a name and a value that together equal the literal's. A literal larger than every table only has to stay that large.
fn lengths(literal: &Literal) -> Result<(usize, usize), Undecodable> {
    let (name, value) = (literal.entry.name_length as usize, literal.value);
    match name {
        0 => Ok((1, value.checked_sub(1).ok_or(Undecodable)?)),
        LONGEST_NAME.. => Ok((1, TABLE)),
        _ => Ok((name, value)),
    }
}

/// Writes a string of `length` fill octets.
fn fill(out: &mut Vec<u8>, length: usize) {
    if length < SHORT {
        out.push(length as u8);
    } else {
        out.push(SHORT as u8);
        let mut rest = length - SHORT;
        while rest >= 128 {
            out.push((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.resize(out.len() + length, FILL);
}

const _: () = assert!(LONGEST_NAME > TABLE + OVERHEAD, "a name that is not kept enters no table");

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::{Blocks, Section};

    fn string(text: &[u8]) -> Vec<u8> {
        let mut out = match text.len().checked_sub(127) {
            Some(more) => vec![127, more as u8 | 0x80, (more >> 7) as u8],
            None => vec![text.len() as u8],
        };
        out.extend_from_slice(text);
        out
    }

    fn text(bytes: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            vec(prop::sample::select(bytes), 0..6),
            (prop::sample::select(bytes), 500..2500)
                .prop_map(|(byte, count): (u8, i32)| vec![byte; count as usize]),
        ]
    }

    /// Generates a literal, with indexing or without, whose name is new or one of the table's.
    fn literal() -> impl Strategy<Value = Vec<u8>> {
        let name = prop_oneof![
            text(b"xyY:\0").prop_map(|name| [vec![0], string(&name)].concat()),
            prop::sample::select(vec![&b":status"[..], b":method", b":path", b":scheme"])
                .prop_map(|name| [vec![0], string(name)].concat()),
            (1u8..15).prop_map(|index| vec![index]),
            (62u8..66).prop_map(|index| vec![index]),
        ];
        let value = prop_oneof![text(b"az\0\n\xff"), Just(b"200".to_vec())];
        let first = prop::sample::select(vec![0x00u8, 0x10, 0x40, 0x40]);
        (first, name, value).prop_map(|(first, name, value)| {
            let most = if first == 0x40 { 63 } else { 15 };
            let head = match name[0] {
                index if index < most => vec![first | index],
                index => vec![first | most, index - most],
            };
            [head, name[1..].to_vec(), string(&value)].concat()
        })
    }

    proptest! {
        #[test]
        fn the_codecs_table_is_the_peers(blocks in vec(vec(literal(), 1..6), 1..8)) {
            let (mut read, mut given) = (Blocks::default(), Blocks::default());
            for block in blocks.into_iter().map(|block| block.concat()) {
                let Ok(summary) = read.read(&block, Section::Request) else { return Ok(()) };
                let rewritten = read.take_rewritten();
                prop_assert!(rewritten.is_none() || summary.fault.is_some());
                let block = rewritten.unwrap_or(block);

                let again = given.read(&block, Section::Request);

                prop_assert!(again.is_ok());
                prop_assert_eq!(given.take_rewritten(), None);
                let sizes = |blocks: &Blocks| {
                    blocks.dynamic.iter().map(|entry| entry.size).collect::<Vec<_>>()
                };
                prop_assert_eq!(sizes(&read), sizes(&given));
            }
        }
    }
}
