//! Checks the host's settings for a gateway with many addresses: reverse-path filter, file descriptors, ports.
//!
//! Reads `/proc`, changes nothing.

use std::collections::BTreeMap;
use std::fs;

use durward_model::Snapshot;
use rustix::process::{Resource, getrlimit};

use crate::commands::check::Category;

/// Least file descriptors that a gateway should have.
const DESCRIPTORS: u64 = 65_536;
/// Ephemeral ports that suffice for most gateways.
const PORTS: u32 = 20_000;

/// Checks the host's settings.
pub(crate) fn check(snapshot: &Snapshot) -> Category {
    let mut category = Category::new("host");
    reverse_path(&mut category, snapshot);
    nonlocal_bind(&mut category);
    descriptors(&mut category, snapshot);
    port_range(&mut category, &read("/proc/sys/net/ipv4/ip_local_port_range"));
    category
}

/// Checks the reverse-path filter: a strict one drops answers that arrive by another interface than that of the route back.
fn reverse_path(category: &mut Category, snapshot: &Snapshot) {
    let outward = snapshot.binds.keys().any(|bind| !bind.ip().is_loopback());
    let Ok(interfaces) = fs::read_dir("/proc/sys/net/ipv4/conf") else {
        return category.ok("rp_filter cannot be read here");
    };
    let values: BTreeMap<String, String> = interfaces
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .map(|name| (name.clone(), read(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"))))
        .collect();
    let strict = strict_interfaces(&values);
    if strict.is_empty() {
        category.ok("rp_filter is not strict on any interface");
    } else if !outward {
        category.ok(format!(
            "rp_filter is strict on {}, which does not matter for loopback addresses",
            strict.join(", ")
        ));
    } else {
        category.warn(
            format!("rp_filter is strict on {}", strict.join(", ")),
            "where a tenant's packets come in and go out by different interfaces: sysctl -w net.ipv4.conf.all.rp_filter=2",
        );
    }
}

/// Returns the strict interfaces: the kernel takes the greater of `all` and the interface's own value (ip-sysctl.rst): 1 is strict, 2 loose.
fn strict_interfaces(values: &BTreeMap<String, String>) -> Vec<String> {
    let value = |name: &str| values.get(name).and_then(|text| text.parse::<u8>().ok()).unwrap_or(0);
    let all = value("all");
    let real = values.keys().filter(|name| !matches!(name.as_str(), "all" | "default" | "lo"));
    real.filter(|name| value(name).max(all) == 1).cloned().collect()
}

fn nonlocal_bind(category: &mut Category) {
    if read("/proc/sys/net/ipv4/ip_nonlocal_bind") == "1" {
        category.warn(
            "ip_nonlocal_bind is on, so this check cannot tell whether an address is on this host",
            "Durward does not need it (it sets IP_FREEBIND itself): sysctl -w net.ipv4.ip_nonlocal_bind=0",
        );
    } else {
        category.ok("ip_nonlocal_bind is off and not needed");
    }
}

fn descriptors(category: &mut Category, snapshot: &Snapshot) {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let promised: u64 = snapshot
        .tenants
        .values()
        .filter_map(|tenant| tenant.limits.connections)
        .map(u64::from)
        .sum();
    // Each connection takes one descriptor towards the client and one towards the upstream.
    let wanted = DESCRIPTORS.max(promised.saturating_mul(2));
    if limit >= wanted {
        category.ok(format!("{limit} file descriptors are allowed"));
    } else {
        category.warn(
            format!("only {limit} file descriptors are allowed, {wanted} are recommended"),
            "ulimit -n, or LimitNOFILE= in the systemd unit",
        );
    }
}

fn port_range(category: &mut Category, text: &str) {
    let mut bounds = text.split_whitespace().filter_map(|number| number.parse::<u32>().ok());
    let (Some(low), Some(high)) = (bounds.next(), bounds.next()) else { return };
    let ports = (high + 1).saturating_sub(low);
    if ports >= PORTS {
        category.ok(format!("{ports} ports ({low} to {high}) per egress address and destination"));
    } else {
        category.warn(
            format!("only {ports} ports ({low} to {high}) per egress address and destination"),
            "sysctl -w net.ipv4.ip_local_port_range='10240 65535'",
        );
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greater_of_all_and_the_interface_decides() {
        let values = |all: &str, eth0: &str| {
            [("all", all), ("default", "1"), ("lo", "1"), ("eth0", eth0)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into_iter()
                .collect::<BTreeMap<_, _>>()
        };

        assert_eq!(strict_interfaces(&values("0", "1")), ["eth0"]);
        assert_eq!(strict_interfaces(&values("1", "0")), ["eth0"]);
        assert!(strict_interfaces(&values("2", "1")).is_empty());
        assert!(strict_interfaces(&values("0", "0")).is_empty());
    }

    #[test]
    fn few_ports_are_a_warning() {
        let mut category = Category::new("host");

        port_range(&mut category, "32768\t60999");
        port_range(&mut category, "60000 60100");

        assert_eq!(category.checks[0].hint, None);
        assert!(category.checks[1].sentence.starts_with("only 101 ports"));
    }
}
