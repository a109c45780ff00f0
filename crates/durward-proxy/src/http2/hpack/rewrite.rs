//! Rewrites header blocks in which `h2` would end the connection for a malformed field.
//!
//! A malformed request costs its stream only (RFC 9113 section 8.1.1), but `h2` treats a field that it cannot represent as a decoder error, which
//! ends the connection. Such a field is left out. The codec's dynamic table then lacks an entry that the peer's has, so that later references are
//! written with the codec's index. If only the value is at fault, a value of other bytes and equal length replaces it, because the peer may refer to
//! the entry for its name. The request is refused for its fault, so the other bytes are never forwarded.

use super::Entry;
use super::fields::{LONGEST_NAME, Name, is_status};
use crate::syntax::{is_token, is_value};

/// Octet that fills replaced values, that of `:status` too.
const FILL: u8 = b'2';
/// First octet and prefix of a reference to a field (RFC 7541 section 6.1).
const REFERENCE: (u8, u8) = (0x80, 7);

/// Part of a literal that the codec accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fits {
    All,
    Name,
    Nothing,
}

/// Kind of a literal (RFC 7541 section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Enters the dynamic table.
    Indexed,
    Plain,
    /// No intermediary may enter it in a table.
    Never,
}

impl Form {
    /// Returns the bits of the first octet beside the index.
    fn first(self) -> u8 {
        match self {
            Self::Indexed => 0x40,
            Self::Plain => 0,
            Self::Never => super::NEVER,
        }
    }

    /// Returns the number of bits of the first octet that belong to the index.
    pub(super) fn prefix(self) -> u8 {
        if self == Self::Indexed { 6 } else { 4 }
    }
}

/// Literal field as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Literal {
    pub(super) entry: Entry,
    pub(super) form: Form,
    /// Index of the name in the peer's tables; 0 if the name is written out.
    pub(super) index: usize,
    /// Index of the name in the codec's tables.
    pub(super) codec_index: usize,
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

    /// Handles a reference to a field, which began with `before` octets left; `rest` follows it.
    pub(super) fn reference(
        &mut self,
        before: usize,
        rest: &[u8],
        index: usize,
        codec_index: Option<usize>,
    ) {
        if codec_index == Some(index) {
            return;
        }
        let out = self.copy(self.block.len() - before, self.block.len() - rest.len());
        if let Some(index) = codec_index {
            integer(out, REFERENCE, index);
        }
    }

    /// Handles a literal, which began with `before` octets left; `rest` follows it. Returns true if the codec gets it.
    pub(super) fn literal(&mut self, literal: &Literal, before: usize, rest: &[u8]) -> bool {
        let (begin, end) = (self.block.len() - before, self.block.len() - rest.len());
        let is_kept = literal.fits == Fits::All
            || (literal.fits == Fits::Name && literal.form == Form::Indexed);
        if !is_kept {
            self.copy(begin, end);
            return false;
        }
        let value_at = begin + literal.value_at;
        if literal.codec_index != literal.index {
            let form = (literal.form.first(), literal.form.prefix());
            integer(self.copy(begin, value_at), form, literal.codec_index);
        }
        if literal.fits == Fits::Name {
            fill(self.copy(value_at, end), literal.value);
        }
        true
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

/// Encodes an integer behind the bits of `first`, with a prefix of `prefix` bits (RFC 7541 section 5.1).
pub(crate) fn integer(out: &mut Vec<u8>, (first, prefix): (u8, u8), value: usize) {
    let most = (1usize << prefix) - 1;
    let Some(mut rest) = value.checked_sub(most) else { return out.push(first | value as u8) };
    out.push(first | most as u8);
    while rest >= 128 {
        out.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// Encodes a string of `length` fill octets, not in Huffman's code.
fn fill(out: &mut Vec<u8>, length: usize) {
    integer(out, (0, 7), length);
    out.resize(out.len() + length, FILL);
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::{Blocks, STATIC, Section, TABLE, integer};
    use super::*;

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

    /// Generates a literal of any form, whose name is new or one of the tables'.
    fn literal() -> impl Strategy<Value = Vec<u8>> {
        let name = prop_oneof![
            text(b"xyY:\0").prop_map(|name| [vec![0], string(&name)].concat()),
            prop::sample::select(vec![&b":method"[..], b":status", b":path", b"", b":", b":x"])
                .prop_map(|name| [vec![0], string(name)].concat()),
            (1u8..15).prop_map(|index| vec![index]),
            (62u8..70).prop_map(|index| vec![index]),
        ];
        let value = prop_oneof![text(b"az\0\n\xff"), Just(b"200".to_vec()), Just(b"20".to_vec())];
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

    /// Generates a header block in its fields, in front of which may be a size of the table.
    fn block() -> impl Strategy<Value = (Vec<u8>, Vec<Vec<u8>>)> {
        let size = prop_oneof![
            8 => Just(Vec::new()),
            1 => Just(vec![0x20]),
            1 => Just(vec![0x3f, 100]),
            1 => Just(vec![0x3f, 0xe1, 0x1f]),
        ];
        let field = prop_oneof![
            2 => literal(),
            1 => (62u8..72).prop_map(|index| vec![0x80 | index]),
        ];
        (size, vec(field, 1..6))
    }

    type Field = (Vec<u8>, Vec<u8>);

    /// Decoder that keeps the fields, as the RFC says it.
    #[derive(Clone)]
    struct Plain {
        table: VecDeque<Field>,
        limit: usize,
    }

    impl Plain {
        fn entry(&self, index: usize) -> Option<Field> {
            match STATIC.get(index.checked_sub(1)?) {
                Some((name, value)) => Some((name.to_vec(), value.to_vec())),
                None => self.table.get(index - 1 - STATIC.len()).cloned(),
            }
        }

        fn make_room(&mut self, size: usize) {
            let used = |table: &VecDeque<Field>| {
                table.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>()
            };
            while used(&self.table) + size > self.limit && self.table.pop_back().is_some() {}
        }

        /// Returns the fields of a block; `None` if it cannot be decoded.
        fn read(&mut self, mut block: &[u8]) -> Option<Vec<Field>> {
            let (mut fields, mut name, mut value) = (Vec::new(), Vec::new(), Vec::new());
            while let Some(first) = block.first().copied() {
                if first >= 0x80 {
                    fields.push(self.entry(integer(&mut block, 7).ok()?)?);
                    continue;
                }
                if (0x20..0x40).contains(&first) {
                    self.limit = integer(&mut block, 5).ok()?;
                    self.make_room(0);
                    continue;
                }
                match integer(&mut block, if first >= 0x40 { 6 } else { 4 }).ok()? {
                    0 => super::super::string(&mut block, &mut name).ok()?,
                    index => name = self.entry(index)?.0,
                }
                super::super::string(&mut block, &mut value).ok()?;
                let size = name.len() + value.len() + 32;
                if first >= 0x40 {
                    self.make_room(size);
                    if size <= self.limit {
                        self.table.push_front((name.clone(), value.clone()));
                    }
                }
                fields.push((name.clone(), value.clone()));
            }
            Some(fields)
        }
    }

    fn is_sound((name, value): &Field) -> bool {
        fitness(Name::of(name), name_fits(name), value) == Fits::All
    }

    proptest! {
        #[test]
        fn the_codec_reads_the_sound_fields_and_no_other(blocks in vec(block(), 1..10)) {
            let (mut read, mut given) = (Blocks::default(), Blocks::default());
            let plain = Plain { table: VecDeque::new(), limit: TABLE };
            let (mut peer, mut codec) = (plain.clone(), plain);
            for (size, fields) in blocks {
                let mut block = size;
                for field in fields {
                    // A reference to what is not there would end the connection.
                    if peer.clone().read(&[&block[..], &field].concat()).is_some() {
                        block.extend(field);
                    }
                }
                let sent = peer.read(&block).unwrap();
                let summary = read.read(&block, Section::Request).unwrap();
                let rewritten = read.take_rewritten().unwrap_or(block);

                let got = codec.read(&rewritten);

                prop_assert_eq!(given.read(&rewritten, Section::Request).map(|_| ()), Ok(()));
                prop_assert_eq!(given.take_rewritten(), None);
                let filled = |(_, value): &Field| value.iter().all(|byte| *byte == FILL);
                let got: Option<Vec<_>> = got.map(|fields| {
                    fields.into_iter().filter(|field| field.1.is_empty() || !filled(field)).collect()
                });
                let sound: Vec<_> = sent.iter().filter(|field| is_sound(field)).cloned().collect();
                prop_assert!(sound.len() == sent.len() || summary.fault.is_some());
                prop_assert_eq!(got, Some(sound));
            }
        }
    }
}
