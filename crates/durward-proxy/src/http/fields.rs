//! Header fields of a message: one buffer of bytes, and a list of positions of names and values in it.
//!
//! Order, case and repeats are kept; nothing is allocated once the buffer has grown to a connection's usual size. Deliberately
//! absent: a map. A head has about ten fields, and a map costs more than looking at each.

use durward_model::route::HeaderFields;

use crate::http::names::Known;

/// Range of a [`Fields`] buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Creates the range from `start` to `end`. Heads are far smaller than 4 GiB.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let clamp = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: clamp(start), end: clamp(end) }
    }

    /// Returns the length in bytes.
    pub(crate) fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Returns true if the length is 0.
    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Returns the part from `offset` on.
    pub(crate) fn skip(self, offset: usize) -> Self {
        Self::new((self.start as usize + offset).min(self.end as usize), self.end as usize)
    }

    /// Returns the first `length` bytes.
    pub(crate) fn first(self, length: usize) -> Self {
        Self::new(self.start as usize, (self.start as usize + length).min(self.end as usize))
    }

    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    known: Known,
    name: Span,
    value: Span,
}

/// Header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    /// Meaning of the name.
    pub(crate) known: Known,
    /// Name as written.
    pub(crate) name: &'a [u8],
    /// Value without surrounding white space.
    pub(crate) value: &'a [u8],
}

/// Piece of a new value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    /// Literal bytes.
    Text(&'a [u8]),
    /// Copy of a range of the same buffer.
    Copy(Span),
}

/// Header fields, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Fields {
    /// Removes all fields and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    /// Loads `head` into the buffer to which spans noted so far refer.
    pub(crate) fn load(&mut self, head: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(head);
    }

    /// Notes a field of the buffer that is (or will be) loaded.
    pub(crate) fn note(&mut self, known: Known, name: Span, value: Span) {
        self.entries.push(Entry { known, name, value });
    }

    /// Stores bytes beside the fields, for values that are no fields.
    pub(crate) fn store(&mut self, text: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text);
        Span::new(start, self.bytes.len())
    }

    /// Stores what `write` appends beside the fields.
    pub(crate) fn store_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.bytes.len();
        write(&mut self.bytes);
        Span::new(start, self.bytes.len())
    }

    /// Returns the bytes of a span.
    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        self.bytes.get(span.range()).unwrap_or_default()
    }

    /// Returns the text of a span; empty if it is not UTF-8.
    pub(crate) fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.bytes(span)).unwrap_or_default()
    }

    /// Returns meaning, name and value of field number `index`.
    pub(crate) fn entry(&self, index: usize) -> Option<(Known, Span, Span)> {
        self.entries.get(index).map(|entry| (entry.known, entry.name, entry.value))
    }

    /// Returns the number of fields.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if there are no fields.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Iterates over all fields, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.entries.iter().map(|entry| Field {
            known: entry.known,
            name: self.bytes(entry.name),
            value: self.bytes(entry.value),
        })
    }

    /// Returns the first value of a known field.
    pub(crate) fn get(&self, known: Known) -> Option<&[u8]> {
        self.entries.iter().find(|entry| entry.known == known).map(|entry| self.bytes(entry.value))
    }

    /// Appends a field.
    pub(crate) fn append(&mut self, name: &[u8], value: &[u8]) {
        self.append_with(Known::of(name), name, |bytes| bytes.extend_from_slice(value));
    }

    /// Appends a field whose meaning is known and whose value `write` appends.
    pub(crate) fn append_with(
        &mut self,
        known: Known,
        name: &[u8],
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let name = self.store(name);
        let value = self.store_with(write);
        self.note(known, name, value);
    }

    /// Replaces all fields of `known` by one at the end, with their values, separated by commas, and then `last`.
    pub(crate) fn extend_list(&mut self, known: Known, name: &[u8], last: &[Part<'_>]) {
        let start = self.bytes.len();
        for index in 0..self.entries.len() {
            if self.entries[index].known == known {
                let range = self.entries[index].value.range();
                self.bytes.extend_from_within(range);
                self.bytes.extend_from_slice(b", ");
            }
        }
        for part in last {
            match part {
                Part::Text(text) => self.bytes.extend_from_slice(text),
                Part::Copy(span) => self.bytes.extend_from_within(span.range()),
            }
        }
        let value = Span::new(start, self.bytes.len());
        self.retain(|field| field != known);
        let name = self.store(name);
        self.note(known, name, value);
    }

    /// Keeps the fields whose meaning passes `keep`.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Known) -> bool) {
        self.entries.retain(|entry| keep(entry.known));
    }

    /// Keeps the fields that pass `keep`.
    pub(crate) fn retain_fields(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let bytes = &self.bytes;
        let text = |span: Span| bytes.get(span.range()).unwrap_or_default();
        self.entries.retain(|entry| {
            keep(Field { known: entry.known, name: text(entry.name), value: text(entry.value) })
        });
    }

    /// Removes all fields of this name, case-insensitively.
    pub(crate) fn remove(&mut self, name: &[u8]) {
        self.retain_fields(|field| !field.name.eq_ignore_ascii_case(name));
    }

    /// Returns the memory held in bytes, for deciding whether to keep it.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }
}

impl HeaderFields for Fields {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.iter()
            .any(|field| field.name.eq_ignore_ascii_case(name.as_bytes()) && test(field.value))
    }
}

/// Splits a comma-separated list into its elements, without white space and without empty ones.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in pairs {
            fields.append(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    #[test]
    fn order_case_and_repeats_are_kept() {
        let fields = fields(&[("aCCept", "1"), ("B", "2"), ("Accept", "3")]);

        let names: Vec<_> = fields.iter().map(|field| field.name).collect();

        assert_eq!(names, [&b"aCCept"[..], b"B", b"Accept"]);
        assert!(fields.any("accept", &mut |value| value == b"3"));
    }

    #[test]
    fn a_list_is_extended_over_all_its_lines() {
        let mut fields =
            fields(&[("X-Forwarded-For", "a, b"), ("Via", "x"), ("x-forwarded-for", "c")]);

        fields.extend_list(Known::XForwardedFor, b"X-Forwarded-For", &[Part::Text(b"d")]);

        assert_eq!(fields.get(Known::XForwardedFor), Some(&b"a, b, c, d"[..]));
        assert_eq!(fields.len(), 2);
    }

    #[test]
    fn removal_does_not_move_the_others() {
        let mut fields = fields(&[("A", "1"), ("b", "2"), ("C", "3")]);

        fields.remove(b"B");

        let values: Vec<_> = fields.iter().map(|field| field.value).collect();
        assert_eq!(values, [b"1", b"3"]);
    }
}
