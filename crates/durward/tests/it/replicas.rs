//! Several gateways with the same documents: they share the work, and one that dies takes nobody with it.
//!
//! Deliberately absent: who decides which gateway holds an address; the tests move it by hand, as a speaker would.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use durward_testkit::netns::{self, Namespace, in_namespace};
use durward_testkit::origin::Origin;
use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};

use crate::support::{DEADLINE, HERE, admin_address, get, spawn, status, tenant};

/// Where each gateway of the bridged tests has its admin interface, in its own namespace.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9440);

/// A process that serves, on an admin address of its own.
struct Replica {
    child: Child,
    admin: SocketAddr,
}

impl Replica {
    fn start(dir: &Path, admin: SocketAddr) -> Self {
        let child = spawn(dir, admin, &["--share-addresses"]);
        let ready = eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200));
        assert!(ready, "{}", child.output());
        Self { child, admin }
    }

    fn requests(&self, tenant: &str) -> u64 {
        requests(self.admin, tenant)
    }

    /// Ends it without warning and waits until it is gone.
    fn kill(&mut self) {
        self.child.kill();
        self.child.wait_blocking(DEADLINE);
    }
}

/// How many requests of the tenant this gateway has answered.
fn requests(admin: SocketAddr, tenant: &str) -> u64 {
    let (_, metrics) = get(admin, "/metrics").expect("metrics are served");
    let label = format!("tenant=\"{tenant}\"");
    metrics
        .lines()
        .filter(|line| line.starts_with("durward_requests_total{") && line.contains(&label))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Requests on connections of their own; how many were answered.
fn answered(address: SocketAddr, count: usize) -> usize {
    (0..count).filter(|_| status(address, "/") == Some(200)).count()
}

// S1.59 S1.68
#[test]
fn replicas_share_the_load_and_a_killed_one_or_absent_documents_stop_nobody() {
    let origin = Origin::http1(HERE);
    let address = SocketAddr::new(unique_loopback().into(), 8080);
    let dir = TempDir::new();
    let documents = dir.join("documents");
    std::fs::create_dir(&documents).unwrap();
    let document = tenant("acme", address.ip(), address.port(), origin.address());
    std::fs::write(documents.join("acme.yaml"), document).unwrap();
    let mut replicas: Vec<_> =
        (0..3).map(|_| Replica::start(&documents, admin_address())).collect();

    assert_eq!(answered(address, 300), 300);
    let shares: Vec<_> = replicas.iter().map(|replica| replica.requests("acme")).collect();
    assert_eq!(shares.iter().sum::<u64>(), 300, "{shares:?}");
    assert!(shares.iter().all(|&share| share > 0), "{shares:?}");

    replicas[0].kill();
    std::fs::remove_dir_all(&documents).unwrap();
    let noticed = eventually_blocking(DEADLINE, || {
        replicas[1..].iter().all(|replica| replica.child.output().contains("documents"))
    });
    assert!(noticed, "{}", replicas[1].child.output());
    assert_eq!(answered(address, 100), 100);

    replicas[1].kill();
    assert_eq!(answered(address, 100), 100);
    assert_eq!(status(replicas[2].admin, "/livez"), Some(200));
}

/// Three gateways on one segment, each in a namespace of its own, all with the documents of all tenants.
struct Segment {
    hosts: Vec<Namespace>,
}

impl Segment {
    /// The bridge, with the partner at 10.9.0.1, is in the calling namespace.
    fn new() -> Self {
        netns::ip("link add segment type bridge");
        netns::add_address("segment", "10.9.0.1/24");
        netns::link_up("segment");
        let hosts = (0..3).map(|index| {
            let host = Namespace::new();
            let here = format!("port{index}");
            netns::veth(&here, "wire", &host);
            netns::ip(&format!("link set {here} master segment"));
            netns::link_up(&here);
            host.add_address("wire", &format!("10.9.0.{}/24", 200 + index));
            host.link_up("wire");
            host
        });
        Self { hosts: hosts.collect() }
    }

    /// Gives the host the address; the partner forgets where it was, as after a gratuitous ARP.
    fn assign(&self, host: usize, address: IpAddr) {
        self.hosts[host].add_address("wire", &format!("{address}/32"));
        netns::ip("neigh flush dev segment");
    }

    fn requests(&self, host: usize, tenant: &str) -> u64 {
        self.hosts[host].run(|| requests(ADMIN, tenant))
    }
}

// S1.26 S1.68
#[test]
fn each_address_is_answered_by_its_holder_alone_and_by_the_next_one_when_that_dies() {
    in_namespace(
        "replicas::each_address_is_answered_by_its_holder_alone_and_by_the_next_one_when_that_dies",
        || {
            let segment = Segment::new();
            let origin = netns_origin();
            let dir = TempDir::new();
            let names = ["a", "b", "c"];
            let address = |index: u8| IpAddr::from([10, 9, 0, 11 + index]);
            for (index, name) in (0..).zip(names) {
                let document = tenant(name, address(index), 8080, origin.address());
                dir.write(format!("{name}.yaml"), document);
            }
            for host in 0..3 {
                segment.assign(host.into(), address(host));
            }
            let mut replicas: Vec<_> = segment
                .hosts
                .iter()
                .map(|host| host.run(|| Replica::start(dir.path(), ADMIN)))
                .collect();

            for index in 0..3 {
                assert_eq!(answered(SocketAddr::new(address(index), 8080), 20), 20);
            }
            for host in 0..3 {
                for (index, name) in names.iter().enumerate() {
                    let expected = if host == index { 20 } else { 0 };
                    assert_eq!(segment.requests(host, name), expected, "{name} at host {host}");
                }
            }

            replicas[0].kill();
            let died = Instant::now();
            segment.assign(1, address(0));
            let moved = SocketAddr::new(address(0), 8080);
            assert!(eventually_blocking(DEADLINE, || status(moved, "/") == Some(200)));
            let gap = died.elapsed();
            println!("the address was served again {} ms after its holder died", gap.as_millis());
            assert!(gap < Duration::from_secs(5), "{gap:?}");

            origin.forget();
            for index in 0..3 {
                assert_eq!(answered(SocketAddr::new(address(index), 8080), 20), 20);
            }
            let sources: Vec<_> = origin.seen().iter().map(|seen| seen.peer.ip()).collect();
            for index in 0..3 {
                let own = sources.iter().filter(|&&source| source == address(index)).count();
                assert_eq!(own, 20, "{sources:?}");
            }
        },
    );
}

/// A partner on the bridge.
fn netns_origin() -> Origin {
    Origin::http1((Ipv4Addr::new(10, 9, 0, 1), 0))
}
