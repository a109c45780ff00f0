//! How an exchange ends, and the deadlines until then.

use std::time::{Duration, Instant};

use crate::exchange::switch::Switched;
use crate::refusal::Refusal;
use crate::watch::Watch;

/// How an exchange ended, as far as the client's connection is concerned.
pub(crate) enum Ended<'a> {
    /// Everything was read and written.
    Complete,
    /// The response was written; some of the request was not read.
    Unread,
    /// The response was broken off, or there was nobody to answer.
    Broken,
    /// Bytes go both ways from here on.
    Upgraded(Box<Switched<'a>>),
}

/// Why there is no proper end.
pub(crate) enum Stop {
    /// The client can still be told.
    Refuse(Refusal),
    /// The response has begun, or the client has gone.
    Break(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// Deadlines of one exchange: each wait has its own, and all together must not exceed the whole's.
#[derive(Clone, Copy)]
pub(crate) struct Clock<'a> {
    pub(crate) watch: &'a Watch,
    pub(crate) end: Option<Instant>,
}

impl Clock<'_> {
    pub(crate) fn bounded(&self, after: Duration) -> Duration {
        match self.end {
            Some(end) => after.min(end.saturating_duration_since(Instant::now())),
            None => after,
        }
    }

    /// A new wait begins.
    pub(crate) fn arm(&self, after: Duration) {
        self.watch.arm(Some(self.bounded(after)), false);
    }

    /// Progress was made in the present one.
    pub(crate) fn extend(&self, after: Duration) {
        self.watch.extend(self.bounded(after));
    }
}
