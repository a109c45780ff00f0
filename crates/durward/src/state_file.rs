//! The state file: who holds what and the last good documents, written beside the serving and read at the next start.
//!
//! Nothing waits for it. A file that cannot be written is reported and tried again; one that cannot be read is set aside.

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
/// Between two tries of a file that could not be written.
const AGAIN: Duration = Duration::from_secs(30);

/// Writes the latest state whenever there is a newer one.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    shared: Arc<(Mutex<Desk>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
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

    /// Returns how the file is, and what keeps it from being written.
    pub(crate) fn status(&self) -> Result<String, String> {
        let path = self.path.display();
        match &desk(&self.shared).fault {
            None => Ok(format!("claims and last good documents are kept in {path}")),
            Some(fault) => Err(format!("{path} cannot be written: {fault}")),
        }
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
        let bytes = state.to_json();
        if bytes == written {
            desk(shared).fault = None;
            continue;
        }
        let outcome = write(path, &bytes);
        let mut desk = desk(shared);
        match outcome {
            Ok(()) => {
                if state.lacks_documents() {
                    tracing::warn!(path = %path.display(), "the last good documents are too large to be kept: only claims are");
                }
                if desk.fault.take().is_some() {
                    tracing::info!(path = %path.display(), "the state file is written again");
                }
                written = bytes;
            }
            Err(error) => {
                if desk.fault.is_none() {
                    tracing::error!(path = %path.display(), %error, "cannot write the state file: after a restart claims are decided anew; free space there or name another --state-dir");
                }
                desk.fault = Some(error.to_string());
                failed = Some(compiled);
            }
        }
    }
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

/// Reads the state of an earlier process; one that cannot be used is reported and set aside.
pub(crate) fn read(directory: &Path) -> Option<State> {
    let path = directory.join(NAME);
    let bytes = match contents(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot read the state file: claims are decided anew");
            return None;
        }
    };
    match State::from_json(&bytes) {
        Ok(state) => Some(state),
        Err(error) => {
            let aside = path.with_extension("unreadable");
            let moved = fs::rename(&path, &aside).is_ok();
            tracing::error!(path = %path.display(), %error, moved, aside = %aside.display(), "cannot use the state file: claims are decided anew");
            None
        }
    }
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
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > state::LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file of a state's size"));
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
        assert_eq!(read(directory.path()), Some(Compiled::default().state()));
        assert_eq!(look(directory.path()).unwrap(), Some(Compiled::default().state()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(file.status().is_ok());
    }

    #[test]
    fn a_damaged_state_file_is_set_aside_and_a_missing_directory_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        for damaged in
            ["", "{", "{\"version\":99,\"texts\":[],\"tenants\":[],\"mappings\":[]}", "[]"]
        {
            fs::write(&path, damaged).unwrap();

            assert!(look(directory.path()).is_err() && path.exists(), "{damaged}");
            assert_eq!(read(directory.path()), None, "{damaged}");

            assert!(!path.exists() && path.with_extension("unreadable").exists(), "{damaged}");
        }
        fs::create_dir(&path).unwrap();
        assert_eq!(read(directory.path()), None, "a directory");

        let nowhere = StateFile::start(&directory.path().join("nowhere")).unwrap();
        nowhere.save(&Arc::new(Compiled::default()));
        while nowhere.status().is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
        nowhere.close();
    }
}
