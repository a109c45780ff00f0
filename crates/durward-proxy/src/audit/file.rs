//! The file itself: appended to under a lock, followed after a rotation, continued whatever state its end is in.
//!
//! Several processes may write one file, as during a hand-over: the lock is taken for each write, and a writer that finds the file longer than it
//! left it reads the end first. Nothing is ever deleted, torn records included.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::chain::{self, Hash, Link};
use super::{Durability, siblings, tail};
use crate::json_line::{Clock, Fields};
use crate::regular;

/// Time to wait for the lock before a write fails.
const LOCK_WITHIN: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_micros(200);
/// Upper bound of a first record's length; a torn first record is shorter too.
const ONE_RECORD: u64 = 4096;

pub(super) struct AuditFile {
    path: PathBuf,
    file: File,
    durability: Durability,
    /// Last record of the chain, in this file or in the one before.
    head: Link,
    /// Offset of the chain's end in this file; 0 means that the end must be read again.
    end: u64,
    written: u64,
    noted_lost: u64,
    out: Vec<u8>,
    clock: Clock,
    complained: bool,
}

impl AuditFile {
    pub(super) fn open(path: &Path, durability: Durability) -> io::Result<Self> {
        let mut this = Self::attach(path, durability)?;
        lock(&this.file)?;
        if this.file.metadata()?.len() == 0 {
            this.head = former(path)?;
        }
        this.catch_up()?;
        let begun = this.note("audit-start", |note| {
            note.number("pid", u64::from(std::process::id()));
            note.text("version", env!("CARGO_PKG_VERSION"));
        });
        let done = begun.and_then(|()| this.put());
        this.file.unlock()?;
        done.map(|()| this)
    }

    fn attach(path: &Path, durability: Durability) -> io::Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            file: open(path)?,
            durability,
            head: Link::default(),
            end: 0,
            written: 0,
            noted_lost: 0,
            out: Vec::new(),
            clock: Clock::default(),
            complained: false,
        })
    }

    /// Returns the number of the last record.
    pub(super) fn sequence(&self) -> u64 {
        self.head.sequence
    }

    /// Returns the records that this process has written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes records, one per line, in one write. Notes the number of lost records first, if it has grown.
    pub(super) fn append(&mut self, records: &[u8], lost: u64) -> io::Result<()> {
        lock(&self.file)?;
        let locked = self.append_locked(records, lost);
        if locked.is_err() {
            // `end` 0 makes the next write read the end of the file again.
            self.out.clear();
            self.end = 0;
        }
        self.file.unlock()?;
        locked
    }

    fn append_locked(&mut self, records: &[u8], lost: u64) -> io::Result<()> {
        self.follow()?;
        self.catch_up()?;
        if lost > self.noted_lost {
            let count = lost - self.noted_lost;
            self.note("audit-lost", |note| note.number("records", count))?;
        }
        let mut head = self.head_to_be();
        for record in records.split_inclusive(|byte| *byte == b'\n') {
            head = chain::seal(&mut self.out, record, &head);
        }
        self.put()?;
        self.noted_lost = lost;
        Ok(())
    }

    /// Switches to the file that now has our path, if ours was moved away.
    fn follow(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let named = std::fs::metadata(&self.path);
        let same =
            |named: &std::fs::Metadata| (named.dev(), named.ino()) == (ours.dev(), ours.ino());
        if named.as_ref().is_ok_and(same) {
            return Ok(());
        }
        // The old file is still locked, so no process appends to it after its end was read.
        self.catch_up()?;
        self.put()?;
        match open(&self.path) {
            Ok(file) => {
                lock(&file)?;
                self.file = file;
                self.end = 0;
                self.complained = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::error!(%error, "the audit file was moved and cannot be created again; records are still written to the old one");
                }
            }
        }
        Ok(())
    }

    /// Reads the end of the file if its size is not the one we left, and notes torn records.
    fn catch_up(&mut self) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        if size == self.end && size > 0 {
            return Ok(());
        }
        // A new file after a rotation: its first record names the last hash of the former file.
        if size == 0 {
            self.end = 0;
            if self.head.sequence > 0 {
                let former = self.head.hash.to_string();
                self.note("audit-continued", |note| note.text("former", &former))?;
            }
            return Ok(());
        }
        match tail::read(&self.file, size)? {
            Some(tail) => {
                self.head = tail.link;
                self.end = size;
                // A crash may cut the line feed only; the record before it is whole.
                if !tail.line_feed {
                    self.out.push(b'\n');
                } else if tail.end < size {
                    self.note_torn(tail.end, size)?;
                }
                Ok(())
            }
            // A crash may tear the very first record, and then the file has no whole one.
            None if size < ONE_RECORD && self.begins_like_a_record(size)? => {
                self.end = size;
                self.note_torn(0, size)
            }
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is not an audit file: no record with a hash of its own near its end",
            )),
        }
    }

    fn begins_like_a_record(&self, size: u64) -> io::Result<bool> {
        const BEGIN: &[u8] = b"{\"ts\":\"";
        let mut begin = vec![0; BEGIN.len().min(usize::try_from(size).unwrap_or(0))];
        self.file.read_exact_at(&mut begin, 0)?;
        Ok(BEGIN.starts_with(&begin))
    }

    /// Notes which bytes before this record are no record: their number and hash, the final line feed included.
    fn note_torn(&mut self, from: u64, to: u64) -> io::Result<()> {
        let mut torn = vec![0; usize::try_from(to - from).unwrap_or(0)];
        self.file.read_exact_at(&mut torn, from)?;
        if !torn.ends_with(b"\n") {
            torn.push(b'\n');
            self.out.push(b'\n');
        }
        let hash = Hash::of(&torn).to_string();
        tracing::warn!(
            bytes = torn.len(),
            "the audit file ended in an incomplete record; the chain continues after it"
        );
        self.note("audit-torn", |note| {
            note.number("bytes", torn.len() as u64);
            note.text("sha256", &hash);
        })
    }

    /// Appends a record of our own to `out`.
    fn note(&mut self, kind: &str, fill: impl FnOnce(&mut Fields<'_>)) -> io::Result<()> {
        let head = self.head_to_be();
        let mut record = Vec::new();
        let mut note = Fields::begin(&mut record, &mut self.clock, SystemTime::now());
        note.text("kind", kind);
        fill(&mut note);
        note.end();
        chain::seal(&mut self.out, &record, &head);
        Ok(())
    }

    /// Returns the last record once `out` is written.
    fn head_to_be(&self) -> Link {
        // `out` may hold notes that are not written yet; the next record must chain to the last of them.
        let line = self.out.strip_suffix(b"\n").unwrap_or(&self.out);
        let begin = memchr::memrchr(b'\n', line).map_or(0, |at| at + 1);
        chain::read(&line[begin..]).map_or(self.head, |record| record.link)
    }

    /// Syncs the file and its directory: a new file survives a power failure only if its directory entry does.
    fn sync_with_folder(&self) -> io::Result<()> {
        self.file.sync_all()?;
        File::open(siblings::folder(&self.path))?.sync_all()
    }

    /// Writes `out`. After a partial write the file is truncated to its former length.
    fn put(&mut self) -> io::Result<()> {
        let head = self.head_to_be();
        let out = std::mem::take(&mut self.out);
        if out.is_empty() {
            return Ok(());
        }
        let put = self.file.write_all(&out).and_then(|()| match self.durability {
            Durability::Kernel => Ok(()),
            Durability::Disk if self.end == 0 => self.sync_with_folder(),
            Durability::Disk => self.file.sync_data(),
        });
        match put {
            Ok(()) => {
                self.end += out.len() as u64;
                self.written += head.sequence.saturating_sub(self.head.sequence);
                self.head = head;
                self.out = out;
                self.out.clear();
                self.out.shrink_to(2 * super::BATCH);
                Ok(())
            }
            Err(error) => {
                // If this fails as well, the next write finds a torn record and notes it.
                drop(self.file.set_len(self.end));
                Err(error)
            }
        }
    }
}

/// Returns the end of the chain in the newest rotated file, where no process ran to begin the next one.
fn former(path: &Path) -> io::Result<Link> {
    for candidate in siblings::rotated(path)?.files.into_iter().rev() {
        let Ok(mut file) = AuditFile::attach(&candidate, Durability::Kernel) else { continue };
        lock(&file.file)?;
        let known = file.catch_up().and_then(|()| file.put());
        if known.is_ok() && file.head.sequence > 0 {
            return Ok(file.head);
        }
    }
    Ok(Link::default())
}

/// Locks the file. Others hold the lock for one write or one `stat`; a process that holds it longer is reported, not waited for.
fn lock(file: &File) -> io::Result<()> {
    let end = Instant::now() + LOCK_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => {
                let kept = "another process holds its lock";
                return Err(io::Error::new(io::ErrorKind::TimedOut, kept));
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    regular::open_with(OpenOptions::new().read(true).append(true).create(true).mode(0o640), path)
}
