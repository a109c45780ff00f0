//! `durward agent` as a program: run, status, reload, end.

use std::path::Path;

use durward_testkit::origin::Origin;
use durward_testkit::process::{Child, TempDir, eventually_blocking};
use rustix::process::Signal;

use super::world::{World, agent};
use crate::support::{
    DEADLINE, HERE, admin_address, durward, get, nowhere, output, status, stderr, stdout,
};

fn run(config: &Path, admin: &str) -> Child {
    let config = config.to_str().unwrap();
    Child::spawn(durward(&["--log-format", "json", "agent", "run", "-c", config, "--admin", admin]))
}

#[test]
fn an_agent_runs_says_how_it_is_reads_its_routes_again_and_ends() {
    let world = World::new();
    let (tenant, origin) = (world.tenant("acme"), Origin::http1(HERE));
    let document = tenant.document(origin.address(), nowhere());
    let (dir, backends) = (TempDir::new(), [origin.address()]);
    let config = agent(&tenant, "agent.acme.example", &backends).write(&dir, &world.servers);
    let whole = std::fs::read_to_string(&config).unwrap();
    // Without any route nothing would be dialled.
    let without = whole.replace(
        &format!("{{host: app0.example, target: '{}'}}", backends[0]),
        "{host: other.example, target: 'other.invalid:80'}",
    );
    dir.replace("agent.yaml", &without);
    let admin = admin_address().to_string();
    let ask = || output(&["agent", "status", "--admin", &admin]);
    assert_eq!(ask().status.code(), Some(4), "nobody answers yet");

    // The gateway is not there yet.
    let mut child = run(&config, &admin);
    assert!(eventually_blocking(DEADLINE, || ask().status.code() == Some(1)), "{}", child.output());
    let waiting = stdout(&ask());
    assert!(waiting.contains("no data carrier is up"), "{waiting}");
    assert_eq!(status(admin.parse().unwrap(), "/readyz"), Some(503));

    let (gateway, _) = world.start(&document);
    assert!(eventually_blocking(DEADLINE, || ask().status.code() == Some(0)), "{}", child.output());
    assert_eq!(status(admin.parse().unwrap(), "/readyz"), Some(200));
    assert_eq!(get(tenant.http(), "/").unwrap().0, 502, "its file has no route");
    dir.replace("agent.yaml", "routes: [");
    child.signal(Signal::HUP);
    child.wait_for_line_blocking("the agent's file is broken", DEADLINE);
    dir.replace("agent.yaml", &whole);
    child.signal(Signal::HUP);
    let served = || get(tenant.http(), "/").is_some_and(|(status, _)| status == 200);
    assert!(eventually_blocking(DEADLINE, served), "{}", child.output());
    let held = || stdout(&ask()).contains("routes held by the gateway: revision 2");
    assert!(eventually_blocking(DEADLINE, held), "{}", stdout(&ask()));
    let metrics = get(admin.parse().unwrap(), "/metrics").unwrap().1;
    assert!(metrics.contains("durward_agent_carriers{purpose=\"control\"} 1"), "{metrics}");

    child.signal(Signal::TERM);
    assert!(child.wait_blocking(DEADLINE).success(), "{}", child.output());
    gateway.stop();
}

// S3.56
#[test]
fn the_first_broken_piece_from_the_route_to_the_backend_is_named() {
    let world = World::new();
    let (tenant, origin) = (world.tenant("acme"), Origin::http1(HERE));
    let document = tenant.document(origin.address(), nowhere());
    let (dir, backends) = (TempDir::new(), [origin.address(), nowhere()]);
    let config = agent(&tenant, "agent.acme.example", &backends).write(&dir, &world.servers);
    let admin = admin_address().to_string();
    let child = run(&config, &admin);
    let way = |host: &str| {
        let asked = output(&["agent", "status", host, "--path", "/x", "--admin", &admin]);
        (asked.status.code(), stdout(&asked))
    };
    let is = |host: &str, code: i32, words: &str| {
        let fits = || {
            let (ended, shown) = way(host);
            ended == Some(code) && shown.contains(words)
        };
        let output = || (way(host), child.output());
        assert!(eventually_blocking(DEADLINE, fits), "{host}: {words}: {:?}", output());
    };

    is("app0.example", 1, "first broken piece: link: no data carrier to the gateway is up");
    let (gateway, _) = world.start(&document);
    is("APP0.example", 0, "dig +short APP0.example");
    is("app1.example", 1, "first broken piece: backend");
    is("app2.example", 1, "first broken piece: ingress: no Ingress and no route");

    drop(child);
    gateway.stop();
}

// S3.39
#[test]
fn a_file_that_cannot_be_used_says_the_field_and_ends_with_3() {
    let dir = TempDir::new();
    durward_testkit::certificates::Authority::new("servers").write(dir.path(), "servers");
    let cases = [
        ("link: a\n", "gateways"),
        ("link: a\ngateways: []\ncertificateFile: a\nkeyFile: a\n", "gateways"),
        ("link: a\ngateways: ['http://a']\ncertificateFile: a\nkeyFile: a\n", "gateways[0]"),
        (
            "link: a\ngateways: ['tls://a']\ncertificateFile: nowhere.crt\nkeyFile: nowhere.key\ncaFile: nowhere.crt\n",
            "nowhere.crt",
        ),
        (
            "link: a\ngateways: ['wss://a']\ncaFile: servers.crt\n",
            "set DURWARD_AGENT_TOKEN or PIPEOPS_TOKEN",
        ),
        ("link: a\nrouts: []\n", "routs"),
    ];
    for (text, word) in cases {
        let path = dir.write("agent.yaml", text);
        let ended = output(&["agent", "run", "-c", path.to_str().unwrap(), "--admin", "off"]);
        assert_eq!(ended.status.code(), Some(3), "{text}");
        assert!(stderr(&ended).contains(word), "{text}: {}", stderr(&ended));
    }
}

#[test]
fn check_leaves_what_is_behind_a_link_to_its_agent() {
    let dir = TempDir::new();
    let servers = durward_testkit::certificates::Authority::new("servers");
    let tenant = super::world::Tenant::new("acme", dir.path(), &servers);
    // A name that only the agent's cluster knows.
    let backend = nowhere();
    let document = tenant.document(backend, backend);
    let document = document.replace(&backend.to_string(), "app.cluster.invalid:80");
    dir.write("acme.yaml", document);

    let checked = output(&["check", "-c", dir.path().to_str().unwrap(), "--admin", "off"]);

    let told = stdout(&checked);
    assert!(told.contains("behind the link onprem"), "{told}");
    assert!(!told.contains("cannot be looked up"), "{told}");
}
