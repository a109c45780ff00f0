//! Health: what works and what does not, judged at each request.
//!
//! A check fails readiness only if nothing can be served. A problem of one tenant is a condition: it is shown and counted, and the gateway stays in
//! the load balancer for the others. `docs/guide/operations.md` has the table.

mod certificates;
mod checks;

pub(crate) use checks::why;

use std::collections::BTreeMap;

use durward_control::Compiled;
use durward_control::source::file::LoadHealth;
use durward_model::{Tenant, TenantId};
use durward_nat::{CheckedMapping, Report};
use durward_proxy::present::PresentAddresses;
use durward_proxy::proxy::Status;

use super::condition::{Condition, Kind};
use super::{acme, cluster};
use crate::state_file;

/// Conditions shown per check by `/readyz?verbose`; `/snapshot` has all.
const SHOWN: usize = 10;

/// Facts from which health is judged.
pub(crate) struct Facts<'a> {
    /// Compiled configuration, with the verdicts of the documents.
    pub(crate) view: &'a Compiled,
    /// Status of the proxy; `None` once it has drained.
    pub(crate) status: Option<&'a Status>,
    /// State of the kernel plane; `None` if it is not used.
    pub(crate) kernel: Option<&'a KernelFacts>,
    /// State of the state file; `None` without one.
    pub(crate) state_file: Option<state_file::Status>,
    /// State of certificates by ACME; `None` without a state directory.
    pub(crate) acme: Option<acme::status::Status>,
    /// State of the Kubernetes API as a source; `None` if it is not read.
    pub(crate) cluster: Option<cluster::Status>,
    /// State of the loads of configuration files.
    pub(crate) loads: &'a LoadHealth,
    /// True if the process is stopping.
    pub(crate) draining: bool,
    /// Addresses of this host.
    pub(crate) present: &'a PresentAddresses,
    /// Seconds since the Unix epoch.
    pub(crate) now: i64,
}

/// State of the kernel plane.
pub(crate) struct KernelFacts {
    /// Mappings and egress rules that the documents ask for.
    pub(crate) wanted: (usize, usize),
    /// Report of the last comparison with the kernel.
    pub(crate) report: Report,
    /// Mappings with checks, and the results of these.
    pub(crate) checked: Vec<CheckedMapping>,
    /// Reason the kernel does not match the documents.
    pub(crate) fault: Option<String>,
    /// True if the operator named external interfaces. Without them only documents ask for the kernel plane.
    pub(crate) enabled: bool,
    /// True if the kernel keeps other programs from changing the table.
    pub(crate) owns_table: bool,
}

/// Check: one line of `/readyz?verbose`.
pub(crate) struct Check {
    /// Name of the check.
    pub(crate) name: &'static str,
    /// State in numbers.
    pub(crate) state: String,
    /// Reason the process is not ready.
    pub(crate) fault: Option<String>,
    /// Problems that leave the process ready.
    pub(crate) conditions: Vec<Condition>,
}

impl Check {
    fn new(name: &'static str, state: String) -> Self {
        Self { name, state, fault: None, conditions: Vec::new() }
    }

    fn write(&self, text: &mut String) {
        let Self { name, state, .. } = self;
        text.push_str(&match &self.fault {
            Some(fault) => format!("[-]{name} failed: {fault}\n"),
            None if self.conditions.is_empty() => format!("[+]{name} ok: {state}\n"),
            None => format!("[!]{name} warning: {state}\n"),
        });
        for condition in self.conditions.iter().take(SHOWN) {
            text.push_str(&format!("    {}\n", printable(&condition.to_string())));
        }
        if let Some(more @ 1..) = self.conditions.len().checked_sub(SHOWN) {
            text.push_str(&format!("    and {more} more: see /snapshot\n"));
        }
    }
}

/// Returns a text as one line without control characters, which a terminal would interpret.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// Formats conditions, one per line.
pub(crate) fn lines(conditions: &[&Condition]) -> String {
    conditions.iter().map(|condition| printable(&condition.to_string()) + "\n").collect()
}

/// Returns the conditions, among those of a tenant, that keep this replica from serving it: its listeners, its part of the kernel, or that none of its egress
/// addresses is on this host. Certificates and upstreams are the same on every replica.
pub(crate) fn keeping_from<'c>(
    tenant: &Tenant,
    conditions: &[&'c Condition],
) -> Vec<&'c Condition> {
    let of = |kind| conditions.iter().copied().filter(move |one| one.kind == kind);
    let absent: Vec<_> = of(Kind::EgressAddress).collect();
    let none_left = absent.len() >= tenant.egress.len();
    let mut keeping: Vec<_> = of(Kind::Listener).chain(of(Kind::Kernel)).collect();
    keeping.extend(absent.into_iter().filter(|_| none_left));
    keeping
}

/// Results of all checks.
pub(crate) struct Health {
    /// Checks in the order they are shown.
    pub(crate) checks: Vec<Check>,
}

impl Health {
    /// Judges the facts.
    pub(crate) fn judge(facts: &Facts<'_>) -> Self {
        Self { checks: checks::all(facts) }
    }

    /// Returns the first reason the process is not ready.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.checks.iter().find_map(|check| check.fault.as_deref())
    }

    /// Returns all conditions.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.checks.iter().flat_map(|check| &check.conditions)
    }

    /// Returns the conditions that keep this replica from serving a tenant.
    pub(crate) fn keeps_from(&self, tenant: &Tenant) -> Vec<&Condition> {
        let is_its = |one: &&Condition| one.tenant.as_ref() == Some(&tenant.id);
        keeping_from(tenant, &self.conditions().filter(is_its).collect::<Vec<_>>())
    }

    /// Counts conditions by tenant and kind.
    pub(crate) fn counts(&self) -> BTreeMap<(Option<&TenantId>, Kind), u64> {
        let mut counts = BTreeMap::new();
        for condition in self.conditions() {
            *counts.entry((condition.tenant.as_ref(), condition.kind)).or_default() += 1;
        }
        counts
    }

    /// Returns the text of `/readyz?verbose`.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.checks.iter().for_each(|check| check.write(&mut text));
        let verdict = if self.fault().is_none() { "passed" } else { "failed" };
        text.push_str(&format!("readyz check {verdict}\n"));
        text
    }
}
