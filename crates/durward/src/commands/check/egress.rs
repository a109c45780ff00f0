//! Checks that forward proxies refuse unknown clients, and finds rules that open destinations near the gateway.
//!
//! The rules are evaluated as in the proxy. Deliberately absent: sending anything out.

use std::net::IpAddr;

use durward_model::egress::{
    Asked, ForwardService, Host, HostMatch, Mode, NO_HOST, Neighbours, Outcome, Policy, Rule,
    Surroundings, guard,
};
use durward_model::{ClientAuth, Listener, Service, Snapshot, Tenant};

use crate::commands::check::Category;

/// Destinations that no tenant should reach by mistake, one for each spelling of "near".
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
/// Ports tried at these destinations.
const PORTS: [u16; 6] = [22, 80, 443, 3128, 6443, 10250];

/// Names tried of a long list: its rule opens the same blocks for each.
const LISTED_EXAMPLES: usize = 16;

/// Checks all forward proxies of all tenants.
pub(crate) fn check(snapshot: &Snapshot) -> Category {
    let mut category = Category::new("egress");
    let neighbours = Neighbours::of(snapshot);
    for tenant in snapshot.tenants.values() {
        // The transparent listeners of both families have the same rules.
        for listener in tenant.listeners.iter().chain(tenant.transparent.first()) {
            if let Service::Forward(service) = &listener.service {
                one(&mut category, tenant, listener, service, &neighbours);
            }
        }
    }
    category
}

/// Checks one forward proxy.
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
            format!("{name}: rules are not applied, any destination outside may be reached"),
            "write spec.egress.allow and mode: Report, then Enforce",
        ),
    }
    let around = Surroundings { tenant: &tenant.id, neighbours, host: &NO_HOST };
    let open = opened(policy, around);
    if open.is_empty() && !is_near_reached(policy, around) {
        category.ok(format!(
            "{name}: {} destinations near the gateway are all denied",
            NEAR.len() * PORTS.len()
        ));
    }
    for (rule, target) in open {
        let sentence = format!("{name}: {} opens {target}, which is near the gateway", rule.name);
        // A rule for single addresses is no mistake.
        if rule.blocks.iter().all(|block| block.prefix_len() == block.max_prefix_len()) {
            category.ok(format!("{sentence}, and nothing else"));
        } else {
            category.warn(sentence, "if that is not meant, narrow its cidr to single addresses");
        }
    }
}

fn who(category: &mut Category, name: &str, listener: &Listener, service: &ForwardService) {
    let certificates =
        listener.tls().is_some_and(|tls| matches!(tls.client_auth, ClientAuth::Required(_)));
    let sources = listener.allowed_sources.is_some();
    if !sources && !certificates && service.credentials.is_empty() {
        category.warn(
            format!("{name}: any client that reaches it may use it"),
            "write allowedSources, credentials or clientCertificates",
        );
    } else if service.tls.is_none()
        && !service.credentials.is_empty()
        && !listener.address.0.is_loopback()
    {
        category.warn(
            format!("{name}: credentials are sent to it without TLS"),
            "give it a certificate: without TLS they can be read on the way",
        );
    } else {
        category.ok(format!("{name}: is for its tenant's clients only"));
    }
}

/// Returns true if the policy allows a tunnel to any of the near destinations, by its address.
fn is_near_reached(policy: &Policy, around: Surroundings<'_>) -> bool {
    let near = NEAR.iter().filter_map(|text| text.parse::<IpAddr>().ok());
    near.flat_map(|address| PORTS.map(|port| (address, port))).any(|(address, port)| {
        let host = Host::Address(address.to_canonical());
        let asked = Asked { host: &host, port, method: None };
        policy.decide(around, asked, &[address]).outcome != Outcome::Deny
    })
}

/// Returns the rules that allow near destinations, with one of these each. Only a rule that names a block can.
fn opened<'p>(policy: &'p Policy, around: Surroundings<'_>) -> Vec<(&'p Rule, String)> {
    let rules = policy.allow.iter().filter(|rule| !rule.blocks.is_empty());
    rules.filter_map(|rule| Some((rule, opened_by(policy, rule, around)?))).collect()
}

/// Returns example hosts of a rule: each that is written, and the first of a long list.
fn examples(rule: &Rule) -> Vec<Host> {
    let listed = rule.lists.iter().flat_map(|list| list.examples().take(LISTED_EXAMPLES));
    let listed = listed.filter_map(|name| Host::parse(&name).ok());
    rule.hosts.iter().map(HostMatch::example).chain(listed).collect()
}

fn opened_by(policy: &Policy, rule: &Rule, around: Surroundings<'_>) -> Option<String> {
    let within = |address: &IpAddr| rule.blocks.iter().any(|block| block.contains(address));
    let near = NEAR.iter().filter_map(|text| text.parse().ok()).filter(within);
    let ends = rule.blocks.iter().flat_map(|block| [block.network(), block.broadcast()]);
    // A rule with methods may apply to plain requests only.
    let tunnels = rule.methods.is_empty() || rule.methods.iter().any(|known| **known == *"CONNECT");
    let method = rule.methods.first().filter(|_| !tunnels).map(|method| &**method);
    let default = if method.is_some() { 80 } else { 443 };
    let ports: Vec<u16> = match rule.ports.as_slice() {
        [] => vec![default],
        ports => ports.iter().flat_map(|(from, to)| [*from, *to]).collect(),
    };
    let guarded = near.chain(ends).filter(|address| guard::classify(*address).is_some());
    for address in guarded {
        let named = !(rule.hosts.is_empty() && rule.lists.is_empty());
        let hosts: Vec<Host> =
            if named { examples(rule) } else { vec![Host::Address(address.to_canonical())] };
        for (host, port) in
            hosts.iter().flat_map(|host| ports.iter().map(move |port| (host, *port)))
        {
            let asked = Asked { host, port, method };
            if policy.decide(around, asked, &[address]).outcome != Outcome::Deny {
                return Some(match host {
                    Host::Address(_) => format!("{address} port {port}"),
                    Host::Name(name) => format!("{address} port {port} as {name}"),
                });
            }
        }
    }
    None
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
            open.contains("any client that reaches it") && open.contains("rules are not applied"),
            "{open}"
        );
        assert!(wide.contains("allow[0] opens 10.1.2.0 port 22"), "{wide}");
        let named = report(
            "    proxy: [{address: 198.51.100.2, allowedSources: [192.0.2.0/24]}]\n    allow: [{host: db.acme.example, cidr: 10.1.2.9/32}, {host: .erp.example, cidr: 10.0.0.0/8}, {host: \"*\", cidr: 192.168.7.0/24, methods: [GET]}, {cidr: 172.16.0.0/12, ports: [8000-8100]}]\n    deny: [{cidr: 10.0.0.0/9}, {cidr: 172.16.0.0/12, ports: [1-8099]}]\n",
        );
        for word in [
            "allow[1] opens 10.255.255.255 port 443 as erp.example,",
            "allow[2] opens 192.168.7.0 port 80 as name.example,",
            "allow[3] opens 172.16.0.1 port 8100,",
        ] {
            assert!(named.contains(word), "{word}: {named}");
        }
        assert!(!named.contains("allow[0] opens"), "{named}");
        let handed_over =
            report("    mode: Open\n    sources: [10.244.3.0/24]\n    transparent: {}\n");
        assert!(handed_over.contains("transparent egress of acme: rules are not applied"));
        assert!(
            !good.contains("Warning")
                && good.contains("84 destinations near the gateway are all denied"),
            "{good}"
        );
    }
}
