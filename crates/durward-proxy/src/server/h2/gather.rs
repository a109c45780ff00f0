//! When the gathered frames of an HTTP/2 connection are sent: at once, or after the next look at the sockets if other streams are likely to add to them.
//!
//! Each write is a TLS record, a call of the kernel and a segment. Responses of a busy connection become ready a few at a time, and waiting for one look joins
//! those of two. A connection whose streams do not answer at the same time is left alone.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// Bytes that are not kept back: a TLS record is full.
const RECORD: usize = 16 * 1024;
/// Writes that are not kept back after one was in vain.
const PAUSE: u8 = 31;

/// Frames that are kept back.
#[derive(Default)]
pub(super) struct Gather {
    /// Bytes that waited when they were first kept back.
    kept: Option<usize>,
    /// Writes until it is tried again.
    pause: u8,
}

impl Gather {
    /// Returns true if `unsent` bytes are to be kept back, and then has the task woken after the next look at the sockets. Bytes are kept back once only, and
    /// only if `others`, streams that are still open, may add to them.
    pub(super) fn keeps(&mut self, unsent: usize, others: usize, cx: &mut Context<'_>) -> bool {
        if let Some(before) = self.kept.take() {
            self.pause = if unsent > before { 0 } else { PAUSE };
            return false;
        }
        if unsent == 0 || unsent >= RECORD || others == 0 {
            return false;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        self.kept = Some(unsent);
        // Polled once, it leaves the waker with the runtime, which looks at the sockets first.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn bytes_are_kept_back_once_and_only_for_others() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut gather = Gather::default();

        assert!(!gather.keeps(0, 5, &mut cx));
        assert!(!gather.keeps(100, 0, &mut cx), "nobody can add to them");
        assert!(!gather.keeps(RECORD, 5, &mut cx));
        assert!(gather.keeps(100, 5, &mut cx));
        assert!(!gather.keeps(200, 5, &mut cx), "another one has added to them");
        assert!(gather.keeps(100, 5, &mut cx));
    }

    #[test]
    fn a_connection_on_which_it_is_in_vain_is_left_alone_for_a_while() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut gather = Gather::default();
        assert!(gather.keeps(100, 5, &mut cx) && !gather.keeps(100, 5, &mut cx));

        for _ in 0..PAUSE {
            assert!(!gather.keeps(100, 5, &mut cx));
        }

        assert!(gather.keeps(100, 5, &mut cx));
    }
}
