//! Random requests, as a question and as bytes.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use durward_model::explain::{Question, Shown};
use durward_model::transport::Transport;
use durward_testkit::client::{RawHttp, RawResponse, tls_over};
use durward_testkit::secrets;
use tokio::net::{TcpSocket, TcpStream};

use super::world::{CLIENTS, Door, Kind, NAMES, USER, World};
use crate::isolation::Random;

/// How a forward proxy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Connect,
    Plain,
    Socks,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    door: Door,
    client: Ipv4Addr,
    sni: Option<&'static str>,
    host: String,
    path: &'static str,
    method: &'static str,
    environment: Option<&'static str>,
    pub(super) shows: Option<usize>,
    shown: Shown,
    way: Way,
    resolved: Option<IpAddr>,
}

/// What a client and an origin saw of it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The client's end of the connection; none where nobody listens.
    pub(super) client: Option<SocketAddr>,
    /// Where it came from, as the origin saw it.
    pub(super) egress: Option<IpAddr>,
}

const SNI: [Option<&str>; 7] = [
    None,
    Some("a.example"),
    Some("b.example"),
    Some("x.wild.example"),
    Some("deep.x.wild.example"),
    Some("unknown.example"),
    Some("A.Example"),
];
const HOSTS: [&str; 20] = [
    "a.example",
    "a.example",
    "b.example",
    "c.example",
    "x.wild.example",
    "X.Wild.Example.",
    "deep.x.wild.example",
    "wild.example",
    "unknown.example",
    "A.EXAMPLE",
    "a.example.",
    "a.example:8443",
    "a.example.:80",
    "b.example:",
    "192.0.2.7",
    "[2001:db8::1]:443",
    "a.example:port",
    "user@a.example",
    "a b",
    "a..example",
];
const PATHS: [&str; 22] = [
    "/",
    "/",
    "/a",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/c",
    "/ab",
    "/A",
    "/x",
    "/x/",
    "/x?y=1",
    "/?a=b",
    "//a",
    "/a//b",
    "/%61",
    "/%61%2fb",
    "/a/../x",
    "/a/%2e%2e/x",
    "/a%zz",
    "/a;v=1",
    "/a%00",
];

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.below(from.len())]
}

impl Asked {
    pub(super) fn random(random: &mut Random, world: &World) -> Self {
        let mut door = pick(random, &world.doors);
        if random.chance(4) {
            // Perhaps nobody's.
            let other = pick(random, &world.doors);
            door.kind = other.kind;
            door.address.set_port(other.address.port());
        }
        if door.kind == Kind::Forward {
            return Self::outwards(random, world, door);
        }
        let sni = pick(random, &SNI);
        let method = pick(random, &["GET", "GET", "GET", "POST", "DELETE", "HEAD", "OPTIONS"]);
        let path = match method {
            "OPTIONS" if random.chance(30) => "*",
            _ => pick(random, &PATHS),
        };
        let same = sni.filter(|_| random.chance(50)).map(str::to_owned);
        let host = match random.below(10) {
            0 => door.address.ip().to_string(),
            1 => door.address.to_string(),
            _ => same.unwrap_or_else(|| pick(random, &HOSTS).to_owned()),
        };
        Self {
            door,
            client: client(random),
            sni: sni.filter(|_| matches!(door.kind, Kind::Https | Kind::Tls)),
            host,
            path,
            method,
            environment: pick(random, &[None, None, Some("prod"), Some("test")]),
            shows: pick(random, &[None, Some(0), Some(0), Some(1)])
                .filter(|_| door.kind == Kind::Https),
            shown: Shown::Nothing,
            way: Way::Plain,
            resolved: None,
        }
    }

    fn outwards(random: &mut Random, world: &World, door: Door) -> Self {
        let port = match random.below(10) {
            0 => 25,
            1 => 9,
            _ => world.origin.port(),
        };
        let (host, resolved) = match random.below(3) {
            0 => {
                let (name, address) = pick(random, &NAMES);
                let name = if random.chance(20) {
                    format!("{}.", name.to_ascii_uppercase())
                } else {
                    name.to_owned()
                };
                (name, Some(IpAddr::from(address)))
            }
            1 => ("127.0.0.1".to_owned(), None),
            _ => {
                let near =
                    ["10.1.2.3", "192.168.1.1", "169.254.169.254", "127.0.0.9", "0x7f.1", "[::1]"];
                let own = pick(random, &world.doors).address.ip().to_string();
                (if random.chance(20) { own } else { pick(random, &near).to_owned() }, None)
            }
        };
        let way = pick(random, &[Way::Connect, Way::Plain, Way::Socks]);
        Self {
            door,
            client: client(random),
            sni: None,
            host: format!("{host}:{port}"),
            path: "/",
            method: if way == Way::Plain { pick(random, &["GET", "POST"]) } else { "CONNECT" },
            environment: None,
            shows: None,
            shown: shown(random, door),
            way,
            resolved,
        }
    }

    pub(super) fn question(&self) -> Question {
        Question {
            client: Some(self.client.into()),
            destination: self.door.address,
            transport: Transport::Tcp,
            sni: self.sni.map(str::to_owned),
            host: Some(self.host.clone()),
            path: self.path.to_owned(),
            method: self.method.to_owned(),
            headers: self
                .environment
                .iter()
                .map(|value| ("X-Env".to_owned(), (*value).to_owned()))
                .collect(),
            client_certificate: self.shows.map_or(Shown::Nothing, |_| Shown::Valid),
            credential: self.shown.clone(),
            resolved: self.resolved,
        }
    }

    fn request(&self) -> String {
        let environment =
            self.environment.map_or_else(String::new, |value| format!("X-Env: {value}\r\n"));
        let length = if self.method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let (method, host, path) = (self.method, &self.host, self.path);
        let url = match self.door.kind {
            Kind::Forward => format!("http://{host}{path}"),
            _ => path.to_owned(),
        };
        let credential = self.credential_field();
        format!(
            "{method} {url} HTTP/1.1\r\nHost: {host}\r\n{environment}{length}{credential}Connection: close\r\n\r\n"
        )
    }
}

impl Asked {
    fn credential_field(&self) -> String {
        self.pair().map_or_else(String::new, |(user, secret)| {
            format!("Proxy-Authorization: {}\r\n", secrets::basic(&user, &secret))
        })
    }

    /// Returns the user and the secret that the client sends.
    fn pair(&self) -> Option<(String, String)> {
        let Shown::Of(name) = &self.shown else { return None };
        let user = name.rsplit_once('/').map_or(&**name, |(_, user)| user);
        let secret = if user == NOBODY { "wrong".to_owned() } else { self.door.secret(user) };
        Some((user.to_owned(), secret))
    }

    /// Returns the same question without the name of what is shown, if the client shows a valid credential.
    pub(super) fn unnamed(&self) -> Option<Question> {
        let is_valid = matches!(&self.shown, Shown::Of(name) if name != NOBODY);
        is_valid.then(|| Question { credential: Shown::Valid, ..self.question() })
    }
}

/// The name of a credential that no proxy knows.
const NOBODY: &str = "nobody";

/// What a client of a tenant's proxy shows: the credential whose name all tenants have, one that only this tenant has, none, or a wrong one.
fn shown(random: &mut Random, door: Door) -> Shown {
    match random.below(8) {
        0..3 => Shown::Of(format!("{}/{USER}", door.name())),
        3..6 => Shown::Of(door.user()),
        6 => Shown::Nothing,
        _ => Shown::Of(NOBODY.to_owned()),
    }
}

fn client(random: &mut Random) -> Ipv4Addr {
    Ipv4Addr::new(127, 200, 0, u8::try_from(1 + random.below(CLIENTS.into())).expect("few clients"))
}

/// A socket of the client's, at an end that no request had before: it tells the lines of the log apart.
fn socket(client: Ipv4Addr, ends: &mut HashSet<SocketAddr>) -> (TcpSocket, SocketAddr) {
    loop {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(client.into(), 0)).expect("a loopback address");
        let end = socket.local_addr().expect("a bound socket has an address");
        if ends.insert(end) {
            return (socket, end);
        }
    }
}

/// Makes the request.
pub(super) async fn ask(world: &World, asked: &Asked, ends: &mut HashSet<SocketAddr>) -> Seen {
    let (socket, client) = socket(asked.client, ends);
    let client = Some(client);
    let stream = match socket.connect(asked.door.address).await {
        Ok(stream) => stream,
        Err(error) => {
            // One that is closed before TLS may be reset before its client looks.
            let heard = error.kind() != std::io::ErrorKind::ConnectionRefused;
            return Seen { client: client.filter(|_| heard), egress: None };
        }
    };
    let egress = over(world, asked, stream).await.filter(|answer| answer.status == 200);
    let egress = egress.filter(|answer| !answer.body.is_empty());
    Seen { client, egress: egress.map(|answer| answer.echo().peer.ip()) }
}

async fn over(world: &World, asked: &Asked, stream: TcpStream) -> Option<RawResponse> {
    let config = world.config(asked.shows);
    let tls = async |stream| Some(RawHttp::over(tls_over(stream, config, asked.sni).await.ok()?));
    match asked.door.kind {
        Kind::Http => exchange(RawHttp::over(stream), &asked.request(), asked.method).await,
        Kind::Tcp => exchange(RawHttp::over(stream), PLAIN, "GET").await,
        Kind::Https => exchange(tls(stream).await?, &asked.request(), asked.method).await,
        Kind::Tls => exchange(tls(stream).await?, PLAIN, "GET").await,
        Kind::Forward => outwards(asked, RawHttp::over(stream)).await,
    }
}

const PLAIN: &str = "GET / HTTP/1.1\r\nHost: o.example\r\nConnection: close\r\n\r\n";

async fn exchange(mut http: RawHttp, request: &str, method: &str) -> Option<RawResponse> {
    http.send(request).await.ok()?;
    http.read_response_to(method).await.ok()
}

async fn outwards(asked: &Asked, mut http: RawHttp) -> Option<RawResponse> {
    match asked.way {
        Way::Plain => return exchange(http, &asked.request(), asked.method).await,
        Way::Connect => {
            let (host, credential) = (&asked.host, asked.credential_field());
            let request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{credential}\r\n");
            http.send(request).await.ok()?;
            http.read_response_to("CONNECT").await.ok().filter(|answer| answer.status == 200)?;
        }
        Way::Socks => socks(asked, &mut http).await?,
    }
    exchange(http, PLAIN, "GET").await
}

async fn socks(asked: &Asked, http: &mut RawHttp) -> Option<()> {
    let pair = asked.pair();
    let offer: &[u8] = if pair.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
    http.send(offer).await.ok()?;
    match *http.read_exactly(2).await.ok()?.last()? {
        0 => {}
        2 => {
            let string = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
            let (user, secret) = pair?;
            http.send([vec![1], string(&user), string(&secret)].concat()).await.ok()?;
            if http.read_exactly(2).await.ok()? != [1, 0] {
                return None;
            }
        }
        _ => return None,
    }
    let (host, port) = asked.host.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    let target = match host.parse() {
        Ok(IpAddr::V4(v4)) => [&[1][..], &v4.octets()].concat(),
        Ok(IpAddr::V6(v6)) => [&[4][..], &v6.octets()].concat(),
        Err(_) => [&[3, host.len() as u8][..], host.as_bytes()].concat(),
    };
    let port: u16 = port.parse().ok()?;
    http.send([&[5, 1, 0][..], &target, &port.to_be_bytes()].concat()).await.ok()?;
    (http.read_exactly(10).await.ok()?[1] == 0).then_some(())
}
