//! Health: what works and what does not, looked up when it is asked for.
//!
//! A check fails readiness only when nothing can be served. Trouble of one tenant is a condition: it is shown and counted, and the
//! gateway stays in the load balancer for the others. `docs/guide/operations.md` has the table.

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
use crate::state_file;

/// Conditions shown per check by `/readyz?verbose`; `/snapshot` has all.
const SHOWN: usize = 10;

/// Everything health is judged from.
pub(crate) struct Facts<'a> {
    /// What is in force, and the verdicts of the documents.
    pub(crate) view: &'a Compiled,
    /// The proxy's status; `None` once it has drained.
    pub(crate) status: Option<&'a Status>,
    /// The kernel plane; `None` when nothing was asked of it.
    pub(crate) kernel: Option<&'a KernelFacts>,
    /// State of the file that keeps claims and last good documents, or what is wrong with it; `None` without one.
    pub(crate) state_file: Option<state_file::Status>,
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
    /// What became of each, when the kernel was last compared.
    pub(crate) report: Report,
    /// Mappings with checks, and what these say.
    pub(crate) checked: Vec<CheckedMapping>,
    /// Reason why the kernel could not be brought to the documents.
    pub(crate) fault: Option<String>,
    /// True if the operator named external interfaces. Without them only documents ask for the kernel plane.
    pub(crate) enabled: bool,
    /// True if others are kept from changing the table.
    pub(crate) owns_table: bool,
}

/// One line of `/readyz?verbose`.
pub(crate) struct Check {
    /// Its name.
    pub(crate) name: &'static str,
    /// What holds, in numbers.
    pub(crate) state: String,
    /// Reason why the process is not ready.
    pub(crate) fault: Option<String>,
    /// What does not work and leaves the process ready.
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

/// A sentence as one line that a terminal cannot obey.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// Conditions as lines.
pub(crate) fn lines(conditions: &[&Condition]) -> String {
    conditions.iter().map(|condition| printable(&condition.to_string()) + "\n").collect()
}

/// All checks.
pub(crate) struct Health {
    /// In the order they are shown.
    pub(crate) checks: Vec<Check>,
}

impl Health {
    /// Judges the facts.
    pub(crate) fn judge(facts: &Facts<'_>) -> Self {
        Self { checks: checks::all(facts) }
    }

    /// The first reason why the process is not ready.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.checks.iter().find_map(|check| check.fault.as_deref())
    }

    /// Everything that does not work.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.checks.iter().flat_map(|check| &check.conditions)
    }

    /// Returns what keeps this replica from serving a tenant: its listeners, its part of the kernel, or that none of its egress addresses is
    /// on this host. Certificates and upstreams are the same on every replica.
    pub(crate) fn keeps_from(&self, tenant: &Tenant) -> Vec<&Condition> {
        let of = |kind| {
            let all = self.conditions();
            all.filter(move |one| one.kind == kind && one.tenant.as_ref() == Some(&tenant.id))
        };
        let absent: Vec<_> = of(Kind::EgressAddress).collect();
        let none_left = absent.len() >= tenant.egress.len();
        let mut keeping: Vec<_> = of(Kind::Listener).chain(of(Kind::Kernel)).collect();
        keeping.extend(absent.into_iter().filter(|_| none_left));
        keeping
    }

    /// How many conditions there are, by tenant and kind.
    pub(crate) fn counts(&self) -> BTreeMap<(Option<&TenantId>, Kind), u64> {
        let mut counts = BTreeMap::new();
        for condition in self.conditions() {
            *counts.entry((condition.tenant.as_ref(), condition.kind)).or_default() += 1;
        }
        counts
    }

    /// The answer of `/readyz?verbose`.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.checks.iter().for_each(|check| check.write(&mut text));
        let verdict = if self.fault().is_none() { "passed" } else { "failed" };
        text.push_str(&format!("readyz check {verdict}\n"));
        text
    }
}
