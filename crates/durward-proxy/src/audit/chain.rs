//! Format of the hash chain: each record carries its own hash and that of the record before. Pure: no file, no clock.
//!
//! The bytes: a record is one line of JSON that ends `,"seq":N,"prev":"P","hash":"H"}`. `H` is the SHA-256, in lower-case hexadecimal, of
//! the line's bytes before `,"hash":`; `P` is the `H` of the record before, which has number `N - 1`. Before the first record, `N` is 0
//! and `H` is 64 zeros.

use std::fmt;
use std::io::Write;

use aws_lc_rs::digest::{SHA256, digest};

/// SHA-256 hash.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

/// Position of a record in the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Sequence number; the first is 1.
    pub sequence: u64,
    /// Hash of the record.
    pub hash: Hash,
}

/// Parsed record whose hash matches its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position in the chain.
    pub link: Link,
    /// Hash of the record before.
    pub previous: Hash,
}

/// Length of `,"hash":"` + 64 + `"}`.
const TAIL: usize = 75;
/// Length of `,"prev":"` + 64 + `"`.
const PREVIOUS: usize = 74;

impl Hash {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = Self::default();
        hash.0.copy_from_slice(digest(&SHA256, bytes).as_ref());
        hash
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut hash = Self::default();
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in hash.0.iter_mut().zip(text.chunks(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(hash)
    }
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_mut(2).zip(self.0) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Appends `record`, one line of JSON that ends in `}` and perhaps a line feed, to `out` as the successor of `before`.
pub fn seal(out: &mut Vec<u8>, record: &[u8], before: &Link) -> Link {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let begin = out.len();
    let sequence = before.sequence + 1;
    out.extend(record.strip_suffix(b"}").unwrap_or(record));
    let _infallible = write!(out, ",\"seq\":{sequence},\"prev\":\"{}\"", before.hash);
    let hash = Hash::of(&out[begin..]);
    let _infallible = writeln!(out, ",\"hash\":\"{hash}\"}}");
    Link { sequence, hash }
}

/// Parses a line, with or without its line feed. `None` if the line is no record, or its hash does not match.
#[must_use]
pub fn read(line: &[u8]) -> Option<Record> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let (hashed, tail) = line.split_at_checked(line.len().checked_sub(TAIL)?)?;
    let hash = Hash::parse(tail.strip_prefix(b",\"hash\":\"")?.strip_suffix(b"\"}")?)?;
    let (rest, previous) = hashed.split_at_checked(hashed.len().checked_sub(PREVIOUS)?)?;
    let previous = Hash::parse(previous.strip_prefix(b",\"prev\":\"")?.strip_suffix(b"\"")?)?;
    let digits = rest.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (rest, number) = rest.split_at(rest.len() - digits);
    let sequence = std::str::from_utf8(number).ok()?.parse().ok()?;
    let whole = rest.ends_with(b",\"seq\":") && line.starts_with(b"{") && Hash::of(hashed) == hash;
    whole.then_some(Record { link: Link { sequence, hash }, previous })
}

#[cfg(test)]
mod tests {
    use super::*;

    // S2.49+
    #[test]
    fn a_record_is_bound_to_the_one_before_it_byte_by_byte() {
        let mut out = Vec::new();
        let first = seal(&mut out, b"{\"ts\":\"a\"}\n", &Link::default());
        let length = out.len();
        let second = seal(&mut out, b"{\"ts\":\"b\",\"seq\":7}\n", &first);

        let record = read(&out[length..]).unwrap();

        let zeros = "0".repeat(64);
        let hashed = format!("{{\"ts\":\"a\",\"seq\":1,\"prev\":\"{zeros}\"");
        assert_eq!(first.hash, Hash::of(hashed.as_bytes()));
        assert_eq!(
            std::str::from_utf8(&out[..length]).unwrap(),
            format!("{hashed},\"hash\":\"{}\"}}\n", first.hash)
        );
        assert_eq!((record.link, record.previous), (second, first.hash));
        for at in length..out.len() - 1 {
            let mut changed = out[length..].to_vec();
            changed[at - length] ^= 1;
            assert_eq!(read(&changed), None, "byte {at}");
        }
        for junk in [&b""[..], b"{}", b"\n", &out[length + 1..], &out[length..out.len() - 3]] {
            assert_eq!(read(junk), None);
        }
    }
}
