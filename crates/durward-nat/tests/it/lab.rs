//! A gateway between two outside worlds and a cluster: both clients own one remote address, and the gateway's only
//! default route leads to the first, so that the second is reached by the return path alone.
//!
//! `c1 -ext1- gateway -br0- p1, p2` and `c2 -ext2- gateway`; the gateway is the test's own namespace.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use durward_model::mapping::{
    Affinity, Endpoints, KernelEgress, MappedPort, NatModel, PortMapping, PortRange, SourceMode,
};
use durward_model::transport::Transport;
use durward_model::{IngressAddress, Origin, SourceSet, TenantId};
use durward_nat::options::GatewayRule;
use durward_nat::{Nat, Options, Report};
use durward_testkit::netns::{Namespace, add_address, add_route, ip, link_up, sysctl, veth};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) const EXT1: &str = "203.0.113.1";
pub(crate) const EXT2: &str = "198.51.100.1";
pub(crate) const EXT1_V6: &str = "2001:db8:1::1";
pub(crate) const EXT2_V6: &str = "2001:db8:2::1";
pub(crate) const REMOTE: &str = "192.0.2.10";
pub(crate) const REMOTE_V6: &str = "2001:db8:ffff::10";
pub(crate) const P1: &str = "10.244.0.11";
pub(crate) const P2: &str = "10.244.0.12";
pub(crate) const P1_V6: &str = "fd00:244::11";
pub(crate) const P2_V6: &str = "fd00:244::12";
/// Long enough for a busy machine, short enough for tests of silence.
pub(crate) const SOON: Duration = Duration::from_millis(700);
/// Long enough for what must happen, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The worlds around the gateway.
pub(crate) struct Lab {
    pub(crate) c1: Namespace,
    pub(crate) c2: Namespace,
    pub(crate) p1: Namespace,
    pub(crate) p2: Namespace,
}

impl Lab {
    /// Builds it all around the calling thread's namespace.
    pub(crate) fn new() -> Self {
        let lab = Self {
            c1: Namespace::new(),
            c2: Namespace::new(),
            p1: Namespace::new(),
            p2: Namespace::new(),
        };
        // No wait until addresses are known to be unique: a lost first packet would look like a refusal.
        let at_once = || sysctl("net.ipv6.conf.default.accept_dad", "0");
        at_once();
        for other in [&lab.c1, &lab.c2, &lab.p1, &lab.p2] {
            other.run(at_once);
        }
        outside(&lab.c1, "ext1", [EXT1, "203.0.113.254"], [EXT1_V6, "2001:db8:1::254"]);
        outside(&lab.c2, "ext2", [EXT2, "198.51.100.254"], [EXT2_V6, "2001:db8:2::254"]);
        ip("link add br0 type bridge");
        link_up("br0");
        add_address("br0", "10.244.0.1/24");
        add_address("br0", "fd00:244::1/64");
        pod(&lab.p1, "v1", P1, P1_V6);
        pod(&lab.p2, "v2", P2, P2_V6);
        add_route("default", "203.0.113.254");
        ip("-6 route add default via 2001:db8:1::254");
        // The worst case: a host that checks the way back strictly.
        sysctl("net.ipv4.conf.all.rp_filter", "1");
        for device in ["ext1", "ext2"] {
            sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "1");
        }
        lab
    }

    /// The same without br_netfilter, which lets a bridge's packets pass the filter too early to be handed to a proxy.
    pub(crate) fn unbridged() -> Self {
        let lab = Self::new();
        for family in ["iptables", "ip6tables"] {
            if std::path::Path::new("/proc/sys/net/bridge").exists() {
                sysctl(&format!("net.bridge.bridge-nf-call-{family}"), "0");
            }
        }
        lab
    }

    /// The remote address of either world answers in both families with the world's name and the peer it sees.
    pub(crate) fn serve_outside(&self, port: u16) {
        for (name, world) in [("c1", &self.c1), ("c2", &self.c2)] {
            for address in [REMOTE, REMOTE_V6] {
                serve_on(world, name, address, port);
            }
        }
    }

    /// Both pods answer on a TCP and a UDP port with their name and the peer they see.
    pub(crate) fn serve(&self, port: u16) {
        for (name, pod) in [("p1", &self.p1), ("p2", &self.p2)] {
            serve(pod, name, port);
        }
    }
}

/// The host's other interface, which is none of Durward's business.
pub(crate) struct Default;

impl Default {
    /// Makes it: it looks like an external one to a careless pattern.
    pub(crate) fn new() -> Self {
        ip("link add vext0 type bridge");
        link_up("vext0");
        add_address("vext0", "192.168.77.2/24");
        ip("route add 192.168.78.0/24 via 192.168.77.1 dev vext0");
        Self
    }

    /// All that is known of it.
    pub(crate) fn state(&self) -> String {
        let rp_filter = std::fs::read_to_string("/proc/sys/net/ipv4/conf/vext0/rp_filter");
        ip("-o address show vext0") + &ip("route show dev vext0") + &rp_filter.unwrap_or_default()
    }
}

fn outside(world: &Namespace, device: &str, v4: [&str; 2], v6: [&str; 2]) {
    veth(device, "wan", world);
    for [here, there] in [v4, v6] {
        let len = if here.contains(':') { 64 } else { 24 };
        add_address(device, &format!("{here}/{len}"));
        world.add_address("wan", &format!("{there}/{len}"));
        let family = if here.contains(':') { "-6" } else { "-4" };
        world.ip(&format!("{family} route add default via {here}"));
    }
    world.add_address("lo", &format!("{REMOTE}/32"));
    world.add_address("lo", &format!("{REMOTE_V6}/128"));
}

/// A pod on the bridge.
pub(crate) fn pod(pod: &Namespace, device: &str, v4: &str, v6: &str) {
    veth(device, "eth0", pod);
    ip(&format!("link set {device} master br0"));
    // As CNIs do: where bridged packets pass the packet filter, a pod else cannot reach itself.
    ip(&format!("link set {device} type bridge_slave hairpin on"));
    pod.add_address("eth0", &format!("{v4}/24"));
    pod.add_address("eth0", &format!("{v6}/64"));
    pod.ip("-4 route add default via 10.244.0.1");
    pod.ip("-6 route add default via fd00:244::1");
}

/// Answers on TCP and UDP, both families, with a name and the peer; TCP then echoes.
pub(crate) fn serve(at: &Namespace, name: &'static str, port: u16) {
    serve_on(at, name, "::", port);
}

/// The same on one address, which answers then come from.
pub(crate) fn serve_on(at: &Namespace, name: &'static str, address: &str, port: u16) {
    at.run(|| {
        let listener = TcpListener::bind((address, port)).unwrap();
        let socket = UdpSocket::bind((address, port)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || talk(stream, name));
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(greeting(name, peer).as_bytes(), peer);
            }
        });
    });
}

fn talk(mut stream: TcpStream, name: &str) {
    let Ok(peer) = stream.peer_addr() else { return };
    let _ = stream.write_all(format!("{}\n", greeting(name, peer)).as_bytes());
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn greeting(name: &str, peer: SocketAddr) -> String {
    format!("{name} {}", peer.ip().to_canonical())
}

/// An address and port as a socket address is written.
pub(crate) fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// A TCP connection from one address to another, after the greeting.
pub(crate) fn connect(
    from: &Namespace,
    source: &str,
    to: (&str, u16),
    patience: Duration,
) -> Result<(TcpStream, String), ErrorKind> {
    from.run(|| {
        let stream = open(source, to, patience).map_err(|error| error.kind())?;
        stream.set_read_timeout(Some(patience)).unwrap();
        let mut stream = stream;
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            match stream.read(&mut byte) {
                Ok(1) => line.push(byte[0]),
                Ok(_) => return Err(ErrorKind::UnexpectedEof),
                Err(error) => return Err(error.kind()),
            }
        }
        Ok((stream, String::from_utf8(line).unwrap().trim().to_owned()))
    })
}

fn open(source: &str, to: (&str, u16), patience: Duration) -> std::io::Result<TcpStream> {
    let to = SocketAddr::new(to.0.parse().unwrap(), to.1);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    let source: IpAddr = source.parse().unwrap();
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&to.into(), patience)?;
    Ok(socket.into())
}

/// What a TCP server says to a client at `source`, or how the connection failed.
pub(crate) fn tcp(from: &Namespace, source: &str, to: (&str, u16)) -> Result<String, ErrorKind> {
    connect(from, source, to, PATIENCE).map(|(_, greeting)| greeting)
}

/// The same where silence is expected.
pub(crate) fn tcp_soon(
    from: &Namespace,
    source: &str,
    to: (&str, u16),
) -> Result<String, ErrorKind> {
    connect(from, source, to, SOON).map(|(_, greeting)| greeting)
}

/// What a UDP server says, or how it failed.
pub(crate) fn udp(
    from: &Namespace,
    source: &str,
    to: (&str, u16),
    patience: Duration,
) -> Result<String, ErrorKind> {
    from.run(|| {
        let source: IpAddr = source.parse().unwrap();
        let to = SocketAddr::new(to.0.parse().unwrap(), to.1);
        let socket = UdpSocket::bind(SocketAddr::new(source, 0)).unwrap();
        ask(&socket, to, patience)
    })
}

/// One question of a socket that stays.
pub(crate) fn ask(
    socket: &UdpSocket,
    to: SocketAddr,
    patience: Duration,
) -> Result<String, ErrorKind> {
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.connect(to).map_err(|error| error.kind())?;
    socket.send(b"?").map_err(|error| error.kind())?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).map_err(|error| error.kind())?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Whether a connection still carries bytes both ways.
pub(crate) fn is_alive(stream: &mut TcpStream, patience: Duration) -> bool {
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut back = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut back).is_ok() && back == *b"ping"
}

/// The options of the lab's gateway.
pub(crate) fn options() -> Options {
    let gateway = |v4: &str, v6: &str| vec![v4.parse().unwrap(), v6.parse().unwrap()];
    let gateways = BTreeMap::from([
        ("ext1".to_owned(), gateway("203.0.113.254", "2001:db8:1::254")),
        ("ext2".to_owned(), gateway("198.51.100.254", "2001:db8:2::254")),
    ]);
    Options {
        external: "ext[0-9]+".to_owned(),
        gateway: GatewayRule::Configured(gateways),
        cluster: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()],
        cluster_address_v4: Some("10.244.0.1".parse().unwrap()),
        cluster_address_v6: Some("fd00:244::1".parse().unwrap()),
        ..Options::default()
    }
}

/// The next echo reply to a ping from one address to another.
pub(crate) fn ping(
    from: &Namespace,
    source: &str,
    to: &str,
    patience: Duration,
) -> Result<(), ErrorKind> {
    from.run(|| {
        let [source, to]: [IpAddr; 2] = [source, to].map(|address| address.parse().unwrap());
        let (domain, protocol, kinds) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, [8u8, 0]),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, [128, 129]),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        // The checksum of a message of the kind alone; IPv6's the kernel writes itself.
        let request = [kinds[0], 0, !kinds[0], 0xff, 0, 0, 0, 0];
        let to = SocketAddr::new(to, 0).into();
        socket.send_to(&request, &to).map_err(|error| error.kind())?;
        let socket = UdpSocket::from(std::os::fd::OwnedFd::from(socket));
        let begin = std::time::Instant::now();
        let mut buffer = [0; 128];
        loop {
            let rest = patience.checked_sub(begin.elapsed()).ok_or(ErrorKind::TimedOut)?;
            socket.set_read_timeout(Some(rest.max(Duration::from_millis(1)))).unwrap();
            let length = socket.recv(&mut buffer).map_err(|error| error.kind())?;
            let header = if kinds[1] == 0 { 20 } else { 0 };
            if buffer[..length].get(header) == Some(&kinds[1]) {
                return Ok(());
            }
        }
    })
}

/// A model of tenants `acme` (1) and `bank` (2).
pub(crate) fn model(mappings: Vec<PortMapping>, egress: Vec<KernelEgress>) -> Arc<NatModel> {
    Arc::new(NatModel {
        tenants: [(tenant("acme"), 1), (tenant("bank"), 2)].into(),
        mappings: mappings.into_iter().map(Arc::new).collect(),
        egress: egress.into_iter().map(Arc::new).collect(),
        ..NatModel::default()
    })
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

/// A mapping of acme's that everybody may use.
pub(crate) fn mapping(name: &str, addresses: &[&str], ports: Vec<MappedPort>) -> PortMapping {
    PortMapping {
        tenant: tenant("acme"),
        name: name.into(),
        addresses: addresses.iter().map(|ip| IngressAddress(ip.parse().unwrap())).collect(),
        ports,
        allowed_sources: sources(&["0.0.0.0/0", "::/0"]),
        mode: SourceMode::PreserveSource,
        affinity: Affinity::None,
        drain: Duration::ZERO,
        egress: false,
        health_check: None,
        origin: Origin::default(),
    }
}

pub(crate) fn sources(blocks: &[&str]) -> SourceSet {
    blocks.iter().map(|block| block.parse().unwrap()).collect()
}

pub(crate) fn port(protocol: Transport, port: u16, endpoints: &[&str]) -> MappedPort {
    let at = endpoints.iter().map(|at| at.parse().unwrap()).collect();
    MappedPort { protocol, ports: PortRange::one(port).unwrap(), endpoints: Endpoints::At(at) }
}

/// One port for TCP and UDP.
pub(crate) fn both(number: u16, endpoints: &[&str]) -> Vec<MappedPort> {
    [Transport::Tcp, Transport::Udp].map(|protocol| port(protocol, number, endpoints)).into()
}

/// Pods of acme and the addresses they leave from.
pub(crate) fn egress(sources: &[String], addresses: &[&str]) -> KernelEgress {
    KernelEgress {
        tenant: tenant("acme"),
        name: "out".into(),
        sources: sources.iter().map(|block| block.parse().unwrap()).collect(),
        addresses: addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap().into()).collect(),
        transparent: None,
        enrolled: true,
        drain: Duration::ZERO,
        origin: Origin::default(),
    }
}

/// Applies a model all of whose parts must be sound.
#[track_caller]
pub(crate) fn apply(nat: &Nat, model: &Arc<NatModel>) -> Report {
    let report = nat.apply(Arc::clone(model)).unwrap();
    let rejected = report.mappings.iter().chain(&report.egress);
    assert!(rejected.clone().all(|one| one.rejected.is_none()), "{report:?}");
    assert!(report.host.is_empty(), "{:?}", report.host);
    report
}
