//! Plans which certificates are wanted and when they are due: pure functions of the served configuration and of the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use durward_acme::schedule::{self, Budget, Pace};
use durward_acme::{Validity, Window};
use durward_control::Compiled;
use durward_model::acme::Order;
use durward_model::verdict::Outcome;
use durward_model::{Certificate, Kind, TenantId};

use super::store::Record;

/// Waits that are longer than any authority asks for come from a clock that was wrong.
const LONGEST: i64 = 9 * 86_400;

/// Certificate that the configuration wants.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) tenant: TenantId,
    pub(super) order: Arc<Order>,
    /// Certificate that is served now.
    pub(super) certificate: Option<Arc<Certificate>>,
    /// Listeners that show it.
    pub(super) listeners: Vec<String>,
    /// True if the tenant is served as its document says.
    pub(super) is_current: bool,
}

/// Returns all certificates that listeners which are served want, by identifier.
pub(super) fn wanted(view: &Compiled) -> BTreeMap<Arc<str>, Wanted> {
    let mut all: BTreeMap<Arc<str>, Wanted> = BTreeMap::new();
    for tenant in view.snapshot.tenants.values() {
        for listener in &tenant.listeners {
            for order in &listener.acme.orders {
                let shown = listener.tls().into_iter().flat_map(|tls| &tls.certificates);
                let certificate = shown.clone().find(|one| one.chain_file == order.file).cloned();
                let wanted = all.entry(Arc::clone(&order.id)).or_insert_with(|| Wanted {
                    tenant: tenant.id.clone(),
                    order: Arc::clone(order),
                    certificate,
                    listeners: Vec::new(),
                    is_current: is_current(view, &tenant.id),
                });
                wanted.listeners.push(listener.to_string());
            }
        }
    }
    all
}

/// Returns false for a tenant whose document is rejected: answers to challenges would not be served.
fn is_current(view: &Compiled, tenant: &TenantId) -> bool {
    let mut of_tenant = view.verdicts.iter().filter(|verdict| {
        verdict.resource.kind == Kind::Tenant && verdict.resource.is_of(tenant.as_str())
    });
    !of_tenant.any(|verdict| verdict.outcome == Outcome::KeptLastGood)
}

impl Wanted {
    /// Returns the seed of all that is spread, the same for one certificate over restarts.
    pub(super) fn seed(&self) -> u64 {
        let what = match &self.certificate {
            Some(certificate) => certificate.fingerprint.as_bytes(),
            None => self.order.id.as_bytes(),
        };
        // FNV-1a.
        what.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// Returns the time at which it should be ordered, failures and limits aside; by the authority's clock.
    pub(super) fn due(&self, window: Option<&Window>) -> i64 {
        let Some(certificate) = &self.certificate else { return 0 };
        let validity = Validity { from: certificate.not_before, to: certificate.not_after };
        let by_lifetime = schedule::renewal(validity, self.seed());
        window.map_or(by_lifetime, |window| schedule::within(window, self.seed()))
    }
}

/// Facts that decide when the next attempt is.
pub(super) struct Circumstances<'a> {
    pub(super) record: &'a Record,
    pub(super) budget: &'a Budget,
    pub(super) pace: &'a Pace,
    pub(super) orders_per_hour: u32,
    /// Seconds by which the clock of this host is ahead of the authority's.
    pub(super) clock_ahead: i64,
    pub(super) now: i64,
}

/// Returns the time of the next attempt by this host's clock, given when a certificate is due by the authority's.
pub(super) fn next_attempt(due: i64, facts: &Circumstances<'_>) -> i64 {
    let Circumstances { record, budget, pace, now, .. } = facts;
    let mut next = if due == 0 { 0 } else { due.saturating_add(facts.clock_ahead) };
    let within_reason = |time: i64| time <= now.saturating_add(LONGEST);
    if let Some(not_before) = record.not_before.filter(|time| within_reason(*time)) {
        next = next.max(not_before);
    }
    if let Some(issued) = record.issued.filter(|time| within_reason(*time)) {
        let pause = i64::try_from(pace.between_certificates.as_secs()).unwrap_or(i64::MAX);
        next = next.max(issued.saturating_add(pause));
    }
    if next <= *now {
        return budget.next(facts.orders_per_hour, *now);
    }
    next
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: i64 = 3_600;
    const NOW: i64 = 1_800_000_000;

    fn next(due: i64, record: &Record, clock_ahead: i64) -> i64 {
        let (budget, pace) = (Budget::default(), Pace::default());
        let facts = Circumstances {
            record,
            budget: &budget,
            pace: &pace,
            orders_per_hour: 10,
            clock_ahead,
            now: NOW,
        };
        next_attempt(due, &facts)
    }

    #[test]
    fn a_failure_an_earlier_certificate_and_the_limits_put_an_order_off() {
        let fresh = Record::default();
        let failed = Record { failures: 1, not_before: Some(NOW + 60), ..Record::default() };
        let issued = Record { issued: Some(NOW - 60), ..Record::default() };

        assert_eq!(next(0, &fresh, 0), NOW, "what is missing is ordered at once");
        assert_eq!(next(NOW + HOUR, &fresh, 0), NOW + HOUR);
        assert_eq!(next(0, &failed, 0), NOW + 60);
        assert_eq!(next(NOW - 1, &issued, 0), NOW - 60 + HOUR, "not twice within an hour");
        let budget = Budget::after(vec![NOW - 10, NOW - 20]);
        let facts = Circumstances {
            record: &fresh,
            budget: &budget,
            pace: &Pace { first: Duration::ZERO, ..Pace::default() },
            orders_per_hour: 2,
            clock_ahead: 0,
            now: NOW,
        };
        assert_eq!(next_attempt(0, &facts), NOW - 20 + HOUR);
    }

    // S3.48+
    #[test]
    fn a_clock_that_is_ahead_brings_no_renewal_forward() {
        let ahead = 40 * 24 * HOUR;
        // By the authority's clock, it is due in a day; by this host's it was 39 days ago.
        let due = NOW - ahead + 24 * HOUR;

        assert_eq!(next(due, &Record::default(), 0), NOW, "as long as nobody knows");
        assert_eq!(next(due, &Record::default(), ahead), NOW + 24 * HOUR);
    }

    #[test]
    fn what_a_wrong_clock_wrote_down_puts_nothing_off_for_ever() {
        let wrong = NOW + 400 * 24 * HOUR;
        let record = Record { not_before: Some(wrong), issued: Some(wrong), ..Record::default() };

        assert_eq!(next(0, &record, 0), NOW);
    }
}
