//! Where finished lines go: to any number of writer threads, each behind a bounded channel. Full means lost and counted, never waited for.
//!
//! Deliberately absent: rotation. Whoever rotates the file calls [`Sink::reopen`].

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

/// A clone is another handle to the same writers.
#[derive(Clone, Default)]
pub struct Sink {
    writers: Vec<Arc<Writer>>,
    audit: Option<Audit>,
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

    fn add(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
    }
}

impl Sink {
    /// Nowhere.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// To standard output.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn stdout() -> io::Result<Self> {
        Self::start("stdout", Target::Stdout)
    }

    /// To the end of a file, which is made when it is not there.
    ///
    /// # Errors
    /// When it cannot be opened, or no thread can be started.
    pub fn file(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = append(&path)?;
        Self::start("file", Target::File { path, file })
    }

    /// Into memory.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn memory() -> io::Result<(Self, Lines)> {
        let lines = Lines::default();
        Ok((Self::start("memory", Target::Memory(lines.clone()))?, lines))
    }

    /// To a syslog receiver, which need not be there yet.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn syslog(to: SyslogTo) -> io::Result<Self> {
        Self::start("syslog", Target::Remote(Remote::new(Box::new(syslog::Syslog::new(to)))))
    }

    /// To an OpenTelemetry collector, which need not be there yet.
    ///
    /// # Errors
    /// When its certificate authorities cannot be used, or no thread can be started.
    pub fn otlp(to: OtlpTo) -> io::Result<Self> {
        Self::start("otlp", Target::Remote(Remote::new(Box::new(otlp::Otlp::new(to)?))))
    }

    /// To where both go.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.writers.extend(other.writers);
        self.audit = self.audit.or(other.audit);
        self
    }

    /// And into an audit file, which loses nothing that was acknowledged.
    #[must_use]
    pub fn with_audit(mut self, audit: Audit) -> Self {
        self.audit = Some(audit);
        self
    }

    /// How many lines were lost because a writer did not keep up or could not write. The audit file counts for itself.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.writers.iter().map(|writer| writer.lost()).sum()
    }

    /// The same by kind of sink: `stdout`, `file`, `syslog`, `otlp`.
    #[must_use]
    pub fn lost_by_kind(&self) -> Vec<(&'static str, u64)> {
        self.writers.iter().map(|writer| (writer.kind(), writer.lost())).collect()
    }

    /// Kind, failing or not, and lost lines of each sink.
    pub(crate) fn states(&self) -> impl Iterator<Item = (&'static str, bool, u64)> + '_ {
        self.writers.iter().map(|writer| (writer.kind(), writer.failing(), writer.lost()))
    }

    /// The audit file, if there is one.
    #[must_use]
    pub fn audit(&self) -> Option<&Audit> {
        self.audit.as_ref()
    }

    /// Opens files again under their names, after whoever rotates logs has moved them. Lines handed over before go to the old file.
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

    /// A core's own buffer.
    pub(crate) fn buffer(&self) -> Buffer {
        Buffer::new(self.clone())
    }

    /// Whether lines need be made at all.
    pub(super) fn wanted(&self) -> bool {
        !self.writers.is_empty() || self.audit.is_some()
    }

    /// Whether anybody takes lines without a promise.
    pub(super) fn has_writers(&self) -> bool {
        !self.writers.is_empty()
    }

    /// Hands lines over where there is room.
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
    // What is written waits for a slow reader, on the writer's own thread.
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}
