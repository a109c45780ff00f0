//! Names asked of a DNS server made here.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::EgressAddress;
use durward_model::egress::NameServer;
use durward_model::upstream::{Endpoint, Target, TrustRoots};
use tokio::net::UdpSocket;

use super::super::resolve::{Asking, Families, Resolver, Unresolved};
use super::support::{bind, on_a_core_with, take, take_io, upstream, view};
use crate::prepared::TenantView;

/// Answers every A query with `addresses` and `ttl`, every other with nothing; silent when told so. What becomes of queries of one
/// type can be said.
struct Dns {
    addresses: RefCell<Vec<Ipv4Addr>>,
    v6: RefCell<Vec<Ipv6Addr>>,
    odd: Cell<Option<(u8, Odd)>>,
    ttl: Cell<u32>,
    silent: Cell<bool>,
    asked: Cell<u32>,
}

/// Treatment of queries of one type.
#[derive(Clone, Copy)]
enum Odd {
    Dropped,
    Late(Duration),
    Code(u8),
}

const A: u8 = 1;
const AAAA: u8 = 28;

async fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn serve(socket: UdpSocket, addresses: &[Ipv4Addr], ttl: u32) -> Rc<Dns> {
    let dns = Rc::new(Dns {
        addresses: RefCell::new(addresses.to_vec()),
        v6: RefCell::default(),
        odd: Cell::new(None),
        ttl: Cell::new(ttl),
        silent: Cell::new(false),
        asked: Cell::new(0),
    });
    let served = Rc::clone(&dns);
    tokio::task::spawn_local(async move {
        let socket = Rc::new(socket);
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            if served.silent.get() {
                continue;
            }
            let (kind, mut answer) = served.answer(&query[..length]);
            let mut late = Duration::ZERO;
            match served.odd.get().filter(|(odd, _)| *odd == kind).map(|(_, odd)| odd) {
                Some(Odd::Dropped) => continue,
                Some(Odd::Late(by)) => late = by,
                Some(Odd::Code(code)) => {
                    answer[3] = 0x80 | code;
                    answer[7] = 0;
                    answer.truncate(answer.len() - served.records_of(kind));
                }
                None => {}
            }
            let socket = Rc::clone(&socket);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(late).await;
                socket.send_to(&answer, from).await.unwrap();
            });
        }
    });
    dns
}

impl Dns {
    /// Returns the type asked for, and the answer.
    fn answer(&self, query: &[u8]) -> (u8, Vec<u8>) {
        let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let question = &query[12..end];
        let kind = question[question.len() - 3];
        let mut data: Vec<Vec<u8>> = Vec::new();
        match kind {
            A => data.extend(self.addresses.borrow().iter().map(|ip| ip.octets().to_vec())),
            AAAA => data.extend(self.v6.borrow().iter().map(|ip| ip.octets().to_vec())),
            _ => {}
        }
        self.asked.set(self.asked.get() + u32::from(kind == A));
        let exists = !self.addresses.borrow().is_empty() || !self.v6.borrow().is_empty();
        let code = if exists { 0 } else { 3 };
        let mut answer = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1];
        answer.extend([0, data.len() as u8, 0, 0, 0, 0]);
        answer.extend(question);
        for address in data {
            answer.extend([0xC0, 12, 0, kind, 0, 1]);
            answer.extend(self.ttl.get().to_be_bytes());
            answer.extend([0, address.len() as u8]);
            answer.extend(address);
        }
        (kind, answer)
    }

    /// Bytes of the records of an answer.
    fn records_of(&self, kind: u8) -> usize {
        match kind {
            A => 16 * self.addresses.borrow().len(),
            _ => 28 * self.v6.borrow().len(),
        }
    }
}

fn named(port: u16) -> TenantView {
    named_from("127.0.0.2", port)
}

fn named_from(source: &str, port: u16) -> TenantView {
    let mut config = upstream(&["127.0.0.1:1".parse().unwrap()], source);
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

#[tokio::test]
async fn a_query_for_one_family_without_an_answer_does_not_cost_the_other_familys() {
    let cases = [
        (AAAA, Odd::Dropped, "127.0.0.2", "127.0.0.1:0"),
        (AAAA, Odd::Code(2), "127.0.0.2", "127.0.0.1:0"),
        (AAAA, Odd::Code(5), "127.0.0.2", "127.0.0.1:0"),
        (AAAA, Odd::Code(3), "127.0.0.2", "127.0.0.1:0"),
        (A, Odd::Dropped, "::1", "[::1]:0"),
        (A, Odd::Code(2), "::1", "[::1]:0"),
        (A, Odd::Code(3), "::1", "[::1]:0"),
    ];
    for (kind, odd, source, origin) in cases {
        let (udp, server) = socket().await;
        on_a_core_with(Resolver::at_server(server), |core| async move {
            let dns = serve(udp, &[ONE], 60);
            dns.v6.replace(vec![Ipv6Addr::LOCALHOST]);
            dns.odd.set(Some((kind, odd)));
            let origin = tokio::net::TcpListener::bind(origin).await.unwrap();
            let address = origin.local_addr().unwrap();
            let view = named_from(source, address.port());

            for _ in 0..3 {
                assert_eq!(take_io(&core, &view).await.1.peer.0, address);
            }
        })
        .await;
    }
}

#[tokio::test]
async fn the_family_that_answers_late_is_added_when_it_comes() {
    let (udp, server) = socket().await;
    let resolver = Resolver::at_server(server);
    on_a_core_with(resolver.clone(), |_core| async move {
        let dns = serve(udp, &[ONE], 60);
        dns.v6.replace(vec![Ipv6Addr::LOCALHOST]);
        dns.odd.set(Some((AAAA, Odd::Late(Duration::from_millis(400)))));
        let host = Arc::from("pay.example");
        let families = Families::of(&[EgressAddress(TWO.into())]);

        let first = resolver.lookup_for(&host, None, families).await.unwrap();
        let both = loop {
            let found = resolver.lookup_for(&host, None, families).await.unwrap();
            if found.addresses.len() == 2 {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };

        assert_eq!(*first.addresses, [IpAddr::V4(ONE)]);
        assert_eq!(*both.addresses, [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(ONE)]);
        assert_eq!(dns.asked.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn whoever_reaches_only_the_late_family_waits_for_it() {
    let (udp, server) = socket().await;
    on_a_core_with(Resolver::at_server(server), |core| async move {
        let dns = serve(udp, &[ONE], 60);
        dns.v6.replace(vec![Ipv6Addr::LOCALHOST]);
        dns.odd.set(Some((A, Odd::Late(Duration::from_millis(400)))));
        let (_origin, address) = bind().await;
        let view = named(address.port());

        assert_eq!(take_io(&core, &view).await.1.peer.0, address);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_fails_or_is_silent_does_not_cost_the_next_ones_answer() {
    for odd in [Odd::Code(2), Odd::Code(5), Odd::Dropped] {
        let (sockets, server) = (socket().await, socket().await);
        let (third, last) = (socket().await, server.1);
        let servers = [sockets.1, third.1, last];
        let name_server = |address| NameServer { address, tls: None };
        let sources = vec![EgressAddress([127, 0, 0, 1].into())];
        let servers = servers.map(name_server).to_vec();
        let asking = Asking { servers, sources, roots: TrustRoots::System };
        let resolver = Resolver::own(asking);
        on_a_core_with(resolver.clone(), |_core| async move {
            let broken = [serve(sockets.0, &[TWO], 60), serve(third.0, &[TWO], 60)];
            for dns in &broken {
                dns.odd.set(Some((A, odd)));
                dns.v6.replace(Vec::new());
            }
            let _good = serve(server.0, &[ONE], 60);

            let found = resolver.lookup(&Arc::from("pay.example"), None).await.unwrap();

            assert_eq!(*found.addresses, [IpAddr::V4(ONE)]);
        })
        .await;
    }
}
