//! Names asked of a DNS server made here.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::upstream::{Endpoint, Target};
use tokio::net::UdpSocket;

use super::super::resolve::{Resolver, Unresolved};
use super::support::{bind, on_a_core_with, take, take_io, upstream, view};
use crate::prepared::TenantView;

/// Answers every A query with `addresses` and `ttl`, every other with nothing; silent when told so.
struct Dns {
    addresses: RefCell<Vec<Ipv4Addr>>,
    ttl: Cell<u32>,
    silent: Cell<bool>,
    asked: Cell<u32>,
}

async fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn serve(socket: UdpSocket, addresses: &[Ipv4Addr], ttl: u32) -> Rc<Dns> {
    let dns = Rc::new(Dns {
        addresses: RefCell::new(addresses.to_vec()),
        ttl: Cell::new(ttl),
        silent: Cell::new(false),
        asked: Cell::new(0),
    });
    let served = Rc::clone(&dns);
    tokio::task::spawn_local(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            if served.silent.get() {
                continue;
            }
            let answer = served.answer(&query[..length]);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    dns
}

impl Dns {
    fn answer(&self, query: &[u8]) -> Vec<u8> {
        let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let question = &query[12..end];
        let wants_a = question[question.len() - 4..] == [0, 1, 0, 1];
        let addresses = self.addresses.borrow();
        let answers = if wants_a { &addresses[..] } else { &[] };
        self.asked.set(self.asked.get() + u32::from(wants_a));
        let code = if addresses.is_empty() { 3 } else { 0 };
        let mut answer = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1];
        answer.extend([0, answers.len() as u8, 0, 0, 0, 0]);
        answer.extend(question);
        for address in answers {
            answer.extend([0xC0, 12, 0, 1, 0, 1]);
            answer.extend(self.ttl.get().to_be_bytes());
            answer.extend([0, 4]);
            answer.extend(address.octets());
        }
        answer
    }
}

fn named(port: u16) -> TenantView {
    let mut config = upstream(&["127.0.0.1:1".parse().unwrap()], "127.0.0.2");
    let target = Target::Name { host: "pay.example".into(), port };
    config.endpoints = vec![Endpoint { target, weight: 1 }];
    view("a", config)
}

const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);

// S1.4
#[tokio::test]
async fn a_name_is_asked_once_per_ttl_and_moves_when_the_dns_says_so() {
    let (udp, server) = socket().await;
    on_a_core_with(Resolver::at_server(server), |core| async move {
        let dns = serve(udp, &[ONE], 1);
        let (_first, address) = bind().await;
        let moved = SocketAddr::new(TWO.into(), address.port());
        let _second = tokio::net::TcpListener::bind(moved).await.unwrap();
        let view = named(address.port());

        for _ in 0..10 {
            assert_eq!(take_io(&core, &view).await.1.peer.0, address);
        }
        assert_eq!(dns.asked.get(), 1);
        dns.addresses.replace(vec![TWO]);
        assert_eq!(take_io(&core, &view).await.1.peer.0, address);
        tokio::time::sleep(Duration::from_millis(1_050)).await;

        assert_eq!(take_io(&core, &view).await.1.peer.0, moved);
        assert_eq!(dns.asked.get(), 2);
    })
    .await;
}

// S1.4
#[tokio::test]
async fn many_who_ask_at_once_cost_one_query() {
    let (udp, server) = socket().await;
    let resolver = Resolver::at_server(server);
    on_a_core_with(resolver.clone(), |_core| async move {
        let dns = serve(udp, &[ONE, TWO], 60);
        let host = Arc::from("pay.example");

        let found =
            futures_util::future::join_all((0..50).map(|_| resolver.lookup(&host, None))).await;

        assert_eq!(dns.asked.get(), 1);
        for found in found {
            assert_eq!(*found.unwrap().addresses, [IpAddr::V4(ONE), IpAddr::V4(TWO)]);
        }
    })
    .await;
}

// S1.4
#[tokio::test]
async fn while_the_dns_is_silent_the_last_answer_stands_in_without_delay() {
    let (udp, server) = socket().await;
    on_a_core_with(Resolver::at_server(server), |core| async move {
        let dns = serve(udp, &[ONE], 1);
        let (_origin, address) = bind().await;
        let view = named(address.port());
        take_io(&core, &view).await;
        dns.silent.set(true);
        tokio::time::sleep(Duration::from_millis(1_050)).await;
        let began = Instant::now();

        for _ in 0..10 {
            assert_eq!(take_io(&core, &view).await.1.peer.0, address);
        }

        assert!(began.elapsed() < Duration::from_secs(2));
    })
    .await;
}

// S1.4 S1.60
#[tokio::test]
async fn a_name_that_does_not_exist_is_a_refusal_that_says_so() {
    let (udp, server) = socket().await;
    let resolver = Resolver::at_server(server);
    on_a_core_with(resolver.clone(), |core| async move {
        let dns = serve(udp, &[], 1);
        let view = named(80);

        let refusal = take(&core, &view).await.err().unwrap();
        let again = take(&core, &view).await.err().unwrap();

        assert_eq!((refusal.word(), again.word()), ("no_endpoint", "no_endpoint"));
        assert!(refusal.to_string().contains("pay.example does not resolve"), "{refusal}");
        assert_eq!(dns.asked.get(), 1);
        let host: Arc<str> = Arc::from("pay.example");
        assert_eq!(
            resolver.lookup(&host, None).await.unwrap_err(),
            Unresolved::NoSuchName { host }
        );
    })
    .await;
}

// S1.4
#[tokio::test]
async fn the_hosts_file_is_honoured() {
    on_a_core_with(Resolver::default(), |_core| async move {
        let found = Resolver::default().lookup(&Arc::from("localhost"), None).await.unwrap();

        assert!(found.addresses.iter().all(|address| address.is_loopback()));
    })
    .await;
}
