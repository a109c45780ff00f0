//! The kernel plane of a running gateway: applies the latest mappings and egress rules, and keeps the result.
//!
//! The plane starts with the first mapping. When the process ends or crashes the kernel goes on alone; a fault is retried until it is gone.
//! Deliberately absent: removing anything from the kernel at the end; `durward nat cleanup` does that.

pub(crate) mod lines;
mod metrics;
mod ports;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use durward_model::Snapshot;
use durward_model::mapping::NatModel;
use durward_nat::{Health, MappingReport, Nat, Options, Owners, Report};
use durward_proxy::metrics::openmetrics::Text;
use jiff::Timestamp;
use lines::Line;
use ports::Scarce;

use super::health::KernelFacts;

/// Kernel plane of the gateway.
pub(crate) struct Kernel {
    options: Options,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    plane: Option<Nat>,
    wanted: Arc<NatModel>,
    /// Tenants by address, for the source addresses of checks.
    owners: Arc<Owners>,
    /// Report that was logged last.
    logged: Report,
    /// Reason the kernel does not match the configuration.
    fault: Option<String>,
    /// Egress addresses with few ports left.
    scarce: Scarce,
    /// Connections cut since the start because they were no longer allowed.
    cut: u64,
    /// True once another process has taken over.
    closed: bool,
    /// Time when the kernel last matched the configuration.
    applied: Timestamp,
}

impl Kernel {
    /// Creates a plane that is not started.
    pub(crate) fn new(options: Options) -> Self {
        Self { options, state: Mutex::default() }
    }

    /// Applies the snapshot to the kernel. A fault is kept and logged, and retried by `retry`.
    pub(crate) fn apply(&self, snapshot: &Snapshot) {
        let mut state = self.state();
        state.wanted = Arc::clone(&snapshot.nat);
        state.owners = Arc::new(owners(snapshot));
        self.bring_about(&mut state);
    }

    /// Follows a snapshot that asks nothing else of the kernel: addresses may belong to other tenants now.
    pub(crate) fn follow_owners(&self, snapshot: &Snapshot) {
        let mut state = self.state();
        state.owners = Arc::new(owners(snapshot));
        if let Some(plane) = &state.plane {
            plane.set_owners(Arc::clone(&state.owners));
        }
    }

    /// Retries what failed, and logs findings of the watching thread since the last call.
    pub(crate) fn retry(&self) {
        let mut state = self.state();
        if state.fault.is_some() {
            self.bring_about(&mut state);
        }
        state.follow();
        if state.scarce.is_due()
            && let Some(Ok(leaving)) = state.plane.as_ref().map(Nat::leaving)
        {
            state.scarce.look(&leaving);
        }
    }

    /// Leaves the kernel to a younger process.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.plane = None;
    }

    /// Returns the time when the kernel last matched the configuration.
    pub(crate) fn last_applied(&self) -> Timestamp {
        let state = self.state();
        let compared = state.health().compared.and_then(|at| Timestamp::try_from(at).ok());
        let applied = compared.map_or(state.applied, |compared| compared.max(state.applied));
        applied.round(jiff::Unit::Second).unwrap_or(applied)
    }

    /// Returns whether the kernel carries this model, or is asked for nothing, and its state at the same moment.
    pub(crate) fn carries(&self, model: &Arc<NatModel>) -> (bool, Option<KernelFacts>) {
        let state = self.state();
        // A comparison of the watching thread that failed leaves unknown what is there now.
        let is_known = state.fault.is_none() && state.health().fault.is_none();
        let is_applied = is_known && Arc::ptr_eq(&state.wanted, model);
        let carries = is_applied || !is_wanted(&self.options, model);
        (carries, self.facts_of(&state))
    }

    /// Returns the present state of the kernel plane; `None` if it is not used.
    pub(crate) fn facts(&self) -> Option<KernelFacts> {
        self.facts_of(&self.state())
    }

    fn facts_of(&self, state: &State) -> Option<KernelFacts> {
        // After a hand-over only the younger process knows the state.
        if state.closed || !is_wanted(&self.options, &state.wanted) {
            return None;
        }
        let health = state.health();
        Some(KernelFacts {
            wanted: (state.wanted.mappings.len(), state.wanted.egress.len()),
            report: health.report,
            checked: state.plane.as_ref().map(Nat::checked).unwrap_or_default(),
            fault: state.fault.clone().or(health.fault),
            enabled: !self.options.external.is_empty(),
            owns_table: state.plane.as_ref().is_some_and(Nat::owns_table),
        })
    }

    /// Returns every mapping and egress rule with its present state in the kernel.
    ///
    /// # Errors
    /// Fails if there is no kernel plane, or the kernel cannot be read.
    pub(crate) fn lines(&self) -> Result<Vec<Line>, String> {
        let state = self.state();
        let Some(plane) = &state.plane else {
            let none = "this gateway carries nothing in the kernel";
            return Err(state.fault.clone().unwrap_or_else(|| none.to_owned()));
        };
        lines::lines(plane, &state.wanted, &plane.health().report).map_err(|error| sentence(&error))
    }

    /// Writes the metric families of the kernel plane; none if it is not used.
    pub(crate) fn write_metrics(&self, text: &mut Text) {
        let state = self.state();
        if is_wanted(&self.options, &state.wanted) {
            metrics::write(text, &state);
        }
    }

    fn bring_about(&self, state: &mut State) {
        if state.closed || !is_wanted(&self.options, &state.wanted) && state.plane.is_none() {
            return;
        }
        let outcome = self.try_to(state);
        let was = state.fault.take();
        match outcome {
            Ok(report) => {
                state.applied = Timestamp::now();
                state.cut += report.connections_cut as u64;
                log_changes(&state.logged, &report);
                log_applied(&report, was.is_some());
                state.logged = report;
            }
            Err(fault) => {
                if was.as_ref() != Some(&fault) {
                    tracing::error!(
                        fault,
                        "the kernel does not carry the mappings; it is tried again"
                    );
                }
                state.fault = Some(fault);
            }
        }
    }

    fn try_to(&self, state: &mut State) -> Result<Report, String> {
        if self.options.external.is_empty() {
            return Err("no interface is external: name them with --nat-external".to_owned());
        }
        if state.plane.is_none() {
            state.plane = Some(Nat::start(self.options.clone()).map_err(|error| sentence(&error))?);
        }
        let Some(plane) = &state.plane else { return Err("it did not start".to_owned()) };
        plane.set_owners(Arc::clone(&state.owners));
        plane.apply(Arc::clone(&state.wanted)).map_err(|error| sentence(&error))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the result of the last comparison; empty without a plane.
    fn health(&self) -> Health {
        self.plane.as_ref().map(Nat::health).unwrap_or_default()
    }

    /// Logs changes without an apply: addresses and interfaces that came or went.
    fn follow(&mut self) {
        if self.plane.is_none() || self.fault.is_some() {
            return;
        }
        let report = Report { connections_cut: 0, ..self.health().report };
        log_changes(&self.logged, &report);
        self.logged = report;
    }
}

/// Returns tenants by ingress and egress address: no check of another tenant's endpoint leaves from these.
fn owners(snapshot: &Snapshot) -> Owners {
    let mut owners = Owners::new();
    if snapshot.nat.mappings.iter().all(|mapping| mapping.health_check.is_none()) {
        return owners;
    }
    let listeners = snapshot.binds.values().flat_map(|bind| &bind.listeners);
    let ingress = listeners.map(|listener| (&listener.tenant, listener.address.0));
    let egress = snapshot.tenants.values();
    let egress = egress.flat_map(|one| one.egress.iter().map(|address| (&one.id, address.0)));
    for (tenant, address) in ingress.chain(egress) {
        owners.entry(address).or_default().insert(tenant.clone());
    }
    owners
}

fn is_wanted(options: &Options, model: &NatModel) -> bool {
    !options.external.is_empty() || !model.mappings.is_empty() || !model.egress.is_empty()
}

/// Formats an error with its causes, each once.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Logs one event for each mapping, egress rule and fault of the host that has changed.
fn log_changes(before: &Report, now: &Report) {
    let all = [(&before.mappings, &now.mappings), (&before.egress, &now.egress)];
    for (one, was) in all.into_iter().flat_map(|(before, now)| beside(before, now)) {
        let (tenant, mapping) = (&one.tenant, &*one.name);
        match &one.rejected {
            _ if was == Some(one) => {}
            Some(why) => tracing::error!(%tenant, mapping, %why, "left out of the kernel"),
            None if !one.foreign_addresses.is_empty() => {
                tracing::warn!(%tenant, mapping, addresses = ?one.foreign_addresses, "addresses are not on this host");
            }
            None if was.is_some() => {
                tracing::info!(%tenant, mapping, "in the kernel, and its addresses are on this host");
            }
            None => tracing::debug!(%tenant, mapping, "in the kernel"),
        }
    }
    for problem in now.host.iter().filter(|problem| !before.host.contains(problem)) {
        tracing::warn!(problem, "this host");
    }
    for problem in before.host.iter().filter(|problem| !now.host.contains(problem)) {
        tracing::info!(problem, "this host: no longer so");
    }
}

fn log_applied(now: &Report, cured: bool) {
    let carried = |of: &[MappingReport]| of.iter().filter(|one| one.rejected.is_none()).count();
    let (mappings, egress) = (carried(&now.mappings), carried(&now.egress));
    tracing::info!(
        mappings,
        egress,
        left_out = now.mappings.len() + now.egress.len() - mappings - egress,
        connections_cut = now.connections_cut,
        cured,
        "the kernel carries the mappings"
    );
}

/// Pairs each report with the former one of the same mapping.
fn beside<'a>(
    before: &'a [MappingReport],
    now: &'a [MappingReport],
) -> impl Iterator<Item = (&'a MappingReport, Option<&'a MappingReport>)> {
    let key = |one: &'a MappingReport| (&one.tenant, &*one.name);
    let before: HashMap<_, _> = before.iter().map(|one| (key(one), one)).collect();
    now.iter().map(move |one| (one, before.get(&key(one)).copied()))
}
