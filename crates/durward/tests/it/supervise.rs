//! Signals: reload, stop, and handing the sockets to a new process.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use durward_testkit::origin::Origin;
use durward_testkit::process::{TempDir, eventually_blocking, unique_loopback};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};

use crate::support::{
    DEADLINE, Gateway, HERE, admin_address, get, nowhere, output, spawn, status, stderr, stdout,
    tenant,
};

// S1.63
#[test]
fn nothing_to_serve_ends_the_start_with_one_precise_line() {
    let dir = TempDir::new();
    dir.write(
        "acme.yaml",
        tenant("acme", unique_loopback().into(), 8080, nowhere())
            .replace("addresses: [127", "addresses: [1278"),
    );

    let run = output(&["run", "-c", dir.path().to_str().unwrap(), "--admin", "off"]);

    assert_eq!(run.status.code(), Some(3));
    let errors = stderr(&run);
    let line = errors.lines().find(|line| line.starts_with("durward: ")).unwrap();
    assert!(line.contains("acme.yaml:") && line.contains("is not an IP address"), "{errors}");
}

// S1.21 S1.63
#[test]
fn the_good_tenants_start_without_the_bad_one_unless_strict() {
    let (dir, admin) = (TempDir::new(), admin_address());
    let listener = SocketAddr::new(unique_loopback().into(), 8080);
    dir.write("bad.yaml", "kind: Tenant\n");
    dir.write("good.yaml", tenant("good", listener.ip(), listener.port(), nowhere()));

    let strict = output(&["run", "-c", dir.path().to_str().unwrap(), "--admin", "off", "--strict"]);
    let child = spawn(dir.path(), admin, &[]);

    assert_eq!(strict.status.code(), Some(3));
    assert!(
        eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200)),
        "{}",
        child.output()
    );
    child.wait_for_line_blocking("bad.yaml", DEADLINE);
}

#[test]
fn the_table_of_descriptors_need_not_grow_while_clients_wait() {
    let gateway = Gateway::start(nowhere(), &[]);

    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.child.id())).unwrap();

    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    assert!(size.trim().parse::<u64>().unwrap() >= limit.min(128 * 1024), "{size} of {limit}");
}

#[test]
fn sighup_reads_the_configuration_again() {
    let (first, second) = (Origin::http1(HERE), Origin::http1(HERE));
    let mut gateway = Gateway::start(first.address(), &["--no-watch"]);
    let listener = gateway.listener;
    gateway.get("/").unwrap();
    gateway
        .dir
        .write("acme.yaml", tenant("acme", listener.ip(), listener.port(), second.address()));

    gateway.child.signal(Signal::HUP);

    assert!(eventually_blocking(DEADLINE, || get(listener, "/").is_some() && second.requests() > 0));
}

// S1.58
#[test]
fn a_new_process_takes_over_without_refusing_anybody() {
    let origin = Origin::http1(HERE);
    let mut gateway = Gateway::start(origin.address(), &["--drain-grace", "10s"]);
    let load = Load::start(gateway.listener);
    assert!(load.served(50));

    gateway.child.signal(Signal::USR2);

    let line = gateway.child.wait_for_line_blocking("the new process serves", DEADLINE);
    assert!(gateway.child.wait_blocking(DEADLINE).success());
    assert!(load.served(50), "the new process serves");
    assert_eq!(status(gateway.admin, "/readyz"), Some(200));
    assert_eq!(load.stop(), 0, "requests that failed: {}", gateway.child.output());
    end(&line);
}

// S1.58
#[test]
fn a_new_process_that_cannot_start_leaves_the_old_one_serving() {
    let origin = Origin::http1(HERE);
    let mut gateway = Gateway::start(origin.address(), &["--no-watch"]);
    let away = gateway.dir.path().with_extension("away");
    std::fs::rename(gateway.dir.path(), &away).unwrap();

    gateway.child.signal(Signal::USR2);

    gateway.child.wait_for_line_blocking("could not take over", DEADLINE);
    std::fs::rename(&away, gateway.dir.path()).unwrap();
    assert_eq!(gateway.get("/").unwrap().0, 200);
    assert!(gateway.child.is_running());
    assert_eq!(status(gateway.admin, "/readyz"), Some(200));

    let (listener, second) = (gateway.listener, Origin::http1(HERE));
    gateway
        .dir
        .write("acme.yaml", tenant("acme", listener.ip(), listener.port(), second.address()));
    gateway.child.signal(Signal::HUP);
    assert!(eventually_blocking(DEADLINE, || get(listener, "/").is_some() && second.requests() > 0));
    assert!(!gateway.child.output().contains("accepted again"), "it had not read the broken one");
    gateway.dir.write("acme.yaml", "not: a tenant\n");
    gateway.child.signal(Signal::HUP);
    gateway
        .child
        .wait_for_line_blocking("\"level\":\"ERROR\",\"message\":\"not is not known", DEADLINE);
    gateway
        .dir
        .write("acme.yaml", tenant("acme", listener.ip(), listener.port(), second.address()));
    gateway.child.signal(Signal::HUP);
    gateway.child.wait_for_line_blocking("every document is accepted again", DEADLINE);

    gateway.child.signal(Signal::USR2);
    let line = gateway.child.wait_for_line_blocking("the new process serves", DEADLINE);
    assert!(gateway.child.wait_blocking(DEADLINE).success(), "{}", gateway.child.output());
    assert_eq!(gateway.get("/").unwrap().0, 200);
    end(&line);
}

/// Two documents: v's, and a newcomer's that sorts first and asks for the same.
fn contested(gateway: &Gateway, upstream: SocketAddr) {
    let at = gateway.listener;
    let newcomer = tenant("ant", at.ip(), at.port(), upstream)
        .replace("name: ant", "name: ant, creationTimestamp: \"1999-01-01T00:00:00Z\"");
    gateway.dir.write("aaa.yaml", newcomer);
}

#[test]
fn a_new_process_lets_holders_keep_what_they_hold_and_serves_a_broken_document_as_it_was() {
    let (origin, thief) = (Origin::http1(HERE), Origin::http1(HERE));
    let mut gateway = Gateway::start(origin.address(), &["--no-watch"]);
    contested(&gateway, thief.address());
    gateway.child.signal(Signal::HUP);
    gateway.child.wait_for_line_blocking("aaa.yaml", DEADLINE);

    gateway.child.signal(Signal::USR2);
    let line = gateway.child.wait_for_line_blocking("the new process serves", DEADLINE);
    assert!(gateway.child.wait_blocking(DEADLINE).success(), "{}", gateway.child.output());
    assert_eq!(gateway.get("/").unwrap().0, 200);
    assert_eq!(thief.requests(), 0, "{}", gateway.child.output());

    // The newcomer is refused all the same, and v is broken when the third process starts.
    gateway.dir.write("acme.yaml", "kind: Tenant\nmetadata: {name: acme}\nspec: [\n");
    kill_process(process(&line), Signal::USR2).unwrap();
    assert!(
        eventually_blocking(DEADLINE, || {
            gateway.child.output().matches("the new process serves").count() == 2
        }),
        "{}",
        gateway.child.output()
    );
    let output = gateway.child.output();
    let last = output.lines().rfind(|line| line.contains("the new process serves"));
    assert_eq!(gateway.get("/").unwrap().0, 200);
    assert_eq!(thief.requests(), 0, "{}", gateway.child.output());
    assert!(get(gateway.admin, "/readyz?verbose").unwrap().1.contains("1 kept last good"));
    end(last.unwrap());
}

#[test]
fn a_new_process_that_would_serve_less_says_so_and_the_old_one_goes_on() {
    let origin = Origin::http1(HERE);
    let dir = TempDir::new();
    let admin = admin_address();
    let at = SocketAddr::new(unique_loopback().into(), 8080);
    let issued = output(&[
        "certs",
        "issue",
        "--dir",
        dir.path().to_str().unwrap(),
        "--ip",
        &at.ip().to_string(),
        "--name",
        "acme",
    ]);
    assert!(issued.status.success(), "{}", stderr(&issued));
    let secured = tenant("acme", at.ip(), at.port(), origin.address())
        .replace("protocol: HTTP,", "certificate: {file: acme},");
    assert!(secured.contains("certificate: {file: acme}"), "{secured}");
    let other = SocketAddr::new(unique_loopback().into(), 8080);
    dir.write("acme.yaml", secured);
    dir.write("other.yaml", tenant("other", other.ip(), other.port(), origin.address()));
    let mut child = spawn(dir.path(), admin, &["--no-watch"]);
    assert!(
        eventually_blocking(DEADLINE, || status(admin, "/readyz") == Some(200)),
        "{}",
        child.output()
    );

    // The old process has the key in memory; the new one could not serve the listener.
    std::fs::remove_file(dir.join("acme.key")).unwrap();
    child.signal(Signal::USR2);

    let line = child.wait_for_line_blocking("would serve less than the older one", DEADLINE);
    assert!(line.contains("acme"), "{line}");
    child.wait_for_line_blocking("could not take over", DEADLINE);
    assert!(child.is_running());
    assert_eq!(status(admin, "/readyz"), Some(200));
    // What the configuration takes away is no loss.
    std::fs::remove_file(dir.join("acme.yaml")).unwrap();
    child.signal(Signal::USR2);
    let line = child.wait_for_line_blocking("the new process serves", DEADLINE);
    assert!(child.wait_blocking(DEADLINE).success(), "{}", child.output());
    assert_eq!(get(other, "/").unwrap().0, 200);
    end(&line);
}

#[test]
fn a_restart_with_a_state_directory_keeps_holders_and_last_good_documents() {
    let (origin, thief) = (Origin::http1(HERE), Origin::http1(HERE));
    let state = TempDir::new();
    let arguments = ["--no-watch", "--state-dir", state.path().to_str().unwrap()];
    let mut gateway = Gateway::start(origin.address(), &arguments);
    contested(&gateway, thief.address());
    gateway.child.signal(Signal::HUP);
    gateway.child.wait_for_line_blocking("aaa.yaml", DEADLINE);
    gateway.child.signal(Signal::TERM);
    assert!(gateway.child.wait_blocking(DEADLINE).success());
    gateway.dir.write("acme.yaml", "kind: Tenant\nmetadata: {name: acme}\nspec: [\n");

    let restarted = spawn(gateway.dir.path(), gateway.admin, &arguments);

    assert!(
        eventually_blocking(DEADLINE, || status(gateway.admin, "/readyz") == Some(200)),
        "{}",
        restarted.output()
    );
    assert_eq!(gateway.get("/").unwrap().0, 200, "{}", restarted.output());
    assert_eq!(thief.requests(), 0);
    let ready = get(gateway.admin, "/readyz?verbose").unwrap().1;
    assert!(ready.contains("1 kept last good") && ready.contains("claims.json"), "{ready}");
    commands_answer_as_the_gateway_does(&gateway, state.path());
}

/// Asks the files with the state directory, without it, and with one that is of no use.
fn commands_answer_as_the_gateway_does(gateway: &Gateway, state: &std::path::Path) {
    let (config, at) = (gateway.dir.path().to_str().unwrap(), gateway.listener.to_string());
    let admin = gateway.admin.to_string();
    let ask = |state: &str, command: &[&str]| {
        output(&[command, &["-c", config, "--state-dir", state]].concat())
    };
    let (known, off) = (state.to_str().unwrap(), "off");

    for (state, holder) in [(known, "tenant=acme"), (off, "tenant=ant")] {
        let told = ask(state, &["explain", &at, "--expect", holder]);
        assert_eq!(told.status.code(), Some(0), "{holder}: {}{}", stdout(&told), stderr(&told));
    }
    let (with, without) = (ask(known, &["validate"]), ask(off, &["validate"]));
    assert!(stdout(&with).contains("last good kept"), "{}", stdout(&with));
    assert!(stdout(&with).contains("EgressTaken"), "{}", stdout(&with));
    assert!(!stdout(&without).contains("EgressTaken"), "{}", stdout(&without));
    let same = "it serves the configuration of the files";
    let check = |state: &str| stdout(&ask(state, &["check", "--admin", &admin]));
    assert!(check(known).contains(same) && !check(off).contains(same), "{}", check(known));

    let junk = TempDir::new();
    junk.write("claims.json", "{");
    let told = ask(junk.path().to_str().unwrap(), &["validate"]);
    assert_eq!(told.status.code(), Some(3), "{}", stderr(&told));
    assert!(stderr(&told).contains("claims.json") && junk.path().join("claims.json").exists());
}

// S2.28+
#[test]
fn an_egress_address_that_is_not_on_this_host_is_told_when_it_is_asked_for() {
    let origin = Origin::http1(HERE);
    let mut gateway = Gateway::start(origin.address(), &["--no-watch"]);
    let listener = gateway.listener;
    let here = tenant("acme", listener.ip(), listener.port(), origin.address());

    let elsewhere =
        here.replace(&format!("addresses: [{}", listener.ip()), "addresses: [192.0.2.77");
    gateway.dir.write("acme.yaml", elsewhere);
    gateway.child.signal(Signal::HUP);

    let told =
        gateway.child.wait_for_line_blocking("the egress address is not on this host", DEADLINE);
    assert!(told.contains("192.0.2.77") && told.contains("WARN"), "{told}");
    assert_eq!(gateway.child.output().matches("the egress address is not").count(), 1);
}

#[test]
fn sigusr1_opens_the_access_log_anew() {
    let (origin, log) = (Origin::http1(HERE), TempDir::new());
    let path = log.join("access.log");
    let mut gateway = Gateway::start(origin.address(), &["--access-log", path.to_str().unwrap()]);
    let has = |name: &str, text: &str| {
        let content = std::fs::read_to_string(log.join(name)).unwrap_or_default();
        content.contains(text)
    };
    gateway.get("/before").unwrap();
    assert!(eventually_blocking(DEADLINE, || has("access.log", "/before")));

    std::fs::rename(&path, log.join("access.log.1")).unwrap();
    gateway.child.signal(Signal::USR1);
    assert!(eventually_blocking(DEADLINE, || path.exists()), "{}", gateway.child.output());
    gateway.get("/after").unwrap();

    assert!(eventually_blocking(DEADLINE, || has("access.log", "/after")));
    assert!(!has("access.log.1", "/after") && has("access.log.1", "/before"));
}

// S1.58
#[test]
fn sockets_of_systemd_are_used() {
    let origin = Origin::http1(HERE);
    let (dir, admin) = (TempDir::new(), admin_address());
    let socket = TcpListener::bind((unique_loopback(), 8080)).unwrap();
    let listener = socket.local_addr().unwrap();
    dir.write("acme.yaml", tenant("acme", listener.ip(), listener.port(), origin.address()));
    // What systemd does before it executes a service: sockets from descriptor 3 on, and the process they are meant for.
    let mut child = Command::new("sh")
        .args([
            "-c",
            "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_durward"),
        ])
        .args([
            "run",
            "-c",
            dir.path().to_str().unwrap(),
            "--admin",
            &admin.to_string(),
            "--access-log",
            "off",
        ])
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    let served = eventually_blocking(DEADLINE, || status(listener, "/") == Some(200));

    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(served);
}

/// Requests one after the other, each on a connection of its own.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<u64>,
}

impl Load {
    fn start(listener: SocketAddr) -> Self {
        let (stop, good) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, served) = (Arc::clone(&stop), Arc::clone(&good));
        let thread = std::thread::spawn(move || {
            let mut failed = 0;
            while !stopped.load(Relaxed) {
                match status(listener, "/") {
                    Some(200) => served.fetch_add(1, Relaxed),
                    _ => {
                        failed += 1;
                        0
                    }
                };
            }
            failed
        });
        Self { stop, good, thread }
    }

    /// Waits until so many more are served.
    fn served(&self, more: u64) -> bool {
        let wanted = self.good.load(Relaxed) + more;
        eventually_blocking(DEADLINE, || self.good.load(Relaxed) >= wanted)
    }

    /// Ends it; how many failed.
    fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

/// Ends the process a log line names: it is not a child of this one.
pub(crate) fn end(line: &str) {
    let pid = process(line);
    kill_process(pid, Signal::TERM).unwrap();
    let gone = eventually_blocking(Duration::from_secs(20), || {
        rustix::process::test_kill_process(pid).is_err()
    });
    assert!(gone, "the new process ends too");
}

/// The process a log line names.
pub(crate) fn process(line: &str) -> Pid {
    let number = line.split("\"process\":").nth(1).unwrap();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    Pid::from_raw(digits.parse().unwrap()).unwrap()
}
