//! Log sinks: any number of writer threads, each behind a bounded channel. A full channel loses lines, which are counted; nothing waits.
//!
//! Files are not rotated here: a program that rotates one calls [`Sink::reopen`].

mod http_client;
mod otlp;
mod remote;
mod syslog;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;
use rustix::io::Errno;

use self::remote::Remote;
use self::writer::{Target, Writer};
use super::Buffer;
use crate::audit::Audit;
use crate::regular;

pub use otlp::OtlpTo;
pub use syslog::{Carrier, SyslogTo};

/// Handle to a set of writers; a clone is another handle to the same ones.
#[derive(Clone, Default)]
pub struct Sink {
    writers: Vec<Arc<Writer>>,
    audit: Option<Audit>,
}

/// Lines that a [`Sink::memory`] took, for tests.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Returns all complete lines so far.
    #[must_use]
    pub fn read(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }

    /// Locks the lines; nothing is written while the guard is held.
    #[cfg(test)]
    pub(super) fn hold(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
    }
}

impl Sink {
    /// Returns a sink without writers.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Builds a sink that writes to standard output.
    ///
    /// # Errors
    /// Fails if no thread can be started.
    pub fn stdout() -> io::Result<Self> {
        Self::start("stdout", Target::Stdout)
    }

    /// Builds a sink that appends to a file and creates the file if it does not exist.
    ///
    /// # Errors
    /// Fails if the file cannot be opened, or no thread can be started.
    pub fn file(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = append(&path)?;
        Self::start("file", Target::File { path, file })
    }

    /// Builds a sink that collects lines in memory.
    ///
    /// # Errors
    /// Fails if no thread can be started.
    pub fn memory() -> io::Result<(Self, Lines)> {
        let lines = Lines::default();
        Ok((Self::start("memory", Target::Memory(lines.clone()))?, lines))
    }

    /// Builds a sink that sends to a syslog receiver, which may be unreachable for now.
    ///
    /// # Errors
    /// Fails if no thread can be started.
    pub fn syslog(to: SyslogTo) -> io::Result<Self> {
        Self::start("syslog", Target::Remote(Remote::new(Box::new(syslog::Syslog::new(to)))))
    }

    /// Builds a sink that sends to an OpenTelemetry collector, which may be unreachable for now.
    ///
    /// # Errors
    /// Fails if its certificate authorities cannot be used, or no thread can be started.
    pub fn otlp(to: OtlpTo) -> io::Result<Self> {
        Self::start("otlp", Target::Remote(Remote::new(Box::new(otlp::Otlp::new(to)?))))
    }

    /// Joins the writers of two sinks.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.writers.extend(other.writers);
        self.audit = self.audit.or(other.audit);
        self
    }

    /// Adds an audit file, which loses no acknowledged line.
    #[must_use]
    pub fn with_audit(mut self, audit: Audit) -> Self {
        self.audit = Some(audit);
        self
    }

    /// Returns the lines lost because a writer did not keep up or could not write. Losses of the audit file are counted in [`Audit::status`].
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.writers.iter().map(|writer| writer.lost()).sum()
    }

    /// Returns lost lines by kind of sink: `stdout`, `file`, `syslog`, `otlp`.
    #[must_use]
    pub fn lost_by_kind(&self) -> Vec<(&'static str, u64)> {
        self.writers.iter().map(|writer| (writer.kind(), writer.lost())).collect()
    }

    /// Returns kind, failing or not, and lost lines of each sink.
    pub(crate) fn states(&self) -> impl Iterator<Item = (&'static str, bool, u64)> + '_ {
        self.writers.iter().map(|writer| (writer.kind(), writer.failing(), writer.lost()))
    }

    /// Returns the audit file, if there is one.
    #[must_use]
    pub fn audit(&self) -> Option<&Audit> {
        self.audit.as_ref()
    }

    /// Opens files again by name, after log rotation has moved them. Lines handed over before go to the old file.
    pub fn reopen(&self) {
        self.writers.iter().for_each(|writer| writer.reopen());
        if let Some(audit) = &self.audit {
            audit.follow();
        }
    }

    /// Waits until everything handed over is written, and ends the writers. Lines that come later are lost and counted.
    pub fn close(&self) {
        self.writers.iter().for_each(|writer| writer.close());
        if let Some(audit) = &self.audit {
            audit.close();
        }
    }

    /// Creates a core's own buffer.
    pub(crate) fn buffer(&self) -> Buffer {
        Buffer::new(self.clone())
    }

    /// Returns true if anything takes lines: a writer or the audit file.
    pub(super) fn wanted(&self) -> bool {
        !self.writers.is_empty() || self.audit.is_some()
    }

    /// Returns true if there is a writer that may lose lines.
    pub(super) fn has_writers(&self) -> bool {
        !self.writers.is_empty()
    }

    /// Hands lines over without waiting; a full channel loses them.
    pub(super) fn offer(&self, bytes: Vec<u8>, lines: u64) {
        self.each(bytes, |writer, bytes| writer.offer(bytes, lines));
    }

    /// Hands lines over and waits for room.
    pub(super) fn insist(&self, bytes: Vec<u8>, lines: u64) {
        self.each(bytes, |writer, bytes| writer.insist(bytes, lines));
    }

    fn each(&self, bytes: Vec<u8>, give: impl Fn(&Writer, Vec<u8>)) {
        let Some((last, others)) = self.writers.split_last() else { return };
        for writer in others {
            give(writer, bytes.clone());
        }
        give(last, bytes);
    }

    fn start(kind: &'static str, target: Target) -> io::Result<Self> {
        Ok(Self { writers: vec![Arc::new(Writer::start(kind, target)?)], audit: None })
    }
}

/// Opens a log to append to. A FIFO without a reader is an error; opened to wait for one, it would keep the process from starting.
fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o640).custom_flags(regular::flags());
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(code) if code == Errno::NXIO.raw_os_error() => {
            io::Error::new(error.kind(), "it is a FIFO or a device, and nobody reads there")
        }
        _ => error,
    })?;
    // Writes may block for a slow reader: they happen on the writer's own thread.
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}
