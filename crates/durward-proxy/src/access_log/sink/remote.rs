//! Queue of lines for a remote receiver: bounded, retried with growing pauses while the receiver is unreachable.
//!
//! Lines do not wait in a file: what must not be lost belongs into the audit file.

use std::io;
use std::time::{Duration, Instant};

/// Bytes queued at most; lines beyond that are lost and counted.
const WAITING: usize = 8 * 1024 * 1024;
/// First pause after a failure; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Transport to a receiver.
pub(super) trait Deliver: Send {
    /// Delivers whole lines. The implementation has its own deadlines.
    fn deliver(&mut self, lines: &[u8]) -> Result<Delivered, Undelivered>;

    /// Returns the receiver's name for the log.
    fn name(&self) -> String;
}

/// Result of a successful delivery.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// Bytes to remove from the queue.
    pub(super) bytes: usize,
    /// Lines among them that the receiver rejected.
    pub(super) refused: u64,
}

/// Result of a failed delivery: no line, or only the first ones, were taken; the rest is retried.
#[derive(Debug)]
pub(super) struct Undelivered {
    /// Bytes to remove from the queue.
    pub(super) bytes: usize,
    /// Cause of the failure.
    pub(super) error: io::Error,
    /// Pause that the receiver asked for.
    pub(super) pause: Option<Duration>,
}

/// Lines queued for one receiver.
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

    /// Returns the time of the next retry.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Queues lines and delivers them unless a pause is running. Returns the number of lines lost.
    pub(super) fn take(&mut self, bytes: &[u8]) -> u64 {
        if self.waiting.len() + bytes.len() > WAITING {
            return count(bytes);
        }
        self.waiting.extend(bytes);
        if self.due.is_some_and(|due| due > Instant::now()) { 0 } else { self.deliver() }
    }

    /// Delivers the queue. Returns the number of lines lost for good.
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

    /// Tries a last time. Returns the number of lines lost.
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
