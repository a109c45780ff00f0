//! Metrics of records: decisions of the forward proxy, the bytes they report, log sinks and the audit file.

use std::collections::BTreeMap;

use super::Row;
use crate::audit::Status;
use crate::metrics::Counter;
use crate::metrics::openmetrics::{Kind, Text};
use crate::status::SinkStatus;

/// Writes one row per log and kind of sink: 1 if a sink of the kind fails.
pub(super) fn sinks(text: &mut Text, sinks: &[SinkStatus]) {
    let mut rows: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    for sink in sinks {
        *rows.entry((sink.log, sink.kind)).or_default() |= sink.failing;
    }
    let help = "1 while lines of a log cannot be written to a kind of sink.";
    let mut family = text.family("durward_log_failing", Kind::Gauge, help);
    for ((log, sink), failing) in rows {
        family.row(&[("log", log), ("sink", sink)], u64::from(failing));
    }
}

/// Writes the audit file's rows; none without an audit file.
pub(super) fn audit_file(text: &mut Text, audit: Option<Status>) {
    type Of = fn(&Status) -> u64;
    let families: [(&str, Kind, &str, Of); 4] = [
        ("durward_audit_records", Kind::Counter, "Audit records written.", |audit| audit.written),
        ("durward_audit_records_lost", Kind::Counter, "Audit records lost.", |audit| audit.lost),
        ("durward_audit_sequence", Kind::Gauge, "Number of the last audit record.", |audit| {
            audit.sequence
        }),
        (
            "durward_audit_failing",
            Kind::Gauge,
            "1 while the audit file cannot be written and nothing new is let out.",
            |audit| u64::from(audit.failing),
        ),
    ];
    for (name, kind, help, of) in families {
        let mut family = text.family(name, kind, help);
        if let Some(audit) = &audit {
            family.row(&[], of(audit));
        }
    }
}

/// Writes decisions and bytes of the forward proxy; tenants without any have no row.
pub(super) fn decisions(text: &mut Text, rows: &[Row<'_>]) {
    let verdicts = [
        (Counter::EgressAllowed, "allowed"),
        (Counter::EgressReported, "reported"),
        (Counter::EgressDenied, "denied"),
        (Counter::EgressFailed, "failed"),
    ];
    let asked =
        |row: &&Row<'_>| row.known() && verdicts.iter().any(|(counter, _)| row.total(*counter) > 0);
    let mut decisions = text.family(
        "durward_egress_decisions",
        Kind::Counter,
        "Requests and tunnels of the forward proxy, by what was decided.",
    );
    for row in rows.iter().filter(asked) {
        for (counter, verdict) in verdicts {
            decisions.row(&[("tenant", row.tenant), ("verdict", verdict)], row.total(counter));
        }
    }
    let mut active = text.family(
        "durward_egress_active",
        Kind::Gauge,
        "Requests and tunnels of the forward proxy that are open.",
    );
    for row in rows.iter().filter(asked) {
        let opened = row.total(Counter::EgressAllowed) + row.total(Counter::EgressReported);
        let open = opened.saturating_sub(row.total(Counter::EgressClosed));
        active.row(&[("tenant", row.tenant)], open);
    }
    let mut bytes = text.family(
        "durward_egress_bytes",
        Kind::Counter,
        "Bytes the forward proxy carried, counted when a request or tunnel ends.",
    );
    for row in rows.iter().filter(asked) {
        for (counter, direction) in
            [(Counter::EgressBytesUp, "up"), (Counter::EgressBytesDown, "down")]
        {
            bytes.row(&[("tenant", row.tenant), ("direction", direction)], row.total(counter));
        }
    }
}
