//! One record in the index: address, request, time, offset.
//!
//! The record itself is read from the file, so the index cannot misreport it.

use crate::json_line::scan;

/// Index entry. The order is that of a segment: by address, then by request, then by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::audit) struct Entry {
    /// Hash of the egress address and port.
    pub(in crate::audit) key: u64,
    /// Hash of the id that both records of a request have.
    pub(in crate::audit) id: u64,
    /// Time of the record in microseconds since 1970.
    pub(in crate::audit) at: i64,
    /// Offset of the line, shifted left by one; the lowest bit is 1 for the last record of its request.
    place: u64,
}

/// Bytes of an entry on disk.
pub(in crate::audit) const SIZE: usize = 32;

impl Entry {
    /// Parses the line at `place`; `None` if it is no decision, or nothing was dialled.
    pub(in crate::audit) fn of(line: &[u8], place: u64) -> Option<Self> {
        let close = match scan::text(line, b",\"kind\":\"")? {
            b"egress-open" | b"api-open" => 0,
            b"egress-close" | b"api-close" => 1,
            _ => return None,
        };
        let key = key_of(scan::text(line, b",\"egress\":\"")?);
        let id = key_of(scan::text(line, b",\"id\":\"")?);
        Some(Self { key, id, at: scan::time(line)?, place: place << 1 | close })
    }

    /// Returns the offset of the line.
    pub(in crate::audit) fn place(&self) -> u64 {
        self.place >> 1
    }

    /// Returns true for the last record of its request.
    pub(in crate::audit) fn is_close(&self) -> bool {
        self.place & 1 == 1
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for part in [self.key, self.id, self.at.cast_unsigned(), self.place] {
            out.extend(part.to_le_bytes());
        }
    }

    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut parts = bytes.chunks_exact(8).map(word);
        let mut next = || parts.next().unwrap_or(0);
        Self { key: next(), id: next(), at: next().cast_signed(), place: next() }
    }
}

/// Decodes eight bytes, little-endian.
pub(super) fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Hashes by 64-bit FNV-1a: stable in every version, because it is on disk. Collisions are harmless: records are compared once they are read.
pub(in crate::audit) fn key_of(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
