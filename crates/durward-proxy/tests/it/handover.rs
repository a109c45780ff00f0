//! Replacing the running data plane without a client noticing, and ending it without cutting anybody short.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use durward_proxy::Proxy;
use durward_proxy::proxy::{BindState, Drained, Options};
use durward_testkit::certificates::{Authority, client_config};
use durward_testkit::client::{RawHttp, tcp_connect};
use durward_testkit::origin::TcpEcho;
use durward_testkit::process::{eventually, unique_loopback};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::edge::{
    SOON, assert_served, bound, http, https, identity_for, options, serve, tcp, tenant,
};

fn successor(of: &Proxy, workers: usize) -> Proxy {
    let sockets = of.listening_sockets().unwrap();
    let inherited = sockets.into_iter().map(|(_, socket)| TcpListener::from(socket)).collect();
    Proxy::start(Options { workers, inherited, ..options() }).unwrap()
}

// S1.58
#[tokio::test]
async fn a_hand_over_under_load_refuses_nobody() {
    let authority = Arc::new(Authority::new("root"));
    let (plain, secure) = (unique_loopback(), unique_loopback());
    let (plain, secure) = (SocketAddr::from((plain, 8080)), SocketAddr::from((secure, 8443)));
    let identity = identity_for(&authority, secure.ip());
    let wanted = [
        tenant("plain").listen(plain, http("ok", None)),
        tenant("secure").listen(secure, http("ok", Some(https(&identity)))),
    ];
    let mut proxy = serve(&wanted);
    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..6)
        .map(|at| {
            let (authority, done, served) = (authority.clone(), done.clone(), served.clone());
            tokio::spawn(async move {
                while !done.load(Relaxed) {
                    let mut client = if at % 3 == 0 {
                        let config = client_config(&authority, None);
                        RawHttp::connect_tls(secure, None, config, None).await.unwrap()
                    } else {
                        RawHttp::connect(plain).await.unwrap()
                    };
                    let response = client.get("a", "/").await.unwrap();
                    assert_eq!(response.text(), "ok");
                    served.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();

    for (round, workers) in [(2, 2), (3, 1), (4, 3), (5, 2)] {
        let before = served.load(Relaxed);
        let next = successor(&proxy, workers);
        assert_served(&next.apply(bound(round, &wanted)));
        proxy.stop_accepting();
        let old = std::mem::replace(&mut proxy, next);
        let drained = tokio::task::spawn_blocking(move || old.drain(SOON)).await.unwrap();
        assert_eq!(drained.cut, 0);
        let going_on = eventually(SOON, async || served.load(Relaxed) > before + 20);
        assert!(going_on.await, "round {round}");
    }
    done.store(true, Relaxed);

    for task in load {
        task.await.unwrap();
    }
}

// S1.58
#[tokio::test]
async fn clients_that_wait_in_the_queue_are_let_in_before_it_closes() {
    let address = SocketAddr::from((unique_loopback(), 8080));
    let wanted = [tenant("a").listen(address, http("ok", None))];
    let proxy = serve(&wanted);
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let mut client = RawHttp::connect(address).await.unwrap();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        waiting.push(client);
    }

    let drained = tokio::task::spawn_blocking(move || proxy.drain(SOON)).await.unwrap();

    for mut client in waiting {
        assert_eq!(client.read_response().await.unwrap().text(), "ok");
    }
    assert_eq!(drained.cut, 0);
    assert!(tcp_connect(address, None).await.is_err());
}

// S1.58
#[tokio::test]
async fn a_client_that_has_said_nothing_when_the_socket_closes_is_let_in_with_its_request() {
    let address = SocketAddr::from((unique_loopback(), 8080));
    let wanted = [tenant("a").listen(address, http("ok", None))];
    let proxy = serve(&wanted);
    let mut silent = RawHttp::connect(address).await.unwrap();

    let drain = tokio::task::spawn_blocking(move || proxy.drain(SOON));
    let is_closed = eventually(SOON, async || tcp_connect(address, None).await.is_err());
    assert!(is_closed.await);
    silent.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();

    assert_eq!(silent.read_response().await.unwrap().text(), "ok");
    drain.await.unwrap();
}

// S1.58
#[tokio::test]
async fn draining_ends_the_idle_lets_the_busy_finish_and_cuts_what_is_left() {
    let echo = TcpEcho::start("127.0.0.1:0");
    let (web, stream) = (unique_loopback(), unique_loopback());
    let (web, stream) = (SocketAddr::from((web, 8080)), SocketAddr::from((stream, 9000)));
    let proxy = serve(&[
        tenant("a").listen(web, http("ok", None)),
        tenant("b").upstream(echo.address()).listen(stream, tcp(None)),
    ]);
    let mut idle = RawHttp::connect(web).await.unwrap();
    assert_eq!(idle.get("a", "/").await.unwrap().status, 200);
    let mut finishing = tcp_connect(stream, None).await.unwrap();
    let mut endless = tcp_connect(stream, None).await.unwrap();
    for busy in [&mut finishing, &mut endless] {
        busy.write_all(b"x").await.unwrap();
        busy.read_exact(&mut [0]).await.unwrap();
    }

    let began = Instant::now();
    let grace = Duration::from_secs(6);
    let drain = tokio::task::spawn_blocking(move || proxy.drain(grace));
    assert!(idle.is_closed().await);
    assert!(began.elapsed() < grace);
    finishing.write_all(b"y").await.unwrap();
    finishing.shutdown().await.unwrap();
    let mut last = Vec::new();
    finishing.read_to_end(&mut last).await.unwrap();
    assert_eq!(last, b"y");
    let drained = drain.await.unwrap();

    // One core may hear of the drain only after its connection has finished.
    assert!(matches!(drained, Drained { finished: 1 | 2, cut: 1 }), "{drained:?}");
    assert!(began.elapsed() >= grace && began.elapsed() < grace + SOON);
    let end = tokio::time::timeout(SOON, endless.read(&mut [0; 9])).await.unwrap();
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn inherited_sockets_serve_and_the_unwanted_are_closed() {
    let (wanted, unwanted) = (unique_loopback(), unique_loopback());
    let inherit = |ip| TcpListener::bind((ip, 0)).unwrap();
    // As a service manager makes them: without SO_REUSEPORT, so none can be made beside them.
    let (kept, closed) = (inherit(wanted), inherit(unwanted));
    let (address, gone) = (kept.local_addr().unwrap(), closed.local_addr().unwrap());
    let mut early = RawHttp::connect(address).await.unwrap();
    early.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();

    let proxy = Proxy::start(Options { inherited: vec![kept, closed], ..options() }).unwrap();
    let applied = proxy.apply(bound(1, &[tenant("a").listen(address, http("ok", None))]));

    assert_eq!(applied.binds[0].state, BindState::Bound);
    assert_eq!(early.read_response().await.unwrap().text(), "ok");
    for _ in 0..10 {
        let mut client = RawHttp::connect(address).await.unwrap();
        assert_eq!(client.get("a", "/").await.unwrap().text(), "ok");
    }
    assert!(tcp_connect(gone, None).await.is_err());
}
