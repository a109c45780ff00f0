//! The lab: what the kernel carries must show itself to a newcomer without root, and leave nothing behind.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use durward_testkit::netns;
use durward_testkit::process::{Child, TempDir, eventually_blocking};

use crate::support::{DEADLINE, durward, output, stderr, stdout};

/// Whether this machine forbids what the lab needs; then says so.
fn forbidden(test: &str) -> bool {
    let Err(reason) = netns::possible() else { return false };
    netns::skip(test, reason);
    true
}

/// The directories of labs in a place.
fn left(place: &TempDir) -> usize {
    std::fs::read_dir(place.path()).unwrap().count()
}

// S5.73+ S5.11+ S5.27+ S5.59+ S5.61+
#[test]
fn one_round_shows_mappings_egress_both_proxies_a_change_and_a_crash() {
    if forbidden("lab::one_round_shows_mappings_egress_both_proxies_a_change_and_a_crash") {
        return;
    }
    let place = TempDir::new();

    let mut command = durward(&["lab", "--once"]);
    // No program is run but the binary itself.
    let lab = command.env("TMPDIR", place.path()).env("PATH", "").output().unwrap();

    let text = stdout(&lab);
    assert_eq!(lab.status.code(), Some(0), "{text}{}", stderr(&lab));
    let page = crate::text("docs/reference/cli.md");
    let (_, told) = page.split_once("$ durward lab --once\n").unwrap();
    let told: Vec<&str> = told.split("```").next().unwrap().lines().collect();
    assert_eq!(text.lines().count(), told.len(), "{text}");
    for (line, told) in text.lines().zip(told) {
        let (begin, end) = told.split_once("[..]").unwrap_or((told, ""));
        assert!(line.starts_with(begin) && line.ends_with(end), "{line}\n{told}");
    }
    assert_eq!(left(&place), 0, "nothing is left behind");
}

#[test]
fn the_lab_can_be_entered_survives_a_kill_and_leaves_nothing() {
    if forbidden("lab::the_lab_can_be_entered_survives_a_kill_and_leaves_nothing") {
        return;
    }
    let place = TempDir::new();
    let mut command = durward(&["lab"]);
    command.env("TMPDIR", place.path());
    let mut lab = Child::spawn(command);
    lab.wait_for_line_blocking("Ctrl-C ends the lab", DEADLINE);
    let text = lab.output();
    let state: PathBuf = text.split(' ').find(|word| word.contains("durward-lab-")).unwrap().into();
    let shell = |words: &str| -> Output {
        let script = format!(". {}/env && {words}", state.display());
        Command::new("sh").args(["-c", &script]).output().unwrap()
    };
    let plain = |part: &str| -> Output {
        let line = text.lines().find(|line| line.starts_with("  nsenter ") && line.contains(part));
        Command::new("sh").args(["-c", line.unwrap().trim()]).output().unwrap()
    };

    let list = shell("durward nat list");
    assert!(stdout(&list).contains("in the kernel"), "{}{}", stdout(&list), stderr(&list));
    let same = plain(" nat list -c ");
    assert!(same.status.success(), "{}{}", stdout(&same), stderr(&same));
    let explained = shell("durward explain 203.0.113.10:8080 --client 192.0.2.200");
    assert!(stdout(&explained).contains("REFUSED denied"), "{}", stdout(&explained));
    if Command::new("curl").arg("--version").output().is_ok() {
        for (who, saw) in [("acme", "203.0.113.10"), ("globex", "198.51.100.10")] {
            let heard = shell(&format!("{who} curl -sm9 http://192.0.2.10:9000/"));
            assert_eq!(stdout(&heard), format!("the bank saw {saw}\n"), "{}", stderr(&heard));
        }
        assert!(!shell("stranger curl -sm1 http://203.0.113.10:8080/").status.success());
        let heard = plain(" curl -s ");
        assert!(stdout(&heard).contains(" saw 192.0.2.10"), "{}", stderr(&heard));
    }

    let killed = shell("kill -9 \"$(gateway_process)\"");
    assert!(killed.status.success(), "{}", stderr(&killed));
    lab.wait_for_line_blocking("the kernel goes on forwarding", DEADLINE);
    lab.wait_for_line_blocking("the gateway serves again", DEADLINE);
    let gateway = stdout(&shell("gateway_process"));
    lab.terminate();
    assert!(lab.wait_blocking(Duration::from_secs(20)).success(), "{}", lab.output());
    assert_eq!(left(&place), 0, "the state is removed");
    let gone = || !PathBuf::from("/proc").join(&gateway).exists();
    assert!(eventually_blocking(DEADLINE, gone), "process {gateway} is still there");
}

#[test]
fn without_user_namespaces_it_says_so_with_a_code_of_its_own() {
    let program = env!("CARGO_BIN_EXE_durward");
    let forbid = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" lab --once";

    let lab = Command::new("unshare").args(["-Ur", "sh", "-c", forbid, program]).output();

    let Ok(lab) = lab else { return };
    if stderr(&lab).contains("unshare:") {
        return;
    }
    assert_eq!(lab.status.code(), Some(4), "{}{}", stdout(&lab), stderr(&lab));
    assert!(stderr(&lab).contains("user.max_user_namespaces"), "{}", stderr(&lab));
}

#[test]
fn the_configuration_it_prints_is_valid() {
    let printed = stdout(&output(&["lab", "--print-config"]));
    let place = TempDir::new();
    place.write("lab.yaml", &printed);

    let config = place.path().to_str().unwrap().to_owned();
    let validated = output(&["validate", "-c", &config]);

    assert!(printed.contains("name: acme") && printed.contains("name: globex"), "{printed}");
    assert!(validated.status.success(), "{}", stdout(&validated));
}
