//! The part of an explanation that is about a forward proxy: may it go there, by which rule, from which address.
//!
//! Deliberately absent: lookups. What a name stands for is asked elsewhere; what must be true of it is said here.

use std::net::IpAddr;

use crate::egress::{
    Asked, Decided, ForwardService, Host, Mode, NO_HOST, Neighbours, Outcome, Surroundings,
};
use crate::explain::{Ending, Kind, Question, Shown, Trail, list};
use crate::snapshot::Snapshot;
use crate::tenant::Tenant;

/// Stands in place of an upstream's name.
const OUTSIDE: &str = "outside";

impl Trail {
    pub(super) fn outside(
        &mut self,
        snapshot: &Snapshot,
        tenant: &Tenant,
        service: &ForwardService,
        question: &Question,
    ) -> Ending {
        let Some((host, port)) = question.host.as_deref().and_then(split) else {
            let sentence = "a forward proxy: name where to with --host HOST:PORT".to_owned();
            return self.refuse("target", None, "bad_request", sentence);
        };
        if let Some(ending) = self.identity(tenant, service, question) {
            return ending;
        }
        let host = match Host::parse(host) {
            Ok(host) => host,
            Err(fault) => {
                return self.refuse("target", None, "bad_request", format!("{host}: {fault}"));
            }
        };
        let plain = question.method != "CONNECT" && port != 443;
        let method = plain.then_some(question.method.as_str());
        self.kind = if plain { Kind::ProxiedRequest } else { Kind::Tunnel };
        self.target = Some(match &host {
            Host::Address(IpAddr::V6(address)) => format!("[{address}]:{port}"),
            host => format!("{host}:{port}"),
        });
        let asked = Asked { host: &host, port, method };
        self.judged(snapshot, (tenant, service), asked, question.resolved)
    }

    /// Compares what the client shows with the certificates and credentials that the proxy asks for.
    fn identity(
        &mut self,
        tenant: &Tenant,
        service: &ForwardService,
        question: &Question,
    ) -> Option<Ending> {
        let none_of = |shown: &Shown| match shown {
            Shown::Of(name) => format!("{name} is none of them"),
            Shown::Nothing | Shown::Valid => "none is shown".to_owned(),
        };
        if !service.holders.is_empty() {
            let sentence = format!("a certificate is needed, of one of {}", list(&service.holders));
            let shown = &question.client_certificate;
            if !shown.is_holder_of(service) {
                let sentence = format!("{sentence}; {}: 407", none_of(shown));
                return Some(self.refuse("identity", None, "proxy_authentication", sentence));
            }
            self.note("identity", None, sentence);
        }
        if !service.credentials.is_empty() {
            let names: Vec<_> = service.credentials.iter().map(|known| &*known.name).collect();
            let sentence = format!("a credential is needed, of one of {}", list(&names));
            let shown = &question.credential;
            if !shown.is_credential_of(&tenant.id, service) {
                let sentence = format!("{sentence}; {}: 407", none_of(shown));
                return Some(self.refuse("identity", None, "proxy_authentication", sentence));
            }
            self.note("identity", None, sentence);
        }
        None
    }

    /// Evaluates the rules; `resolved` is the address of a name, if it is known.
    pub(super) fn judged(
        &mut self,
        snapshot: &Snapshot,
        (tenant, service): (&Tenant, &ForwardService),
        asked: Asked<'_>,
        resolved: Option<IpAddr>,
    ) -> Ending {
        if let Some(decided) = service.policy.before_lookup(asked) {
            return self.decided(tenant, service, asked, &decided);
        }
        let address = match (asked.host, resolved) {
            (Host::Address(address), _) => *address,
            (Host::Name(name), Some(address)) if service.policy.parent(asked.host).is_none() => {
                self.note("lookup", None, format!("{name} is taken to stand for {address}"));
                address.to_canonical()
            }
            (Host::Name(name), _) => return self.named(tenant, service, asked, name),
        };
        let neighbours = Neighbours::of(snapshot);
        let around = Surroundings { tenant: &tenant.id, neighbours: &neighbours, host: &NO_HOST };
        let decided = service.policy.decide(around, asked, &[address]);
        self.decided(tenant, service, asked, &decided)
    }

    /// Evaluates a name whose addresses are not known.
    fn named(
        &mut self,
        tenant: &Tenant,
        service: &ForwardService,
        asked: Asked<'_>,
        name: &str,
    ) -> Ending {
        let policy = &service.policy;
        let by_name = policy.decide_unresolved(asked);
        if let Some(parent) = policy.parent(asked.host) {
            let (host, port) = (&parent.host, parent.port);
            self.note(
                "parent",
                None,
                format!("{name} goes through {host}:{port}, which looks it up"),
            );
            return self.decided(tenant, service, asked, &by_name);
        }
        let whom = match policy.resolvers.as_slice() {
            [] => "the host's name servers".to_owned(),
            own => list(own),
        };
        let sentence = format!("{name} is asked of {whom}; every address it stands for is checked");
        self.note("lookup", None, sentence);
        match by_name.outcome {
            Outcome::Allow => self.decided(tenant, service, asked, &by_name),
            Outcome::Report => {
                let sentence = "rules with cidr decide by its addresses what is reported";
                self.note("rule", None, sentence.to_owned());
                self.leaves(tenant)
            }
            Outcome::Deny => self.by_address(tenant, service, asked),
        }
    }

    /// Explains the decisions that depend on the name's addresses.
    fn by_address(
        &mut self,
        tenant: &Tenant,
        service: &ForwardService,
        asked: Asked<'_>,
    ) -> Ending {
        let mut conditions = Vec::new();
        for rule in service.policy.allow_by_address(asked) {
            let blocks = list(&rule.blocks);
            let sentence = format!("{} allows it if all its addresses are in {blocks}", rule.name);
            self.note("rule", Some(&rule.origin), sentence);
            conditions.push(format!("all its addresses are in {blocks}"));
        }
        self.leaves(tenant);
        Ending::ServedIf { upstream: OUTSIDE.into(), condition: conditions.join(", or ") }
    }

    fn decided(
        &mut self,
        tenant: &Tenant,
        service: &ForwardService,
        asked: Asked<'_>,
        decided: &Decided,
    ) -> Ending {
        let kind = asked.method.map_or("a tunnel", |_| "a plain request");
        let (rule, host, port) = (&decided.rule, asked.host, asked.port);
        let mode = match service.policy.mode {
            Mode::Enforce => "enforced",
            Mode::Report => "reported only",
            Mode::Open => "not asked",
        };
        let origin = decided.origin.as_ref();
        match decided.outcome {
            Outcome::Deny => {
                let sentence = format!("{rule} denies {kind} to {host}:{port}; rules are {mode}");
                self.refuse("rule", origin, "policy_denied", sentence)
            }
            Outcome::Allow | Outcome::Report => {
                let sentence =
                    format!("{rule} decides on {kind} to {host}:{port}; rules are {mode}");
                self.note("rule", origin, sentence);
                self.leaves(tenant)
            }
        }
    }

    fn leaves(&mut self, tenant: &Tenant) -> Ending {
        let sentence = format!("{}, {}'s own", list(&tenant.egress), tenant.id);
        self.note("leaves from", Some(&tenant.origin), sentence);
        self.leaves_from.extend(tenant.egress.iter().map(ToString::to_string));
        Ending::Served { upstream: OUTSIDE.into() }
    }
}

/// `host:port`, `[v6]:port`; the port of https when there is none.
pub(super) fn split(text: &str) -> Option<(&str, u16)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, port.parse().ok()?)),
            None => Some((host, 443)),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => Some((host, port.parse().ok()?)),
        _ => Some((text, 443)),
    }
}
