//! Faults of audit files: tampering, rotation, crashes, full disks, several writers. One test ends a process while it writes.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use durward_model::{ClientAddr, TenantId};

use super::chain::{self, Link};
use super::verify::{Break, Reason, Verified, verify};
use super::*;
use crate::access_log::Sink;
use crate::decisions::{Decision, Decisions, Kind, Verdict};
use crate::refusal::NotRecorded;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.log")
    }

    fn rotated(&self) -> PathBuf {
        self.dir.path().join("audit.log.1")
    }

    fn open(&self) -> Audit {
        Audit::open(self.path(), Durability::Kernel).unwrap()
    }

    fn lines(&self) -> Vec<String> {
        lines(&self.path())
    }

    fn rotate(&self) {
        fs::rename(self.path(), self.rotated()).unwrap();
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn decide(decisions: &Decisions, id: &str) {
    let tenant = TenantId::new("acme").unwrap();
    decisions.write(&Decision {
        kind: Kind::Open,
        at: SystemTime::now(),
        id,
        tenant: &tenant,
        identity: None,
        client: ClientAddr("172.16.28.9:4711".parse().unwrap()),
        transparent: None,
        inner: None,
        method: "CONNECT",
        host: "bank.example",
        port: 443,
        sni: None,
        resolved: &[],
        dialled: None,
        egress: Some("203.0.113.2:40000".parse().unwrap()),
        rule: "allow[0]",
        verdict: Verdict::Allowed,
        refusal: None,
        bytes_up: 0,
        bytes_down: 0,
        duration: Duration::ZERO,
    });
}

fn to(audit: &Audit) -> Decisions {
    Decisions::new(&Sink::none().with_audit(audit.clone()))
}

/// Writes a record and waits for it.
fn record(audit: &Audit, id: &str) -> Result<(), NotRecorded> {
    let decisions = to(audit);
    decide(&decisions, id);
    wait(decisions.committed())
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

fn kinds(path: &Path) -> Vec<String> {
    let kind = |line: &String| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["kind"].as_str().unwrap().to_owned()
    };
    lines(path).iter().map(kind).collect()
}

fn intact(paths: &[PathBuf]) -> Verified {
    let verified = verify(paths).unwrap();
    assert_eq!(verified.broken, None);
    verified
}

fn broken(path: &Path) -> (u64, Reason) {
    let Break { line, reason, .. } = verify(&[path.to_path_buf()]).unwrap().broken.unwrap();
    (line, reason)
}

// S2.49+
#[test]
fn a_chain_is_continued_by_the_next_process_and_stays_intact() {
    let place = Place::new();
    for id in ["one", "two"] {
        let audit = place.open();
        record(&audit, id).unwrap();
        audit.close();
    }

    let verified = intact(&[place.path()]);

    assert_eq!(kinds(&place.path()), ["audit-start", "egress-open", "audit-start", "egress-open"]);
    let part = &verified.parts[0];
    let (first, last) = part.ends.unwrap();
    assert_eq!((part.records, first.sequence, last.sequence), (4, 1, 4));
    let lines = place.lines();
    assert_eq!(chain::read(lines[1].as_bytes()).unwrap().previous, first.hash);
    let line: serde_json::Value = serde_json::from_str(&lines[3]).unwrap();
    assert_eq!((&line["id"], &line["seq"]), (&"two".into(), &4.into()));
}

// S2.49+
#[test]
fn whoever_changes_removes_or_moves_a_record_is_found_at_its_line() {
    let place = Place::new();
    let audit = place.open();
    for id in ["a", "b", "c", "d"] {
        record(&audit, id).unwrap();
    }
    audit.close();
    let good = place.lines();
    let with = |lines: &[String]| {
        fs::write(place.path(), lines.join("\n") + "\n").unwrap();
        broken(&place.path())
    };

    let mut changed = good.clone();
    changed[2] = changed[2].replace("bank.example", "evil.example");
    let mut forged = good.clone();
    let fake = forged[2].split(",\"seq\":").next().unwrap().replace("bank", "evil") + "}";
    let before = chain::read(forged[1].as_bytes()).unwrap().link;
    let mut out = Vec::new();
    chain::seal(&mut out, fake.as_bytes(), &before);
    forged[2] = String::from_utf8(out).unwrap().trim_end().to_owned();
    let mut removed = good.clone();
    removed.remove(2);
    let mut swapped = good.clone();
    swapped.swap(2, 3);

    assert_eq!(with(&changed), (3, Reason::Changed));
    assert!(matches!(with(&forged), (4, Reason::Other { .. })), "a new hash does not help");
    assert_eq!(with(&removed), (3, Reason::Missing { expected: 3, found: 4 }));
    assert_eq!(with(&swapped), (3, Reason::Missing { expected: 3, found: 4 }));
    fs::write(place.path(), good[1..].join("\n") + "\n").unwrap();
    let (first, _) = intact(&[place.path()]).parts[0].ends.unwrap();
    assert_eq!(first.sequence, 2, "where a file begins is told, not judged");
}

// S2.49+
#[test]
fn a_moved_file_is_followed_and_the_next_begins_with_its_last_hash() {
    let place = Place::new();
    let audit = place.open();
    record(&audit, "a").unwrap();

    place.rotate();
    record(&audit, "b").unwrap();
    let both = [place.path(), place.rotated()];
    let verified = intact(&both);
    // A copy that truncates, and a file that was moved while nobody ran.
    OpenOptions::new().write(true).open(place.path()).unwrap().set_len(0).unwrap();
    record(&audit, "c").unwrap();
    audit.close();
    let truncated = kinds(&place.path());
    let last = chain::read(place.lines().last().unwrap().as_bytes()).unwrap().link;
    fs::rename(place.path(), place.dir.path().join("audit.log.2")).unwrap();
    place.open().close();

    assert_eq!(verified.parts[0].path, place.rotated(), "in the order of the chain");
    assert_eq!(truncated, ["audit-continued", "egress-open"]);
    assert_eq!(kinds(&place.path()), ["audit-continued", "audit-start"]);
    let begun = chain::read(place.lines()[0].as_bytes()).unwrap();
    assert_eq!((begun.previous, begun.link.sequence), (last.hash, last.sequence + 1));
    let gap = verify(&[place.path(), place.rotated()]).unwrap().broken.unwrap();
    assert!(matches!(gap.reason, Reason::Missing { .. }), "{gap}");
}

// S2.49+
#[test]
fn a_torn_end_is_noted_and_the_chain_goes_on() {
    let place = Place::new();
    let audit = place.open();
    record(&audit, "a").unwrap();
    record(&audit, "b").unwrap();
    audit.close();
    let whole = fs::read(place.path()).unwrap();

    for (cut, torn) in [(1, 0), (2, 1), (200, 1), (430, 1)] {
        fs::write(place.path(), &whole[..whole.len() - cut]).unwrap();
        let before = verify(&[place.path()]).unwrap().broken.map(|broken| broken.reason);
        place.open().close();
        let verified = intact(&[place.path()]);

        assert_eq!(before, (torn > 0).then_some(Reason::Torn), "{cut} bytes cut");
        assert_eq!(verified.parts[0].torn, torn, "{cut} bytes cut");
    }
    // What only looks torn, or is torn again.
    fs::write(place.path(), [&whole[..], b"\0\0\0", &whole[..80], b"\n\nx"].concat()).unwrap();
    place.open().close();
    assert_eq!(intact(&[place.path()]).parts[0].torn, 1);
    let noted = place.lines().join("\n") + "\n";
    fs::write(place.path(), noted.replace("\0\0\0", "\0\0")).unwrap();
    assert!(matches!(broken(&place.path()), (_, Reason::Changed)), "the note binds what is torn");
    // Nothing but a torn first record.
    fs::write(place.path(), &whole[..50]).unwrap();
    place.open().close();
    assert_eq!(kinds_of_records(&place.path()), ["audit-torn", "audit-start"]);
    intact(&[place.path()]);
}

fn kinds_of_records(path: &Path) -> Vec<String> {
    let records = lines(path).into_iter().filter(|line| chain::read(line.as_bytes()).is_some());
    records
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(&line).unwrap()["kind"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[test]
fn a_strangers_file_is_not_written_to() {
    let place = Place::new();
    let stranger = "root:x:0:0:root:/root:/bin/bash\n".repeat(200);
    fs::write(place.path(), &stranger).unwrap();

    let opened = Audit::open(place.path(), Durability::Kernel);

    assert!(opened.is_err_and(|error| error.to_string().contains("not an audit file")));
    assert_eq!(fs::read_to_string(place.path()).unwrap(), stranger);
}

// S2.49+
#[test]
fn two_writers_share_one_chain_as_they_do_in_a_hand_over() {
    let place = Place::new();
    let (older, younger) = (place.open(), Audit::open(place.path(), Durability::Disk).unwrap());

    std::thread::scope(|scope| {
        for audit in [&older, &younger] {
            scope.spawn(|| {
                for number in 0..200 {
                    record(audit, &number.to_string()).unwrap();
                    if number == 100 && std::ptr::eq(audit, &older) {
                        place.rotate();
                    }
                }
            });
        }
    });
    older.close();
    younger.close();

    let verified = intact(&[place.path(), place.rotated()]);
    let records: u64 = verified.parts.iter().map(|part| part.records).sum();
    assert_eq!(records, 2 + 400 + 1, "two starts, the decisions, one continuation");
}

// S2.49+
#[test]
fn what_cannot_be_written_must_not_begin_and_is_noted_later() {
    let place = Place::new();
    let audit = place.open();
    record(&audit, "a").unwrap();
    let good = fs::read(place.path()).unwrap();
    let stranger = b"not a record\n".repeat(1_000);

    // A stranger's file in place of ours stands for a disk that cannot be written.
    fs::write(place.path(), &stranger).unwrap();
    let refused = record(&audit, "b");
    let failing = audit.status();
    let flood = vec![b'x'; WAITING];
    audit.courier().bring(flood, 7);
    fs::write(place.path(), &good).unwrap();
    let again = record(&audit, "c");
    audit.close();

    assert_eq!(refused, Err(NotRecorded));
    assert!(failing.failing);
    assert_eq!(again, Ok(()));
    assert!(!audit.status().failing);
    assert_eq!((audit.status().lost, intact(&[place.path()]).parts[0].lost), (7, 7));
    let ids: Vec<String> = place.lines().iter().filter_map(|line| id(line)).collect();
    assert_eq!(ids, ["a", "b", "c"], "what was asked for and refused is told all the same");
}

#[test]
fn whoever_keeps_the_file_locked_is_no_reason_to_hang() {
    let place = Place::new();
    let audit = place.open();
    let keeper = fs::File::open(place.path()).unwrap();
    keeper.lock().unwrap();

    let refused = record(&audit, "a");
    keeper.unlock().unwrap();
    let again = record(&audit, "b");

    assert_eq!((refused, again), (Err(NotRecorded), Ok(())));
}

fn id(line: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["id"].as_str().map(str::to_owned)
}

#[test]
fn many_wait_for_one_write() {
    let place = Place::new();
    let audit = place.open();
    let decisions = to(&audit);

    wait(async {
        let all = (0..1_000).map(|number| {
            let decisions = &decisions;
            async move {
                decide(decisions, &number.to_string());
                decisions.committed().await.unwrap();
            }
        });
        futures_util::future::join_all(all).await;
    });
    let written = intact(&[place.path()]).parts[0].records;

    assert_eq!(written, 1_001, "all are in the file before the writer is closed");
}

const CHILD: &str = "DURWARD_AUDIT_CHILD";

/// Not a test by itself: the process that the next test ends. It says each id once its record is acknowledged.
#[test]
fn writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let audit = Audit::open(path, Durability::Kernel).unwrap();
    let decisions = to(&audit);
    let mut said = fs::File::from(io::stdout().as_fd().try_clone_to_owned().unwrap());
    wait(async {
        for number in 0.. {
            let id = format!("{}-{number}", std::process::id());
            decide(&decisions, &id);
            if number % 3 > 0 {
                decisions.committed().await.unwrap();
                writeln!(said, "acknowledged {id}").unwrap();
            }
        }
    });
}

// S2.49+
#[test]
fn a_killed_process_loses_no_acknowledged_record() {
    let place = Place::new();
    let mut acknowledged = Vec::new();

    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "audit::tests::writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, place.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        let told = std::iter::from_fn(|| said.next()?.ok());
        for line in told {
            let Some((_, id)) = line.split_once("acknowledged ") else { continue };
            acknowledged.push(id.to_owned());
            heard += 1;
            if heard == 200 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
    }
    place.open().close();

    let ids: std::collections::BTreeSet<String> = lines(&place.path())
        .iter()
        .filter(|line| chain::read(line.as_bytes()).is_some())
        .filter_map(|line| id(line))
        .collect();
    let missing: Vec<&String> = acknowledged.iter().filter(|id| !ids.contains(*id)).collect();
    assert!(acknowledged.len() >= 3_000, "only {}", acknowledged.len());
    assert!(missing.is_empty(), "{missing:?}");
    intact(&[place.path()]);
}

#[test]
fn a_chain_begins_at_nothing() {
    assert_eq!(Link::default().hash.to_string(), "0".repeat(64));
}
