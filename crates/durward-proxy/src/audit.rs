//! The audit file: decisions as a hash chain, written before what they allow begins.
//!
//! One thread writes for all cores, and records that arrive during a write form the next one. Records that cannot be kept are counted, and the file
//! itself says so.

pub mod chain;
mod file;
pub mod index;
mod lines;
mod siblings;
mod tail;
pub mod verify;
pub mod who;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use self::file::AuditFile;
pub use self::siblings::rotated;
use crate::refusal::NotRecorded;

/// Bytes queued for the writer at most; records beyond that are lost, counted and noted in the file.
const WAITING: usize = 16 * 1024 * 1024;
/// Bytes of records per write at most.
const BATCH: usize = 1024 * 1024;
/// Longest wait of a request for its record to be written.
const PATIENCE: Duration = Duration::from_secs(5);
/// Interval of retries after a failed write, while no new record arrives.
const AGAIN: Duration = Duration::from_secs(1);
/// Interval of index updates.
const INDEXED_EVERY: Duration = Duration::from_secs(10);
/// Pause of the writer after a failed write; records that arrive meanwhile fail only after the next try.
const REST: Duration = Duration::from_millis(50);

/// Point at which a record counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After `write`: the record survives the end of the process, however that ends.
    #[default]
    Kernel,
    /// After `fdatasync`: the record survives a power failure too.
    Disk,
}

/// State of the audit file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Records written since the start, the file's own notes included.
    pub written: u64,
    /// Records lost since the start.
    pub lost: u64,
    /// The number of the last record.
    pub sequence: u64,
    /// True if the last write failed.
    pub failing: bool,
}

/// An open audit file. A clone is another handle to the same writer.
#[derive(Clone)]
pub struct Audit(Arc<Shared>);

struct Shared {
    path: PathBuf,
    sender: Mutex<Sender<Message>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Keeps the indexer running until dropped.
    indexing: Mutex<Option<Sender<()>>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    waiting: AtomicUsize,
    written: AtomicU64,
    lost: AtomicU64,
    sequence: AtomicU64,
    failing: AtomicBool,
}

enum Message {
    Records { bytes: Vec<u8>, lines: u64, done: Option<oneshot::Sender<()>> },
    Follow,
    Close,
}

/// Handle of one core to the writer.
pub(crate) struct Courier {
    sender: Sender<Message>,
    state: Arc<State>,
}

impl Audit {
    /// Opens the file, creates it if it does not exist, and continues its chain.
    ///
    /// # Errors
    /// Fails if the file cannot be opened or written, is not an audit file, or no thread can be started.
    pub fn open(path: impl AsRef<Path>, durability: Durability) -> io::Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = AuditFile::open(&path, durability)?;
        let state = Arc::new(State::default());
        state.sequence.store(file.sequence(), Relaxed);
        state.written.store(file.written(), Relaxed);
        let (sender, messages) = channel();
        let shared = Arc::clone(&state);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let keeper =
            thread("durward-audit").spawn(move || Keeper::new(file, shared).run(&messages))?;
        let (indexing, going_on) = channel();
        let indexed = path.clone();
        let indexer = thread("durward-index").spawn(move || keep_index(&indexed, &going_on))?;
        Ok(Self(Arc::new(Shared {
            path,
            sender: Mutex::new(sender),
            threads: Mutex::new(vec![keeper, indexer]),
            indexing: Mutex::new(Some(indexing)),
            state,
        })))
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Returns the current state.
    #[must_use]
    pub fn status(&self) -> Status {
        let State { written, lost, sequence, failing, .. } = &*self.0.state;
        Status {
            written: written.load(Relaxed),
            lost: lost.load(Relaxed),
            sequence: sequence.load(Relaxed),
            failing: failing.load(Relaxed),
        }
    }

    /// Checks now whether the file was moved away, and begins the next one. Every write checks that too.
    pub fn follow(&self) {
        self.0.tell(Message::Follow);
    }

    /// Waits until everything handed over is written, and ends the writer. Records that come later are lost and counted.
    pub fn close(&self) {
        self.0.close();
    }

    /// Creates a core's own handle to the writer.
    pub(crate) fn courier(&self) -> Courier {
        let sender = self.0.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Courier { sender, state: Arc::clone(&self.0.state) }
    }
}

impl Shared {
    fn tell(&self, message: Message) {
        // Fails only after the writer has ended.
        let _ = self.sender.lock().unwrap_or_else(PoisonError::into_inner).send(message);
    }

    fn close(&self) {
        self.tell(Message::Close);
        drop(self.indexing.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// Writes out what is queued when the last handle is dropped.
impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

impl Courier {
    /// Hands records over without waiting.
    pub(crate) fn bring(&self, bytes: Vec<u8>, lines: u64) {
        self.hand_over(bytes, lines, None);
    }

    /// Hands records over and waits until they, and all handed over before, are written.
    pub(crate) async fn commit(&self, bytes: Vec<u8>, lines: u64) -> Result<(), NotRecorded> {
        let (done, written) = oneshot::channel();
        self.hand_over(bytes, lines, Some(done));
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(NotRecorded),
        }
    }

    fn hand_over(&self, bytes: Vec<u8>, lines: u64, done: Option<oneshot::Sender<()>>) {
        let length = bytes.len();
        let waiting = self.state.waiting.fetch_add(length, Relaxed);
        let refused = waiting + length > WAITING
            || self.sender.send(Message::Records { bytes, lines, done }).is_err();
        if refused {
            self.state.waiting.fetch_sub(length, Relaxed);
            self.state.lost.fetch_add(lines, Relaxed);
        }
    }
}

/// Updates the index at intervals, so that `who` answers at once.
fn keep_index(path: &Path, going_on: &Receiver<()>) {
    // Lowers the indexer's priority; a failure is harmless.
    let _refused = rustix::process::nice(10);
    let goes_on = || matches!(going_on.try_recv(), Err(TryRecvError::Empty));
    while going_on.recv_timeout(INDEXED_EVERY) == Err(RecvTimeoutError::Timeout) {
        if let Err(error) = index::refresh(path, &mut |_, _| goes_on()) {
            tracing::debug!(%error, "the index of the audit file is not up to date");
        }
    }
}

/// Writer thread.
struct Keeper {
    file: AuditFile,
    state: Arc<State>,
    batch: Vec<u8>,
    lines: u64,
    waiting: Vec<oneshot::Sender<()>>,
    closing: bool,
}

impl Keeper {
    fn new(file: AuditFile, state: Arc<State>) -> Self {
        Self { file, state, batch: Vec::new(), lines: 0, waiting: Vec::new(), closing: false }
    }

    fn run(mut self, messages: &Receiver<Message>) {
        while !self.closing {
            let first = if self.batch.is_empty() {
                messages.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                messages.recv_timeout(AGAIN)
            };
            match first {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Disconnected) => self.closing = true,
                Err(RecvTimeoutError::Timeout) => {}
            }
            while self.batch.len() < BATCH
                && let Ok(message) = messages.try_recv()
            {
                self.take(message);
            }
            self.write();
        }
        self.state.lost.fetch_add(self.lines, Relaxed);
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Records { bytes, lines, done } => {
                self.batch.extend(bytes);
                self.lines += lines;
                self.waiting.extend(done);
            }
            Message::Follow => {}
            Message::Close => self.closing = true,
        }
    }

    /// Writes the batch. A failed batch stays for the next try; waiting requests are answered at once, because they must not begin.
    fn write(&mut self) {
        let written = self.file.append(&self.batch, self.state.lost.load(Relaxed));
        self.state.sequence.store(self.file.sequence(), Relaxed);
        self.state.written.store(self.file.written(), Relaxed);
        let failed_before = self.state.failing.swap(written.is_err(), Relaxed);
        match written {
            Ok(()) => {
                self.state.waiting.fetch_sub(self.batch.len(), Relaxed);
                self.batch.clear();
                self.batch.shrink_to(2 * BATCH);
                self.lines = 0;
                for done in self.waiting.drain(..) {
                    let _given_up_waiting = done.send(());
                }
                if failed_before {
                    tracing::info!("the audit file can be written again");
                }
            }
            Err(error) => {
                // Dropping the senders fails the waiting requests; their records stay in the batch.
                self.waiting.clear();
                if !failed_before {
                    tracing::error!(%error, "the audit file cannot be written; nothing new is let out until it can");
                }
                std::thread::sleep(REST);
            }
        }
    }
}
