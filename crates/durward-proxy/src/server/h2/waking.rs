//! Wake-ups of a connection by its own streams, while it is polled.
//!
//! A stream that answers wakes the codec, which is part of the same task: the task would be scheduled again, to find nothing to do, because the same poll has already
//! sent the answer. So wake-ups within a poll are only noted, and the poll itself looks whether something is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

/// Waker of a connection's parts.
#[derive(Default)]
pub(super) struct Waking {
    noted: Arc<Noted>,
}

#[derive(Default)]
struct Noted {
    /// True while the connection is polled.
    polled: AtomicBool,
    /// True after a wake-up within the poll.
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Waking {
    /// Begins a poll of the task; returns the waker for the connection's parts.
    pub(super) fn enter(&self, task: &Waker) -> Waker {
        self.noted.task.register(task);
        self.noted.polled.store(true, Ordering::SeqCst);
        Waker::from(Arc::clone(&self.noted))
    }

    /// Returns whether anything was woken since the last call.
    pub(super) fn take(&self) -> bool {
        self.woken() && self.noted.woken.swap(false, Ordering::SeqCst)
    }

    /// Returns whether anything was woken since the last [`Self::take`].
    pub(super) fn woken(&self) -> bool {
        self.noted.woken.load(Ordering::SeqCst)
    }

    /// Ends the poll. Wake-ups that were noted and not taken go to the task.
    pub(super) fn leave(&self) {
        self.noted.polled.store(false, Ordering::SeqCst);
        if self.take() {
            self.noted.task.wake();
        }
    }
}

impl Wake for Noted {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.polled.load(Ordering::SeqCst) {
            self.woken.store(true, Ordering::SeqCst);
            // Another thread may come while the poll ends: either it sees the note, or we see its end.
            if self.polled.load(Ordering::SeqCst) {
                return;
            }
        }
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn wake_ups_within_a_poll_are_noted_and_others_reach_the_task() {
        let (waking, count) = (Waking::default(), Arc::new(Count::default()));
        let woken = || count.0.load(Ordering::SeqCst);
        let task = Waker::from(Arc::clone(&count));

        let part = waking.enter(&task);
        part.wake_by_ref();
        assert!(waking.take() && !waking.take());
        waking.leave();
        assert_eq!(woken(), 0);

        waking.enter(&task);
        part.wake_by_ref();
        waking.leave();
        assert_eq!(woken(), 1, "a note that nobody took");

        waking.enter(&task);
        waking.leave();
        part.wake_by_ref();
        assert_eq!(woken(), 2, "after the poll");
    }

    #[test]
    fn no_wake_up_of_another_thread_is_lost() {
        let (waking, count) = (Arc::new(Waking::default()), Arc::new(Count::default()));
        let task = Waker::from(Arc::clone(&count));
        for _ in 0..2_000 {
            let before = count.0.load(Ordering::SeqCst);
            let part = waking.enter(&task);
            let other = std::thread::spawn(move || part.wake());
            waking.leave();
            other.join().unwrap();
            // Noted and passed on, or passed on at once; perhaps both.
            assert!(count.0.load(Ordering::SeqCst) > before);
        }
    }
}
