//! Effect of a new configuration on open connections: they live on, end after their exchange, or end at once.
//!
//! A connection that is no longer permitted ends at once; a new certificate disturbs none.

use std::collections::HashMap;
use std::sync::Arc;

use durward_model::client_auth::ClientTrust;
use durward_model::link::Link;
use durward_model::route::HostPattern;
use durward_model::server_tls::ServerTls;
use durward_model::sni::SniTable;
use durward_model::{
    ClientAuth, DestinationMode, HostedApi, Listener, ServerNames, Service, SourceSet, Tenant,
};
use ipnet::IpNet;

use crate::watch::Narrowing;

/// Effect on open connections. The greater of two applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Nothing that the connections depend on differs.
    Keep,
    /// Connections go on, and follow the new configuration from their next request on.
    Renew,
    /// Connections end after the exchange they are in.
    Change,
    /// Connections end at once.
    Remove,
}

/// Returns the fate of all of a tenant's connections, its listeners aside.
pub(crate) fn of_tenant(old: &Tenant, new: &Tenant) -> Fate {
    if !keeps_egress(old, new) {
        return Fate::Remove;
    }
    if !keeps_streams(old, new) {
        return Fate::Change;
    }
    let same =
        old.egress == new.egress && old.upstreams == new.upstreams && old.limits == new.limits;
    if same { Fate::Keep } else { Fate::Renew }
}

/// Returns what a client of the old listener must be for its connections to go on: from which sources, for which names. Empty if all go on.
pub(crate) fn narrowed(old: &Listener, new: &Listener) -> Vec<Narrowing> {
    let sources = new.allowed_sources.as_ref();
    let sources = sources.filter(|_| sources_shrink(old.allowed_sources.as_ref(), sources));
    let names = old.names.as_ref().zip(new.names.as_ref());
    let names = names.and_then(|(old, new)| names_lost(old, new));
    let sources = sources.cloned().map(Narrowing::Sources);
    sources.into_iter().chain(names).chain(hosted_narrowed(&old.service, &new.service)).collect()
}

/// Returns which clients are left when names go; `None` if none go. What is stored is small where all that go are single names: there may be thousands.
fn names_lost(old: &ServerNames, new: &ServerNames) -> Option<Narrowing> {
    let lost: Vec<_> = old.iter().filter(|name| !new.has(name)).cloned().collect();
    let is_gone =
        |name: &HostPattern| matches!(name, HostPattern::Exact(name) if !new.match_name(name));
    match lost.iter().all(is_gone) {
        true if lost.is_empty() => None,
        true => Some(Narrowing::NamesLost(ServerNames::new(lost))),
        false => Some(Narrowing::Names(new.clone())),
    }
}

/// Returns which clients are left of hosted API servers that admit fewer.
fn hosted_narrowed(old: &Service, new: &Service) -> Vec<Narrowing> {
    let (Service::PassThrough(old), Service::PassThrough(new)) = (old, new) else {
        return Vec::new();
    };
    if old == new {
        return Vec::new();
    }
    let hosted = |routes: &SniTable| -> Vec<Arc<HostedApi>> {
        routes.iter().filter_map(|route| route.hosted.clone()).collect()
    };
    let present = hosted(new);
    let present: HashMap<_, _> = present.iter().map(|api| (&api.name, &**api)).collect();
    let narrowing = |api: Arc<HostedApi>| {
        let now = present.get(&api.name);
        let sources = now.and_then(|now| now.allowed_sources.as_ref());
        let sources =
            sources.filter(|new| sources_shrink(api.allowed_sources.as_ref(), Some(*new)));
        let relay = now.and_then(|now| now.relay.as_ref());
        let without_proxies =
            api.relay.is_some() && (relay.is_none() || trust_shrinks(api.relay.as_ref(), relay));
        let narrowing = Narrowing::Hosted {
            names: api.names.clone(),
            sources: sources.cloned(),
            without_proxies,
        };
        (sources.is_some() || without_proxies).then_some(narrowing)
    };
    hosted(old).into_iter().filter_map(narrowing).collect()
}

/// Returns the fate of a listener's connections, except those of clients that it no longer admits ([`narrowed`]).
pub(crate) fn of_listener(old: &Listener, new: &Listener) -> Fate {
    if old == new {
        return Fate::Keep;
    }
    if old.tenant != new.tenant
        || trust_shrinks(old.tls(), new.tls())
        || holders_shrink(&old.service, &new.service)
    {
        return Fate::Remove;
    }
    if !keeps_session(old, new) {
        return Fate::Change;
    }
    if *old == with_certificates_of(new, old) { Fate::Keep } else { Fate::Renew }
}

/// Returns the fate of a listener's connections if the mode differs by which their client and destination were determined.
pub(crate) fn of_mode(old: &DestinationMode, new: &DestinationMode) -> Fate {
    use DestinationMode::ProxyProtocol;
    match (old, new) {
        (ProxyProtocol { trusted: old, inner: was }, ProxyProtocol { trusted: new, inner: is }) => {
            // Inner headers have chosen the destination of connections that would have another one now.
            let shrinks = (*was && !is) || sources_shrink(Some(old), Some(new));
            if shrinks { Fate::Remove } else { Fate::Keep }
        }
        (ProxyProtocol { .. }, _) | (_, ProxyProtocol { .. }) => Fate::Remove,
        _ => Fate::Keep,
    }
}

/// Returns true if a connection of the old listener may go on under the new listener, which admits its client. Called per connection, so it compares
/// no routes and no sources.
pub(crate) fn may_go_on((old, of): (&Listener, &Tenant), (new, now): (&Listener, &Tenant)) -> bool {
    old.tenant == new.tenant
        && keeps_egress(of, now)
        && keeps_streams(of, now)
        && !trust_shrinks(old.tls(), new.tls())
        && !holders_shrink(&old.service, &new.service)
        && keeps_session(old, new)
}

fn keeps_egress(old: &Tenant, new: &Tenant) -> bool {
    old.egress.iter().all(|address| new.egress.contains(address))
}

/// Returns true if the number of streams is unchanged, which is agreed once, when an HTTP/2 connection begins.
fn keeps_streams(old: &Tenant, new: &Tenant) -> bool {
    old.limits.http2_streams == new.limits.http2_streams
}

/// Returns true if a connection that began now would agree on the same protocol settings.
fn keeps_session(old: &Listener, new: &Listener) -> bool {
    let transparent = |service: &Service| matches!(service, Service::Forward(service) if service.transparent.is_some());
    let same_tls = match (old.tls(), new.tls()) {
        (None, None) => true,
        (Some(old), Some(new)) => {
            old.tls13_only == new.tls13_only
                && old.alpn == new.alpn
                && keeps_trust(&old.client_auth, &new.client_auth)
        }
        _ => false,
    };
    same_tls
        && old.protocol() == new.protocol()
        && transparent(&old.service) == transparent(&new.service)
        && !credentials_shrink(&old.service, &new.service)
}

/// Returns true if a credential was revoked. An HTTP/2 client learns that by GOAWAY, without a request; a request meanwhile is judged by the new
/// credentials.
fn credentials_shrink(old: &Service, new: &Service) -> bool {
    let (Service::Forward(old), Service::Forward(new)) = (old, new) else { return false };
    !new.credentials.is_empty()
        && (old.credentials.is_empty()
            || !old.credentials.iter().all(|credential| new.credentials.contains(credential)))
}

/// Returns true if clients would authenticate in the same way; additional authorities exclude no client.
fn keeps_trust(old: &ClientAuth, new: &ClientAuth) -> bool {
    match (old, new) {
        (ClientAuth::Required(old), ClientAuth::Required(new))
        | (ClientAuth::Optional(old), ClientAuth::Optional(new)) => {
            old.revocations == new.revocations && !roots_shrink(old, new)
        }
        (old, new) => old == new,
    }
}

/// Returns true if a client that was admitted might no longer be.
fn sources_shrink(old: Option<&SourceSet>, new: Option<&SourceSet>) -> bool {
    let Some(new) = new else { return false };
    let Some(old) = old else { return true };
    if old == new {
        return false;
    }
    // Adjacent networks are joined first; then a block that all of them cover lies in one of them.
    let joined = IpNet::aggregate(&new.blocks().to_vec());
    let covered = |block: &IpNet| joined.iter().any(|wider| wider.contains(block));
    !old.blocks().iter().all(covered)
}

/// Returns true if a client that was authenticated might no longer be. A new revocation list ends no exchange: it comes daily.
fn trust_shrinks(old: Option<&ServerTls>, new: Option<&ServerTls>) -> bool {
    let auth = |tls: Option<&ServerTls>| {
        tls.map_or_else(ClientAuth::default, |tls| tls.client_auth.clone())
    };
    match (auth(old), auth(new)) {
        (_, ClientAuth::Off) | (ClientAuth::Off, ClientAuth::Optional(_)) => false,
        (ClientAuth::Off, ClientAuth::Required(_))
        | (ClientAuth::Optional(_), ClientAuth::Required(_)) => true,
        (ClientAuth::Optional(old), ClientAuth::Optional(new))
        | (ClientAuth::Required(old), ClientAuth::Required(new) | ClientAuth::Optional(new)) => {
            roots_shrink(&old, &new)
        }
    }
}

/// Returns true if a holder of a client certificate might no longer be one.
fn holders_shrink(old: &Service, new: &Service) -> bool {
    if let (Service::Link(old), Service::Link(new)) = (old, new) {
        // A token that is revoked ends the carriers of its own agent: they look for that themselves.
        let keeps = |old: &Link, new: &Link| {
            old.name == new.name && old.holders.iter().all(|holder| new.holders.contains(holder))
        };
        return !old.links.iter().all(|link| new.links.iter().any(|now| keeps(link, now)));
    }
    let (Service::Forward(old), Service::Forward(new)) = (old, new) else { return false };
    !new.holders.is_empty()
        && (old.holders.is_empty()
            || !old.holders.iter().all(|holder| new.holders.contains(holder)))
}

fn roots_shrink(old: &ClientTrust, new: &ClientTrust) -> bool {
    !old.roots.iter().all(|root| new.roots.contains(root))
}

/// Returns `listener` with the certificates of `other`, and what ACME says of them.
fn with_certificates_of(listener: &Listener, other: &Listener) -> Listener {
    let mut listener = Listener { acme: other.acme.clone(), ..listener.clone() };
    let certificates = other.tls().map(|tls| tls.certificates.clone());
    let tls = match &mut listener.service {
        Service::Http(service) => service.tls.as_mut(),
        Service::Tcp(service) => service.tls.as_mut(),
        Service::Forward(service) => service.tls.as_mut(),
        Service::Link(service) => Some(&mut service.tls),
        Service::PassThrough(_) => None,
    };
    if let (Some(tls), Some(certificates)) = (tls, certificates) {
        tls.certificates = certificates;
    }
    listener
}

#[cfg(test)]
#[path = "fate_tests.rs"]
mod tests;
