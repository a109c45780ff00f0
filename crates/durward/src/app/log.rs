//! Log events of the gateway: findings, applied configurations, addresses that came or went.

use std::collections::BTreeSet;
use std::net::IpAddr;

use durward_control::Compiled;
use durward_model::verdict::Severity;
use durward_model::{Snapshot, Verdicts};
use durward_proxy::present::PresentAddresses;
use durward_proxy::proxy::{Applied, BindState, Drained};

/// Logs one event per finding.
pub(crate) fn findings(verdicts: &Verdicts) {
    for (verdict, finding) in verdicts.findings() {
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

/// Logs the result of a new configuration, and the number of things that do not work.
pub(crate) fn applied(view: &Compiled, applied: &Applied, absent_egress: usize, cause: &str) {
    let mut counted = Counted::of(&view.verdicts);
    counted.warnings += absent_egress;
    for bind in &applied.binds {
        match &bind.state {
            BindState::Bound => tracing::debug!(address = %bind.address, "listening"),
            BindState::AddressNotLocal => {
                counted.warnings += 1;
                tracing::warn!(address = %bind.address, "the address is not on this host yet; it is served as soon as it is");
            }
            BindState::Failed(error) => {
                counted.errors += 1;
                tracing::error!(address = %bind.address, %error, "cannot listen");
            }
        }
    }
    for problem in &applied.problems {
        let (tenant, listener) = (&problem.tenant, problem.listener.as_deref());
        counted.errors += 1;
        tracing::error!(%tenant, listener, "cannot be served: {}", problem.sentence);
    }
    let snapshot = &view.snapshot;
    tracing::info!(
        generation = snapshot.generation,
        tenants = snapshot.tenants.len(),
        listeners = snapshot.tenants.values().map(|tenant| tenant.listeners.len()).sum::<usize>(),
        problems = counted.errors,
        warnings = counted.warnings,
        cause,
        "configuration served"
    );
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

/// Egress addresses that were missing on this host at the last call, so that each change is logged once.
#[derive(Debug, Default)]
pub(crate) struct AbsentEgress(BTreeSet<IpAddr>);

impl AbsentEgress {
    /// Logs each address that came or went since the last call; returns how many are absent.
    pub(crate) fn log_changes(&mut self, snapshot: &Snapshot) -> usize {
        let wanted: BTreeSet<IpAddr> = snapshot
            .tenants
            .values()
            .flat_map(|tenant| &tenant.egress)
            .map(|address| address.0)
            .collect();
        let present = PresentAddresses::now();
        let absent: BTreeSet<IpAddr> =
            wanted.iter().copied().filter(|address| !present.has(*address)).collect();
        for address in absent.difference(&self.0) {
            tracing::warn!(%address, "the egress address is not on this host; connections that would leave from it are refused until it is");
        }
        for address in self.0.difference(&absent).filter(|address| wanted.contains(*address)) {
            tracing::info!(%address, "the egress address is on this host now");
        }
        self.0 = absent;
        self.0.len()
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
