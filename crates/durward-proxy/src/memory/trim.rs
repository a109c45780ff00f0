//! Returns memory to the kernel after a peak.
//!
//! glibc keeps freed memory for itself below the top of each heap, so that a peak would stay in the process's resident size, and in its
//! cgroup's account, for ever. `malloc_trim` hands whole free pages back. Another allocator would do so by itself, but costs a dependency
//! written in C and changes every allocation; this costs nothing while there is no peak. The call is unsafe only because it is foreign:
//! it takes a number and touches nothing of ours.
#![expect(unsafe_code, reason = "malloc_trim is a foreign function without a safe wrapper")]

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::Memory;

/// Interval at which the resident size is read.
const EVERY: Duration = Duration::from_secs(1);
/// Bytes below which walking the heaps is not worth it.
const WORTH: usize = 4 * 1024 * 1024;
/// Shortest time between two trims; doubled, up to the longest, each time that little is given back.
const SOON: Duration = Duration::from_secs(3);
const LATE: Duration = Duration::from_secs(600);

/// Thread that trims; ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Trimmer {
    _stop: Sender<()>,
}

impl Trimmer {
    /// Starts the thread.
    ///
    /// # Errors
    /// Fails if no thread can be started.
    pub(crate) fn start(memory: Arc<Memory>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let work = move || {
            let mut state = State::new(Instant::now());
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let (now, seen) = (Instant::now(), Seen::now(&memory));
                if state.is_due(seen, now) {
                    trim();
                    state.trimmed(seen, Seen::now(&memory), Instant::now());
                }
            }
        };
        std::thread::Builder::new().name("durward-trim".to_owned()).spawn(work)?;
        Ok(Self { _stop: stop })
    }
}

/// Memory of the process at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    resident: usize,
    /// Bytes held of the budget.
    held: usize,
}

impl Seen {
    fn now(memory: &Memory) -> Self {
        Self { resident: resident(), held: memory.used() }
    }
}

/// Schedule of trims: only once growth has stopped, because a trim during a peak would slow allocation down; soon after much of the budget was
/// released, and otherwise with growing pauses.
#[derive(Debug)]
struct State {
    /// Fewest resident bytes after a trim.
    lowest: usize,
    last: Seen,
    /// Most bytes held since the last trim.
    peak: usize,
    at: Instant,
    wait: Duration,
}

impl State {
    fn new(now: Instant) -> Self {
        Self { lowest: usize::MAX, last: Seen::default(), peak: 0, at: now, wait: SOON }
    }

    fn is_due(&mut self, seen: Seen, now: Instant) -> bool {
        let grows = seen.resident > self.last.resident.saturating_add(WORTH);
        self.last = seen;
        self.peak = self.peak.max(seen.held);
        let freed = self.peak - seen.held > WORTH;
        let large = self.lowest == usize::MAX || seen.resident > self.lowest.saturating_add(WORTH);
        let wait = if freed { SOON } else { self.wait };
        !grows && (freed || large) && now.duration_since(self.at) >= wait
    }

    fn trimmed(&mut self, before: Seen, after: Seen, now: Instant) {
        let little = before.resident.saturating_sub(after.resident) < WORTH;
        self.wait = if little { (self.wait * 2).min(LATE) } else { SOON };
        self.lowest = self.lowest.min(after.resident);
        (self.last, self.peak, self.at) = (after, after.held, now);
    }
}

/// Returns the resident bytes of this process.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kibibytes.map_or(0, |kibibytes: usize| kibibytes.saturating_mul(1024))
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: malloc_trim takes no pointer, locks what it walks, and may be called from any thread (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}

/// Does nothing: other allocators give memory back by themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn seen(resident: usize, held: usize) -> Seen {
        Seen { resident: resident * MIB, held: held * MIB }
    }

    #[test]
    fn memory_goes_back_when_a_peak_is_over_also_if_it_was_trimmed_at_the_peak() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = State::new(start);
        state.trimmed(seen(20, 0), seen(20, 0), at(0));

        assert!(!state.is_due(seen(200, 150), at(5)), "it still grows");
        assert!(state.is_due(seen(200, 150), at(6)));
        state.trimmed(seen(200, 150), seen(199, 150), at(6));
        assert!(!state.is_due(seen(199, 150), at(8)));
        assert!(!state.is_due(seen(199, 10), at(8)), "too soon");
        assert!(state.is_due(seen(199, 10), at(9)));
        state.trimmed(seen(199, 10), seen(25, 10), at(9));
        assert!(!state.is_due(seen(23, 8), at(20)), "not worth it");
    }

    #[test]
    fn a_process_that_stays_large_is_trimmed_less_and_less_often() {
        let start = Instant::now();
        let mut state = State::new(start);
        state.trimmed(seen(20, 0), seen(20, 0), start);
        assert!(!state.is_due(seen(500, 0), start));

        let due = |second: &u64| {
            let now = start + Duration::from_secs(*second);
            let due = state.is_due(seen(500, 0), now);
            if due {
                state.trimmed(seen(500, 0), seen(500, 0), now);
            }
            due
        };
        let trims = (1..3600).filter(due).count();

        assert!((5..15).contains(&trims), "{trims} in an hour");
    }
}
