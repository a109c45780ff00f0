//! Memory of all streams of an agent: a client who opens many, or backends that read nothing, must not have the agent killed for its memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use durward_link::session::Account;

/// Bytes taken for a stream as it opens: buffers of both directions, HTTP/2's of what is sent, and the first bytes that wait for the backend.
const STREAM: usize = 64 * 1024;
/// Bytes that may wait for the backend within that.
const FREE: usize = 16 * 1024;

/// Memory that streams share.
#[derive(Debug)]
pub struct Memory {
    most: AtomicUsize,
    used: AtomicUsize,
}

impl Default for Memory {
    /// Returns memory without a bound.
    fn default() -> Self {
        Self { most: AtomicUsize::new(usize::MAX), used: AtomicUsize::new(0) }
    }
}

impl Memory {
    /// Bounds what streams may use together.
    pub fn limit(&self, bytes: usize) {
        self.most.store(bytes, Relaxed);
    }

    /// Takes the memory of one more stream; `None` if too little is left. A quarter stays for the bytes of those that are open.
    pub(crate) fn stream(self: &Arc<Self>) -> Option<Box<dyn Account>> {
        let most = self.most.load(Relaxed);
        self.take(STREAM, most - most / 4).then(|| {
            let stream = StreamMemory { memory: Arc::clone(self), held: 0 };
            Box::new(stream) as Box<dyn Account>
        })
    }

    /// Takes memory, as long as `most` bytes are used at most.
    fn take(&self, bytes: usize, most: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= most);
        self.used.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// Memory of one stream.
struct StreamMemory {
    memory: Arc<Memory>,
    /// Bytes beyond those that it took as it opened.
    held: usize,
}

impl Account for StreamMemory {
    fn hold(&mut self, bytes: usize) -> bool {
        if bytes <= self.held {
            self.memory.give_back(self.held - bytes);
        } else if !self.memory.take(bytes - self.held, self.memory.most.load(Relaxed)) {
            return false;
        }
        self.held = bytes;
        true
    }

    fn free(&self) -> usize {
        FREE
    }
}

impl Drop for StreamMemory {
    fn drop(&mut self) {
        self.memory.give_back(STREAM + self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_a_bound_and_give_back_what_they_held() {
        let memory = Arc::<Memory>::default();
        memory.limit(4 * STREAM);
        let mut first = memory.stream().unwrap();
        let second = memory.stream().unwrap();

        assert!(first.hold(STREAM));
        assert!(memory.stream().is_none(), "the rest is for bytes");
        assert!(first.hold(2 * STREAM) && !first.hold(3 * STREAM));
        assert!(first.hold(0) && memory.stream().is_some());

        drop((first, second));
        assert_eq!(memory.used.load(Relaxed), 0);
    }
}
