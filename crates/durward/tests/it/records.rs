//! What a running gateway keeps: its audit file, and the totals that `top` reads.
//!
//! Deliberately absent: decisions themselves; they are tested where they are made.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use durward_proxy::audit::chain::{Link, seal};
use durward_testkit::origin::Origin;
use durward_testkit::process::{TempDir, eventually_blocking};
use rustix::process::Signal;
use serde_json::Value;

use crate::docs::commands;
use crate::support::{DEADLINE, Gateway, HERE, nowhere, output, stderr, stdout};

// S2.49+
#[test]
fn a_gateway_continues_its_audit_file_and_follows_it_when_it_is_moved() {
    let place = TempDir::new();
    let (file, former) = (place.join("audit.log"), place.join("audit.log.1"));
    let path = file.to_str().unwrap();
    let origin = Origin::http1(HERE);
    let arguments = ["--audit-log", path, "--audit-sync", "disk"];
    drop(Gateway::start(origin.address(), &arguments));
    let mut gateway = Gateway::start(origin.address(), &arguments);

    fs::rename(&file, &former).unwrap();
    gateway.child.signal(Signal::HUP);
    let followed = eventually_blocking(DEADLINE, || file.exists());
    let verified = output(&["audit", "verify", path, former.to_str().unwrap(), "-o", "json"]);
    let metrics = gateway_metrics(&gateway);
    drop(gateway);
    fs::write(&former, fs::read_to_string(&former).unwrap().replace("audit-start", "audit-stars"))
        .unwrap();
    let altered = output(&["audit", "verify", former.to_str().unwrap()]);

    assert!(followed);
    assert!(verified.status.success(), "{}", stderr(&verified));
    let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
    let records: Vec<&Value> =
        report["files"].as_array().unwrap().iter().map(|file| &file["records"]).collect();
    assert_eq!(records, [2, 1], "two starts, one continuation: {report}");
    assert!(metrics.contains("\ndurward_audit_sequence 3\n"), "{metrics}");
    assert!(metrics.contains("\ndurward_audit_failing 0\n"));
    assert_eq!(altered.status.code(), Some(1), "{}", stdout(&altered));
    assert_eq!(output(&["audit", "verify", "/nowhere"]).status.code(), Some(4));
}

fn gateway_metrics(gateway: &Gateway) -> String {
    crate::support::get(gateway.admin, "/metrics").unwrap().1
}

#[test]
fn the_references_command_prints_a_records_own_hash() {
    let place = TempDir::new();
    let mut file = Vec::new();
    let link = seal(
        &mut file,
        br#"{"ts":"2026-11-21T14:03:05.000000Z","host":"b\u00fc"}"#,
        &Link::default(),
    );
    fs::write(place.join("audit.log"), file).unwrap();
    let line = &commands("docs/reference/decisions.md")[0];

    let printed = Command::new("sh").args(["-c", line]).current_dir(place.path()).output().unwrap();

    assert!(stdout(&printed).starts_with(&link.hash.to_string()), "{line}: {}", stdout(&printed));
}

#[test]
fn a_gateway_does_not_start_without_the_audit_file_it_is_told_to_keep() {
    let place = TempDir::new();
    place.write("pay.yaml", crate::support::tenant("acme", nowhere().ip(), 8080, nowhere()));
    let config = place.path().to_str().unwrap();

    let refused =
        output(&["run", "-c", config, "--admin", "off", "--audit-log", "/nowhere/audit.log"]);

    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("opening the audit file /nowhere/audit.log"),
        "{}",
        stderr(&refused)
    );
}

// S2.45+
#[test]
fn top_is_the_ledger_of_a_running_gateway() {
    let origin = Origin::http1(HERE);
    let gateway = Gateway::start(origin.address(), &[]);
    for _ in 0..3 {
        assert_eq!(gateway.get("/").map(|(status, _)| status), Some(200));
    }
    let admin = gateway.admin.to_string();

    let look = || {
        let csv = stdout(&output(&["top", "--admin", &admin, "-o", "csv"]));
        let row = csv.lines().find(|line| line.contains(",acme,")).map(str::to_owned);
        row.unwrap_or_default().split(',').map(str::to_owned).collect::<Vec<_>>()
    };
    // Counted when a connection has ended, which may be after its answer.
    assert!(eventually_blocking(DEADLINE, || look().get(4).is_some_and(|count| count == "3")));
    let table = stdout(&output(&["top", "--admin", &admin]));
    let json: Value =
        serde_json::from_slice(&output(&["top", "--admin", &admin, "-o", "json"]).stdout).unwrap();

    assert!(table.starts_with("TENANT"), "{table}");
    assert!(table.lines().any(|line| line.starts_with("acme ")), "{table}");
    assert_eq!(json["tenants"]["acme"]["requests"], 3);
    assert!(json["tenants"]["acme"]["client_out_bytes"].as_u64() > Some(0));
    assert_eq!(output(&["top", "--admin", &nowhere().to_string()]).status.code(), Some(4));
}

// S2.49+
#[test]
fn access_log_lines_go_to_syslog_too() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let to = format!("syslog+udp://{}?facility=local3", receiver.local_addr().unwrap());
    let origin = Origin::http1(HERE);
    let gateway = Gateway::start(origin.address(), &["--access-log", &to]);

    gateway.get("/syslog").unwrap();

    let mut message = [0; 4096];
    let length = receiver.recv(&mut message).unwrap();
    let message = String::from_utf8_lossy(&message[..length]).into_owned();
    assert!(message.starts_with("<158>1 20"), "{message}");
    let line: Value = serde_json::from_str(message.split_once(" - ").unwrap().1).unwrap();
    assert_eq!((&line["tenant"], &line["path"]), (&"acme".into(), &"/syslog".into()));
}
