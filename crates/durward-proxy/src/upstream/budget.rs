//! Retry budget of an upstream: requests pay in, retries take out. Time plays no part: an upstream without requests has nothing to retry.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Price of a retry; a request pays `budget_percent`.
const RETRY: u32 = 100;

/// Most retries saved up; a new upstream begins with as many.
const MOST: u32 = 100 * RETRY;
const FIRST: u32 = 10 * RETRY;

/// Retry budget of one upstream.
#[derive(Debug)]
pub(crate) struct Budget {
    balance: AtomicU32,
    percent: u32,
}

impl Budget {
    /// Creates a budget of `percent` retries per hundred requests.
    pub(crate) fn new(percent: u32) -> Self {
        let balance = if percent == 0 { 0 } else { FIRST };
        Self { balance: AtomicU32::new(balance), percent: percent.min(RETRY) }
    }

    /// Pays in for a request. A full budget is not written to, so that cores do not contend for its cache line.
    pub(crate) fn pay(&self) {
        if self.percent > 0 && self.balance.load(Relaxed) < MOST {
            self.balance.fetch_add(self.percent, Relaxed);
        }
    }

    /// Takes the price of a retry, if there is enough.
    pub(crate) fn take(&self) -> bool {
        self.balance.fetch_update(Relaxed, Relaxed, |balance| balance.checked_sub(RETRY)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S1.44
    #[test]
    fn retries_stay_within_their_share() {
        let budget = Budget::new(20);
        let mut retries = 0;

        for _ in 0..1_000 {
            budget.pay();
            retries += u32::from(budget.take());
        }

        assert_eq!(retries, 10 + 200);
        assert!(!Budget::new(0).take());
    }
}
