//! Many connections and names at once: the file descriptors that one tenant gets, and the rest for the others.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::net::UdpSocket;

use super::super::resolve::{Resolver, Unresolved};
use super::super::{Carrier, Lease, Tried, carry};
use super::support::{on_a_core_of, on_a_core_with, until, upstream, view};
use crate::core::Core;
use crate::files::{Asker, Files};
use crate::io::Io;
use crate::metrics::Counter;
use crate::prepared::TenantView;
use crate::refusal::Refusal;

/// Half of what 1,024 files leave one core.
const OUTWARD: usize = 304;

/// Starts an origin at every loopback address that accepts connections and sends nothing.
async fn everywhere() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    port
}

fn tenant(name: &str, source: &str) -> TenantView {
    view(name, upstream(&[SocketAddr::from(([127, 0, 0, 1], 1))], source))
}

/// Opens a connection to address number `at`.
async fn visit(
    core: &Rc<Core>,
    view: &TenantView,
    port: u16,
    at: usize,
) -> Result<(Io, Lease), Refusal> {
    let [.., high, low] = (at + 256).to_be_bytes();
    let address = SocketAddr::from((Ipv4Addr::new(127, 9, high, low), port));
    match carry(&core.upstreams, view.access(), &[address], &mut Tried::default()).await? {
        (Carrier::Http1(io), lease) => Ok((io, lease)),
        (Carrier::Http2(_), _) => panic!("HTTP/2 is not spoken outwards"),
    }
}

// S2.60 S1.71
#[tokio::test]
async fn a_tenant_that_connects_everywhere_is_refused_before_the_others_are() {
    on_a_core_of(Files::new(1024, 1), Resolver::default(), |core| async move {
        let port = everywhere().await;
        let (greedy, modest) = (tenant("greedy", "127.0.0.2"), tenant("modest", "127.0.0.3"));
        let mut held = Vec::new();

        let refusal = loop {
            match visit(&core, &greedy, port, held.len()).await {
                Ok(visited) => held.push(visited),
                Err(refusal) => break refusal,
            }
        };

        assert_eq!((refusal.word(), refusal.status().0), ("fair_share", 503));
        assert!(held.len() > OUTWARD / 2 && held.len() < OUTWARD / 8 * 7, "{}", held.len());
        for at in 0..20 {
            held.push(visit(&core, &modest, port, at).await.unwrap());
        }
        assert_eq!(core.shared.files.outward.used(), held.len());
        drop(held);
        assert_eq!(core.shared.files.outward.used(), 0);
    })
    .await;
}

// S2.60 S1.62
#[tokio::test]
async fn idle_connections_to_everywhere_are_kept_up_to_a_share_and_the_latest_of_them() {
    on_a_core_of(Files::new(1024, 1), Resolver::default(), |core| async move {
        let port = everywhere().await;
        let view = tenant("greedy", "127.0.0.2");
        let most = core.shared.files.idle().0;

        for at in 0..OUTWARD * 2 {
            let (io, lease) = visit(&core, &view, port, at).await.unwrap();
            lease.release(io);
            // As time goes by.
            if at % 16 == 0 {
                core.upstreams.pools.age();
            }
        }

        let idle = core.upstreams.pools.idle();
        assert!(idle <= most && idle > most / 2, "{idle} of {most}");
        let total = |counter| view.tenant().metrics.total(counter);
        let gauge =
            total(Counter::UpstreamConnectionsIdled) - total(Counter::UpstreamConnectionsTaken);
        assert_eq!(gauge, idle as u64);
        let last = visit(&core, &view, port, OUTWARD * 2 - 1).await.unwrap();
        assert!(last.1.reused, "the oldest made room");
    })
    .await;
}

// S2.60
#[tokio::test]
async fn idle_connections_make_room_for_those_that_are_needed() {
    on_a_core_of(Files::new(1024, 1), Resolver::default(), |core| async move {
        let port = everywhere().await;
        let (greedy, modest) = (tenant("greedy", "127.0.0.2"), tenant("modest", "127.0.0.3"));
        let (idle, mut held) = (core.shared.files.idle().0, Vec::new());
        for at in 0..idle {
            held.push(visit(&core, &greedy, port, at).await.unwrap());
        }
        let (io, lease) = visit(&core, &modest, port, 0).await.unwrap();
        lease.release(io);
        held.drain(..).for_each(|(io, lease)| lease.release(io));
        assert_eq!(core.upstreams.pools.idle(), idle + 1);

        while let Ok(visited) = visit(&core, &greedy, port, 10_000 + held.len()).await {
            held.push(visited);
        }

        assert!(held.len() > OUTWARD / 2, "{}", held.len());
        let kept = visit(&core, &modest, port, 0).await.unwrap();
        assert!(kept.1.reused, "nobody else's made room");
    })
    .await;
}

// S2.60
#[tokio::test]
async fn names_nobody_waits_for_are_asked_no_more_and_a_tenant_asks_for_so_many_at_once() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = Resolver::at_server(silent.local_addr().unwrap());
    on_a_core_with(resolver.clone(), |core| async move {
        let (usage, other) = (Arc::default(), Arc::default());
        let files = &core.shared.files;
        let ask = |at: usize, usage| {
            let (resolver, files) = (resolver.clone(), Arc::clone(files));
            let usage = Arc::clone(usage);
            tokio::task::spawn_local(async move {
                let host = Arc::from(format!("{at}.example"));
                resolver
                    .lookup(
                        &host,
                        Some(Asker { files: &files, memory: &Arc::default(), usage: &usage }),
                    )
                    .await
            })
        };

        let mut asked: Vec<_> = (0..300).map(|at| ask(at, &usage)).collect();
        let refused = asked.split_off(256);
        for refused in refused {
            assert_eq!(refused.await.unwrap().unwrap_err(), Unresolved::TooMany);
        }
        let same = ask(0, &usage);
        let another = ask(1000, &other);
        until(|| files.outward.used() == 257 * 4).await;
        tokio::time::sleep(Duration::from_millis(50)).await;

        for waiting in asked.iter().skip(1).chain([&another]) {
            waiting.abort();
        }
        until(|| files.outward.used() == 4).await;
        asked[0].abort();
        until(|| asked[0].is_finished()).await;
        assert_eq!(files.outward.used(), 4, "somebody else still waits for it");
        same.abort();
        until(|| files.outward.used() == 0).await;
        assert!(!ask(2000, &usage).is_finished());
    })
    .await;
}
