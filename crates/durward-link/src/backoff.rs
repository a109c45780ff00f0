//! Waits between attempts to dial: full jitter, so that the agents of a gateway that restarts do not return all at once.

use std::time::Duration;

/// Longest first wait.
pub const FIRST: Duration = Duration::from_millis(500);
/// Longest wait of all.
pub const LONGEST: Duration = Duration::from_secs(60);
/// Longest wait that the other end can ask for, jitter aside. It may be a stranger: a program between answers before the gateway is known.
pub const ASKED: Duration = Duration::from_secs(10 * 60);

/// Waits between attempts, longer with each failure.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
    last: Duration,
}

impl Backoff {
    /// Returns the wait before the next attempt. `random` is evenly spread over `u32`; `asked` is what the gateway asked for, which is kept up to [`ASKED`],
    /// with as much jitter again on top.
    pub fn next(&mut self, random: u32, asked: Option<Duration>) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let share = |of: Duration| of.mul_f64(f64::from(random) / f64::from(u32::MAX));
        self.last = match asked.map(|asked| asked.min(ASKED)) {
            Some(asked) => asked + share(asked.max(ceiling)),
            None => share(ceiling),
        };
        self.last
    }

    /// Notes that a carrier lived for `lived`. One that lived longer than the last wait ends the series of failures.
    pub fn lived(&mut self, lived: Duration) {
        if lived > self.last.max(FIRST) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S3.72+
    #[test]
    fn waits_double_up_to_a_minute_and_begin_anew_after_a_carrier_that_lived() {
        let mut backoff = Backoff::default();

        let waits: Vec<_> = (0..10).map(|_| backoff.next(u32::MAX, None).as_millis()).collect();
        assert_eq!(
            waits,
            [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]
        );
        assert_eq!(backoff.next(0, None), Duration::ZERO, "the jitter is full");

        backoff.next(u32::MAX, None);
        backoff.lived(Duration::from_secs(59));
        assert_eq!(backoff.next(u32::MAX, None), LONGEST);
        backoff.lived(Duration::from_secs(61));
        assert_eq!(backoff.next(u32::MAX, None), FIRST);
    }

    #[test]
    fn the_gateways_wait_is_kept_and_spread() {
        let mut backoff = Backoff::default();
        let asked = Duration::from_secs(10);

        assert_eq!(backoff.next(0, Some(asked)), asked);
        assert_eq!(backoff.next(u32::MAX, Some(asked)), 2 * asked);
    }

    #[test]
    fn a_wait_of_years_parks_no_agent() {
        let mut backoff = Backoff::default();

        for asked in [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_millis(u64::MAX)]
        {
            assert_eq!(backoff.next(u32::MAX, Some(asked)), 2 * ASKED);
        }
    }
}
