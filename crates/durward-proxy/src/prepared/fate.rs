//! What a new configuration means for connections made under the old one: they live on, end after their exchange, or end at once.
//!
//! What no longer permits a connection ends it at once; a new certificate disturbs nobody. Deliberately absent: connections.

use durward_model::client_auth::ClientTrust;
use durward_model::listener::ServerTls;
use durward_model::{ClientAuth, DestinationMode, Listener, Service, SourceSet, Tenant};
use ipnet::IpNet;

/// What becomes of existing connections. The greater wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Nothing they depend on differs.
    Keep,
    /// They go on, and obey the new configuration from their next request on.
    Renew,
    /// They end after the exchange they are in.
    Change,
    /// They end at once.
    Remove,
}

/// The fate of all of a tenant's connections, its listeners aside.
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

/// Returns the sources among which a client of the old listener must be for its connections to go on; `None` where all are.
pub(crate) fn narrowed<'l>(old: &Listener, new: &'l Listener) -> Option<&'l SourceSet> {
    let (old, new) = (old.allowed_sources.as_ref(), new.allowed_sources.as_ref());
    new.filter(|_| sources_shrink(old, new))
}

/// The fate of a listener's connections, those of clients that it does not admit any more aside ([`narrowed`]).
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

/// The fate of a listener's connections when what is believed of who they come from differs.
pub(crate) fn of_mode(old: &DestinationMode, new: &DestinationMode) -> Fate {
    use DestinationMode::ProxyProtocol;
    match (old, new) {
        (ProxyProtocol { trusted: old }, ProxyProtocol { trusted: new }) => {
            if sources_shrink(Some(old), Some(new)) { Fate::Remove } else { Fate::Keep }
        }
        (ProxyProtocol { .. }, _) | (_, ProxyProtocol { .. }) => Fate::Remove,
        _ => Fate::Keep,
    }
}

/// Returns whether a connection of the old listener may go on as one of the new listener, which admits its client. Asked per connection, so it
/// compares no routes and no sources.
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

/// The number of streams is agreed once, when an HTTP/2 connection begins.
fn keeps_streams(old: &Tenant, new: &Tenant) -> bool {
    old.limits.http2_streams == new.limits.http2_streams
}

/// Returns whether what was agreed when a connection began is what would be agreed now.
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

/// Returns whether a credential was taken back. An HTTP/2 client learns that by GOAWAY, without asking; one that asks meanwhile is judged
/// by the new credentials.
fn credentials_shrink(old: &Service, new: &Service) -> bool {
    let (Service::Forward(old), Service::Forward(new)) = (old, new) else { return false };
    !new.credentials.is_empty()
        && (old.credentials.is_empty()
            || !old.credentials.iter().all(|credential| new.credentials.contains(credential)))
}

/// Returns whether clients would prove themselves in the same way; further authorities forbid nobody.
fn keeps_trust(old: &ClientAuth, new: &ClientAuth) -> bool {
    match (old, new) {
        (ClientAuth::Required(old), ClientAuth::Required(new))
        | (ClientAuth::Optional(old), ClientAuth::Optional(new)) => {
            old.revocations == new.revocations && !roots_shrink(old, new)
        }
        (old, new) => old == new,
    }
}

/// Returns whether a client that was admitted might not be any more.
fn sources_shrink(old: Option<&SourceSet>, new: Option<&SourceSet>) -> bool {
    let Some(new) = new else { return false };
    let Some(old) = old else { return true };
    if old == new {
        return false;
    }
    // Two halves admit whom their whole admits: once neighbours are joined, a block that all of them cover lies in one of them.
    let joined = IpNet::aggregate(&new.blocks().to_vec());
    let covered = |block: &IpNet| joined.iter().any(|wider| wider.contains(block));
    !old.blocks().iter().all(covered)
}

/// Whether a client that proved itself enough might not any more. A new revocation list ends no exchange: it comes daily.
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

/// Whether a holder of a client certificate might not be one any more.
fn holders_shrink(old: &Service, new: &Service) -> bool {
    let (Service::Forward(old), Service::Forward(new)) = (old, new) else { return false };
    !new.holders.is_empty()
        && (old.holders.is_empty()
            || !old.holders.iter().all(|holder| new.holders.contains(holder)))
}

fn roots_shrink(old: &ClientTrust, new: &ClientTrust) -> bool {
    !old.roots.iter().all(|root| new.roots.contains(root))
}

/// `listener`, showing the certificates of `other`.
fn with_certificates_of(listener: &Listener, other: &Listener) -> Listener {
    let mut listener = listener.clone();
    let certificates = other.tls().map(|tls| tls.certificates.clone());
    let tls = match &mut listener.service {
        Service::Http(service) => service.tls.as_mut(),
        Service::Tcp(service) => service.tls.as_mut(),
        Service::Forward(service) => service.tls.as_mut(),
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
