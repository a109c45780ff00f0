//! A running gateway on addresses of its own, and the few lines of HTTP its tests need.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};

/// Long enough for a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The binary, with nothing of our environment that it would read.
pub(crate) fn durward(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_durward"));
    for name in [
        "DURWARD_CONFIG",
        "ROUTING_CONFIG_PATH",
        "DURWARD_LOG",
        "DURWARD_ACCESS_LOG",
        "DURWARD_DECISION_LOG",
        "DURWARD_AUDIT_LOG",
        "DURWARD_AUDIT_SYNC",
        "DURWARD_MEMORY",
        "RUST_LOG",
        "NOTIFY_SOCKET",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

/// Runs it to its end.
pub(crate) fn output(arguments: &[&str]) -> Output {
    durward(arguments).output().unwrap()
}

/// Standard output as text.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A tenant that serves plain HTTP at `address` and forwards everything to `upstream`.
pub(crate) fn tenant(name: &str, address: IpAddr, port: u16, upstream: SocketAddr) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  \
           ingress:\n    - {{address: {address}, port: {port}, protocol: HTTP, routes: [{{pathPrefix: /, upstream: app}}]}}\n  \
           upstreams:\n    app: {{endpoints: [\"{upstream}\"]}}\n  \
           egress: {{addresses: [{address}]}}\n"
    )
}

/// A gateway that runs.
pub(crate) struct Gateway {
    pub(crate) child: Child,
    pub(crate) dir: TempDir,
    /// Where its one tenant is served.
    pub(crate) listener: SocketAddr,
    /// Its admin interface.
    pub(crate) admin: SocketAddr,
}

impl Gateway {
    /// One tenant, `acme`, that forwards to `upstream`; ready.
    pub(crate) fn start(upstream: SocketAddr, more: &[&str]) -> Self {
        let listener = SocketAddr::new(unique_loopback().into(), 8080);
        let dir = TempDir::new();
        dir.write("acme.yaml", tenant("acme", listener.ip(), listener.port(), upstream));
        let admin = admin_address();
        let child = spawn(dir.path(), admin, more);
        let gateway = Self { child, dir, listener, admin };
        gateway.wait_ready();
        gateway
    }

    /// Waits until it says that it is ready.
    pub(crate) fn wait_ready(&self) {
        let ready = eventually_blocking(DEADLINE, || status(self.admin, "/readyz") == Some(200));
        assert!(ready, "not ready: {}", self.child.output());
    }

    /// A request through the gateway.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.listener, path)
    }
}

/// An address for an admin interface that nobody else has.
pub(crate) fn admin_address() -> SocketAddr {
    SocketAddr::new(unique_loopback().into(), 9440)
}

/// `durward run` on what is in `dir`.
pub(crate) fn spawn(dir: &Path, admin: SocketAddr, more: &[&str]) -> Child {
    let (dir, admin) = (dir.to_str().unwrap().to_owned(), admin.to_string());
    let arguments = [
        "--log-format",
        "json",
        "run",
        "-c",
        &dir,
        "--admin",
        &admin,
        "--workers",
        "2",
        "--access-log",
        "off",
    ];
    Child::spawn(durward(&[&arguments[..], more].concat()))
}

/// A GET of its own connection: the status and the body; `None` when nobody answers properly.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    request(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
    )
}

/// The status of a GET.
pub(crate) fn status(address: SocketAddr, path: &str) -> Option<u16> {
    get(address, path).map(|(status, _)| status)
}

/// One exchange on a connection of its own.
pub(crate) fn request(address: SocketAddr, text: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    stream.write_all(text.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let (Answer { status, body, .. }, _) = Answer::read(&answer, false)?;
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and header fields, in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first response in `bytes` and what follows it; `None` if it is not whole. The answer to a HEAD has no body.
    pub(crate) fn read(bytes: &[u8], to_head: bool) -> Option<(Self, &[u8])> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let rest = &bytes[end..];
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let (body, rest) = if to_head {
            (Vec::new(), rest)
        } else if head.contains("\r\ntransfer-encoding: chunked\r\n") {
            unchunked(rest)?
        } else if let Some(length) = length {
            let length = length.trim().parse().ok()?;
            (rest.get(..length)?.to_vec(), &rest[length..])
        } else {
            (rest.to_vec(), &rest[rest.len()..])
        };
        Some((Self { status, head, body }, rest))
    }
}

/// The contents of a chunked body, and what follows it.
fn unchunked(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?, 16).ok()?;
        let chunk = bytes.get(end + 2..end + 2 + size)?;
        body.extend_from_slice(chunk);
        bytes = bytes.get(end + 2 + size..)?.strip_prefix(b"\r\n")?;
        if size == 0 {
            return Some((body, bytes));
        }
    }
}

/// Where nobody listens.
pub(crate) fn nowhere() -> SocketAddr {
    SocketAddr::new(unique_loopback().into(), 9)
}

/// Any port of plain loopback.
pub(crate) const HERE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
