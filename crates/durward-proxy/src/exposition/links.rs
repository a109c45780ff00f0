//! State of links as OpenMetrics text.

use crate::metrics::openmetrics::{Kind, Text};
use crate::upstream::LinkReport;

/// Writes a row for each link that a document names or an agent has used.
pub(super) fn write(text: &mut Text, links: &[LinkReport]) {
    let labels =
        |link: &LinkReport| [("tenant", link.tenant.to_string()), ("link", link.name.to_string())];
    let mut family = |name: &str, help: &str, value: &dyn Fn(&LinkReport) -> u64| {
        let mut rows = text.family(name, Kind::Gauge, help);
        for link in links {
            let [tenant, name] = labels(link);
            rows.row(&[(tenant.0, tenant.1.as_str()), (name.0, name.1.as_str())], value(link));
        }
    };
    let help = "Carriers for data that a link has; 0: no agent is connected.";
    family("durward_link_carriers", help, &|link| link.carriers as u64);
    family("durward_link_streams", "Open streams of a link.", &|link| u64::from(link.streams));
    let help = "Routes that a link's agent has registered.";
    family("durward_link_routes", help, &|link| link.route_count as u64);
    let help =
        "Hosts of a link that are reached directly, by the proven public endpoint of its cluster.";
    let direct = |link: &LinkReport| link.cluster.as_ref().map_or(0, |one| one.direct_hosts.len());
    family("durward_link_direct_hosts", help, &|link| direct(link) as u64);
}
