//! New certificates while connections come and go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use durward_testkit::certificates::{Authority, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::client::client_hello::{ClientHello, Reaction, probe};
use durward_testkit::process::unique_loopback;

use crate::edge::{assert_served, bound, http, https, identity_for, serve, tenant};

// S1.56 S1.35
#[tokio::test]
async fn a_hundred_rotations_under_load_fail_no_handshake_and_end_no_connection() {
    let authority = Arc::new(Authority::new("root"));
    let (rotating, steady) = (unique_loopback(), unique_loopback());
    let at = |ip| SocketAddr::from((ip, 8443));
    let untouched = https(&identity_for(&authority, steady));
    let stage = |identity: &durward_testkit::certificates::Identity| {
        [
            tenant("rotating").listen(at(rotating), http("R", Some(https(identity)))),
            tenant("steady").listen(at(steady), http("S", Some(untouched.clone()))),
        ]
    };
    let first = identity_for(&authority, rotating);
    let proxy = serve(&stage(&first));
    let config = client_config(&authority, None);
    let mut open = RawHttp::connect_tls(at(rotating), None, config, None).await.unwrap();
    assert_eq!(open.get("r", "/").await.unwrap().text(), "R");
    let done = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let load: Vec<_> = [rotating, steady]
        .map(|ip| {
            let (authority, done, served) = (authority.clone(), done.clone(), served.clone());
            tokio::spawn(async move {
                while !done.load(Relaxed) {
                    let config = client_config(&authority, None);
                    let mut client =
                        RawHttp::connect_tls(at(ip), None, config, None).await.unwrap();
                    assert_eq!(client.get("x", "/").await.unwrap().status, 200);
                    served.fetch_add(1, Relaxed);
                }
            })
        })
        .into();

    for generation in 2..102 {
        let identity = identity_for(&authority, rotating);
        assert_served(&proxy.apply(bound(generation, &stage(&identity))));
        let rotated = Instant::now();
        let shown = probe(at(rotating), None, &ClientHello::new()).await.unwrap();
        assert_eq!(shown, Reaction::Chain(identity.chain_der.clone()));
        assert!(rotated.elapsed() < Duration::from_secs(2));
        assert_eq!(open.get("r", "/").await.unwrap().text(), "R", "generation {generation}");
    }
    done.store(true, Relaxed);

    for task in load {
        task.await.unwrap();
    }
    assert!(served.load(Relaxed) >= 10, "{}", served.load(Relaxed));
}
