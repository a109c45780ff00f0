//! Records of connections to hosted API servers in the audit file.

use std::fs;

use durward_testkit::certificates::Authority;
use durward_testkit::process::{TempDir, eventually, unique_loopback};
use serde_json::Value;

use super::{Cluster, DEADLINE};
use crate::support::{admin_address, get, spawn, status};

// S4.48+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_reaches_an_api_server_without_a_record_and_one_that_fails_has_one_too() {
    let at = std::net::SocketAddr::from((unique_loopback(), 8443));
    let (dir, authority) = (TempDir::new(), Authority::new("gateway"));
    let acme = Cluster::new("acme", "t1.api.example", 1);
    let documents = dir.write("all.yaml", acme.documents(dir.path(), at, &authority));
    let (audit, admin) = (dir.join("audit.log"), admin_address());
    let child = spawn(&documents, admin, &["--audit-log", audit.to_str().unwrap()]);
    let is_up = eventually(DEADLINE, async || status(admin, "/readyz") == Some(200)).await;
    assert!(is_up, "{}", child.output());
    let client = acme.client("admin");
    let is_served = async || acme.whoami(at, acme.host, &client).await.is_some();
    let asked = || acme.servers[0].seen().into_iter().filter(|request| request.path == "/").count();

    let before = is_served().await;
    let good = fs::read(&audit).unwrap();
    fs::write(&audit, "not a record\n".repeat(1_000)).unwrap();
    let meanwhile = is_served().await;
    let asked_meanwhile = asked();
    let metrics = get(admin, "/metrics").unwrap().1;
    fs::write(&audit, good).unwrap();
    let after = is_served().await;

    assert_eq!((before, meanwhile, after), (true, false, true), "{}", child.output());
    assert_eq!((asked_meanwhile, asked()), (1, 2));
    let refused = "durward_refusals_total{tenant=\"acme\",reason=\"not_recorded\"}";
    assert!(metrics.contains(refused), "{metrics}");

    acme.servers[0].stop();
    assert!(!is_served().await);
    let failed = eventually(DEADLINE, async || {
        let text = fs::read_to_string(&audit).unwrap();
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.any(|line| line["kind"] == "api-open" && line["verdict"] == "failed")
    });
    assert!(failed.await, "{}", fs::read_to_string(&audit).unwrap());
}
