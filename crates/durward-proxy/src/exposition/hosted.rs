//! Hosted API servers as OpenMetrics text: how many addresses serve how many of them.

use durward_model::HostedApiCounts;

use crate::metrics::openmetrics::{Kind, Text};

/// Writes the numbers, also where there are none.
pub(super) fn write(text: &mut Text, counts: HostedApiCounts) {
    let HostedApiCounts { servers, tenants, addresses } = counts;
    for (name, help, value) in [
        ("durward_hosted_apis", "Hosted API servers served.", servers),
        ("durward_hosted_api_tenants", "Tenants that have a hosted API server.", tenants),
        (
            "durward_hosted_api_addresses",
            "Ingress addresses at which hosted API servers are served.",
            addresses,
        ),
    ] {
        text.family(name, Kind::Gauge, help).row(&[], value as u64);
    }
}
