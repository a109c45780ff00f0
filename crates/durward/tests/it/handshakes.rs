//! Edits while handshakes run: SOCKS with names and secrets, TLS with and without client certificates, and clients that stop at each step.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec, client_config, client_config_insecure};
use durward_testkit::client::RawHttp;
use durward_testkit::origin::Origin;
use durward_testkit::process::{eventually, unique_loopback};
use durward_testkit::rustls::ClientConfig;
use durward_testkit::secrets;

use crate::gateway::Gateway;
use crate::support::DEADLINE;

const EDITS: u32 = 250;
/// HTTPS with client certificates, HTTPS without, the proxy.
const PORTS: [u16; 3] = [8443, 9443, 3128];
/// The tenant that is served throughout, and the one that comes and goes.
const NAMES: [&str; 2] = ["calm", "restless"];

/// Where a tenant is, and where its traffic leaves from.
struct Place {
    address: Ipv4Addr,
    egress: Ipv4Addr,
}

struct World {
    places: [Place; 2],
    /// A proxy's address that both share.
    shared: Ipv4Addr,
    origin: Origin,
    servers: Authority,
    clients: Authority,
    /// With a client certificate and without, with the server's authority checked.
    configs: [Arc<ClientConfig>; 2],
}

impl World {
    fn new() -> Self {
        let place = || Place { address: unique_loopback(), egress: unique_loopback() };
        let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
        let identity = clients.issue(&CertSpec::new().common_name("client").client());
        let configs = [client_config(&servers, Some(&identity)), client_config(&servers, None)];
        Self {
            places: [place(), place()],
            shared: unique_loopback(),
            origin: Origin::http1("127.0.0.1:0"),
            servers,
            clients,
            configs: configs.map(Arc::new),
        }
    }

    /// Writes a tenant's files of this round.
    fn write(&self, dir: &Path, tenant: usize, round: u32) {
        let name = NAMES[tenant];
        if round.is_multiple_of(7) {
            let spec = CertSpec::new().ip(self.places[tenant].address).server();
            self.servers.issue(&spec).write(dir, name);
            std::fs::write(dir.join("clients.crt"), self.clients.pem()).unwrap();
        }
        let line = |user: &str| format!("{user}:{}\n", secrets::sha256_hex(&secret(user)));
        let mut users = line(name);
        if round % 3 == 1 {
            users += &line(&format!("{name}{round}"));
        }
        std::fs::write(dir.join(format!("users-{name}")), users).unwrap();
    }

    /// A tenant's document of this round: routes and sources differ, and forbid none of its clients.
    fn document(&self, tenant: usize, round: u32) -> String {
        let (name, Place { address, egress }) = (NAMES[tenant], &self.places[tenant]);
        let sources = ["127.0.0.0/8", "127.0.0.0/8, 192.0.2.0/24", "127.0.0.0/9, 127.128.0.0/9"];
        let sources = sources[(round % 3) as usize];
        let more = match round % 4 {
            0 => String::new(),
            _ => format!("{{pathPrefix: /r{round}, respond: {{status: 418}}}}, "),
        };
        let routes = format!("routes: [{more}{{pathPrefix: /, upstream: app}}]");
        let [certain, open, proxy] = PORTS;
        let (origin, port) = (self.origin.address(), self.origin.port());
        format!(
            "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n    - {{address: {address}, port: {certain}, protocol: HTTPS, certificate: {{file: {name}}}, allowedSources: [{sources}], clientCertificates: {{mode: Required, caFile: clients.crt}}, {routes}}}\n    - {{address: {address}, port: {open}, protocol: HTTPS, certificate: {{file: {name}}}, allowedSources: [{sources}], {routes}}}\n  upstreams:\n    app: {{endpoints: [\"{origin}\"]}}\n  egress:\n    addresses: [{egress}]\n    proxy:\n      - {{address: {address}, port: {proxy}, allowedSources: [{sources}], credentials: {{file: users-{name}}}}}\n      - {{address: {}, port: {proxy}, shared: true, credentials: {{file: users-{name}}}}}\n    allow: [{{cidr: 127.0.0.1, ports: [{port}]}}, {{host: r{round}.example}}]\n",
            self.shared,
        )
    }
}

fn secret(user: &str) -> String {
    format!("secret of {user}")
}

/// How a client comes in.
#[derive(Clone, Copy, Debug)]
enum Way {
    Certain,
    Open,
    Socks,
    SharedSocks,
}

const WAYS: [Way; 4] = [Way::Certain, Way::Open, Way::Socks, Way::SharedSocks];

impl Way {
    fn door(self, world: &World, tenant: usize) -> SocketAddr {
        let address = world.places[tenant].address;
        match self {
            Self::Certain => SocketAddr::from((address, PORTS[0])),
            Self::Open => SocketAddr::from((address, PORTS[1])),
            Self::Socks => SocketAddr::from((address, PORTS[2])),
            Self::SharedSocks => SocketAddr::from((world.shared, PORTS[2])),
        }
    }
}

/// One request, which stops for a moment at each step of the handshake: where its origin saw it come from.
async fn ask(world: &World, tenant: usize, way: Way) -> Result<IpAddr, String> {
    let door = way.door(world, tenant);
    let said = |step: &'static str| move |error| format!("{step}: {error:?}");
    let mut http = match way {
        Way::Certain | Way::Open => {
            let config = &world.configs[usize::from(matches!(way, Way::Open))];
            let connected = RawHttp::connect_tls(door, None, Arc::clone(config), None).await;
            connected.map_err(|error| format!("TLS: {error:?}"))?
        }
        Way::Socks | Way::SharedSocks => {
            let connected = RawHttp::connect(door).await;
            let mut http = connected.map_err(|error| format!("connect: {error:?}"))?;
            for (step, bytes, answer) in socks(world, tenant) {
                tokio::time::sleep(Duration::from_millis(1)).await;
                http.send(bytes).await.map_err(|error| format!("{step}: {error:?}"))?;
                let read = http.read_exactly(answer.len()).await.map_err(said(step))?;
                if read[..2] != answer[..2] {
                    return Err(format!("{step}: {read:?}"));
                }
            }
            http
        }
    };
    let answer = http.get("a", "/").await.map_err(said("response"))?;
    if answer.status != 200 {
        return Err(format!("status {}: {}", answer.status, answer.text()));
    }
    Ok(answer.echo().peer.ip())
}

/// The steps of a SOCKS handshake, and as many bytes as each is answered with.
fn socks(world: &World, tenant: usize) -> [(&'static str, Vec<u8>, Vec<u8>); 3] {
    let string = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let pair = [vec![1], string(NAMES[tenant]), string(&secret(NAMES[tenant]))].concat();
    let port = world.origin.port().to_be_bytes();
    let wish = [&[5, 1, 0, 1, 127, 0, 0, 1][..], &port].concat();
    [
        ("method", vec![5, 1, 2], vec![5, 2]),
        ("secret", pair, vec![1, 0]),
        ("wish", wish, [&[5, 0][..], &[0; 8]].concat()),
    ]
}

/// Stops at a step of a handshake and stays for a moment.
async fn half_open(world: &World, round: usize) {
    let tenant = round % 2;
    let way = WAYS[round / 2 % 4];
    let Ok(mut http) = RawHttp::connect(way.door(world, tenant)).await else { return };
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    match way {
        Way::Certain | Way::Open => {
            let _ = http.send(&hello[..round % hello.len()]).await;
        }
        Way::Socks | Way::SharedSocks => {
            for (_, bytes, answer) in socks(world, tenant).into_iter().take(round / 8 % 3) {
                let _ = http.send(bytes).await;
                let _ = http.read_exactly(answer.len()).await;
            }
            let _ = http.send([5]).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// What load found: how many were served, and what was wrong.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    served: [AtomicU64; 2],
}

/// Asks until told to stop. Of the restless tenant only the address counts: it is not always there.
async fn load(world: Arc<World>, load: Arc<Load>, tenant: usize, way: Way) -> Vec<String> {
    let mut wrong = Vec::new();
    while !load.stop.load(Relaxed) {
        match ask(&world, tenant, way).await {
            Ok(from) if from == IpAddr::from(world.places[tenant].egress) => {
                load.served[tenant].fetch_add(1, Relaxed);
            }
            Ok(from) => wrong.push(format!("{way:?} of {} left from {from}", NAMES[tenant])),
            Err(error)
                if tenant == 0 || error.contains("TimedOut") || error.contains("Timeout") =>
            {
                wrong.push(format!("{way:?} of {}: {error}", NAMES[tenant]));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
    wrong
}

/// A client without a certificate, and one whose credential is another tenant's, are never served.
async fn strangers(world: Arc<World>, load: Arc<Load>) -> Vec<String> {
    let mut wrong = Vec::new();
    let config = Arc::new(client_config_insecure(None));
    while !load.stop.load(Relaxed) {
        let door = Way::Certain.door(&world, 0);
        if let Ok(mut http) = RawHttp::connect_tls(door, None, Arc::clone(&config), None).await
            && let Ok(answer) = http.get("a", "/").await
        {
            wrong.push(format!("served without a certificate: {}", answer.status));
        }
        if let Ok(mut http) = RawHttp::connect(Way::Socks.door(&world, 0)).await {
            let [method, pair, _] = socks(&world, 1);
            let _ = http.send(method.1).await;
            let _ = http.read_exactly(2).await;
            let _ = http.send(pair.1).await;
            if http.read_exactly(2).await.is_ok_and(|answer| answer == [1, 0]) {
                wrong.push("another tenant's secret opened the proxy".to_owned());
            }
        }
    }
    wrong
}

fn active(gateway: &Gateway, name: &str) -> u64 {
    let text = gateway.metrics_text();
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

// S1.35+ S2.33+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_refuse_no_handshake_that_they_do_not_forbid_and_cross_no_tenants() {
    let world = Arc::new(World::new());
    let prepared = Gateway::prepare();
    world.write(prepared.dir(), 0, 0);
    world.write(prepared.dir(), 1, 0);
    let mut gateway = prepared.start(&(world.document(0, 0) + &world.document(1, 0)));
    assert_eq!(gateway.findings(), Vec::<String>::new());
    let state = Arc::new(Load::default());
    let mut tasks = Vec::new();
    for (tenant, way) in [0, 1].into_iter().flat_map(|tenant| WAYS.map(|way| (tenant, way))) {
        tasks.push(tokio::spawn(load(Arc::clone(&world), Arc::clone(&state), tenant, way)));
    }
    tasks.push(tokio::spawn(strangers(Arc::clone(&world), Arc::clone(&state))));
    let (others, stopped) = (Arc::clone(&world), Arc::clone(&state));
    let half = tokio::spawn(async move {
        for round in 0.. {
            if stopped.stop.load(Relaxed) {
                return;
            }
            tokio::join!(half_open(&others, round), half_open(&others, round + 3));
        }
    });

    for round in 1..=EDITS {
        world.write(gateway.dir(), 0, round);
        world.write(gateway.dir(), 1, round);
        let there = round % 5 != 4;
        let other = if there { world.document(1, round) } else { String::new() };
        gateway.reload(&(world.document(0, round) + &other));
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    state.stop.store(true, Relaxed);
    let mut wrong = Vec::new();
    for task in tasks {
        wrong.extend(task.await.unwrap());
    }
    half.await.unwrap();

    assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
    let served = [0, 1].map(|tenant| state.served[tenant].load(Relaxed));
    assert!(served[0] > 50 && served[1] > 10, "{served:?}");
    assert_eq!(gateway.isolation_violations(), 0);
    let ended = eventually(DEADLINE, async || active(&gateway, "durward_connections_active{") == 0);
    assert!(ended.await, "connections stay: {}", gateway.metrics_text());
    gateway.stop();
}
