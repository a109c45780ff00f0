//! The world outside: servers that say whom they see, and a wire that is listened on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use durward_testkit::client::client_hello::ClientHello;
use durward_testkit::netns::Namespace;

use super::{EVIL, GOOD, OTHER, at};

/// Long enough for a busy machine, short enough for tests of silence.
pub(super) const SOON: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct World {
    pub(super) namespace: Namespace,
    reached: Arc<Mutex<Vec<SocketAddr>>>,
}

impl World {
    /// Each address answers at ports of TLS and HTTP, at one of neither, and by UDP, with the peer it sees.
    pub(super) fn new(namespace: Namespace) -> Self {
        let world = Self { namespace, reached: Arc::default() };
        for address in [GOOD, OTHER, EVIL].iter().flatten() {
            world.serve(at(address, 443), |stream, peer| {
                let mut bytes = [0; 4096];
                if matches!(stream.read(&mut bytes), Ok(1..)) {
                    let _ = stream.write_all(format!("seen {}\n", peer.ip()).as_bytes());
                }
            });
            world.serve(at(address, 80), answer_requests);
            world.serve(at(address, 22), |stream, peer| {
                let _ = stream.write_all(format!("seen {}\n", peer.ip()).as_bytes());
            });
            for port in [53, 443, 9999] {
                let socket = world.namespace.run(|| UdpSocket::bind(at(address, port)).unwrap());
                thread::spawn(move || {
                    let mut bytes = [0; 512];
                    while let Ok((_, peer)) = socket.recv_from(&mut bytes) {
                        let _ = socket.send_to(format!("seen {}", peer.ip()).as_bytes(), peer);
                    }
                });
            }
        }
        world
    }

    fn serve(&self, at: SocketAddr, each: fn(&mut TcpStream, SocketAddr)) {
        let listener = self.namespace.run(|| TcpListener::bind(at).unwrap());
        let reached = Arc::clone(&self.reached);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let Ok(peer) = stream.peer_addr() else { continue };
                reached.lock().unwrap().push(at);
                thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    each(&mut stream, peer);
                });
            }
        });
    }

    /// How many connections a server has had.
    pub(super) fn reached(&self, server: SocketAddr) -> usize {
        self.reached.lock().unwrap().iter().filter(|one| **one == server).count()
    }
}

/// Answers requests without body, one after the other, with their host and the peer.
fn answer_requests(stream: &mut TcpStream, peer: SocketAddr) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..length]);
        while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes.drain(..end + 4).collect()).unwrap();
            let host =
                head.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap_or("nobody");
            let body = format!("{host} seen {}", peer.ip());
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// How a client fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The far side said this.
    Said(String),
    /// It got a fatal alert.
    Alert(u8),
    /// It was cut off, or got nowhere.
    Failed(std::io::ErrorKind),
}

/// Begins TLS for a name, or for none, as a program would that knows no proxy.
pub(super) fn tls(pod: &Namespace, to: SocketAddr, name: Option<&str>) -> Fate {
    let hello = ClientHello::new().tls13();
    let hello = match name {
        Some(name) => hello.server_name(name),
        None => hello,
    };
    speak(pod, to, &hello.encode())
}

/// Says something and hears what comes back: a line, or an alert.
pub(super) fn speak(pod: &Namespace, to: SocketAddr, bytes: &[u8]) -> Fate {
    let failed = |error: std::io::Error| Fate::Failed(error.kind());
    pod.run(|| {
        let mut stream = match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(stream) => stream,
            Err(error) => return failed(error),
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        if let Err(error) = stream.write_all(bytes) {
            return failed(error);
        }
        let mut heard = Vec::new();
        let mut byte = [0];
        loop {
            match stream.read(&mut byte) {
                Ok(0) => return Fate::Failed(std::io::ErrorKind::UnexpectedEof),
                Ok(_) => heard.push(byte[0]),
                Err(error) => return failed(error),
            }
            if heard[0] == 21 && heard.len() == 7 {
                return Fate::Alert(heard[6]);
            }
            if byte == *b"\n" {
                return Fate::Said(String::from_utf8(heard).unwrap().trim().to_owned());
            }
        }
    })
}

/// What a UDP server says.
pub(super) fn udp(pod: &Namespace, to: SocketAddr, patience: Duration) -> Fate {
    pod.run(|| {
        let any: SocketAddr = if to.is_ipv4() { at("0.0.0.0", 0) } else { at("::", 0) };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        let mut bytes = [0; 512];
        let asked = socket.connect(to).and_then(|()| socket.send(b"?"));
        match asked.and_then(|_| socket.recv(&mut bytes)) {
            Ok(length) => Fate::Said(String::from_utf8_lossy(&bytes[..length]).into_owned()),
            Err(error) => Fate::Failed(error.kind()),
        }
    })
}

pub(super) fn seen(address: &str) -> Fate {
    Fate::Said(format!("seen {address}"))
}
