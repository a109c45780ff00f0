//! Bytes and decisions per tenant, counted where decisions are recorded, so that metrics and record agree.
//!
//! A tenant's counters are looked up once per core.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use durward_model::TenantId;

use super::{Decision, Kind, Verdict};
use crate::metrics::{Counter, Metrics, TenantMetrics};

/// Handle of one core to the counters.
pub(crate) struct Ledger {
    metrics: Arc<Metrics>,
    core: usize,
    known: RefCell<BTreeMap<TenantId, Arc<TenantMetrics>>>,
}

impl Ledger {
    /// Creates a handle that counts in the cells of `core`.
    pub(crate) fn new(metrics: Arc<Metrics>, core: usize) -> Self {
        Self { metrics, core, known: RefCell::default() }
    }

    /// Counts a decision.
    pub(super) fn count(&self, decision: &Decision<'_>) {
        let mut known = self.known.borrow_mut();
        if !known.contains_key(decision.tenant) {
            let metrics = self.metrics.tenant(decision.tenant);
            known.insert(decision.tenant.clone(), metrics);
        }
        let Some(cells) = known.get(decision.tenant).map(|metrics| metrics.core(self.core)) else {
            return;
        };
        match decision.kind {
            Kind::Open => cells.add(counter(decision.verdict), 1),
            Kind::Close => {
                if decision.verdict == Verdict::Denied {
                    cells.add(Counter::EgressDenied, 1);
                }
                cells.add(Counter::EgressClosed, 1);
                cells.add(Counter::EgressBytesUp, decision.bytes_up);
                cells.add(Counter::EgressBytesDown, decision.bytes_down);
            }
            Kind::ApiOpen | Kind::ApiClose => {}
        }
    }
}

fn counter(verdict: Verdict) -> Counter {
    match verdict {
        Verdict::Allowed => Counter::EgressAllowed,
        Verdict::Reported => Counter::EgressReported,
        Verdict::Denied => Counter::EgressDenied,
        Verdict::Failed => Counter::EgressFailed,
    }
}
