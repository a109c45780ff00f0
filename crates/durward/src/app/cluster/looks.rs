//! Times at which the gateway looks at what it serves, to say what became of objects.

use std::time::Duration;

use tokio::time::Instant;

/// Pause between two looks while nothing changes.
pub(super) const LOOK: Duration = Duration::from_secs(2);
/// Number of times that a look's own duration passes after it without another one: looks take a tenth of a core at most, however fast things change.
const REST: u32 = 9;

/// Times of the looks at what is served.
pub(super) struct Looks {
    next: Instant,
    /// Time before which a change is no reason to look.
    rests_until: Instant,
}

impl Looks {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { next: now, rests_until: now }
    }

    /// Returns the time of the next look.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Has a look follow soon, because something changed.
    pub(super) fn hurry(&mut self) {
        self.next = self.next.min(self.rests_until);
    }

    /// Puts the next look off.
    pub(super) fn wait(&mut self, pause: Duration) {
        self.next = Instant::now() + pause;
    }

    /// Notes that a look that began then is over, and that the next one is due after a pause.
    pub(super) fn looked(&mut self, began: Instant, pause: Duration) {
        let now = Instant::now();
        self.rests_until = now + (now - began) * REST;
        self.next = self.rests_until.max(now + pause);
    }
}
