//! Configuration changes and certificate rotations while requests run: tenants that are not touched notice nothing.
//!
//! Deliberately absent: the file watcher's timing; changes are applied as fast as the gateway takes them, and by watched files in another test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use durward_testkit::certificates::{Authority, CertSpec, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::origin::Origin;
use durward_testkit::rustls::ClientConfig;

use crate::gateway::{Gateway, free_port_on};

/// Requests that run until told to stop; each failure is kept in words.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    /// `fresh` makes a new connection, hence a new handshake, per request.
    fn start(doors: &[SocketAddr], config: &Arc<ClientConfig>, fresh: bool) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = doors.iter().map(|&door| {
            let (stop, answered, config) =
                (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(config));
            tokio::spawn(async move {
                let (mut failures, mut kept) = (Vec::new(), None);
                while !stop.load(Relaxed) {
                    match request(door, &config, kept.take()).await {
                        Ok(http) => {
                            answered.fetch_add(1, Relaxed);
                            kept = http.filter(|_| !fresh);
                        }
                        Err(failure) => failures.push(failure),
                    }
                }
                failures
            })
        });
        Self { stop: Arc::clone(&stop), answered: Arc::clone(&answered), tasks: tasks.collect() }
    }

    async fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Relaxed);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await.expect("the load ends"));
        }
        (self.answered.load(Relaxed), failures)
    }
}

/// One request, on the kept connection or a new one. Returns the connection unless the gateway announced its end.
async fn request(
    door: SocketAddr,
    config: &Arc<ClientConfig>,
    kept: Option<RawHttp>,
) -> Result<Option<RawHttp>, String> {
    let mut http = match kept {
        Some(http) => http,
        None => RawHttp::connect_tls(door, None, Arc::clone(config), None)
            .await
            .map_err(|error| format!("connect: {error}"))?,
    };
    let response =
        http.get("door.example", "/").await.map_err(|error| format!("response: {error:?}"))?;
    if response.status != 200 {
        return Err(format!("status {}", response.status));
    }
    let closes =
        response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok((!closes).then_some(http))
}

fn tenant(name: &str, address: &str, port: u16, upstream: SocketAddr, egress: &str) -> String {
    format!(
        "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n    - {{address: {address}, port: {port}, protocol: HTTPS, certificate: {{file: {name}}}, routes: [{{pathPrefix: /, upstream: u}}]}}\n  upstreams:\n    u: {{endpoints: [\"{upstream}\"]}}\n  egress: {{addresses: [{egress}]}}\n"
    )
}

// S1.18 S1.35 S1.56
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_and_a_hundred_rotations_fail_no_request_of_untouched_tenants() {
    let port = free_port_on("127.30.1.1");
    let origin = Origin::http1("127.0.0.1:0");
    let servers = Authority::new("servers");
    let issue = |name: &str, address: &str, dir: &std::path::Path| {
        let address: std::net::IpAddr = address.parse().expect("an address");
        servers.issue(&CertSpec::new().ip(address).server()).write(dir, name);
    };
    let gateway = Gateway::prepare();
    for (name, address) in
        [("calm", "127.30.1.1"), ("rotated", "127.30.1.2"), ("changed", "127.30.1.3")]
    {
        issue(name, address, gateway.dir());
    }
    let stable = tenant("calm", "127.30.1.1", port, origin.address(), "127.30.2.1")
        + &tenant("rotated", "127.30.1.2", port, origin.address(), "127.30.2.2");
    let mut gateway = gateway.start(&stable);
    let config = Arc::new(client_config(&servers, None));
    let doors =
        [SocketAddr::from(([127, 30, 1, 1], port)), SocketAddr::from(([127, 30, 1, 2], port))];
    let (keeping, fresh) =
        (Load::start(&doors, &config, false), Load::start(&doors, &config, true));

    for change in 0..1_000_u32 {
        if change % 10 == 0 {
            issue("rotated", "127.30.1.2", gateway.dir());
        }
        let other = match change % 3 {
            0 => String::new(),
            1 => tenant("changed", "127.30.1.3", port, origin.address(), "127.30.2.3"),
            _ => tenant("changed", "127.30.1.3", port, origin.address(), "127.30.2.4"),
        };
        gateway.reload(&(stable.clone() + &other));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let ((kept, mut failures), (handshakes, fresh_failures)) =
        (keeping.end().await, fresh.end().await);
    failures.extend(fresh_failures);

    assert_eq!(failures, Vec::<String>::new());
    assert!(kept > 100 && handshakes > 100, "load ran: {kept} kept, {handshakes} fresh");
    assert!(gateway.generation() >= 1_000, "every change was applied: {}", gateway.generation());
    gateway.stop();
}
