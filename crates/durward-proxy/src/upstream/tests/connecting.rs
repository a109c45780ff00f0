//! Source and destination addresses of connections, and the refusals if either is missing.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use durward_model::limits::Limits;
use durward_model::upstream::{Endpoint, ProxyVersion, Target, UpstreamProtocol};
use durward_model::{Destination, EgressAddress, UpstreamAddr};
use durward_testkit::netns;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use super::super::connect::Attempt;
use super::super::path::{Path, PoolKey};
use super::super::resolve::Resolver;
use super::super::{Tried, open};
use super::support::{
    FIRST, ask, bind, client, listener, on_a_core, on_a_core_with, take, take_io, upstream, view,
    whoami,
};
use crate::metrics::Counter;
use crate::prepared::TenantView;
use crate::refusal::Refusal;

// S1.3
#[tokio::test]
async fn a_connection_from_a_foreign_address_is_refused_before_its_first_byte() {
    on_a_core(|core| async move {
        let (origin, address) = bind().await;
        let view = view("a", upstream(&[address], "127.0.0.2"));
        let (peer, source) = (UpstreamAddr(address), EgressAddress([127, 0, 0, 2].into()));
        let key = PoolKey::new(&view.tenant().tenant, peer, source, None, UpstreamProtocol::Http1)
            .unwrap();
        let runtime = &view.tenant().upstreams[0];
        let endpoint = &runtime.endpoints[0];
        let attempt = Attempt {
            upstreams: &core.upstreams,
            tenant: view.tenant(),
            runtime,
            endpoint,
            addresses: &[address],
            speaks_first: false,
        };
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        let foreign = socket.connect(address).await.unwrap();

        let refusal = attempt.check(&foreign, &Path::new(key)).unwrap_err();

        assert_eq!(refusal.word(), "isolation_violation");
        assert_eq!(view.tenant().metrics.total(Counter::IsolationViolations), 1);
        drop(foreign);
        let (mut accepted, _) = origin.accept().await.unwrap();
        assert_eq!(accepted.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
}

// S1.60
#[tokio::test]
async fn a_closed_port_is_named_in_the_refusal() {
    on_a_core(|core| async move {
        let (origin, address) = bind().await;
        drop(origin);
        let view = view("a", upstream(&[address], "127.0.0.2"));

        let refusal = take(&core, &view).await.err().unwrap();

        assert_eq!(refusal.word(), "connect_failed");
        assert!(refusal.to_string().contains(&address.to_string()));
        assert_eq!(view.tenant().metrics.total(Counter::UpstreamConnectFailures), 1);
        assert_eq!(view.tenant().upstreams[0].report().endpoints[0].failures, 1);
        assert_eq!(view.tenant().upstreams[0].report().endpoints[0].active, 0);
    })
    .await;
}

/// Opens a listener whose accept queue is full: it neither accepts nor refuses.
fn silent(address: SocketAddr) -> (socket2::Socket, Vec<socket2::Socket>) {
    let socket = |_| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let listening = socket(0).unwrap();
    listening.bind(&address.into()).unwrap();
    listening.listen(0).unwrap();
    let address = listening.local_addr().unwrap();
    let queued = (0..4).map(|at| {
        let queued = socket(at).unwrap();
        queued.set_nonblocking(true).unwrap();
        let _in_progress = queued.connect(&address);
        queued
    });
    let queued = queued.collect();
    (listening, queued)
}

// S1.60
#[tokio::test]
async fn a_silent_endpoint_ends_with_the_tenants_connect_timeout() {
    on_a_core(|core| async move {
        let (listening, _queued) = silent("127.0.0.1:0".parse().unwrap());
        let address = listening.local_addr().unwrap().as_socket().unwrap();
        let mut limits = Limits::default();
        limits.timeouts.connect = Duration::from_millis(200);
        let view = TenantView::admitted(listener("a", upstream(&[address], "127.0.0.2"), limits));
        let began = Instant::now();

        let refusal = take(&core, &view).await.err().unwrap();

        assert_eq!(refusal.word(), "connect_timeout");
        assert!(began.elapsed() < Duration::from_secs(2));
    })
    .await;
}

// S1.4
#[tokio::test]
async fn a_name_with_a_silent_address_is_reached_by_the_next_one() {
    let (good, silent_ip) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 4]));
    let unreachable: IpAddr = "::1".parse().unwrap();
    let resolver = Resolver::fixed(&[("pay.example", &[unreachable, silent_ip, good])]);
    on_a_core_with(resolver, |core| async move {
        let (_origin, address) = bind().await;
        let (_listening, _queued) = silent(SocketAddr::new(silent_ip, address.port()));
        let mut config = upstream(&[address], "127.0.0.2");
        let target = Target::Name { host: "pay.example".into(), port: address.port() };
        config.endpoints = vec![Endpoint { target, weight: 1 }];
        let view = view("a", config);
        let began = Instant::now();

        let (_io, lease) = take_io(&core, &view).await;

        assert_eq!(lease.peer.0, address);
        assert_eq!(lease.source.ip(), IpAddr::from([127, 0, 0, 2]));
        let took = began.elapsed();
        assert!(took > Duration::from_millis(200) && took < Duration::from_millis(900), "{took:?}");
    })
    .await;
}

// S1.9
#[tokio::test]
async fn without_a_source_of_the_peers_family_nothing_is_dialled() {
    on_a_core(|core| async move {
        let view = view("a", upstream(&["[::1]:80".parse().unwrap()], "127.0.0.2"));

        let refusal = take(&core, &view).await.err().unwrap();

        assert_eq!(refusal.word(), "egress_address");
        assert!(refusal.to_string().contains("none is of its family"), "{refusal}");
    })
    .await;
}

// S1.3
#[test]
fn exhausted_ports_move_on_to_the_next_address_and_then_are_refused() {
    let name = "upstream::tests::connecting::exhausted_ports_move_on_to_the_next_address_and_then_are_refused";
    netns::in_namespace_async(name, || async {
        on_a_core(|core| async move {
            let origin = whoami().await;
            netns::sysctl("net.ipv4.ip_local_port_range", "40000 40001");
            let mut config = upstream(&[origin], "127.0.0.2");
            config.sources.push(EgressAddress([127, 0, 0, 3].into()));
            let view = view("a", config);
            let mut held = Vec::new();

            for _ in 0..4 {
                held.push(take_io(&core, &view).await);
            }
            let refusal = take(&core, &view).await.err().unwrap();

            let from = |held: &(_, super::super::Lease)| held.1.source.ip();
            let sources: Vec<_> = held.iter().map(from).collect();
            let (two, three) = (IpAddr::from([127, 0, 0, 2]), IpAddr::from([127, 0, 0, 3]));
            assert_eq!(sources, [two, three, two, three]);
            assert_eq!(refusal.word(), "ports_exhausted");
            assert_eq!(refusal.status(), (503, Some("connection_limit_reached")));
            assert_eq!(refusal.retry_after(), Some(1));
            drop(held);
        })
        .await;
    });
}

// S1.3
#[test]
fn one_source_port_serves_many_peers() {
    netns::in_namespace_async(
        "upstream::tests::connecting::one_source_port_serves_many_peers",
        || async {
            on_a_core(|core| async move {
                let mut peers = Vec::new();
                for last in 10..20 {
                    let origin = TcpListener::bind((IpAddr::from([127, 0, 0, last]), 8080)).await;
                    peers.push(origin.unwrap());
                }
                netns::sysctl("net.ipv4.ip_local_port_range", "40000 40001");
                let mut held = Vec::new();

                for origin in &peers {
                    let address = origin.local_addr().unwrap();
                    held.push(take_io(&core, &view("a", upstream(&[address], "127.0.0.2"))).await);
                }

                assert_eq!(held.len(), 10);
            })
            .await;
        },
    );
}

// S1.3
#[test]
fn ipv6_leaves_from_the_tenants_address_too() {
    netns::in_namespace_async(
        "upstream::tests::connecting::ipv6_leaves_from_the_tenants_address_too",
        || async {
            on_a_core(|core| async move {
                netns::ip("-6 address add fd00::2/128 dev lo nodad");
                let origin = TcpListener::bind("[::1]:0").await.unwrap();
                let view = view("a", upstream(&[origin.local_addr().unwrap()], "fd00::2"));

                let (_io, lease) = take_io(&core, &view).await;

                let (_accepted, from) = origin.accept().await.unwrap();
                assert_eq!(from.ip(), "fd00::2".parse::<IpAddr>().unwrap());
                assert_eq!(lease.source, from);
            })
            .await;
        },
    );
}

// S1.44
#[tokio::test]
async fn another_endpoint_takes_over_while_one_is_down() {
    on_a_core(|core| async move {
        let (down, refused) = bind().await;
        drop(down);
        let origin = whoami().await;
        let view = view("a", upstream(&[refused, origin], "127.0.0.2"));
        let mut retried = 0;

        for _ in 0..50 {
            let mut tried = Tried::default();
            let outcome =
                super::super::acquire(&core.upstreams, view.access(), FIRST, client(), &mut tried)
                    .await;
            if let Err(refusal) = &outcome {
                assert_eq!(refusal.word(), "connect_failed");
                retried += 1;
                let again = super::super::acquire(
                    &core.upstreams,
                    view.access(),
                    FIRST,
                    client(),
                    &mut tried,
                )
                .await;
                assert_eq!(again.unwrap().1.peer.0, origin);
            }
        }

        assert!(retried > 0);
    })
    .await;
}

// S1.71
#[tokio::test]
async fn the_circuit_limits_connections_and_requests_and_leaves_the_endpoint_alone() {
    on_a_core(|core| async move {
        let origin = whoami().await;
        for limits in [
            Limits { upstream_connections: Some(1), ..Limits::default() },
            Limits { pending_requests: Some(1), ..Limits::default() },
        ] {
            let config = upstream(&[origin], "127.0.0.2");
            let view = TenantView::admitted(listener("a", config, limits));
            let (io, lease) = take_io(&core, &view).await;

            let refusal = take(&core, &view).await.err().unwrap();

            assert_eq!(refusal.word(), "circuit_open");
            assert_eq!(view.tenant().upstreams[0].report().endpoints[0].failures, 0);
            lease.release(io);
            assert!(take(&core, &view).await.is_ok());
        }
    })
    .await;
}

// S1.25 S1.39
#[tokio::test]
async fn bytes_are_carried_after_the_proxy_header_and_never_pooled() {
    on_a_core(|core| async move {
        let (origin, address) = bind().await;
        let mut config = upstream(&[address], "127.0.0.2");
        config.protocol = UpstreamProtocol::Tcp;
        config.send_proxy = Some(ProxyVersion::V1);
        let view = view("a", config);
        let destination = Destination("198.51.100.2:443".parse().unwrap());
        let mut tried = Tried::default();

        let opened =
            open(&core.upstreams, view.access(), FIRST, client(), destination, (&mut tried, false))
                .await;
        let (mut io, lease) = opened.unwrap();
        io.write_all(b"ISO8583").await.unwrap();
        let (mut accepted, from) = origin.accept().await.unwrap();
        let mut seen = vec![0; 51];
        accepted.read_exact(&mut seen).await.unwrap();

        assert_eq!(seen, b"PROXY TCP4 192.0.2.7 198.51.100.2 4711 443\r\nISO8583"[..].to_vec());
        assert_eq!(from.ip(), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(lease.source, from);
        lease.release(io);
        assert_eq!(core.upstreams.pools.idle(), 0);
    })
    .await;
}

// S1.25
#[tokio::test]
async fn a_connection_with_a_proxy_header_is_used_for_one_client_only() {
    on_a_core(|core| async move {
        let (origin, address) = bind().await;
        let mut config = upstream(&[address], "127.0.0.2");
        config.send_proxy = Some(ProxyVersion::V2);
        let view = view("a", config);

        let (io, lease) = take_io(&core, &view).await;
        let (mut accepted, _) = origin.accept().await.unwrap();
        let mut seen = [0; 16];
        accepted.read_exact(&mut seen).await.unwrap();
        lease.release(io);

        assert_eq!(&seen[..12], b"\r\n\r\n\0\r\nQUIT\n");
        assert_eq!(core.upstreams.pools.idle(), 0);
        assert!(!take_io(&core, &view).await.1.reused);
    })
    .await;
}

// S1.3
#[tokio::test]
async fn the_origin_sees_the_tenants_address_and_a_client_that_leaves_costs_the_endpoint_nothing() {
    on_a_core(|core| async move {
        let origin = whoami().await;
        let view = view("a", upstream(&[origin], "127.0.0.3"));

        let (mut io, lease) = take_io(&core, &view).await;

        assert_eq!(ask(&mut io).await, IpAddr::from([127, 0, 0, 3]));
        lease.failed(&Refusal::ClientClosed);
        assert_eq!(view.tenant().upstreams[0].report().endpoints[0].failures, 0);
    })
    .await;
}
