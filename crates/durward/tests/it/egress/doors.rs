//! Whose a client is: by the proxy it comes to, where it comes from, what it shows; and that it is nobody else's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use durward_testkit::certificates::{Authority, CertSpec, Identity, client_config};
use durward_testkit::client::{RawHttp, tls_connect};
use durward_testkit::origin::Origin;
use durward_testkit::process::unique_loopback;
use durward_testkit::secrets;

use super::{document, get, tunnel, tunnel_over};
use crate::gateway::Gateway;

const TENANTS: [&str; 2] = ["a", "b"];

/// Two tenants, each with an address its traffic leaves from.
struct Two {
    gateway: Gateway,
    egress: [Ipv4Addr; 2],
    origin: Origin,
}

impl Two {
    /// `entry` is each tenant's proxy; `origin` may be reached.
    fn start(prepare: impl FnOnce(&std::path::Path), entry: impl Fn(usize) -> String) -> Self {
        let origin = Origin::http1("127.0.0.1:0");
        let egress = [unique_loopback(), unique_loopback()];
        let allow = format!("allow: [{{cidr: 127.0.0.1, ports: [{}]}}]", origin.port());
        let document = |at: usize| document(TENANTS[at], egress[at], &entry(at), &allow);
        let prepared = Gateway::prepare();
        prepare(prepared.dir());
        let gateway = prepared.start(&(document(0) + &document(1)));
        assert_eq!(gateway.findings(), Vec::<String>::new());
        Self { gateway, egress, origin }
    }

    /// The address a plain request leaves from, or the status it is refused with.
    async fn leaves(&self, mut client: RawHttp, fields: &str) -> Result<IpAddr, u16> {
        let far = self.origin.address();
        let request = format!("GET http://{far}/ HTTP/1.1\r\nHost: {far}\r\n{fields}\r\n");
        if client.send(request).await.is_err() {
            return Err(0);
        }
        match client.read_response().await {
            Ok(answer) if answer.status == 200 => Ok(answer.echo().peer.ip()),
            Ok(answer) => Err(answer.status),
            Err(_) => Err(0),
        }
    }

    fn own(&self, at: usize) -> Result<IpAddr, u16> {
        Ok(self.egress[at].into())
    }
}

/// Each tenant's file of credentials.
fn users(dir: &std::path::Path) {
    for name in TENANTS {
        let hash = secrets::sha256_hex(&format!("secret of {name}"));
        std::fs::write(dir.join(format!("users-{name}")), format!("{name}:{hash}\n")).unwrap();
    }
}

// S2.4 S2.15 S2.47
#[tokio::test]
async fn each_proxy_leads_out_by_its_own_tenants_address() {
    let doors = [unique_loopback(), unique_loopback()];
    let two =
        Two::start(|_| (), |at| format!("address: {}, allowedSources: [127.0.0.0/8]", doors[at]));

    for (at, door) in doors.into_iter().enumerate() {
        let client = RawHttp::connect((door, 3128).into()).await.unwrap();
        assert_eq!(two.leaves(client, "").await, two.own(at));
        // Neither the other's proxy, nor its addresses, nor this one can be reached through a proxy.
        for target in [doors[1 - at].into(), two.egress[1 - at].into(), IpAddr::from(door)] {
            assert_eq!(
                tunnel((door, 3128).into(), &format!("{target}:3128"), "").await.err(),
                Some(403),
                "{target}"
            );
        }
    }
    assert_eq!(two.gateway.isolation_violations(), 0);
}

// S2.15 S2.13
#[tokio::test]
async fn a_shared_proxy_tells_tenants_by_where_they_come_from() {
    let door = SocketAddr::from((unique_loopback(), 3128));
    let clients = [unique_loopback(), unique_loopback()];
    let two = Two::start(
        |_| (),
        |at| format!("address: {}, shared: true, allowedSources: [{}/32]", door.ip(), clients[at]),
    );

    for (at, client) in clients.into_iter().enumerate() {
        let client = RawHttp::connect_from(client.into(), door).await.unwrap();
        assert_eq!(two.leaves(client, "").await, two.own(at));
    }
    // It may be turned away before it has said a word.
    if let Ok(stranger) = RawHttp::connect_from(unique_loopback().into(), door).await {
        assert!(two.leaves(stranger, "").await.is_err());
    }
    let line = two.gateway.log().into_iter().find(|line| line.contains("source_not_allowed"));
    assert!(line.is_none_or(|line| !line.contains("\"tenant\"")), "a stranger is nobody's");
}

// S2.15 S2.47
#[tokio::test]
async fn a_shared_proxy_tells_tenants_by_their_credentials() {
    let door = SocketAddr::from((unique_loopback(), 3128));
    let two = Two::start(users, |at| {
        format!(
            "address: {}, shared: true, credentials: {{file: users-{}}}",
            door.ip(),
            TENANTS[at]
        )
    });
    let shown = |user: &str, secret: &str| {
        format!("Proxy-Authorization: {}\r\n", secrets::basic(user, &format!("secret of {secret}")))
    };
    let fresh = || async { RawHttp::connect(door).await.unwrap() };

    for (at, name) in TENANTS.into_iter().enumerate() {
        assert_eq!(two.leaves(fresh().await, &shown(name, name)).await, two.own(at));
        let bearer = format!("Proxy-Authorization: Bearer secret of {name}\r\n");
        assert_eq!(two.leaves(fresh().await, &bearer).await, two.own(at));
    }
    for fields in ["", &shown("a", "b"), &shown("a", "c"), "Proxy-Authorization: Basic !\r\n"] {
        assert_eq!(two.leaves(fresh().await, fields).await, Err(407), "{fields}");
    }
    // A connection is one tenant's for good.
    let far = two.origin.address();
    let mut client = fresh().await;
    let request =
        |fields: &str| format!("GET http://{far}/ HTTP/1.1\r\nHost: {far}\r\n{fields}\r\n");
    assert_eq!(client.exchange(request(&shown("a", "a"))).await.unwrap().status, 200);
    assert_eq!(client.exchange(request(&shown("b", "b"))).await.unwrap().status, 407);
    assert_eq!(client.exchange(request("")).await.unwrap().status, 407);
    assert!(tunnel_over(fresh().await, &far.to_string(), &shown("b", "b")).await.is_ok());
}

// S2.15 S2.47
#[tokio::test]
async fn a_shared_proxy_tells_who_speaks_socks_by_name_and_secret_too() {
    let door = SocketAddr::from((unique_loopback(), 3128));
    let two = Two::start(users, |at| {
        format!(
            "address: {}, shared: true, credentials: {{file: users-{}}}",
            door.ip(),
            TENANTS[at]
        )
    });
    let SocketAddr::V4(far) = two.origin.address() else { panic!("IPv4 here") };
    let wish = [&[5, 1, 0, 1][..], &far.ip().octets(), &far.port().to_be_bytes()].concat();

    for (user, secret, at) in [("a", "a", Some(0)), ("b", "b", Some(1)), ("a", "b", None)] {
        let secret = format!("secret of {secret}");
        let mut client = RawHttp::connect(door).await.unwrap();
        client.send([5, 2, 0, 2]).await.unwrap();
        assert_eq!(client.read_exactly(2).await.unwrap(), [5, 2]);
        let length = u8::try_from(secret.len()).unwrap();
        client
            .send([&[1, 1][..], user.as_bytes(), &[length], secret.as_bytes()].concat())
            .await
            .unwrap();
        assert_eq!(client.read_exactly(2).await.unwrap(), [1, u8::from(at.is_none())]);
        let Some(at) = at else { continue };
        client.send(&wish).await.unwrap();
        assert_eq!(client.read_exactly(10).await.unwrap()[1], 0);
        let seen = client.get("x", "/").await.unwrap().echo().peer.ip();
        assert_eq!(Ok(seen), two.own(at));
    }
}

// S2.48 S2.15
#[tokio::test]
async fn a_client_certificate_says_whose_a_client_is() {
    let door = SocketAddr::from((unique_loopback(), 3128));
    let (servers, clients, others) =
        (Authority::new("servers"), Authority::new("clients"), Authority::new("others"));
    let holder = |authority: &Authority, uri: &str| {
        authority.issue(&CertSpec::new().common_name("client").uri(uri).client())
    };
    let revoked = holder(&clients, "spiffe://x/ns/a/revoked");
    let prepare = |dir: &std::path::Path| {
        servers.issue(&CertSpec::new().ip(door.ip()).server()).write(dir, "proxy");
        std::fs::write(dir.join("clients.crt"), clients.pem()).unwrap();
        std::fs::write(dir.join("clients.crl"), clients.revoke(&[&revoked]).pem).unwrap();
    };
    let two = Two::start(prepare, |at| {
        format!(
            "address: {}, shared: true, certificate: {{file: proxy}}, clientCertificates: {{caFile: clients.crt, crlFile: clients.crl}}, \
             certificateNames: [\"spiffe://x/ns/{}/*\"]",
            door.ip(),
            TENANTS[at]
        )
    });
    let connect = |identity: Option<Identity>| {
        let config = client_config(&servers, identity.as_ref());
        async move { Some(RawHttp::over(tls_connect(door, None, config, None).await.ok()?)) }
    };

    for (at, name) in TENANTS.into_iter().enumerate() {
        let identity = holder(&clients, &format!("spiffe://x/ns/{name}/web"));
        let client = connect(Some(identity)).await.unwrap();
        assert_eq!(two.leaves(client, "").await, two.own(at));
    }
    let nobody = connect(Some(holder(&clients, "spiffe://x/ns/c/web"))).await.unwrap();
    assert_eq!(two.leaves(nobody, "").await, Err(407));
    for stranger in [None, Some(holder(&others, "spiffe://x/ns/a/web")), Some(revoked)] {
        if let Some(client) = connect(stranger).await {
            assert_eq!(two.leaves(client, "").await, Err(0), "the handshake fails");
        }
    }
    let decisions = super::decisions(&two.gateway, 4);
    assert!(
        decisions.iter().all(|line| line["identity"] == "certificate:CN=client"),
        "{decisions:#?}"
    );
}

// S2.48
#[tokio::test]
async fn a_proxy_of_ones_own_may_ask_for_certain_certificates_too() {
    let door = SocketAddr::from((unique_loopback(), 3128));
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let prepared = Gateway::prepare();
    servers.issue(&CertSpec::new().ip(door.ip()).server()).write(prepared.dir(), "proxy");
    std::fs::write(prepared.dir().join("clients.crt"), clients.pem()).unwrap();
    let origin = Origin::http1("127.0.0.1:0");
    let entry = format!(
        "address: {}, certificate: {{file: proxy}}, clientCertificates: {{caFile: clients.crt}}, certificateNames: [ci.acme.example]",
        door.ip()
    );
    let allow = format!("allow: [{{cidr: 127.0.0.1, ports: [{}]}}]", origin.port());
    let gateway = prepared.start(&document("acme", unique_loopback(), &entry, &allow));

    for (name, status) in [("ci.acme.example", 200), ("ci.acme.example.evil", 407)] {
        let identity = clients.issue(&CertSpec::new().common_name(name).client());
        let config = client_config(&servers, Some(&identity));
        let stream = tls_connect(door, None, config, None).await.unwrap();
        let answer = RawHttp::over(stream)
            .exchange(get(&format!("http://{}/", origin.address())))
            .await
            .unwrap();
        assert_eq!(answer.status, status, "{name}");
    }
    gateway.stop();
}
