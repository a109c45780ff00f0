//! A hand-over while one tenant takes all it can get: another tenant's requests are all answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use durward_testkit::client::RawHttp;
use durward_testkit::origin::Origin;
use durward_testkit::process::{TempDir, eventually, unique_loopback};
use rustix::process::{Signal, kill_process};

use crate::supervise::{end, process};
use crate::support::{DEADLINE, HERE, admin_address, spawn, status, tenant};

/// Connections of the greedy tenant, each of which sends requests without waiting for answers.
const GREEDY: usize = 24;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    greedy: AtomicU64,
    modest: AtomicU64,
}

/// Sends requests in batches and reads what comes, whatever becomes of them.
async fn greedy(door: SocketAddr, shared: Arc<Shared>) {
    let batch = "GET /bytes/2000 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(64);
    while !shared.stop.load(Relaxed) {
        let Ok(mut http) = RawHttp::connect(door).await else { continue };
        while !shared.stop.load(Relaxed) && http.send(&batch).await.is_ok() {
            for _ in 0..64 {
                let Ok(_) = http.read_response().await else { break };
                shared.greedy.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Asks again and again, on one connection for as long as it is kept, and returns what failed.
async fn modest(door: SocketAddr, shared: Arc<Shared>, keeps: bool) -> Vec<String> {
    let (mut failed, mut kept) = (Vec::new(), None);
    while !shared.stop.load(Relaxed) {
        let mut http = match kept.take() {
            Some(http) => http,
            None => match RawHttp::connect(door).await {
                Ok(http) => http.deadline(DEADLINE),
                Err(error) => {
                    failed.push(format!("connect: {error}"));
                    continue;
                }
            },
        };
        match http.get("a", "/").await {
            Ok(answer) if answer.status == 200 => {
                shared.modest.fetch_add(1, Relaxed);
                let closes = answer.header("connection") == Some("close");
                kept = (keeps && !closes).then_some(http);
            }
            Ok(answer) => failed.push(format!("status {}: {}", answer.status, answer.text())),
            Err(error) => failed.push(format!("response: {error:?}")),
        }
    }
    failed
}

// S1.58+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_under_one_tenants_load_loses_no_request_of_another() {
    let (plenty, little) = (Origin::http1(HERE), Origin::http1(HERE));
    let [wide, narrow] = [unique_loopback(), unique_loopback()];
    let (wide, narrow) = (SocketAddr::from((wide, 8080)), SocketAddr::from((narrow, 8080)));
    let (dir, admin) = (TempDir::new(), admin_address());
    dir.write("greedy.yaml", tenant("greedy", wide.ip(), wide.port(), plenty.address()));
    dir.write("modest.yaml", tenant("modest", narrow.ip(), narrow.port(), little.address()));
    let mut child = spawn(dir.path(), admin, &["--drain-grace", "20s"]);
    let ready = eventually(DEADLINE, async || {
        tokio::task::spawn_blocking(move || status(admin, "/readyz")).await.unwrap() == Some(200)
    });
    assert!(ready.await, "{}", child.output());
    let shared = Arc::new(Shared::default());
    for _ in 0..GREEDY {
        tokio::spawn(greedy(wide, Arc::clone(&shared)));
    }
    let clients =
        [false, true, true].map(|keeps| tokio::spawn(modest(narrow, Arc::clone(&shared), keeps)));
    let more = async |count: u64| {
        let (greedy, modest) = (shared.greedy.load(Relaxed), shared.modest.load(Relaxed));
        eventually(DEADLINE, async || {
            shared.greedy.load(Relaxed) > greedy + 10 * count
                && shared.modest.load(Relaxed) > modest + count
        })
        .await
    };
    assert!(more(50).await, "load runs: {}", child.output());

    child.signal(Signal::USR2);
    child.wait_for_line("the new process serves", DEADLINE).await;
    assert!(more(50).await, "the second process serves");
    let second = taken_over(&child.output(), 1).unwrap();
    kill_process(process(&second), Signal::USR2).unwrap();
    let third = eventually(DEADLINE, async || taken_over(&child.output(), 2).is_some());
    assert!(third.await, "{}", child.output());
    assert!(more(50).await, "the third process serves");
    shared.stop.store(true, Relaxed);
    let mut failed = Vec::new();
    for client in clients {
        failed.extend(client.await.unwrap());
    }

    assert_eq!(failed, Vec::<String>::new(), "{}", child.output());
    end(&taken_over(&child.output(), 2).unwrap());
}

/// The log line of the first hand-over, or of a later one by its number.
fn taken_over(output: &str, count: usize) -> Option<String> {
    let mut lines = output.lines().filter(|line| line.contains("the new process serves"));
    lines.nth(count - 1).map(str::to_owned)
}
