//! Times of renewals and retries: pure functions of lifetimes, failures and a seed.
//!
//! Jitter comes from a seed that stays the same for one certificate, so a restart does not move a renewal. All times are seconds since the Unix
//! epoch. Deliberately absent: a clock.

use std::collections::VecDeque;
use std::time::Duration;

use crate::authority::Window;
use crate::fault::Fault;
use crate::issued::Validity;

/// Bounds of the waits after failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Wait after the first failure; it doubles with each further one.
    pub first: Duration,
    /// Longest wait after an authority did not answer. Asking it again costs nothing.
    pub unreachable: Duration,
    /// Longest wait after an authority refused. Let's Encrypt admits five failed validations per name and hour.
    pub refused: Duration,
    /// Shortest time between two certificates for the same names.
    pub between_certificates: Duration,
    /// Longest time until certificates and renewal information are checked again.
    pub look: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(300),
            unreachable: Duration::from_secs(3_600),
            refused: Duration::from_secs(12 * 3_600),
            between_certificates: Duration::from_secs(3_600),
            look: Duration::from_secs(60),
        }
    }
}

impl Pace {
    /// Returns the wait after the given number of failures, the last of which was `fault`. `seed` spreads it by a fifth in either direction.
    #[must_use]
    pub fn wait(&self, failures: u32, fault: &Fault, seed: u64) -> Duration {
        let (longest, asked) = match fault {
            Fault::Unreachable(_) | Fault::Here(_) => (self.unreachable, None),
            Fault::RateLimited { retry_after, .. } => (self.refused, *retry_after),
            Fault::AccountGone(_) | Fault::Refused(_) | Fault::Unsupported(_) => {
                (self.refused, None)
            }
        };
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(20));
        let wait = self.first.saturating_mul(doubled).min(longest);
        let spread = wait.mul_f64(0.8 + 0.4 * fraction(seed ^ u64::from(failures)));
        // Whoever asks to wait is asked later than that, not earlier.
        asked.map_or(spread, |asked| spread.max(asked + spread.mul_f64(0.1)))
    }
}

/// Returns the time to renew a certificate without advice: two thirds of its lifetime, less up to a twentieth.
#[must_use]
pub fn renewal(validity: Validity, seed: u64) -> i64 {
    let lifetime = validity.to.saturating_sub(validity.from).max(0);
    validity.from + lifetime / 3 * 2 - part(lifetime / 20, seed)
}

/// Returns the time in a window of the authority at which to renew.
#[must_use]
pub fn within(window: &Window, seed: u64) -> i64 {
    window.start + part(window.end - window.start, seed)
}

/// Returns a part of a span, from 0 to all of it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "seconds of years fit"
)]
fn part(span: i64, seed: u64) -> i64 {
    (span as f64 * fraction(seed)) as i64
}

/// Maps a seed to 0 ..= 1.
#[expect(clippy::cast_precision_loss, reason = "any value in the range does")]
fn fraction(seed: u64) -> f64 {
    // The finalizer of SplitMix64: seeds that differ in one bit give unrelated values.
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

/// Orders placed at one authority within the last hour.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    placed: VecDeque<i64>,
}

impl Budget {
    /// Builds a budget of which these orders were placed already, in any order.
    #[must_use]
    pub fn after(mut placed: Vec<i64>) -> Self {
        placed.sort_unstable();
        Self { placed: placed.into() }
    }

    /// Returns the first time from `now` on at which one more order may be placed.
    #[must_use]
    pub fn next(&self, per_hour: u32, now: i64) -> i64 {
        let per_hour = usize::try_from(per_hour).unwrap_or(usize::MAX).max(1);
        let Some(at) = self.placed.len().checked_sub(per_hour) else { return now };
        now.max(self.placed[at] + HOUR)
    }

    /// Counts an order.
    pub fn note(&mut self, now: i64) {
        self.placed.push_back(now);
        while self.placed.front().is_some_and(|first| *first + HOUR <= now) {
            self.placed.pop_front();
        }
    }

    /// Returns the times of the orders, oldest first.
    pub fn placed(&self) -> impl Iterator<Item = i64> + '_ {
        self.placed.iter().copied()
    }
}

const HOUR: i64 = 3_600;

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn a_certificate_is_renewed_before_its_last_third_and_not_all_at_one_time() {
        let validity = Validity { from: 1_800_000_000, to: 1_800_000_000 + 160 * HOUR };

        let times: Vec<i64> = (0..1_000).map(|seed| renewal(validity, seed)).collect();

        let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(*last <= validity.to - 160 * HOUR / 3, "the last third is warned of");
        assert!(*first >= validity.from + 160 * HOUR * 61 / 100);
        assert!(last - first > 6 * HOUR, "renewals are spread");
        assert_eq!(renewal(validity, 7), renewal(validity, 7), "a restart does not move it");
    }

    #[test]
    fn a_renewal_lies_in_the_authoritys_window() {
        let window = Window { start: 100, end: 1_100, look_again: Duration::from_secs(60) };

        let times: Vec<i64> = (0..1_000).map(|seed| within(&window, seed)).collect();

        assert!(times.iter().all(|time| (100..=1_100).contains(time)));
        assert!(times.iter().any(|time| *time < 200) && times.iter().any(|time| *time > 1_000));
    }

    // S3.48+
    #[test]
    fn an_authority_that_is_away_for_a_day_is_asked_about_hourly_and_gets_the_order_within_an_hour_and_a_half()
     {
        let pace = Pace::default();
        let away = Fault::Unreachable("connection refused".into());

        for seed in 0..100 {
            let (mut now, mut failures) = (0, 0);
            while now < DAY {
                failures += 1;
                now += i64::try_from(pace.wait(failures, &away, seed).as_secs()).unwrap();
            }
            assert!((20..40).contains(&failures), "{failures} attempts");
            assert!(now - DAY < HOUR * 3 / 2, "{} s late", now - DAY);
        }
    }

    #[test]
    fn refusals_stay_within_five_failed_validations_per_hour() {
        let pace = Pace::default();
        let refused = Fault::Refused("wrong answer".into());

        for seed in 0..100 {
            let mut times = vec![0];
            for failures in 1..20 {
                let wait = pace.wait(failures, &refused, seed).as_secs();
                times.push(times[times.len() - 1] + i64::try_from(wait).unwrap());
            }
            let most = times
                .iter()
                .map(|from| times.iter().filter(|at| (*from..*from + HOUR).contains(*at)).count());
            assert!(most.max().unwrap() <= 5, "{times:?}");
            assert!(times[19] - times[18] <= 15 * HOUR, "it is tried at least twice a day or so");
        }
    }

    #[test]
    fn what_an_authority_asks_to_wait_is_waited_and_a_little_more() {
        let limited = |wait| Fault::RateLimited {
            detail: "too many".into(),
            retry_after: Some(Duration::from_secs(wait)),
        };
        let pace = Pace::default();

        assert!(pace.wait(1, &limited(34 * 3_600), 1) > Duration::from_secs(34 * 3_600));
        assert!(pace.wait(1, &limited(1), 1) >= Duration::from_secs(240), "our own wait is longer");
    }

    #[test]
    fn orders_of_an_hour_are_counted() {
        let mut budget = Budget::after(vec![20, 10]);
        budget.note(30);

        assert_eq!(budget.next(4, 40), 40);
        assert_eq!(budget.next(3, 40), 10 + HOUR);
        assert_eq!(budget.next(2, 40), 20 + HOUR);
        assert_eq!(budget.next(3, 20 + HOUR), 20 + HOUR);
        budget.note(20 + HOUR);
        assert_eq!(budget.placed().collect::<Vec<_>>(), [30, 20 + HOUR]);
    }
}
