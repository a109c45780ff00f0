//! Edits that forbid a running connection nothing leave it: its listener moves to another bind, or admits fewer others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::{H2Client, RawHttp, tls_connect};
use durward_testkit::origin::{Origin, RawOrigin, TcpEcho};
use durward_testkit::process::unique_loopback;
use durward_testkit::rustls::ClientConfig;
use tokio::sync::Notify;

use crate::gateway::{Gateway, free_port_on};

/// Where a tenant's listeners are accepted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bind {
    /// At their own addresses.
    Own,
    /// At all addresses.
    All,
    /// At one address of the host, by the local port.
    Port(Ipv4Addr, u16),
}

impl Bind {
    fn listen(self, port: u16) -> String {
        match self {
            Self::Own => String::new(),
            Self::All => format!(", listen: {{address: 0.0.0.0, port: {port}}}"),
            Self::Port(address, offset) => {
                format!(
                    ", listen: {{address: {address}, port: {}, destination: Port}}",
                    port + offset
                )
            }
        }
    }
}

struct World {
    ports: [u16; 3],
    /// Of the tenant and its neighbour.
    addresses: [Ipv4Addr; 2],
    egress: [Ipv4Addr; 2],
    /// Answers the second half when it is told to.
    slow: RawOrigin,
    rest: Arc<Notify>,
    echo: TcpEcho,
    secure: Origin,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let rest = Arc::new(Notify::new());
        let told = Arc::clone(&rest);
        let slow = RawOrigin::start("127.0.0.1:0", move |mut connection| {
            let told = Arc::clone(&told);
            async move {
                const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst";
                while let Ok(Some(_request)) = connection.read_request().await {
                    let _ = connection.send(HEAD).await;
                    told.notified().await;
                    let _ = connection.send("other").await;
                }
            }
        });
        let authority = Authority::new("root");
        let identity = authority.issue(&CertSpec::new().dns("o.example").server());
        Self {
            ports: [0; 3].map(|_| free_port_on("0.0.0.0")),
            addresses: [unique_loopback(), unique_loopback()],
            egress: [unique_loopback(), unique_loopback()],
            slow,
            rest,
            echo: TcpEcho::start("127.0.0.1:0"),
            secure: Origin::tls("127.0.0.1:0", &identity, None, &["http/1.1"]),
            authority,
        }
    }

    fn documents(&self, binds: [Bind; 2]) -> String {
        let [plain, tls, proxy] = self.ports;
        let (slow, secure, echo) =
            (self.slow.address(), self.secure.address(), self.echo.address());
        let tenant = |at: usize, name: &str| {
            let (address, egress) = (self.addresses[at], self.egress[at]);
            let listen = |port| binds[at].listen(port);
            format!(
                "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n    - {{address: {address}, port: {plain}, protocol: HTTP{}, upstream: slow}}\n    - {{address: {address}, port: {tls}, protocol: TLS{}, upstream: secure}}\n  upstreams:\n    slow: {{endpoints: [\"{slow}\"]}}\n    secure: {{endpoints: [\"{secure}\"], protocol: TCP}}\n  egress:\n    addresses: [{egress}]\n    proxy:\n      - {{address: {address}, port: {proxy}, allowedSources: [127.0.0.0/8]{}}}\n    allow: [{{cidr: 127.0.0.1, ports: [{}]}}]\n",
                listen(plain),
                listen(tls),
                listen(proxy),
                echo.port(),
            )
        };
        tenant(0, "acme") + &tenant(1, "neighbour")
    }

    /// Where a listener is dialled.
    fn at(&self, bind: Bind, port: usize) -> SocketAddr {
        match bind {
            Bind::Port(address, offset) => SocketAddr::from((address, self.ports[port] + offset)),
            Bind::Own | Bind::All => SocketAddr::from((self.addresses[0], self.ports[port])),
        }
    }
}

/// What runs on connections of the tenant.
struct Running {
    http1: RawHttp,
    http2: tokio::task::JoinHandle<Result<(u16, String), String>>,
    tunnel: RawHttp,
    passed: RawHttp,
}

impl Running {
    async fn start(world: &World, bind: Bind) -> Self {
        let mut http1 = RawHttp::connect(world.at(bind, 0)).await.unwrap();
        http1.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        while !http1.read_some().await.unwrap().ends_with(b"first") {}
        let client = H2Client::h2c(world.at(bind, 0), None).await.unwrap();
        let http2 = tokio::spawn(async move {
            let answer = client.get("/").await.map_err(|error| error.to_string())?;
            Ok((answer.status, answer.text()))
        });
        let echo = world.echo.address();
        let mut tunnel = RawHttp::connect(world.at(bind, 2)).await.unwrap();
        tunnel.send(format!("CONNECT {echo} HTTP/1.1\r\nHost: {echo}\r\n\r\n")).await.unwrap();
        assert_eq!(tunnel.read_response_to("CONNECT").await.unwrap().status, 200);
        let config: ClientConfig = client_config(&world.authority, None);
        let passed = tls_connect(world.at(bind, 1), None, config, Some("o.example")).await.unwrap();
        let mut running = Self { http1, http2, tunnel, passed: RawHttp::over(passed) };
        running.goes_on().await;
        while world.slow.received().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        running
    }

    /// Tunnels carry bytes both ways, also once connections were looked at that have to end.
    async fn goes_on(&mut self) {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.carry().await;
        }
    }

    async fn carry(&mut self) {
        self.tunnel.send("hello").await.unwrap();
        assert_eq!(self.tunnel.read_exactly(5).await.unwrap(), b"hello");
        assert_eq!(self.passed.get("o.example", "/").await.unwrap().status, 200);
    }

    /// The second half of answers comes too.
    async fn end(mut self, world: &World) {
        self.goes_on().await;
        world.rest.notify_waiters();
        assert_eq!(self.http1.read_exactly(5).await.unwrap(), b"other");
        assert_eq!(self.http2.await.unwrap(), Ok((200, "firstother".to_owned())));
    }
}

// S1.35+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_goes_on_when_its_listener_or_a_neighbours_moves_to_another_bind() {
    let (one, other) = (unique_loopback(), unique_loopback());
    let (near, far) = (Bind::Port(one, 0), Bind::Port(other, 0));
    let moves = [
        ([Bind::Own, Bind::Own], [Bind::All, Bind::Own]),
        ([Bind::Own, Bind::Own], [Bind::Own, Bind::All]),
        ([Bind::All, Bind::All], [Bind::Own, Bind::All]),
        ([Bind::All, Bind::All], [Bind::All, Bind::Own]),
        ([Bind::Own, Bind::Own], [near, Bind::Own]),
        ([near, Bind::Own], [Bind::Own, Bind::Own]),
        ([near, Bind::Own], [far, Bind::Own]),
        ([near, far], [near, Bind::Own]),
        ([Bind::Own, near], [Bind::Own, far]),
        ([near, Bind::Own], [Bind::Port(one, 1), Bind::Own]),
    ];
    for (before, after) in moves {
        println!("{before:?} to {after:?}");
        let world = World::new();
        let mut gateway = Gateway::prepare().start(&world.documents(before));
        assert_eq!(gateway.findings(), Vec::<String>::new());
        let mut running = Running::start(&world, before[0]).await;

        gateway.reload(&world.documents(after));
        running.goes_on().await;
        gateway.reload(&world.documents(before));
        running.goes_on().await;
        gateway.reload(&world.documents(after));

        running.end(&world).await;
        assert_eq!(gateway.isolation_violations(), 0);
        gateway.stop();
    }
}

// S1.35+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn narrower_sources_end_the_connections_of_clients_they_leave_out_and_no_others() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let (address, egress, port) = (unique_loopback(), unique_loopback(), 9000);
    let document = |sources: &str| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  ingress:\n    - {{address: {address}, port: {port}, protocol: TCP, {sources}upstream: echo}}\n  upstreams:\n    echo: {{endpoints: [\"{}\"], protocol: TCP}}\n  egress: {{addresses: [{egress}]}}\n",
            echo.address()
        )
    };
    let [stays, goes] = [[127, 200, 2, 1], [127, 200, 2, 129]].map(IpAddr::from);
    for wider in ["", "allowedSources: [127.200.2.0/24], "] {
        let mut gateway = Gateway::prepare().start(&document(wider));
        let door = SocketAddr::from((address, port));
        let mut kept = RawHttp::connect_from(stays, door).await.unwrap();
        let mut cut = RawHttp::connect_from(goes, door).await.unwrap();
        for tunnel in [&mut kept, &mut cut] {
            pass(tunnel).await;
        }

        gateway.reload(&document("allowedSources: [127.200.2.0/25], "));
        assert!(cut.is_closed().await, "{wider}");
        pass(&mut kept).await;
        // What it was widened to since does not matter to the next edit.
        gateway.reload(&document("allowedSources: [127.200.2.0/24, 192.0.2.0/24], "));
        pass(&mut kept).await;
        gateway.reload(&document("allowedSources: [127.200.2.128/25], "));
        assert!(kept.is_closed().await, "{wider}");
        gateway.stop();
    }
}

async fn pass(tunnel: &mut RawHttp) {
    tunnel.send("hello").await.unwrap();
    assert_eq!(tunnel.read_exactly(5).await.unwrap(), b"hello");
}
