//! Thread that writes the state file: each newer state, and again after a failure or after another program changed the file.
//!
//! The process has the state in memory, so a file that is damaged or removed during operation is replaced.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use durward_control::{Compiled, state};

use super::{UNFINISHED, set_aside};

/// Longest wait for a write under way; a file system that does not answer must not block a hand-over.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause after a write, in units of the time that it took, and its longest length. The file holds everybody's claims: with many, writing it for each
/// of many changes would cost more than the changes themselves. So it takes a twentieth of a core at most.
const REST: u32 = 19;
const LONGEST_REST: Duration = Duration::from_secs(2);
/// Interval of tries to lock the directory while another process has it, unless the usual one is shorter.
const LOCKED: Duration = Duration::from_secs(1);

/// Function that syncs a file or directory, so that it survives a crash of the host.
pub(super) type Sync = Box<dyn Fn(&File) -> io::Result<()> + Send>;

/// State shared with the thread.
#[derive(Debug, Default)]
pub(super) struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Desk {
    latest: Option<Arc<Compiled>>,
    fault: Option<String>,
    duty: Duty,
    /// True while the thread reads or writes the file.
    busy: bool,
    /// The locked directory, while this process may write there: of two processes with one directory each would overwrite the other's claims.
    lock: Option<File>,
}

/// Task of the thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Duty {
    /// Write each newer state.
    #[default]
    Write,
    /// Write nothing for now: a younger process may begin to write.
    Pause,
    /// Write a queued state, and end.
    Finish,
    /// End: a younger process writes.
    Leave,
}

impl Shared {
    /// Queues a state for writing; it replaces one that still waits.
    pub(super) fn save(&self, compiled: &Arc<Compiled>) {
        self.desk().latest = Some(Arc::clone(compiled));
        self.changed.notify_all();
    }

    /// Returns the fault that keeps the file from being written.
    pub(super) fn fault(&self) -> Option<String> {
        self.desk().fault.clone()
    }

    /// Keeps the thread from writing; when this returns, no write is under way, and another process may write.
    pub(super) fn pause(&self) {
        let mut desk = self.desk();
        desk.duty = Duty::Pause;
        let until = Instant::now() + PATIENCE;
        while desk.busy {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return };
            desk = self.wait(desk, left);
        }
        desk.lock = None;
    }

    /// Lets the thread write again.
    pub(super) fn resume(&self) {
        self.ask(Duty::Write);
    }

    /// Makes the thread write a queued state and end.
    pub(super) fn finish(&self) {
        self.ask(Duty::Finish);
    }

    /// Makes the thread end without writing.
    pub(super) fn leave(&self) {
        self.ask(Duty::Leave);
    }

    fn ask(&self, duty: Duty) {
        self.desk().duty = duty;
        self.changed.notify_all();
    }

    /// Locks the directory for this process, unless it has done so.
    fn lock(&self, directory: &Path) -> io::Result<()> {
        if self.desk().lock.is_some() {
            return Ok(());
        }
        // A file system that does not answer must not keep others from the desk.
        let opened = File::open(directory)?;
        match opened.try_lock() {
            Ok(()) => self.desk().lock = Some(opened),
            Err(TryLockError::WouldBlock) => {
                let sentence = "another process keeps its state there";
                return Err(io::Error::new(ErrorKind::ResourceBusy, sentence));
            }
            // A file system without locks: the file is written as if nobody else did.
            Err(TryLockError::Error(_)) => {}
        }
        Ok(())
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, desk: MutexGuard<'a, Desk>, most: Duration) -> MutexGuard<'a, Desk> {
        let waited = self.changed.wait_timeout(desk, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// State of the thread.
pub(super) struct Writer {
    path: PathBuf,
    shared: Arc<Shared>,
    /// Interval of checks of the file, and of retries of a write that failed.
    again: Duration,
    sync: Sync,
    /// File as this process last wrote it.
    on_disk: Option<OnDisk>,
    /// Time before which no newer state is written, unless it is the last.
    rests_until: Option<Instant>,
    /// True if another process had the directory at the last write.
    is_locked_out: bool,
}

/// Written file.
#[derive(Debug)]
struct OnDisk {
    sum: [u8; 32],
    stamp: Stamp,
}

/// Metadata by which a change of a file is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Reason a state is not safe in the file.
#[derive(Debug)]
pub(super) struct Fault {
    error: io::Error,
    /// True if the file was replaced and only the directory entry may be lost.
    replaced: bool,
}

/// Next step of the thread.
enum Step {
    Write(Arc<Compiled>),
    /// Check that the file is as it was written.
    Look,
    Finish(Option<Arc<Compiled>>),
    End,
}

impl Writer {
    pub(super) fn new(path: PathBuf, shared: Arc<Shared>, again: Duration, sync: Sync) -> Self {
        let (on_disk, rests_until, is_locked_out) = (None, None, false);
        Self { path, shared, again, sync, on_disk, rests_until, is_locked_out }
    }

    /// Writes until the thread is asked to end.
    pub(super) fn run(mut self) {
        self.write_all();
        self.shared.desk().lock = None;
    }

    fn write_all(&mut self) {
        let mut newest: Option<Arc<Compiled>> = None;
        loop {
            let step = self.next();
            let is_last = matches!(step, Step::Finish(_));
            let is_newer = match step {
                Step::End => return,
                Step::Look | Step::Finish(None) => false,
                Step::Write(latest) | Step::Finish(Some(latest)) => {
                    newest = Some(latest);
                    true
                }
            };
            if let Some(compiled) = &newest
                && (self.was_changed() || is_newer || self.shared.fault().is_some())
            {
                let began = Instant::now();
                self.keep(compiled);
                let rest = began.elapsed().saturating_mul(REST).min(LONGEST_REST);
                self.rests_until = Some(Instant::now() + rest);
            }
            if is_last {
                return;
            }
        }
    }

    fn next(&self) -> Step {
        let mut desk = self.shared.desk();
        desk.busy = false;
        self.shared.changed.notify_all();
        let until =
            Instant::now() + if self.is_locked_out { LOCKED.min(self.again) } else { self.again };
        loop {
            let now = Instant::now();
            let left = until.saturating_duration_since(now);
            let rest =
                self.rests_until.map_or(Duration::ZERO, |end| end.saturating_duration_since(now));
            let step = match desk.duty {
                Duty::Leave => Some(Step::End),
                Duty::Finish => Some(Step::Finish(desk.latest.take())),
                Duty::Pause => {
                    desk.lock = None;
                    None
                }
                Duty::Write if desk.latest.is_some() && rest.is_zero() => {
                    desk.latest.take().map(Step::Write)
                }
                Duty::Write => left.is_zero().then_some(Step::Look),
            };
            if let Some(step) = step {
                desk.busy = true;
                return step;
            }
            let most = match desk.duty {
                Duty::Pause => self.again,
                _ if desk.latest.is_some() => left.min(rest),
                _ => left,
            };
            desk = self.shared.wait(desk, most);
        }
    }

    /// Returns true if the file is not the one that this process wrote.
    fn was_changed(&mut self) -> bool {
        let Some(written) = &self.on_disk else { return false };
        let found = fs::symlink_metadata(&self.path).map(|metadata| Stamp::of(&metadata));
        if found.is_ok_and(|found| found == written.stamp) {
            return false;
        }
        tracing::warn!(path = %self.path.display(), "the state file was changed or taken away by another process: it is replaced");
        self.on_disk = None;
        true
    }

    /// Writes the state, or without documents as much as fits, and records the result.
    fn keep(&mut self, compiled: &Compiled) {
        let state = compiled.state();
        let left_out = state.left_out().len();
        let Err(fault) = self.replace(&state.to_json()) else {
            if left_out > 0 {
                tracing::warn!(path = %self.path.display(), tenants = left_out, "the last good documents of tenants are too large to be kept: only their claims are");
            }
            if self.shared.desk().fault.take().is_some() {
                tracing::info!(path = %self.path.display(), "the state file is written again");
            }
            return;
        };
        // Without the documents the claims may still fit: one tenant's documents must not cost the others their claims.
        let only_claims = is_about_room(&fault.error)
            && self.replace(&state.without_documents().to_json()).is_ok();
        let kept = match (fault.replaced, only_claims) {
            (true, _) => "claims and documents are written, and a crash of this host may lose them",
            (false, true) => "claims are kept, last good documents are not",
            (false, false) => "neither claims nor documents of now are kept",
        };
        let (error, cure) = (&fault.error, cure(&fault.error));
        let sentence = format!("{error} ({kept}); {cure}");
        let mut desk = self.shared.desk();
        if desk.fault.as_ref() != Some(&sentence) {
            tracing::error!(path = %self.path.display(), %error, only_claims, "cannot write the state file: {kept} for a restart; {cure}");
        }
        desk.fault = Some(sentence);
    }

    /// Replaces the file unless it has these bytes; a state that the next process could not read is not written.
    pub(super) fn replace(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if bytes.len() as u64 > state::LARGEST {
            let error = io::Error::new(ErrorKind::FileTooLarge, "the state is too large");
            return Err(Fault { error, replaced: false });
        }
        let mut sum = [0; 32];
        sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
        if self.on_disk.as_ref().is_some_and(|written| written.sum == sum) {
            return Ok(());
        }
        let directory = self.path.parent().unwrap_or_else(|| Path::new("."));
        let locked = self.shared.lock(directory);
        self.is_locked_out =
            locked.as_ref().is_err_and(|error| error.kind() == ErrorKind::ResourceBusy);
        let written = locked.and_then(|()| write(&self.path, bytes, &self.sync));
        let stamp = written.map_err(|error| Fault { error, replaced: false })?;
        // The new name is safe only once the directory is synced. Until then the same bytes are written again.
        sync_directory(&self.path, &self.sync).map_err(|error| Fault { error, replaced: true })?;
        self.on_disk = Some(OnDisk { sum, stamp });
        Ok(())
    }
}

/// Replaces the file atomically: a crash leaves the old one or the new one.
fn write(path: &Path, bytes: &[u8], sync: &Sync) -> io::Result<Stamp> {
    let temporary = path.with_file_name(format!("{UNFINISHED}{}", std::process::id()));
    let outcome = (|| {
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        sync(&file)?;
        let stamp = Stamp::of(&file.metadata()?);
        match fs::rename(&temporary, path) {
            Err(error) if error.kind() == ErrorKind::IsADirectory => {
                let aside = set_aside(path)?;
                tracing::error!(path = %path.display(), aside = %aside.display(), "a directory had the name of the state file: it was renamed");
                fs::rename(&temporary, path)?;
            }
            renamed => renamed?,
        }
        Ok(stamp)
    })();
    if outcome.is_err() {
        drop(fs::remove_file(&temporary));
    }
    outcome
}

fn sync_directory(path: &Path, sync: &Sync) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| sync(&File::open(parent)?))
}

/// Returns true if a smaller file might be written.
fn is_about_room(error: &io::Error) -> bool {
    use ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Returns the cure for the error.
fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free space there or name another --state-dir"
        }
        ErrorKind::FileTooLarge if error.raw_os_error().is_some() => {
            "raise the limit of file sizes (LimitFSIZE=, ulimit -f)"
        }
        ErrorKind::FileTooLarge => "make documents smaller",
        ErrorKind::PermissionDenied => {
            "let the user of the gateway read and write the directory, or name another --state-dir"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "make the file system writable or name another --state-dir"
        }
        ErrorKind::ResourceBusy => "give each gateway a --state-dir of its own",
        ErrorKind::NotFound => "make the directory or name another --state-dir",
        _ => "look at the disk (dmesg) or name another --state-dir",
    }
}
