//! The state file: claims and the last good documents, written during operation and read at the next start.
//!
//! Nothing waits for the file. A file that cannot be written is reported and retried; one with unusable content is set aside, and one that cannot be
//! read keeps the process from starting: the holder of a claim must not lose it silently.

mod writer;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use durward_control::{Compiled, State, state};

use crate::failure::Failure;
use writer::{Shared, Writer};

/// Name of the file in the state directory.
const NAME: &str = "claims.json";
/// Prefix of a file that a process is writing; its id follows.
const UNFINISHED: &str = "claims.new.";
/// Prefix of a file that was set aside.
const ASIDE: &str = "claims.unreadable";
/// Interval of checks of the file, and of retries of a write that failed.
const AGAIN: Duration = Duration::from_secs(30);

/// Writer of the latest state.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Status of the state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// Description of the state in the file, or the fault that keeps it from being written.
    pub(crate) kept: Result<String, String>,
    /// Files of earlier processes that were set aside and still exist.
    pub(crate) aside: Vec<PathBuf>,
}

impl StateFile {
    /// Starts the thread that writes the file in `directory`.
    pub(crate) fn start(directory: &Path) -> io::Result<Self> {
        Self::start_with(directory, AGAIN, Box::new(File::sync_all))
    }

    fn start_with(directory: &Path, again: Duration, sync: writer::Sync) -> io::Result<Self> {
        remove_unfinished(directory);
        let path = directory.join(NAME);
        let shared: Arc<Shared> = Arc::default();
        let writer = Writer::new(path.clone(), Arc::clone(&shared), again, sync);
        let thread = std::thread::Builder::new().name("durward-state".to_owned());
        let thread = thread.spawn(move || writer.run())?;
        Ok(Self { path, shared, thread: Mutex::new(Some(thread)) })
    }

    /// Queues the state of `compiled` for writing; it replaces one that still waits.
    pub(crate) fn save(&self, compiled: &Arc<Compiled>) {
        self.shared.save(compiled);
    }

    /// Returns the status, with faults and files that were set aside.
    pub(crate) fn status(&self) -> Status {
        let path = self.path.display();
        let kept = match self.shared.fault() {
            None => Ok(format!("claims and last good documents are kept in {path}")),
            Some(fault) => Err(format!("{path} cannot be written: {fault}")),
        };
        Status { kept, aside: self.path.parent().map_or_else(Vec::new, aside) }
    }

    /// Keeps this process from writing while a younger one starts, which writes the file once it serves.
    pub(crate) fn pause(&self) {
        self.shared.pause();
    }

    /// Resumes writing: no younger process took over.
    pub(crate) fn resume(&self) {
        self.shared.resume();
    }

    /// Ends the thread without writing a queued state: a younger process writes from now on, and its state is newer.
    pub(crate) fn leave(&self) {
        self.shared.leave();
        self.join();
    }

    /// Writes a queued state and ends the thread.
    pub(crate) fn close(&self) {
        self.shared.finish();
        self.join();
    }

    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the thread was reported by its hook.
            drop(thread.join());
        }
    }
}

/// Removes unfinished files of processes that ended while they wrote: a full disk needs the space.
fn remove_unfinished(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(UNFINISHED));
        let process = process.filter(|digits| digits.parse::<u32>().is_ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // A file that cannot be removed does no harm to the state.
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Reads the state of an earlier process; a file with unusable content is reported and set aside.
///
/// # Errors
/// Fails if the file cannot be read, or cannot be set aside: the claims in it must not be overwritten.
pub(crate) fn read(directory: &Path) -> Result<Option<State>, Failure> {
    let path = directory.join(NAME);
    let fault = match contents(&path) {
        Ok(bytes) => match State::from_json(&bytes) {
            Ok(state) => return Ok(Some(state)),
            Err(fault) => fault.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // An error without an errno is our own, with a complete message.
        Err(error) if error.raw_os_error().is_none() => error.to_string(),
        Err(error) => return Err(unread(&path, &error)),
    };
    let aside = set_aside(&path)
        .map_err(|error| unread(&path, &format!("{fault}, and not set aside: {error}")))?;
    tracing::error!(path = %path.display(), aside = %aside.display(), error = fault, "cannot use the state file, which is set aside: claims are decided anew");
    Ok(None)
}

fn unread(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    let message = format!(
        "cannot read the state file {}: {why}; make it readable for the user of the gateway, or move it away to decide all claims again",
        path.display()
    );
    Failure::InvalidConfig { message }
}

/// Renames the state file, and returns the new name.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = free_name(path.parent().unwrap_or_else(|| Path::new(".")))?;
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Returns an unused name for a file to set aside.
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

/// Returns the files in the directory that were set aside, in the order of names.
fn aside(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let aside = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(ASIDE));
    let mut aside: Vec<PathBuf> = aside.map(|entry| entry.path()).collect();
    aside.sort();
    aside
}

/// Reads the state of a gateway that runs or ran, and changes nothing; `None` if there is none yet.
///
/// # Errors
/// Fails if the file cannot be used.
pub(crate) fn look(directory: &Path) -> Result<Option<State>, Failure> {
    let path = directory.join(NAME);
    let unusable = |why: &dyn std::fmt::Display| {
        let message = format!(
            "cannot use {}: {why}; look as the user of the gateway, or set --state-dir off to decide all claims again",
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
    // Only regular files are opened: opening a device may act on it, and a FIFO may block.
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
mod tests;
