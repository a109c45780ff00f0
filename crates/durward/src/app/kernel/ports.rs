//! Ports in use of egress addresses: for metrics, and for the log before none are left.
//!
//! The kernel drops packets that find no port, and counts them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use durward_nat::engine::{Leaving, PORT_BUDGET};
use durward_proxy::metrics::openmetrics::{Kind, Text};

use super::metrics::family;

/// Interval of counting while no metrics are requested.
const PERIOD: Duration = Duration::from_secs(60);

/// Egress addresses whose shortage of ports was logged.
#[derive(Debug, Default)]
pub(super) struct Scarce {
    told: BTreeSet<IpAddr>,
    looked: Option<Instant>,
}

impl Scarce {
    /// Returns true if the ports were not counted within [`PERIOD`].
    pub(super) fn is_due(&self) -> bool {
        self.looked.is_none_or(|looked| looked.elapsed() >= PERIOD)
    }

    /// Logs once for each address that runs short of ports.
    pub(super) fn look(&mut self, leaving: &BTreeMap<IpAddr, Leaving>) {
        self.looked = Some(Instant::now());
        for address in self.newly_scarce(leaving) {
            let used = leaving.get(&address);
            let tenant = used.and_then(|used| used.tenant.as_ref()).map(ToString::to_string);
            tracing::warn!(
                tenant = tenant.as_deref(), %address, used = used.map(|used| used.ports), budget = PORT_BUDGET,
                "few ports are left from an egress address to one destination: give the tenant another address"
            );
        }
    }

    fn newly_scarce(&mut self, leaving: &BTreeMap<IpAddr, Leaving>) -> Vec<IpAddr> {
        let above = |limit: u32| {
            let above = leaving.iter().filter(move |(_, one)| one.ports >= limit);
            above.map(|(address, _)| *address)
        };
        let plenty: BTreeSet<IpAddr> = above(PORT_BUDGET / 2).collect();
        self.told.retain(|address| plenty.contains(address));
        above(PORT_BUDGET / 5 * 4).filter(|address| self.told.insert(*address)).collect()
    }
}

/// Writes the metric families.
pub(super) fn families(text: &mut Text, leaving: &BTreeMap<IpAddr, Leaving>) {
    let help = "Connections that leave from an egress address now.";
    let mut connections = family(text, "egress_connections", Kind::Gauge, help);
    for (address, one) in leaving {
        connections.row(&[("address", &address.to_string())], one.connections);
    }
    let help =
        "Ports in use from an egress address to the one destination that takes most of them.";
    let mut used = family(text, "egress_ports_used", Kind::Gauge, help);
    for (address, one) in leaving {
        let Some(tenant) = &one.tenant else { continue };
        used.row(&[("tenant", tenant.as_str()), ("address", &address.to_string())], one.ports);
    }
    let help = "Ports there are from an egress address to one destination.";
    family(text, "egress_ports_budget", Kind::Gauge, help).row(&[], PORT_BUDGET);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_warned_of_once_until_it_has_recovered() {
        let mut scarce = Scarce::default();
        let address = IpAddr::from([203, 0, 113, 1]);
        let mut newly = |ports| {
            let leaving = Leaving { ports, ..Leaving::default() };
            scarce.newly_scarce(&[(address, leaving)].into()).len()
        };

        let said = [51_607, 51_608, 64_512, 40_000, 60_000, 30_000, 60_000].map(&mut newly);

        assert_eq!(said, [0, 1, 0, 0, 0, 0, 1]);
        assert!(scarce.is_due(), "nobody has looked at a kernel");
    }
}
