//! A sorted part of an index on disk: a head block, then blocks of entries, each with its own check sum.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Part;
use super::entry::{Entry, SIZE, word};
use crate::audit::chain::Hash;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
const WHOLE: usize = 4096;
/// Bytes of a block without its check sum.
const CONTENT: usize = WHOLE - 8;
const PER_BLOCK: u64 = (CONTENT / SIZE) as u64;
const MAGIC: &[u8; 8] = b"DURWARD1";

/// Sorted part of an index.
pub(in crate::audit) struct Segment {
    index: File,
    /// Block number of the segment's head.
    head: u64,
    entries: u64,
    from: u64,
    /// End of the range that the segment covers.
    pub(super) to: u64,
    last_line: Hash,
    last_length: u64,
}

impl Segment {
    /// Loads the segment whose head is block `head`; `None` if there is none, or it is incomplete.
    pub(super) fn load(index: &File, head: u64) -> io::Result<Option<Self>> {
        let length = index.metadata()?.len();
        if (head + 1) * BLOCK > length {
            return Ok(None);
        }
        let Ok(block) = read(index, head) else { return Ok(None) };
        if &block[..8] != MAGIC {
            return Ok(None);
        }
        let mut last_line = Hash::default();
        last_line.0.copy_from_slice(&block[40..72]);
        let segment = Self {
            index: index.try_clone()?,
            head,
            from: word(&block[8..16]),
            to: word(&block[16..24]),
            entries: word(&block[24..32]),
            last_length: word(&block[32..40]),
            last_line,
        };
        let whole = segment.entries < u64::from(u32::MAX) && segment.end() * BLOCK <= length;
        Ok(whole.then_some(segment))
    }

    /// Writes a segment from sorted entries.
    pub(super) fn store(
        index: &File,
        head: u64,
        entries: &[Entry],
        part: &Part,
    ) -> io::Result<Self> {
        let count = entries.len() as u64;
        let mut block = MAGIC.to_vec();
        for number in [part.from, part.to, count, part.last_length] {
            block.extend(number.to_le_bytes());
        }
        block.extend(part.last_line.0);
        let mut out = Vec::with_capacity(1 << 20);
        finish(&mut out, block, head);
        let mut begun = head;
        for (number, chunk) in (head + 1..).zip(entries.chunks(PER_BLOCK as usize)) {
            let mut block = Vec::with_capacity(WHOLE);
            chunk.iter().for_each(|entry| entry.write(&mut block));
            finish(&mut out, block, number);
            if out.len() >= 1 << 20 {
                index.write_all_at(&out, begun * BLOCK)?;
                begun = number + 1;
                out.clear();
            }
        }
        index.write_all_at(&out, begun * BLOCK)?;
        let Part { from, to, last_line, last_length } = *part;
        Ok(Self {
            index: index.try_clone()?,
            head,
            entries: count,
            from,
            to,
            last_line,
            last_length,
        })
    }

    /// Returns the number of the first block after the segment.
    pub(super) fn end(&self) -> u64 {
        self.head + 1 + self.entries.div_ceil(PER_BLOCK)
    }

    /// Returns true if the segment covers the range after `covered` in this very file.
    pub(super) fn continues(&self, covered: u64, size: u64, file: &File) -> io::Result<bool> {
        let fits = self.from == covered
            && self.from < self.to
            && self.to <= size
            && self.last_length <= self.to - self.from;
        if !fits {
            return Ok(false);
        }
        let mut line = vec![0; usize::try_from(self.last_length).unwrap_or(0)];
        file.read_exact_at(&mut line, self.to - self.last_length)?;
        Ok(Hash::of(&line) == self.last_line)
    }

    /// Finds the entries of `key`.
    pub(in crate::audit) fn find(&self, key: u64) -> io::Result<Cursor<'_>> {
        let mut cursor = Cursor { segment: self, key, next: 0, block: Vec::new(), number: 0 };
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            if cursor.entry(middle)?.key < key { low = middle + 1 } else { high = middle }
        }
        cursor.next = low;
        Ok(cursor)
    }
}

/// Cursor over the entries of one key.
pub(in crate::audit) struct Cursor<'a> {
    segment: &'a Segment,
    key: u64,
    next: u64,
    block: Vec<u8>,
    number: u64,
}

impl Cursor<'_> {
    /// Returns the next entry.
    pub(in crate::audit) fn advance(&mut self) -> io::Result<Option<Entry>> {
        if self.next >= self.segment.entries {
            return Ok(None);
        }
        let entry = self.entry(self.next)?;
        self.next += 1;
        Ok((entry.key == self.key).then_some(entry))
    }

    fn entry(&mut self, at: u64) -> io::Result<Entry> {
        let number = self.segment.head + 1 + at / PER_BLOCK;
        if self.number != number {
            self.block = read(&self.segment.index, number)?;
            self.number = number;
        }
        let begin = (at % PER_BLOCK) as usize * SIZE;
        Ok(Entry::read(&self.block[begin..begin + SIZE]))
    }
}

fn finish(out: &mut Vec<u8>, mut block: Vec<u8>, number: u64) {
    block.resize(CONTENT, 0);
    let sum = check_sum(&block, number);
    out.extend(block);
    out.extend(sum.to_le_bytes());
}

/// Reads a block and verifies its check sum.
fn read(index: &File, number: u64) -> io::Result<Vec<u8>> {
    let mut block = vec![0; WHOLE];
    index.read_exact_at(&mut block, number * BLOCK)?;
    if word(&block[CONTENT..]) != check_sum(&block[..CONTENT], number) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the index is damaged"));
    }
    Ok(block)
}

/// Computes a fast check sum: against accidents only, not against tampering.
fn check_sum(content: &[u8], number: u64) -> u64 {
    content.chunks_exact(8).fold(number ^ 0x9e37_79b9_7f4a_7c15, |sum, bytes| {
        (sum.rotate_left(29) ^ word(bytes)).wrapping_mul(0xff51_afd7_ed55_8ccd)
    })
}
