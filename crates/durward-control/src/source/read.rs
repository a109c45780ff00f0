//! Reading files without reading twice what has not changed.
//!
//! Deliberately absent: writing, locking, and following anything but what the system follows.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::StatVfsMountFlags;

use super::patience::Progress;
use super::regular::{self, FileKind, Unread};
use crate::named_file::{FileBytes, NamedFile, digest_of};

/// A file changed so lately may change again without its times telling.
const SETTLED: Duration = Duration::from_secs(2);
/// Phrase for a path that a load leaves out.
const NO_ANSWER: &str =
    "cannot be read: its file system does not answer, it is left out until it does";

/// Files and directories read before, valid as long as the system says they are the same.
#[derive(Default)]
pub(super) struct Reader {
    files: HashMap<PathBuf, Known>,
    /// Directories, and what is one where a file might have been, with the names in them.
    directories: Vec<(PathBuf, Listing)>,
    /// Paths that could not be read in the last round, and the change that would justify another try.
    unreadable: Vec<(PathBuf, Obstacle)>,
    round: u64,
    /// The files to look at in this round; the others are what they were. `None` for all.
    only: Option<HashSet<PathBuf>>,
    progress: Arc<Progress>,
}

/// State of a path that could not be read.
#[derive(Debug)]
enum Obstacle {
    /// The system says so again as long as it says this of the path.
    Lasting(Result<Stamp, ErrorKind>),
    /// Another try may succeed though nothing changes: a lease ends, descriptors are free again.
    Passing,
    /// The file system does not answer.
    Stuck,
}

/// Content of a file, and the last round in which it was asked for.
struct Known {
    stamp: Stamp,
    file: NamedFile,
    /// The path without links.
    real: Arc<Path>,
    /// True if links may be what leads there.
    is_linked: bool,
    round: u64,
}

/// The names in a directory, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) names: Arc<[Name]>,
    /// True if every user of the host may add files to the directory.
    pub(super) writable_by_all: bool,
}

/// A name in a directory, and whether it is a file's without asking where it leads.
pub(super) type Name = (OsString, bool);

impl fmt::Debug for Reader {
    /// Only the names: the bytes may be keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.files.keys()).finish()
    }
}

/// File metadata that changes whenever the file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    settled: bool,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = now.saturating_sub(Duration::from_secs(u64::try_from(changed.0).unwrap_or(0)));
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed,
            settled: age > SETTLED,
        }
    }
}

impl Known {
    /// Returns whether what is at the path is what it was; bytes are compared where the times cannot tell.
    fn holds(&mut self, path: &Path) -> bool {
        let Ok(metadata) = fs::metadata(path) else { return false };
        let now = Stamp::of(&metadata);
        if self.stamp.settled {
            return self.stamp == now;
        }
        // What is not known to be the same must be read, so its times are nothing to go by.
        let found = read(path, kind_for(self.file.length()));
        let same = found.is_ok_and(|found| {
            found.writable_by_all == self.file.writable_by_all
                && digest_of(&found.bytes) == *self.file.digest()
        });
        if same {
            self.stamp = now;
        }
        same
    }

    /// Returns the former content, if it was read in this round, is `trusted`, or is unchanged by its timestamps.
    fn reused(&mut self, path: &Path, round: u64, trusted: bool) -> Option<NamedFile> {
        let same = || fs::metadata(path).is_ok_and(|metadata| Stamp::of(&metadata) == self.stamp);
        let reusable = trusted || self.round == round || self.stamp.settled && same();
        if self.file.bytes().is_none() || !reusable {
            return None;
        }
        self.round = round;
        Some(self.file.clone())
    }
}

/// The kind with the smallest limit that a file of this length keeps, to compare it with what it was.
fn kind_for(length: u64) -> FileKind {
    use FileKind::{Authorities, Certificate, Credentials, Document, Key, RevocationLists};
    let kinds = [Key, Certificate, Authorities, Credentials, Document];
    kinds.into_iter().find(|kind| length <= kind.limit()).unwrap_or(RevocationLists)
}

fn listing(path: &Path) -> std::io::Result<Listing> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        names.push((entry.file_name(), is_file));
    }
    names.sort();
    let writable_by_all = is_writable_by_all(path, &fs::metadata(path)?);
    Ok(Listing { names: Arc::from(names), writable_by_all })
}

/// Returns the metadata of a path.
fn stamp(path: &Path) -> Result<Stamp, ErrorKind> {
    fs::metadata(path).map(|metadata| Stamp::of(&metadata)).map_err(|error| error.kind())
}

impl Obstacle {
    /// Returns whether another try would fail alike.
    fn remains(&self, path: &Path, progress: &Progress) -> bool {
        match self {
            Self::Passing => false,
            Self::Stuck => progress.leaves_out(path),
            Self::Lasting(was) => match (was, progress.at(path, || stamp(path))) {
                (Ok(was), Some(Ok(now))) => was.settled && *was == now,
                (Err(was), Some(Err(now))) => *was == now,
                _ => false,
            },
        }
    }
}

impl Reader {
    /// Everything is requested again, by a load that reports its progress there. If `changed` says all that has changed since the last round,
    /// other files are taken for what they were.
    pub(super) fn begin(&mut self, progress: &Arc<Progress>, changed: Option<&HashSet<PathBuf>>) {
        self.only = changed.and_then(|changed| self.files_at(changed));
        self.round += 1;
        self.directories.clear();
        self.unreadable.clear();
        self.progress = Arc::clone(progress);
    }

    /// Returns the files that something at these paths changes; `None` if that is unknown, because one of them may lead to any file.
    fn files_at(&self, changed: &HashSet<PathBuf>) -> Option<HashSet<PathBuf>> {
        if self.files.values().any(|known| known.is_linked) {
            return None;
        }
        let mut only = HashSet::new();
        let here = std::env::current_dir().ok();
        for path in changed {
            // inotify reports absolute paths, the configuration may name relative ones.
            let relative = here.as_ref().and_then(|here| path.strip_prefix(here).ok());
            let mut names = [Some(path.as_path()), relative].into_iter().flatten();
            if let Some((known, _)) = names.find_map(|name| self.files.get_key_value(name)) {
                only.insert(known.clone());
                continue;
            }
            // A file of this name may be this one, called otherwise.
            if self.files.keys().any(|file| file.file_name() == path.file_name()) {
                return None;
            }
            let is_plain = match fs::symlink_metadata(path) {
                Ok(metadata) => metadata.is_file(),
                Err(error) => {
                    // As bytes: the system tells of names in directories that are watched by the names that files have here.
                    let bytes = path.as_os_str().as_encoded_bytes();
                    let is_behind =
                        |file: &PathBuf| file.as_os_str().as_encoded_bytes().starts_with(bytes);
                    error.kind() == ErrorKind::NotFound && !self.files.keys().any(is_behind)
                }
            };
            if !is_plain {
                return None;
            }
        }
        Some(only)
    }

    /// Returns true if only changed files are read in this round.
    pub(super) fn is_narrow(&self) -> bool {
        self.only.is_some()
    }

    /// Forgets what this round did not ask for.
    pub(super) fn finish(&mut self) {
        let round = self.round;
        self.files.retain(|_, known| known.round == round);
    }

    /// Returns true if a round that asks for the same would find the same. What changed lately is looked into, for the rest the system's times tell.
    pub(super) fn is_current(&mut self, progress: &Progress) -> bool {
        let mut files = self.files.iter_mut();
        let is_same = |(path, known): (&PathBuf, &mut Known)| {
            progress.at(path, || known.holds(path)).unwrap_or(false)
        };
        let has_same = |(path, names): &(PathBuf, Listing)| {
            let now = progress.at(path, || listing(path));
            now.is_some_and(|now| now.is_ok_and(|now| now == *names))
        };
        files.all(is_same)
            && self.directories.iter().all(has_same)
            && self.unreadable.iter().all(|(path, obstacle)| obstacle.remains(path, progress))
    }

    /// Returns whether the path leads to a directory.
    pub(super) fn is_dir(&self, path: &Path) -> bool {
        self.progress.at(path, || path.is_dir()).unwrap_or(false)
    }

    /// Returns whether nothing is at the path, not even a link that leads nowhere.
    pub(super) fn is_gone(&self, path: &Path) -> bool {
        self.progress.at(path, || fs::symlink_metadata(path).is_err()).unwrap_or(false)
    }

    /// The size the system claims for a file, or what was read of it where that is more.
    pub(super) fn size(&self, path: &Path) -> u64 {
        let read = self.files.get(path).map_or(0, |known| known.file.length());
        let claimed = self.progress.at(path, || fs::metadata(path));
        claimed.and_then(Result::ok).map_or(0, |metadata| metadata.len()).max(read)
    }

    /// The names in a directory.
    pub(super) fn names(&mut self, path: &Path) -> Result<Listing, String> {
        let Some(found) = self.progress.at(path, || listing(path)) else {
            return Err(self.stuck(path));
        };
        match found {
            Ok(listing) => {
                self.directories.push((path.to_owned(), listing.clone()));
                Ok(listing)
            }
            Err(error) => {
                let obstacle = self.lasting(path);
                self.unreadable.push((path.to_owned(), obstacle));
                Err(regular::reason(&error))
            }
        }
    }

    fn stuck(&mut self, path: &Path) -> String {
        self.unreadable.push((path.to_owned(), Obstacle::Stuck));
        NO_ANSWER.to_owned()
    }

    /// A file of this kind, or why it cannot be read. The same bytes as before when they are equal.
    pub(super) fn read(&mut self, path: &Path, kind: FileKind) -> FileBytes {
        let (round, progress) = (self.round, Arc::clone(&self.progress));
        let trusted = self.only.as_ref().is_some_and(|only| !only.contains(path));
        let known = self.files.get_mut(path);
        let found = progress.at(path, || {
            let reused = known.and_then(|known| known.reused(path, round, trusted));
            match reused.filter(|file| file.length() <= kind.limit()) {
                Some(file) => Ok(Err(file)),
                None => read(path, kind).map(Ok),
            }
        });
        let Contents { stamp, bytes, writable_by_all, real } = match found {
            None => return Err(self.stuck(path)),
            Some(Ok(Err(reused))) => return Ok(reused),
            Some(Ok(Ok(read))) => read,
            Some(Err(error)) => {
                let passes = matches!(&error, Unread::Failed(error) if error.kind() != ErrorKind::PermissionDenied);
                let obstacle = if passes { Obstacle::Passing } else { self.lasting(path) };
                self.unreadable.push((path.to_owned(), obstacle));
                return Err(error.to_string());
            }
        };
        let mut file = NamedFile::new(bytes);
        file.writable_by_all = writable_by_all;
        let former = self.files.get(path).map(|known| &known.file);
        let former = former.filter(|known| **known == file && known.bytes().is_some()).cloned();
        let file = former.unwrap_or(file);
        let is_linked = !real.ends_with(path.strip_prefix(".").unwrap_or(path));
        let known = Known { stamp, file: file.clone(), real: Arc::from(real), is_linked, round };
        self.files.insert(path.to_owned(), known);
        Ok(file)
    }

    /// Returns the path, without links, of a file that was read, if links may have led to it.
    pub(super) fn real(&self, path: &Path) -> Option<&Arc<Path>> {
        let known = self.files.get(path)?;
        (known.is_linked || path.is_relative()).then_some(&known.real)
    }

    /// Returns the directory that links in this path lead to.
    pub(super) fn real_directory(&self, path: &Path) -> Option<PathBuf> {
        self.progress.at(path, || fs::canonicalize(path).ok()).flatten()
    }

    /// Leaves a file that was read out of this round, until the system says something else of it.
    pub(super) fn refuse(&mut self, path: &Path) {
        self.files.remove(path);
        let obstacle = self.lasting(path);
        self.unreadable.push((path.to_owned(), obstacle));
    }

    /// The obstacle that remains as long as the system says the same of the path.
    fn lasting(&self, path: &Path) -> Obstacle {
        self.progress.at(path, || stamp(path)).map_or(Obstacle::Stuck, Obstacle::Lasting)
    }

    /// Lets the bytes of a file go and returns how many they are; the file is read again when it is asked for.
    pub(super) fn release(&mut self, path: &Path) -> u64 {
        let Some(known) = self.files.get_mut(path) else { return 0 };
        let held = known.file.held();
        known.file = known.file.released();
        held
    }
}

/// Content that was read from a file.
struct Contents {
    stamp: Stamp,
    bytes: Vec<u8>,
    writable_by_all: bool,
    real: PathBuf,
}

fn read(path: &Path, kind: FileKind) -> Result<Contents, Unread> {
    let (mut file, metadata) = regular::open(path, kind)?;
    let stamp = Stamp::of(&metadata);
    let bytes = regular::contents(&mut file, &metadata, kind)?;
    let writable_by_all = is_writable_by_all(path, &metadata);
    Ok(Contents { stamp, bytes, writable_by_all, real: real(&file, path) })
}

/// Returns whether every user of the host may change what is at the path. On a file system that is mounted read-only no user may.
fn is_writable_by_all(path: &Path, metadata: &Metadata) -> bool {
    let is_read_only = || {
        rustix::fs::statvfs(path)
            .is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
    };
    metadata.mode() & 0o002 != 0 && !is_read_only()
}

/// Returns the path of the opened file. The kernel is asked about the descriptor, because the path may lead elsewhere now.
fn real(file: &File, path: &Path) -> PathBuf {
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::read_link(descriptor).or_else(|_| fs::canonicalize(path)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
