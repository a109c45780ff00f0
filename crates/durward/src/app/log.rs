//! Log events of the gateway: findings, applied configurations, addresses that came or went.

use std::collections::BTreeSet;
use std::net::IpAddr;

use durward_control::Compiled;
use durward_model::verdict::{Severity, Verdict};
use durward_model::{Snapshot, Verdicts};
use durward_proxy::present::PresentAddresses;
use durward_proxy::proxy::{Applied, BindState, Drained};

/// Logs one event per finding.
pub(crate) fn findings(verdicts: &Verdicts) {
    verdicts.iter().for_each(findings_of);
}

/// Logs the findings of documents whose verdict is another one than before, so that one tenant's changes do not fill the log with what is wrong with others.
pub(crate) fn changed_findings(before: &Verdicts, now: &Verdicts) {
    let changed = now.differences(before).into_iter().filter_map(|document| now.on(document));
    changed.for_each(|verdict| findings_of(verdict));
}

fn findings_of(verdict: &Verdict) {
    for finding in &verdict.findings {
        let (resource, outcome) = (verdict.subject(), verdict.outcome.to_string());
        let (reason, at) = (&*finding.reason, finding.origin.to_string());
        match finding.severity {
            Severity::Error => tracing::error!(resource, outcome, reason, at, "{finding}"),
            Severity::Warning => tracing::warn!(resource, reason, at, "{finding}"),
        }
    }
}

/// Logs that all errors of an earlier configuration are gone.
pub(crate) fn mended(before: &Verdicts, now: &Verdicts) {
    if !before.all_accepted() && now.all_accepted() {
        tracing::info!("every document is accepted again");
    }
}

/// Things that were logged of the configuration before, so that each is logged when it comes and not again with every change of some tenant.
#[derive(Debug, Default)]
pub(crate) struct Logged {
    /// Egress addresses that were missing on this host.
    absent_egress: BTreeSet<IpAddr>,
    /// Listeners that did not work, by what was said of each.
    listeners: BTreeSet<String>,
}

impl Logged {
    /// Logs the result of a new configuration, and the number of things that do not work.
    pub(crate) fn applied(&mut self, view: &Compiled, applied: &Applied, cause: &str) {
        let mut counted = Counted::of(&view.verdicts);
        counted.warnings += self.absent_egress(&view.snapshot);
        self.listeners(applied, &mut counted);
        let snapshot = &view.snapshot;
        tracing::info!(
            generation = snapshot.generation,
            tenants = snapshot.tenants.len(),
            listeners =
                snapshot.tenants.values().map(|tenant| tenant.listeners.len()).sum::<usize>(),
            problems = counted.errors,
            warnings = counted.warnings,
            cause,
            "configuration served"
        );
    }

    /// Logs each listener that does not work and did before, or does not work in another way; counts all.
    fn listeners(&mut self, applied: &Applied, counted: &mut Counted) {
        let mut now = BTreeSet::new();
        for bind in &applied.binds {
            let (address, key) = (bind, format!("{bind} {:?}", bind.state));
            let is_new = !self.listeners.contains(&key);
            match &bind.state {
                BindState::Bound => {
                    tracing::debug!(%address, "listening");
                    continue;
                }
                BindState::AddressNotLocal => {
                    counted.warnings += 1;
                    if is_new {
                        tracing::warn!(%address, "the address is not on this host yet; it is served as soon as it is");
                    }
                }
                BindState::Failed(error) => {
                    counted.errors += 1;
                    if is_new {
                        tracing::error!(%address, %error, "cannot listen");
                    }
                }
            }
            now.insert(key);
        }
        for problem in &applied.problems {
            let (tenant, listener) = (&problem.tenant, problem.listener.as_deref());
            let key = format!("{tenant} {listener:?} {}", problem.sentence);
            counted.errors += 1;
            if !self.listeners.contains(&key) {
                tracing::error!(%tenant, listener, "cannot be served: {}", problem.sentence);
            }
            now.insert(key);
        }
        self.listeners = now;
    }

    /// Logs each egress address that came to this host or went since the last call; returns how many are absent.
    pub(crate) fn absent_egress(&mut self, snapshot: &Snapshot) -> usize {
        let tenants = snapshot.tenants.values();
        let wanted: BTreeSet<IpAddr> =
            tenants.flat_map(|tenant| &tenant.egress).map(|address| address.0).collect();
        let present = PresentAddresses::now();
        let absent: BTreeSet<IpAddr> =
            wanted.iter().copied().filter(|address| !present.has(*address)).collect();
        let former = &self.absent_egress;
        for address in absent.difference(former) {
            tracing::warn!(%address, "the egress address is not on this host; connections that would leave from it are refused until it is");
        }
        for address in former.difference(&absent).filter(|address| wanted.contains(*address)) {
            tracing::info!(%address, "the egress address is on this host now");
        }
        self.absent_egress = absent;
        self.absent_egress.len()
    }
}

/// Numbers of errors and warnings in a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    errors: usize,
    warnings: usize,
}

impl Counted {
    fn of(verdicts: &Verdicts) -> Self {
        Self {
            errors: verdicts.count(Severity::Error),
            warnings: verdicts.count(Severity::Warning),
        }
    }
}

/// Logs the result of the drain.
pub(crate) fn drained(drained: Drained) {
    tracing::info!(finished = drained.finished, cut = drained.cut, "drained");
}

/// Formats the reason the process does not start: a complete first line, followed by excerpts.
pub(crate) fn refusal(verdicts: &Verdicts, strict: bool) -> String {
    let errors: Vec<_> =
        verdicts.findings().filter(|(_, finding)| finding.severity == Severity::Error).collect();
    let mut text = match errors.first() {
        Some((_, first)) => format!("{}: {first}", first.origin),
        None => "the configuration has nothing to serve".to_owned(),
    };
    if errors.len() > 1 {
        text.push_str(&format!(" (and {} more)", errors.len() - 1));
    }
    if strict {
        text.push_str("; --strict serves all or nothing");
    }
    for (_, finding) in errors {
        if let Some(excerpt) = &finding.excerpt {
            text.push_str(&format!("\n\n{}: {finding}\n{}", finding.reason, excerpt.trim_end()));
        }
    }
    text
}
