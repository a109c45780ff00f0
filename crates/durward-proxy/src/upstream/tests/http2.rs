//! HTTP/2 connections: shared by streams, never by tenants, replaced when full or closed.

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use durward_model::Upstream;
use durward_model::upstream::UpstreamProtocol;
use durward_testkit::certificates::{Authority, CertSpec};
use durward_testkit::origin::Origin;
use h2::client::SendRequest;
use http::{Request, Response};

use super::super::{Carrier, Lease};
use super::support::{bind, on_a_core, take, until, upstream, view};
use super::tls::{over_tls, trusting};
use crate::core::Core;
use crate::metrics::Counter;
use crate::prepared::TenantView;

async fn stream(core: &Rc<Core>, view: &TenantView) -> (SendRequest<Bytes>, Lease) {
    match take(core, view).await.unwrap() {
        (Carrier::Http2(send), lease) => (send, lease),
        (Carrier::Http1(_), _) => panic!("HTTP/1 was not asked for"),
    }
}

async fn get(send: SendRequest<Bytes>) -> Result<u16, h2::Error> {
    let request = Request::get("http://pay.example/").body(()).unwrap();
    let (answer, _) = send.ready().await?.send_request(request, true)?;
    Ok(answer.await?.status().as_u16())
}

fn speaking_h2(config: Upstream) -> Upstream {
    Upstream { protocol: UpstreamProtocol::Http2, ..config }
}

// S1.38 S1.40
#[tokio::test]
async fn streams_of_one_tenant_share_a_connection_and_two_tenants_never() {
    on_a_core(|core| async move {
        let origin = Origin::h2c("127.0.0.1:0");
        let config = |source| speaking_h2(upstream(&[origin.address()], source));
        let (a, b) = (view("a", config("127.0.0.2")), view("b", config("127.0.0.3")));

        let burst = futures_util::future::join_all((0..20).map(|_| stream(&core, &a))).await;
        let (other, other_lease) = stream(&core, &b).await;
        for (send, lease) in burst {
            assert_eq!(get(send).await.unwrap(), 200);
            assert_eq!(lease.source.ip(), IpAddr::from([127, 0, 0, 2]));
        }
        assert_eq!(get(other).await.unwrap(), 200);

        assert_eq!(other_lease.source.ip(), IpAddr::from([127, 0, 0, 3]));
        assert_eq!(origin.connections(), 2);
        assert_eq!(a.tenant().metrics.total(Counter::UpstreamConnectionsNew), 1);
        for seen in origin.seen() {
            assert!(seen.connection_id < 2);
        }
    })
    .await;
}

// S1.38
#[tokio::test]
async fn http2_is_agreed_by_alpn_over_tls() {
    on_a_core(|core| async move {
        let authority = Authority::new("bank");
        let identity = authority.issue(&CertSpec::new().ip([127, 0, 0, 1]));
        let origin = Origin::tls("127.0.0.1:0", &identity, None, &["h2", "http/1.1"]);
        let view = view("a", speaking_h2(over_tls(&origin, trusting(&authority))));

        let (send, first) = stream(&core, &view).await;
        assert_eq!(get(send).await.unwrap(), 200);
        let (send, second) = stream(&core, &view).await;
        assert_eq!(get(send).await.unwrap(), 200);

        assert!(!first.reused && second.reused);
        assert!(first.connect > std::time::Duration::ZERO);
        assert_eq!(origin.connections(), 1);
    })
    .await;
}

/// Starts an HTTP/2 server with a limit of streams that sends GOAWAY on request, and counts connections.
async fn limited(
    streams: u32,
    mut goaway: tokio::sync::watch::Receiver<bool>,
) -> (std::net::SocketAddr, Rc<std::cell::Cell<u32>>) {
    let (listener, address) = bind().await;
    let connections = Rc::new(std::cell::Cell::new(0));
    let count = Rc::clone(&connections);
    tokio::task::spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            count.set(count.get() + 1);
            let first = count.get() == 1;
            let mut goaway = goaway.clone();
            tokio::task::spawn_local(async move {
                let mut builder = h2::server::Builder::new();
                let builder = builder.max_concurrent_streams(streams);
                let mut connection = builder.handshake::<_, Bytes>(socket).await.unwrap();
                let mut leaving = false;
                loop {
                    tokio::select! {
                        accepted = connection.accept() => {
                            let Some(Ok((_, mut respond))) = accepted else { return };
                            respond.send_response(Response::new(()), true).unwrap();
                        }
                        Ok(()) = goaway.changed(), if first && !leaving => {
                            leaving = true;
                            connection.graceful_shutdown();
                        }
                    }
                }
            });
        }
        goaway.mark_unchanged();
    });
    (address, connections)
}

// S1.38
#[tokio::test]
async fn a_full_connection_is_joined_by_another() {
    on_a_core(|core| async move {
        let (_tell, goaway) = tokio::sync::watch::channel(false);
        let (address, connections) = limited(2, goaway).await;
        let view = view("a", speaking_h2(upstream(&[address], "127.0.0.2")));
        let (first, one) = stream(&core, &view).await;
        get(first).await.unwrap();

        let (_second, two) = stream(&core, &view).await;
        let (third, three) = stream(&core, &view).await;
        get(third).await.unwrap();

        assert_eq!(connections.get(), 2);
        assert!(two.reused && !three.reused);
        drop(one);
        assert!(stream(&core, &view).await.1.reused);
        assert_eq!(connections.get(), 2);
    })
    .await;
}

// S1.38
#[tokio::test]
async fn a_connection_on_which_the_peer_accepts_no_stream_is_given_up() {
    on_a_core(|core| async move {
        let (_tell, goaway) = tokio::sync::watch::channel(false);
        let (address, connections) = limited(0, goaway).await;
        let view = view("a", speaking_h2(upstream(&[address], "127.0.0.2")));
        let (send, lease) = stream(&core, &view).await;
        until(|| send.current_max_send_streams() == 0).await;

        drop(lease);
        let (_send, second) = stream(&core, &view).await;

        assert!(!second.reused);
        until(|| connections.get() == 2).await;
    })
    .await;
}

// S1.44
#[tokio::test]
async fn after_goaway_new_streams_begin_on_a_new_connection() {
    on_a_core(|core| async move {
        let (tell, goaway) = tokio::sync::watch::channel(false);
        let (address, connections) = limited(100, goaway).await;
        let view = view("a", speaking_h2(upstream(&[address], "127.0.0.2")));
        let (send, lease) = stream(&core, &view).await;
        get(send).await.unwrap();
        drop(lease);

        tell.send(true).unwrap();
        let closed = || view.tenant().metrics.total(Counter::UpstreamConnectionsClosed);
        until(|| closed() == 1 || !still_shared(&core, &view)).await;
        let (send, lease) = stream(&core, &view).await;

        assert_eq!(get(send).await.unwrap(), 200);
        drop(lease);
        assert_eq!(connections.get(), 2);
    })
    .await;
}

/// Returns true if the pool would hand out a shared connection now.
fn still_shared(core: &Rc<Core>, view: &TenantView) -> bool {
    let runtime = &view.tenant().upstreams[0];
    let endpoint = &runtime.endpoints[0];
    let durward_model::upstream::Target::Address(peer) = endpoint.target else { return false };
    let source = runtime.upstream.sources[0];
    let path =
        endpoint.path(&view.tenant().tenant, peer, source, runtime.upstream.protocol).unwrap();
    core.upstreams.pools.shared(&path).is_some()
}

// S1.44
#[tokio::test]
async fn a_dead_connection_is_replaced() {
    on_a_core(|core| async move {
        let origin = Origin::h2c("127.0.0.1:0");
        let view = view("a", speaking_h2(upstream(&[origin.address()], "127.0.0.2")));
        let (send, lease) = stream(&core, &view).await;
        get(send).await.unwrap();
        drop(lease);

        origin.stop();
        until(|| !still_shared(&core, &view)).await;
        origin.restart();
        let (send, lease) = stream(&core, &view).await;

        assert_eq!(get(send).await.unwrap(), 200);
        assert!(!lease.reused);
    })
    .await;
}

// S1.44
#[tokio::test]
async fn who_answers_no_ping_is_given_up_and_who_does_is_kept() {
    on_a_core(|core| async move {
        let (silent, address) = bind().await;
        let origin = Origin::h2c("127.0.0.1:0");
        let dead = view("a", speaking_h2(upstream(&[address], "127.0.0.2")));
        let living = view("b", speaking_h2(upstream(&[origin.address()], "127.0.0.2")));
        drop((stream(&core, &dead).await, stream(&core, &living).await));
        let _accepted = silent.accept().await.unwrap();
        assert!(still_shared(&core, &dead));

        until(|| !still_shared(&core, &dead)).await;

        assert!(still_shared(&core, &living));
        assert_eq!(origin.connections(), 1);
    })
    .await;
}

// S1.62
#[tokio::test]
async fn a_connection_without_streams_ends_with_its_timeout() {
    on_a_core(|core| async move {
        let origin = Origin::h2c("127.0.0.1:0");
        let mut config = speaking_h2(upstream(&[origin.address()], "127.0.0.2"));
        config.pool_idle_timeout = std::time::Duration::from_millis(250);
        let view = view("a", config);
        let (send, lease) = stream(&core, &view).await;
        get(send).await.unwrap();
        drop(lease);

        until(|| origin.open_connections() == 0).await;

        assert!(!still_shared(&core, &view));
        assert_eq!(view.tenant().metrics.total(Counter::UpstreamConnectionsClosed), 1);
    })
    .await;
}
