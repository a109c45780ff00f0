//! Restarts of agents and gateways under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use durward_testkit::certificates::{Authority, CertSpec};
use durward_testkit::origin::Origin;
use durward_testkit::process::{Child, TempDir, eventually_blocking};
use rustix::process::{Pid, Signal, kill_process};

use super::world::{Tenant, World, agent};
use crate::supervise::process;
use crate::support::{DEADLINE, HERE, admin_address, get, nowhere, spawn, status};

/// Clients that ask without a pause until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients = (0..6).map(|_| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || {
                let mut lost = Vec::new();
                while !stop.load(Relaxed) {
                    match get(address, "/") {
                        Some((200, _)) => drop(answered.fetch_add(1, Relaxed)),
                        other => lost.push(format!("{other:?}")),
                    }
                }
                lost
            })
        });
        let clients = clients.collect();
        Self { stop, answered, clients }
    }

    /// Waits until so many more requests were answered; only standing still takes too long.
    fn wait(&self, more: usize) {
        let until = self.answered.load(Relaxed) + more;
        loop {
            let before = self.answered.load(Relaxed);
            if before >= until {
                return;
            }
            let goes_on = || self.answered.load(Relaxed) > before;
            assert!(eventually_blocking(DEADLINE * 4, goes_on), "{before} answered");
        }
    }

    /// Returns how many were answered, and what became of the others.
    fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Relaxed);
        let lost = self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (self.answered.load(Relaxed), lost)
    }
}

// S3.84+ S3.85
#[test]
fn replacing_an_agent_under_load_loses_no_request() {
    replace_under_load(&Origin::http1(HERE), "HTTP1");
}

// S3.84+ S3.85+
#[test]
fn replacing_an_agent_under_load_over_http2_loses_no_request() {
    replace_under_load(&Origin::h2c(HERE), "HTTP2");
}

/// Replaces the agent three times while requests come, to an app that speaks `protocol`.
fn replace_under_load(origin: &Origin, protocol: &str) {
    let world = World::new();
    let tenant = world.tenant("acme");
    let document = tenant.document(origin.address(), nowhere());
    let document = document
        .replace("app: {link: onprem,", &format!("app: {{link: onprem, protocol: {protocol},"));
    let (gateway, servers) = world.start(&document);
    let backends = [origin.address()];
    let start = || {
        let started = agent(&tenant, "agent.acme.example", &backends).start(&servers);
        started.wait_ready();
        started
    };
    let mut serving = start();
    let load = Load::start(tenant.http());

    for _ in 0..3 {
        load.wait(800);
        let next = start();
        std::mem::replace(&mut serving, next).stop();
    }
    load.wait(800);

    let (answered, lost) = load.stop();
    assert!(answered >= 3_200 && lost.is_empty(), "{answered} answered, lost: {lost:?}");
    gateway.stop();
}

// S3.23+
#[test]
fn an_agent_that_is_revoked_is_of_no_use_under_load_either() {
    let world = World::new();
    let (tenant, origin) = (world.tenant("acme"), Origin::h2c(HERE));
    let document = tenant.document(origin.address(), nowhere());
    let document = document
        .replace("app: {link: onprem,", "app: {link: onprem, protocol: HTTP2,")
        .replace("acme-agents.crt}", "acme-agents.crt, crlFile: acme.crl}");
    world.write("acme.crl", &tenant.revoke(&[]));
    let (mut gateway, servers) = world.start(&document);
    let backends = [origin.address()];
    let of = agent(&tenant, "agent.acme.example", &backends);
    let (of, identity) = of.start_shown(&servers);
    of.wait_ready();
    let load = Load::start(tenant.http());
    load.wait(200);

    std::fs::write(gateway.dir().join("acme.crl"), tenant.revoke(&[&identity])).unwrap();
    gateway.reload(&document);

    let refused = || get(tenant.http(), "/").is_some_and(|(status, _)| status == 503);
    assert!(eventually_blocking(DEADLINE * 2, refused), "{:?}", of.status.report());
    let served = origin.requests();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(origin.requests(), served, "nothing reaches the app through it any more");
    load.stop();
    gateway.stop();
}

// S3.53+
#[test]
fn a_request_waits_for_an_agent_that_comes_back_at_once() {
    let world = World::new();
    let (tenant, origin) = (world.tenant("acme"), Origin::http1(HERE));
    let (gateway, servers) = world.start(&tenant.document(origin.address(), nowhere()));
    let backends = [origin.address()];
    let first = agent(&tenant, "agent.acme.example", &backends).start(&servers);
    first.wait_ready();
    assert_eq!(get(tenant.http(), "/").unwrap().0, 200);

    first.stop();
    let address = tenant.http();
    let asking = std::thread::spawn(move || get(address, "/"));
    let _second = agent(&tenant, "agent.acme.example", &backends).start(&servers);

    assert_eq!(asking.join().unwrap().unwrap().0, 200, "the request waited for the second agent");
    gateway.stop();
}

// S3.85
#[test]
fn handing_a_gateway_over_under_load_loses_no_request() {
    let (dir, servers) = (TempDir::new(), Authority::new("servers"));
    let (tenant, origin) = (Tenant::new("acme", dir.path(), &servers), Origin::http1(HERE));
    dir.write("acme.yaml", tenant.document(origin.address(), nowhere()));
    let admin = admin_address();
    let mut older = spawn(dir.path(), admin, &[]);
    assert!(
        eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200)),
        "{}",
        older.output()
    );
    let backends = [origin.address()];
    let agent = agent(&tenant, "agent.acme.example", &backends).start(&servers);
    agent.wait_ready();
    let load = Load::start(tenant.http());
    load.wait(1_000);

    older.signal(Signal::USR2);
    let line = older.wait_for_line_blocking("the new process serves", DEADLINE);
    assert!(older.wait_blocking(DEADLINE * 2).success(), "{}", older.output());
    load.wait(1_000);

    let (answered, lost) = load.stop();
    crate::state_dir::end(&line);
    assert!(
        answered >= 2_000 && lost.is_empty(),
        "{answered} answered, lost: {lost:?}\n{}",
        older.output()
    );
}

/// A gateway, and those that took over from it.
pub(super) struct Generations {
    first: Child,
    /// The process that serves.
    serving: Pid,
    handed_over: usize,
}

impl Generations {
    pub(super) fn start(dir: &TempDir) -> Self {
        let admin = admin_address();
        let first = spawn(dir.path(), admin, &[]);
        let ready = || status(admin, "/readyz") == Some(200);
        assert!(eventually_blocking(DEADLINE, ready), "{}", first.output());
        let serving = Pid::from_raw(i32::try_from(first.id()).unwrap()).unwrap();
        Self { first, serving, handed_over: 0 }
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.serving, signal).unwrap();
    }

    /// Replaces the process; the one before has ended then.
    pub(super) fn hand_over(&mut self) {
        self.handed_over += 1;
        self.signal(Signal::USR2);
        let said = "the new process serves";
        let took_over = || self.first.output().matches(said).count() == self.handed_over;
        assert!(eventually_blocking(DEADLINE * 4, took_over), "{}", self.first.output());
        let output = self.first.output();
        let older = self.serving;
        self.serving = process(output.lines().rfind(|line| line.contains(said)).unwrap());
        if self.handed_over == 1 {
            assert!(self.first.wait_blocking(DEADLINE * 4).success(), "{output}");
            return;
        }
        let gone = || rustix::process::test_kill_process(older).is_err();
        assert!(eventually_blocking(DEADLINE * 4, gone), "{}", self.first.output());
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        // The first is a child that ends by itself; fails for one that has ended.
        let _ = kill_process(self.serving, Signal::TERM);
    }
}

/// Asks until `total` requests were answered, while agent and gateway are replaced in turn, documents loaded again and certificates rotated.
fn restart_until(total: usize) {
    let (dir, servers) = (TempDir::new(), Authority::new("servers"));
    let (tenant, origin) = (Tenant::new("acme", dir.path(), &servers), Origin::http1(HERE));
    let document = tenant.document(origin.address(), nowhere());
    dir.write("acme.yaml", &document);
    let mut gateway = Generations::start(&dir);
    let backends = [origin.address()];
    let start = || {
        let started = agent(&tenant, "agent.acme.example", &backends).start(&servers);
        started.wait_ready();
        started
    };
    let mut serving = start();
    let load = Load::start(tenant.http());
    let (part, mut round) = (total / 16, 0);
    // Each of the four kinds comes twice, however fast requests are answered meanwhile.
    while load.answered.load(Relaxed) < total || round < 8 {
        load.wait(part);
        match round % 4 {
            0 => std::mem::replace(&mut serving, start()).stop(),
            1 => gateway.hand_over(),
            2 => {
                let spec = CertSpec::new().ip(tenant.address).server();
                servers.issue(&spec).write(dir.path(), "acme-link");
                dir.replace("acme.yaml", format!("{document}# {round}\n"));
                gateway.signal(Signal::HUP);
            }
            // Both at once. Each agent has a certificate of its own.
            _ => {
                let next = start();
                gateway.hand_over();
                std::mem::replace(&mut serving, next).stop();
            }
        }
        round += 1;
    }

    let (answered, lost) = load.stop();
    println!("{answered} requests answered, {} lost, in {round} rounds", lost.len());
    assert!(lost.is_empty(), "{answered} answered, lost: {lost:?}\n{}", gateway.first.output());
    serving.stop();
}

// S3.84+ S3.85+
#[test]
fn twenty_thousand_requests_outlive_restarts_of_both_sides_reloads_and_rotations() {
    restart_until(20_000);
}

// S3.84+ S3.85+
#[test]
#[ignore = "asks a million times"]
fn a_million_requests_outlive_restarts_of_both_sides_reloads_and_rotations() {
    restart_until(1_000_000);
}
