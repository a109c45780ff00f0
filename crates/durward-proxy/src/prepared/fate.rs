//! Effect of a new configuration on open connections: they live on, end after their exchange, or end at once.
//!
//! A connection that is no longer permitted ends at once; a new certificate disturbs none.

use std::collections::HashMap;
use std::sync::Arc;

use durward_model::client_auth::ClientTrust;
use durward_model::route::HostPattern;
use durward_model::server_tls::ServerTls;
use durward_model::sni::{SniRoute, SniTable};
use durward_model::{
    ClientAuth, DestinationMode, HostedApi, Listener, ServerNames, Service, SourceSet, Tenant,
};

use crate::tls::client_verifier;
use crate::watch::{Left, Narrowing, Trusted};

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
    let auth = old.tls().zip(new.tls());
    let trusted = auth.and_then(|(old, new)| distrusted(&old.client_auth, &new.client_auth));
    let trusted = trusted.map(Narrowing::Certificates);
    let hosted = hosted_narrowed(&old.service, &new.service);
    sources.into_iter().chain(names).chain(trusted).chain(hosted).collect()
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
    let Service::PassThrough(before) = old else { return Vec::new() };
    if old == new {
        return Vec::new();
    }
    let none = SniTable::default();
    let after = if let Service::PassThrough(after) = new { after } else { &none };
    let present = after.iter().filter_map(|route| route.hosted.as_deref());
    let present: HashMap<_, _> = present.map(|api| (&api.name, api)).collect();
    let former = before.iter().filter_map(|route| Some((route, route.hosted.as_deref()?)));
    let narrowing = |(route, api): (&SniRoute, &HostedApi)| {
        let left = match present.get(&api.name) {
            None => Some(Left::Nobody),
            Some(now) => left(api, now, route.hosts.is_empty()),
        };
        left.map(|left| Narrowing::Hosted(Arc::clone(&api.name), left))
    };
    former.filter_map(narrowing).collect()
}

/// Returns which clients are left of a hosted API server; `None` if all are. Those of a route for any name may have asked for another's name.
fn left(old: &HostedApi, new: &HostedApi, any_name: bool) -> Option<Left> {
    let shrinks = sources_shrink(old.allowed_sources.as_ref(), new.allowed_sources.as_ref());
    let sources = new.allowed_sources.clone().filter(|_| shrinks);
    let loses = !any_name && old.names.iter().any(|name| !new.names.has(name));
    let names = loses.then(|| new.names.clone());
    let proxies = match (&old.relay, &new.relay) {
        (None, _) => None,
        (Some(_), None) => Some(Trusted::nobody()),
        (Some(old), Some(new)) => distrusted(&old.client_auth, &new.client_auth),
    };
    let any = sources.is_some() || names.is_some() || proxies.is_some();
    any.then_some(Left::These { sources, names, proxies })
}

/// Returns what certificates are verified by now, if one that was verified before might not be: an authority is gone, or lists of revoked certificates
/// are others.
fn distrusted(old: &ClientAuth, new: &ClientAuth) -> Option<Trusted> {
    let (before, now) = old.trust().zip(new.trust())?;
    let differs = before.revocations != now.revocations || roots_shrink(before, now);
    differs.then(|| client_verifier::trusted(new))
}

/// Returns the fate of a listener's connections, except those of clients that it no longer admits ([`narrowed`]).
pub(crate) fn of_listener(old: &Listener, new: &Listener) -> Fate {
    if old == new {
        return Fate::Keep;
    }
    if old.tenant != new.tenant
        || asks_for_more(old.tls(), new.tls())
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
    old.is_none_or(|old| !new.covers(old))
}

/// Returns true if a client without a certificate might no longer be admitted. Those with one are judged by [`distrusted`].
fn asks_for_more(old: Option<&ServerTls>, new: Option<&ServerTls>) -> bool {
    let requires = |tls: Option<&ServerTls>| {
        tls.is_some_and(|tls| matches!(tls.client_auth, ClientAuth::Required(_)))
    };
    requires(new) && !requires(old)
}

/// Returns true if a client that was authenticated might no longer be. A new revocation list ends no exchange of a client that it does not name: it comes
/// daily.
fn trust_shrinks(old: Option<&ServerTls>, new: Option<&ServerTls>) -> bool {
    let auth = |tls: Option<&ServerTls>| {
        tls.map_or_else(ClientAuth::default, |tls| tls.client_auth.clone())
    };
    let roots = match (auth(old), auth(new)) {
        (ClientAuth::Optional(old), ClientAuth::Optional(new))
        | (ClientAuth::Required(old), ClientAuth::Required(new) | ClientAuth::Optional(new)) => {
            roots_shrink(&old, &new)
        }
        _ => false,
    };
    roots || asks_for_more(old, new)
}

/// Returns true if a holder of a client certificate might no longer be one.
fn holders_shrink(old: &Service, new: &Service) -> bool {
    // Carriers of agents check by themselves, each second, that their own link still admits them.
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
        Service::Udp(_) => None,
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
