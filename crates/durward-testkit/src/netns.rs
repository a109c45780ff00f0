//! Network namespaces for tests, without root: a test runs again inside a user namespace where it may do as it likes.
//! Set-up uses the `ip` and `unshare` programs of the host; a test that cannot have them is skipped, loudly.
//!
//! ```no_run
//! # use durward_testkit::netns::{Namespace, in_namespace, veth};
//! #[test]
//! fn partner_sees_the_address() {
//!     in_namespace("netns::partner_sees_the_address", || {
//!         let partner = Namespace::new();
//!         veth("d0", "p0", &partner); // d0 here, p0 there
//!     });
//! }
//! ```

mod capture;
mod ip;
mod namespace;
pub mod traffic;
mod unshare;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::process::{Child, TempDir};
pub use capture::{Capture, Packet};
pub use ip::{add_address, add_route, ip, link_up, sysctl, veth};
pub use namespace::Namespace;

/// Names the test that runs inside, in its environment.
const INSIDE: &str = "DURWARD_TESTKIT_INSIDE";
/// Where the test inside leaves its mark when it has run to the end.
const MARK: &str = "DURWARD_TESTKIT_MARK";
/// Set to make a skipped test a failed one, for machines that must be able to run them all.
const REQUIRED: &str = "DURWARD_TESTKIT_REQUIRE_NAMESPACES";
const DEADLINE: Duration = Duration::from_secs(600);

/// Runs the work in fresh user, network and mount namespaces, as their root, with `lo` up.
///
/// The test binary is started again for this one test, so `test_name` is its full name (`module::function`) and the
/// call is the whole body of the test: what stands before it runs twice.
///
/// # Panics
/// When the work panics, takes longer than two minutes, or never runs because the name is wrong.
#[track_caller]
pub fn in_namespace(test_name: &str, work: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == test_name) {
        run_inside(work);
        return;
    }
    match possible() {
        Ok(()) => run_again_inside(test_name),
        Err(reason) => skip(test_name, reason),
    }
}

/// Runs the work on a thread that is on a host of this name, and waits for its result. Processes that it starts are on that host.
///
/// # Panics
/// Outside of [`in_namespace`].
pub fn on_host<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            unshare::host_name().expect("root of its user namespace may name a host");
            rustix::system::sethostname(name.as_bytes()).expect("a host takes a name");
            work()
        });
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Like `in_namespace`, with a runtime of one thread for the work.
///
/// # Panics
/// See `in_namespace`.
#[track_caller]
pub fn in_namespace_async<F: Future<Output = ()>>(test_name: &str, work: impl FnOnce() -> F) {
    in_namespace(test_name, || block_on(work()));
}

/// Runs a future on a runtime of this thread, for work in a `Namespace`.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(future)
}

/// Whether this process may make namespaces of its own, or why not.
///
/// # Errors
/// One sentence for the person who reads that a test was skipped.
pub fn possible() -> Result<(), &'static str> {
    static POSSIBLE: OnceLock<Result<(), &'static str>> = OnceLock::new();
    *POSSIBLE.get_or_init(|| {
        for program in ["unshare", "ip"] {
            if quiet(program).arg("-V").status().is_err() {
                return Err(
                    "the programs `unshare` (util-linux) and `ip` (iproute2) are missing here",
                );
            }
        }
        match quiet("unshare").args(["-Urnm", "ip", "link", "set", "lo", "up"]).status() {
            Ok(status) if status.success() => Ok(()),
            _ => Err("user namespaces are forbidden here"),
        }
    })
}

/// Whether this process is the one inside.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn run_inside(work: impl FnOnce()) {
    // The test outside may be killed; nothing must be left behind.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    link_up("lo");
    work();
    if let Some(mark) = std::env::var_os(MARK) {
        std::fs::write(mark, "ran").expect("the mark is writable");
    }
}

#[track_caller]
fn run_again_inside(test_name: &str) {
    let dir = TempDir::new();
    let mark = dir.join("mark");
    let mut command = Command::new("unshare");
    command
        .arg("-Urnm")
        .arg(std::env::current_exe().expect("a test knows its binary"))
        .args(["--exact", test_name, "--nocapture", "--include-ignored"])
        .env(INSIDE, test_name)
        .env(MARK, &mark);

    let mut child = Child::spawn(command);
    let status = child.wait_blocking(DEADLINE);

    assert!(status.success(), "{test_name} failed in its namespace:\n{}", child.output());
    assert!(
        mark.exists(),
        "{test_name} is not the name of a test that calls `in_namespace`:\n{}",
        child.output()
    );
}

/// Prints a line that says which test does not run here, and why.
///
/// # Panics
/// Where all tests must run (`DURWARD_TESTKIT_REQUIRE_NAMESPACES`).
#[track_caller]
pub fn skip(test_name: &str, reason: &str) {
    let line = format!("SKIPPED {test_name} ({reason})\n");
    assert!(std::env::var_os(REQUIRED).is_none(), "{line}");
    // Past the capture of the test harness: a test that did not run must not look like one that passed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
