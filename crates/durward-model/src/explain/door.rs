//! The part of an explanation that finds the listener a client is for, and says why it is for none.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::address::Destination;
use crate::egress::ForwardService;
use crate::explain::{Ending, Question, Shown, Trail, kind_of, list};
use crate::listener::{Listener, Service};
use crate::snapshot::Snapshot;
use crate::transport::Transport;

impl Trail {
    /// Says which tenants' proxies share an address and port, and how it ends for a client there; `None` if only one proxy may be meant.
    pub(super) fn shared_door(
        &mut self,
        snapshot: &Snapshot,
        question: &Question,
    ) -> Option<Ending> {
        let known = known_at(snapshot, question.destination, question.transport);
        let admits = |listener: &&Arc<Listener>| {
            question.client.is_none_or(|client| listener.admits(client))
        };
        let candidates: Vec<_> =
            known.iter().filter(|one| admits(one)).map(|one| &***one).collect();
        match (&known[..], &candidates[..]) {
            ([first, _, ..], []) => {
                self.kind = kind_of(&first.service);
                let client = question.client.map_or_else(String::new, |client| client.to_string());
                let tenants = tenants(known.iter().map(|one| &***one));
                let sentence = format!("{client} is in the allowedSources of none of {tenants}");
                Some(self.refuse("source", None, "source_not_allowed", sentence))
            }
            (_, [] | [_]) => None,
            _ => Some(self.tell_apart(snapshot, &candidates, question)),
        }
    }

    /// Finds the tenant of a client by what it shows, as the proxy does: by certificate, then by credential.
    fn tell_apart(
        &mut self,
        snapshot: &Snapshot,
        candidates: &[&Listener],
        question: &Question,
    ) -> Ending {
        let first = candidates[0];
        self.kind = kind_of(&first.service);
        let sentence = format!(
            "{} share it, told apart by {}",
            tenants(candidates.iter().copied()),
            if question.client.is_some() {
                "credential or certificate"
            } else {
                "what the client shows, or its address"
            }
        );
        self.note("door", None, sentence);
        // Before the tenant is known only TLS settings that all have can be used.
        let alike = candidates.iter().all(|one| one.tls() == first.tls());
        let secured = match alike.then(|| self.secure(first, question)).transpose() {
            Ok(secured) => secured,
            Err(ending) => return ending,
        };
        let left = by_proof(candidates, question);
        match left[..] {
            [] => {
                let of = candidates.iter().map(|one| proof(one)).collect::<Vec<_>>().join("; ");
                let shown = match &question.credential {
                    Shown::Of(name) => format!("{name} is none of them"),
                    _ => "none is shown".to_owned(),
                };
                let sentence = format!("one of these is needed: {of}; {shown}: 407");
                self.refuse("identity", None, "proxy_authentication", sentence)
            }
            [one] => {
                let Some(sni) = secured else { return self.at_listener(snapshot, one, question) };
                match self.enter(snapshot, one, question) {
                    Ok(tenant) => self.serve(snapshot, (tenant, one), question, sni.as_deref()),
                    Err(ending) => ending,
                }
            }
            _ => self.each(snapshot, &left, question),
        }
    }

    /// Says how it ends for a client of each tenant, where the question leaves open whose the client is.
    fn each(&mut self, snapshot: &Snapshot, left: &[&Listener], question: &Question) -> Ending {
        let (mut conditions, mut reasons) = (Vec::new(), BTreeSet::new());
        let mut served_by = None;
        for one in left {
            let mut trail = Self::default();
            let ending = trail.at_listener(snapshot, one, question);
            self.note(
                "door",
                Some(&one.origin),
                format!("a client of {}, {}:", one.tenant, proof(one)),
            );
            self.steps.append(&mut trail.steps);
            self.kind = trail.kind;
            self.target = trail.target;
            let (upstream, condition) = match ending {
                Ending::Served { upstream } => (upstream, String::new()),
                Ending::ServedIf { upstream, condition } => (upstream, format!(" and {condition}")),
                Ending::Refused { reason } => {
                    self.note(
                        "door",
                        None,
                        format!("so {}'s client is refused: {reason}", one.tenant),
                    );
                    reasons.insert(reason);
                    continue;
                }
                Ending::Answered { .. } => continue,
            };
            self.note("door", None, format!("so {}'s client is served", one.tenant));
            conditions.push(format!("it is {}'s client{condition}", one.tenant));
            self.leaves_from.append(&mut trail.leaves_from);
            served_by = Some(upstream);
        }
        match served_by {
            Some(upstream) => Ending::ServedIf { upstream, condition: conditions.join(", or ") },
            None => Ending::Refused {
                reason: reasons.into_iter().collect::<Vec<_>>().join(" or ").into(),
            },
        }
    }
}

/// Returns the listeners whose client it may be, judged by what it shows.
fn by_proof<'l>(candidates: &[&'l Listener], question: &Question) -> Vec<&'l Listener> {
    let held: Vec<_> = candidates
        .iter()
        .filter(|one| forward(one).is_some_and(|it| question.client_certificate.is_holder_of(it)))
        .copied()
        .collect();
    if held.len() < 2 {
        return held;
    }
    let shows = |listener: &&Listener| {
        forward(listener).is_some_and(|service| {
            // Without credentials, certificate or address alone identify the tenant.
            let by_other = question.client.is_none() || !service.holders.is_empty();
            let is_open = service.credentials.is_empty() && by_other;
            is_open || question.credential.is_credential_of(&listener.tenant, service)
        })
    };
    held.into_iter().filter(shows).collect()
}

fn forward(listener: &Listener) -> Option<&ForwardService> {
    match &listener.service {
        Service::Forward(service) => Some(service),
        _ => None,
    }
}

/// Describes the clients of a proxy: their addresses, certificates and credentials.
fn proof(listener: &Listener) -> String {
    let mut parts = Vec::new();
    if let Some(sources) = &listener.allowed_sources {
        parts.push(format!("from {}", list(sources.blocks())));
    }
    if let Some(service) = forward(listener) {
        if !service.holders.is_empty() {
            parts.push(format!("with a certificate of {}", list(&service.holders)));
        }
        if !service.credentials.is_empty() {
            let (tenant, known) = (&listener.tenant, service.credentials.iter());
            let names: Vec<_> = known.map(|known| format!("{tenant}/{}", known.name)).collect();
            parts.push(format!("with the credential {}", names.join(" or ")));
        }
    }
    parts.join(" ")
}

fn tenants<'l>(listeners: impl Iterator<Item = &'l Listener>) -> String {
    list(&listeners.map(|listener| &listener.tenant).collect::<Vec<_>>())
}

/// Listeners are asked for by the address clients know, whatever bind they arrive on. Of several proxies at one door it is the one whose
/// sources the client is among.
pub(super) fn find_listener<'a>(
    snapshot: &'a Snapshot,
    question: &Question,
) -> Option<&'a Listener> {
    let destination = question.destination;
    let known = known_at(snapshot, destination, question.transport);
    let admitted = || {
        let client = question.client?;
        known.iter().find(|listener| listener.admits(client))
    };
    let arrived = || {
        let bind = match question.transport {
            Transport::Udp => snapshot.udp.get(&destination),
            Transport::Tcp => snapshot.bind_for(destination),
            Transport::Sctp => None,
        };
        bind.and_then(|bind| bind.listener_at(Destination(destination), destination.ip()))
            .map(|(_, listener)| listener)
    };
    let found = admitted().or_else(|| known.first());
    found.copied().or_else(arrived).map(|listener| &**listener)
}

/// Returns the listeners that clients know by this address and port; several only where they share it.
pub(super) fn known_at(
    snapshot: &Snapshot,
    destination: SocketAddr,
    transport: Transport,
) -> Vec<&Arc<Listener>> {
    let listeners = snapshot.tenants.values().flat_map(|tenant| &tenant.listeners);
    let key = (destination.ip(), destination.port(), transport);
    listeners.filter(|listener| listener.full_key() == key).collect()
}

/// Says why no listener serves a destination.
pub(super) fn unserved(snapshot: &Snapshot, destination: SocketAddr) -> String {
    let bind = snapshot.bind_for(destination);
    let foreign = bind.and_then(|bind| Some((bind, bind.foreign_owner(destination.ip())?)));
    let Some((bind, owner)) = foreign else { return format!("no tenant has {destination}") };
    let ip = destination.ip();
    format!(
        "no tenant has {destination}: the socket at {} refuses it, for {ip} is an address of tenant {owner}",
        bind.address
    )
}
