//! The file itself: appended to under a lock, followed when it is moved away, continued after whatever happened to its end.
//!
//! Several processes may write one file, as they do during a hand-over: the lock is taken for each write, and whoever finds the file
//! longer than he left it reads its end first. Deliberately absent: deleting anything, torn records included.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::chain::{self, Hash, Link};
use super::{Durability, siblings, tail};
use crate::json_line::{Clock, Fields};
use crate::regular;

/// The lock is had within this time, or the write fails.
const LOCK_WITHIN: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_micros(200);
/// A first record is shorter than this, even a torn one.
const ONE_RECORD: u64 = 4096;

pub(super) struct AuditFile {
    path: PathBuf,
    file: File,
    durability: Durability,
    /// The last record, here or in the file before.
    head: Link,
    /// Where it ends.
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

    /// The number of the last record.
    pub(super) fn sequence(&self) -> u64 {
        self.head.sequence
    }

    /// How many records this process has written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes records, one per line, as one write. Says in the file how many were lost before, when that is news.
    pub(super) fn append(&mut self, records: &[u8], lost: u64) -> io::Result<()> {
        lock(&self.file)?;
        let locked = self.append_locked(records, lost);
        if locked.is_err() {
            // What the file says is read anew before the next write.
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

    /// Goes over to the file that now has our name, when the one we have was moved away.
    fn follow(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let named = std::fs::metadata(&self.path);
        let same =
            |named: &std::fs::Metadata| (named.dev(), named.ino()) == (ours.dev(), ours.ino());
        if named.as_ref().is_ok_and(same) {
            return Ok(());
        }
        // The old one is still locked: nobody adds to it any more once we have read its end.
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
                    tracing::error!(%error, "the audit file was moved and cannot be made anew; the old one is kept");
                }
            }
        }
        Ok(())
    }

    /// Learns what the file says when it is not as we left it, and notes what is torn.
    fn catch_up(&mut self) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        if size == self.end && size > 0 {
            return Ok(());
        }
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
                if !tail.line_feed {
                    self.out.push(b'\n');
                } else if tail.end < size {
                    self.note_torn(tail.end, size)?;
                }
                Ok(())
            }
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

    /// Says which bytes before this note are no record: so many, with this hash, the line feed that ends them included.
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
            "the audit file ended in a torn record; the chain goes on after it"
        );
        self.note("audit-torn", |note| {
            note.number("bytes", torn.len() as u64);
            note.text("sha256", &hash);
        })
    }

    /// Adds a record of our own to what is to be written.
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

    /// The last record once everything in `out` is written.
    fn head_to_be(&self) -> Link {
        let line = self.out.strip_suffix(b"\n").unwrap_or(&self.out);
        let begin = memchr::memrchr(b'\n', line).map_or(0, |at| at + 1);
        chain::read(&line[begin..]).map_or(self.head, |record| record.link)
    }

    /// A new file is on disk once its name is too.
    fn sync_with_folder(&self) -> io::Result<()> {
        self.file.sync_all()?;
        File::open(siblings::folder(&self.path))?.sync_all()
    }

    /// Writes `out`. Of what cannot be written whole, nothing stays.
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
                // Should this fail as well, the next write finds a torn record and says so.
                drop(self.file.set_len(self.end));
                Err(error)
            }
        }
    }
}

/// Where the chain stood when the last file was moved away and no process ran to begin the next.
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

/// Others hold the lock for one write, or to look how long the file is. Whoever keeps it must not keep us silently.
fn lock(file: &File) -> io::Result<()> {
    let end = Instant::now() + LOCK_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => {
                let kept = "somebody else keeps it locked";
                return Err(io::Error::new(io::ErrorKind::TimedOut, kept));
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    regular::open_with(OpenOptions::new().read(true).append(true).create(true).mode(0o640), path)
}
