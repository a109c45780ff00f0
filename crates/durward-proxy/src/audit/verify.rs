//! Verifies that audit files are as they were written: every record's hash its own, each bound to the one before, none missing.
//!
//! Records that a crash has torn are no fault if the file notes them. Nothing is repaired. A cut-off end is not detected, because no chain can show
//! it: compare the last hash with one that was kept elsewhere.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use thiserror::Error;

use super::chain::{self, Hash, Link, Record};
use super::lines::Lines;
use crate::json_line::scan;
use crate::regular;

/// Summary of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Path of the file.
    pub path: PathBuf,
    /// Number of records.
    pub records: u64,
    /// First record, and the last intact one.
    pub ends: Option<(Link, Link)>,
    /// Torn places that the file notes.
    pub torn: u64,
    /// Lost records that the file notes.
    pub lost: u64,
}

/// Summary of all files, in the order of the chain, up to the first break.
#[derive(Debug, Default)]
pub struct Verified {
    /// Files in the order of the chain.
    pub parts: Vec<Part>,
    /// First break of the chain, if any.
    pub broken: Option<Break>,
}

/// Break of the chain: its place and kind.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}:{line} (byte {byte}): {reason}", path.display())]
pub struct Break {
    /// Path of the file.
    pub path: PathBuf,
    /// Line number, from 1.
    pub line: u64,
    /// Byte offset of the line.
    pub byte: u64,
    /// Kind of the break.
    pub reason: Reason,
}

/// Kinds of breaks.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Reason {
    /// The line is no record, or not what was written.
    #[error("the line is not what was written: its hash is not its own")]
    Changed,
    /// The file's end is no whole record.
    #[error(
        "the file ends within a record; the next start notes it if a crash did this, and then the file is intact"
    )]
    Torn,
    /// Records are missing, doubled or in another order.
    #[error("record {expected} is missing: here is record {found}")]
    Missing {
        /// Sequence number expected here.
        expected: u64,
        /// Sequence number found here.
        found: u64,
    },
    /// The record is whole, but what came before it was another.
    #[error("the record before was another one: {expected} is due here, {found} is named")]
    Other {
        /// The hash of the record before.
        expected: Hash,
        /// The hash that is named.
        found: Hash,
    },
    /// There is nothing in the file.
    #[error("there is no record in the file")]
    Empty,
}

/// Verifies files that belong to one chain, in whatever order they are given.
///
/// # Errors
/// Fails if a file cannot be read; the path is in the error.
pub fn verify(paths: &[PathBuf]) -> io::Result<Verified> {
    let mut ordered = Vec::new();
    for path in paths {
        let first = first(path).map_err(|error| named(path, &error))?;
        ordered.push((first, path));
    }
    ordered.sort();
    let mut verified = Verified::default();
    let mut before = None;
    for (_, path) in ordered {
        let mut walk = Walk::new(path, before);
        let broken = walk.through().map_err(|error| named(path, &error))?;
        before = walk.part.ends.map(|(_, last)| last);
        verified.parts.push(walk.part);
        if broken.is_some() {
            verified.broken = broken;
            break;
        }
    }
    Ok(verified)
}

/// Returns which of these hashes, 64 hexadecimal digits each, belong to records in the files. Says nothing about whether the chain is intact.
///
/// # Errors
/// Fails if a file cannot be read; the path is in the error.
pub fn find(paths: &[PathBuf], hashes: &[String]) -> io::Result<BTreeSet<String>> {
    let wanted: BTreeSet<String> = hashes.iter().map(|hash| hash.to_lowercase()).collect();
    let mut found = BTreeSet::new();
    for path in if wanted.is_empty() { &[] } else { paths } {
        let mut search = || {
            let mut lines = Lines::between(regular::open(path)?, 0, u64::MAX)?;
            while let Some((_, line)) = lines.next()? {
                let hash = chain::read(line).map(|record| record.link.hash.to_string());
                found.extend(hash.filter(|hash| wanted.contains(hash)));
            }
            Ok(())
        };
        search().map_err(|error| named(path, &error))?;
    }
    Ok(found)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Returns the number of the first record, to sort the files; files without a record come last.
fn first(path: &Path) -> io::Result<u64> {
    let mut lines = Lines::between(regular::open(path)?, 0, u64::MAX)?;
    let line = lines.next()?;
    Ok(line.and_then(|(_, line)| chain::read(line)).map_or(u64::MAX, |record| record.link.sequence))
}

/// Verification of one file, line by line.
struct Walk {
    part: Part,
    /// The record before; `None` where the first file begins.
    before: Option<Link>,
    doubtful: Option<Doubtful>,
}

/// Lines that are no records; a note may follow that a crash tore them.
struct Doubtful {
    line: u64,
    byte: u64,
    length: u64,
    hash: Context,
    /// True if the lines end in a line feed.
    ended: bool,
}

impl Walk {
    fn new(path: &Path, before: Option<Link>) -> Self {
        let path = path.to_path_buf();
        Self {
            part: Part { path, records: 0, ends: None, torn: 0, lost: 0 },
            before,
            doubtful: None,
        }
    }

    fn through(&mut self) -> io::Result<Option<Break>> {
        let file = regular::open(&self.part.path)?;
        let size = settled(&file)?;
        let mut lines = Lines::between(file, 0, size)?;
        let mut number = 0;
        while let Some((byte, line)) = lines.next()? {
            number += 1;
            let broken = match chain::read(line) {
                Some(record) => self.record(record, line).map(|reason| (number, byte, reason)),
                None => {
                    self.doubt(number, byte, line);
                    None
                }
            };
            if let Some((line, byte, reason)) = broken.map(|broken| self.blame(broken)) {
                return Ok(Some(self.at(line, byte, reason)));
            }
        }
        Ok(self.end())
    }

    /// Moves a break to the doubtful lines before it, if the record that follows does not note them as torn.
    fn blame(&self, (line, byte, reason): (u64, u64, Reason)) -> (u64, u64, Reason) {
        match &self.doubtful {
            Some(doubtful) => (doubtful.line, doubtful.byte, Reason::Changed),
            None => (line, byte, reason),
        }
    }

    fn record(&mut self, record: Record, line: &[u8]) -> Option<Reason> {
        if let Some(doubtful) = &self.doubtful {
            if !doubtful.is_noted_by(line) {
                return Some(Reason::Changed);
            }
            self.part.torn += 1;
        }
        let Record { link, previous } = record;
        // If the file before is missing, the first record's `prev` cannot be checked; record 1 has none before it.
        let first = link.sequence == 1;
        let due = self.before.or_else(|| first.then(Link::default));
        if let Some(due) = due {
            if link.sequence != due.sequence + 1 {
                return Some(Reason::Missing { expected: due.sequence + 1, found: link.sequence });
            }
            if previous != due.hash {
                return Some(Reason::Other { expected: due.hash, found: previous });
            }
        }
        self.doubtful = None;
        self.before = Some(link);
        self.part.records += 1;
        self.part.ends = Some((self.part.ends.map_or(link, |(first, _)| first), link));
        if scan::text(line, b",\"kind\":\"") == Some(b"audit-lost") {
            self.part.lost += scan::number(line, b",\"records\":").unwrap_or(0);
        }
        None
    }

    fn doubt(&mut self, number: u64, byte: u64, line: &[u8]) {
        let doubtful = self.doubtful.get_or_insert_with(|| Doubtful {
            line: number,
            byte,
            length: 0,
            hash: Context::new(&SHA256),
            ended: false,
        });
        doubtful.length += line.len() as u64;
        doubtful.hash.update(line);
        doubtful.ended = line.ends_with(b"\n");
    }

    fn end(&mut self) -> Option<Break> {
        if let Some(doubtful) = self.doubtful.take() {
            let reason = if doubtful.ended { Reason::Changed } else { Reason::Torn };
            return Some(self.at(doubtful.line, doubtful.byte, reason));
        }
        (self.part.records == 0).then(|| self.at(1, 0, Reason::Empty))
    }

    fn at(&self, line: u64, byte: u64, reason: Reason) -> Break {
        Break { path: self.part.path.clone(), line, byte, reason }
    }
}

impl Doubtful {
    fn is_noted_by(&self, line: &[u8]) -> bool {
        let mut hash = Hash::default();
        hash.0.copy_from_slice(self.hash.clone().finish().as_ref());
        scan::text(line, b",\"kind\":\"") == Some(b"audit-torn")
            && scan::number(line, b",\"bytes\":") == Some(self.length)
            && scan::text(line, b",\"sha256\":\"") == Some(hash.to_string().as_bytes())
    }
}

/// Returns the file's size under a shared lock, because a gateway may be writing.
pub(super) fn settled(file: &File) -> io::Result<u64> {
    let locked = file.lock_shared();
    let size = file.metadata()?.len();
    if locked.is_ok() {
        file.unlock()?;
    }
    Ok(size)
}
