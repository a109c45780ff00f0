//! The text of `/metrics`, made once for all that ask for it at the same time.
//!
//! The text is whole when it is sent: a scrape is of one moment, and no lock is held while a reader takes its time.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use bytes::Bytes;

use super::stream::Turn;

/// Last text, kept while a response with it is being read.
#[derive(Default)]
pub(super) struct Scrapes {
    last: Mutex<Option<(Instant, Weak<Text>)>>,
}

struct Text(String);

impl Scrapes {
    /// Returns a text that was begun after the call: another caller's, if that one is made meanwhile. Called on a blocking thread.
    pub(super) fn text(&self, turn: &Turn, make: impl FnOnce() -> String) -> Bytes {
        let asked = Instant::now();
        let turn = turn.wait();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = last.as_ref().filter(|(begun, _)| *begun >= asked);
        if let Some(text) = fresh.and_then(|(_, text)| text.upgrade()) {
            return Bytes::from_owner(Shared(text));
        }
        let begun = Instant::now();
        let text = Arc::new(Text(make()));
        *last = Some((begun, Arc::downgrade(&text)));
        drop(turn);
        Bytes::from_owner(Shared(text))
    }
}

/// Owner of a shared text's bytes.
struct Shared(Arc<Text>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn scrapes_at_one_time_share_a_text_that_is_begun_after_each_of_them() {
        let (scrapes, turn) = (Scrapes::default(), Turn::default());
        let made = AtomicUsize::new(0);
        let next = || format!("text {}", made.fetch_add(1, SeqCst));
        let waits = turn.wait();
        let (sender, receiver) = mpsc::channel();

        let texts: Vec<Bytes> = std::thread::scope(|scope| {
            let ask = || {
                sender.send(()).unwrap();
                scrapes.text(&turn, next)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            (0..8).for_each(|_| receiver.recv().unwrap());
            drop(waits);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let later = scrapes.text(&turn, next);

        assert!(made.load(SeqCst) < 9, "no text was shared");
        assert!(!texts.contains(&later), "a later scrape has a text of its own");
        assert_eq!(scrapes.text(&turn, next), format!("text {}", made.load(SeqCst) - 1));
    }
}
