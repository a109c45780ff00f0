//! Results of an exchange, and its deadlines.

use std::time::{Duration, Instant};

use crate::exchange::switch::Switched;
use crate::refusal::Refusal;
use crate::turns;
use crate::watch::Watch;

/// Result of an exchange, as far as the client's connection is concerned.
pub(crate) enum Ended<'a> {
    /// Everything was read and written.
    Complete,
    /// The response was written; some of the request was not read.
    Unread,
    /// The response was cut off, or the client was gone.
    Broken,
    /// The exchange became a tunnel.
    Upgraded(Box<Switched<'a>>),
}

/// Reason of an improper end.
pub(crate) enum Stop {
    /// The client can still get a response.
    Refuse(Refusal),
    /// The response has begun, or the client has gone.
    Break(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// Deadlines of one exchange: each wait has its own, and the exchange as a whole has another.
#[derive(Clone, Copy)]
pub(crate) struct Clock<'a> {
    pub(crate) watch: &'a Watch,
    pub(crate) end: Option<Instant>,
}

impl Clock<'_> {
    pub(crate) fn bounded(&self, after: Duration) -> Duration {
        match self.end {
            Some(end) => after.min(end.saturating_duration_since(turns::now())),
            None => after,
        }
    }

    /// Starts the deadline of a new wait.
    pub(crate) fn arm(&self, after: Duration) {
        self.watch.arm(Some(self.bounded(after)), false);
    }

    /// Extends the deadline of the present wait after progress.
    pub(crate) fn extend(&self, after: Duration) {
        self.watch.extend(self.bounded(after));
    }
}
