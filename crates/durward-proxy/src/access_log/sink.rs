//! Where finished lines go: a writer thread behind a bounded channel. Full means lost and counted, never waited for.
//!
//! Deliberately absent: rotation. Whoever rotates the file calls [`Sink::reopen`].

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::Buffer;

/// Buffers waiting for the writer at most: about four megabytes.
const WAITING: usize = 128;

/// A clone is another handle to the same writer.
#[derive(Clone, Default)]
pub struct Sink(Option<Arc<Shared>>);

struct Shared {
    sender: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    Lines(Vec<u8>, u64),
    Reopen,
    Close,
}

/// The lines a [`Sink::memory`] took, for tests.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// All complete lines so far.
    #[must_use]
    pub fn read(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }

    /// Nothing is written while this is held.
    #[cfg(test)]
    pub(super) fn hold(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    /// No access log.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// To standard output.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn stdout() -> io::Result<Self> {
        Self::start(Target::Stdout)
    }

    /// To the end of a file, which is made when it is not there.
    ///
    /// # Errors
    /// When it cannot be opened, or no thread can be started.
    pub fn file(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = append(&path)?;
        Self::start(Target::File { path, file })
    }

    /// Into memory.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn memory() -> io::Result<(Self, Lines)> {
        let lines = Lines::default();
        Ok((Self::start(Target::Memory(lines.clone()))?, lines))
    }

    /// How many lines were lost because the writer did not keep up or could not write.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.lost.load(Relaxed))
    }

    /// Opens the file again under its name, after whoever rotates logs has moved it. Lines handed over before go to the old file.
    pub fn reopen(&self) {
        self.send(Message::Reopen);
    }

    /// Waits until everything handed over is written, and ends the writer. Lines that come later are lost and counted.
    pub fn close(&self) {
        let Some(shared) = &self.0 else { return };
        self.send(Message::Close);
        let thread = shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _panicked = thread.join();
        }
    }

    /// A core's own buffer.
    pub(crate) fn buffer(&self) -> Buffer {
        Buffer::new(self.clone())
    }

    /// Whether lines need be made at all.
    pub(super) fn wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Hands lines over if there is room.
    pub(super) fn offer(&self, bytes: Vec<u8>, lines: u64) {
        let Some(shared) = &self.0 else { return };
        match shared.sender.try_send(Message::Lines(bytes, lines)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                shared.lost.fetch_add(lines, Relaxed);
            }
        }
    }

    /// Hands lines over and waits for room.
    pub(super) fn insist(&self, bytes: Vec<u8>, lines: u64) {
        let Some(shared) = &self.0 else { return };
        if shared.sender.send(Message::Lines(bytes, lines)).is_err() {
            shared.lost.fetch_add(lines, Relaxed);
        }
    }

    fn send(&self, message: Message) {
        if let Some(shared) = &self.0 {
            let _closed_already = shared.sender.send(message);
        }
    }

    fn start(target: Target) -> io::Result<Self> {
        let (sender, messages) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let thread = std::thread::Builder::new()
            .name("durward-log".to_owned())
            .spawn(move || write(target, &messages, &counted))?;
        Ok(Self(Some(Arc::new(Shared { sender, lost, thread: Mutex::new(Some(thread)) }))))
    }
}

/// The last handle writes out what is left.
impl Drop for Shared {
    fn drop(&mut self) {
        let _closed_already = self.sender.send(Message::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _panicked = thread.join();
        }
    }
}

enum Target {
    Stdout,
    File { path: PathBuf, file: File },
    Memory(Lines),
}

fn write(mut target: Target, messages: &Receiver<Message>, lost: &AtomicU64) {
    let mut failing = false;
    for message in messages {
        match message {
            Message::Lines(bytes, lines) => match target.write(&bytes) {
                Ok(()) => failing = false,
                Err(error) => {
                    lost.fetch_add(lines, Relaxed);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "the access log cannot be written; lines are lost and counted");
                    }
                }
            },
            Message::Reopen => {
                if let Err(error) = target.reopen() {
                    tracing::error!(%error, "the access log cannot be opened again; the old file is kept");
                }
            }
            Message::Close => return,
        }
    }
}

impl Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Self::File { file, .. } => file.write_all(bytes),
            Self::Memory(Lines(lines)) => {
                lines.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
                Ok(())
            }
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { path, file } = self {
            *file = append(path)?;
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
