//! Session tickets: good where they were given, and nowhere and never else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use durward_model::{ClientAuth, TenantId};
use durward_proxy::metrics::Counter;
use durward_testkit::certificates::{Authority, CertSpec, Identity, provider, roots};
use durward_testkit::client::RawHttp;
use durward_testkit::process::unique_loopback;
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, SupportedProtocolVersion};
use rustls_pki_types::ServerName;

use crate::edge::{Wanted, assert_served, bound, http, https, idle, tenant, trust};

/// Offers whatever session it has to whomever it meets, as an attacker would.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    tls12: Option<Tls12ClientSessionValue>,
    tls13: Vec<Tls13ClientSessionValue>,
}

impl Tickets {
    pub(crate) fn any(&self) -> bool {
        let held = self.0.lock().unwrap();
        held.tls12.is_some() || !held.tls13.is_empty()
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.lock().unwrap().tls12 = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.lock().unwrap().tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.lock().unwrap().tls13.push(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().unwrap().tls13.pop()
    }
}

/// A client with one identity whose sessions go wherever it goes.
struct Client {
    config: Arc<ClientConfig>,
    tickets: Arc<Tickets>,
}

impl Client {
    fn new(
        servers: &Authority,
        identity: &Identity,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        let tickets = Arc::new(Tickets::default());
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots(servers))
            .with_client_auth_cert(identity.chain_der.clone(), identity.key_der.clone_key())
            .unwrap();
        config.resumption = Resumption::store(tickets.clone());
        Self { config: Arc::new(config), tickets }
    }

    /// One GET: how the handshake went, or `None` when it was refused.
    async fn visit(&self, address: SocketAddr) -> Option<HandshakeKind> {
        self.visit_as(address, None).await
    }

    /// The same with a server name.
    async fn visit_as(&self, address: SocketAddr, name: Option<&str>) -> Option<HandshakeKind> {
        let config = Arc::clone(&self.config);
        let stream =
            durward_testkit::client::tls_connect(address, None, config, name).await.ok()?;
        let kind = stream.get_ref().1.handshake_kind();
        let mut client = RawHttp::over(stream);
        let response = client.get(name.unwrap_or("a"), "/").await.ok()?;
        assert_eq!(response.status, 200);
        kind
    }
}

/// Listeners that differ in one thing each: tenant, address, port, client authority, whether clients are asked at all.
struct Town {
    servers: Authority,
    server: Identity,
    addresses: Vec<SocketAddr>,
}

impl Town {
    fn new() -> Self {
        let servers = Authority::new("servers");
        let ips: Vec<_> = (0..3).map(|_| unique_loopback()).collect();
        let server = servers.issue(&ips.iter().fold(CertSpec::new(), |spec, ip| spec.ip(*ip)));
        let at = |ip: usize, port: u16| SocketAddr::from((ips[ip], port));
        let addresses =
            vec![at(0, 8443), at(0, 8444), at(1, 8443), at(1, 8444), at(2, 8443), at(2, 8444)];
        Self { servers, server, addresses }
    }

    fn tenants(&self, first: &ClientAuth, second: &ClientAuth) -> [Wanted; 2] {
        let service = |auth: &ClientAuth| {
            let mut policy = https(&self.server);
            policy.client_auth = auth.clone();
            http("", Some(policy))
        };
        let at = &self.addresses;
        [
            tenant("a")
                .listen(at[0], service(first))
                .listen(at[1], service(first))
                .listen(at[2], service(second))
                .listen(at[3], service(&ClientAuth::Off)),
            tenant("b").listen(at[4], service(first)).listen(at[5], service(&ClientAuth::Off)),
        ]
    }
}

fn resumed(proxy: &durward_proxy::Proxy) -> u64 {
    ["a", "b"]
        .map(|name| proxy.metrics().tenant(&TenantId::new(name).unwrap()))
        .iter()
        .map(|metrics| metrics.total(Counter::HandshakesResumed))
        .sum()
}

// S1.41 S1.6
#[tokio::test]
async fn no_ticket_crosses_to_another_tenant_address_authority_or_generation() {
    let town = Town::new();
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let partner = one.issue(&CertSpec::new().client());
    let revoked = one.issue(&CertSpec::new().client());
    let list = one.revoke(&[&revoked]);
    let first = ClientAuth::Required(trust(&[&one], &[]));
    let second = ClientAuth::Required(trust(&[&one, &other], &[]));
    let rotated = ClientAuth::Required(trust(&[&one, &other], &[&list]));
    let proxy = idle();
    assert_served(&proxy.apply(bound(1, &town.tenants(&first, &second))));

    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (i, from) in town.addresses.iter().enumerate() {
            for (j, to) in town.addresses.iter().enumerate() {
                let client = Client::new(&town.servers, &partner, version);
                assert_eq!(client.visit(*from).await, Some(HandshakeKind::Full), "{i}");
                assert!(client.tickets.any(), "{version:?} {i}: no ticket was given");

                let kind = client.visit(*to).await;

                let expected = if i == j { HandshakeKind::Resumed } else { HandshakeKind::Full };
                assert_eq!(kind, Some(expected), "{version:?} from {i} to {j}");
            }
        }
    }
    assert_eq!(resumed(&proxy), 2 * town.addresses.len() as u64);

    // The same, with a new set of authorities (or revocations) between the visits.
    for (generation, next) in [(2, &second), (3, &rotated), (4, &first)] {
        let mut clients = Vec::new();
        for from in &town.addresses[..3] {
            let client = Client::new(&town.servers, &partner, &rustls::version::TLS13);
            assert!(client.visit(*from).await.is_some());
            clients.push(client);
        }
        let (before, after) = match generation {
            2 => (&second, &first),
            _ => (next, next),
        };
        assert_served(&proxy.apply(bound(generation, &town.tenants(before, after))));
        let counted = resumed(&proxy);
        for (client, from) in clients.iter().zip(&town.addresses) {
            let kind = client.visit(*from).await;
            assert_eq!(kind, Some(HandshakeKind::Full), "generation {generation}, {from}");
        }
        assert_eq!(resumed(&proxy), counted);
    }
}

// S1.49
#[tokio::test]
async fn a_ticket_does_not_outlive_the_revocation_of_its_certificate() {
    let town = Town::new();
    let authority = Authority::new("one");
    let client = authority.issue(&CertSpec::new().client());
    let list = authority.revoke(&[&client]);
    let before = ClientAuth::Required(trust(&[&authority], &[]));
    let after = ClientAuth::Required(trust(&[&authority], &[&list]));
    let proxy = idle();
    assert_served(&proxy.apply(bound(1, &town.tenants(&before, &before))));
    let client = Client::new(&town.servers, &client, &rustls::version::TLS13);
    assert_eq!(client.visit(town.addresses[0]).await, Some(HandshakeKind::Full));
    assert_eq!(client.visit(town.addresses[0]).await, Some(HandshakeKind::Resumed));

    assert_served(&proxy.apply(bound(2, &town.tenants(&after, &after))));

    assert_eq!(client.visit(town.addresses[0]).await, None);
}

#[tokio::test]
async fn a_listener_that_does_not_change_keeps_its_tickets() {
    let town = Town::new();
    let authority = Authority::new("one");
    let identity = authority.issue(&CertSpec::new().client());
    let auth = ClientAuth::Required(trust(&[&authority], &[]));
    let proxy = idle();
    let [a, b] = town.tenants(&auth, &auth);
    assert_served(&proxy.apply(bound(1, &[a.clone(), b])));
    let client = Client::new(&town.servers, &identity, &rustls::version::TLS13);
    assert_eq!(client.visit(town.addresses[0]).await, Some(HandshakeKind::Full));

    let a = a.limits(|limits| limits.connections = Some(1000));
    assert_served(&proxy.apply(bound(2, &[a])));

    assert_eq!(client.visit(town.addresses[0]).await, Some(HandshakeKind::Resumed));
}

// S1.41 S4.6+
#[tokio::test]
async fn no_session_of_one_name_is_resumed_at_another_tenants() {
    let servers = Authority::new("servers");
    let names = ["a.example", "b.example", "x.c.example"];
    let server = servers.issue(&names.iter().fold(CertSpec::new(), |spec, name| spec.dns(name)));
    let identity = servers.issue(&CertSpec::new().common_name("client").client());
    let address = SocketAddr::from((unique_loopback(), 8443));
    let listening = |name, own: &str| {
        tenant(name).listen(address, http("", Some(https(&server)))).named(&[own])
    };
    let proxy = crate::edge::serve(&[
        listening("a", "a.example"),
        listening("b", "b.example"),
        listening("c", "*.c.example"),
    ]);
    let resumed = || {
        let of = |name| proxy.metrics().tenant(&TenantId::new(name).unwrap());
        ["a", "b", "c"].map(|name| of(name).total(Counter::HandshakesResumed)).iter().sum::<u64>()
    };

    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for from in names {
            let client = Client::new(&servers, &identity, version);
            client.visit_as(address, Some(from)).await.unwrap();
            assert!(client.tickets.any());
            for to in names.iter().filter(|to| **to != from) {
                let kind = client.visit_as(address, Some(to)).await;
                assert_ne!(kind, Some(HandshakeKind::Resumed), "{from} {to}");
            }
            let before = resumed();
            let client = Client::new(&servers, &identity, version);
            client.visit_as(address, Some(from)).await.unwrap();
            client.visit_as(address, Some(from)).await.unwrap();
            assert_eq!(resumed(), before + 1, "{from}");
        }
    }
    assert_eq!(resumed(), 6);
}
