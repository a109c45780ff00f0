//! A random world: tenants with every kind of listener, origins, and clients.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use durward_testkit::certificates::{Authority, CertSpec, client_config_insecure};
use durward_testkit::dns::DnsServer;
use durward_testkit::origin::Origin;
use durward_testkit::rustls::ClientConfig;
use durward_testkit::secrets;

use crate::gateway::free_port_on;
use crate::isolation::Random;

/// The authority that no listener trusts, by the number of the certificate that clients show.
pub(super) const STRANGER: usize = 1;
pub(super) const CLIENTS: u8 = 4;
/// Names that the world's DNS knows, and what they stand for.
pub(super) const NAMES: [(&str, [u8; 4]); 4] = [
    ("one.example", [127, 0, 0, 1]),
    ("two.sub.example", [127, 0, 0, 1]),
    ("inside.example", [10, 1, 2, 3]),
    ("other.example", [127, 0, 0, 1]),
];
/// The last byte of the address that tenants share by names.
const SHARED: u8 = 100;
/// The client that all tenants with credentials know, each by another secret.
pub(super) const USER: &str = "ci";

/// What is served at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Https,
    Tls,
    Tcp,
    Forward,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Door {
    /// The number of the tenant.
    tenant: u8,
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
}

pub(super) struct World {
    pub(super) doors: Vec<Door>,
    pub(super) documents: String,
    pub(super) origin: Origin,
    pub(super) secure: Origin,
    dns: DnsServer,
    net: u8,
    authorities: [Authority; 2],
    /// Without a certificate, and with one of each authority.
    configs: Vec<Arc<ClientConfig>>,
}

/// What tells the clients of proxies that share an address and port apart.
#[derive(Clone, Copy, Debug)]
enum Apart {
    Sources,
    Credentials,
}

const KINDS: [Kind; 5] = [Kind::Http, Kind::Https, Kind::Tls, Kind::Tcp, Kind::Forward];

impl Door {
    /// The name of its tenant.
    pub(super) fn name(&self) -> String {
        format!("t{}", self.tenant)
    }

    /// The client that its tenant alone knows.
    pub(super) fn user(&self) -> String {
        user(self.tenant)
    }

    /// The secret of one of its tenant's clients.
    pub(super) fn secret(&self, user: &str) -> String {
        secret(self.tenant, user)
    }
}

fn user(tenant: u8) -> String {
    format!("{USER}-{tenant}")
}

fn secret(tenant: u8, user: &str) -> String {
    format!("right-{user}-{tenant}")
}

impl World {
    pub(super) fn new(random: &mut Random, seed: u64) -> Self {
        let net = 100 + u8::try_from(seed % 64).expect("a remainder below 64");
        let authorities = [Authority::new("clients"), Authority::new("strangers")];
        let shown = |authority: &Authority| {
            let spec = CertSpec::new().common_name("client").client();
            Arc::new(client_config_insecure(Some(&authority.issue(&spec))))
        };
        let mut configs = vec![Arc::new(client_config_insecure(None))];
        configs.extend(authorities.iter().map(shown));
        let origin = Origin::http1("127.0.0.1:0");
        let identity = Authority::new("origins").issue(&CertSpec::new().dns("o.example").server());
        let secure = Origin::tls("127.0.0.1:0", &identity, None, &["http/1.1"]);
        let dns = DnsServer::start("127.0.0.1:0");
        for (name, address) in NAMES {
            dns.set(name, &[IpAddr::from(address)]);
        }
        let (doors, documents) = (Vec::new(), String::new());
        let mut world = Self { doors, documents, origin, secure, dns, net, authorities, configs };
        world.fill(random);
        world
    }

    fn fill(&mut self, random: &mut Random) {
        let ports = KINDS.map(|kind| (kind, free_port_on("0.0.0.0"), random.chance(40)));
        let shared = [None, None, None, Some(Apart::Sources), Some(Apart::Credentials)];
        let shared = shared[random.below(shared.len())];
        let named = [&[][..], &[Kind::Http, Kind::Https], &[Kind::Http, Kind::Tls]];
        let named = named[random.below(3)];
        for tenant in 1..=2 + random.below(3) {
            let last = u8::try_from(tenant).expect("few tenants");
            let mut ingress = String::new();
            let mut proxy = String::new();
            for (kind, port, wild) in ports {
                if !random.chance(75) {
                    continue;
                }
                let named = named.contains(&kind);
                let listen = match wild && kind != Kind::Forward {
                    true => format!(", listen: {{address: 0.0.0.0, port: {port}}}"),
                    false => String::new(),
                };
                if kind == Kind::Forward {
                    let host = if shared.is_some() { 100 } else { last };
                    let address = SocketAddr::new([127, self.net, 3, host].into(), port);
                    let who = proxy_clients(random, shared, last);
                    proxy = format!(
                        "    proxy:\n      - {{address: {}, port: {port}{who}}}\n",
                        address.ip()
                    );
                    self.doors.push(Door { tenant: last, kind, address });
                } else {
                    let host = if named { SHARED } else { last };
                    let address = SocketAddr::new([127, self.net, 1, host].into(), port);
                    let own = address.ip();
                    let names = if named { names(last, own) } else { String::new() };
                    ingress += &self.listener(random, kind, address, &(listen + &names), last);
                    self.doors.push(Door { tenant: last, kind, address });
                }
            }
            let more = if random.chance(30) {
                format!(", 127.{}.2.{}", self.net, last + 10)
            } else {
                String::new()
            };
            let policy = if proxy.is_empty() { String::new() } else { self.policy(random) };
            let (origin, secure) = (self.origin.address(), self.secure.address());
            let ingress =
                if ingress.is_empty() { String::new() } else { format!("  ingress:\n{ingress}") };
            let _ = write!(
                self.documents,
                "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: t{tenant}}}\nspec:\n{ingress}  upstreams:\n    plain: {{endpoints: [\"{origin}\"]}}\n    again: {{endpoints: [\"{origin}\"]}}\n    raw: {{endpoints: [\"{origin}\"], protocol: TCP}}\n    sealed: {{endpoints: [\"{secure}\"], protocol: TCP}}\n  egress:\n    addresses: [127.{}.2.{last}{more}]\n{proxy}{policy}",
                self.net,
            );
        }
        if self.doors.is_empty() {
            self.fill(random);
        }
    }

    /// An entry of `ingress`.
    fn listener(
        &self,
        random: &mut Random,
        kind: Kind,
        address: SocketAddr,
        listen: &str,
        last: u8,
    ) -> String {
        let (ip, port) = (address.ip(), address.port());
        let sources = if random.chance(40) {
            format!(", allowedSources: [{}]", clients(random))
        } else {
            String::new()
        };
        let head = |protocol: &str| {
            format!("    - {{address: {ip}, port: {port}, protocol: {protocol}{listen}{sources}")
        };
        match kind {
            Kind::Http => format!("{}, routes: [{}]}}\n", head("HTTP"), routes(random)),
            Kind::Https => {
                let certificates = match random.below(3) {
                    0 => format!("certificate: {{file: t{last}}}"),
                    1 => format!("certificates: [{{file: t{last}}}, {{file: w{last}}}]"),
                    _ => format!("certificates: [{{file: w{last}}}, {{file: t{last}}}]"),
                };
                let mode = match random.below(3) {
                    0 => "",
                    1 => ", clientCertificates: {mode: Optional, caFile: ca.crt}",
                    _ => ", clientCertificates: {mode: Required, caFile: ca.crt}",
                };
                format!("{}, {certificates}{mode}, routes: [{}]}}\n", head("HTTPS"), routes(random))
            }
            Kind::Tls => {
                let hosts = [
                    "hosts: [a.example, b.example], ",
                    "host: \"*.wild.example\", ",
                    "host: a.example, ",
                    "",
                ];
                let host = hosts[random.below(hosts.len())];
                format!("{}, routes: [{{{host}upstream: sealed}}]}}\n", head("TLS"))
            }
            Kind::Tcp => format!("{}, upstream: raw}}\n", head("TCP")),
            Kind::Forward => String::new(),
        }
    }

    /// Lines of `egress`. Nothing but loopback is ever allowed, so nothing leaves the host.
    fn policy(&self, random: &mut Random) -> String {
        let port = self.origin.port();
        let rules = [
            format!("{{cidr: 127.0.0.1/32, ports: [{port}]}}"),
            format!("{{name: get, cidr: 127.0.0.1/32, ports: [{port}], methods: [GET]}}"),
            "{host: one.example, cidr: 127.0.0.0/8}".to_owned(),
            "{host: .sub.example, cidr: 127.0.0.0/8}".to_owned(),
            "{host: inside.example, cidr: 127.0.0.0/8}".to_owned(),
            format!("{{cidr: 127.0.0.0/8, ports: [1-{port}]}}"),
        ];
        let chosen: Vec<_> = rules.iter().filter(|_| random.chance(50)).cloned().collect();
        let mut lines = format!(
            "    resolvers: [\"{}\"]\n    allow: [{}]\n",
            self.dns.address(),
            chosen.join(", ")
        );
        let deny = [
            "{name: no-mail, ports: [25]}",
            "{name: no-two, host: .sub.example}",
            "{name: no-post, ports: [1-65535], methods: [POST]}",
        ];
        let denied: Vec<_> = deny.into_iter().filter(|_| random.chance(30)).collect();
        let _ = writeln!(lines, "    deny: [{}]", denied.join(", "));
        let mode = ["", "    mode: Report\n", ""][random.below(3)];
        lines + mode
    }

    /// Certificates and credentials that the documents name.
    pub(super) fn write(&self, dir: &Path) {
        let servers = Authority::new("servers");
        for last in 1..=5u8 {
            let ip = IpAddr::from([127, self.net, 1, last]);
            let shared = IpAddr::from([127, self.net, 1, SHARED]);
            let spec = CertSpec::new().ip(ip).ip(shared).dns("a.example").dns("b.example").server();
            servers.issue(&spec).write(dir, &format!("t{last}"));
            let spec =
                CertSpec::new().ip(ip).ip(shared).dns("*.wild.example").dns("b.example").server();
            servers.issue(&spec).write(dir, &format!("w{last}"));
        }
        let ca = self.authorities[0].pem();
        std::fs::write(dir.join("ca.crt"), ca).expect("a file is written");
        for tenant in 1..=5 {
            let line =
                |user: &str| format!("{user}:{}\n", secrets::sha256_hex(&secret(tenant, user)));
            let users = line(USER) + &line(&user(tenant));
            std::fs::write(dir.join(format!("users{tenant}")), users).expect("a file is written");
        }
    }

    /// The configuration of a client that shows no certificate, or that of an authority.
    pub(super) fn config(&self, shows: Option<usize>) -> Arc<ClientConfig> {
        Arc::clone(&self.configs[shows.map_or(0, |authority| authority + 1)])
    }
}

fn clients(random: &mut Random) -> String {
    let chosen: Vec<_> = (1..=CLIENTS)
        .filter(|_| random.chance(60))
        .map(|client| format!("127.200.0.{client}/32"))
        .collect();
    if chosen.is_empty() { "192.0.2.1/32".to_owned() } else { chosen.join(", ") }
}

/// Fields of a proxy that say whose clients it has, and whether others share its address.
fn proxy_clients(random: &mut Random, shared: Option<Apart>, last: u8) -> String {
    match shared {
        Some(Apart::Sources) => format!(", shared: true, allowedSources: [127.200.0.{last}/32]"),
        Some(Apart::Credentials) => {
            let sources = match random.chance(40) {
                true => format!(", allowedSources: [{}]", clients(random)),
                false => String::new(),
            };
            format!(", shared: true, credentials: {{file: users{last}}}{sources}")
        }
        None => forward_clients(random, last),
    }
}

fn forward_clients(random: &mut Random, last: u8) -> String {
    match random.below(3) {
        0 => ", allowedSources: [127.0.0.0/8]".to_owned(),
        1 => format!(", allowedSources: [{}]", clients(random)),
        _ => format!(", credentials: {{file: users{last}}}"),
    }
}

fn routes(random: &mut Random) -> String {
    let one = |random: &mut Random| {
        let host = [
            "",
            "host: a.example, ",
            "hosts: [a.example, c.example], ",
            "host: \"*.wild.example\", ",
            "",
        ];
        let path = ["pathPrefix: /", "pathPrefix: /a", "pathPrefix: /a/b", "path: /x", "path: /a"];
        let method = ["", "", "methods: [POST], ", "methods: [GET, HEAD], "];
        let header =
            ["", "", "", "headers: [{name: X-Env, value: prod}], ", "headers: [{name: X-Env}], "];
        let source = ["", "", "", "sources: [127.200.0.1/32], "];
        let action = [
            "upstream: plain",
            "upstream: again",
            "upstream: plain",
            "redirect: {status: 302, host: z.example}",
            "respond: {status: 418}",
        ];
        let pick = |random: &mut Random, from: &[&'static str]| from[random.below(from.len())];
        let host = pick(random, &host);
        let path = pick(random, &path);
        let (method, header) = (pick(random, &method), pick(random, &header));
        let (source, action) = (pick(random, &source), pick(random, &action));
        format!("{{{host}{method}{header}{source}{path}, {action}}}")
    };
    let count = 1 + random.below(5);
    (0..count).map(|_| one(random)).collect::<Vec<_>>().join(", ")
}

/// What a tenant is asked for by at an address and port that others have, too.
fn names(tenant: u8, address: IpAddr) -> String {
    let names = match tenant {
        1 => "a.example, \"*.wild.example\"".to_owned(),
        2 => "b.example, x.wild.example, \"*.example\"".to_owned(),
        3 => format!("c.example, {address}"),
        _ => "\"*.x.wild.example\"".to_owned(),
    };
    format!(", shared: true, names: [{names}]")
}
