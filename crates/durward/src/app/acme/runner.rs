//! The loop: what is due is ordered, one certificate after the other; then it waits for the next time or a change.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use durward_acme::schedule::Budget;
use durward_acme::{Authority, Fault, Window};
use durward_control::Compiled;
use tokio::sync::watch;

use super::Options;
use super::attempt::Attempt;
use super::plan::{self, Circumstances, Wanted};
use super::status::{CLOCKS_DIFFER, Row, Shared};
use super::store::{Ledger, Lock, Record, Store};
use crate::app::Gateway;
use crate::inspect::now;

/// Interval at which the lock is tried again while another process has it.
const LOCKED: Duration = Duration::from_secs(5);
/// Time until renewal information is asked for again from an authority that gave none, in seconds.
const NO_ADVICE: i64 = 86_400;
/// The same after it did not answer.
const NO_ANSWER: i64 = 3_600;
/// Time after which the attempts for a certificate that is no longer wanted are forgotten, in seconds.
const FORGOTTEN: i64 = 30 * 86_400;

/// State of the thread.
pub(super) struct Runner {
    pub(super) options: Options,
    pub(super) store: Store,
    gateway: Weak<Gateway>,
    shared: Arc<Shared>,
    lock: Option<Lock>,
    pub(super) ledger: Ledger,
    /// Renewal information, by certificate.
    advice: HashMap<Arc<str>, Advice>,
    clocks: BTreeMap<Arc<str>, Clock>,
}

/// Advice of an authority about one certificate.
struct Advice {
    fingerprint: Arc<str>,
    window: Option<Window>,
    look_again: i64,
}

/// Difference of clocks, and when it was measured.
#[derive(Clone, Copy)]
struct Clock {
    ahead: i64,
    measured: i64,
}

/// Wanted certificates with the time of the next attempt.
type Plan = Vec<(Wanted, i64)>;

impl Runner {
    pub(super) fn new(
        options: Options,
        store: Store,
        gateway: Weak<Gateway>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            options,
            store,
            gateway,
            shared,
            lock: None,
            ledger: Ledger::default(),
            advice: HashMap::new(),
            clocks: BTreeMap::new(),
        }
    }

    /// Orders and renews for as long as the gateway is there.
    pub(super) async fn run(&mut self) {
        let Some(mut changes) = self.gateway.upgrade().map(|gateway| gateway.changes()) else {
            return;
        };
        loop {
            let Some(gateway) = self.gateway.upgrade() else { return };
            let wait = self.turn(&gateway).await;
            drop(gateway);
            if !wait.is_zero() && !sleep(wait, &mut changes).await {
                return;
            }
        }
    }

    /// Does one thing that is due; returns the time until something else is.
    async fn turn(&mut self, gateway: &Arc<Gateway>) -> Duration {
        let view = gateway.view();
        let wanted = plan::wanted(&view);
        if !wanted.is_empty() && !self.may_order() {
            self.publish(&view, wanted.into_values().map(|wanted| (wanted, 0)).collect());
            return LOCKED;
        }
        self.advice.retain(|id, _| wanted.contains_key(id));
        self.seek_advice(&wanted).await;
        let now = now();
        let plan: Plan = wanted
            .into_values()
            .map(|wanted| {
                let next = self.next_attempt(&wanted, now);
                (wanted, next)
            })
            .collect();
        self.publish(&view, plan.clone());
        let due = plan.iter().filter(|(wanted, next)| wanted.is_current && *next <= now);
        if let Some((wanted, _)) = due.min_by_key(|(_, next)| *next) {
            self.attempt(gateway, wanted).await;
            return Duration::ZERO;
        }
        let upcoming = plan.iter().filter(|(wanted, _)| wanted.is_current).map(|(_, next)| *next);
        let until = upcoming.min().map_or(i64::MAX, |next| next.saturating_sub(now).max(1));
        self.options.pace.look.min(Duration::from_secs(until.cast_unsigned()))
    }

    /// Returns true if this process places orders for the directory.
    fn may_order(&mut self) -> bool {
        if self.lock.is_some() {
            return true;
        }
        let taken = self.store.prepare().and_then(|()| self.store.lock());
        self.shared.change(|status| {
            status.elsewhere = matches!(taken, Ok(None));
            status.fault = taken.as_ref().err().map(cannot_write);
        });
        match taken {
            Ok(Some(lock)) => {
                self.store.clear_challenges();
                self.ledger = self.store.ledger();
                self.lock = Some(lock);
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::error!(%error, "certificates cannot be ordered: their files cannot be written");
                false
            }
        }
    }

    fn next_attempt(&self, wanted: &Wanted, now: i64) -> i64 {
        let none = Record::default();
        let directory = &wanted.order.directory;
        let window = self.advice.get(&wanted.order.id).and_then(|advice| advice.window.as_ref());
        let facts = Circumstances {
            record: self.ledger.certificates.get(&*wanted.order.id).unwrap_or(&none),
            budget: &self.budget(directory),
            pace: &self.options.pace,
            orders_per_hour: self.options.orders_per_hour,
            clock_ahead: self.clock_ahead(directory),
            now,
        };
        plan::next_attempt(wanted.due(window), &facts)
    }

    fn budget(&self, directory: &str) -> Budget {
        Budget::after(self.ledger.placed.get(directory).cloned().unwrap_or_default())
    }

    /// Returns by how much this host's clock is ahead; 0 for differences that do not matter.
    fn clock_ahead(&self, directory: &str) -> i64 {
        let ahead = self.clocks.get(directory).map_or(0, |clock| clock.ahead);
        if ahead.abs() > CLOCKS_DIFFER { ahead } else { 0 }
    }

    /// Notes the difference of clocks that an authority's answer showed.
    pub(super) fn note_clock(&mut self, directory: &Arc<str>, authority: &Authority) {
        let clock = Clock { ahead: authority.clock_ahead(), measured: now() };
        let was = self.clock_ahead(directory);
        self.clocks.insert(Arc::clone(directory), clock);
        let is = self.clock_ahead(directory);
        if was == 0 && is != 0 {
            tracing::warn!(%directory, seconds = is, "the clock of this host differs from the authority's: renewals follow the authority's");
        }
    }

    /// Returns true if a certificate is due by the authority's clock.
    pub(super) fn is_due(&self, wanted: &Wanted) -> bool {
        self.next_attempt(wanted, now()) <= now()
    }

    /// Asks authorities when they want certificates to be renewed, and for the time where clocks differ.
    async fn seek_advice(&mut self, wanted: &BTreeMap<Arc<str>, Wanted>) {
        for (id, wanted) in wanted {
            let (Some(certificate), now) = (&wanted.certificate, now()) else { continue };
            let directory = &wanted.order.directory;
            let again = i64::try_from(self.options.pace.first.as_secs()).unwrap_or(i64::MAX);
            let clock = self.clocks.get(directory);
            let wrong = clock.is_some_and(|clock| {
                clock.ahead.abs() > CLOCKS_DIFFER
                    && clock.measured.abs_diff(now) >= again.unsigned_abs()
            });
            let known = self.advice.get(id).is_some_and(|advice| {
                advice.fingerprint == certificate.fingerprint && now < advice.look_again
            });
            if known && !wrong {
                continue;
            }
            let found = self.ask_advice(directory, &certificate.chain[0]).await;
            let (window, look_again) = match found {
                Ok(Some(window)) => {
                    let again = window.look_again.as_secs().cast_signed();
                    (Some(window), now.saturating_add(again))
                }
                Ok(None) => (None, now + NO_ADVICE),
                Err(fault) => {
                    tracing::debug!(%directory, %fault, "no renewal information");
                    // What was advised before still holds.
                    let former = self
                        .advice
                        .get(id)
                        .filter(|advice| advice.fingerprint == certificate.fingerprint);
                    (former.and_then(|advice| advice.window), now + NO_ANSWER)
                }
            };
            let fingerprint = Arc::clone(&certificate.fingerprint);
            self.advice.insert(Arc::clone(id), Advice { fingerprint, window, look_again });
        }
    }

    async fn ask_advice(
        &mut self,
        directory: &Arc<str>,
        leaf: &[u8],
    ) -> Result<Option<Window>, Fault> {
        let authority = Authority::open(directory, &self.options.roots).await?;
        self.note_clock(directory, &authority);
        authority.renewal_window(leaf).await
    }

    async fn attempt(&mut self, gateway: &Arc<Gateway>, wanted: &Wanted) {
        let (tenant, names) = (&wanted.tenant, wanted.order.names_text());
        tracing::info!(%tenant, names, authority = %wanted.order.directory, "ordering a certificate");
        let outcome = Attempt { runner: self, gateway, wanted }.run().await;
        let now = now();
        let mut record = self.ledger.certificates.remove(&*wanted.order.id).unwrap_or_default();
        let succeeded = match outcome {
            Ok(None) => {
                tracing::info!(%tenant, names, "the certificate is not due by the authority's clock");
                self.ledger.certificates.insert((*wanted.order.id).to_owned(), record);
                return;
            }
            Ok(Some(validity)) => {
                tracing::info!(%tenant, names, ends = crate::inspect::moment(validity.to), "the certificate was issued");
                record = Record { issued: Some(now), ..Record::default() };
                true
            }
            Err(fault) => {
                record.failures = record.failures.saturating_add(1);
                let wait = self.options.pace.wait(record.failures, &fault, wanted.seed());
                let next = now.saturating_add(wait.as_secs().cast_signed().max(1));
                record.not_before = Some(next);
                let next = crate::inspect::moment(next);
                tracing::warn!(%tenant, names, error = %fault, next, "the certificate was not issued; what was served before still is");
                record.fault = Some(fault.to_string());
                false
            }
        };
        self.ledger.certificates.insert((*wanted.order.id).to_owned(), record);
        self.keep_ledger();
        self.shared.change(|status| {
            let (issued, failed) = status.attempts.entry(wanted.tenant.clone()).or_default();
            if succeeded { *issued += 1 } else { *failed += 1 }
        });
    }

    /// Counts an order before it is placed, so that a crash does not lose it.
    pub(super) fn note_order(&mut self, directory: &str) {
        let mut budget = self.budget(directory);
        budget.note(now());
        self.ledger.placed.insert(directory.to_owned(), budget.placed().collect());
        self.keep_ledger();
    }

    fn keep_ledger(&self) {
        let kept = self.store.keep_ledger(&self.ledger);
        if let Err(error) = &kept {
            tracing::error!(%error, "the attempts to get certificates cannot be written down");
        }
        self.shared.change(|status| status.fault = kept.err().map(|error| cannot_write(&error)));
    }

    fn publish(&mut self, view: &Compiled, plan: Plan) {
        let elsewhere = self.lock.is_none();
        let none = Record::default();
        let ids: Vec<Arc<str>> =
            plan.iter().map(|(wanted, _)| Arc::clone(&wanted.order.id)).collect();
        let rows = plan.into_iter().map(|(wanted, next)| {
            let id = &*wanted.order.id;
            let record = self.ledger.certificates.get(id).unwrap_or(&none);
            let fault = if wanted.is_current {
                record.fault.clone()
            } else {
                Some("the tenant's document is rejected, so nothing is ordered: mend it".to_owned())
            };
            Row {
                names: wanted.order.names_text(),
                listeners: wanted.listeners.join(", "),
                directory: (*wanted.order.directory).to_owned(),
                challenge: wanted.order.challenge.name(),
                not_after: wanted.certificate.as_ref().map(|one| one.not_after),
                next_attempt: (wanted.is_current && !elsewhere).then_some(next),
                failures: record.failures,
                fault,
                tenant: wanted.tenant,
            }
        });
        let rows: Vec<Row> = rows.collect();
        if !elsewhere {
            self.keep_plan(&ids, &rows);
        }
        let clocks = self
            .clocks
            .keys()
            .map(|directory| ((**directory).to_owned(), self.clock_ahead(directory)));
        let clocks = clocks.filter(|(_, ahead)| *ahead != 0).collect();
        let known = &view.snapshot.tenants;
        self.shared.change(|status| {
            status.certificates = rows;
            status.clocks = clocks;
            status.attempts.retain(|tenant, _| known.contains_key(tenant));
        });
    }

    /// Writes down what is planned, for `durward certs list`, and forgets what has not been wanted for long.
    fn keep_plan(&mut self, ids: &[Arc<str>], rows: &[Row]) {
        let before = self.ledger.clone();
        for (id, row) in ids.iter().zip(rows) {
            self.ledger.certificates.entry((**id).to_owned()).or_default().next = row.next_attempt;
        }
        let long_ago = now() - FORGOTTEN;
        self.ledger.certificates.retain(|id, record| {
            let last = record.issued.max(record.not_before).max(record.next);
            last.is_some_and(|last| last > long_ago) || ids.iter().any(|wanted| **wanted == **id)
        });
        if self.ledger != before {
            self.keep_ledger();
        }
    }

    /// Removes what only a running order needs, and gives the lock up.
    pub(super) fn leave(&mut self) {
        if self.lock.is_some() {
            self.store.clear_challenges();
        }
        self.lock = None;
    }
}

fn cannot_write(error: &std::io::Error) -> String {
    format!(
        "cannot be ordered: their files cannot be written: {error}; free space there or name another --state-dir"
    )
}

/// Waits for the time, or for a change of the configuration; false once there can be none.
async fn sleep(wait: Duration, changes: &mut watch::Receiver<Arc<Compiled>>) -> bool {
    tokio::select! {
        () = tokio::time::sleep(wait) => true,
        changed = changes.changed() => changed.is_ok(),
    }
}
