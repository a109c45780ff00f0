//! Every way of spelling what is near, by every way of getting there: nothing of it is reached.
//!
//! The world is a namespace whose every address answers, so whatever leaves arrives; the gateway's own addresses answer too. Deliberately
//! absent: knowledge of how it is prevented.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use durward_testkit::client::RawHttp;
use durward_testkit::dns::DnsServer;
use durward_testkit::netns::{self, Namespace, in_namespace};
use durward_testkit::origin::{Origin, RawOrigin};

use super::{document, get, tunnel};
use crate::gateway::Gateway;

/// The one address that may be reached.
const GOOD: [u8; 4] = [198, 51, 100, 10];

/// What must never be reached, one address for each reason.
const FORBIDDEN: [&str; 44] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.1.2.3",
    "127.255.255.254",
    "0.0.0.0",
    "0.0.0.1",
    "10.0.0.1",
    "10.255.255.254",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.0.1",
    "192.168.255.254",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.1.1",
    "168.63.129.16",
    "100.64.0.1",
    "100.127.255.254",
    "100.100.100.200",
    "192.0.0.192",
    "192.0.0.8",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "203.0.113.2",
    "203.0.113.3",
    "203.0.113.8",
    "::",
    "::1",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "ff02::1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::1",
    "2001::1",
    "2001:db8:1::5efe:7f00:1",
];

/// The texts an address may be asked for by.
fn spellings(address: IpAddr) -> Vec<String> {
    let v4 = match address {
        IpAddr::V6(v6) => {
            let full = v6.segments().map(|part| format!("{part:04X}")).join(":");
            return vec![format!("[{v6}]"), format!("[{full}]")];
        }
        IpAddr::V4(v4) => v4,
    };
    let number = u32::from(v4);
    let [a, b, c, d] = v4.octets();
    let (low24, low16) = (number & 0xff_ffff, number & 0xffff);
    vec![
        v4.to_string(),
        format!("{v4}."),
        format!("[::ffff:{v4}]"),
        format!("[::ffff:{:x}:{:x}]", number >> 16, number & 0xffff),
        format!("[0:0:0:0:0:FFFF:{v4}]"),
        format!("[::{v4}]"),
        format!("[64:ff9b::{v4}]"),
        format!("{number}"),
        format!("{number:#x}"),
        format!("0X{number:X}"),
        format!("0{number:o}"),
        format!("{a}.{low24}"),
        format!("{a}.{b}.{low16}"),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("{a:03}.{b:03}.{c:03}.{d:03}"),
        format!("{a:#x}.{low24}"),
        format!("{a}.{b}.{c}.{d:#x}"),
        format!("{a}%2e{b}%2e{c}%2e{d}"),
        format!("{a}。{b}。{c}。{d}"),
        format!("user@{v4}"),
        format!("{v4}%00.allowed.example"),
        format!("{v4}\\.allowed.example"),
        format!("[{v4}]"),
    ]
}

/// A world in which every address answers, joined to ours by `w0`.
fn everywhere() -> Namespace {
    let world = Namespace::new();
    netns::veth("w0", "g0", &world);
    for address in ["203.0.113.2/32", "203.0.113.3/32", "203.0.113.8/32", "192.0.2.1/24"] {
        netns::add_address("w0", address);
    }
    netns::ip("-6 address add 2001:db8:2::2/64 dev w0 nodad");
    world.add_address("g0", "192.0.2.254/24");
    world.ip("-6 address add 2001:db8:2::1/64 dev g0 nodad");
    world.link_up("lo");
    world.ip("route add local 0.0.0.0/1 dev lo");
    world.ip("route add local 128.0.0.0/1 dev lo");
    world.ip("route replace 203.0.113.0/24 via 192.0.2.1");
    world.ip("-6 route add local ::/1 dev lo");
    world.ip("-6 route add local 8000::/1 dev lo");
    world.ip("-6 route add 2001:db8:2::2/128 dev g0");
    netns::ip("route add default via 192.0.2.254");
    netns::ip("-6 route add default via 2001:db8:2::1");
    // Metadata and private networks are near for many gateways: here they are on the host itself.
    for address in ["169.254.169.254/32", "10.0.0.1/32", "169.254.1.1/32"] {
        netns::add_address("lo", address);
    }
    world
}

// S2.42 S2.54 S2.55
#[test]
fn no_spelling_of_what_is_near_is_reached_in_any_way() {
    in_namespace("egress::guard::no_spelling_of_what_is_near_is_reached_in_any_way", || {
        let world = everywhere();
        let traps = Trap::set();
        let (far, dns, outside) = world.run(|| {
            let far = Origin::http1((Ipv4Addr::from(GOOD), 8000));
            (far, DnsServer::start("198.51.100.53:53"), Trap::set())
        });
        let entry = |address: &str| {
            format!("address: {address}, allowedSources: [127.0.0.0/8, 203.0.113.0/24]")
        };
        let rules =
            "resolvers: [198.51.100.53]\nallow: [{cidrs: [0.0.0.0/0, \"::/0\"], ports: [1-65535]}]";
        let two = Ipv4Addr::new(203, 0, 113, 2);
        let documents = document("a", two, &entry("203.0.113.8"), rules)
            .replace("[203.0.113.2]", "[203.0.113.2, \"2001:db8:2::2\"]")
            + &document("b", [203, 0, 113, 3], &entry("203.0.113.9"), rules);
        let gateway = Gateway::prepare().start(&documents);
        let proxy = SocketAddr::from(([203, 0, 113, 8], 3128));
        let redirector = redirects(&world);

        let tried = netns::block_on(async {
            assert_reachable(proxy, &far).await;
            let mut tried = 0;
            for address in FORBIDDEN {
                tried += attack(proxy, address.parse().unwrap(), &dns).await;
                tried += redirected(proxy, redirector.address(), address.parse().unwrap()).await;
            }
            tried
        });

        assert!(tried >= 4 * 150, "{tried} attempts");
        let reached = [traps.caught(), outside.caught()].concat();
        assert!(reached.iter().all(|at| at.ip() == IpAddr::from(GOOD)), "{reached:?}");
        assert_eq!(far.requests(), 1, "only what may be reached was");
        gateway.stop();
    });
}

/// Sockets on every address there is; who reaches one waits in its queue.
struct Trap(Vec<TcpListener>);

impl Trap {
    fn set() -> Self {
        let addresses = ["0.0.0.0:80", "0.0.0.0:443", "0.0.0.0:22", "[::]:8080"];
        Self(addresses.map(|address| TcpListener::bind(address).unwrap()).into())
    }

    /// The addresses at which somebody waits.
    fn caught(&self) -> Vec<SocketAddr> {
        let mut caught = Vec::new();
        for socket in &self.0 {
            socket.set_nonblocking(true).unwrap();
            while let Ok((stream, _)) = socket.accept() {
                let local = stream.local_addr().unwrap();
                caught.push(SocketAddr::new(local.ip().to_canonical(), local.port()));
            }
        }
        caught
    }
}

/// Otherwise nothing would be shown by nothing being reached.
async fn assert_reachable(proxy: SocketAddr, far: &Origin) {
    let answer = RawHttp::connect(proxy)
        .await
        .unwrap()
        .exchange(get("http://198.51.100.10:8000/"))
        .await
        .unwrap();
    assert_eq!(
        (answer.status, answer.echo().peer.ip().to_string()),
        (200, "203.0.113.2".to_owned())
    );
    assert_eq!(far.requests(), 1);
}

/// An origin that sends everybody on to where its path says.
fn redirects(world: &Namespace) -> RawOrigin {
    world.run(|| {
        RawOrigin::start("198.51.100.11:8000", |mut connection| async move {
            while let Ok(Some(request)) = connection.read_head().await {
                let to =
                    request.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
                let answer =
                    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
                if connection.send(answer).await.is_err() {
                    return;
                }
            }
        })
    })
}

/// Directly by each spelling, by a name, by another name for a name, and by a name whose answer changes after it was checked.
async fn attack(proxy: SocketAddr, address: IpAddr, dns: &DnsServer) -> usize {
    let mut label = String::new();
    let _ = write!(label, "{address}");
    let label = label.replace([':', '.'], "-");
    let good: &[IpAddr] = &[GOOD.into()];
    let bad: &[IpAddr] = &[address];
    dns.set(&format!("name{label}.example"), bad);
    dns.set(&format!("mixed{label}.example"), &[good, bad].concat());
    dns.set_alias(&format!("alias{label}.example"), "inside.example", bad);
    dns.set_each_time(&format!("change{label}.example"), &[good, bad]);
    let names = ["name", "mixed", "alias", "change"].map(|kind| format!("{kind}{label}.example"));
    let targets: Vec<String> = spellings(address).into_iter().chain(names).collect();
    let refused = |target: &str, status| match status {
        // It was checked, and is dialled at the one address that may be reached.
        200 => target.starts_with("change"),
        status => matches!(status, 400 | 403 | 502),
    };
    let mut tried = 0;
    for target in &targets {
        for port in [22, 80, 443, 8080] {
            let status = tunnel(proxy, &format!("{target}:{port}"), "").await.err().unwrap_or(200);
            assert!(refused(target, status), "{target}:{port} {status}");
            tried += 1;
        }
        if !target.starts_with("change") {
            let mut client = RawHttp::connect(proxy).await.unwrap();
            let answer = client.exchange(get(&format!("http://{target}/"))).await;
            let status = answer.map_or(400, |answer| answer.status);
            assert!(refused(target, status), "{target} {status}");
            tried += 1;
        }
    }
    tried
}

/// As a client follows it: the redirect is an answer, and what it leads to is asked for anew.
async fn redirected(proxy: SocketAddr, redirector: SocketAddr, address: IpAddr) -> usize {
    let mut tried = 0;
    for spelling in spellings(address)
        .into_iter()
        .filter(|text| text.is_ascii() && !text.contains(['%', '\\', '@']))
    {
        let mut client = RawHttp::connect(proxy).await.unwrap();
        let first =
            client.exchange(get(&format!("http://{redirector}/http://{spelling}/"))).await.unwrap();
        assert_eq!(first.status, 302);
        let next = first.header("location").unwrap().to_owned();
        let status = client.exchange(get(&next)).await.map_or(400, |answer| answer.status);
        assert!(matches!(status, 400 | 403), "{next} {status}");
        tried += 1;
    }
    tried
}
