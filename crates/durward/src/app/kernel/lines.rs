//! One line per mapping and egress rule: its definition, its present state in the kernel, and its traffic.
//!
//! `durward nat list` prints these lines, read from the kernel or from a running gateway.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use durward_model::mapping::{KernelEgress, NatModel, PortMapping};
use durward_nat::{CheckedEndpoint, MappingReport, Nat, NatError, Report};
use serde::{Deserialize, Serialize};

/// Line for a mapping or egress rule.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    /// `mapping` or `egress`.
    pub(crate) kind: String,
    pub(crate) tenant: String,
    pub(crate) name: String,
    /// External addresses and ports, or sources.
    pub(crate) from: Vec<String>,
    pub(crate) to: Vec<String>,
    pub(crate) state: String,
    pub(crate) carried: bool,
    /// Endpoints that checks took out of rotation.
    #[serde(default)]
    pub(crate) out: Vec<SocketAddr>,
    /// Connections since the ports were last changed.
    pub(crate) connections: u64,
    pub(crate) written_at: String,
}

/// Builds the lines of `model`, whose report is `report`, with the state that `plane` reads from the kernel now.
///
/// # Errors
/// Fails if the kernel cannot be read.
pub(crate) fn lines(plane: &Nat, model: &NatModel, report: &Report) -> Result<Vec<Line>, NatError> {
    let carried = plane.carried(model)?;
    let begun = plane.begun(model)?;
    let leaving = plane.leaving()?;
    let mut lines = Vec::with_capacity(model.mappings.len() + model.egress.len());
    let checked = plane.checked();
    let checked: HashMap<_, _> =
        checked.iter().map(|one| ((&one.tenant, &*one.name), &*one.endpoints)).collect();
    let known = carried.mappings.into_iter().zip(carried.out).zip(begun);
    for ((mapping, report), ((carried, out), begun)) in
        model.mappings.iter().zip(&report.mappings).zip(known)
    {
        let endpoints = checked.get(&(&mapping.tenant, &*mapping.name));
        let out = Out { endpoints: out, checked: endpoints.copied().unwrap_or_default() };
        lines.push(mapping_line(mapping, report, (carried, out), begun));
    }
    for ((rule, report), carried) in model.egress.iter().zip(&report.egress).zip(carried.egress) {
        let of_rule = leaving
            .iter()
            .filter(|(address, _)| rule.addresses.iter().any(|range| range.contains(**address)));
        let connections = of_rule.map(|(_, leaving)| leaving.connections).sum();
        lines.push(egress_line(rule, report, carried, connections));
    }
    Ok(lines)
}

fn state(report: &MappingReport, carried: bool, good: &str) -> String {
    match (&report.rejected, carried, report.foreign_addresses.as_slice()) {
        (Some(why), ..) => format!("left out: {why}"),
        (None, false, _) => "not in the kernel yet".to_owned(),
        (None, true, []) => good.to_owned(),
        (None, true, foreign) => {
            let foreign: Vec<String> = foreign.iter().map(ToString::to_string).collect();
            format!("{good}, not on this host: {}", foreign.join(", "))
        }
    }
}

/// Endpoints of a mapping that are out of rotation, with the results of checks where this process makes them.
struct Out<'a> {
    endpoints: BTreeSet<SocketAddr>,
    checked: &'a [CheckedEndpoint],
}

impl Out<'_> {
    /// Appends the endpoints that are out, with the reasons, to the state.
    fn add_to(&self, state: &str, mapping: &PortMapping) -> String {
        let why = |at: &SocketAddr| self.checked.iter().find(|one| one.at == *at)?.cause.as_deref();
        let mut parts = vec![state.to_owned()];
        if !self.endpoints.is_empty() {
            let named = self.endpoints.iter().map(|at| named(*at, why(at)));
            let named: Vec<String> = named.collect();
            let all = mapping.tcp_endpoints().len();
            parts.push(format!("{} of {all} endpoints out: {}", named.len(), named.join(", ")));
        }
        let unknown = self.checked.iter().filter(|one| one.unchecked.is_some());
        let unknown: Vec<String> =
            unknown.map(|one| named(one.at, one.unchecked.as_deref())).collect();
        if !unknown.is_empty() {
            parts.push(format!("cannot be checked: {}", unknown.join(", ")));
        }
        parts.join("; ")
    }
}

/// Formats an endpoint with its reason.
pub(crate) fn named(at: SocketAddr, why: Option<&str>) -> String {
    why.map_or_else(|| at.to_string(), |why| format!("{at} ({why})"))
}

fn mapping_line(
    mapping: &PortMapping,
    report: &MappingReport,
    (carried, out): (bool, Out<'_>),
    begun: u64,
) -> Line {
    let from = mapping.addresses.iter().flat_map(|address| {
        let ports = mapping.ports.iter();
        ports.map(move |port| format!("{address} {} {}", port.protocol, port.ports))
    });
    let to = mapping.ports.iter().flat_map(|port| {
        let all = port.endpoints(true).into_iter().chain(port.endpoints(false));
        all.map(|(address, port)| match port {
            Some(port) => SocketAddr::new(address, port).to_string(),
            None => address.to_string(),
        })
    });
    let mut to: Vec<String> = to.collect();
    to.sort();
    to.dedup();
    let state = out.add_to(&state(report, carried, "in the kernel"), mapping);
    Line {
        kind: "mapping".to_owned(),
        tenant: mapping.tenant.to_string(),
        name: mapping.name.to_string(),
        from: from.collect(),
        to,
        carried: carried && report.rejected.is_none(),
        state,
        out: out.endpoints.into_iter().collect(),
        connections: begun,
        written_at: mapping.origin.to_string(),
    }
}

fn egress_line(rule: &KernelEgress, report: &MappingReport, carried: bool, leaving: u64) -> Line {
    Line {
        kind: "egress".to_owned(),
        tenant: rule.tenant.to_string(),
        name: rule.name.to_string(),
        from: rule.sources.iter().map(ToString::to_string).collect(),
        to: rule.addresses.iter().map(ToString::to_string).collect(),
        carried: carried && report.rejected.is_none(),
        state: state(report, carried, "may leave"),
        out: Vec::new(),
        connections: leaving,
        written_at: rule.origin.to_string(),
    }
}
