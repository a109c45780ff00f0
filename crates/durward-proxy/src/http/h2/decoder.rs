//! HPACK decoder (RFC 7541) of a client's header blocks: each field is decoded once, and its rules are judged once, however often the dynamic table repeats
//! it.

use std::collections::VecDeque;
use std::sync::LazyLock;

use crate::http::names::Known;
use crate::http2::hpack::{
    Name, OVERHEAD, STATIC, STRING, TABLE, Undecodable, integer, name_fault, value_fault,
};
use crate::http2::huffman;

/// Memory in bytes kept for the next long string.
const KEPT: usize = 4096;

/// Decoder of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    dynamic: VecDeque<Stored>,
    /// Size of the dynamic table in octets (RFC 7541 section 4.1), and the largest one that the client has chosen.
    used: usize,
    limit: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Meaning of a field, and the rules that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) name: Name,
    pub(crate) known: Known,
    name_fault: Option<&'static str>,
    /// Rule of RFC 9113 section 8 that the name or the value breaks.
    pub(crate) fault: Option<&'static str>,
}

impl Judged {
    fn name(name: &[u8]) -> Self {
        let fault = name_fault(name);
        Self { name: Name::of(name), known: Known::of(name), name_fault: fault, fault }
    }

    fn value(self, value: &[u8]) -> Self {
        Self { fault: self.name_fault.or_else(|| value_fault(self.name, value)), ..self }
    }
}

/// Entry of the dynamic table.
#[derive(Debug)]
struct Stored {
    /// Name and value.
    bytes: Box<[u8]>,
    name: usize,
    judged: Judged,
}

impl Stored {
    fn size(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }
}

/// Decoded field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decoded<'f> {
    pub(crate) name: &'f [u8],
    pub(crate) value: &'f [u8],
    pub(crate) judged: Judged,
}

impl Decoded<'_> {
    /// Returns the octets that the field counts (RFC 9113 section 6.5.2).
    pub(crate) fn size(&self) -> usize {
        self.name.len() + self.value.len() + OVERHEAD
    }
}

impl Default for Decoder {
    fn default() -> Self {
        let (dynamic, name, value) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { dynamic, used: 0, limit: TABLE, name, value }
    }
}

impl Decoder {
    /// Decodes one complete block, and passes each field to `each`.
    ///
    /// # Errors
    /// The block cannot be decoded, and no later one of the connection can be.
    pub(crate) fn read(
        &mut self,
        mut block: &[u8],
        mut each: impl FnMut(Decoded<'_>),
    ) -> Result<(), Undecodable> {
        let mut begun = false;
        while let Some(first) = block.first().copied() {
            if (0x20..0x40).contains(&first) {
                let limit = integer(&mut block, 5)?;
                // RFC 7541 section 4.2: an update behind a field, or beyond our SETTINGS_HEADER_TABLE_SIZE, is a decoding error.
                if begun || limit > TABLE {
                    return Err(Undecodable);
                }
                self.limit = limit;
                self.evict(0);
                continue;
            }
            begun = true;
            if first >= 0x80 {
                let index = integer(&mut block, 7)?;
                each(field(&self.dynamic, index)?);
                continue;
            }
            let indexed = first >= 0x40;
            self.literal(&mut block, indexed, &mut each)?;
        }
        self.trim();
        Ok(())
    }

    fn literal(
        &mut self,
        block: &mut &[u8],
        indexed: bool,
        each: &mut impl FnMut(Decoded<'_>),
    ) -> Result<(), Undecodable> {
        let index = integer(block, if indexed { 6 } else { 4 })?;
        let (name, judged) = match index {
            0 => {
                let name = text(block, &mut self.name)?;
                (name, Judged::name(name))
            }
            index => {
                let known = field(&self.dynamic, index)?;
                (known.name, known.judged)
            }
        };
        let value = text(block, &mut self.value)?;
        let decoded = Decoded { name, value, judged: judged.value(value) };
        each(decoded);
        if !indexed {
            return Ok(());
        }
        let size = decoded.size();
        let stored = (size <= self.limit).then(|| Stored {
            bytes: [name, value].concat().into_boxed_slice(),
            name: name.len(),
            judged: decoded.judged,
        });
        self.evict(size);
        if let Some(stored) = stored {
            self.used += size;
            self.dynamic.push_front(stored);
        }
        Ok(())
    }

    /// Evicts entries until `size` octets fit.
    fn evict(&mut self, size: usize) {
        while self.used + size > self.limit {
            let Some(last) = self.dynamic.pop_back() else { return };
            self.used -= last.size();
        }
    }

    /// Releases memory that a large field needed.
    fn trim(&mut self) {
        for scratch in [&mut self.name, &mut self.value] {
            if scratch.capacity() > KEPT {
                *scratch = Vec::new();
            }
        }
    }
}

/// Judgements of the static table's fields.
static KNOWN: LazyLock<[Judged; STATIC.len()]> =
    LazyLock::new(|| STATIC.map(|(name, _)| Judged::name(name)));

/// Returns a field of the static or the dynamic table.
fn field(dynamic: &VecDeque<Stored>, index: usize) -> Result<Decoded<'_>, Undecodable> {
    let at = index.checked_sub(1).ok_or(Undecodable)?;
    if let Some((name, value)) = STATIC.get(at) {
        return Ok(Decoded { name, value, judged: KNOWN[at] });
    }
    let stored = dynamic.get(at - STATIC.len()).ok_or(Undecodable)?;
    let (name, value) = stored.bytes.split_at(stored.name);
    Ok(Decoded { name, value, judged: stored.judged })
}

/// Decodes a string (RFC 7541 section 5.2): in place, or into `scratch` if it is in Huffman's code.
fn text<'b: 't, 't>(
    block: &mut &'b [u8],
    scratch: &'t mut Vec<u8>,
) -> Result<&'t [u8], Undecodable> {
    let coded = block.first().ok_or(Undecodable)? & 0x80 != 0;
    let length = integer(block, 7)?;
    if length > STRING {
        return Err(Undecodable);
    }
    let (text, rest) = block.split_at_checked(length).ok_or(Undecodable)?;
    *block = rest;
    if !coded {
        return Ok(text);
    }
    scratch.clear();
    huffman::decode(text, scratch).ok_or(Undecodable)?;
    Ok(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fields = Vec<(String, String)>;

    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Undecodable> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        decoder.read(block, |field| fields.push((text(field.name), text(field.value))))?;
        Ok(fields)
    }

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    // RFC 7541, appendix C.4: requests on one connection, in Huffman's code.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let mut decoder = Decoder::default();
        let first = [
            0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab,
            0x90, 0xf4, 0xff,
        ];
        let second = [0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf];
        let third = [
            0x82, 0x87, 0x85, 0xbf, 0x40, 0x88, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f,
            0x89, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf,
        ];

        let read = [&first[..], &second, &third]
            .map(|block| (read(&mut decoder, block).unwrap(), decoder.used));

        let get = |scheme, path, more: &[(&str, &str)]| {
            let head = [(":method", "GET"), (":scheme", scheme), (":path", path)];
            fields(&[&head[..], &[(":authority", "www.example.com")], more].concat())
        };
        let no_cache = [("cache-control", "no-cache")];
        let custom = [("custom-key", "custom-value")];
        assert_eq!(read[0], (get("http", "/", &[]), 57));
        assert_eq!(read[1], (get("http", "/", &no_cache), 110));
        assert_eq!(read[2], (get("https", "/index.html", &custom), 164));
    }

    #[test]
    fn faults_stay_with_the_entries_of_the_table() {
        let mut decoder = Decoder::default();
        let mut judged = |block: &[u8]| {
            let mut fault = None;
            decoder.read(block, |field| fault = field.judged.fault).unwrap();
            fault
        };

        let first = judged(&[&[0x44, 7][..], b"/x#frag"].concat());
        let again = judged(&[0xbe]);
        let sound = judged(&[0x7e, 2, b'/', b'y']);

        assert_eq!((first, again, sound), (Some("fragment in :path"), first, None));
    }

    #[test]
    fn a_table_is_made_smaller_in_front_of_a_block_only() {
        let entry = [&[0x40, 1, b'x', 1, b'y'][..]].concat();
        let mut decoder = Decoder::default();
        read(&mut decoder, &entry).unwrap();

        assert_eq!(read(&mut decoder, &[0xbe]), Ok(fields(&[("x", "y")])));
        assert_eq!(read(&mut decoder, &[0x20, 0x82]), Ok(fields(&[(":method", "GET")])));
        assert_eq!(read(&mut decoder, &[0xbe]), Err(Undecodable));
        assert_eq!(read(&mut Decoder::default(), &[0x82, 0x20]), Err(Undecodable));
        assert_eq!(read(&mut Decoder::default(), &[0x3f, 0xe2, 0x1f]), Err(Undecodable));
        for block in [&[0x80][..], &[0xff, 0xff], &[0xc0], &[0x40, 0x85], &[0x3f, 0xff, 0x7f]] {
            assert_eq!(read(&mut Decoder::default(), block), Err(Undecodable), "{block:x?}");
        }
    }

    #[test]
    fn memory_of_long_fields_is_not_kept() {
        let mut decoder = Decoder::default();
        let long = vec![0x1f; 100_000];
        let mut block = vec![0, 1, b'x', 0xff, 0xa1, 0x8c, 0x06];
        block.extend(&long);

        let read = read(&mut decoder, &block).unwrap();

        assert_eq!(read[0].1.len(), 100_000);
        assert_eq!(decoder.value.capacity(), 0);
    }
}
