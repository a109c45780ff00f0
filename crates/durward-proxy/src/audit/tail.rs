//! Finds the last whole record of an audit file, reading from its end.
//!
//! Deliberately absent: any change to the file; and reading more of it than needed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::chain::{self, Link};

/// How far from the end a record is looked for.
const FARTHEST: u64 = 16 * 1024 * 1024;
const NEAREST: u64 = 64 * 1024;

/// Where an audit file can be continued.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// The last whole record.
    pub(super) link: Link,
    /// Where it ends, its line feed included if it has one.
    pub(super) end: u64,
    /// Whether it has one.
    pub(super) line_feed: bool,
}

/// Looks at the first `size` bytes. `None` when there is no record near the end.
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

/// The last record within `bytes`, which begin at `from`.
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
