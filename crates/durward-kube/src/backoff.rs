//! Waiting times between attempts: exponential, with full jitter, so that many watchers do not return to a server in one moment.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// Attempts that failed in a row, and the bounds of the waiting times.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Builds a backoff whose first waiting time is below `base`, and none above `cap`.
    pub(crate) fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// Counts a failure, and returns the time to wait before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        jittered(ceiling, random())
    }

    /// Forgets the failures: an attempt succeeded.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the longest time that [`Self::next`] may return now.
    fn ceiling(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

/// Returns a time between zero and `ceiling`; `random` says where.
fn jittered(ceiling: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random % nanos.saturating_add(1).max(1))
}

/// Returns an unpredictable number: the standard library seeds its hash tables with the system's randomness.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Returns a time between `from` and `to`, for periods of many that are not to meet.
pub(crate) fn between(from: Duration, to: Duration) -> Duration {
    from + jittered(to.saturating_sub(from), random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_cap_and_falls_back_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));

        let ceilings: Vec<u128> = std::iter::repeat_with(|| {
            let ceiling = backoff.ceiling();
            assert!(backoff.next() <= ceiling);
            ceiling.as_millis()
        })
        .take(40)
        .collect();

        assert_eq!(ceilings[..8], [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000]);
        assert_eq!(ceilings[39], 30_000);
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_millis(250));
    }

    #[test]
    fn jitter_reaches_both_ends() {
        let ceiling = Duration::from_nanos(9);

        assert_eq!(jittered(ceiling, 0), Duration::ZERO);
        assert_eq!(jittered(ceiling, 9), ceiling);
        assert_eq!(jittered(ceiling, 10), Duration::ZERO);
        assert!((0..100).map(|_| random()).collect::<std::collections::BTreeSet<_>>().len() > 90);
    }
}
