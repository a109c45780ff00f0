//! Figures of links, for `bench/link`: ignored, since they take long and nothing is asserted of a time.
//!
//! Each prints a line. `DURWARD_AGENTS` and `DURWARD_ROUTES` change the numbers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_agent::config::{AgentFile, Environment};
use durward_agent::status::Status;
use durward_link::RouteSet;
use durward_testkit::certificates::{Authority, CertSpec};
use durward_testkit::process::{
    Child, TempDir, allow_all_descriptors, eventually_blocking, unique_loopback,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::registry::{Link, Registering, digest};
use super::world::LINK;
use crate::support::{DEADLINE, admin_address, spawn, status};

/// Links of a tenant, and agents of a link: a link takes 64 carriers, and each agent has two here.
const LINKS: usize = 8;
const AGENTS: usize = 25;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// CPU time that a process has used, and its resident memory in KiB.
fn usage(pid: u32) -> (Duration, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident = resident.trim().trim_end_matches(" kB").trim().parse().unwrap();
    // USER_HZ is 100 on every architecture of Linux that we run on.
    (Duration::from_millis(ticks * 10), resident)
}

/// Tenants whose links have agents by token, in a gateway of its own process.
struct Crowd {
    dir: TempDir,
    tenants: Vec<(String, IpAddr)>,
}

impl Crowd {
    fn new(agents: usize) -> Self {
        let (dir, servers) = (TempDir::new(), Authority::new("servers"));
        let documents = dir.join("documents");
        std::fs::create_dir(&documents).unwrap();
        servers.write(dir.path(), "servers");
        let mut tenants = Vec::new();
        for at in 0..agents.div_ceil(LINKS * AGENTS) {
            let (name, address) = (format!("t{at}"), IpAddr::from(unique_loopback()));
            let identity = servers.issue(&CertSpec::new().ip(address).server());
            identity.write(&documents, &name);
            let links = (0..LINKS).map(|link| {
                format!(
                    "{{name: l{link}, tokens: ['sha256:{}']}}",
                    digest(&format!("{name}l{link}"))
                )
            });
            let text = format!(
                "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n  \
                 - {{address: {address}, port: {LINK}, protocol: LINK, certificate: {{file: {name}}}, links: [{}]}}\n  \
                 egress: {{addresses: [{address}]}}\n",
                links.collect::<Vec<_>>().join(", ")
            );
            std::fs::write(documents.join(format!("{name}.yaml")), text).unwrap();
            tenants.push((name, address));
        }
        Self { dir, tenants }
    }

    fn gateway(&self) -> Child {
        let admin = admin_address();
        let child = spawn(&self.dir.join("documents"), admin, &[]);
        let ready = || status(admin, "/readyz") == Some(200);
        assert!(eventually_blocking(DEADLINE * 4, ready), "{}", child.output());
        child
    }

    /// Runs so many agents in this thread's runtime until they are stopped.
    fn agents(&self, count: usize, stopped: &CancellationToken) -> Vec<Arc<Status>> {
        let one = |at: usize| {
            let (tenant, rest) = (at / (LINKS * AGENTS), at % (LINKS * AGENTS));
            let (name, address) = &self.tenants[tenant];
            let link = rest / AGENTS;
            let text = format!(
                "link: l{link}\ngateways: ['tls://{address}:{LINK}']\ncaFile: servers.crt\nmaxCarriers: 1\n"
            );
            let path = self.dir.write("agent.yaml", text);
            let token = durward_link::control::Token::new(format!("{name}l{link}"));
            let environment = Environment { token: Some(token), ..Environment::default() };
            let file = AgentFile::read(&path).unwrap();
            let settings = file.settings(self.dir.path(), &environment).unwrap();
            let (status, stopped) = (Arc::<Status>::default(), stopped.clone());
            tokio::spawn({
                let status = Arc::clone(&status);
                async move {
                    let (_kept, held) = watch::channel(Arc::new(RouteSet::default()));
                    durward_agent::run(settings, held, status, stopped).await;
                }
            });
            status
        };
        (0..count).map(one).collect()
    }
}

/// Waits until all agents have a carrier for data; only standing still takes too long.
async fn all_up(agents: &[Arc<Status>]) {
    let up = || agents.iter().filter(|status| status.report().ready).count();
    let mut last = (0, Instant::now());
    loop {
        let now = up();
        if now == agents.len() {
            return;
        }
        if now != last.0 {
            last = (now, Instant::now());
        }
        assert!(last.1.elapsed() < DEADLINE * 10, "{now} of {} are up", agents.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
#[ignore = "thousands of agents"]
fn agents_in_one_process() {
    allow_all_descriptors();
    let count = number("DURWARD_AGENTS", 4_000);
    let crowd = Crowd::new(count);
    let mut gateway = crowd.gateway();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let own = std::process::id();
        let before = (usage(own), usage(gateway.id()));
        let (stopped, began) = (CancellationToken::new(), Instant::now());
        let agents = crowd.agents(count, &stopped);
        all_up(&agents).await;
        let (up, after) = (began.elapsed(), (usage(own), usage(gateway.id())));
        let kib = |before: u64, after: u64| after.saturating_sub(before) as f64 / count as f64;
        println!(
            "{count} agents up in {up:.1?}; KiB each: agents {:.1}, gateway {:.1}; CPU each to come up: agents {:.1?}, gateway {:.1?}",
            kib(before.0.1, after.0.1), kib(before.1.1, after.1.1),
            (after.0.0 - before.0.0) / count as u32, (after.1.0 - before.1.0) / count as u32
        );
        let idle = Duration::from_secs(60);
        tokio::time::sleep(idle).await;
        let later = (usage(own), usage(gateway.id()));
        let millicores = |before: Duration, after: Duration| {
            (after - before).as_secs_f64() / idle.as_secs_f64() * 1_000.0
        };
        println!(
            "idle for {idle:?}: millicores in all: agents {:.1}, gateway {:.1}",
            millicores(after.0.0, later.0.0), millicores(after.1.0, later.1.0)
        );
        gateway.kill();
        let down = || agents.iter().all(|status| !status.report().ready);
        while !down() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (again, before) = (crowd.gateway(), usage(own));
        let began = Instant::now();
        all_up(&agents).await;
        let (after, of_gateway) = (usage(own), usage(again.id()));
        println!(
            "all back {:.1?} after the gateway; CPU each: agents {:.1?}, gateway {:.1?}",
            began.elapsed(), (after.0 - before.0) / count as u32, of_gateway.0 / count as u32
        );
        stopped.cancel();
    });
}

fn one_route(host: &str) -> Value {
    json!({"hostname": host, "cluster_uuid": "abc-123", "namespace": "shop", "service_name": "app",
           "service_port": 80, "ingress_name": "app", "path": "/", "path_type": "Prefix", "tls": false})
}

fn sync_of(hosts: &[String]) -> Value {
    let one = |host: &String| {
        json!({"namespace": "shop", "ingress_name": host, "rules": [{"host": host, "tls": false,
               "paths": [{"path": "/", "path_type": "Prefix", "service_name": "app", "service_port": 80}]}]})
    };
    json!({"cluster_uuid": "abc-123", "ingresses": hosts.iter().map(one).collect::<Value>()})
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

// S3.60+ S3.61+
#[test]
#[ignore = "measures"]
fn registrations_over_rest() {
    let link = Link { tenant: "acme", token: "t", hosts: "'*.acme.example'" };
    let gateway = Registering::start_with(&[link], "maxRoutes: 10000");
    let fifty: Vec<String> = (0..50).map(|at| format!("s{at}.acme.example")).collect();
    let began = Instant::now();
    let (code, body) = gateway.call(0, "t", "sync", &sync_of(&fifty));
    let fifty = began.elapsed();
    assert_eq!((code, &body["routes"]), (200, &json!(50)), "{body}");
    let mut times: Vec<Duration> = (0..300)
        .map(|at| {
            // The link's rate is ten operations in a second.
            std::thread::sleep(Duration::from_millis(100));
            let began = Instant::now();
            let answer =
                gateway.call(0, "t", "register", &one_route(&format!("r{at}.acme.example")));
            assert_eq!(answer.0, 200, "{answer:?}");
            began.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "50 Ingresses in one call: {fifty:.1?}; one route, with its TLS handshake, of {}: p50 {:.1?}, p99 {:.1?}",
        times.len(),
        percentile(&times, 50),
        percentile(&times, 99)
    );
}

// S3.61+
#[test]
#[ignore = "measures"]
fn the_cpu_of_a_registration_by_the_number_of_routes() {
    const EACH: usize = 500;
    let all = number("DURWARD_ROUTES", 100_000);
    for routes in [1_000, all / 10, all] {
        let names: Vec<&'static str> =
            (0..routes / EACH).map(|at| &*format!("t{at}").leak()).collect();
        let links: Vec<Link> = names
            .iter()
            .map(|tenant| Link {
                tenant,
                token: tenant,
                hosts: format!("'*.{tenant}.example'").leak(),
            })
            .collect();
        let gateway = Registering::start_with(&links, &format!("maxRoutes: {}", EACH + 100));
        for (at, tenant) in names.iter().enumerate() {
            let hosts: Vec<String> =
                (0..EACH).map(|at| format!("h{at}.{tenant}.example")).collect();
            let answer = gateway.call(at, tenant, "sync", &sync_of(&hosts));
            assert_eq!(answer.0, 200, "{answer:?}");
        }
        std::thread::sleep(Duration::from_secs(3));
        let quiet = cpu_of(&gateway, || std::thread::sleep(Duration::from_secs(20)));
        let register = |at: usize| {
            let (tenant, host) =
                (at % names.len(), format!("x{at}.{}.example", names[at % names.len()]));
            let answer = gateway.call(tenant, names[tenant], "register", &one_route(&host));
            assert_eq!(answer.0, 200, "{answer:?}");
        };
        let busy = cpu_of(&gateway, || {
            let began = Instant::now();
            (0..100).for_each(|at| {
                std::thread::sleep(Duration::from_millis(120));
                register(at);
            });
            std::thread::sleep(Duration::from_secs(20).saturating_sub(began.elapsed()));
        });
        println!(
            "{routes} routes of {} tenants: {:.2} ms of CPU for a registration, its TLS handshake included",
            names.len(),
            busy.saturating_sub(quiet).as_secs_f64() * 10.0
        );
    }
}

fn cpu_of(gateway: &Registering, doing: impl FnOnce()) -> Duration {
    let before = usage(gateway.child.id()).0;
    doing();
    usage(gateway.child.id()).0 - before
}
