//! Totals of every tenant, parsed from the text of `/metrics`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

/// Traffic of one tenant since the gateway started, and its open connections now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    pub(super) connections_open: u64,
    pub(super) connections: u64,
    pub(super) requests: u64,
    pub(super) client_in_bytes: u64,
    pub(super) client_out_bytes: u64,
    pub(super) upstream_in_bytes: u64,
    pub(super) upstream_out_bytes: u64,
    pub(super) egress_open: u64,
    pub(super) egress: u64,
    pub(super) egress_denied: u64,
    pub(super) egress_failed: u64,
    pub(super) egress_up_bytes: u64,
    pub(super) egress_down_bytes: u64,
    pub(super) refused: u64,
}

impl Totals {
    /// Returns the bytes in all directions, to compare tenants by.
    pub(super) fn traffic(&self) -> u64 {
        self.client_in_bytes + self.client_out_bytes + self.egress_up_bytes + self.egress_down_bytes
    }

    /// Returns the total for a metric; `None` if it is not in the ledger.
    fn place(&mut self, metric: &str, label: &str) -> Option<&mut u64> {
        Some(match (metric, label) {
            ("durward_connections_active", _) => &mut self.connections_open,
            ("durward_connections_total", _) => &mut self.connections,
            ("durward_requests_total", _) => &mut self.requests,
            ("durward_bytes_total", "client_in") => &mut self.client_in_bytes,
            ("durward_bytes_total", "client_out") => &mut self.client_out_bytes,
            ("durward_bytes_total", "upstream_in") => &mut self.upstream_in_bytes,
            ("durward_bytes_total", "upstream_out") => &mut self.upstream_out_bytes,
            ("durward_egress_active", _) => &mut self.egress_open,
            ("durward_egress_decisions_total", "allowed" | "reported") => &mut self.egress,
            ("durward_egress_decisions_total", "denied") => &mut self.egress_denied,
            ("durward_egress_decisions_total", "failed") => &mut self.egress_failed,
            ("durward_egress_bytes_total", "up") => &mut self.egress_up_bytes,
            ("durward_egress_bytes_total", "down") => &mut self.egress_down_bytes,
            ("durward_refusals_total", _) => &mut self.refused,
            _ => return None,
        })
    }
}

/// Totals of all tenants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Ledger {
    pub(super) tenants: BTreeMap<String, Totals>,
}

impl Ledger {
    /// Parses the text of `/metrics`.
    pub(super) fn read(text: &str) -> Self {
        let mut ledger = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            ledger.add(line);
        }
        // A gateway always says how many connections have no tenant yet.
        ledger.tenants.retain(|tenant, totals| !tenant.is_empty() || *totals != Totals::default());
        ledger
    }

    /// Adds a sample such as `name{tenant="acme",direction="up"} 5`; the tenant is always the first label and at most one follows.
    fn add(&mut self, line: &str) -> Option<()> {
        let (metric, rest) = line.split_once("{tenant=\"")?;
        let (labels, value) = rest.rsplit_once("} ")?;
        let (tenant, more) = labels.split_once('"')?;
        let label = more.split('"').nth(1).unwrap_or_default();
        let value: u64 = value.trim().parse().ok()?;
        Totals::default().place(metric, label)?;
        *self.tenants.entry(tenant.to_owned()).or_default().place(metric, label)? += value;
        Some(())
    }

    /// Formats a row per tenant, with the time of the reading.
    pub(super) fn csv(&self, header: bool, now: &Timestamp) -> String {
        let mut text = String::new();
        if header {
            text.push_str(
                "time,tenant,connections_open,connections,requests,client_in_bytes,client_out_bytes,upstream_in_bytes,\
                 upstream_out_bytes,egress_open,egress,egress_denied,egress_failed,egress_up_bytes,egress_down_bytes,refused\n",
            );
        }
        for (tenant, totals) in &self.tenants {
            let numbers = [
                totals.connections_open,
                totals.connections,
                totals.requests,
                totals.client_in_bytes,
                totals.client_out_bytes,
                totals.upstream_in_bytes,
                totals.upstream_out_bytes,
                totals.egress_open,
                totals.egress,
                totals.egress_denied,
                totals.egress_failed,
                totals.egress_up_bytes,
                totals.egress_down_bytes,
                totals.refused,
            ];
            let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
            text.push_str(&format!("{now:.3},{tenant},{}\n", numbers.join(",")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S2.49+
    #[test]
    fn the_ledger_is_what_the_metrics_say() {
        let text = "# TYPE durward_connections counter\n\
            durward_connections_total{tenant=\"acme\"} 7\n\
            durward_requests_total{tenant=\"acme\",code_class=\"2xx\"} 3\n\
            durward_requests_total{tenant=\"acme\",code_class=\"5xx\"} 2\n\
            durward_egress_decisions_total{tenant=\"acme\",verdict=\"allowed\"} 4\n\
            durward_egress_decisions_total{tenant=\"acme\",verdict=\"reported\"} 1\n\
            durward_egress_bytes_total{tenant=\"acme\",direction=\"down\"} 99\n\
            durward_request_duration_seconds_bucket{tenant=\"acme\",le=\"+Inf\"} 3\n\
            durward_refusals_total{tenant=\"\",reason=\"no_route\"} 1\n\
            durward_config_generation 1\n# EOF\n";

        let ledger = Ledger::read(text);

        let acme = &ledger.tenants["acme"];
        assert_eq!((acme.connections, acme.requests, acme.egress), (7, 5, 5));
        assert_eq!((acme.egress_down_bytes, ledger.tenants[""].refused), (99, 1));
        assert_eq!(ledger.tenants.len(), 2);
        let quiet =
            "durward_connections_active{tenant=\"\"} 0\ndurward_config_generation 1\n# EOF\n";
        assert!(Ledger::read(quiet).tenants.is_empty());
        let csv = ledger.csv(true, &Timestamp::UNIX_EPOCH);
        let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [16, 16, 16], "{csv}");
        assert!(csv.contains("\n1970-01-01T00:00:00.000Z,acme,0,7,5,"), "{csv}");
    }
}
