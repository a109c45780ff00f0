//! Whether a forward proxy is closed to strangers, and what of its surroundings its rules open.
//!
//! The rules are asked as they are when they serve. Deliberately absent: sending anything out.

use std::net::IpAddr;

use durward_model::egress::{
    Asked, ForwardService, Host, Mode, NO_HOST, Neighbours, Outcome, Policy, Surroundings, guard,
};
use durward_model::{ClientAuth, Listener, Service, Snapshot, Tenant};

use crate::commands::check::Category;

/// Places that no tenant should be led to by mistake, one for each way of spelling "near".
const NEAR: [&str; 14] = [
    "127.0.0.1",
    "::1",
    "0.0.0.0",
    "169.254.169.254",
    "fd00:ec2::254",
    "169.254.1.1",
    "fe80::1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "fd00::1",
    "64:ff9b::7f00:1",
    "224.0.0.1",
];
/// Ports asked for there.
const PORTS: [u16; 6] = [22, 80, 443, 3128, 6443, 10250];

/// All proxies of all tenants.
pub(crate) fn check(snapshot: &Snapshot) -> Category {
    let mut category = Category::new("egress");
    let neighbours = Neighbours::of(snapshot);
    for tenant in snapshot.tenants.values() {
        // Of both families the rules are the same.
        for listener in tenant.listeners.iter().chain(tenant.transparent.first()) {
            if let Service::Forward(service) = &listener.service {
                one(&mut category, tenant, listener, service, &neighbours);
            }
        }
    }
    category
}

/// One proxy.
pub(crate) fn one(
    category: &mut Category,
    tenant: &Tenant,
    listener: &Listener,
    service: &ForwardService,
    neighbours: &Neighbours,
) {
    let name = match &service.transparent {
        Some(_) => format!("transparent egress of {}", tenant.id),
        None => format!("{listener} of {}", tenant.id),
    };
    who(category, &name, listener, service);
    let policy = &service.policy;
    let rules = format!("{} allow, {} deny", policy.allow.len(), policy.deny.len());
    match policy.mode {
        Mode::Enforce => category.ok(format!("{name}: rules are enforced ({rules})")),
        Mode::Report => category.warn(
            format!("{name}: rules are reported, not enforced ({rules})"),
            "once the record shows nothing unexpected: spec.egress.mode: Enforce",
        ),
        Mode::Open => category.warn(
            format!("{name}: rules are not asked, everything outside may be reached"),
            "write spec.egress.allow and mode: Report, then Enforce",
        ),
    }
    let around = Surroundings { tenant: &tenant.id, neighbours, host: &NO_HOST };
    let open = opened(policy, around);
    if open.is_empty() {
        category.ok(format!("{name}: {} targets nearby are all denied", NEAR.len() * PORTS.len()));
    }
    for (rule, target) in open {
        let sentence = format!("{name}: {rule} opens {target}, which is near the gateway");
        if is_single(policy, &rule) {
            category.ok(format!("{sentence}, and nothing else"));
        } else {
            category.warn(sentence, "if that is not meant, narrow its cidr to single addresses");
        }
    }
}

/// Whether a rule names single addresses only: nobody does that by mistake.
fn is_single(policy: &Policy, rule: &str) -> bool {
    let mut named = policy.allow.iter().filter(|known| *known.name == *rule);
    named.all(|rule| {
        rule.blocks.iter().all(|block| block.prefix_len() == block.max_prefix_len())
            && !rule.blocks.is_empty()
    })
}

fn who(category: &mut Category, name: &str, listener: &Listener, service: &ForwardService) {
    let certificates =
        listener.tls().is_some_and(|tls| matches!(tls.client_auth, ClientAuth::Required(_)));
    let sources = listener.allowed_sources.is_some();
    if !sources && !certificates && service.credentials.is_empty() {
        category.warn(
            format!("{name}: whoever reaches it may use it"),
            "write allowedSources, credentials or clientCertificates",
        );
    } else if service.tls.is_none()
        && !service.credentials.is_empty()
        && !listener.address.0.is_loopback()
    {
        category.warn(
            format!("{name}: secrets come to it without TLS"),
            "give it a certificate, so that nobody on the way reads them",
        );
    } else {
        category.ok(format!("{name}: is for its tenant's clients only"));
    }
}

/// The rules that let tunnels through to places nearby, and one place each.
fn opened(policy: &Policy, around: Surroundings<'_>) -> Vec<(String, String)> {
    let written = policy.allow.iter().flat_map(|rule| &rule.blocks).map(|block| block.addr());
    let near = NEAR.iter().filter_map(|text| text.parse().ok());
    let mut open: Vec<(String, String)> = Vec::new();
    for address in near.chain(written.filter(|address| guard::classify(*address).is_some())) {
        let host = Host::Address(IpAddr::to_canonical(&address));
        let ports = policy.allow.iter().flat_map(|rule| &rule.ports).map(|(from, _)| *from);
        for port in PORTS.into_iter().chain(ports) {
            let asked = Asked { host: &host, port, method: None };
            let decided = policy.decide(around, asked, &[address]);
            let known = open.iter().any(|(rule, _)| **rule == *decided.rule);
            if decided.outcome != Outcome::Deny && !known {
                open.push((decided.rule.to_string(), format!("{address} port {port}")));
            }
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use durward_control::{FileSource, compile};

    use super::*;

    fn report(egress: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let document = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  egress:\n    addresses: [203.0.113.2]\n{egress}"
        );
        std::fs::write(dir.path().join("acme.yaml"), document).unwrap();
        let resources = FileSource::default().load(&[dir.path().to_owned()]);
        let compiled = compile(&resources, None, 0);
        format!("{:?}", check(&compiled.snapshot))
    }

    // S2.42
    #[test]
    fn an_open_relay_and_opened_surroundings_are_told() {
        let open = report("    mode: Open\n    proxy: [{address: 198.51.100.2}]\n");
        let wide = report(
            "    proxy: [{address: 198.51.100.2, allowedSources: [192.0.2.0/24]}]\n    allow: [{cidr: 10.1.2.0/24, ports: [22]}, {host: \"*\"}]\n",
        );
        let good = report(
            "    proxy: [{address: 198.51.100.2, allowedSources: [192.0.2.0/24]}]\n    allow: [{host: bank.example}]\n",
        );

        assert!(
            open.contains("whoever reaches it") && open.contains("rules are not asked"),
            "{open}"
        );
        assert!(wide.contains("allow[0] opens 10.1.2.0 port 22"), "{wide}");
        let handed_over =
            report("    mode: Open\n    sources: [10.244.3.0/24]\n    transparent: {}\n");
        assert!(handed_over.contains("transparent egress of acme: rules are not asked"));
        assert!(
            !good.contains("Warning") && good.contains("84 targets nearby are all denied"),
            "{good}"
        );
    }
}
