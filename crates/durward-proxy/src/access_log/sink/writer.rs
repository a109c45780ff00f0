//! One thread that writes lines to one target, and the bounded channel to it.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::remote::Remote;
use super::{Lines, append};

/// Buffers queued at most, and bytes in them: a line may be longer than a buffer usually is.
const WAITING: usize = 128;
const WAITING_BYTES: usize = 4 * 1024 * 1024;

pub(super) struct Writer {
    kind: &'static str,
    sender: SyncSender<Message>,
    /// Bytes of queued lines.
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
    failing: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    Lines(Vec<u8>, u64),
    Reopen,
    Close,
}

pub(super) enum Target {
    Stdout,
    File { path: PathBuf, file: File },
    Memory(Lines),
    Remote(Remote),
}

impl Writer {
    pub(super) fn start(kind: &'static str, target: Target) -> io::Result<Self> {
        let (sender, messages) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let failing = Arc::new(AtomicBool::new(false));
        let (counted, shown) = (Arc::clone(&lost), Arc::clone(&failing));
        let waiting = Arc::new(AtomicUsize::new(0));
        let queue = Arc::clone(&waiting);
        let thread = std::thread::Builder::new()
            .name("durward-log".to_owned())
            .spawn(move || Loop::new(target, &counted, (&queue, &shown)).run(&messages))?;
        Ok(Self { kind, sender, waiting, lost, failing, thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Returns whether the last write, or the last reopening of the file, failed.
    pub(super) fn failing(&self) -> bool {
        self.failing.load(Relaxed)
    }

    pub(super) fn offer(&self, bytes: Vec<u8>, lines: u64) {
        let length = bytes.len();
        let before = self.waiting.fetch_add(length, Relaxed);
        // An empty queue accepts a buffer of any size, so that a long line is not lost for ever.
        let fits = before == 0 || before + length <= WAITING_BYTES;
        let sent = fits && self.sender.try_send(Message::Lines(bytes, lines)).is_ok();
        if !sent {
            self.give_up(length, lines);
        }
    }

    pub(super) fn insist(&self, bytes: Vec<u8>, lines: u64) {
        let length = bytes.len();
        self.waiting.fetch_add(length, Relaxed);
        if self.sender.send(Message::Lines(bytes, lines)).is_err() {
            self.give_up(length, lines);
        }
    }

    fn give_up(&self, bytes: usize, lines: u64) {
        self.waiting.fetch_sub(bytes, Relaxed);
        self.lost.fetch_add(lines, Relaxed);
    }

    pub(super) fn reopen(&self) {
        // Fails only after the writer was closed.
        let _closed_already = self.sender.send(Message::Reopen);
    }

    pub(super) fn close(&self) {
        let _closed_already = self.sender.send(Message::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _panicked = thread.join();
        }
    }
}

/// Writes out what is queued when the last handle is dropped.
impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

struct Loop<'a> {
    target: Target,
    lost: &'a AtomicU64,
    waiting: &'a AtomicUsize,
    failing: bool,
    /// True if the file could not be reopened by name, so that lines go to the old one.
    detached: bool,
    /// Published value of `failing || detached`, for readers outside the thread.
    shown: &'a AtomicBool,
}

impl<'a> Loop<'a> {
    fn new(
        target: Target,
        lost: &'a AtomicU64,
        (waiting, shown): (&'a AtomicUsize, &'a AtomicBool),
    ) -> Self {
        Self { target, lost, waiting, failing: false, detached: false, shown }
    }

    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let message = match self.target.due() {
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => messages.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match message {
                Ok(Message::Lines(bytes, lines)) => {
                    self.write(&bytes, lines);
                    self.waiting.fetch_sub(bytes.len(), Relaxed);
                }
                Ok(Message::Reopen) => self.reopen(),
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.again(),
            }
            self.shown.store(self.failing || self.detached || self.target.due().is_some(), Relaxed);
        }
        if let Target::Remote(remote) = &mut self.target {
            self.lost.fetch_add(remote.finish(), Relaxed);
        }
    }

    fn write(&mut self, bytes: &[u8], lines: u64) {
        match self.target.write(bytes) {
            Ok(lost) => {
                self.lost.fetch_add(lost, Relaxed);
                self.failing = false;
            }
            Err(error) => {
                self.lost.fetch_add(lines, Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "a log cannot be written; lines are lost and counted");
                }
            }
        }
    }

    fn again(&mut self) {
        if let Target::Remote(remote) = &mut self.target {
            self.lost.fetch_add(remote.deliver(), Relaxed);
        }
    }

    fn reopen(&mut self) {
        if let Target::File { path, file } = &mut self.target {
            match append(path) {
                Ok(opened) => {
                    *file = opened;
                    self.detached = false;
                }
                Err(error) => {
                    self.detached = true;
                    tracing::error!(%error, "a log cannot be opened again; the old file is kept");
                }
            }
        }
    }
}

impl Target {
    /// Writes lines. Returns the number of lines that were given up.
    fn write(&mut self, bytes: &[u8]) -> io::Result<u64> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()?;
            }
            Self::File { file, .. } => file.write_all(bytes)?,
            Self::Memory(lines) => lines.add(bytes),
            Self::Remote(remote) => return Ok(remote.take(bytes)),
        }
        Ok(0)
    }

    /// Returns the time of the next retry of queued lines.
    fn due(&self) -> Option<Instant> {
        match self {
            Self::Remote(remote) => remote.due(),
            _ => None,
        }
    }
}
