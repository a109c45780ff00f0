//! Index of an audit file by egress address and port, so that `who` need not read all of the file.
//!
//! An index belongs to a file's content, not to its name: its path is `.durward-index/ID` beside the file, ID derived from the first line, so that
//! rotation moves nothing. The index repeats what the file says: a stale or damaged one is rebuilt. The newest records, less than [`SMALL`] bytes,
//! are not indexed but read as they are.

mod entry;
mod segment;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(super) use entry::{Entry, key_of};
pub(super) use segment::{Cursor, Segment};

use super::chain::Hash;
use super::lines::Lines;
use super::siblings;
use super::verify::settled;
use crate::regular;

/// Bytes below which a file is not indexed.
pub const SMALL: u64 = 16 * 1024 * 1024;
/// Entries in memory while an index is built, at most: 8 MiB.
const AT_ONCE: usize = 256 * 1024;
const FOLDER: &str = ".durward-index";

/// Progress callback: bytes read, bytes in all; returns false to stop.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// Audit file with its index.
pub(super) struct Index {
    pub(super) file: File,
    place: Option<PathBuf>,
    pub(super) segments: Vec<Segment>,
    /// Bytes of the file that the segments cover.
    pub(super) covered: u64,
    /// Size of the file in bytes.
    pub(super) size: u64,
}

impl Index {
    /// Loads the segments, up to the first one that is damaged.
    pub(super) fn load(path: &Path) -> io::Result<Self> {
        let file = regular::open(path)?;
        let size = settled(&file)?;
        let place = place(path, &file, size)?;
        let mut this = Self { file, place, segments: Vec::new(), covered: 0, size };
        if let Some(found) = this.place.as_ref().and_then(|place| regular::open(place).ok()) {
            this.read(&found)?;
        }
        Ok(this)
    }

    fn read(&mut self, index: &File) -> io::Result<()> {
        self.segments.clear();
        self.covered = 0;
        let mut block = 0;
        while let Some(segment) = Segment::load(index, block)? {
            if !segment.continues(self.covered, self.size, &self.file)? {
                break;
            }
            block = segment.end();
            self.covered = segment.to;
            self.segments.push(segment);
        }
        Ok(())
    }

    /// Returns true if enough of the file is not covered.
    fn is_behind(&self) -> bool {
        self.size - self.covered >= SMALL
    }

    /// Indexes the rest of the file. False if another process is doing that or the index cannot be stored here.
    pub(super) fn extend(&mut self, progress: Progress<'_>) -> io::Result<bool> {
        let Some(place) = self.place.clone().filter(|_| self.is_behind()) else { return Ok(false) };
        let Ok(index) = open(&place) else { return Ok(false) };
        if index.try_lock().is_err() {
            return Ok(false);
        }
        self.read(&index)?;
        let mut block = self.segments.last().map_or(0, Segment::end);
        index.set_len(block * segment::BLOCK)?;
        let mut build = Build::new(&self.file, self.covered, self.size)?;
        while let Some((entries, part)) = build.next()? {
            let Ok(segment) = Segment::store(&index, block, &entries, &part) else {
                return Ok(false);
            };
            block = segment.end();
            self.covered = segment.to;
            self.segments.push(segment);
            if !progress(self.covered, self.size) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Deletes a damaged index.
    pub(super) fn discard(&mut self) {
        if let Some(place) = &self.place {
            drop(fs::remove_file(place));
        }
        self.segments.clear();
        self.covered = 0;
    }

    /// Returns the entries of `key` in the part that is not covered.
    pub(super) fn loose(&self, key: u64) -> io::Result<Vec<Entry>> {
        let mut lines = Lines::between(self.file.try_clone()?, self.covered, self.size)?;
        let mut found = Vec::new();
        while let Some((at, line)) = lines.next()? {
            found.extend(Entry::of(line, at).filter(|entry| entry.key == key));
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// Updates the indexes of an audit file and its rotated files, and removes those whose file is gone.
///
/// # Errors
/// Fails if a file cannot be read. An index that cannot be written is no error: `who` reads the file itself then.
pub fn refresh(path: &Path, progress: Progress<'_>) -> io::Result<()> {
    let former = siblings::rotated(path)?.files;
    for path in former.iter().map(PathBuf::as_path).chain([path]) {
        let mut index = Index::load(path)?;
        index.extend(progress)?;
    }
    sweep(siblings::folder(path))
}

/// Removes indexes that belong to no file of the directory.
fn sweep(folder: &Path) -> io::Result<()> {
    let indexes = folder.join(FOLDER);
    if !indexes.exists() {
        return Ok(());
    }
    let mut wanted = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Ok(file) = regular::open(&path) else { continue };
        wanted.extend(place(&path, &file, u64::MAX)?);
    }
    for entry in fs::read_dir(&indexes)? {
        let path = entry?.path();
        if !wanted.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Returns the index path of a file with this content; `None` while there is no first line.
fn place(path: &Path, file: &File, size: u64) -> io::Result<Option<PathBuf>> {
    let mut begin = vec![0; usize::try_from(size.min(4096)).unwrap_or(4096)];
    let read = file.read_at(&mut begin, 0)?;
    let Some(end) = memchr::memchr(b'\n', &begin[..read]) else { return Ok(None) };
    let id: String = Hash::of(&begin[..end]).to_string().chars().take(32).collect();
    Ok(Some(siblings::folder(path).join(FOLDER).join(id)))
}

fn open(place: &Path) -> io::Result<File> {
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o640);
    regular::open_with(&mut options, place)
}

/// Indexes a file in parts that fit into memory.
struct Build {
    lines: Lines,
    from: u64,
}

/// Range of a file that a segment covers, and the last line of that range.
pub(super) struct Part {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) last_line: Hash,
    pub(super) last_length: u64,
}

impl Build {
    fn new(file: &File, from: u64, to: u64) -> io::Result<Self> {
        Ok(Self { lines: Lines::between(file.try_clone()?, from, to)?, from })
    }

    fn next(&mut self) -> io::Result<Option<(Vec<Entry>, Part)>> {
        let mut entries = Vec::new();
        let mut last: Option<(u64, Vec<u8>)> = None;
        while entries.len() < AT_ONCE
            && let Some((at, line)) = self.lines.next()?
        {
            // A line without line feed may still be growing; the next run indexes it.
            if !line.ends_with(b"\n") {
                break;
            }
            entries.extend(Entry::of(line, at));
            let (place, kept) = last.get_or_insert_default();
            *place = at;
            kept.clear();
            kept.extend(line);
        }
        let Some((at, line)) = last else { return Ok(None) };
        entries.sort_unstable();
        let to = at + line.len() as u64;
        let part = Part {
            from: self.from,
            to,
            last_line: Hash::of(&line),
            last_length: line.len() as u64,
        };
        self.from = to;
        Ok(Some((entries, part)))
    }
}
