//! The state file: who holds what and the last good documents, written beside the serving and read at the next start.
//!
//! Nothing waits for it. A file that cannot be written is reported and tried again; one whose content is of no use is set aside, and one that
//! cannot be read keeps the process from starting: whoever holds a claim must not lose it in silence.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use durward_control::{Compiled, State, state};

use crate::failure::Failure;

/// The name of the file in the state directory.
const NAME: &str = "claims.json";
/// The first part of the name of a file that was set aside.
const ASIDE: &str = "claims.unreadable";
/// Between two tries of a file that could not be written.
const AGAIN: Duration = Duration::from_secs(30);

/// Writes the latest state whenever there is a newer one.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    shared: Arc<(Mutex<Desk>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Condition of the state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// A description of what is kept, or what keeps the file from being written.
    pub(crate) kept: Result<String, String>,
    /// Files of earlier processes that were set aside and are still there.
    pub(crate) aside: Vec<PathBuf>,
}

/// What the writing thread is given, and what became of it.
#[derive(Debug, Default)]
struct Desk {
    latest: Option<Arc<Compiled>>,
    fault: Option<String>,
    ended: bool,
}

impl StateFile {
    /// Starts the thread that writes the file in `directory`.
    pub(crate) fn start(directory: &Path) -> io::Result<Self> {
        let path = directory.join(NAME);
        let shared: Arc<(Mutex<Desk>, Condvar)> = Arc::default();
        let (of_thread, target) = (Arc::clone(&shared), path.clone());
        let thread = std::thread::Builder::new().name("durward-state".to_owned());
        let thread = thread.spawn(move || write_all(&of_thread, &target))?;
        Ok(Self { path, shared, thread: Mutex::new(Some(thread)) })
    }

    /// Has the state of `compiled` written; a state that still waits is not written any more.
    pub(crate) fn save(&self, compiled: &Arc<Compiled>) {
        desk(&self.shared).latest = Some(Arc::clone(compiled));
        self.shared.1.notify_all();
    }

    /// Returns how the file is, what keeps it from being written, and what was set aside.
    pub(crate) fn status(&self) -> Status {
        let path = self.path.display();
        let kept = match &desk(&self.shared).fault {
            None => Ok(format!("claims and last good documents are kept in {path}")),
            Some(fault) => Err(format!("{path} cannot be written: {fault}")),
        };
        Status { kept, aside: self.path.parent().map_or_else(Vec::new, aside) }
    }

    /// Writes what waits and ends the thread. A younger process writes from now on.
    pub(crate) fn close(&self) {
        desk(&self.shared).ended = true;
        self.shared.1.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic there is reported by its hook.
            drop(thread.join());
        }
    }
}

fn desk(shared: &(Mutex<Desk>, Condvar)) -> MutexGuard<'_, Desk> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_all(shared: &(Mutex<Desk>, Condvar), path: &Path) {
    let mut written: Vec<u8> = Vec::new();
    let mut failed: Option<Arc<Compiled>> = None;
    loop {
        let Some(compiled) = next(shared, failed.take()) else { return };
        let state = compiled.state();
        let left_out = state.left_out().len();
        let outcome = write_new(path, &state.to_json(), &mut written).map_err(|error| {
            // One tenant's documents must not cost the others their claims.
            let claims = state.without_documents().to_json();
            let only_claims = write_new(path, &claims, &mut written).is_ok();
            (error, only_claims)
        });
        let mut desk = desk(shared);
        match outcome {
            Ok(()) => {
                if left_out > 0 {
                    tracing::warn!(path = %path.display(), tenants = left_out, "the last good documents of tenants are too large to be kept: only their claims are");
                }
                if desk.fault.take().is_some() {
                    tracing::info!(path = %path.display(), "the state file is written again");
                }
            }
            Err((error, only_claims)) => {
                let kept = if only_claims {
                    "claims are kept, last good documents are not"
                } else {
                    "neither claims nor documents are kept"
                };
                let fault = format!("{error} ({kept})");
                if desk.fault.as_ref() != Some(&fault) {
                    tracing::error!(path = %path.display(), %error, only_claims, "cannot write the state file: {kept} for a restart; free space there or name another --state-dir");
                }
                desk.fault = Some(fault);
                failed = Some(compiled);
            }
        }
    }
}

/// Replaces the file unless it has these bytes; one that the next process would not read is not written.
fn write_new(path: &Path, bytes: &[u8], written: &mut Vec<u8>) -> io::Result<()> {
    if bytes == written.as_slice() {
        return Ok(());
    }
    if bytes.len() as u64 > state::LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the state is too large"));
    }
    write(path, bytes)?;
    bytes.clone_into(written);
    Ok(())
}

/// Waits for something to write; `None` when there is no more. What failed before is tried again after a while.
fn next(shared: &(Mutex<Desk>, Condvar), failed: Option<Arc<Compiled>>) -> Option<Arc<Compiled>> {
    let mut desk = desk(shared);
    loop {
        if let Some(latest) = desk.latest.take() {
            return Some(latest);
        }
        if desk.ended {
            return None;
        }
        let (woken, timeout) =
            shared.1.wait_timeout(desk, AGAIN).unwrap_or_else(PoisonError::into_inner);
        desk = woken;
        if timeout.timed_out() && desk.latest.is_none() && failed.is_some() {
            return failed;
        }
    }
}

/// Replaces the file as a whole: a crash leaves the old one or the new one.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("new.{}", std::process::id()));
    let outcome = (|| {
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The name is safe only with the directory.
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    })();
    if outcome.is_err() {
        drop(fs::remove_file(&temporary));
    }
    outcome
}

/// Reads the state of an earlier process; one whose content is of no use is reported and set aside.
///
/// # Errors
/// When the file cannot be read, or not be set aside: the claims in it must not be overwritten.
pub(crate) fn read(directory: &Path) -> Result<Option<State>, Failure> {
    let path = directory.join(NAME);
    let fault = match contents(&path) {
        Ok(bytes) => match State::from_json(&bytes) {
            Ok(state) => return Ok(Some(state)),
            Err(fault) => fault.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Our own verdict about what is there; the system has no word for it.
        Err(error) if error.raw_os_error().is_none() => error.to_string(),
        Err(error) => return Err(unread(&path, &error)),
    };
    let aside = free_name(directory).and_then(|aside| fs::rename(&path, &aside).map(|()| aside));
    let aside =
        aside.map_err(|error| unread(&path, &format!("{fault}, and not set aside: {error}")))?;
    tracing::error!(path = %path.display(), aside = %aside.display(), error = fault, "cannot use the state file, which is set aside: claims are decided anew");
    Ok(None)
}

fn unread(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    let message = format!(
        "cannot read the state file {}: {why}; make it readable for the user of the gateway, or move it away to decide all claims anew",
        path.display()
    );
    Failure::InvalidConfig { message }
}

/// Returns a name that no file that was set aside has.
fn free_name(directory: &Path) -> io::Result<PathBuf> {
    let first = std::iter::once(directory.join(ASIDE));
    let more = (2..=1000).map(|number| directory.join(format!("{ASIDE}.{number}")));
    for name in first.chain(more) {
        match fs::symlink_metadata(&name) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(name),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many files were set aside: remove them"))
}

/// Returns what was set aside in the directory, in the order of names.
fn aside(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let aside = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(ASIDE));
    let mut aside: Vec<PathBuf> = aside.map(|entry| entry.path()).collect();
    aside.sort();
    aside
}

/// Reads the state of a gateway that runs or ran, and changes nothing; `None` where there is none yet.
///
/// # Errors
/// When there is one that cannot be used.
pub(crate) fn look(directory: &Path) -> Result<Option<State>, Failure> {
    let path = directory.join(NAME);
    let unusable = |why: &dyn std::fmt::Display| {
        let message = format!(
            "cannot use {}: {why}; look as the user of the gateway, or say --state-dir off to decide all claims anew",
            path.display()
        );
        Failure::InvalidConfig { message }
    };
    match contents(&path) {
        Ok(bytes) => State::from_json(&bytes).map(Some).map_err(|fault| unusable(&fault)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(&error)),
    }
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    // What is no file is not opened: opening a device may act on it, and some cannot be.
    let unfit = || io::Error::new(io::ErrorKind::InvalidData, "not a file of a state's size");
    if !fs::metadata(path)?.is_file() {
        return Err(unfit());
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > state::LARGEST {
        return Err(unfit());
    }
    let mut bytes = Vec::new();
    file.take(state::LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_state_file_is_whole_private_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::start(directory.path()).unwrap();

        file.save(&Arc::new(Compiled::default()));
        file.close();

        let path = directory.path().join(NAME);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(directory.path()).unwrap(), Some(Compiled::default().state()));
        assert_eq!(look(directory.path()).unwrap(), Some(Compiled::default().state()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(file.status().kept.is_ok() && file.status().aside.is_empty());
    }

    #[test]
    fn a_damaged_state_file_is_set_aside_and_a_missing_directory_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let damaged =
            ["", "{", "{\"version\":99,\"texts\":[],\"tenants\":[],\"mappings\":[]}", "[]"];
        for (at, damaged) in damaged.into_iter().enumerate() {
            fs::write(&path, damaged).unwrap();

            assert!(look(directory.path()).is_err() && path.exists(), "{damaged}");
            assert_eq!(read(directory.path()).unwrap(), None, "{damaged}");

            assert!(!path.exists(), "{damaged}");
            assert_eq!(aside(directory.path()).len(), at + 1, "none is overwritten: {damaged}");
        }
        assert_eq!(fs::read(directory.path().join("claims.unreadable.2")).unwrap(), b"{");
        fs::create_dir(&path).unwrap();
        assert_eq!(read(directory.path()).unwrap(), None, "a directory");
        let large = File::create(&path).unwrap();
        large.set_len(state::LARGEST + 1).unwrap();
        assert_eq!(read(directory.path()).unwrap(), None, "a large file");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        assert_eq!(read(directory.path()).unwrap(), None, "a FIFO");
        assert_eq!(aside(directory.path()).len(), 7);

        // They are told of also after a state was written.
        let file = StateFile::start(directory.path()).unwrap();
        file.save(&Arc::new(Compiled::default()));
        file.close();
        assert!(path.exists() && file.status().kept.is_ok());
        assert_eq!(file.status().aside.len(), 7);

        let nowhere = StateFile::start(&directory.path().join("nowhere")).unwrap();
        nowhere.save(&Arc::new(Compiled::default()));
        while nowhere.status().kept.is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
        nowhere.close();
    }

    #[test]
    fn a_state_file_that_cannot_be_read_keeps_the_process_from_starting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        // A link to itself cannot be read by root either.
        std::os::unix::fs::symlink(&path, &path).unwrap();

        let failure = read(directory.path()).unwrap_err().to_string();

        assert!(failure.contains("claims.json") && failure.contains("make it readable"));
        assert!(fs::symlink_metadata(&path).is_ok() && aside(directory.path()).is_empty());
    }

    #[test]
    fn a_state_that_is_too_large_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let largest = usize::try_from(state::LARGEST).unwrap();

        assert!(write_new(&path, &vec![b' '; largest + 1], &mut Vec::new()).is_err());

        assert!(!path.exists());
    }
}
