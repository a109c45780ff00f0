//! HPACK decoder (RFC 7541) beside that of `h2`, for faults that the crate repairs before anyone sees them.
//!
//! `h2` drops a fragment of `:path`, and pseudo-header fields of trailers on both sides, without a word; and it ends the connection for a field
//! that only makes its request malformed. The dynamic table kept here holds the lengths and faults of fields, not the fields.

mod fields;
mod rewrite;

use std::collections::VecDeque;

pub(crate) use self::fields::{CONNECTION, Name, STATIC, name_fault, value_fault};
pub(crate) use self::rewrite::integer as push_integer;
use self::rewrite::{Form, Literal, Rewrite};
use crate::http2::huffman;

/// Octets that each field counts besides its name and value (RFC 7541 §4.1).
pub(crate) const OVERHEAD: usize = 32;
/// Size of the HPACK dynamic table that a peer may use: we announce no other SETTINGS_HEADER_TABLE_SIZE.
pub(crate) const TABLE: usize = 4096;
/// Bit of a literal that is never indexed (RFC 7541 §6.2.3).
pub(crate) const NEVER: u8 = 0x10;
/// Indexes of names in the static table (RFC 7541, appendix A).
const METHOD: usize = 2;
const STATUS: usize = 8;
/// Longest string in octets that is decoded; a longer one is a fault.
pub(crate) const STRING: usize = 1024 * 1024;

/// Entry of the dynamic table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Name,
    name_length: u32,
    /// Size of name, value and overhead in octets.
    size: u32,
    /// Rule that the name breaks.
    name_fault: Option<&'static str>,
    /// Rule that the field breaks.
    fault: Option<&'static str>,
    /// True for the `:status` of an interim response (1xx).
    interim: bool,
    /// Number of the entry among those of the codec's table; `None` if the codec does not have it.
    number: Option<u64>,
}

/// Kind of a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Request,
    Response,
    Trailers,
}

/// Summary of a header block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// First rule that the block breaks.
    pub(crate) fault: Option<&'static str>,
    /// Size of the field list (RFC 9113 §6.5.2).
    pub(crate) size: usize,
    /// True for an interim response (1xx), which another head follows.
    pub(crate) interim: bool,
}

/// Error of a header block that cannot be decoded: nothing on its connection can be from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undecodable;

/// Decoder of the header blocks of one direction of a connection.
#[derive(Debug)]
pub(crate) struct Blocks {
    dynamic: VecDeque<Entry>,
    used: usize,
    limit: usize,
    /// Entries that the codec's table was given so far.
    given: u64,
    name: Vec<u8>,
    value: Vec<u8>,
    rewritten: Option<Vec<u8>>,
}

impl Default for Blocks {
    fn default() -> Self {
        let (dynamic, name, value) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { dynamic, used: 0, limit: TABLE, given: 0, name, value, rewritten: None }
    }
}

impl Blocks {
    /// Decodes one complete block.
    pub(crate) fn read(&mut self, whole: &[u8], section: Section) -> Result<Summary, Undecodable> {
        let mut check = Check { order: Order::new(section), summary: Summary::default() };
        let (mut block, mut rewrite) = (whole, Rewrite::of(whole));
        while let Some(first) = block.first().copied() {
            let before = block.len();
            match first {
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    check.field(self.entry(index)?);
                    rewrite.reference(before, block, index, self.codec_index(index));
                }
                0x40..=0x7f => {
                    let literal = self.literal(&mut block, Form::Indexed)?;
                    check.field(literal.entry);
                    let is_given = rewrite.literal(&literal, before, block);
                    self.insert(literal.entry, is_given);
                }
                0x20..=0x3f => {
                    let limit = integer(&mut block, 5)?;
                    // RFC 7541 §4.2: an update behind a field, or beyond our SETTINGS_HEADER_TABLE_SIZE, is a decoding error.
                    if check.has_begun() || limit > TABLE {
                        return Err(Undecodable);
                    }
                    self.limit = limit;
                    self.evict(0);
                }
                _ => {
                    let form = if first & NEVER == 0 { Form::Plain } else { Form::Never };
                    let literal = self.literal(&mut block, form)?;
                    rewrite.literal(&literal, before, block);
                    check.field(literal.entry);
                }
            }
        }
        self.rewritten = rewrite.end();
        Ok(check.summary())
    }

    /// Takes the block that the codec gets instead of the one read last; `None` if that is fit for it.
    pub(crate) fn take_rewritten(&mut self) -> Option<Vec<u8>> {
        self.rewritten.take()
    }

    /// Releases memory that a large field needed.
    pub(crate) fn trim(&mut self, kept: usize) {
        for scratch in [&mut self.name, &mut self.value] {
            scratch.clear();
            scratch.shrink_to(kept);
        }
    }

    fn entry(&self, index: usize) -> Result<Entry, Undecodable> {
        match index.checked_sub(1).ok_or(Undecodable)? {
            at if at < STATIC.len() => {
                let (name, value) = STATIC[at];
                Ok(Entry {
                    name: if at < 14 { Name::of(name) } else { Name::Regular },
                    name_length: name.len() as u32,
                    size: (name.len() + value.len() + OVERHEAD) as u32,
                    // `transfer-encoding` is the one static name that HTTP/2 forbids.
                    name_fault: (name == b"transfer-encoding").then_some(CONNECTION),
                    fault: (name == b"transfer-encoding").then_some(CONNECTION),
                    interim: false,
                    number: None,
                })
            }
            at => self.dynamic.get(at - STATIC.len()).copied().ok_or(Undecodable),
        }
    }

    /// Returns the index under which the codec has the field, or at least its name; `None` if it has neither.
    fn codec_index(&self, index: usize) -> Option<usize> {
        let Some(at) = index.checked_sub(STATIC.len() + 1) else { return Some(index) };
        let number = self.dynamic.get(at)?.number?;
        // The codec has every entry that is left here and was given to it: it evicts no earlier, as it has fewer.
        Some(STATIC.len() + 1 + (self.given - number) as usize)
    }

    fn literal(&mut self, block: &mut &[u8], form: Form) -> Result<Literal, Undecodable> {
        let before = block.len();
        let index = integer(block, form.prefix())?;
        let (name, name_length, name_fault, codec_index) = if index == 0 {
            string(block, &mut self.name)?;
            let name = self.name.as_slice();
            let fits = rewrite::name_fits(name);
            (Name::of(name), name.len(), name_fault(name), fits.then_some(0))
        } else {
            let entry = self.entry(index)?;
            // The codec was not given an entry with a malformed name, or with a value for which nothing can stand.
            let codec_index = self.codec_index(index).or(match entry.name {
                Name::Method => Some(METHOD),
                Name::Status => Some(STATUS),
                _ => None,
            });
            (entry.name, entry.name_length as usize, entry.name_fault, codec_index)
        };
        let value_at = before - block.len();
        string(block, &mut self.value)?;
        let value = self.value.as_slice();
        let entry = Entry {
            name,
            name_length: name_length as u32,
            size: (name_length + value.len() + OVERHEAD) as u32,
            name_fault,
            fault: name_fault.or_else(|| value_fault(name, value)),
            interim: name == Name::Status && value.first() == Some(&b'1'),
            number: None,
        };
        let fits = rewrite::fitness(name, codec_index.is_some(), value);
        let codec_index = codec_index.unwrap_or(index);
        Ok(Literal { entry, form, index, codec_index, value_at, value: value.len(), fits })
    }

    fn insert(&mut self, mut entry: Entry, is_given: bool) {
        let size = entry.size as usize;
        self.evict(size);
        if size <= self.limit {
            self.used += size;
            if is_given {
                self.given += 1;
                entry.number = Some(self.given);
            }
            self.dynamic.push_front(entry);
        }
    }

    /// Evicts entries until `size` octets fit.
    fn evict(&mut self, size: usize) {
        while self.used + size > self.limit {
            let Some(last) = self.dynamic.pop_back() else { return };
            self.used -= last.size as usize;
        }
    }
}

/// Returns the value of `:authority` in the first header block of a connection; `None` without one.
pub(crate) fn authority(mut block: &[u8]) -> Result<Option<Vec<u8>>, Undecodable> {
    let mut blocks = Blocks::default();
    while let Some(first) = block.first().copied() {
        match first {
            // An entry of the static table, or of a field that came before and is no authority.
            0x80.. => drop(integer(&mut block, 7)?),
            0x20..=0x3f => {
                blocks.limit = integer(&mut block, 5)?.min(TABLE);
                blocks.evict(0);
            }
            _ => {
                let form = if first >= 0x40 { Form::Indexed } else { Form::Plain };
                let literal = blocks.literal(&mut block, form)?;
                if literal.entry.name == Name::Authority {
                    return Ok(Some(blocks.value));
                }
                if form == Form::Indexed {
                    blocks.insert(literal.entry, true);
                }
            }
        }
    }
    Ok(None)
}

/// Rules for the order of a block's fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    section: Section,
    /// Bit set of the pseudo-header fields seen.
    seen: u8,
    regular: bool,
}

impl Order {
    pub(crate) fn new(section: Section) -> Self {
        Self { section, seen: 0, regular: false }
    }

    /// Adds the next field; returns the rule that its place breaks.
    pub(crate) fn add(&mut self, name: Name) -> Option<&'static str> {
        if name == Name::Regular {
            self.regular = true;
            return None;
        }
        let repeated = self.has(name);
        self.seen |= 1 << name as u8;
        match (self.section, name) {
            (Section::Trailers, _) => Some("pseudo-header field in trailers"),
            (Section::Request, Name::Unknown | Name::Status) => {
                Some("pseudo-header field that requests do not have")
            }
            (Section::Response, name) if name != Name::Status => {
                Some("pseudo-header field that responses do not have")
            }
            _ if self.regular => Some("pseudo-header field after others"),
            _ if repeated => Some("repeated pseudo-header field"),
            _ => None,
        }
    }

    /// Returns true if the block has this pseudo-header field.
    pub(crate) fn has(&self, name: Name) -> bool {
        self.seen & (1 << name as u8) != 0
    }
}

/// Validation of one block's fields, in their order.
struct Check {
    order: Order,
    summary: Summary,
}

impl Check {
    fn field(&mut self, entry: Entry) {
        self.summary.size += entry.size as usize;
        self.summary.interim |= entry.interim;
        let fault = self.order.add(entry.name).or(entry.fault);
        self.summary.fault = self.summary.fault.or(fault);
    }

    /// Returns true if the block has a field already.
    fn has_begun(&self) -> bool {
        self.summary.size > 0
    }

    fn summary(mut self) -> Summary {
        if self.order.section == Section::Response && !self.order.has(Name::Status) {
            self.summary.fault = self.summary.fault.or(Some("response without :status"));
        }
        self.summary
    }
}

/// Decodes an integer with a prefix of `prefix` bits (RFC 7541 §5.1).
pub(crate) fn integer(block: &mut &[u8], prefix: u8) -> Result<usize, Undecodable> {
    let (first, mut rest) = block.split_first().ok_or(Undecodable)?;
    let most = (1usize << prefix) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first().ok_or(Undecodable)?;
            rest = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return Err(Undecodable);
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// Decodes a string, plain or Huffman-coded (RFC 7541 §5.2).
fn string(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Undecodable> {
    let coded = block.first().ok_or(Undecodable)? & 0x80 != 0;
    let length = integer(block, 7)?;
    if length > STRING {
        return Err(Undecodable);
    }
    let (text, rest) = block.split_at_checked(length).ok_or(Undecodable)?;
    *block = rest;
    out.clear();
    if coded {
        return huffman::decode(text, out).ok_or(Undecodable);
    }
    out.extend_from_slice(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use durward_testkit::client::h2_frames::header_block;

    use super::*;

    fn read(fields: &[(&str, &str)], section: Section) -> Option<&'static str> {
        Blocks::default().read(&header_block(fields), section).unwrap().fault
    }

    // RFC 7541, appendix C.4: requests on one connection, in Huffman's code.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let blocks: [&[u8]; 3] = [
            &[
                0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab,
                0x90, 0xf4, 0xff,
            ],
            &[0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf],
            &[
                0x82, 0x87, 0x85, 0xbf, 0x40, 0x88, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f,
                0x89, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf,
            ],
        ];
        let mut reader = Blocks::default();

        let read = blocks.map(|block| {
            let summary = reader.read(block, Section::Request).unwrap();
            (summary.fault, reader.dynamic.len(), reader.used)
        });

        assert_eq!(read, [(None, 1, 57), (None, 2, 110), (None, 3, 164)]);
    }

    #[test]
    fn what_h2_mends_is_a_fault() {
        let cases: [(&[(&str, &str)], &str); 9] = [
            (&[(":path", "/x#frag")], "fragment in :path"),
            (&[(":path", "?a=b")], ":path does not begin with a slash"),
            (&[(":path", "")], "empty :path"),
            (&[(":scheme", "")], "empty :scheme"),
            (&[("a", "b"), (":path", "/")], "pseudo-header field after others"),
            (&[(":path", "/"), (":path", "/")], "repeated pseudo-header field"),
            (&[("a\"b", "c")], "field name is not a token"),
            (&[("aB", "c")], "upper case in field name"),
            (&[("keep-alive", "5")], "field of one connection"),
        ];

        for (fields, detail) in cases {
            assert_eq!(read(fields, Section::Request), Some(detail), "{fields:?}");
        }
        for name in [":path", ":method", ":status", ":scheme", ":authority", ":x"] {
            let fault = read(&[("x", "y"), (name, "/")], Section::Trailers);
            assert_eq!(fault, Some("pseudo-header field in trailers"), "{name}");
        }
        assert_eq!(read(&[("x", "y"), ("te", "trailers")], Section::Trailers), None);
    }

    #[test]
    fn a_response_has_a_status_and_no_other_pseudo_field() {
        type Fields<'f> = &'f [(&'f str, &'f str)];
        let cases: [(Fields<'_>, Option<&str>); 6] = [
            (&[(":status", "200"), ("x", "y")], None),
            (&[("x", "y")], Some("response without :status")),
            (
                &[(":status", "200"), (":path", "/")],
                Some("pseudo-header field that responses do not have"),
            ),
            (
                &[(":status", "200"), (":x", "/")],
                Some("pseudo-header field that responses do not have"),
            ),
            (&[("x", "y"), (":status", "200")], Some("pseudo-header field after others")),
            (&[(":status", "200"), (":status", "200")], Some("repeated pseudo-header field")),
        ];

        for (fields, detail) in cases {
            assert_eq!(read(fields, Section::Response), detail, "{fields:?}");
        }
        for (status, interim) in [("103", true), ("200", false), ("418", false)] {
            let block = header_block(&[(":status", status)]);
            let read = Blocks::default().read(&block, Section::Response).unwrap();
            assert_eq!(read.interim, interim, "{status}");
        }
    }

    #[test]
    fn a_fault_in_the_dynamic_table_is_found_again() {
        let mut reader = Blocks::default();
        let indexed = [&[0x44, 7][..], b"/x#frag"].concat();
        let first = reader.read(&indexed, Section::Request).unwrap();

        let again = reader.read(&[0xbe], Section::Request).unwrap();

        assert_eq!((first.fault, again.fault), (Some("fragment in :path"), first.fault));
        assert_eq!(again.size, 5 + 7 + 32);
    }

    #[test]
    fn a_block_that_cannot_be_decoded_says_so() {
        for block in [&[0x80][..], &[0xff, 0xff], &[0xc0], &[0x40, 0x85], &[0x3f, 0xff, 0x7f]] {
            let read = Blocks::default().read(block, Section::Request);
            assert_eq!(read, Err(Undecodable), "{block:x?}");
        }
    }
}
