//! Hosts of a cluster's Ingresses, for advice to those who write them.

use serde::{Deserialize, Serialize};

use super::Objects;

/// Hosts of one Ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressHosts {
    /// The Ingress, as `NAMESPACE/NAME`.
    pub ingress: String,
    /// Hosts of its rules, in order.
    pub hosts: Vec<HostTls>,
    /// Number of rules without a host.
    pub without_host: usize,
}

/// A host and whether `spec.tls` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTls {
    /// The host.
    pub host: String,
    /// True if `spec.tls` has it, itself or by a wildcard.
    pub tls: bool,
}

/// Returns the hosts of all Ingresses.
#[must_use]
pub fn hosts(objects: &Objects) -> Vec<IngressHosts> {
    let of = |ingress: &super::Ingress| {
        let spec = &ingress.spec;
        let host = |host: &Option<String>| host.clone().filter(|host| !host.is_empty());
        // An entry without hosts is for all of the Ingress.
        let has_tls = |name: &str| {
            spec.tls.iter().any(|entry| {
                entry.hosts.is_empty() || entry.hosts.iter().any(|host| covers(host, name))
            })
        };
        let named = spec.rules.iter().filter_map(|rule| host(&rule.host));
        let hosts: Vec<HostTls> = named.map(|host| HostTls { tls: has_tls(&host), host }).collect();
        IngressHosts {
            ingress: format!("{}/{}", ingress.metadata.namespace, ingress.metadata.name),
            without_host: spec.rules.len() - hosts.len(),
            hosts,
        }
    };
    let mut all: Vec<_> = objects.ingresses.iter().map(|ingress| of(ingress)).collect();
    all.sort_by(|one, other| one.ingress.cmp(&other.ingress));
    all
}

/// Returns true if a host of `spec.tls` is for a name: a wildcard is for one label.
fn covers(host: &str, name: &str) -> bool {
    match host.strip_prefix("*.") {
        None => host.eq_ignore_ascii_case(name),
        Some(parent) => {
            let below = name.split_once('.').map(|(_, rest)| rest);
            host.eq_ignore_ascii_case(name)
                || below.is_some_and(|rest| rest.eq_ignore_ascii_case(parent))
        }
    }
}
