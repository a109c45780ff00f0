//! Receive windows of streams: they grow with what a carrier receives in one round trip, as long as few streams share it.
//!
//! A window that is smaller than the bandwidth-delay product keeps a stream from using its path; a large one lets a stream whose reader stalls hold as
//! much memory. So windows are large while few streams are open, and small again before many are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Largest window of a stream, in bytes.
const LARGEST: u32 = 4 * 1024 * 1024;
/// Bytes of windows that have grown, of all streams of a carrier together.
const TOGETHER: u32 = 16 * 1024 * 1024;

/// Window of the streams of one carrier.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    /// Window that a stream has at least.
    least: u32,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Window that the traffic is worth.
    wanted: AtomicU32,
    /// Window that was agreed last.
    present: AtomicU32,
    /// Streams that receive.
    open: Arc<AtomicU32>,
}

impl Windows {
    /// Begins with the least window; `open` is the number of streams that receive, as it changes.
    pub(super) fn new(least: u32, open: Arc<AtomicU32>) -> Self {
        let (wanted, present) = (AtomicU32::new(least), AtomicU32::new(least));
        Self { least, shared: Arc::new(Shared { wanted, present, open }) }
    }

    /// Takes note of the bytes that came in one round trip. Returns true if the window grows, so that it should be measured again soon.
    pub(super) fn round(&self, bytes: u64) -> bool {
        let present = self.shared.present.load(Relaxed);
        if bytes < u64::from(present) / 3 * 2 {
            return false;
        }
        let grown = present.saturating_mul(2).min(LARGEST).max(self.least);
        self.shared.wanted.store(grown, Relaxed);
        self.fitting() > present
    }

    /// Agrees on another window by `set` where it is due; one that cannot be set now is tried again at the next call.
    pub(super) fn apply<E>(&self, set: impl FnOnce(u32) -> Result<(), E>) {
        let fitting = self.fitting();
        if fitting != self.shared.present.load(Relaxed) && set(fitting).is_ok() {
            self.shared.present.store(fitting, Relaxed);
        }
    }

    /// Returns the window that is wanted, as far as the streams that are open now may have it together. One more may open before that is known.
    fn fitting(&self) -> u32 {
        let share = TOGETHER / self.shared.open.load(Relaxed).saturating_add(1);
        self.shared.wanted.load(Relaxed).min(share).max(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_grow_with_traffic_and_are_small_before_many_streams_share_them() {
        let open = Arc::new(AtomicU32::new(1));
        let windows = Windows::new(256 << 10, Arc::clone(&open));
        let applied = || {
            windows.apply(|_| Ok::<_, ()>(()));
            windows.shared.present.load(Relaxed)
        };

        assert!(!windows.round(100 << 10), "the window is not what holds it up");
        assert_eq!(applied(), 256 << 10);
        for expected in [512 << 10, 1 << 20, 2 << 20, 4 << 20] {
            assert!(windows.round(u64::from(expected) / 2));
            assert_eq!(applied(), expected);
        }
        assert!(!windows.round(u64::MAX), "it is as large as it may be");

        open.store(63, Relaxed);
        assert_eq!(applied(), 256 << 10);
        open.store(2_000, Relaxed);
        assert_eq!(applied(), 256 << 10);
        windows.apply(|_| -> Result<(), ()> { panic!("nothing changes") });
        open.store(3, Relaxed);
        windows.apply(|_| Err(()));
        assert_eq!(applied(), 4 << 20, "it is tried again");
    }
}
