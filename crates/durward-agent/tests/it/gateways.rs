//! How an agent finds its gateway, keeps it, and leaves it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use base64_header::basic;
use durward_agent::config::Environment;
use durward_link::{Kind, Route, RouteSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{PATIENCE, World, eventually};

mod base64_header {
    /// `me:secret` in base64.
    pub(super) fn basic() -> &'static str {
        "Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"
    }
}

// S3.73+
#[tokio::test]
async fn an_agent_comes_back_to_a_gateway_that_crashed_or_to_the_next_with_the_routes_of_now() {
    let world = World::new();
    let (first, second) = (world.gateway().await, world.gateway().await);
    let agent =
        world.agent(&format!("gateways: ['tls://{}', 'wss://{}']", first.address, second.address));
    first.carrier().await;

    first.kill();
    let route = Route {
        host: "b.example".to_owned(),
        path: "/".to_owned(),
        exact: false,
        target: "b:80".parse().unwrap(),
        tunnel_only: false,
        passthrough: false,
        backend_tls: None,
        ingress: String::new(),
    };
    let changed = RouteSet::new(2, vec![route]);
    agent.routes.send(Arc::new(changed.clone())).unwrap();

    second.carrier().await;
    let is_last = || second.seen.routes.lock().unwrap().last() == Some(&changed);
    eventually(|| is_last().then_some(())).await;
    eventually(|| agent.status.report().ready.then_some(())).await;
}

#[tokio::test]
async fn an_agent_opens_one_carrier_for_control_and_as_many_for_data_as_the_gateway_wants() {
    let world = World::new();
    let gateway = world.gateway().await;
    let agent = world.agent(&format!("gateways: ['tls://{}']", gateway.address));

    eventually(|| (gateway.seen.carriers.lock().unwrap().len() == 2).then_some(())).await;
    let report = eventually(|| {
        let report = agent.status.report();
        report.carriers.iter().all(|carrier| carrier.state == "up").then_some(report)
    })
    .await;

    assert_eq!(report.carriers.len(), 3);
    assert!(report.carriers.iter().all(|carrier| carrier.replica.as_deref() == Some("test")));
}

#[tokio::test]
async fn a_refused_agent_says_why_and_tries_again() {
    let world = World::new();
    let gateway = world.gateway().await;
    gateway.seen.refuses.store(true, Relaxed);
    let agent = world.agent(&format!("gateways: ['tls://{}']", gateway.address));

    let error = eventually(|| agent.status.report().last_error).await;
    assert!(error.contains("not now"), "{error}");
    assert!(!agent.status.report().ready);
    gateway.seen.refuses.store(false, Relaxed);

    gateway.carrier().await;
}

// S3.23+
#[tokio::test]
async fn a_gateway_with_a_foreign_certificate_is_no_gateway() {
    let (world, other) = (World::new(), World::new());
    let foreign = other.gateway().await;
    let agent = world.agent(&format!("gateways: ['tls://{}']", foreign.address));

    let error = eventually(|| agent.status.report().last_error).await;

    assert!(error.contains("TLS"), "{error}");
    assert_eq!(foreign.seen.hellos.load(Relaxed), 0);
    agent.stopped.cancel();
    tokio::time::timeout(PATIENCE, agent.task).await.unwrap().unwrap();
}

// S3.22+
#[tokio::test]
async fn an_agent_goes_through_a_proxy_with_credentials() {
    let world = World::new();
    let gateway = world.gateway().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let expected = format!("CONNECT {} HTTP/1.1\r\n", gateway.address);
    let to = gateway.address;
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let expected = expected.clone();
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let mut read = 0;
                while !head[..read].ends_with(b"\r\n\r\n") {
                    read += client.read(&mut head[read..]).await.unwrap();
                }
                let head = String::from_utf8(head[..read].to_vec()).unwrap();
                if !head.starts_with(&expected) || !head.contains(basic()) {
                    let _ = client.write_all(b"HTTP/1.1 407 No\r\n\r\n").await;
                    return;
                }
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut gateway = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut gateway).await;
            });
        }
    });
    let through = |credentials: &str| Environment {
        https_proxy: Some(format!("http://{credentials}{proxy}")),
        ..Environment::default()
    };
    let gateways = format!("gateways: ['wss://{}']", gateway.address);

    let refused = world.agent_in(&gateways, &through("me:wrong@"));
    let error = eventually(|| refused.status.report().last_error).await;
    assert!(error.contains("407"), "{error}");
    assert!(gateway.seen.carriers.lock().unwrap().is_empty());
    refused.stopped.cancel();

    world.agent_in(&gateways, &through("me:secret@"));
    gateway.carrier().await;
}

// S3.85+
#[tokio::test]
async fn a_gateway_that_drains_is_replaced_first_and_streams_finish() {
    let world = World::new();
    let gateway = world.gateway().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let agent = world.agent(&format!(
        "gateways: ['tls://{}']\nroutes: [{{host: a.example, target: '{backend}'}}]\nallow: ['{backend}']",
        gateway.address
    ));
    eventually(|| (gateway.seen.carriers.lock().unwrap().len() == 2).then_some(())).await;
    let old = gateway.carrier().await;
    let mut stream =
        old.open(&backend.to_string().parse().unwrap(), Kind::Tcp, None).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    let least = std::sync::atomic::AtomicUsize::new(usize::MAX);

    gateway.drain.cancel();
    eventually(|| {
        let carriers = gateway.seen.carriers.lock().unwrap();
        least.fetch_min(carriers.iter().filter(|one| one.is_current()).count(), Relaxed);
        carriers.iter().all(|one| !Arc::ptr_eq(one, &old)).then_some(())
    })
    .await;

    assert!(least.load(Relaxed) > 0, "there was always one that takes streams");
    accepted.write_all(b"the rest").await.unwrap();
    drop(accepted);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "the rest");
    drop(stream);
    agent.stopped.cancel();
}

// S3.85+
#[tokio::test]
async fn an_agent_that_is_stopped_finishes_its_streams_and_then_ends() {
    let world = World::new();
    let gateway = world.gateway().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let agent = world.agent(&format!(
        "gateways: ['tls://{}']\nroutes: [{{host: a.example, target: '{backend}'}}]\nallow: ['{backend}']\ndrainGraceSeconds: 60",
        gateway.address
    ));
    let carrier = gateway.carrier().await;
    let mut stream =
        carrier.open(&backend.to_string().parse().unwrap(), Kind::Tcp, None).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();

    agent.stopped.cancel();

    eventually(|| gateway.seen.carriers.lock().unwrap().is_empty().then_some(())).await;
    assert!(!agent.task.is_finished());
    tokio::time::sleep(Duration::from_millis(200)).await;
    accepted.write_all(b"the rest").await.unwrap();
    drop(accepted);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "the rest");
    drop(stream);
    tokio::time::timeout(PATIENCE, agent.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_agent_that_is_refused_tries_its_next_gateway() {
    let world = World::new();
    let (first, second) = (world.gateway().await, world.gateway().await);
    first.seen.refuses.store(true, Relaxed);

    let _agent =
        world.agent(&format!("gateways: ['tls://{}', 'tls://{}']", first.address, second.address));

    second.carrier().await;
    assert!(first.seen.carriers.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_gateway_that_drains_at_once_is_not_dialled_without_a_pause() {
    let world = World::new();
    let gateway = world.gateway().await;
    gateway.drain.cancel();

    let _agent = world.agent(&format!("gateways: ['tls://{}']", gateway.address));
    eventually(|| (gateway.seen.hellos.load(Relaxed) >= 3).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    // Without a pause they would be hundreds; with one there are three places, and a handful of attempts of each.
    let hellos = gateway.seen.hellos.load(Relaxed);
    assert!(hellos < 60, "{hellos}");
}

// S3.72
#[tokio::test]
async fn an_agent_that_waits_dials_at_once_when_its_network_or_its_certificate_is_another() {
    let world = World::new();
    let gateway = world.gateway().await;
    // Ten minutes and more; nothing else would end the wait.
    gateway.seen.wait.store(600_000, Relaxed);
    gateway.seen.refuses.store(true, Relaxed);
    let agent = world.agent(&format!("gateways: ['tls://{}']", gateway.address));
    let hellos = |count: u32| {
        let seen = &gateway.seen;
        eventually(move || (seen.hellos.load(Relaxed) >= count).then_some(()))
    };
    hellos(1).await;

    // The wait begins a moment after the refusal.
    let telling = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            agent.retry.notify_waiters();
        }
    };
    tokio::select! {
        () = hellos(2) => {}
        () = telling => {}
    }

    gateway.seen.refuses.store(false, Relaxed);
    let certificate = world.dir().join("agent.crt");
    let text = std::fs::read(&certificate).unwrap();
    let writing = async {
        loop {
            // The same certificate, written anew.
            std::fs::write(&certificate, &text).unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        _ = gateway.carrier() => {}
        () = writing => {}
    }
    agent.stopped.cancel();
}

// S3.72+
#[test]
fn a_hundred_agents_do_not_come_back_at_the_same_moment() {
    use durward_link::backoff::Backoff;
    // Evenly spread numbers, the same each time.
    let mut state = 7u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 32) as u32
    };
    for failures in [0, 3, 6] {
        let mut waits: Vec<u128> = (0..100)
            .map(|_| {
                let mut backoff = Backoff::default();
                for _ in 0..failures {
                    backoff.next(0, None);
                }
                backoff.next(random(), None).as_millis()
            })
            .collect();
        waits.sort_unstable();
        let longest = 500u128 << failures;
        let window = longest / 10;
        let most = waits
            .iter()
            .map(|at| waits.iter().filter(|other| (*at..at + window).contains(other)).count());
        assert!(most.max().unwrap() <= 25, "{failures} failures: {waits:?}");
        assert!(waits[99] > longest / 2 && waits[99] <= longest);
    }
}
