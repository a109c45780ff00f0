//! Reading files without reading twice what has not changed.
//!
//! Deliberately absent: writing, locking, and following anything but what the system follows.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::regular::{self, FileKind, Unread};
use crate::named_file::{NamedFile, digest_of};
use crate::resources::FileBytes;

/// A file changed so lately may change again without its times telling.
const SETTLED: Duration = Duration::from_secs(2);

/// Files and directories read before, valid as long as the system says they are the same.
#[derive(Default)]
pub(super) struct Reader {
    files: HashMap<PathBuf, Known>,
    /// Directories, and what is one where a file might have been, with the names in them.
    directories: Vec<(PathBuf, Arc<[Name]>)>,
    /// What could not be read in the last round, with what the system says of it.
    unreadable: Vec<(PathBuf, Result<Stamp, ErrorKind>)>,
    round: u64,
}

/// What was read of a file, and the last round it was asked for in.
struct Known {
    stamp: Stamp,
    file: NamedFile,
    /// The path without links.
    real: Arc<Path>,
    round: u64,
}

/// A name in a directory, and whether it is a file's without asking where it leads.
pub(super) type Name = (OsString, bool);

impl fmt::Debug for Reader {
    /// Only the names: the bytes may be keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.files.keys()).finish()
    }
}

/// What changes when a file does.
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

    /// Whether what is at the path is what it was; `is_same` is asked where the times cannot tell.
    fn holds(&mut self, path: &Path, is_same: impl FnOnce(&Path) -> bool) -> bool {
        let Ok(metadata) = fs::metadata(path) else { return false };
        let now = Self::of(&metadata);
        if self.settled {
            return *self == now;
        }
        // What is not known to be the same must be read, so its times are nothing to go by.
        let same = is_same(path);
        if same {
            *self = now;
        }
        same
    }
}

fn listing(path: &Path) -> std::io::Result<Arc<[Name]>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        names.push((entry.file_name(), is_file));
    }
    names.sort();
    Ok(Arc::from(names))
}

/// What the system says of a path.
fn told(path: &Path) -> Result<Stamp, ErrorKind> {
    fs::metadata(path).map(|metadata| Stamp::of(&metadata)).map_err(|error| error.kind())
}

impl Known {
    /// What was read before, if its bytes are at hand and it was read in this round or the system's times say that it is the same.
    fn reused(&mut self, path: &Path, round: u64) -> Option<NamedFile> {
        let same = || fs::metadata(path).is_ok_and(|metadata| Stamp::of(&metadata) == self.stamp);
        let is_held = self.file.bytes().is_some();
        if !is_held || self.round != round && !(self.stamp.settled && same()) {
            return None;
        }
        self.round = round;
        Some(self.file.clone())
    }
}

impl Reader {
    /// Everything is asked for anew.
    pub(super) fn begin(&mut self) {
        self.round += 1;
        self.directories.clear();
        self.unreadable.clear();
    }

    /// Forgets what this round did not ask for.
    pub(super) fn finish(&mut self) {
        let round = self.round;
        self.files.retain(|_, known| known.round == round);
    }

    /// Whether a round that asks for the same would find the same. What changed lately is looked into, for the rest the system's times tell.
    pub(super) fn is_current(&mut self) -> bool {
        self.files.iter_mut().all(|(path, Known { stamp, file, .. })| {
            stamp.holds(path, |path| {
                let now = read(path, FileKind::RevocationLists);
                now.is_ok_and(|now| digest_of(&now.bytes) == *file.digest())
            })
        }) && self
            .directories
            .iter()
            .all(|(path, names)| listing(path).is_ok_and(|now| now == *names))
            && self.unreadable.iter().all(|(path, was)| match (was, told(path)) {
                (Ok(was), Ok(now)) => was.settled && *was == now,
                (Err(was), Err(now)) => *was == now,
                _ => false,
            })
    }

    /// The names in a directory, in order.
    pub(super) fn names(&mut self, path: &Path) -> std::io::Result<Arc<[Name]>> {
        match listing(path) {
            Ok(names) => {
                self.directories.push((path.to_owned(), Arc::clone(&names)));
                Ok(names)
            }
            Err(error) => {
                self.unreadable.push((path.to_owned(), told(path)));
                Err(error)
            }
        }
    }

    /// A file, or why it cannot be read. The same bytes as before when they are equal.
    pub(super) fn read(&mut self, path: &Path, kind: FileKind) -> FileBytes {
        let round = self.round;
        let known = self.files.get_mut(path);
        let reused = known.and_then(|known| known.reused(path, round));
        if let Some(file) = reused.filter(|file| file.length() <= kind.limit()) {
            return Ok(file);
        }
        let Contents { stamp, bytes, real } = match read(path, kind) {
            Ok(read) => read,
            Err(error) => {
                self.unreadable.push((path.to_owned(), told(path)));
                return Err(error.to_string());
            }
        };
        let file = NamedFile::new(bytes);
        let former = self.files.get(path).map(|known| &known.file);
        let former = former.filter(|known| **known == file && known.bytes().is_some()).cloned();
        let file = former.unwrap_or(file);
        let known = Known { stamp, file: file.clone(), real: Arc::from(real), round };
        self.files.insert(path.to_owned(), known);
        Ok(file)
    }

    /// The size the system claims for a file, or what was read of it where that is more.
    pub(super) fn size(&self, path: &Path) -> u64 {
        let read = self.files.get(path).map_or(0, |known| known.file.length());
        fs::metadata(path).map_or(0, |metadata| metadata.len()).max(read)
    }

    /// Leaves a file out of this round, until the system says something else of it.
    pub(super) fn refuse(&mut self, path: &Path) {
        self.files.remove(path);
        self.unreadable.push((path.to_owned(), told(path)));
    }

    /// Lets the bytes of a file go and returns how many they are; the file is read again when it is asked for.
    pub(super) fn release(&mut self, path: &Path) -> u64 {
        let Some(known) = self.files.get_mut(path) else { return 0 };
        let held = known.file.held();
        known.file = known.file.released();
        held
    }

    /// Returns the path, without links, of a file that was read.
    pub(super) fn real(&self, path: &Path) -> Option<&Arc<Path>> {
        self.files.get(path).map(|known| &known.real)
    }
}

/// What was read of a file.
struct Contents {
    stamp: Stamp,
    bytes: Vec<u8>,
    real: PathBuf,
}

fn read(path: &Path, kind: FileKind) -> Result<Contents, Unread> {
    let (mut file, metadata) = regular::open(path, kind)?;
    let stamp = Stamp::of(&metadata);
    let bytes = regular::contents(&mut file, &metadata, kind)?;
    Ok(Contents { stamp, bytes, real: real(&file, path) })
}

/// Where the opened file is. The kernel is asked about the descriptor, for the path may lead elsewhere by now.
fn real(file: &File, path: &Path) -> PathBuf {
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::read_link(descriptor).or_else(|_| fs::canonicalize(path)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(reader: &mut Reader, path: &Path) -> Vec<u8> {
        reader.read(path, FileKind::Document).unwrap().bytes().unwrap().to_vec()
    }

    #[test]
    fn what_changed_lately_is_read_again_however_old_its_times_have_grown() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.yaml");
        fs::write(&path, "old").unwrap();
        let mut reader = Reader::default();
        reader.begin();
        assert_eq!(bytes(&mut reader, &path), b"old");
        reader.finish();
        assert!(reader.is_current(), "looked into, it is the same");
        // So lately that no time tells, and seen only when the new time is an old one.
        fs::write(&path, "new").unwrap();
        reader.files.get_mut(&path).unwrap().stamp.settled = false;
        std::thread::sleep(SETTLED + Duration::from_millis(1100));

        assert!(!reader.is_current());
        reader.begin();
        assert_eq!(bytes(&mut reader, &path), b"new");
        reader.finish();
        assert!(reader.is_current());
        assert!(reader.files[&path].stamp.settled);
    }

    #[test]
    fn what_cannot_be_read_is_current_until_the_system_says_something_else() {
        let root = tempfile::tempdir().unwrap();
        let (path, folder) = (root.path().join("a.yaml"), root.path().join("b.yaml"));
        let mut reader = Reader::default();
        let mut round = || {
            reader.begin();
            let read = [&path, &folder].map(|path| reader.read(path, FileKind::Document).is_ok());
            reader.finish();
            (read, reader.is_current())
        };

        assert_eq!(round(), ([false, false], true));
        fs::create_dir(&folder).unwrap();
        fs::write(&path, "there").unwrap();
        let (read, _) = round();
        assert_eq!(read, [true, false]);
        std::thread::sleep(SETTLED + Duration::from_millis(1100));
        assert_eq!(round(), ([true, false], true), "a directory is no file, time and again");
    }

    #[test]
    fn a_released_file_is_known_by_its_digest_and_read_again_when_it_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.crt");
        fs::write(&path, "bytes").unwrap();
        let mut reader = Reader::default();
        reader.begin();
        let first = reader.read(&path, FileKind::Certificate).unwrap();
        reader.finish();

        assert_eq!(reader.release(&path), 5);

        assert!(reader.is_current());
        assert_eq!(reader.files[&path].file.held(), 0);
        reader.begin();
        let again = reader.read(&path, FileKind::Certificate).unwrap();
        assert_eq!(again, first);
        assert_eq!(again.bytes().unwrap().to_vec(), b"bytes");
    }
}
