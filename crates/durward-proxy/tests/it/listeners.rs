//! Sockets that come and go: only what is configured is reachable, and a change touches nothing else.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use durward_model::limits::Limits;
use durward_proxy::metrics::Counter;
use durward_proxy::proxy::{BindReport, BindState};
use durward_testkit::client::{H2Client, RawHttp, tcp_connect};
use durward_testkit::netns;
use durward_testkit::process::{eventually, eventually_blocking, free_port, unique_loopback};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::edge::{
    SOON, Wanted, assert_served, await_refusals, bound, http, idle, refused, serve, tenant, total,
};

async fn answer(address: SocketAddr) -> io::Result<String> {
    let mut client = RawHttp::connect(address).await?;
    Ok(client.get("a", "/").await.map_err(io::Error::other)?.text())
}

fn plain(name: &'static str, address: SocketAddr) -> Wanted {
    tenant(name).listen(address, http(name, None))
}

// S1.2 S1.18
#[tokio::test]
async fn binds_come_and_go_without_touching_the_others() {
    let at = |_| SocketAddr::from((unique_loopback(), 8080));
    let addresses: Vec<_> = (0..20).map(at).collect();
    let first = plain("first", addresses[0]);
    let proxy = serve(std::slice::from_ref(&first));
    let mut open = RawHttp::connect(addresses[0]).await.unwrap();
    assert_eq!(open.get("a", "/").await.unwrap().text(), "first");
    assert!(answer(addresses[1]).await.is_err());

    for generation in 1..20 {
        let next = addresses[generation];
        let wanted = [first.clone(), plain("next", next)];
        assert_served(&proxy.apply(bound(generation as u64 + 1, &wanted)));
        assert_eq!(answer(next).await.unwrap(), "next");
        assert!(answer(addresses[generation - 1]).await.is_err() || generation == 1);
        assert_eq!(open.get("a", "/").await.unwrap().text(), "first");
    }
    assert_served(&proxy.apply(bound(21, &[first])));

    let gone = eventually(SOON, async || answer(addresses[19]).await.is_err());
    assert!(gone.await);
    assert_eq!(open.get("a", "/").await.unwrap().text(), "first");
}

// S1.56+
#[tokio::test]
async fn an_edit_that_forbids_nothing_leaves_idle_connections_and_counts_from_their_next_request() {
    let address = SocketAddr::from((unique_loopback(), 8080));
    let stage = |answer: &str| tenant("a").listen(address, http(answer, None));
    let proxy = serve(&[stage("0")]);
    let mut h1 = RawHttp::connect(address).await.unwrap();
    assert_eq!(h1.get("a", "/").await.unwrap().text(), "0");
    let h2 = H2Client::h2c(address, None).await.unwrap();
    assert_eq!(h2.get("/").await.unwrap().text(), "0");

    for edit in 1..20 {
        let answer = edit.to_string();
        let limited = |limits: &mut Limits| limits.connections = Some(100 + edit as u32);
        assert_served(&proxy.apply(bound(edit + 1, &[stage(&answer).limits(limited)])));
        // Longer than deadlines and drains are looked at.
        tokio::time::sleep(Duration::from_millis(if edit % 5 == 0 { 250 } else { 0 })).await;

        let over_h1 = h1.get("a", "/").await.unwrap();
        assert_eq!((over_h1.text(), over_h1.header("connection")), (answer.clone(), None));
        assert_eq!(h2.get("/").await.unwrap().text(), answer);
    }

    // Through a configuration that the connections did not ask anything of, too.
    assert_served(&proxy.apply(bound(30, &[stage("kept")])));
    assert_served(&proxy.apply(bound(31, &[stage("kept").only_from("192.0.2.0/24")])));
    assert!(h1.is_closed().await);
    assert!(h2.get("/").await.is_err());
}

/// Returns the number of sockets that listen on an address of IPv4.
fn listening(address: SocketAddr) -> usize {
    let SocketAddr::V4(address) = address else { unreachable!("an address of IPv4") };
    let ip = u32::from_ne_bytes(address.ip().octets());
    let listens = format!(": {ip:08X}:{:04X} 00000000:0000 0A ", address.port());
    std::fs::read_to_string("/proc/self/net/tcp").unwrap().matches(&listens).count()
}

#[tokio::test]
async fn a_bind_that_several_tenants_share_has_a_queue_for_each_lane_and_stays_open_meanwhile() {
    let address = SocketAddr::from((unique_loopback(), 8080));
    let named = |name: &'static str| plain(name, address).named(&[&format!("{name}.example")]);
    let proxy = serve(&[named("a")]);
    let alone = listening(address);
    let mut open = RawHttp::connect(address).await.unwrap();
    assert_eq!(open.get("a.example", "/").await.unwrap().text(), "a");

    assert_served(&proxy.apply(bound(2, &[named("a"), named("b")])));

    let shared = listening(address);
    assert!(shared >= 4 * alone, "{alone} and then {shared}");
    assert_eq!(open.get("a.example", "/").await.unwrap().text(), "a");
    for _ in 0..40 {
        let mut client = RawHttp::connect_from(unique_loopback().into(), address).await.unwrap();
        assert_eq!(client.get("b.example", "/").await.unwrap().text(), "b");
    }
    assert_served(&proxy.apply(bound(3, &[named("a")])));
    let mut last = RawHttp::connect(address).await.unwrap();
    assert_eq!(last.get("a.example", "/").await.unwrap().text(), "a");
    proxy.apply(bound(4, &[]));
    assert!(eventually(SOON, async || listening(address) == 0).await);
}

// S1.2+ S2.4+
#[tokio::test]
async fn a_second_gateway_gets_no_part_of_the_first_ones_clients() {
    let address = SocketAddr::from((unique_loopback(), 8080));
    let first = serve(&[plain("first", address)]);
    let second = idle();

    let applied = second.apply(bound(1, &[plain("second", address)]));

    let state = &applied.binds[0].state;
    assert!(
        matches!(state, BindState::Failed(why) if why.contains("another process")),
        "{state:?}"
    );
    for _ in 0..20 {
        assert_eq!(answer(address).await.unwrap(), "first");
    }
    drop(first);
    let taken_over = async || {
        second.retry();
        second.status().binds[0].state == BindState::Bound
    };
    assert!(eventually(SOON, taken_over).await);
    assert_eq!(answer(address).await.unwrap(), "second");
}

// S1.2+
#[tokio::test]
async fn a_bind_that_is_given_up_can_be_had_again_at_once() {
    let address = SocketAddr::from((unique_loopback(), 8080));
    let proxy = serve(&[plain("a", address)]);

    for generation in 0..10 {
        assert_served(&proxy.apply(bound(2 * generation + 2, &[])));
        assert_served(&proxy.apply(bound(2 * generation + 3, &[plain("a", address)])));
        assert_eq!(answer(address).await.unwrap(), "a");
    }
}

#[tokio::test]
async fn a_removed_tenants_connections_end_at_once() {
    let (kept, removed) =
        (SocketAddr::from((unique_loopback(), 8080)), SocketAddr::from((unique_loopback(), 8080)));
    let proxy = serve(&[plain("kept", kept), plain("removed", removed)]);
    let mut staying = RawHttp::connect(kept).await.unwrap();
    let mut going = RawHttp::connect(removed).await.unwrap();
    assert_eq!(going.get("a", "/").await.unwrap().status, 200);

    assert_served(&proxy.apply(bound(2, &[plain("kept", kept)])));

    assert!(going.is_closed().await);
    assert_eq!(staying.get("a", "/").await.unwrap().text(), "kept");
}

// S1.6
#[tokio::test]
async fn a_source_that_is_allowed_no_more_is_cut_off() {
    let address = SocketAddr::from((unique_loopback(), 8080));
    let proxy = serve(&[plain("a", address).only_from("127.0.0.0/8")]);
    let mut open = RawHttp::connect(address).await.unwrap();
    assert_eq!(open.get("a", "/").await.unwrap().status, 200);

    let elsewhere = unique_loopback();
    let narrow = plain("a", address).only_from(&format!("{elsewhere}/32"));
    assert_served(&proxy.apply(bound(2, &[narrow])));

    assert!(open.is_closed().await);
    assert!(answer(address).await.is_err());
    let mut allowed = RawHttp::connect_from(elsewhere.into(), address).await.unwrap();
    assert_eq!(allowed.get("a", "/").await.unwrap().status, 200);
    await_refusals(&proxy, Some("a"), "source_not_allowed", 1).await;
}

// S1.71
#[tokio::test]
async fn a_tenant_at_its_limit_is_told_so_and_its_neighbour_is_not_concerned() {
    let at = |ip: IpAddr| SocketAddr::from((ip, 8080));
    let (full, free) = (at(unique_loopback().into()), at(unique_loopback().into()));
    let limited = plain("full", full).limits(|limits| limits.connections = Some(2));
    let proxy = serve(&[limited, plain("free", free)]);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = RawHttp::connect(full).await.unwrap();
        assert_eq!(client.get("a", "/").await.unwrap().status, 200);
        held.push(client);
    }

    let mut third = RawHttp::connect(full).await.unwrap();
    let told = third.read_response().await.unwrap();

    assert_eq!((told.status, told.header("Retry-After")), (503, Some("1")));
    assert_eq!(answer(free).await.unwrap(), "free");
    await_refusals(&proxy, Some("full"), "connection_limit", 1).await;
    drop(held);
    assert!(eventually(SOON, async || answer(full).await.is_ok()).await);
}

#[tokio::test]
async fn a_taken_port_is_reported_and_bound_once_it_is_free() {
    let (taken, free) = (unique_loopback(), unique_loopback());
    let (taken, free) = (SocketAddr::from((taken, 8080)), SocketAddr::from((free, 8080)));
    let stranger = TcpListener::bind(taken).unwrap();
    let proxy = idle();

    let applied = proxy.apply(bound(1, &[plain("a", taken), plain("b", free)]));

    let state = |address| {
        let report = applied.binds.iter().find(|bind| bind.address == address).unwrap();
        report.state.clone()
    };
    assert_eq!(state(free), BindState::Bound);
    assert!(matches!(state(taken), BindState::Failed(why) if why.contains("another process")));
    drop(stranger);
    let failed = |bind: &BindReport| matches!(bind.state, BindState::Failed(_));
    assert!(proxy.status().binds.iter().any(failed), "asking changes nothing");
    proxy.retry();
    assert!(proxy.status().binds.iter().all(|bind| bind.state == BindState::Bound));
    assert_eq!(answer(taken).await.unwrap(), "a");
}

// S1.9
#[test]
fn an_address_that_is_not_on_the_host_yet_is_served_when_it_appears() {
    let name = "listeners::an_address_that_is_not_on_the_host_yet_is_served_when_it_appears";
    netns::in_namespace_async(name, || async {
        let v4 = SocketAddr::from(([192, 0, 2, 7], 8080));
        let v6: SocketAddr = "[2001:db8::7]:8080".parse().unwrap();
        let present = SocketAddr::from(([127, 0, 0, 1], 8080));
        let proxy = idle();

        let applied =
            proxy.apply(bound(1, &[plain("v4", v4), plain("v6", v6), plain("here", present)]));

        let states: Vec<_> = applied.binds.iter().map(|bind| bind.state.clone()).collect();
        let missing = BindState::AddressNotLocal;
        assert_eq!(states, [BindState::Bound, missing.clone(), missing]);
        assert_eq!(answer(present).await.unwrap(), "here");
        netns::add_address("lo", "192.0.2.7/32");
        netns::ip("address add 2001:db8::7/128 dev lo nodad");
        // The kernel makes the route of an IPv6 address a moment after the address.
        let reached = async || tcp_connect(v6, None).await.is_ok();
        let routed = eventually(Duration::from_secs(10), reached).await;
        assert!(routed, "nothing answers at {v6}");
        assert!(proxy.status().binds.iter().all(|bind| bind.state == BindState::Bound));
        assert_eq!(answer(v4).await.unwrap(), "v4");
        assert_eq!(answer(v6).await.unwrap(), "v6");
    });
}

#[tokio::test]
async fn one_socket_for_all_addresses_finds_each_tenant_in_both_families() {
    let port = free_port([0, 0, 0, 0]);
    let everywhere: SocketAddr = format!("[::]:{port}").parse().unwrap();
    let v4 = SocketAddr::from((unique_loopback(), port));
    let v6: SocketAddr = format!("[::1]:{port}").parse().unwrap();
    let wanted = [
        tenant("v4").listen_through(everywhere, v4, http("v4", None)).only_from("127.0.0.0/8"),
        tenant("v6").listen_through(everywhere, v6, http("v6", None)),
    ];

    let _proxy = serve(&wanted);

    assert_eq!(answer(v4).await.unwrap(), "v4");
    if std::net::TcpStream::connect(v6).is_ok() {
        assert_eq!(answer(v6).await.unwrap(), "v6");
    }
}

#[tokio::test]
async fn a_bind_for_all_addresses_and_binds_of_their_own_take_turns_unnoticed() {
    let port = free_port([0, 0, 0, 0]);
    let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
    let address = SocketAddr::from((unique_loopback(), port));
    let through = |bind| [tenant("a").listen_through(bind, address, http("A", None))];
    let proxy = serve(&through(everywhere));
    let mut open = RawHttp::connect(address).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let done = done.clone();
        async move {
            let mut served = 0;
            while !done.load(Relaxed) {
                assert_eq!(answer(address).await.unwrap(), "A");
                served += 1;
            }
            served
        }
    });

    for generation in 2..30 {
        let bind = if generation % 2 == 0 { address } else { everywhere };
        assert_served(&proxy.apply(bound(generation, &through(bind))));
        assert_eq!(open.get("a", "/").await.unwrap().text(), "A");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    done.store(true, Relaxed);

    assert!(load.await.unwrap() > 30);
    assert_eq!(refused(&proxy, None, "tenant_not_found"), 0);
}

// S1.28
#[test]
fn an_unprivileged_user_can_serve_a_high_port() {
    let address = SocketAddr::from((unique_loopback(), 8443));
    let unprivileged = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65_534);
        if rustix::process::getuid().is_root() {
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        // Threads made here inherit the user.
        let proxy = serve(&[plain("a", address)]);
        let low = SocketAddr::from((address.ip(), 443));
        netns::block_on(async {
            assert_eq!(answer(address).await.unwrap(), "a");
        });
        let applied = proxy.apply(bound(2, &[plain("a", address), plain("b", low)]));
        applied.binds.iter().map(|bind| bind.state.clone()).collect::<Vec<_>>()
    });

    let states = unprivileged.join().unwrap();

    let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if start.is_ok_and(|start| start.trim().parse::<u16>().is_ok_and(|start| start > 443)) {
        assert!(
            matches!(&states[0], BindState::Failed(why) if why.contains("CAP_NET_BIND_SERVICE")),
            "{states:?}"
        );
    }
    assert_eq!(states[1], BindState::Bound);
}

#[test]
fn without_file_descriptors_accepting_pauses_and_goes_on() {
    let name = "listeners::without_file_descriptors_accepting_pauses_and_goes_on";
    netns::in_namespace(name, || {
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        let proxy = serve(&[plain("a", address)]);
        let limits = getrlimit(Resource::Nofile);
        let mut clients: Vec<_> = (0..40)
            .map(|_| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None))
            .map(Result::unwrap)
            .collect();
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        setrlimit(Resource::Nofile, Rlimit { current: Some(open + 5), ..limits }).unwrap();

        for client in &mut clients {
            client.connect(&address.into()).unwrap();
        }
        let counted = || refused(&proxy, None, "socket");
        assert!(eventually_blocking(SOON, || counted() > 0));
        let (began, before) = (Instant::now(), counted());
        std::thread::sleep(Duration::from_millis(300));
        let attempts = counted() - before;

        assert!(attempts <= 60, "{attempts} attempts in {:?}", began.elapsed());
        setrlimit(Resource::Nofile, limits).unwrap();
        let admitted = || total(&proxy, "a", Counter::ConnectionsOpened);
        assert!(eventually_blocking(SOON, || admitted() == 40), "{}", admitted());
    });
}

#[tokio::test]
async fn a_listener_that_cannot_be_made_ready_is_left_out_and_its_neighbour_is_served() {
    let authority = durward_testkit::certificates::Authority::new("root");
    let (bad, good) = (unique_loopback(), unique_loopback());
    let (bad, good) = (SocketAddr::from((bad, 8443)), SocketAddr::from((good, 8443)));
    let one = crate::edge::identity_for(&authority, bad.ip());
    let mut other = crate::edge::identity_for(&authority, bad.ip());
    other.key_der = one.key_der.clone_key();
    let broken = http("", Some(crate::edge::https(&other)));
    let proxy = idle();

    let applied = proxy.apply(bound(1, &[tenant("bad").listen(bad, broken), plain("good", good)]));

    assert_eq!(applied.problems.len(), 1);
    assert_eq!(applied.problems[0].tenant.as_str(), "bad");
    assert_eq!(applied.problems[0].listener, Some(bad.to_string()));
    assert!(applied.problems[0].sentence.contains("certificate"), "{:?}", applied.problems);
    assert_eq!(answer(good).await.unwrap(), "good");
    let mut stream = tcp_connect(bad, None).await.unwrap();
    let hello = durward_testkit::client::client_hello::ClientHello::new().encode();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &hello).await.unwrap();
    let reaction = durward_testkit::client::client_hello::reaction(&mut stream).await.unwrap();
    assert_eq!(reaction, durward_testkit::client::client_hello::Reaction::Alert(112));
}
