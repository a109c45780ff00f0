//! Metrics of the kernel plane: mappings carried, packets refused, resources used.
//!
//! A tenant has no row before the kernel has forwarded a packet for it, so that many idle tenants cost nothing; its endpoints have while one is out.

use std::collections::BTreeMap;

use durward_model::TenantId;
use durward_nat::engine::Counters;
use durward_nat::nftables::table::Count;
use durward_nat::{CheckedMapping, MappingReport, Nat};
use durward_proxy::metrics::openmetrics::{Family, Kind, Text};

use super::{State, ports};

/// Writes all families.
pub(super) fn write(text: &mut Text, state: &State) {
    let health = state.health();
    let up = u64::from(state.fault.is_none() && health.fault.is_none());
    family(text, "up", Kind::Gauge, "Whether the kernel is as the configuration says.")
        .row(&[], up);
    let help = "Mappings by what became of them.";
    by_state(&mut family(text, "mappings", Kind::Gauge, help), &health.report.mappings);
    let help = "Egress rules by what became of them.";
    by_state(&mut family(text, "egress_rules", Kind::Gauge, help), &health.report.egress);
    let help = "Connections that were cut because they are no longer allowed.";
    family(text, "connections_cut", Kind::Counter, help).row(&[], state.cut);
    let Some(plane) = &state.plane else { return };
    // If the counters cannot be read, no tenant is known to be idle.
    let counts = plane.counters().ok();
    let busy = Busy(counts.as_ref().map(|counts| &counts.tenants));
    if let Some(counts) = &counts {
        counters(text, counts, &busy);
    }
    checks(text, plane, &busy);
    traffic(text, plane, state, &busy);
}

/// Counts by tenant, from which idle tenants are known.
struct Busy<'a>(Option<&'a BTreeMap<TenantId, Count>>);

impl Busy<'_> {
    /// Returns true if the kernel has forwarded a packet for the tenant, or that is not known.
    fn has(&self, tenant: &TenantId) -> bool {
        let packets =
            |counts: &BTreeMap<TenantId, Count>| counts.get(tenant).map(|one| one.packets);
        self.0.is_none_or(|counts| packets(counts).unwrap_or(0) > 0)
    }
}

/// Begins a family of the kernel plane.
pub(super) fn family<'a>(text: &'a mut Text, name: &str, kind: Kind, help: &str) -> Family<'a> {
    text.family(&format!("durward_nat_{name}"), kind, help)
}

/// Writes the numbers of `reports` that the kernel carries and that are left out.
fn by_state(family: &mut Family<'_>, reports: &[MappingReport]) {
    let left_out = reports.iter().filter(|one| one.rejected.is_some()).count();
    family.row(&[("state", "carried")], reports.len() - left_out);
    family.row(&[("state", "left_out")], left_out);
}

/// Writes the counters of the rules and of connection tracking.
fn counters(text: &mut Text, counts: &Counters, busy: &Busy<'_>) {
    let help = "Packets that were dropped or refused.";
    let mut refused = family(text, "refused_packets", Kind::Counter, help);
    for (reason, count) in &counts.refused {
        refused.row(&[("reason", reason)], count.packets);
    }
    type Of = fn(&Count) -> u64;
    let both_ways: [(&str, &str, Of); 2] = [
        ("tenant_packets", "Packets forwarded for a tenant, both ways.", |count| count.packets),
        ("tenant_bytes", "Bytes forwarded for a tenant, both ways.", |count| count.bytes),
    ];
    for (name, help, of) in both_ways {
        let mut forwarded = family(text, name, Kind::Counter, help);
        for (tenant, count) in counts.tenants.iter().filter(|(tenant, _)| busy.has(tenant)) {
            forwarded.row(&[("tenant", tenant.as_str())], of(count));
        }
    }
    let help = "Connections that found no free port or lost a race for one, on the whole host.";
    family(text, "conntrack_insert_failed", Kind::Counter, help)
        .row(&[], counts.conntrack.insert_failed);
    let help = "Times foreign changes of the table, of routes and routing rules, or of kernel parameters were undone.";
    family(text, "repairs", Kind::Counter, help).row(&[], counts.repairs);
}

/// Writes the endpoints of checked mappings in rotation, and the ejections.
fn checks(text: &mut Text, plane: &Nat, busy: &Busy<'_>) {
    let help = "Endpoints of mappings with a health check, by what it says.";
    let mut endpoints = family(text, "mapping_endpoints", Kind::Gauge, help);
    let has_fault = |one: &CheckedMapping| one.endpoints.iter().any(|endpoint| endpoint.out);
    for one in plane.checked().iter().filter(|one| busy.has(&one.tenant) || has_fault(one)) {
        let out = one.endpoints.iter().filter(|endpoint| endpoint.out).count();
        for (state, count) in [("healthy", one.endpoints.len() - out), ("unhealthy", out)] {
            let labels =
                [("tenant", one.tenant.as_str()), ("mapping", &*one.name), ("state", state)];
            endpoints.row(&labels, count);
        }
    }
    let help = "Endpoints of mappings that were taken out because their checks failed.";
    let mut ejections = family(text, "endpoint_ejections", Kind::Counter, help);
    for (tenant, count) in plane.ejections() {
        ejections.row(&[("tenant", tenant.as_str())], count);
    }
}

/// Writes connections by mapping, and outgoing connections by egress address.
fn traffic(text: &mut Text, plane: &Nat, state: &State, busy: &Busy<'_>) {
    if let Ok(begun) = plane.begun(&state.wanted) {
        let mappings = state.wanted.mappings.iter().zip(begun);
        let mappings = mappings.filter(|(mapping, _)| busy.has(&mapping.tenant));
        mapping_connections(
            text,
            mappings.map(|(mapping, begun)| (mapping.tenant.as_str(), &*mapping.name, begun)),
        );
    }
    if let Ok(leaving) = plane.leaving() {
        ports::families(text, &leaving);
    }
}

/// Writes the connections begun at each mapping of a tenant.
fn mapping_connections<'a>(
    text: &mut Text,
    mappings: impl Iterator<Item = (&'a str, &'a str, u64)>,
) {
    let help = "Connections that began at a mapping since its ports were last changed.";
    let mut connections = family(text, "mapping_connections", Kind::Gauge, help);
    for (tenant, mapping, begun) in mappings {
        connections.row(&[("tenant", tenant), ("mapping", mapping)], begun);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_busy_once_a_packet_was_forwarded_for_it_or_nothing_is_known() {
        let count = |packets| Count { packets, bytes: 0 };
        let id = |name| TenantId::new(name).unwrap();
        let counts = [(id("busy"), count(1)), (id("idle"), count(0))].into();
        let (busy, blind) = (Busy(Some(&counts)), Busy(None));

        let shown =
            ["busy", "idle", "absent"].map(|name| (busy.has(&id(name)), blind.has(&id(name))));

        assert_eq!(shown, [(true, true), (false, true), (false, true)]);
    }

    #[test]
    fn a_name_of_any_kind_stays_one_label() {
        let mut text = Text::default();

        mapping_connections(&mut text, [("a\\", "m\"} 9\nx", 3)].into_iter());

        let text = text.end();
        let row = r#"durward_nat_mapping_connections{tenant="a\\",mapping="m\"} 9\nx"} 3"#;
        assert_eq!(text.lines().nth(2), Some(row), "{text}");
        assert_eq!(text.lines().count(), 4);
    }
}
