//! Lines of a range of a file with their offsets, each of bounded length.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Take};

/// Longest line in bytes; longer ones are returned in pieces, all but the last without line feed.
const LONGEST: u64 = 1024 * 1024;
const READ_AHEAD: usize = 256 * 1024;

pub(super) struct Lines {
    file: Take<BufReader<File>>,
    left: u64,
    at: u64,
    line: Vec<u8>,
}

impl Lines {
    /// Iterates over the lines of a range of a file.
    pub(super) fn between(mut file: File, from: u64, to: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(from))?;
        let file = BufReader::with_capacity(READ_AHEAD, file).take(0);
        Ok(Self { file, left: to.saturating_sub(from), at: from, line: Vec::new() })
    }

    /// Returns the next line, with its line feed, and its offset.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        self.line.clear();
        self.file.set_limit(self.left.min(LONGEST));
        let read = self.file.read_until(b'\n', &mut self.line)? as u64;
        let at = self.at;
        self.left -= read;
        self.at += read;
        Ok((read > 0).then_some((at, &self.line[..])))
    }
}
