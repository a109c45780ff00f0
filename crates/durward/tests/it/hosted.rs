//! Hosted API servers from documents: two control planes behind one address, with clients and with the proxies of their tenant clusters.

mod recorded;
mod translated;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use durward_testkit::certificates::{
    Authority, CertSpec, Identity, client_config, server_config_optional_client,
};
use durward_testkit::client::{ProxyHeader, RawHttp, tcp_connect};
use durward_testkit::origin::{Echo, Origin};
use durward_testkit::process::{TempDir, eventually, unique_loopback};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::gateway::Gateway;
use crate::support::{output, stdout};

const DEADLINE: Duration = Duration::from_secs(30);

/// A tenant cluster: its API server, its authority, and what its API proxies have.
struct Cluster {
    tenant: &'static str,
    host: &'static str,
    authority: Authority,
    servers: Vec<Origin>,
    proxies: Authority,
    egress: Ipv4Addr,
}

impl Cluster {
    fn new(tenant: &'static str, host: &'static str, servers: usize) -> Self {
        let authority = Authority::new(&format!("cluster of {tenant}"));
        let identity = authority.issue(&CertSpec::new().dns(host).dns("kubernetes"));
        let server = || {
            let mut config = server_config_optional_client(&identity, &authority);
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Origin::tls_with("127.0.0.1:0", config)
        };
        let proxies = Authority::new(&format!("proxies of {tenant}"));
        let servers = (0..servers).map(|_| server()).collect();
        Self { tenant, host, servers, authority, proxies, egress: unique_loopback() }
    }

    /// Its documents. Their files are written into `dir`.
    fn documents(&self, dir: &std::path::Path, at: SocketAddr, gateway: &Authority) -> String {
        let Self { tenant, host, egress, .. } = self;
        gateway.issue(&CertSpec::new().dns(host)).write(dir, &format!("{tenant}-relay"));
        std::fs::write(dir.join(format!("{tenant}-ca.crt")), self.authority.pem()).unwrap();
        std::fs::write(dir.join(format!("{tenant}-proxies.crt")), self.proxies.pem()).unwrap();
        let endpoints: Vec<_> =
            self.servers.iter().map(|server| format!("\"{}\"", server.address())).collect();
        let (address, port, endpoints) = (at.ip(), at.port(), endpoints.join(", "));
        format!(
            "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {tenant}}}\nspec: {{egress: {{addresses: [{egress}]}}}}\n\
             ---\napiVersion: durward.dev/v1alpha1\nkind: HostedApi\nmetadata: {{name: api}}\nspec:\n  tenant: {tenant}\n  names: [{host}]\n  \
             address: {address}\n  port: {port}\n  \
             upstream: {{endpoints: [{endpoints}], caFile: {tenant}-ca.crt, healthCheck: {{interval: 100ms, unhealthyAfter: 1}}}}\n  \
             relay:\n    certificate: {{file: {tenant}-relay}}\n    clientAuthorities: {{caFile: {tenant}-proxies.crt}}\n"
        )
    }

    fn client(&self, name: &str) -> Identity {
        self.authority.issue(&CertSpec::new().common_name(name).client())
    }

    /// Asks the API server at an address who the client is.
    async fn whoami(&self, at: SocketAddr, name: &str, client: &Identity) -> Option<Echo> {
        let config = client_config(&self.authority, Some(client));
        let mut http = RawHttp::connect_tls(at, None, config, Some(name)).await.ok()?;
        Some(http.get(name, "/").await.ok()?.echo())
    }

    /// Starts an API proxy of this cluster with another one's certificate or its own, and returns its address.
    async fn proxy(&self, to: SocketAddr, gateway: &Authority, shown: &Self) -> SocketAddr {
        let credential = shown.proxies.issue(&CertSpec::new().common_name(shown.tenant).client());
        let mut config = client_config(gateway, Some(&credential));
        config.alpn_protocols = vec![b"durward-api/1".to_vec()];
        let (connector, host) = (TlsConnector::from(Arc::new(config)), self.host);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut pod, peer)) = listener.accept().await {
                let stream = TcpStream::connect(to).await.unwrap();
                let name = host.try_into().unwrap();
                let Ok(mut stream) = connector.connect(name, stream).await else { continue };
                let header = ProxyHeader::v2(peer, local).tlv(0x02, host.as_bytes());
                let _ = stream.write_all(&header.tlv(0x05, b"n1-42").encode()).await;
                tokio::spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut pod, &mut stream).await;
                });
            }
        });
        local
    }
}

/// The record that `durward who` finds of the connection that an API server saw.
fn used_by(gateway: &Gateway, echo: &Echo) -> Value {
    let (dir, lines) = (TempDir::new(), gateway.decisions());
    let record = dir.join("decisions.log");
    std::fs::write(&record, lines.join("\n") + "\n").unwrap();
    let (ip, port) = (echo.peer.ip().to_string(), echo.peer.port().to_string());
    // The time to the second, after `{"ts":"`.
    let at = format!("{}Z", &lines[0][7..26]);
    let file = record.to_str().unwrap();
    let of = ["who", "--ip", &ip, "--port", &port, "--at", &at, "--within", "1h"];
    let answer = output(&[&of[..], &["--audit", file, "-o", "json"]].concat());
    let uses: Value = serde_json::from_str(&stdout(&answer)).unwrap();
    assert_eq!(uses.as_array().unwrap().len(), 1, "{uses}");
    uses[0]["record"].clone()
}

// S4.1 S4.10+ S4.12+ S4.48+ S4.67+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_control_planes_behind_one_address_each_see_their_own_clients_and_pods() {
    let gateway_authority = Authority::new("gateway");
    let at = SocketAddr::from((unique_loopback(), 8443));
    let acme = Cluster::new("acme", "t1.api.example", 1);
    let bank = Cluster::new("bank", "b1.api.example", 1);
    let preparation = Gateway::prepare();
    let documents = [&acme, &bank]
        .map(|cluster| cluster.documents(preparation.dir(), at, &gateway_authority))
        .concat();
    let gateway = preparation.start(&documents);
    assert_eq!(gateway.findings(), Vec::<String>::new());
    let admin = acme.client("admin");

    let direct = acme.whoami(at, acme.host, &admin).await.unwrap();
    let pods = acme.proxy(at, &gateway_authority, &acme).await;
    let inside = acme.whoami(pods, "kubernetes", &admin).await.unwrap();
    for echo in [&direct, &inside] {
        assert_eq!(echo.tls_client_subject.as_deref(), Some("CN=admin"));
        assert_eq!((echo.local, echo.peer.ip()), (acme.servers[0].address(), acme.egress.into()));
    }
    let operator = bank.client("operator");
    let other = bank.whoami(at, bank.host, &operator).await.unwrap();
    assert_eq!((other.local, other.peer.ip()), (bank.servers[0].address(), bank.egress.into()));
    let stolen = bank.proxy(at, &gateway_authority, &acme).await;
    assert!(bank.whoami(stolen, "kubernetes", &operator).await.is_none());
    let asked = bank.servers[0].seen().into_iter().filter(|request| request.path == "/").count();
    assert_eq!(asked, 1, "the operator, and nobody with another cluster's certificate");

    let decided = eventually(DEADLINE, async || {
        let lines = gateway.decisions();
        lines.iter().filter(|line| line.contains("\"api-close\"")).count() == 3
    });
    assert!(decided.await, "{:?}", gateway.decisions());
    let (of_client, of_pod) = (used_by(&gateway, &direct), used_by(&gateway, &inside));
    assert_eq!((&of_client["method"], &of_client["rule"]), (&"TLS".into(), &"api".into()));
    assert_eq!(
        (&of_pod["method"], &of_pod["identity"]),
        (&"API-PROXY".into(), &"certificate:CN=acme".into())
    );
    assert_eq!(of_pod["inner_destination"], pods.to_string());
    let logged = eventually(DEADLINE, async || {
        gateway.log().iter().any(|line| line.contains("\"connection_id\":\"n1-42\""))
    });
    assert!(logged.await, "{:?}", gateway.log());
    assert_eq!(gateway.isolation_violations(), 0);
    gateway.stop();
}

/// Reads the PROXY header of a connection, and returns the client's address in it.
async fn header_of(server: &TcpListener) -> SocketAddr {
    let (mut stream, _) = server.accept().await.unwrap();
    let mut header = [0; 28];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!(&header[..12], b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(header[12..14], [0x21, 0x11], "version 2, PROXY, TCP over IPv4");
    let port = u16::from_be_bytes([header[24], header[25]]);
    SocketAddr::from(([header[16], header[17], header[18], header[19]], port))
}

// S4.67
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_and_limits_hold_per_tenant_at_a_shared_address_and_a_backend_may_get_a_header() {
    let gateway_authority = Authority::new("gateway");
    let at = SocketAddr::from((unique_loopback(), 8443));
    let acme = Cluster::new("acme", "t1.api.example", 1);
    let bank = Cluster::new("bank", "b1.api.example", 1);
    let solo = Cluster::new("solo", "s1.api.example", 1);
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let preparation = Gateway::prepare();
    let [of_acme, of_bank, of_solo] = [&acme, &bank, &solo]
        .map(|cluster| cluster.documents(preparation.dir(), at, &gateway_authority));
    let limited = of_acme.replace("spec: {egress:", "spec: {limits: {connections: 2}, egress:");
    let elsewhere = format!("{of_solo}  allowedSources: [192.0.2.0/24]\n");
    let with_header = of_bank.replace(
        "spec: {egress:",
        &format!(
            "spec: {{ingress: [{{address: {}, port: {}, protocol: TLS, shared: true, names: [tcp.bank.example], upstream: raw}}], \
             upstreams: {{raw: {{endpoints: [\"{}\"], sendProxyProtocol: v2}}}}, egress:",
            at.ip(),
            at.port(),
            backend.local_addr().unwrap()
        ),
    );
    let gateway = preparation.start(&[limited, elsewhere, with_header].concat());
    assert_eq!(gateway.findings(), Vec::<String>::new());
    let open = async |cluster: &Cluster| {
        let config = client_config(&cluster.authority, Some(&cluster.client("admin")));
        let mut http = RawHttp::connect_tls(at, None, config, Some(cluster.host)).await.ok()?;
        http.get(cluster.host, "/").await.ok()?;
        Some(http)
    };

    let held = [open(&acme).await, open(&acme).await];
    assert!(held.iter().all(Option::is_some));
    assert!(open(&acme).await.is_none(), "a third one is beyond acme's limit");
    assert!(open(&bank).await.is_some(), "which is nobody else's");
    assert!(open(&solo).await.is_none(), "from a network that solo does not admit");

    let mut client = tcp_connect(at, None).await.unwrap();
    let hello = durward_testkit::client::client_hello::ClientHello::new().tls13();
    client.write_all(&hello.server_name("tcp.bank.example").encode()).await.unwrap();
    assert_eq!(header_of(&backend).await, client.local_addr().unwrap());
    drop(held);
    let is_free = eventually(DEADLINE, async || open(&acme).await.is_some()).await;
    assert!(is_free, "places become free");
    gateway.stop();
}

// S4.3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_say_how_many_addresses_serve_how_many_api_servers_of_how_many_tenants() {
    let gateway_authority = Authority::new("gateway");
    let (at, own) =
        (SocketAddr::from((unique_loopback(), 8443)), SocketAddr::from((unique_loopback(), 8443)));
    let preparation = Gateway::prepare();
    let shared: Vec<String> = [("acme", "t1.api.example"), ("bank", "b1.api.example")]
        .map(|(tenant, host)| {
            Cluster::new(tenant, host, 1).documents(preparation.dir(), at, &gateway_authority)
        })
        .into();
    let konnectivity =
        "  konnectivity: {name: konnectivity.t1.example, endpoints: [\"127.0.0.1:9\"]}\n";
    let alone = Cluster::new("solo", "s1.api.example", 1);
    let alone = alone.documents(preparation.dir(), own, &gateway_authority) + "  shared: false\n";
    let documents = [&shared[0], konnectivity, &shared[1], &alone].map(|part| part as &str);
    let mut gateway = preparation.start(&documents.concat());
    let counts = |gateway: &Gateway| {
        let text = gateway.metrics_text();
        ["durward_hosted_api_addresses ", "durward_hosted_apis ", "durward_hosted_api_tenants "]
            .map(|name| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap().parse::<u32>().unwrap()
            })
    };

    assert_eq!(gateway.findings(), Vec::<String>::new());
    assert_eq!(counts(&gateway), [2, 3, 3]);
    gateway.reload(&[&shared[0], konnectivity, &shared[1]].map(|part| part as &str).concat());
    assert_eq!(counts(&gateway), [1, 2, 2]);
    gateway.stop();
}

// S4.24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_not_ready_gets_no_new_connections_and_keeps_those_it_has() {
    let gateway_authority = Authority::new("gateway");
    let at = SocketAddr::from((unique_loopback(), 8443));
    let acme = Cluster::new("acme", "t1.api.example", 2);
    let preparation = Gateway::prepare();
    let documents = acme.documents(preparation.dir(), at, &gateway_authority);
    let gateway = preparation.start(&documents);
    let admin = acme.client("admin");
    let open = async || {
        let config = client_config(&acme.authority, Some(&admin));
        let mut http = RawHttp::connect_tls(at, None, config, Some(acme.host)).await.unwrap();
        let local = http.get(acme.host, "/").await.unwrap().echo().local;
        (http, local)
    };
    let (mut watch, first) = open().await;
    // The one with fewer connections is next.
    let (_second, other) = open().await;
    assert_ne!(first, other);

    let leaving = acme.servers.iter().find(|server| server.address() == first).unwrap();
    leaving.fail_path("/readyz", 500);
    let left = eventually(DEADLINE, async || {
        let all = [open().await.1, open().await.1, open().await.1, open().await.1];
        all.iter().all(|local| *local == other)
    });
    assert!(left.await);

    assert_eq!(watch.get(acme.host, "/").await.unwrap().echo().local, first);
    gateway.stop();
}

// S4.70
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_whose_endpoints_have_no_weight_drains_and_one_that_is_deleted_is_cut() {
    let gateway_authority = Authority::new("gateway");
    let at = SocketAddr::from((unique_loopback(), 8443));
    let acme = Cluster::new("acme", "t1.api.example", 1);
    let bank = Cluster::new("bank", "b1.api.example", 1);
    let preparation = Gateway::prepare();
    let [of_acme, of_bank] =
        [&acme, &bank].map(|cluster| cluster.documents(preparation.dir(), at, &gateway_authority));
    let endpoint = format!("\"{}\"", acme.servers[0].address());
    let drained = of_acme.replace(&endpoint, &format!("{{address: {endpoint}, weight: 0}}"));
    assert_ne!(drained, of_acme);
    let mut gateway = preparation.start(&[&*of_acme, &*of_bank].concat());
    let admin = acme.client("admin");
    let config = client_config(&acme.authority, Some(&admin));
    let mut watch = RawHttp::connect_tls(at, None, config, Some(acme.host)).await.unwrap();
    watch.get(acme.host, "/").await.unwrap();

    gateway.reload(&[&*drained, &*of_bank].concat());
    assert!(acme.whoami(at, acme.host, &admin).await.is_none(), "no new connections");
    assert!(watch.get(acme.host, "/").await.is_ok(), "the open one goes on");

    gateway.reload(&of_bank);
    assert!(acme.whoami(at, acme.host, &admin).await.is_none());
    let is_cut = eventually(DEADLINE, async || watch.get(acme.host, "/").await.is_err()).await;
    assert!(is_cut, "and ends with its API server");
    assert!(bank.whoami(at, bank.host, &bank.client("admin")).await.is_some());
    gateway.stop();
}

// S4.2+ S4.63
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_address_of_its_own_an_api_server_needs_no_name() {
    let gateway_authority = Authority::new("gateway");
    let at = SocketAddr::from((unique_loopback(), 8443));
    let acme = Cluster::new("acme", "t1.api.example", 1);
    let preparation = Gateway::prepare();
    let documents = acme.documents(preparation.dir(), at, &gateway_authority);
    let gateway = preparation.start(&format!("{documents}  shared: false\n"));
    let admin = acme.client("admin");

    let by_name = acme.whoami(at, acme.host, &admin).await.unwrap();
    let by_another = acme.whoami(at, "kubernetes", &admin).await.unwrap();
    let mut without = tcp_connect(at, None).await.unwrap();
    let hello = durward_testkit::client::client_hello::ClientHello::new().tls13();
    without.write_all(&hello.encode()).await.unwrap();
    let reaction = durward_testkit::client::client_hello::reaction(&mut without).await.unwrap();

    let server = acme.servers[0].address();
    assert_eq!((by_name.local, by_another.local), (server, server));
    assert_eq!(reaction, durward_testkit::client::client_hello::Reaction::Encrypted);
    let pods = acme.proxy(at, &gateway_authority, &acme).await;
    assert_eq!(acme.whoami(pods, "kubernetes", &admin).await.unwrap().local, server);
    gateway.stop();
}

// S4.47
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_reach_the_konnectivity_server_by_its_own_name_at_the_same_port() {
    let gateway_authority = Authority::new("gateway");
    let at = SocketAddr::from((unique_loopback(), 8443));
    let acme = Cluster::new("acme", "t1.api.example", 1);
    let konnectivity = "konnectivity.t1.api.example";
    let identity = acme.authority.issue(&CertSpec::new().dns(konnectivity));
    let server = Origin::tls("127.0.0.1:0", &identity, Some(&acme.authority), &["h2", "http/1.1"]);
    let preparation = Gateway::prepare();
    let documents = acme.documents(preparation.dir(), at, &gateway_authority);
    let more = format!(
        "  konnectivity: {{name: {konnectivity}, endpoints: [\"{}\"]}}\n",
        server.address()
    );
    let mut gateway = preparation.start(&[&*documents, &more].concat());
    let agent = acme.client("konnectivity-agent");

    let reached = acme.whoami(at, konnectivity, &agent).await.unwrap();
    let api = acme.whoami(at, acme.host, &agent).await.unwrap();

    assert_eq!((reached.local, api.local), (server.address(), acme.servers[0].address()));
    assert_eq!(reached.tls_client_subject.as_deref(), Some("CN=konnectivity-agent"));
    // A stream is silent for an hour, of a limit of five minutes: here for the same share of another limit.
    let short = "spec: {limits: {timeouts: {streamIdle: 100ms}}, egress:";
    gateway.reload(&(documents + &more).replacen("spec: {egress:", short, 1));
    let config = client_config(&acme.authority, Some(&agent));
    let mut stream = RawHttp::connect_tls(at, None, config, Some(konnectivity)).await.unwrap();
    assert_eq!(stream.get(konnectivity, "/").await.unwrap().status, 200);
    tokio::time::sleep(12 * Duration::from_millis(100)).await;
    assert_eq!(stream.get(konnectivity, "/").await.unwrap().status, 200);
    // API proxies are for the API server: its certificate opens nothing else.
    let by_proxy = Cluster { host: konnectivity, ..Cluster::new("acme", "t1.api.example", 0) };
    let inside = by_proxy.proxy(at, &gateway_authority, &acme).await;
    assert!(acme.whoami(inside, konnectivity, &agent).await.is_none());
    gateway.stop();
}

// S4.62+
#[test]
fn explain_says_which_hosted_api_server_a_client_reaches() {
    let dir = TempDir::new();
    let documents = "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\nspec: {egress: {addresses: [127.0.0.1]}}\n\
        ---\napiVersion: durward.dev/v1alpha1\nkind: HostedApi\nmetadata: {name: t1}\nspec: {tenant: acme, names: [t1.api.example], address: 198.51.100.10, \
        upstream: {endpoints: [10.0.0.11]}, allowedSources: [192.0.2.0/24]}\n";
    std::fs::write(dir.join("all.yaml"), documents).unwrap();
    let config = dir.path().to_str().unwrap();
    let explain = |sni: &str, client: &str| {
        stdout(&output(&[
            "explain",
            "-c",
            config,
            "198.51.100.10:443",
            "--sni",
            sni,
            "--client",
            client,
        ]))
    };

    let reached = explain("t1.api.example", "192.0.2.7");
    assert!(reached.contains("SERVED by hostedApi/t1"), "{reached}");
    assert!(reached.contains("t1: no API proxies are admitted"), "{reached}");
    assert!(reached.contains("192.0.2.7 is in 192.0.2.0/24"), "{reached}");
    let refused = explain("t1.api.example", "198.51.100.7");
    assert!(refused.contains("REFUSED source_not_allowed"), "{refused}");
    assert!(explain("kubernetes.default.svc", "192.0.2.7").contains("REFUSED unknown_name"));
}
