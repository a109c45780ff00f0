//! Finds the last whole record of an audit file, reading backwards from its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::chain::{self, Link};

/// Bytes before the end in which a record is looked for.
const FARTHEST: u64 = 16 * 1024 * 1024;
const NEAREST: u64 = 64 * 1024;

/// Point at which an audit file can be continued.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// Last whole record.
    pub(super) link: Link,
    /// Offset of its end, its line feed included if there is one.
    pub(super) end: u64,
    /// True if the record has a line feed.
    pub(super) line_feed: bool,
}

/// Searches the first `size` bytes. `None` if there is no record near the end.
pub(super) fn read(file: &File, size: u64) -> io::Result<Option<Tail>> {
    let mut reach = NEAREST;
    loop {
        let from = size.saturating_sub(reach);
        let mut bytes = vec![0; usize::try_from(size - from).unwrap_or(0)];
        file.read_exact_at(&mut bytes, from)?;
        if let Some(tail) = last(&bytes, from) {
            return Ok(Some(tail));
        }
        if from == 0 || reach >= FARTHEST {
            return Ok(None);
        }
        reach *= 4;
    }
}

/// Returns the last record within `bytes`, which begin at offset `from`.
fn last(bytes: &[u8], from: u64) -> Option<Tail> {
    let mut end = bytes.len();
    while end > 0 {
        let begin = memchr::memrchr(b'\n', &bytes[..end - 1]).map_or(0, |at| at + 1);
        let line = &bytes[begin..end];
        if let Some(record) = chain::read(line) {
            let line_feed = line.ends_with(b"\n");
            return Some(Tail { link: record.link, end: from + end as u64, line_feed });
        }
        end = begin;
    }
    None
}
