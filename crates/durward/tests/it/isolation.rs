//! Random configurations and connections against a small reference model: nobody is served through another tenant's door.
//!
//! The model below knows nothing of the gateway's code. Deliberately absent: timing; what is checked holds for every interleaving.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec, Identity, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::origin::Origin;
use durward_testkit::rustls::ClientConfig;

use crate::gateway::{Gateway, free_port_on};

/// Small, seeded, and the same on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).expect("a remainder is below its bound")
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

const CLIENTS: usize = 4;
const AUTHORITIES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Asks {
    Nothing,
    Optionally(usize),
    Always(usize),
}

#[derive(Clone, Debug)]
struct Door {
    address: Ipv4Addr,
    egress: Ipv4Addr,
    asks: Asks,
    admitted: Option<Vec<usize>>,
    /// Path prefix to origin, longest first.
    routes: Vec<(&'static str, usize)>,
    wrong_san: bool,
}

struct World {
    seed: u64,
    port: u16,
    doors: Vec<Door>,
}

/// What the reference model says of one request.
#[derive(Debug, PartialEq)]
enum Expected {
    /// The connection never gets as far as a response.
    Turned,
    Status(u16),
    Served {
        egress: Ipv4Addr,
        origin: usize,
    },
}

impl World {
    fn new(seed: u64, net: u8, port: u16) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let doors =
            (0..2 + random.below(4)).map(|index| Self::door(&mut random, net, index)).collect();
        Self { seed, port, doors }
    }

    fn door(random: &mut Random, net: u8, index: usize) -> Door {
        let host = u8::try_from(index + 1).expect("few doors");
        // Now and then somebody claims an address that is taken; the oldest claim must win.
        let address = if index > 0 && random.chance(15) { 1 } else { host };
        let egress = if index > 0 && random.chance(15) { 1 } else { host };
        let asks = match random.below(4) {
            0 | 1 => Asks::Nothing,
            2 => Asks::Optionally(random.below(AUTHORITIES)),
            _ => Asks::Always(random.below(AUTHORITIES)),
        };
        let admitted =
            random.chance(40).then(|| (0..CLIENTS).filter(|_| random.chance(60)).collect());
        let all = [("/a/b", random.below(2)), ("/a", random.below(2)), ("/", random.below(2))];
        let mut routes: Vec<_> = all.into_iter().filter(|_| random.chance(70)).collect();
        if routes.is_empty() {
            routes.push(("/", 0));
        }
        Door {
            address: Ipv4Addr::new(127, net, 1, address),
            egress: Ipv4Addr::new(127, net, 2, egress),
            asks,
            admitted,
            routes,
            wrong_san: random.chance(10),
        }
    }

    /// Returns the doors that are open. The oldest claim of an address wins, in both directions and also where the older document cannot be
    /// served; a certificate names its address.
    fn open(&self) -> BTreeMap<Ipv4Addr, &Door> {
        let (mut ingress, mut egress) = (BTreeMap::new(), BTreeMap::new());
        let mut open = BTreeMap::new();
        for (index, door) in self.doors.iter().enumerate() {
            let is_first = |claims: &mut BTreeMap<Ipv4Addr, usize>, address| {
                *claims.entry(address).or_insert(index) == index
            };
            let claimed =
                [is_first(&mut ingress, door.address), is_first(&mut egress, door.egress)];
            if claimed == [true, true] && !door.wrong_san {
                open.insert(door.address, door);
            }
        }
        open
    }

    fn expect(&self, to: Ipv4Addr, client: usize, shows: Option<usize>, path: &str) -> Expected {
        let open = self.open();
        let Some(door) = open.get(&to) else { return Expected::Turned };
        if door.admitted.as_ref().is_some_and(|admitted| !admitted.contains(&client)) {
            return Expected::Turned;
        }
        match (door.asks, shows) {
            (Asks::Always(_), None) => return Expected::Turned,
            (Asks::Always(wanted) | Asks::Optionally(wanted), Some(shown)) if wanted != shown => {
                return Expected::Turned;
            }
            _ => {}
        }
        let below = |prefix: &str| {
            prefix == "/" || path == prefix || path.starts_with(&format!("{prefix}/"))
        };
        match door.routes.iter().find(|(prefix, _)| below(prefix)) {
            Some(&(_, origin)) => Expected::Served { egress: door.egress, origin },
            None => Expected::Status(404),
        }
    }

    fn documents(&self, origins: &[SocketAddr]) -> String {
        let mut yaml = String::new();
        for (index, door) in self.doors.iter().enumerate() {
            let clients = match door.asks {
                Asks::Nothing => String::new(),
                Asks::Optionally(ca) => {
                    format!("      clientCertificates: {{mode: Optional, caFile: ca{ca}.crt}}\n")
                }
                Asks::Always(ca) => {
                    format!("      clientCertificates: {{mode: Required, caFile: ca{ca}.crt}}\n")
                }
            };
            let sources = door.admitted.as_ref().map(|admitted| {
                let blocks: Vec<String> = admitted
                    .iter()
                    .map(|&client| format!("{}/32", client_address(client)))
                    .collect();
                // A set that admits nobody is written as one that nobody is in.
                let blocks =
                    if blocks.is_empty() { "192.0.2.1/32".to_owned() } else { blocks.join(", ") };
                format!("      allowedSources: [{blocks}]\n")
            });
            let routes: String =
                door.routes.iter().fold(String::new(), |mut text, (prefix, origin)| {
                    let _ =
                        writeln!(text, "        - {{pathPrefix: {prefix}, upstream: u{origin}}}");
                    text
                });
            let _ = write!(
                yaml,
                "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: t{index}}}\nspec:\n  ingress:\n    - address: {address}\n      port: {port}\n      listen: {{address: 0.0.0.0, port: {port}}}\n      protocol: HTTPS\n      certificate: {{file: t{index}}}\n{clients}{sources}      routes:\n{routes}  upstreams:\n    u0: {{endpoints: [\"{u0}\"]}}\n    u1: {{endpoints: [\"{u1}\"]}}\n  egress:\n    addresses: [{egress}]\n",
                address = door.address,
                port = self.port,
                sources = sources.unwrap_or_default(),
                u0 = origins[0],
                u1 = origins[1],
                egress = door.egress,
            );
        }
        yaml
    }
}

fn client_address(client: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 200, 0, u8::try_from(client + 1).expect("few clients"))
}

/// One client identity per authority, and one TLS configuration each, kept for the whole world so that tickets are offered everywhere.
struct Clients {
    configs: Vec<(Option<usize>, Arc<ClientConfig>)>,
}

impl Clients {
    fn new(servers: &Authority, authorities: &[Authority]) -> Self {
        let identity = |authority: &Authority| {
            authority.issue(&CertSpec::new().common_name("client").client())
        };
        let config = |identity: Option<&Identity>| Arc::new(client_config(servers, identity));
        let anonymous = std::iter::once((None, config(None)));
        let named = authorities
            .iter()
            .enumerate()
            .map(|(index, authority)| (Some(index), config(Some(&identity(authority)))));
        Self { configs: anonymous.chain(named).collect() }
    }
}

async fn ask(
    gateway: SocketAddr,
    client: usize,
    config: Arc<ClientConfig>,
    path: &str,
    origins: &[Origin],
) -> Expected {
    let connected =
        RawHttp::connect_tls(gateway, Some(IpAddr::V4(client_address(client))), config, None).await;
    let Ok(mut http) = connected else { return Expected::Turned };
    let Ok(response) = http.get("door.example", path).await else { return Expected::Turned };
    if response.status != 200 {
        return Expected::Status(response.status);
    }
    let echo = response.echo();
    let IpAddr::V4(egress) = echo.peer.ip() else { panic!("the origins speak IPv4") };
    let origin = origins
        .iter()
        .position(|origin| origin.address() == echo.local)
        .expect("one of our origins");
    Expected::Served { egress, origin }
}

async fn check_world(seed: u64, net: u8, connections: usize) -> usize {
    let port = free_port_on("0.0.0.0");
    let world = World::new(seed, net, port);
    let origins = [Origin::http1("127.0.0.1:0"), Origin::http1("127.0.0.1:0")];
    let (servers, authorities) = (
        Authority::new("servers"),
        [0, 1, 2].map(|index| Authority::new(&format!("clients {index}"))),
    );
    let gateway = Gateway::prepare();
    for (index, door) in world.doors.iter().enumerate() {
        let san = if door.wrong_san { Ipv4Addr::new(192, 0, 2, 99) } else { door.address };
        servers.issue(&CertSpec::new().ip(san).server()).write(gateway.dir(), &format!("t{index}"));
    }
    for (index, authority) in authorities.iter().enumerate() {
        std::fs::write(gateway.dir().join(format!("ca{index}.crt")), authority.pem())
            .expect("a file is written");
    }
    let documents = world.documents(&[origins[0].address(), origins[1].address()]);
    let gateway = gateway.start(&documents);
    let clients = Clients::new(&servers, &authorities);

    let mut random = Random(seed | 1);
    let mut served = 0;
    for _ in 0..connections {
        let to = Ipv4Addr::new(
            127,
            net,
            1,
            u8::try_from(random.below(world.doors.len() + 1) + 1).expect("few doors"),
        );
        let client = random.below(CLIENTS);
        let (shows, config) = &clients.configs[random.below(clients.configs.len())];
        let path = ["/", "/a", "/a/b/c", "/ab", "/a/bc"][random.below(5)];
        let expected = world.expect(to, client, *shows, path);

        let seen =
            ask(SocketAddr::from((to, port)), client, Arc::clone(config), path, &origins).await;

        served += usize::from(matches!(seen, Expected::Served { .. }));
        assert_eq!(
            seen, expected,
            "world {} {:#?}\nto {to} from client {client} showing {shows:?}, path {path}\n{documents}",
            world.seed, world.doors
        );
    }
    assert_eq!(gateway.isolation_violations(), 0);
    gateway.stop();
    served
}

// S1.1 S1.2 S1.3 S1.41 S1.36
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_configurations_and_connections_agree_with_the_reference_model() {
    let worlds: u64 =
        std::env::var("DURWARD_WORLDS").ok().and_then(|count| count.parse().ok()).unwrap_or(12);
    let mut served = 0;

    for seed in 0..worlds {
        let net = 32 + u8::try_from(seed % 64).expect("a remainder below 64");
        served += tokio::time::timeout(Duration::from_secs(60), check_world(seed + 1, net, 40))
            .await
            .expect("a world takes less than a minute");
    }

    assert!(served > 0, "a property that never serves proves nothing");
}

// S1.3 S1.41
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_interleaved_requests_of_two_tenants_leave_from_their_own_addresses() {
    let port = free_port_on("0.0.0.0");
    let origin = Origin::http1("127.0.0.1:0");
    let gateway = Gateway::prepare();
    let tenant = |name: &str, last: u8| {
        format!(
            "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n    - {{address: 127.31.1.{last}, port: {port}, protocol: HTTP, routes: [{{pathPrefix: /, upstream: shared}}]}}\n  upstreams:\n    shared: {{endpoints: [\"{}\"]}}\n  egress: {{addresses: [127.31.2.{last}]}}\n",
            origin.address()
        )
    };
    let gateway = gateway.start(&(tenant("acme", 1) + &tenant("globex", 2)));

    let workers = (0..10).map(|worker: u8| {
        tokio::spawn(async move {
            let mut doors = [1, 2].map(|last| (last, None::<RawHttp>));
            let mut wrong = Vec::new();
            for _ in 0..500 {
                for (last, connection) in &mut doors {
                    let address = SocketAddr::from(([127, 31, 1, *last], port));
                    let http = match connection {
                        Some(http) => http,
                        None => connection
                            .insert(RawHttp::connect(address).await.expect("the door is open")),
                    };
                    let echo = http.get("door.example", "/").await.expect("a response").echo();
                    if echo.peer.ip() != IpAddr::from([127, 31, 2, *last]) {
                        wrong.push((worker, *last, echo.peer));
                    }
                }
            }
            wrong
        })
    });
    let mut wrong = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        wrong.extend(worker.await.expect("the worker ends"));
    }

    assert_eq!(wrong, []);
    assert_eq!(origin.requests(), 10_000);
    assert!(origin.connections() < 1_000, "connections are reused: {}", origin.connections());
    assert_eq!(gateway.isolation_violations(), 0);
    gateway.stop();
}
