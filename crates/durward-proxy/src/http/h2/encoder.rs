//! HPACK encoder (RFC 7541) of the responses to one client.
//!
//! A field enters the dynamic table when it is sent for the second time within a few responses: what differs from response to response never displaces
//! what repeats. Fields that name a client's secret never enter it.

use std::collections::VecDeque;

use crate::http::names::Known;
use crate::http2::hpack::{NEVER, OVERHEAD, STATIC, TABLE, push_integer};
use crate::http2::huffman;
use crate::syntax::{is_token, is_value};

/// Hashes of fields remembered that were sent and are not in the table.
const SEEN: usize = 32;
/// Largest field in octets that enters the table.
const LARGEST: usize = TABLE / 8;
/// Index of `:status` in the static table, of whatever value.
const STATUS: usize = 8;

/// Encoder of one connection.
#[derive(Debug)]
pub(crate) struct Encoder {
    table: VecDeque<Entry>,
    used: usize,
    limit: usize,
    /// Smallest and present table size that the client has asked for since the last block.
    resized: Option<(usize, usize)>,
    seen: [u32; SEEN],
    next: usize,
    /// Name in lower case.
    name: Vec<u8>,
}

/// Entry of the dynamic table.
#[derive(Debug)]
struct Entry {
    hash: u32,
    name: usize,
    bytes: Box<[u8]>,
}

impl Entry {
    fn is(&self, name: &[u8], value: &[u8]) -> bool {
        let (known, content) = self.bytes.split_at(self.name);
        known == name && content == value
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            used: 0,
            limit: TABLE,
            resized: None,
            seen: [0; SEEN],
            next: 0,
            name: Vec::new(),
        }
    }
}

impl Encoder {
    /// Takes the client's SETTINGS_HEADER_TABLE_SIZE.
    pub(crate) fn resize(&mut self, limit: usize) {
        let limit = limit.min(TABLE);
        if limit == self.limit && self.resized.is_none() {
            return;
        }
        let least = self.resized.map_or(limit, |(least, _)| least.min(limit));
        self.resized = Some((least, limit));
        self.limit = limit;
        self.evict(0);
    }

    /// Begins a block: tells the client of a table size that it has asked for (RFC 7541 section 4.2).
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        let Some((least, limit)) = self.resized.take() else { return };
        if least < limit {
            push_integer(out, (0x20, 5), least);
        }
        push_integer(out, (0x20, 5), limit);
    }

    /// Encodes `:status`.
    pub(crate) fn status(&mut self, status: u16, out: &mut Vec<u8>) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digits = [status / 100, status / 10 % 10, status % 10];
                let value = digits.map(|digit| b'0' + (digit % 10) as u8);
                return self.lower(b":status", &value, Some(STATUS), false, out);
            }
        };
        out.push(0x80 | index);
    }

    /// Encodes a field. One that HTTP/2 cannot represent is left out.
    pub(crate) fn field(&mut self, known: Known, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let secret = matches!(
            known,
            Known::SetCookie
                | Known::Cookie
                | Known::Authorization
                | Known::ProxyAuthorization
                | Known::WwwAuthenticate
        );
        if !name.iter().any(u8::is_ascii_uppercase) {
            return self.lower(name, value, None, secret, out);
        }
        let mut lower = std::mem::take(&mut self.name);
        lower.clear();
        lower.extend(name.iter().map(u8::to_ascii_lowercase));
        self.lower(&lower, value, None, secret, out);
        self.name = lower;
    }

    /// Encodes a field whose name is in lower case, and has this index in the static table.
    fn lower(
        &mut self,
        name: &[u8],
        value: &[u8],
        index: Option<usize>,
        secret: bool,
        out: &mut Vec<u8>,
    ) {
        let size = name.len() + value.len() + OVERHEAD;
        let hash = hash(name, value);
        let repeats = !secret && size <= LARGEST.min(self.limit);
        if repeats
            && let Some(at) =
                self.table.iter().position(|entry| entry.hash == hash && entry.is(name, value))
        {
            return push_integer(out, (0x80, 7), STATIC.len() + 1 + at);
        }
        if index.is_none() && !(is_token(name) && is_value(value)) {
            return;
        }
        let indexed = repeats && self.was_seen(hash);
        let form = match (indexed, secret) {
            (true, _) => (0x40, 6),
            (false, true) => (NEVER, 4),
            (false, false) => (0, 4),
        };
        match index.or_else(|| static_name(name)) {
            Some(index) => push_integer(out, form, index),
            None => {
                out.push(form.0);
                string(out, name);
            }
        }
        string(out, value);
        if indexed {
            self.evict(size);
            self.used += size;
            let bytes = [name, value].concat().into_boxed_slice();
            self.table.push_front(Entry { hash, name: name.len(), bytes });
        }
    }

    /// Returns true if a field with this hash was sent lately, and remembers it otherwise.
    fn was_seen(&mut self, hash: u32) -> bool {
        if self.seen.contains(&hash) {
            return true;
        }
        self.seen[self.next] = hash;
        self.next = (self.next + 1) % SEEN;
        false
    }

    /// Evicts entries until `size` octets fit.
    fn evict(&mut self, size: usize) {
        while self.used + size > self.limit {
            let Some(last) = self.table.pop_back() else { return };
            self.used -= last.bytes.len() + OVERHEAD;
        }
    }
}

/// Returns a hash that tells fields apart, never 0. Fields with equal hashes are compared.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    let mut sum = (name.len() << 32 | value.len()) as u64;
    let mut mix = |word: u64| sum = (sum.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    for text in [name, value] {
        let (words, rest) = text.as_chunks();
        words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        mix(u64::from_le_bytes(last));
    }
    (sum >> 32) as u32 | 1
}

/// Returns the index of a response field's name in the static table.
fn static_name(name: &[u8]) -> Option<usize> {
    // Pseudo-header fields, and fields of requests only, come first.
    const FIRST: usize = 17;
    STATIC[FIRST..].iter().position(|(known, _)| *known == name).map(|at| FIRST + 1 + at)
}

/// Encodes a string, in Huffman's code where that is shorter (RFC 7541 section 5.2).
fn string(out: &mut Vec<u8>, text: &[u8]) {
    let coded = huffman::encoded_length(text);
    if coded < text.len() {
        push_integer(out, (0x80, 7), coded);
        return huffman::encode(text, out);
    }
    push_integer(out, (0, 7), text.len());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::http::h2::decoder::Decoder;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Fields {
        let mut fields = Vec::new();
        decoder
            .read(block, |field| fields.push((field.name.to_vec(), field.value.to_vec())))
            .unwrap();
        fields
    }

    fn encode(encoder: &mut Encoder, status: u16, fields: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.status(status, &mut out);
        for (name, value) in fields {
            encoder.field(Known::of(name), name, value, &mut out);
        }
        out
    }

    #[test]
    fn what_repeats_takes_a_byte_and_a_secret_never_enters_the_table() {
        let mut encoder = Encoder::default();
        let fields: [(&[u8], &[u8]); 3] =
            [(b"Server", b"nginx"), (b"content-type", b"text/plain"), (b"Set-Cookie", b"a=secret")];

        let blocks: Vec<_> = (0..4).map(|_| encode(&mut encoder, 200, &fields)).collect();

        let cookie = blocks[3].len() - 3;
        assert!(blocks[1].len() > 20 && cookie < 12, "{blocks:x?}");
        assert_eq!(blocks[3][..3], [0x88, 0x80 | 63, 0x80 | 62]);
        assert_eq!((blocks[3][3], encoder.table.len()), (NEVER | 15, 2));
    }

    #[test]
    fn fields_that_http2_cannot_represent_are_left_out() {
        let mut encoder = Encoder::default();

        let block = encode(&mut encoder, 299, &[(b"a b", b"c"), (b"x", b"a\nb"), (b"", b"x")]);

        let status = (b":status".to_vec(), b"299".to_vec());
        assert_eq!(decode(&mut Decoder::default(), &block), [status]);
    }

    #[test]
    fn a_smaller_table_is_announced_and_kept_to() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let field: [(&[u8], &[u8]); 1] = [(b"server", b"nginx")];
        for _ in 0..3 {
            decode(&mut decoder, &encode(&mut encoder, 200, &field));
        }
        assert_eq!(encoder.table.len(), 1);

        encoder.resize(0);
        encoder.resize(100_000);
        let block = encode(&mut encoder, 200, &field);

        assert_eq!(block[..5], [0x20, 0x3f, 0xe1, 0x1f, 0x88]);
        assert_eq!(decode(&mut decoder, &block).len(), 2);
        encoder.resize(10);
        assert_eq!(encode(&mut encoder, 200, &field)[..2], [0x2a, 0x88]);
        assert_eq!(encoder.table.len(), 0);
    }

    fn field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let name = prop_oneof![
            prop::sample::select(vec!["server", "date", "etag", "set-cookie", "x-a", "vary"])
                .prop_map(|name| name.as_bytes().to_vec()),
            "[a-z-]{1,30}".prop_map(String::into_bytes),
        ];
        let value = prop_oneof![
            3 => prop::sample::select(vec!["", "a", "gzip", "Tue, 01 Dec 2026 09:00:00 GMT"])
                .prop_map(|value| value.as_bytes().to_vec()),
            1 => "[ -~]{0,300}".prop_map(String::into_bytes),
            1 => vec(0x80u8.., 0..40),
        ];
        (name, value)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_again(
            blocks in vec((100u16..600, vec(field(), 0..12), prop::option::weighted(0.1, 0usize..5000)), 1..30),
        ) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for (status, fields, limit) in blocks {
                limit.into_iter().for_each(|limit| encoder.resize(limit));
                let given: Vec<_> =
                    fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
                let block = encode(&mut encoder, status, &given);
                let mut all = vec![(b":status".to_vec(), status.to_string().into_bytes())];
                all.extend(fields);
                prop_assert_eq!(decode(&mut decoder, &block), all);
            }
        }
    }
}
