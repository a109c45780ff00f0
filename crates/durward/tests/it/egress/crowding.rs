//! One tenant's client that opens whatever it can, in a process that may have few files; and the others, who must not notice.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use durward_testkit::origin::Origin;
use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};
use durward_testkit::secrets;
use rustix::process::Signal;

use super::document;
use crate::support::{DEADLINE, admin_address, durward, get, status, tenant};

/// As many as many a shell gives.
const FILES: u32 = 1024;

/// The binary, allowed so many files.
fn frugal(arguments: &[&str]) -> Command {
    let whole = durward(arguments);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {FILES} && exec \"$@\"")).arg("sh");
    command.arg(whole.get_program()).args(whole.get_args());
    for (name, value) in whole.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// An HTTP origin at every loopback address that keeps its connections.
fn everywhere() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while stream.read(&mut bytes).is_ok_and(|count| count > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

fn open_files(child: &Child) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count()
}

/// The status of what comes back for a request; 0 when nothing does.
fn ask(client: &mut TcpStream, request: &str) -> u16 {
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut head = [0; 4096];
    let count = client.write_all(request.as_bytes()).and_then(|()| client.read(&mut head));
    let count = count.unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..count]);
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// A gateway of a greedy tenant with a proxy, and a modest one with ingress.
struct Crowded {
    child: Child,
    dir: TempDir,
    proxy: SocketAddr,
    modest: SocketAddr,
    admin: SocketAddr,
    far: u16,
    _origin: Origin,
}

impl Crowded {
    fn start() -> Self {
        Self::with(&["greedy"])
    }

    /// A proxy of these tenants, told apart by credentials where there are several.
    fn with(tenants: &[&str]) -> Self {
        let (origin, far, dir) = (Origin::http1("127.0.0.1:0"), everywhere(), TempDir::new());
        let proxy = SocketAddr::from((unique_loopback(), 3128));
        let modest = SocketAddr::from((unique_loopback(), 8080));
        let allow = format!("allow: [{{cidr: 127.9.0.0/16, ports: [{far}]}}]");
        for name in tenants {
            let hash = secrets::sha256_hex(&format!("secret of {name}"));
            dir.write(format!("users-{name}"), format!("{name}:{hash}\n"));
            let entry = match tenants.len() {
                1 => format!("address: {}, allowedSources: [127.0.0.0/8]", proxy.ip()),
                _ => format!(
                    "address: {}, shared: true, credentials: {{file: users-{name}}}",
                    proxy.ip()
                ),
            };
            let document = document(name, unique_loopback(), &entry, &allow);
            dir.write(format!("{name}.yaml"), document);
        }
        dir.write("modest.yaml", tenant("modest", modest.ip(), modest.port(), origin.address()));
        let admin = admin_address();
        let at = admin.to_string();
        let place = dir.path().to_str().unwrap().to_owned();
        let arguments = ["run", "-c", &*place, "--admin", &*at, "--workers", "2", "--no-watch"];
        let child = Child::spawn(frugal(&[&arguments[..], &["--access-log", "off"]].concat()));
        let gateway = Self { child, dir, proxy, modest, admin, far, _origin: origin };
        let ready = eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200));
        assert!(ready, "{}", gateway.child.output());
        gateway
    }

    fn place(&self, at: u16) -> SocketAddr {
        let [high, low] = at.to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(127, 9, high, low), self.far))
    }

    fn others_are_served(&mut self) {
        let open = open_files(&self.child);
        assert!(open < FILES as usize / 10 * 9, "{open}");
        assert_eq!(get(self.modest, "/").map(|(status, _)| status), Some(200), "{open} files open");
        // The control side has files, too: a change is read and served.
        let text = std::fs::read_to_string(self.dir.join("modest.yaml"))
            .unwrap()
            .replace("name: modest", "name: meek");
        self.dir.write("modest.yaml", text);
        self.child.signal(Signal::HUP);
        let served = || get(self.admin, "/snapshot?kind=connections").map(|(_, text)| text);
        let changed = || served().is_some_and(|text| text.contains("\"meek\""));
        assert!(eventually_blocking(DEADLINE, changed), "{}", self.child.output());
    }
}

// S2.60 S1.71
#[test]
fn requests_to_everywhere_on_one_connection_leave_the_others_their_files() {
    let mut gateway = Crowded::start();
    let mut client = TcpStream::connect(gateway.proxy).unwrap();

    for at in 1..u16::try_from(FILES).unwrap() + 200 {
        let place = gateway.place(at);
        let request = format!("GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n");
        assert_eq!(ask(&mut client, &request), 200, "idle connections make room");
    }

    gateway.others_are_served();
}

// S2.60 S1.71
#[test]
fn tunnels_to_everywhere_are_refused_before_the_others_suffer() {
    let mut gateway = Crowded::start();
    let (mut tunnels, mut refused) = (Vec::new(), 0);

    for at in 1..400 {
        let Ok(mut client) = TcpStream::connect(gateway.proxy) else { continue };
        let place = gateway.place(at);
        match ask(&mut client, &format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n")) {
            200 => tunnels.push(client),
            _ => refused += 1,
        }
    }

    assert!(refused > 0 && tunnels.len() > 50, "{refused} refused, {} open", tunnels.len());
    gateway.others_are_served();
    assert!(
        get(gateway.admin, "/metrics").unwrap().1.contains("reason=\"fair_share\""),
        "it is counted"
    );
}

#[test]
fn silent_connections_at_a_shared_proxy_leave_other_binds_and_its_own_clients_served() {
    let mut gateway = Crowded::with(&["one", "two"]);
    let place = gateway.place(1);
    let shown = secrets::basic("two", "secret of two");
    let request = format!(
        "GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\nProxy-Authorization: {shown}\r\n\r\n"
    );

    let silent: Vec<TcpStream> = (0..usize::try_from(FILES).unwrap() - 100)
        .filter_map(|_| TcpStream::connect(gateway.proxy).ok())
        .collect();

    assert!(silent.len() > 500, "{} are open here", silent.len());
    let mut client = TcpStream::connect(gateway.proxy).unwrap();
    assert_eq!(ask(&mut client, &request), 200, "who speaks is served");
    // The kernel keeps who says nothing for a while.
    let crowded = || get(gateway.admin, "/metrics").unwrap().1.contains("reason=\"crowded\"");
    assert!(eventually_blocking(DEADLINE, crowded), "older ones made room");
    gateway.others_are_served();
}
