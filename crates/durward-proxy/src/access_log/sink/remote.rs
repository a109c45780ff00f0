//! Lines for a receiver that may be away: they wait, within bounds, and are tried again after ever longer pauses.
//!
//! Deliberately absent: a file to wait in. What must not be lost belongs into the audit file.

use std::io;
use std::time::{Duration, Instant};

/// Bytes that wait at most; what comes after that is lost and counted.
const WAITING: usize = 8 * 1024 * 1024;
/// The first pause after a failure; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Takes lines to a receiver.
pub(super) trait Deliver: Send {
    /// Delivers whole lines. It has its own deadlines.
    fn deliver(&mut self, lines: &[u8]) -> Result<Delivered, Undelivered>;

    /// Who receives, for the log.
    fn name(&self) -> String;
}

/// How much was taken.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// Bytes that need not be offered again.
    pub(super) bytes: usize,
    /// Lines among them that the receiver did not want.
    pub(super) refused: u64,
}

/// Nothing, or only the beginning, was taken; the rest is to be offered again.
#[derive(Debug)]
pub(super) struct Undelivered {
    /// Bytes that need not be offered again.
    pub(super) bytes: usize,
    /// Why.
    pub(super) error: io::Error,
    /// The receiver asked to be left alone for this long.
    pub(super) pause: Option<Duration>,
}

/// What waits for a receiver.
pub(super) struct Remote {
    to: Box<dyn Deliver>,
    waiting: Vec<u8>,
    pause: Duration,
    due: Option<Instant>,
}

impl Remote {
    pub(super) fn new(to: Box<dyn Deliver>) -> Self {
        Self { to, waiting: Vec::new(), pause: Duration::ZERO, due: None }
    }

    /// When what waits is to be tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes lines and delivers them, unless the receiver is away. Says how many lines are lost.
    pub(super) fn take(&mut self, bytes: &[u8]) -> u64 {
        if self.waiting.len() + bytes.len() > WAITING {
            return count(bytes);
        }
        self.waiting.extend(bytes);
        if self.due.is_some_and(|due| due > Instant::now()) { 0 } else { self.deliver() }
    }

    /// Delivers what waits. Says how many lines are lost for good.
    pub(super) fn deliver(&mut self) -> u64 {
        let mut refused = 0;
        while !self.waiting.is_empty() {
            match self.to.deliver(&self.waiting) {
                Ok(delivered) => {
                    refused += delivered.refused;
                    self.waiting.drain(..delivered.bytes);
                }
                Err(undelivered) => {
                    self.failed(undelivered);
                    return refused;
                }
            }
        }
        if self.due.take().is_some() {
            tracing::info!(receiver = self.to.name(), "log lines are received again");
        }
        self.pause = Duration::ZERO;
        refused
    }

    /// The last try. Says how many lines are lost.
    pub(super) fn finish(&mut self) -> u64 {
        self.deliver() + count(&self.waiting)
    }

    fn failed(&mut self, undelivered: Undelivered) {
        self.waiting.drain(..undelivered.bytes);
        if self.due.is_none() {
            let (receiver, error) = (self.to.name(), undelivered.error);
            tracing::error!(receiver, %error, "log lines are not received; they wait, then are lost and counted");
        }
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        let pause = undelivered.pause.map_or(self.pause, |asked| asked.min(LONGEST_PAUSE));
        self.due = Some(Instant::now() + pause);
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}
