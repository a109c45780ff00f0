//! A compile in words, for golden files: verdicts as a user reads them, and the snapshot in a few lines per tenant.

use std::fmt::Write;

use durward_control::Compiled;
use durward_model::mapping::NatModel;
use durward_model::route::{Action, HostPattern, PathMatch, WeightedUpstream};
use durward_model::upstream::{TrustRoots, Upstream};
use durward_model::{ForwardService, HostedApi, Listener, Route, Service, Tenant};

/// The whole outcome.
pub(crate) fn compiled(compiled: &Compiled) -> String {
    let mut out = String::new();
    for verdict in compiled.verdicts.iter() {
        writeln!(
            out,
            "{} {} at {}: {}",
            verdict.resource.kind, verdict.resource.name, verdict.origin, verdict.outcome
        )
        .unwrap();
        for finding in &verdict.findings {
            writeln!(
                out,
                "  {:?} {} at {}: {finding}",
                finding.severity, finding.reason, finding.origin
            )
            .unwrap();
            for line in finding.excerpt.iter().flat_map(|excerpt| excerpt.lines()) {
                writeln!(out, "    | {line}").unwrap();
            }
        }
    }
    writeln!(out, "\ngeneration {}", compiled.snapshot.generation).unwrap();
    for (address, bind) in &compiled.snapshot.binds {
        let listeners: Vec<_> = bind
            .listeners
            .iter()
            .map(|listener| format!("{listener} of {}", listener.tenant))
            .collect();
        writeln!(out, "bind {address} {}: {}", bind.mode.name(), listeners.join(", ")).unwrap();
    }
    for (address, bind) in compiled.snapshot.udp.iter() {
        let listeners: Vec<_> =
            bind.listeners.iter().map(|one| format!("{one} of {}", one.tenant)).collect();
        writeln!(out, "bind {address} udp: {}", listeners.join(", ")).unwrap();
    }
    for tenant in compiled.snapshot.tenants.values() {
        self::tenant(&mut out, tenant);
    }
    nat(&mut out, &compiled.snapshot.nat);
    out
}

fn nat(out: &mut String, nat: &NatModel) {
    for mapping in &nat.mappings {
        let number = nat.tenants[&mapping.tenant];
        let addresses: Vec<_> = mapping.addresses.iter().map(ToString::to_string).collect();
        write!(
            out,
            "mapping {} of {} ({number}) at {}",
            mapping.name,
            mapping.tenant,
            addresses.join(", ")
        )
        .unwrap();
        let blocks: Vec<_> =
            mapping.allowed_sources.blocks().iter().map(ToString::to_string).collect();
        write!(out, " from [{}] {:?} {:?}", blocks.join(", "), mapping.mode, mapping.affinity)
            .unwrap();
        write!(out, " drain {:?}", mapping.drain).unwrap();
        if let Some(check) = &mapping.health_check {
            write!(out, ", {check:?}").unwrap();
        }
        writeln!(out).unwrap();
        for port in &mapping.ports {
            writeln!(out, "  {} {} -> {:?}", port.protocol, port.ports, port.endpoints).unwrap();
        }
    }
    for rule in &nat.egress {
        let sources: Vec<_> = rule.sources.iter().map(ToString::to_string).collect();
        let addresses: Vec<_> = rule.addresses.iter().map(ToString::to_string).collect();
        let number = nat.tenants[&rule.tenant];
        write!(
            out,
            "egress {} of {} ({number}): [{}] leaves from [{}]",
            rule.name,
            rule.tenant,
            sources.join(", "),
            addresses.join(", ")
        )
        .unwrap();
        if let Some(transparent) = &rule.transparent {
            let durward_model::egress::Transparent { http, tls, others } = &**transparent;
            write!(out, ", but http {http:?} and tls {tls:?} by the proxy, {others:?} others")
                .unwrap();
        }
        writeln!(out, "{}", if rule.enrolled { "" } else { ", not enrolled" }).unwrap();
    }
    if !nat.local.is_empty() {
        writeln!(out, "let in {:?}", nat.local).unwrap();
    }
    if !nat.local_udp.is_empty() {
        writeln!(out, "let in udp {:?}", nat.local_udp).unwrap();
    }
}

fn tenant(out: &mut String, tenant: &Tenant) {
    let egress: Vec<_> = tenant.egress.iter().map(ToString::to_string).collect();
    writeln!(out, "tenant {} leaves from [{}]", tenant.id, egress.join(", ")).unwrap();
    for listener in tenant.listeners.iter().chain(&tenant.transparent) {
        self::listener(out, tenant, listener);
    }
    for upstream in &tenant.upstreams {
        self::upstream(out, upstream);
    }
}

fn listener(out: &mut String, tenant: &Tenant, listener: &Listener) {
    write!(out, "  listener {listener} {}", listener.protocol()).unwrap();
    if let Some(sources) = &listener.allowed_sources {
        write!(
            out,
            " from {:?}",
            sources.blocks().iter().map(ToString::to_string).collect::<Vec<_>>()
        )
        .unwrap();
    }
    if let Some(tls) = listener.tls() {
        let names: Vec<_> = tls.certificates.iter().map(|certificate| &*certificate.name).collect();
        write!(out, ", certificates {names:?}, clients {}", tls.client_auth.mode()).unwrap();
        if let Some(trust) = tls.client_auth.trust() {
            write!(out, " {:?} with {} lists", trust.subjects, trust.revocations.len()).unwrap();
        }
        write!(out, ", alpn {:?}{}", tls.alpn, if tls.tls13_only { ", only TLS 1.3" } else { "" })
            .unwrap();
    }
    writeln!(out).unwrap();
    match &listener.service {
        Service::Http(service) => {
            for route in &service.routes {
                self::route(out, tenant, route);
            }
        }
        Service::PassThrough(routes) => {
            for route in routes {
                let hosts: Vec<_> = route.hosts.iter().map(host).collect();
                writeln!(out, "    sni {hosts:?} -> {}", targets(tenant, &route.upstreams))
                    .unwrap();
                if let Some(api) = &route.hosted {
                    hosted(out, api);
                }
            }
        }
        Service::Tcp(service) => {
            writeln!(out, "    bytes -> {}", targets(tenant, &service.upstreams)).unwrap()
        }
        Service::Udp(service) => {
            writeln!(out, "    datagrams -> {}", targets(tenant, &service.upstreams)).unwrap()
        }
        Service::Forward(service) => forward(out, service),
        Service::Link(service) => {
            for link in &service.links {
                let holders: Vec<_> = link.holders.iter().map(ToString::to_string).collect();
                writeln!(out, "    link {}: {holders:?}", link.name).unwrap();
            }
        }
    }
}

fn hosted(out: &mut String, api: &HostedApi) {
    let names: Vec<_> = api.names.iter().map(ToString::to_string).collect();
    let sources = api.allowed_sources.as_ref().map(|sources| sources.blocks().to_vec());
    write!(out, "      hosted {} {names:?}, sources {sources:?}", api.name).unwrap();
    match &api.relay {
        None => writeln!(out, ", no proxies"),
        Some(relay) => {
            let (shown, auth) = (&relay.certificates[0].name, &relay.client_auth);
            let subjects = auth.trust().map(|trust| trust.subjects.clone());
            writeln!(out, ", proxies see {shown:?} and show {} {subjects:?}", auth.mode())
        }
    }
    .unwrap();
}

fn forward(out: &mut String, service: &ForwardService) {
    let names: Vec<_> = service.credentials.iter().map(|credential| &*credential.name).collect();
    write!(out, "    credentials {names:?}, holders {:?}", service.holders).unwrap();
    writeln!(out, "{}", if service.shared { ", shared" } else { "" }).unwrap();
    let policy = &service.policy;
    write!(out, "    {:?}, contact {:?}", policy.mode, policy.contact).unwrap();
    let resolvers: Vec<_> = policy.resolvers.iter().map(ToString::to_string).collect();
    writeln!(out, ", sni must match: {}, resolvers {resolvers:?}", policy.sni_must_match).unwrap();
    for (word, rules) in [("deny", &policy.deny), ("allow", &policy.allow)] {
        for rule in rules {
            let lists: String = rule.lists.iter().map(|list| format!(" {list:?}")).collect();
            writeln!(
                out,
                "    {word} {}: {:?}{} {:?} {:?} {:?} at {}",
                rule.name, rule.hosts, lists, rule.blocks, rule.ports, rule.methods, rule.origin
            )
            .unwrap();
        }
    }
    for parent in &policy.parents {
        writeln!(
            out,
            "    through {}:{} for {:?}, showing {:?}",
            parent.host, parent.port, parent.hosts, parent.credential
        )
        .unwrap();
    }
}

fn route(out: &mut String, tenant: &Tenant, route: &Route) {
    let hosts: Vec<_> = route.matches.hosts.iter().map(host).collect();
    let path = match &route.matches.path {
        PathMatch::Exact(path) => format!("={path}"),
        PathMatch::Prefix(path) => format!("{path}/*"),
    };
    write!(out, "    route {} {hosts:?} {path}", route.name).unwrap();
    if !route.matches.methods.is_empty() {
        write!(out, " {:?}", route.matches.methods).unwrap();
    }
    for header in &route.matches.headers {
        write!(out, " {}={:?}", header.name, header.value).unwrap();
    }
    if let Some(sources) = &route.matches.sources {
        write!(
            out,
            " from {:?}",
            sources.blocks().iter().map(ToString::to_string).collect::<Vec<_>>()
        )
        .unwrap();
    }
    match &route.action {
        Action::Forward(forward) => {
            write!(out, " -> {}", targets(tenant, &forward.upstreams)).unwrap();
            if forward.replace_prefix.is_some()
                || forward.host.is_some()
                || forward.timeout.is_some()
            {
                write!(
                    out,
                    " {:?} {:?} {:?}",
                    forward.replace_prefix, forward.host, forward.timeout
                )
                .unwrap();
            }
        }
        other => write!(out, " -> {other:?}").unwrap(),
    }
    for (way, rules) in [("request", &route.request_headers), ("response", &route.response_headers)]
    {
        if !rules.is_empty() {
            write!(out, ", {way} {rules:?}").unwrap();
        }
    }
    writeln!(out).unwrap();
}

fn host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(name) => name.to_string(),
        HostPattern::Wildcard(parent) => format!("*.{parent}"),
    }
}

fn targets(tenant: &Tenant, choices: &[WeightedUpstream]) -> String {
    let names: Vec<_> = choices
        .iter()
        .map(|choice| format!("{}*{}", tenant.upstream(choice.upstream).name, choice.weight))
        .collect();
    names.join(" + ")
}

fn upstream(out: &mut String, upstream: &Upstream) {
    let endpoints: Vec<_> = upstream
        .endpoints
        .iter()
        .map(|endpoint| format!("{}*{}", endpoint.target, endpoint.weight))
        .collect();
    let sources: Vec<_> = upstream.sources.iter().map(ToString::to_string).collect();
    write!(
        out,
        "  upstream {} {:?} [{}] from [{}] {:?}",
        upstream.name,
        upstream.protocol,
        endpoints.join(", "),
        sources.join(", "),
        upstream.balance
    )
    .unwrap();
    if let Some(link) = &upstream.link {
        write!(out, ", through link {link}").unwrap();
    }
    if let Some(tls) = &upstream.tls {
        let roots = match &tls.roots {
            TrustRoots::System => "system".to_owned(),
            TrustRoots::Private { roots, .. } => format!("{} private", roots.len()),
        };
        let shown = tls.client_certificate.as_ref().map(|certificate| &*certificate.name);
        write!(out, ", tls {roots} {:?} shows {shown:?}", tls.verify_name).unwrap();
    }
    if let Some(check) = &upstream.health_check {
        write!(out, ", {check:?}").unwrap();
    }
    writeln!(out).unwrap();
}
