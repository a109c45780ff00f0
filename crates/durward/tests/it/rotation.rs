//! Certificates that change while they are served: by hand, or by a machine that swaps a mounted Secret's link.
//!
//! Deliberately absent: rotation under load, which is tested with reloads.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::origin::Origin;
use durward_testkit::process::{TempDir, eventually_blocking, unique_loopback};

use crate::support::{DEADLINE, HERE, admin_address, spawn, status, tenant};

/// What a rotation may take until new handshakes see it.
const SOON: Duration = Duration::from_secs(2);

/// Tenant `acme` over TLS, with `tls.crt` and `tls.key` in `folder`.
fn https_tenant(address: SocketAddr, upstream: SocketAddr, folder: &str) -> String {
    let certificate = format!("protocol: HTTPS, certificate: {{file: {folder}/tls}}");
    tenant("acme", address.ip(), address.port(), upstream).replace("protocol: HTTP", &certificate)
}

async fn connect(address: SocketAddr, authority: &Authority) -> Option<RawHttp> {
    let config = Arc::new(client_config(authority, None));
    RawHttp::connect_tls(address, None, config, None).await.ok()
}

async fn is_served(http: &mut RawHttp) -> bool {
    http.get("acme", "/").await.is_ok_and(|response| response.status == 200)
}

/// Serves a certificate of `before`, lets `rotate` bring one of `after`, and expects that new handshakes see it soon
/// while the connection from before lives on.
async fn rotates(folder: &str, install: fn(&Path, &TempDir), renew: fn(&Path, &TempDir)) {
    let origin = Origin::http1(HERE);
    let address = SocketAddr::new(unique_loopback().into(), 8443);
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let issued = TempDir::new();
    for (authority, name) in [(&before, "before"), (&after, "after")] {
        std::fs::create_dir(issued.join(name)).unwrap();
        authority.issue(&CertSpec::new().ip(address.ip()).server()).write(issued.join(name), "tls");
    }
    let dir = TempDir::new();
    install(issued.path(), &dir);
    dir.write("acme.yaml", https_tenant(address, origin.address(), folder));
    let admin = admin_address();
    let child = spawn(dir.path(), admin, &[]);
    assert!(
        eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200)),
        "{}",
        child.output()
    );
    let mut old = connect(address, &before).await.expect("the first certificate is served");
    assert!(is_served(&mut old).await);
    assert!(connect(address, &after).await.is_none(), "nobody has renewed it yet");

    renew(issued.path(), &dir);
    let renewed = Instant::now();
    let mut new = loop {
        if let Some(new) = connect(address, &after).await {
            break new;
        }
        assert!(renewed.elapsed() < SOON, "not served within {SOON:?}: {}", child.output());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };

    assert!(is_served(&mut new).await && is_served(&mut old).await);
    assert!(connect(address, &before).await.is_none(), "the old certificate is still served");
}

/// Puts both halves of an issued certificate where the documents say, one after the other.
fn copy(issued: &Path, name: &str, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for half in ["tls.crt", "tls.key"] {
        std::fs::copy(issued.join(name).join(half), to.join(half)).unwrap();
    }
}

// S1.14 S1.35 S1.56
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_replaced_by_hand_are_served_within_two_seconds() {
    rotates(
        "certs",
        |issued, dir| copy(issued, "before", &dir.join("certs")),
        |issued, dir| copy(issued, "after", &dir.join("certs")),
    )
    .await;
}

// S1.14 S1.35 S1.56
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mounted_secret_that_a_machine_renews_is_served_within_two_seconds() {
    rotates(
        "..data",
        |issued, dir| {
            copy(issued, "before", &dir.join("..first"));
            dir.point("..data", "..first");
        },
        |issued, dir| {
            copy(issued, "after", &dir.join("..second"));
            dir.point("..data", "..second");
        },
    )
    .await;
}
