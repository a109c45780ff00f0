//! Random tenants that share an address by names, and random clients, against a small reference model: nobody is served as another's client.
//!
//! The model below knows nothing of the proxy's code. `DURWARD_CONNECTIONS` says how many connections are made.

use std::net::{Ipv4Addr, SocketAddr};

use durward_proxy::Proxy;
use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::{H2Client, RawHttp};
use durward_testkit::process::unique_loopback;
use rustls::ClientConfig;

use crate::edge::{Wanted, certificate_named, http, https, pass, serve, tenant};

const TENANTS: [&str; 4] = ["a", "b", "c", "d"];
const PATTERNS: [&str; 9] = [
    "one.example",
    "two.example",
    "*.example",
    "x.two.example",
    "*.two.example",
    "*.x.two.example",
    "deep.x.two.example",
    "other.test",
    "ADDRESS",
];
/// What clients ask for; none stands for the address.
const ASKED: [Option<&str>; 10] = [
    None,
    Some("one.example"),
    Some("two.example"),
    Some("three.example"),
    Some("x.two.example"),
    Some("y.two.example"),
    Some("deep.x.two.example"),
    Some("deeper.x.two.example"),
    Some("other.test"),
    Some("nobody.test"),
];
const CONNECTIONS: usize = 60;

/// Small, seeded, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Serves {
    Terminated,
    Passed,
}

struct World {
    /// By pattern; a pattern has one tenant or none.
    owners: Vec<Option<usize>>,
    serves: Vec<Serves>,
    secure: SocketAddr,
    plain: SocketAddr,
}

impl World {
    /// The tenant of a name: of the patterns that match it the one with the longest name, the name itself before any wildcard.
    fn owner(&self, asked: Option<&str>) -> Option<usize> {
        let name = asked.unwrap_or("ADDRESS");
        let matching = PATTERNS.iter().zip(&self.owners).filter(|(pattern, owner)| {
            owner.is_some()
                && match pattern.strip_prefix('*') {
                    Some(below) => name.len() > below.len() && name.ends_with(below),
                    None => **pattern == name,
                }
        });
        let best = matching.max_by_key(|(pattern, _)| (!pattern.starts_with('*'), pattern.len()));
        best.and_then(|(_, owner)| *owner)
    }
}

/// The edge, and behind it the servers that TLS is passed through to.
struct Running {
    world: World,
    _proxies: [Proxy; 2],
    config: ClientConfig,
}

/// Starts a world at the first of the addresses; servers that TLS is passed through to have the others.
fn start(random: &mut Random, addresses: &[Ipv4Addr]) -> Running {
    let authority = Authority::new("root");
    let ip = addresses[0];
    let names = ASKED.iter().flatten().fold(CertSpec::new().ip(ip), |spec, name| spec.dns(name));
    let shown = authority.issue(&names);
    // Good for all names, so that a client may ask for any of them over one connection as far as certificates say.
    let names: Vec<&str> = ASKED.iter().flatten().copied().collect();
    let mut policy = https(&shown);
    policy.certificates = vec![certificate_named(&shown, &names)];
    let owners = PATTERNS.iter().map(|_| {
        let tenant = random.below(TENANTS.len() + 1);
        (tenant < TENANTS.len()).then_some(tenant)
    });
    let world = World {
        owners: owners.collect(),
        serves: (0..TENANTS.len())
            .map(|_| random.pick(&[Serves::Terminated, Serves::Terminated, Serves::Passed]))
            .collect(),
        secure: SocketAddr::from((ip, 8443)),
        plain: SocketAddr::from((ip, 8080)),
    };
    let mut behind = Vec::new();
    let mut wanted: Vec<Wanted> = Vec::new();
    for (at, name) in TENANTS.into_iter().enumerate() {
        let inner = SocketAddr::from((addresses[1 + at], 9443));
        behind.push(tenant(name).listen(inner, http(name, Some(policy.clone()))));
        let own = PATTERNS.iter().zip(&world.owners).filter(|(_, owner)| **owner == Some(at));
        let address = ip.to_string();
        let own: Vec<&str> = own
            .map(|(pattern, _)| if *pattern == "ADDRESS" { &address } else { *pattern })
            .collect();
        if own.is_empty() {
            continue;
        }
        let service = match world.serves[at] {
            Serves::Terminated => http(name, Some(policy.clone())),
            Serves::Passed => pass(&[("*", 0)]),
        };
        wanted.push(
            tenant(name)
                .upstream(inner)
                .listen(world.secure, service)
                .named(&own)
                .listen(world.plain, http(name, None))
                .named(&own),
        );
    }
    let proxies = [serve(&wanted), serve(&behind)];
    Running { world, _proxies: proxies, config: client_config(&authority, None) }
}

/// What one request got: the status, and the tenant that answered.
type Got = Option<(u16, String)>;

impl Running {
    /// Several requests over one connection.
    async fn ask(
        &self,
        secure: bool,
        http2: bool,
        name: Option<&str>,
        hosts: &[Option<&str>],
    ) -> Vec<Got> {
        let World { secure: tls, plain, .. } = &self.world;
        let address = tls.ip().to_string();
        let hosts = hosts.iter().map(|host| host.unwrap_or(&address).to_owned());
        let mut got = Vec::new();
        if http2 {
            let client = match secure {
                true => H2Client::tls(*tls, None, self.config.clone(), name).await,
                false => H2Client::h2c(*plain, None).await,
            };
            let Ok(client) = client else { return got };
            for host in hosts {
                let answer = client.clone().authority(&host).get("/").await;
                got.push(answer.ok().map(|answer| (answer.status, answer.text())));
            }
            return got;
        }
        let client = match secure {
            true => RawHttp::connect_tls(*tls, None, self.config.clone(), name).await,
            false => RawHttp::connect(*plain).await,
        };
        let Ok(mut client) = client else { return got };
        for host in hosts {
            let answer = client.get(&host, "/").await;
            got.push(answer.ok().map(|answer| (answer.status, answer.text())));
        }
        got
    }

    /// What the model says of each request.
    fn expected(
        &self,
        secure: bool,
        http2: bool,
        name: Option<&str>,
        hosts: &[Option<&str>],
    ) -> Vec<Got> {
        let first = if secure { name } else { hosts[0] };
        let Some(tenant) = self.world.owner(first) else {
            // Nobody's. Over TLS there is no connection; without, HTTP/1.1 has an answer and is closed.
            return match (secure, http2) {
                (true, _) => Vec::new(),
                (false, true) => vec![None; hosts.len()],
                (false, false) => {
                    let mut got: Vec<Got> = vec![Some((421, String::new()))];
                    got.resize(hosts.len(), None);
                    got
                }
            };
        };
        let passed = secure && self.world.serves[tenant] == Serves::Passed;
        let own = |host: &Option<&str>| {
            let served = passed || self.world.owner(*host) == Some(tenant);
            if served { (200, TENANTS[tenant].to_owned()) } else { (421, String::new()) }
        };
        hosts.iter().map(|host| Some(own(host))).collect()
    }
}

// S4.4+ S4.6+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_names_and_clients_agree_with_the_reference_model() {
    let wanted = std::env::var("DURWARD_CONNECTIONS").ok().and_then(|text| text.parse().ok());
    let wanted: usize = wanted.unwrap_or(300);
    let (mut made, mut served, mut crossed) = (0, 0, 0);
    let addresses: Vec<_> = (0..=TENANTS.len()).map(|_| unique_loopback()).collect();
    for seed in 1_u64.. {
        if made >= wanted {
            break;
        }
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let running = start(&mut random, &addresses);
        for _ in 0..CONNECTIONS {
            let (secure, http2) = (random.below(3) > 0, random.below(2) > 0);
            let name = random.pick(&ASKED);
            // Half of the requests are for the name of the connection.
            let mut hosts: Vec<_> = (0..3)
                .map(|_| if random.below(2) > 0 { name } else { random.pick(&ASKED) })
                .collect();
            if !secure {
                hosts[0] = name;
            }
            let expected = running.expected(secure, http2, name, &hosts);
            let got = running.ask(secure, http2, name, &hosts).await;
            let plain = |got: &Got| {
                got.clone().map(|(status, text)| {
                    (status, if status == 200 { text } else { String::new() })
                })
            };
            let got: Vec<Got> = got.iter().map(plain).collect();
            let owner = running.world.owner(name);
            assert_eq!(
                got, expected,
                "world {seed}, {secure} {http2} {name:?} {hosts:?} of {owner:?}"
            );
            made += 1;
            served += got.iter().flatten().filter(|(status, _)| *status == 200).count();
            crossed += got.iter().flatten().filter(|(status, _)| *status == 421).count();
        }
    }
    assert!(
        served > made / 4 && crossed > made / 8,
        "{served} served, {crossed} misdirected of {made}"
    );
}
