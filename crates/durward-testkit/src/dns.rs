//! A DNS server that answers what a test wants answered, differently each time if it likes.
//! It runs on a thread of its own, in the network namespace it was started in.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Identity, server_config};
use crate::origin::Server;

/// A running server. It ends when it is dropped.
pub struct DnsServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    _secured: Option<Server>,
}

#[derive(Default)]
struct State {
    names: HashMap<String, Name>,
    asked: Vec<(String, SocketAddr)>,
}

/// What a name stands for: one list after the other, the last for good.
struct Name {
    answers: Vec<Vec<IpAddr>>,
    alias: Option<String>,
    turn: usize,
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

impl DnsServer {
    /// Knows no name yet.
    ///
    /// # Panics
    /// When the address cannot be bound.
    #[must_use]
    pub fn start(bind: impl ToSocketAddrs) -> Self {
        let socket = UdpSocket::bind(bind).expect("the address is free");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
        let address = socket.local_addr().expect("a bound socket has an address");
        let (state, stop) =
            (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (served, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut query = [0; 1024];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
                if let Some(answer) = lock(&served).answer(&query[..length], from) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, state, stop, _secured: None }
    }

    /// The same by TLS (RFC 7858).
    #[must_use]
    pub fn tls(bind: impl ToSocketAddrs, identity: &Identity) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let acceptor = TlsAcceptor::from(Arc::new(server_config(identity, None)));
        let served = Arc::clone(&state);
        let server = Server::start(bind, move |accepted| {
            let (acceptor, served) = (acceptor.clone(), Arc::clone(&served));
            async move {
                let Ok(mut stream) = acceptor.accept(accepted.stream).await else { return };
                while let Ok(length) = stream.read_u16().await {
                    let mut query = vec![0; usize::from(length)];
                    if stream.read_exact(&mut query).await.is_err() {
                        return;
                    }
                    let Some(answer) = lock(&served).answer(&query, accepted.peer) else { return };
                    let length = u16::try_from(answer.len()).expect("answers are short");
                    let framed = [&length.to_be_bytes()[..], &answer].concat();
                    if stream.write_all(&framed).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                }
            }
        });
        let (address, stop) = (server.address(), Arc::new(AtomicBool::new(false)));
        Self { address, state, stop, _secured: Some(server) }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `name` stands for these addresses.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        self.set_each_time(name, &[addresses]);
    }

    /// From now on `name` stands for one list after the other, a new one each time its A record is asked for, and the last for good.
    pub fn set_each_time(&self, name: &str, answers: &[&[IpAddr]]) {
        let answers = answers.iter().map(|addresses| addresses.to_vec()).collect();
        let known = Name { answers, alias: None, turn: 0 };
        lock(&self.state).names.insert(name.to_ascii_lowercase(), known);
    }

    /// From now on `name` is another name for what stands for these addresses.
    pub fn set_alias(&self, name: &str, alias: &str, addresses: &[IpAddr]) {
        let known =
            Name { answers: vec![addresses.to_vec()], alias: Some(alias.to_owned()), turn: 0 };
        lock(&self.state).names.insert(name.to_ascii_lowercase(), known);
    }

    /// Every name that was asked for, and from where.
    #[must_use]
    pub fn asked(&self) -> Vec<(String, SocketAddr)> {
        lock(&self.state).asked.clone()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn answer(&mut self, query: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
        let (name, end) = question(query)?;
        let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
        let question = query.get(12..end + 4)?;
        self.asked.push((name.clone(), from));
        let known = self.names.get_mut(&name);
        let code = if known.is_some() { 0 } else { 3 };
        let mut records = Vec::new();
        let mut count = 0u16;
        if let Some(known) = known {
            let mut owner = vec![0xc0, 12];
            if let Some(alias) = &known.alias {
                let target = encoded(alias);
                record(&mut records, &owner, CNAME, &target);
                owner = target;
                count += 1;
            }
            let addresses = &known.answers[known.turn.min(known.answers.len() - 1)];
            for address in addresses {
                match address {
                    IpAddr::V4(v4) if kind == A => record(&mut records, &owner, A, &v4.octets()),
                    IpAddr::V6(v6) if kind == AAAA => {
                        record(&mut records, &owner, AAAA, &v6.octets());
                    }
                    _ => continue,
                }
                count += 1;
            }
            known.turn += usize::from(kind == A);
        }
        let mut answer = vec![query[0], query[1], 0x85, 0x80 | code, 0, 1];
        answer.extend_from_slice(&count.to_be_bytes());
        answer.extend_from_slice(&[0, 0, 0, 0]);
        answer.extend_from_slice(question);
        answer.extend_from_slice(&records);
        Some(answer)
    }
}

/// The name asked for, and where its type begins.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join(".").to_ascii_lowercase(), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).into_owned());
        at += length;
    }
}

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("labels are short"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// A record that holds for no time at all.
fn record(out: &mut Vec<u8>, owner: &[u8], kind: u16, data: &[u8]) {
    out.extend_from_slice(owner);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0]);
    out.extend_from_slice(&u16::try_from(data.len()).expect("records are short").to_be_bytes());
    out.extend_from_slice(data);
}
