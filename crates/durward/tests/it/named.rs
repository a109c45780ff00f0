//! Tenants that share an address and port by names, as an operator sees them: on the command line, and while the names change.

use std::net::SocketAddr;
use std::time::Duration;

use durward_testkit::client::RawHttp;
use durward_testkit::origin::Origin;
use durward_testkit::process::{TempDir, eventually, unique_loopback};

use crate::gateway::Gateway;
use crate::support::{output, stdout};

const DEADLINE: Duration = Duration::from_secs(20);

fn document(tenant: &str, at: SocketAddr, names: &str, origin: SocketAddr, egress: &str) -> String {
    format!(
        "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {tenant}}}\nspec:\n  ingress:\n    - {{address: {}, port: {}, protocol: HTTP, shared: true, names: [{names}], upstream: app}}\n  upstreams: {{app: {{endpoints: [\"{origin}\"]}}}}\n  egress: {{addresses: [{egress}]}}\n",
        at.ip(),
        at.port()
    )
}

// S4.4+
#[test]
fn the_command_line_says_whose_a_name_is_and_what_a_shared_port_serves() {
    let (at, dir) = (SocketAddr::from((unique_loopback(), 8080)), TempDir::new());
    let (first, second) = (unique_loopback().to_string(), unique_loopback().to_string());
    let origin = SocketAddr::from((unique_loopback(), 9));
    let documents = document("acme", at, "a.example, \"*.a.example\"", origin, &first)
        + &document("globex", at, &format!("b.example, {}", at.ip()), origin, &second);
    std::fs::write(dir.join("all.yaml"), documents).unwrap();
    let config = dir.path().to_str().unwrap();
    let explain = |host: &[&str]| {
        let at = at.to_string();
        let arguments = [&["explain", "-c", config, &at], host].concat();
        let answer = output(&arguments);
        assert_eq!(answer.status.code(), Some(0), "{host:?}: {}", stdout(&answer));
        stdout(&answer)
    };

    assert!(explain(&["--host", "x.a.example"]).contains("Host x.a.example is acme's"));
    assert!(explain(&["--host", "B.example."]).contains("Host b.example is globex's"));
    assert!(explain(&[]).contains("is globex's"));
    let stranger = explain(&["--host", "c.example"]);
    assert!(stranger.contains("REFUSED unknown_name"), "{stranger}");
    assert!(stranger.contains("Host c.example is no name of acme, globex there"), "{stranger}");

    let route = stdout(&output(&["check", "route", &at.to_string(), "-c", config]));
    for told in [
        "belongs to tenant acme by name (a.example, *.a.example)",
        "belongs to tenant globex by name",
    ] {
        assert!(route.contains(told), "{route}");
    }
    let proof = stdout(&output(&["prove", "-c", config]));
    assert!(proof.contains("4 names at 1 port that tenants share"), "{proof}");
}

// S4.5+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_name_leaves_from_its_tenants_address_also_after_it_changed_hands() {
    let origin = Origin::http1("127.0.0.1:0");
    let at = SocketAddr::from((unique_loopback(), 8080));
    let (first, second) = (unique_loopback(), unique_loopback());
    let of = |tenant: &str, names: &str, egress: std::net::Ipv4Addr| {
        document(tenant, at, names, origin.address(), &egress.to_string())
    };
    let before = of("acme", "a.example, x.example", first) + &of("globex", "b.example", second);
    let mut gateway = Gateway::prepare().start(&before);
    let source = async |host: &str| {
        let mut client = RawHttp::connect(at).await.unwrap();
        let answer = client.get(host, "/").await.unwrap();
        assert_eq!(answer.status, 200, "{host}");
        answer.echo().peer.ip()
    };
    assert_eq!(source("a.example").await, first);
    assert_eq!(source("x.example").await, first);
    assert_eq!(source("b.example").await, second);
    let mut open = RawHttp::connect(at).await.unwrap();
    assert_eq!(open.get("a.example", "/").await.unwrap().status, 200);

    gateway
        .reload(&(of("acme", "a.example", first) + &of("globex", "b.example, x.example", second)));
    let moved = eventually(DEADLINE, async || source("x.example").await == second).await;

    assert!(moved);
    assert_eq!(open.get("x.example", "/").await.unwrap().status, 421);
    assert_eq!(open.get("a.example", "/").await.unwrap().status, 200);
    assert_eq!(gateway.isolation_violations(), 0);
    gateway.stop();
}
