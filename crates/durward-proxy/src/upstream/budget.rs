//! The share of retries an upstream may cost: requests pay in, retries take out.
//!
//! Deliberately absent: time. An upstream without requests has nothing to retry.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The price of a retry; a request pays `budget_percent`.
const RETRY: u32 = 100;

/// Retries saved up at most, and those a new upstream begins with.
const MOST: u32 = 100 * RETRY;
const FIRST: u32 = 10 * RETRY;

/// One upstream's retry budget.
#[derive(Debug)]
pub(crate) struct Budget {
    balance: AtomicU32,
    percent: u32,
}

impl Budget {
    /// `percent` retries per hundred requests.
    pub(crate) fn new(percent: u32) -> Self {
        let balance = if percent == 0 { 0 } else { FIRST };
        Self { balance: AtomicU32::new(balance), percent: percent.min(RETRY) }
    }

    /// A request pays in. A full budget is not written to, so that cores do not contend for it.
    pub(crate) fn pay(&self) {
        if self.percent > 0 && self.balance.load(Relaxed) < MOST {
            self.balance.fetch_add(self.percent, Relaxed);
        }
    }

    /// A retry takes its price, if there is enough.
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
