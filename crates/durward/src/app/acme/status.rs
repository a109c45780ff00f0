//! State of certificates by ACME, for `/readyz?verbose`, `/snapshot` and the metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use durward_model::TenantId;
use durward_proxy::metrics::openmetrics::{Kind as Metric, Text};
use serde::Serialize;

use crate::app::condition::{Condition, Kind};
use crate::inspect::moment;

/// Seconds by which clocks may differ without a word.
pub(super) const CLOCKS_DIFFER: i64 = 300;

/// State of all certificates.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// Certificates, by tenant.
    pub(crate) certificates: Vec<Row>,
    /// True if another process with the same state directory places the orders.
    pub(crate) elsewhere: bool,
    /// Reason the files cannot be written.
    pub(crate) fault: Option<String>,
    /// Seconds by which the clock of this host is ahead of an authority's, by directory URL, where it matters.
    pub(crate) clocks: BTreeMap<String, i64>,
    /// Attempts since the start, by tenant: those that brought a certificate, and those that failed.
    #[serde(skip)]
    pub(crate) attempts: BTreeMap<TenantId, (u64, u64)>,
}

/// State of one certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// Tenant.
    pub(crate) tenant: TenantId,
    /// Names, with commas.
    pub(crate) names: String,
    /// Listeners that show it.
    pub(crate) listeners: String,
    /// Directory URL of the authority.
    pub(crate) directory: String,
    /// Challenge by which names are validated.
    pub(crate) challenge: &'static str,
    /// End of the certificate that is served; `None` while there is none.
    pub(crate) not_after: Option<i64>,
    /// Time of the next attempt.
    pub(crate) next_attempt: Option<i64>,
    /// Failures since the last success.
    pub(crate) failures: u32,
    /// Reason of the last failure.
    pub(crate) fault: Option<String>,
}

impl Row {
    fn condition(&self) -> Option<Condition> {
        let fault = self.fault.as_deref();
        let sentence = match self.not_after {
            None => {
                let why = fault.map_or_else(String::new, |fault| format!(": {fault}"));
                format!(
                    "has not been issued yet, and handshakes are refused (certificate_pending){why}"
                )
            }
            Some(end) => format!("is not renewed: {}; it ends at {}", fault?, moment(end)),
        };
        let next = self
            .next_attempt
            .map_or_else(String::new, |next| format!("; next attempt at {}", moment(next)));
        let subject = format!("certificate for {} at {}", self.names, self.listeners);
        Some(Condition::of(Kind::Certificate, &self.tenant, subject, sentence + &next))
    }
}

impl Status {
    /// Describes the state in numbers.
    pub(crate) fn summary(&self) -> String {
        let all = self.certificates.len();
        let issued = self.certificates.iter().filter(|row| row.not_after.is_some()).count();
        let elsewhere = if self.elsewhere {
            "; another process with this state directory orders them"
        } else {
            ""
        };
        format!("{issued} of {all} issued{elsewhere}")
    }

    /// Returns what does not work.
    pub(crate) fn conditions(&self) -> Vec<Condition> {
        let mut conditions: Vec<_> = self.certificates.iter().filter_map(Row::condition).collect();
        if let Some(fault) = &self.fault {
            let subject = "certificates by ACME";
            conditions.push(Condition::process(Kind::State, subject, fault.clone()));
        }
        for (directory, ahead) in &self.clocks {
            let differ = durward_model::certificate::span_text(ahead.abs());
            let side = if *ahead > 0 { "ahead of" } else { "behind" };
            let sentence = format!(
                "is {differ} {side} that of {directory}: set it; renewals follow the authority's until then"
            );
            conditions.push(Condition::process(
                Kind::Certificate,
                "the clock of this host",
                sentence,
            ));
        }
        conditions
    }

    /// Writes the metrics.
    pub(crate) fn write_metrics(&self, text: &mut Text) {
        let help = "Attempts to get a certificate by ACME.";
        let mut family = text.family("durward_acme_attempts", Metric::Counter, help);
        for (tenant, (issued, failed)) in &self.attempts {
            for (outcome, count) in [("issued", issued), ("failed", failed)] {
                family.row(&[("tenant", tenant.as_str()), ("outcome", outcome)], *count);
            }
        }
        let rows = || {
            self.certificates
                .iter()
                .map(|row| ([("tenant", row.tenant.as_str()), ("names", &row.names)], row))
        };
        let help = "Failed attempts since the last certificate by ACME.";
        let mut family = text.family("durward_acme_failures", Metric::Gauge, help);
        for (labels, row) in rows() {
            family.row(&labels, row.failures);
        }
        let help = "When the next certificate by ACME is ordered, Unix time.";
        let mut family =
            text.family("durward_acme_next_attempt_timestamp_seconds", Metric::Gauge, help);
        for (labels, row) in rows() {
            if let Some(next) = row.next_attempt {
                family.row(&labels, next);
            }
        }
    }
}

/// Status that the thread writes and other threads read.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    status: Mutex<Status>,
}

impl Shared {
    pub(crate) fn status(&self) -> Status {
        self.lock().clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
