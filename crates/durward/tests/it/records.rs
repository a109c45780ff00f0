//! What a running gateway keeps: its audit file, whatever happens to it, and the totals that `top` reads.
//!
//! Deliberately absent: what each decision says; that is tested where it is made.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use durward_proxy::audit::chain::{Link, seal};
use durward_testkit::origin::Origin;
use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};
use rustix::process::Signal;
use serde_json::Value;

use crate::docs::commands;
use crate::support::{
    DEADLINE, Gateway, HERE, admin_address, get, nowhere, output, spawn, status, stderr, stdout,
};

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
    get(gateway.admin, "/metrics").unwrap().1
}

/// A gateway with a forward proxy and an audit file.
struct Recorded {
    place: TempDir,
    proxy: SocketAddr,
    egress: Ipv4Addr,
    admin: SocketAddr,
}

impl Recorded {
    fn new(far: SocketAddr) -> Self {
        let (place, egress) = (TempDir::new(), unique_loopback());
        let proxy = SocketAddr::from((unique_loopback(), 3128));
        fs::create_dir(place.join("config")).unwrap();
        let document = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  egress:\n    addresses: [{egress}]\n    \
             proxy: [{{address: {}, allowedSources: [127.0.0.0/8]}}]\n    allow: [{{cidr: {}, ports: [{}]}}]\n",
            proxy.ip(),
            far.ip(),
            far.port()
        );
        place.write("config/acme.yaml", document);
        Self { place, proxy, egress, admin: admin_address() }
    }

    fn file(&self) -> PathBuf {
        self.place.join("audit.log")
    }

    fn start(&self) -> Child {
        let file = self.file();
        let child =
            spawn(&self.place.join("config"), self.admin, &["--audit-log", file.to_str().unwrap()]);
        let ready = || status(self.admin, "/readyz") == Some(200);
        assert!(eventually_blocking(DEADLINE, ready), "{}", child.output());
        child
    }

    /// The records of what was let out, by client.
    fn opened(&self) -> BTreeMap<String, Value> {
        let text = fs::read_to_string(self.file()).unwrap();
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records
            .filter(|record| record["kind"] == "egress-open" && record["verdict"] == "allowed")
            .map(|record| (record["client"].as_str().unwrap().to_owned(), record))
            .collect()
    }
}

/// Asks for a tunnel (0, 1) or a page (2); the client's address once it is answered well. The connection stays open while it is held.
fn ask(proxy: SocketAddr, far: SocketAddr, way: usize) -> Option<(String, TcpStream)> {
    let mut stream = TcpStream::connect(proxy).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    let client = stream.local_addr().ok()?.to_string();
    let mut answer = [0; 4096];
    let answered = match way {
        0 => {
            stream.write_all(b"\x05\x01\x00").ok()?;
            stream.read_exact(&mut answer[..2]).ok()?;
            let SocketAddr::V4(far) = far else { return None };
            let port = far.port().to_be_bytes();
            let request = [&b"\x05\x01\x00\x01"[..], &far.ip().octets(), &port].concat();
            stream.write_all(&request).ok()?;
            stream.read_exact(&mut answer[..10]).ok()?;
            answer[1] == 0
        }
        1 => {
            write!(stream, "CONNECT {far} HTTP/1.1\r\nHost: {far}\r\n\r\n").ok()?;
            stream.read(&mut answer).ok()? > 0 && answer.starts_with(b"HTTP/1.1 200")
        }
        _ => {
            write!(stream, "GET http://{far}/ HTTP/1.1\r\nHost: {far}\r\n\r\n").ok()?;
            stream.read(&mut answer).ok()? > 0 && answer.starts_with(b"HTTP/1.1 200")
        }
    };
    answered.then_some((client, stream))
}

// S2.49
#[test]
fn a_killed_gateway_has_the_record_of_everything_it_let_out() {
    let origin = Origin::http1(HERE);
    let far = origin.address();
    let recorded = Recorded::new(far);
    let acknowledged = Mutex::new(Vec::new());

    for round in 0..3 {
        let mut child = recorded.start();
        let (enough, proxy) = (acknowledged.lock().unwrap().len() + 60 + round, recorded.proxy);
        std::thread::scope(|scope| {
            for way in 0..6 {
                let acknowledged = &acknowledged;
                scope.spawn(move || {
                    while let Some((client, _held)) = ask(proxy, far, way % 3) {
                        acknowledged.lock().unwrap().push(client);
                    }
                });
            }
            let reached = || acknowledged.lock().unwrap().len() >= enough;
            assert!(eventually_blocking(DEADLINE, reached), "{}", child.output());
            child.kill();
        });
    }
    drop(recorded.start());

    let (acknowledged, opened) = (acknowledged.into_inner().unwrap(), recorded.opened());
    let missing: Vec<&String> =
        acknowledged.iter().filter(|client| !opened.contains_key(*client)).collect();
    assert!(acknowledged.len() >= 180, "only {}", acknowledged.len());
    assert!(missing.is_empty(), "{missing:?}");
    let file = recorded.file();
    let verified = output(&["audit", "verify", file.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", stdout(&verified));
    let last = &opened[acknowledged.last().unwrap()];
    let port = last["egress"].as_str().unwrap().rsplit_once(':').unwrap().1;
    let (ip, at) = (recorded.egress.to_string(), last["ts"].as_str().unwrap());
    let who = ["who", "--ip", &ip, "--port", port, "--at", at, "--audit", file.to_str().unwrap()];
    let named = stdout(&output(&who));
    assert!(named.contains("acme") && named.contains(acknowledged.last().unwrap()), "{named}");
}

// S2.49+
#[test]
fn nothing_is_let_out_while_its_record_cannot_be_written() {
    let origin = Origin::http1(HERE);
    let far = origin.address();
    let recorded = Recorded::new(far);
    let _child = recorded.start();
    let all = || [0, 1, 2].map(|way| ask(recorded.proxy, far, way).is_some());
    let before = all();
    let (good, served) = (fs::read(recorded.file()).unwrap(), origin.requests());

    fs::write(recorded.file(), "not a record\n".repeat(1_000)).unwrap();
    let meanwhile = all();
    let served_meanwhile = origin.requests();
    let metrics = get(recorded.admin, "/metrics").unwrap().1;
    fs::write(recorded.file(), good).unwrap();
    let after = all();

    assert_eq!((before, meanwhile, after), ([true; 3], [false; 3], [true; 3]));
    assert_eq!((served, served_meanwhile), (1, 1), "the request did not leave either");
    assert!(metrics.contains("\ndurward_audit_failing 1\n"), "{metrics}");
    let refused = "durward_refusals_total{tenant=\"acme\",reason=\"not_recorded\"}";
    assert!(metrics.contains(refused), "{metrics}");
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
    let bare = stdout(&output(&["top", "--admin", &admin, "-o", "csv", "--no-header"]));
    let table = stdout(&output(&["top", "--admin", &admin]));
    let json: Value =
        serde_json::from_slice(&output(&["top", "--admin", &admin, "-o", "json"]).stdout).unwrap();

    assert!(!bare.contains("tenant") && bare.contains(",acme,"), "{bare}");
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
