//! A summary of what is served, for comparing what two processes would serve from the same files.

use std::collections::{BTreeMap, BTreeSet};

use durward_model::verdict::Outcome;
use serde::{Deserialize, Serialize};

use crate::certificate::sha256;
use crate::compile::Compiled;
use crate::document::Source;

impl Compiled {
    /// Returns a summary of what is served, for comparing it with what another process would serve from the same files.
    #[must_use]
    pub fn served(&self) -> Served {
        let tenants = self.memory.tenants.iter().filter_map(|(id, past)| {
            let tenant = past.served.as_ref()?;
            let doors = tenant.listeners.iter().chain(&tenant.transparent);
            let mut parts: Vec<String> =
                doors.clone().map(|door| format!("listener {door}")).collect();
            parts.extend(doors.flat_map(|door| {
                let names = door.names.iter().flatten();
                names.map(move |name| format!("name {name} at {door}"))
            }));
            parts.extend(tenant.egress.iter().map(|address| format!("egress address {address}")));
            Some((
                format!("tenant {id}"),
                Part::new(past.outcome, past.documents.last.as_deref(), parts),
            ))
        });
        let mappings = self.memory.mappings.iter().filter_map(|(id, past)| {
            let mapping = past.served.as_ref()?;
            let addresses = mapping.addresses.iter();
            let parts = addresses.flat_map(|address| {
                let ports = mapping.ports.iter();
                ports.map(move |port| format!("{address} {} {}", port.protocol, port.ports))
            });
            let part = Part::new(past.outcome, past.good.as_deref(), parts.collect());
            Some((id.to_string(), part))
        });
        let contributions =
            self.memory.contributions.iter().filter(|(_, past)| past.served.is_some());
        let contributions = contributions.map(|(id, past)| {
            (id.to_string(), Part::new(past.outcome, past.good.as_deref(), Vec::new()))
        });
        let mut served: BTreeMap<String, Part> =
            tenants.chain(mappings).chain(contributions).collect();
        for rule in self.snapshot.nat.egress.iter().filter(|rule| rule.enrolled) {
            // Older processes call the rule of a mapping by the mapping's name alone, and must be understood in a hand-over. That may be the
            // name of the tenant's own rule; then both are one part, which lacks what either lacks.
            let name = rule.mapping().unwrap_or(&rule.name);
            let name = format!("egress rule {}/{name}", rule.tenant);
            let part = || Part::new(Outcome::Accepted, None, Vec::new());
            let part = served.entry(name).or_insert_with(part);
            part.parts.extend(rule.sources.iter().map(|source| format!("network {source}")));
        }
        Served(served)
    }
}

/// Tenants, mappings and egress rules that a process serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served(BTreeMap<String, Part>);

/// Served part of a tenant, mapping or rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    /// 0 when all of the document is served, more when less of it is.
    lacking: u8,
    /// SHA-256 of the document that is served instead, if that is an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stand_in: Option<String>,
    parts: Vec<String>,
}

impl Part {
    fn new(outcome: Outcome, good: Option<&Source>, parts: Vec<String>) -> Self {
        let lacking = match outcome {
            Outcome::Accepted => 0,
            Outcome::Partial => 1,
            Outcome::KeptLastGood => 2,
            Outcome::Rejected => 3,
        };
        let stand_in = good.filter(|_| outcome == Outcome::KeptLastGood);
        let stand_in = stand_in.map(|good| sha256([good.text.as_bytes()]));
        Self { lacking, stand_in, parts }
    }
}

impl Served {
    /// Leaves parts out, by their names.
    #[must_use]
    pub fn without(mut self, parts: &BTreeSet<String>) -> Self {
        self.0.retain(|name, _| !parts.contains(name));
        self
    }

    /// Returns what `self` has and `other` lacks or has as it was earlier, a sentence for each.
    #[must_use]
    pub fn lost_in(&self, other: &Self) -> Vec<String> {
        let mut lost = Vec::new();
        for (name, had) in &self.0 {
            let Some(has) = other.0.get(name) else {
                lost.push(format!("{name} would not be served"));
                continue;
            };
            let missing = had.parts.iter().filter(|part| !has.parts.contains(part));
            lost.extend(missing.map(|part| format!("{part} of {name} would not be served")));
            if has.lacking > had.lacking {
                lost.push(format!("{name} would be served with errors that it does not have now"));
            } else if had.stand_in.is_some() && has.stand_in != had.stand_in && has.lacking > 0 {
                lost.push(format!("{name} would be served as it was still earlier"));
            }
        }
        lost
    }
}
