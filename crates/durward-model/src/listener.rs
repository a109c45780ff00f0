//! A bind is a socket we accept on; a listener is a tenant's ingress address and port, found from where the client connected.
//!
//! Deliberately absent: sockets. Several listeners share one bind; a destination no listener has is refused, there is no default.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use crate::acme::Acme;
use crate::address::{Destination, IngressAddress};
use crate::egress::ForwardService;
use crate::link::LinkService;
use crate::names::{NameTable, ServerNames};
use crate::origin::Origin;
use crate::owners::AddressOwners;
use crate::route::WeightedUpstream;
use crate::route::table::RouteTable;
use crate::server_tls::ServerTls;
use crate::sni::SniTable;
use crate::source_set::SourceSet;
use crate::tenant_id::TenantId;
use crate::transport::Transport;

/// A socket to accept connections on, and the listeners reached through it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bind {
    /// The local address; may be unspecified (`0.0.0.0`, `::`) or not yet on the host.
    pub address: SocketAddr,
    /// Destination mode: how the destination of a connection is determined.
    pub mode: DestinationMode,
    /// The listeners, sorted by address and port, then by tenant.
    pub listeners: Vec<Arc<Listener>>,
    /// The tenants by name, for each address and port whose listeners have names.
    #[serde(skip)]
    pub names: BTreeMap<(IpAddr, u16), NameTable>,
    /// The tenants' addresses, where the socket accepts at all addresses and the one dialled does not name the listener; empty elsewhere.
    #[serde(skip)]
    pub owners: Arc<AddressOwners>,
}

/// Destination mode of a bind: the way it learns which address the client connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum DestinationMode {
    /// Local address of the accepted socket; the port is the bind's.
    Bound,
    /// A PROXY protocol header (v1 or v2) says it; mandatory, and only from these peers.
    ProxyProtocol {
        /// Networks that may send the header. Connections from others are closed.
        trusted: SourceSet,
        /// True if clients may send headers of their own after it, which name the destination but not the client.
        inner: bool,
    },
    /// The address before DNAT or REDIRECT in this network namespace (`SO_ORIGINAL_DST`).
    OriginalDestination,
    /// The accepted socket's local address on a TPROXY (`IP_TRANSPARENT`) socket.
    Transparent,
    /// The bind's port belongs to one listener, whatever address was dialled.
    Port,
    /// Any address in the world: the accepted socket's local address on a TPROXY socket. Where the client is says whose it is.
    Anywhere,
}

impl DestinationMode {
    /// The word used in documents.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bound => "Bound",
            Self::ProxyProtocol { .. } => "ProxyProtocol",
            Self::OriginalDestination => "OriginalDestination",
            Self::Transparent => "Transparent",
            Self::Port => "Port",
            Self::Anywhere => "Anywhere",
        }
    }

    /// Returns true if connections to addresses that are not the host's are accepted.
    #[must_use]
    pub fn is_transparent(&self) -> bool {
        matches!(self, Self::Transparent | Self::Anywhere)
    }
}

impl Bind {
    /// Returns whether clients of all listeners send the first bytes: of TCP without TLS the server may be the first to speak, and whatever a client dials through an
    /// interception may be such a server.
    #[must_use]
    pub fn clients_speak_first(&self) -> bool {
        let speaks = |service: &Service| match service {
            Service::Tcp(service) => service.tls.is_some(),
            Service::Udp(_) => false,
            Service::Http(_) | Service::PassThrough(_) | Service::Forward(_) | Service::Link(_) => {
                true
            }
        };
        self.mode != DestinationMode::Anywhere
            && self.listeners.iter().all(|listener| speaks(&listener.service))
    }

    /// Returns whether several tenants' connections are accepted on the socket.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.listeners.windows(2).any(|two| two[0].tenant != two[1].tenant)
    }

    /// The listener for a connection that was made to `destination` and accepted at `local`, and its position in `listeners`.
    ///
    /// `None` where the destination says nothing of that, and where `local` belongs to tenants that have no listener here. Where the port was rewritten on the way (a load balancer's 443 to our 8443) the address alone decides, if it has one listener here.
    #[must_use]
    pub fn listener_at(
        &self,
        destination: Destination,
        local: IpAddr,
    ) -> Option<(usize, &Arc<Listener>)> {
        if self.mode == DestinationMode::Anywhere || self.foreign_owner(local).is_some() {
            return None;
        }
        if self.mode == DestinationMode::Port {
            return self.listeners.first().map(|listener| (0, listener));
        }
        let key = (destination.0.ip().to_canonical(), destination.0.port());
        if let Ok(at) = self.listeners.binary_search_by_key(&key, |listener| listener.key()) {
            return Some((at, &self.listeners[at]));
        }
        let first = self.listeners.partition_point(|listener| listener.address.0 < key.0);
        let same =
            self.listeners[first..].iter().take_while(|listener| listener.address.0 == key.0);
        let mut same = same.skip_while(|listener| listener.port == self.listeners[first].port);
        match (self.listeners.get(first), same.next()) {
            (Some(only), None) if only.address.0 == key.0 && self.address_decides(destination) => {
                Some((first, only))
            }
            _ => None,
        }
    }

    /// Returns the tenant that has a name (lower case, without a trailing dot) at an address and port.
    #[must_use]
    pub fn named(&self, key: (IpAddr, u16), name: &str) -> Option<&TenantId> {
        self.names.get(&key)?.owner(name)
    }

    /// Returns whether the socket accepts at addresses of other tenants and serves by something else than the address that was dialled.
    #[must_use]
    pub fn accepts_elsewhere(address: SocketAddr, mode: &DestinationMode) -> bool {
        // In the other modes the kernel says which address was dialled, and only a listener with that address is found.
        let by_other_means =
            matches!(mode, DestinationMode::Port | DestinationMode::ProxyProtocol { .. });
        address.ip().is_unspecified() && by_other_means
    }

    /// Returns a tenant that holds the address `local` of an accepted connection, if only tenants without a listener here hold it.
    #[must_use]
    pub fn foreign_owner(&self, local: IpAddr) -> Option<&TenantId> {
        let local = local.to_canonical();
        let first = self.listeners.partition_point(|listener| listener.address.0 < local);
        if self.listeners.get(first).is_some_and(|listener| listener.address.0 == local) {
            // Quick where thousands share the address.
            return None;
        }
        let owners = self.owners.of(local);
        let is_here = |owner: &TenantId| self.listeners.iter().any(|one| one.tenant == *owner);
        owners.first().filter(|_| !owners.iter().any(is_here))
    }

    /// Returns the positions of those at the same address and port as the one at `at`, itself included.
    pub(crate) fn beside(&self, at: usize) -> Range<usize> {
        let Some(key) = self.listeners.get(at).map(|listener| listener.key()) else {
            return at..at;
        };
        let is_same = |at: usize| self.listeners.get(at).is_some_and(|one| one.key() == key);
        if !is_same(at + 1) && !at.checked_sub(1).is_some_and(is_same) {
            return at..at + 1;
        }
        let from = self.listeners[..at].partition_point(|listener| listener.key() < key);
        let until = self.listeners[at..].partition_point(|listener| listener.key() == key);
        from..at + until
    }

    fn address_decides(&self, destination: Destination) -> bool {
        match self.mode {
            DestinationMode::Bound => destination.0.port() == self.address.port(),
            DestinationMode::ProxyProtocol { .. } => true,
            DestinationMode::OriginalDestination
            | DestinationMode::Transparent
            | DestinationMode::Port
            | DestinationMode::Anywhere => false,
        }
    }
}

/// A tenant's ingress address and port, and what is served there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// Owning tenant.
    pub tenant: TenantId,
    /// The address clients know.
    pub address: IngressAddress,
    /// The port clients know.
    pub port: u16,
    /// The bind it is reached through.
    pub bind: SocketAddr,
    /// The names by which clients ask for it, where other tenants have other names at the same address and port; `None` where it has them alone.
    pub names: Option<ServerNames>,
    /// Allowed sources; `None` admits every source.
    pub allowed_sources: Option<SourceSet>,
    /// Service.
    pub service: Service,
    /// True if hosted API servers that name no address are served here, for names of the listener.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hosts_apis: bool,
    /// Certificates by ACME, and answers to challenges.
    #[serde(skip_serializing_if = "Acme::is_empty")]
    pub acme: Acme,
    /// True if Ingresses of the tenant's namespaces add routes to it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub takes_ingresses: bool,
    /// Origin: file and line, or object and field.
    pub origin: Origin,
}

/// Service of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Service {
    /// HTTP/1.1 and HTTP/2, over TLS when there is a certificate.
    Http(HttpService),
    /// TLS carried through untouched, by SNI.
    PassThrough(SniTable),
    /// Bytes, after TLS when there is a certificate.
    Tcp(TcpService),
    /// Datagrams.
    Udp(UdpService),
    /// A forward proxy: clients say where to.
    Forward(ForwardService),
    /// Agents of links.
    Link(LinkService),
}

/// HTTP served by a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpService {
    /// TLS towards clients.
    pub tls: Option<ServerTls>,
    /// In order of precedence; the first that matches serves.
    pub routes: RouteTable,
    /// Peers whose forwarding headers are kept and extended; those of other peers are replaced.
    pub trusted_proxies: SourceSet,
    /// Headers that carry the client certificate to upstreams.
    pub identity_headers: IdentityHeaders,
}

/// Which headers tell an upstream about the client's certificate. Inbound copies are always dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IdentityHeaders {
    /// `Client-Cert` and `Client-Cert-Chain` (RFC 9440).
    pub client_cert: bool,
    /// `X-Forwarded-Client-Cert` in Envoy's format.
    pub xfcc: bool,
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self { client_cert: true, xfcc: false }
    }
}

/// Bytes served by a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcpService {
    /// TLS towards clients; terminated here.
    pub tls: Option<ServerTls>,
    /// Upstreams, by weight.
    pub upstreams: Vec<WeightedUpstream>,
}

/// Datagrams served by a listener: a session for each client address and port, over a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UdpService {
    /// Upstreams, by weight; each session is with one of them.
    pub upstreams: Vec<WeightedUpstream>,
}

/// Address, port and transport protocol by which clients know a listener. No two listeners of a tenant have one key.
pub type ListenerKey = (IpAddr, u16, Transport);

/// Protocol of a listener, in the words of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Protocol {
    /// HTTP without TLS.
    Http,
    /// HTTP over TLS.
    Https,
    /// TLS carried through.
    Tls,
    /// Bytes, with or without TLS.
    Tcp,
    /// Datagrams.
    Udp,
    /// A forward proxy, with or without TLS.
    Forward,
    /// Agents of links, over TLS.
    Link,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Forward => "forward proxy",
            Self::Link => "link",
        })
    }
}

impl Listener {
    /// Returns the address and port, by which the listeners of one bind are sorted and found.
    #[must_use]
    pub fn key(&self) -> (IpAddr, u16) {
        (self.address.0, self.port)
    }

    /// Returns address, port and transport protocol, by which the listeners of a tenant are sorted and found.
    #[must_use]
    pub fn full_key(&self) -> ListenerKey {
        (self.address.0, self.port, self.transport())
    }

    /// Returns the transport protocol.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self.service {
            Service::Udp(_) => Transport::Udp,
            Service::Http(_)
            | Service::PassThrough(_)
            | Service::Tcp(_)
            | Service::Forward(_)
            | Service::Link(_) => Transport::Tcp,
        }
    }

    /// Returns true if `client` may connect.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.allowed_sources.as_ref().is_none_or(|sources| sources.contains(client))
    }

    /// TLS terminated here, if any.
    #[must_use]
    pub fn tls(&self) -> Option<&ServerTls> {
        match &self.service {
            Service::Http(service) => service.tls.as_ref(),
            Service::Tcp(service) => service.tls.as_ref(),
            Service::Forward(service) => service.tls.as_ref(),
            Service::Link(service) => Some(&service.tls),
            Service::PassThrough(_) | Service::Udp(_) => None,
        }
    }

    /// Returns true if the certificate for a client that asks for `sni` (lower case) has not been issued yet. No other is shown in its place.
    #[must_use]
    pub fn lacks_certificate(&self, sni: Option<&str>) -> bool {
        let Some(tls) = self.tls() else { return false };
        if tls.certificates.is_empty() {
            return true;
        }
        let mut missing = self.acme.orders.iter().filter(|order| !order.issued);
        let is_missing =
            missing.any(|order| order.first || sni.is_some_and(|name| order.names_host(name)));
        let is_named = |name| tls.certificates.iter().any(|one| one.covers_host(name));
        is_missing && !sni.is_some_and(is_named)
    }

    /// Returns the protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match &self.service {
            Service::Http(HttpService { tls: Some(_), .. }) => Protocol::Https,
            Service::Http(_) => Protocol::Http,
            Service::PassThrough(_) => Protocol::Tls,
            Service::Tcp(_) => Protocol::Tcp,
            Service::Udp(_) => Protocol::Udp,
            Service::Forward(_) => Protocol::Forward,
            Service::Link(_) => Protocol::Link,
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address.0, self.port).fmt(f)
    }
}
