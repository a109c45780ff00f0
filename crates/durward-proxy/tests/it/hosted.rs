//! Hosted API servers: direct clients, and proxies of tenant clusters that bring clients' TLS inside a TLS connection of their own.

mod behind;
mod narrowed;
mod refused;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use durward_model::route::{HostPattern, WeightedUpstream};
use durward_model::server_tls::API_PROXY;
use durward_model::server_tls::{Alpn, ServerTls};
use durward_model::sni::SniRoute;
use durward_model::upstream::UpstreamIndex;
use durward_model::{ClientAuth, HostedApi, Origin as Place, ServerNames, Service, SourceSet};
use durward_testkit::certificates::{
    Authority, CertSpec, Identity, RevocationList, client_config, client_config_insecure,
};
use durward_testkit::client::{H2Client, ProxyHeader, RawHttp, tcp_connect};
use durward_testkit::origin::{Origin, TcpEcho};
use durward_testkit::process::{eventually, unique_loopback};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::edge::{
    SOON, Wanted, assert_served, await_lines, await_refusals, bound, serve, serve_with_log, tenant,
    tls, trust,
};

const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];
const AUTHORITY: u8 = 0x02;
const UNIQUE_ID: u8 = 0x05;

/// A hosted API server, and what its tenant cluster's proxy has.
struct Api {
    tenant: &'static str,
    host: &'static str,
    server: Origin,
    /// What the API server shows.
    identity: Identity,
    /// Whose certificates its proxies have.
    proxies: Authority,
    credential: Identity,
    relay: Identity,
}

impl Api {
    fn new(
        gateway: &Authority,
        clients: &Authority,
        tenant: &'static str,
        host: &'static str,
    ) -> Self {
        let identity = Authority::new(host).issue(&CertSpec::new().dns(host).dns("kubernetes"));
        let proxies = Authority::new(&format!("proxies of {host}"));
        let mut config =
            durward_testkit::certificates::server_config_optional_client(&identity, clients);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            tenant,
            host,
            server: Origin::tls_with("127.0.0.1:0", config),
            credential: proxies.issue(&CertSpec::new().common_name(host).client()),
            relay: gateway.issue(&CertSpec::new().dns(host)),
            identity,
            proxies,
        }
    }

    /// TLS towards its proxies.
    fn relay(&self) -> ServerTls {
        ServerTls {
            client_auth: ClientAuth::Required(trust(&[&self.proxies], &[])),
            alpn: vec![Alpn::ApiProxy],
            tls13_only: true,
            ..tls(&self.relay)
        }
    }

    fn hosted(&self) -> HostedApi {
        HostedApi {
            name: Arc::from(self.host),
            names: ServerNames::new(vec![exact(self.host)]),
            allowed_sources: None,
            relay: Some(self.relay()),
            origin: Place::default(),
        }
    }
}

fn exact(host: &str) -> HostPattern {
    HostPattern::Exact(Arc::from(host))
}

/// The route of a hosted API server to the tenant's upstream at a position.
fn route(api: HostedApi, at: usize) -> SniRoute {
    SniRoute {
        hosts: api.names.iter().cloned().collect(),
        upstreams: vec![WeightedUpstream { upstream: UpstreamIndex(at), weight: 1 }],
        hosted: Some(Arc::new(api)),
        origin: Place::default(),
    }
}

/// A tenant whose only listener has these API servers, each changed by `change`.
fn hosting(address: SocketAddr, apis: &[&Api], change: impl Fn(&mut HostedApi)) -> Wanted {
    hosting_through(address, address, apis, change)
}

fn hosting_through(
    bind: SocketAddr,
    address: SocketAddr,
    apis: &[&Api],
    change: impl Fn(&mut HostedApi),
) -> Wanted {
    let routes: Vec<_> = apis
        .iter()
        .enumerate()
        .map(|(at, api)| {
            let mut hosted = api.hosted();
            change(&mut hosted);
            route(hosted, at)
        })
        .collect();
    let names: Vec<_> = apis.iter().map(|api| api.host).collect();
    let wanted = apis
        .iter()
        .fold(tenant(apis[0].tenant), |wanted, api| wanted.upstream(api.server.address()));
    wanted.listen_through(bind, address, Service::PassThrough(routes.into())).named(&names)
}

fn address() -> SocketAddr {
    SocketAddr::from((unique_loopback(), 8443))
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The header of a pod's connection to the ClusterIP.
fn of_pod(authority: &str) -> ProxyHeader {
    let header = ProxyHeader::v2(at("10.244.0.9:40000"), at("10.96.0.1:443"));
    header.tlv(AUTHORITY, authority.as_bytes()).tlv(UNIQUE_ID, b"pod-1")
}

/// Begins an outer connection. With TLS 1.3 a refused certificate shows with the first read only.
async fn outer(
    address: SocketAddr,
    gateway: &Authority,
    credential: Option<&Identity>,
    name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let mut config = client_config(gateway, credential);
    config.alpn_protocols = vec![API_PROXY.to_vec()];
    let stream = tcp_connect(address, None).await?;
    let name = name.to_owned().try_into().unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The certificate that the API server shows inside an outer connection.
async fn shown_inside(
    address: SocketAddr,
    gateway: &Authority,
    credential: &Identity,
    (name, authority, inside): (&str, &str, &str),
) -> Option<Vec<u8>> {
    let mut stream = outer(address, gateway, Some(credential), name).await.ok()?;
    stream.write_all(&of_pod(authority).encode()).await.ok()?;
    let connector = TlsConnector::from(Arc::new(client_config_insecure(None)));
    let stream = connector.connect(inside.to_owned().try_into().unwrap(), stream).await.ok()?;
    Some(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

/// A tenant cluster's proxy: connections to the address it returns go to `gateway` inside outer connections.
async fn tenant_proxy(address: SocketAddr, gateway: &Authority, api: &Api) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap();
    let mut config = client_config(gateway, Some(&api.credential));
    config.alpn_protocols = vec![API_PROXY.to_vec()];
    let (connector, host) = (TlsConnector::from(Arc::new(config)), api.host);
    tokio::spawn(async move {
        while let Ok((mut client, peer)) = listener.accept().await {
            let connector = connector.clone();
            tokio::spawn(async move {
                let stream = TcpStream::connect(address).await.unwrap();
                let mut stream = connector.connect(host.try_into().unwrap(), stream).await.unwrap();
                let header = ProxyHeader::v2(peer, local).tlv(AUTHORITY, host.as_bytes());
                stream.write_all(&header.tlv(UNIQUE_ID, b"pod-7").encode()).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut stream).await;
            });
        }
    });
    local
}

// S4.10 S4.12 S4.48+
#[tokio::test]
async fn through_a_tenant_clusters_proxy_the_client_is_who_it_is_and_speaks_http2() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let address = address();
    let (proxy, lines) = serve_with_log(&[hosting(address, &[&api], |_| {})]);
    let node = tenant_proxy(address, &gateway, &api).await;
    let kubelet = clients.issue(&CertSpec::new().common_name("system:node:n1").client());

    for (where_to, name) in [(address, api.host), (node, "kubernetes")] {
        let mut config = client_config_insecure(Some(&kubelet));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let client = H2Client::tls(where_to, None, config, Some(name)).await.unwrap();
        let echo = client.get("/").await.unwrap().echo();
        assert_eq!(echo.tls_client_subject.as_deref(), Some("CN=system:node:n1"), "{name}");
        assert_eq!((&*echo.version, echo.tls_alpn.as_deref()), ("HTTP/2.0", Some("h2")));
        assert_eq!(echo.tls_server_name.as_deref(), Some(name));
    }

    let lines = await_lines(proxy, &lines, 2).await;
    let of_kind = |kind: &str| lines.iter().find(|line| line["kind"] == kind).unwrap();
    let (direct, proxied) = (of_kind("passthrough"), of_kind("api_proxy"));
    assert_eq!(direct["inner_destination"], serde_json::Value::Null);
    assert_eq!(proxied["inner_destination"], node.to_string());
    assert_eq!(proxied["connection_id"], "pod-7");
    assert_eq!(proxied["authority"], "api.a.example");
    assert_eq!(proxied["client_subject"], "CN=api.a.example");
    assert_eq!(proxied["client"], proxied["peer"]);
    assert_eq!((&proxied["tenant"], &proxied["sni"]), (&"a".into(), &"api.a.example".into()));
}

// S4.1+ S4.10+
#[tokio::test]
async fn a_proxys_credential_opens_its_own_api_server_whatever_names_it_forges() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = |tenant, host| Api::new(&gateway, &clients, tenant, host);
    let apis = [api("a", "api.a.example"), api("a", "api2.a.example"), api("b", "api.b.example")];
    let [a, a2, b] = &apis;
    let (shared, alone) = (address(), address());
    let named = [hosting(shared, &[a, a2], |_| {}), hosting(shared, &[b], |_| {})];
    let _shared = serve(&named);
    let mut unnamed = hosting(alone, &[a, a2, b], |_| {});
    unnamed.unname();
    let _alone = serve(&[unnamed]);
    let inside = ["kubernetes", a.host, b.host];
    let mut opened = 0;

    for address in [shared, alone] {
        for credential in &apis {
            for name in &apis {
                for authority in &apis {
                    for inside in inside {
                        let names = (name.host, authority.host, inside);
                        let found =
                            shown_inside(address, &gateway, &credential.credential, names).await;
                        let own = credential.host == name.host && name.host == authority.host;
                        let expected = own.then(|| credential.identity.chain_der[0].to_vec());
                        assert_eq!(found, expected, "{} as {names:?}", credential.host);
                        opened += usize::from(own);
                    }
                }
            }
        }
    }
    assert_eq!(opened, 2 * apis.len() * inside.len());
}

/// What comes back inside an outer connection after these bytes.
async fn answer_to(mut stream: TlsStream<TcpStream>, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

// S4.65+
#[tokio::test]
async fn bytes_inside_an_outer_connection_arrive_whole_and_each_way_ends_by_itself() {
    const MUCH: usize = 20 * 1024 * 1024;
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let echo = TcpEcho::start("127.0.0.1:0");
    let address = address();
    let wanted = tenant("a").upstream(echo.address());
    let routes = vec![route(api.hosted(), 0)];
    let wanted = wanted.listen(address, Service::PassThrough(routes.into())).named(&[api.host]);
    let (proxy, lines) = serve_with_log(&[wanted]);
    let stream = outer(address, &gateway, Some(&api.credential), api.host).await.unwrap();
    let sent: Vec<u8> = (0..MUCH).map(|at| (at % 251) as u8).collect();

    let (mut from, mut to) = tokio::io::split(stream);
    let sending = async {
        // In one piece with the header, as a real proxy may send them.
        to.write_all(&[&of_pod(api.host).encode(), &sent[..100]].concat()).await.unwrap();
        to.write_all(&sent[100..]).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let receiving = async {
        let mut received = Vec::new();
        from.read_to_end(&mut received).await.unwrap();
        received
    };
    let ((), received) = tokio::join!(sending, receiving);

    assert!(received == sent, "{} of {MUCH}", received.len());
    let lines = await_lines(proxy, &lines, 1).await;
    assert_eq!((&lines[0]["bytes_in"], &lines[0]["bytes_out"]), (&MUCH.into(), &MUCH.into()));
    assert_eq!(lines[0]["reason"], serde_json::Value::Null);
}

// S4.65+
#[tokio::test]
async fn an_idle_watch_of_an_api_server_outlives_the_tenants_limit_of_idle_streams() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let other = Api::new(&gateway, &clients, "b", "api.b.example");
    let address = address();
    let soon = |wanted: Wanted| wanted.limits(|limits| limits.timeouts.stream_idle = SOON / 10);
    let _proxy = serve(&[
        soon(hosting(address, &[&api], |_| {})).stream_idle(Duration::from_secs(3_600)),
        soon(hosting(address, &[&other], |_| {})),
    ]);
    let open = async |host: &'static str| {
        let config = client_config_insecure(None);
        let client = RawHttp::connect_tls(address, None, config, Some(host)).await.unwrap();
        client.deadline(10 * SOON)
    };
    let node = tenant_proxy(address, &gateway, &api).await;
    let config = client_config_insecure(None);
    let mut proxied = RawHttp::connect_tls(node, None, config, Some("kubernetes")).await.unwrap();
    let mut watch = open(api.host).await;
    assert!(is_open(&mut watch).await && is_open(&mut proxied).await);

    let mut stream = open(other.host).await;
    assert!(stream.is_closed().await, "the tenant's limit holds where nothing else is said");

    assert!(is_open(&mut watch).await, "directly");
    assert!(is_open(&mut proxied).await, "by a proxy");
}

// S4.24+
#[tokio::test]
async fn a_client_inside_is_told_by_an_alert_that_no_api_server_answers() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = Api::new(&gateway, &clients, "a", "api.a.example");
    let address = address();
    let proxy = serve(&[hosting(address, &[&api], |_| {})]);
    api.server.stop();

    let stream = outer(address, &gateway, Some(&api.credential), api.host).await.unwrap();
    let answer = answer_to(stream, &of_pod(api.host).encode()).await;

    assert_eq!(answer, INTERNAL_ERROR);
    await_refusals(&proxy, Some("a"), "connect_failed", 1).await;
}

/// Sends a request on an open connection; false if it has ended.
async fn is_open(client: &mut RawHttp) -> bool {
    client.get("kubernetes", "/").await.is_ok_and(|response| response.status == 200)
}

// S4.65+ S4.66+ S4.70+
#[tokio::test]
async fn connections_outlive_changes_and_end_where_they_are_admitted_no_longer() {
    let (gateway, clients) = (Authority::new("gateway"), Authority::new("clients"));
    let api = |host| Api::new(&gateway, &clients, "a", host);
    let mut apis = [api("api.a.example"), api("api2.a.example")];
    let address = address();
    let proxy = serve(&[hosting(address, &apis.each_ref(), |_| {})]);
    let nodes = [
        tenant_proxy(address, &gateway, &apis[0]).await,
        tenant_proxy(address, &gateway, &apis[1]).await,
    ];
    let connect = async |where_to: SocketAddr, name: &str| {
        let config = client_config_insecure(None);
        RawHttp::connect_tls(where_to, None, config, Some(name)).await.unwrap()
    };
    let mut direct = connect(address, apis[0].host).await;
    let mut proxied = connect(nodes[0], "kubernetes").await;
    let mut beside = connect(nodes[1], "kubernetes").await;
    for client in [&mut direct, &mut proxied, &mut beside] {
        assert!(is_open(client).await);
    }

    // A new relay certificate, a further authority, another API server beside them: nobody is disturbed, and new ones see the new certificate.
    let third = Api::new(&gateway, &clients, "a", "api3.a.example");
    apis[0].relay = gateway.issue(&CertSpec::new().dns(apis[0].host));
    let (now, further) = (apis[0].relay.chain_der[0].to_vec(), Authority::new("further"));
    let with_further = |host: &str, api: &mut HostedApi| {
        if &*api.name == host {
            let trust = trust(&[&apis[0].proxies, &further], &[]);
            api.relay.as_mut().unwrap().client_auth = ClientAuth::Required(trust);
        }
    };
    let all = [&apis[0], &apis[1], &third];
    let wanted = hosting(address, &all, |api| with_further(apis[0].host, api));
    assert_served(&proxy.apply(bound(2, &[wanted])));
    for client in [&mut direct, &mut proxied, &mut beside] {
        assert!(is_open(client).await);
    }
    let newcomer = outer(address, &gateway, Some(&apis[0].credential), apis[0].host).await.unwrap();
    assert_eq!(newcomer.get_ref().1.peer_certificates().unwrap()[0].to_vec(), now);

    // The authority of the first one's proxies is replaced.
    let wanted = hosting(address, &all, |api| {
        if &*api.name == apis[0].host {
            let trust = trust(&[&further], &[]);
            api.relay.as_mut().unwrap().client_auth = ClientAuth::Required(trust);
        }
    });
    assert_served(&proxy.apply(bound(3, &[wanted])));
    assert!(eventually(SOON, async || !is_open(&mut proxied).await).await);
    assert!(is_open(&mut direct).await && is_open(&mut beside).await);

    // The first one admits other sources only.
    let elsewhere = SourceSet::new(["192.0.2.0/24".parse().unwrap()]);
    let wanted = hosting(address, &all, |api| {
        if &*api.name == apis[0].host {
            api.allowed_sources = Some(elsewhere.clone());
        }
    });
    assert_served(&proxy.apply(bound(4, &[wanted])));
    assert!(eventually(SOON, async || !is_open(&mut direct).await).await);
    assert!(is_open(&mut beside).await);

    // The second one goes.
    let wanted = hosting(address, &[&apis[0], &third], |_| {});
    assert_served(&proxy.apply(bound(5, &[wanted])));
    assert!(eventually(SOON, async || !is_open(&mut beside).await).await);
    let config = client_config(&gateway, None);
    let refused = RawHttp::connect_tls(address, None, config, Some(apis[1].host)).await;
    assert!(refused.is_err(), "a new connection to what is gone");
}
