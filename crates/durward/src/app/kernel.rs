//! The kernel's share of a running gateway: the latest mappings, applied to the packet filter, and how that went.
//!
//! It starts with the first mapping. When the process ends or crashes the kernel goes on alone; a fault is tried again until it is cured.
//! Deliberately absent: taking anything out of the kernel at the end; `durward nat cleanup` does that.

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

/// The kernel's share.
pub(crate) struct Kernel {
    options: Options,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    plane: Option<Nat>,
    wanted: Arc<NatModel>,
    /// Tenants by their addresses, where checks must know them.
    owners: Arc<Owners>,
    /// The last report that was logged.
    logged: Report,
    /// Why the kernel is not as it should be.
    fault: Option<String>,
    /// The egress addresses that have few ports left.
    scarce: Scarce,
    /// Connections cut since the start because they were no longer allowed.
    cut: u64,
    /// Another process has it now.
    closed: bool,
    /// When it was last as it should be.
    applied: Timestamp,
}

impl Kernel {
    /// Nothing yet.
    pub(crate) fn new(options: Options) -> Self {
        Self { options, state: Mutex::default() }
    }

    /// Makes the kernel as the snapshot says. A fault is kept and told, and tried again by `retry`.
    pub(crate) fn apply(&self, snapshot: &Snapshot) {
        let mut state = self.state();
        state.wanted = Arc::clone(&snapshot.nat);
        state.owners = Arc::new(owners(snapshot));
        self.bring_about(&mut state);
    }

    /// Follows a snapshot that asks nothing else of the kernel: addresses may be other tenants' now.
    pub(crate) fn follow_owners(&self, snapshot: &Snapshot) {
        let mut state = self.state();
        state.owners = Arc::new(owners(snapshot));
        if let Some(plane) = &state.plane {
            plane.set_owners(Arc::clone(&state.owners));
        }
    }

    /// Tries again what did not work, and logs what the watching thread found since the last call.
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

    /// When the kernel was last brought to the configuration, or found to be as it says.
    pub(crate) fn last_applied(&self) -> Timestamp {
        let state = self.state();
        let compared = state.health().compared.and_then(|at| Timestamp::try_from(at).ok());
        let applied = compared.map_or(state.applied, |compared| compared.max(state.applied));
        applied.round(jiff::Unit::Second).unwrap_or(applied)
    }

    /// State of the kernel plane now; `None` when nothing was asked of it.
    pub(crate) fn facts(&self) -> Option<KernelFacts> {
        let state = self.state();
        // After a hand-over it is the younger process that knows.
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

    /// Every mapping and egress rule with its state in the kernel now.
    ///
    /// # Errors
    /// When there is no kernel plane, or the kernel cannot be read.
    pub(crate) fn lines(&self) -> Result<Vec<Line>, String> {
        let state = self.state();
        let Some(plane) = &state.plane else {
            let none = "this gateway carries nothing in the kernel";
            return Err(state.fault.clone().unwrap_or_else(|| none.to_owned()));
        };
        lines::lines(plane, &state.wanted, &plane.health().report).map_err(|error| sentence(&error))
    }

    /// Writes the metric families of the kernel plane; none when nothing was asked of it.
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
    /// What the kernel plane last found; nothing while there is none.
    fn health(&self) -> Health {
        self.plane.as_ref().map(Nat::health).unwrap_or_default()
    }

    /// Logs what changed without an apply: addresses and interfaces that came or went.
    fn follow(&mut self) {
        if self.plane.is_none() || self.fault.is_some() {
            return;
        }
        let report = Report { connections_cut: 0, ..self.health().report };
        log_changes(&self.logged, &report);
        self.logged = report;
    }
}

/// Tenants by the addresses that clients reach them at and that their traffic leaves from: no check of another's endpoint is made from there.
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

/// The error with its causes, each once.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// One event for each mapping, egress rule and fault of the host that is not as it was.
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

/// Each report, and the one of the same mapping before.
fn beside<'a>(
    before: &'a [MappingReport],
    now: &'a [MappingReport],
) -> impl Iterator<Item = (&'a MappingReport, Option<&'a MappingReport>)> {
    let key = |one: &'a MappingReport| (&one.tenant, &*one.name);
    let before: HashMap<_, _> = before.iter().map(|one| (key(one), one)).collect();
    now.iter().map(move |one| (one, before.get(&key(one)).copied()))
}
