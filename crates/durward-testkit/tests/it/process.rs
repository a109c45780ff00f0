//! Children are watched, signalled by id and never left behind; waits end.
//! `sh` and `sleep` stand for any program.

use std::net::{Ipv4Addr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use durward_testkit::process::{
    Child, TempDir, eventually, eventually_blocking, free_port, unique_loopback,
};
use std::os::unix::process::ExitStatusExt;

const SECONDS: Duration = Duration::from_secs(10);

#[tokio::test]
async fn lines_of_both_streams_are_waited_for() {
    let mut child = shell("echo starting; echo ready on port 7 >&2; read x; exit 3");

    let line = child.wait_for_line("ready on", SECONDS).await;
    let status = child.wait(SECONDS).await;

    assert_eq!(line, "ready on port 7");
    // Without input, `read` ends at once.
    assert_eq!(status.code(), Some(3));
    let mut lines = child.lines();
    lines.sort();
    assert_eq!(lines, ["ready on port 7", "starting"]);
}

#[tokio::test]
async fn later_lines_are_told_from_earlier_ones() {
    // Not HUP: what `nohup` has made a shell ignore on entry, it cannot trap.
    let mut child = shell("trap 'echo reloaded' USR1; echo reloaded; while :; do sleep 0.02; done");
    child.wait_for_line("reloaded", SECONDS).await;
    let mark = child.mark();

    child.signal(rustix::process::Signal::USR1);
    child.wait_for_line_since(mark, "reloaded", SECONDS).await;

    assert_eq!(child.lines().len(), mark + 1);
}

#[tokio::test]
#[should_panic(expected = "ended without \"ready\"; its output:\nno such file")]
async fn waiting_on_an_ended_child_fails_at_once_with_its_output() {
    let child = shell("echo no such file");

    child.wait_for_line("ready", Duration::from_secs(3600)).await;
}

#[test]
#[should_panic(expected = "no \"ready\" from sh within 50ms; its output:\nbusy")]
fn waiting_ends_with_the_deadline() {
    let child = shell("echo busy; exec sleep 60");
    child.wait_for_line_blocking("busy", SECONDS);

    child.wait_for_line_blocking("ready", Duration::from_millis(50));
}

#[test]
fn term_and_kill_reach_the_child() {
    let mut polite = shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done");
    let mut deaf = shell("trap '' TERM; echo up; while :; do sleep 0.02; done");
    polite.wait_for_line_blocking("up", SECONDS);
    deaf.wait_for_line_blocking("up", SECONDS);

    polite.terminate();
    deaf.terminate();
    let polite_status = polite.wait_blocking(SECONDS);
    let deaf_runs = deaf.is_running();
    deaf.kill();

    assert_eq!((polite_status.code(), polite.output().as_str()), (Some(0), "up\nbye"));
    assert!(deaf_runs);
    assert_eq!(deaf.wait_blocking(SECONDS).signal(), Some(9));
}

#[test]
fn a_dropped_child_is_gone() {
    let child = shell("echo up; exec sleep 60");
    child.wait_for_line_blocking("up", SECONDS);
    let status = PathBuf::from(format!("/proc/{}", child.id()));
    let ran = status.exists();

    drop(child);

    assert!(ran && !status.exists());
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        drop(Child::spawn(Command::new("no-such-program-of-durward")))
    }));

    let message = outcome.unwrap_err().downcast::<String>().unwrap();
    assert!(message.starts_with("cannot start no-such-program-of-durward"), "{message}");
}

#[tokio::test]
async fn eventually_ends_with_the_truth_or_the_deadline() {
    let mut asked = 0;
    let came_true = eventually(SECONDS, async || {
        asked += 1;
        asked == 3
    });
    let came_true = came_true.await;
    let begin = Instant::now();
    let never_asked = eventually(Duration::from_millis(50), std::future::pending).await;
    let never_true = eventually_blocking(Duration::from_millis(50), || false);

    assert!(came_true && !never_asked && !never_true);
    assert_eq!(asked, 3);
    assert!(begin.elapsed() < SECONDS);
}

#[test]
fn addresses_are_ones_own() {
    let [first, second] = [unique_loopback(), unique_loopback()];

    assert!(first != second && first.is_loopback() && second.is_loopback());
    assert_ne!(first.octets()[1], 0);
    TcpListener::bind((first, 8443)).unwrap();
    TcpListener::bind((Ipv4Addr::LOCALHOST, free_port(Ipv4Addr::LOCALHOST))).unwrap();
}

#[test]
fn a_directory_is_filled_swapped_and_removed() {
    let dir = TempDir::new();

    let file = dir.write("a/b.yaml", "one");
    dir.replace("a/b.yaml", "two");
    dir.point("..data", "a");
    dir.write("c/b.yaml", "three");
    let before = std::fs::read_to_string(dir.join("..data/b.yaml")).unwrap();
    dir.point("..data", "c");
    let after = std::fs::read_to_string(dir.join("..data/b.yaml")).unwrap();
    let path = dir.path().to_owned();
    drop(dir);

    assert!(file.ends_with("a/b.yaml"));
    assert_eq!((before.as_str(), after.as_str()), ("two", "three"));
    assert!(!path.exists());
}

fn shell(script: &str) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Child::spawn(command)
}
