//! Questions with known answers: against a small model, over rotated files, with indexes that are damaged, stale or cannot be kept.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::*;
use crate::audit::chain::Link;
use crate::audit::index::{SMALL, refresh};
use crate::audit::rotated;

const BEGIN: i64 = 1_795_222_800_000_000;
const SECOND: i64 = 1_000_000;

/// A request: who, on which port, from when to when, in seconds.
#[derive(Clone, Debug)]
struct Session {
    id: String,
    port: u16,
    opened: Option<i64>,
    closed: Option<i64>,
}

fn session(id: &str, port: u16, opened: Option<i64>, closed: Option<i64>) -> Session {
    Session { id: id.to_owned(), port, opened, closed }
}

/// Writes the records of sessions in the order of time, sealed, each about 450 bytes.
fn write(path: &Path, sessions: &[Session], mut link: Link) -> Link {
    let mut records: Vec<(i64, &str, &Session)> = Vec::new();
    for session in sessions {
        records.extend(session.opened.map(|at| (at, "egress-open", session)));
        records.extend(session.closed.map(|at| (at, "egress-close", session)));
    }
    records.sort_by_key(|(at, kind, _)| (*at, *kind == "egress-close"));
    let mut out = Vec::new();
    for (at, kind, session) in records {
        let time = Timestamp::from_microsecond(BEGIN + at * SECOND).unwrap();
        let record = format!(
            r#"{{"ts":"{time:.6}","kind":"{kind}","id":"{}","tenant":"acme","client":"172.16.28.9:4711","method":"CONNECT","host":"bank.example","port":443,"egress":"203.0.113.2:{}","rule":"allow[0]","verdict":"allowed","total_ms":{}.000}}"#,
            session.id,
            session.port,
            session.opened.map_or(5, |opened| at - opened) * 1_000,
        );
        link = chain::seal(&mut out, record.as_bytes(), &link);
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(&out).unwrap();
    link
}

fn question(port: u16, from: i64, to: i64) -> Question {
    let egress = SocketAddr::from(([203, 0, 113, 2], port));
    Question { egress, from: BEGIN + from * SECOND, to: BEGIN + to * SECOND }
}

fn ask(paths: &[PathBuf], port: u16, from: i64, to: i64) -> Vec<String> {
    let uses = who(paths, &question(port, from, to), &mut |_, _| true).unwrap();
    uses.iter().map(|used| used.record["id"].as_str().unwrap().to_owned()).collect()
}

// S2.49+
#[test]
fn the_one_who_had_the_port_then_is_named_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let sessions = [
        session("first", 4000, Some(10), Some(20)),
        session("other port", 4001, Some(10), Some(20)),
        session("second", 4000, Some(30), Some(40)),
        session("beside second", 4000, Some(35), Some(45)),
        session("without beginning", 4000, None, Some(60)),
        session("without end", 4000, Some(70), None),
        session("again", 4000, Some(80), Some(81)),
        session("again", 4000, Some(90), Some(91)),
    ];
    write(&path, &sessions, Link::default());
    let at = |time| ask(std::slice::from_ref(&path), 4000, time, time);

    assert_eq!(at(9), Vec::<String>::new());
    assert_eq!((at(10), at(20)), (vec!["first".to_owned()], vec!["first".to_owned()]));
    assert_eq!(at(25), Vec::<String>::new());
    assert_eq!(at(37), ["second", "beside second"]);
    assert_eq!(
        (at(54).len(), at(56)),
        (0, vec!["without beginning".to_owned()]),
        "by its duration"
    );
    assert_eq!(at(75), ["without end"]);
    assert_eq!(at(85), ["without end"], "an id may come back");
    assert_eq!(at(90), ["again", "without end"], "what has an end comes first");
    assert_eq!(
        ask(std::slice::from_ref(&path), 4000, 0, 32),
        ["first", "second"],
        "a span of time"
    );
    assert_eq!(ask(std::slice::from_ref(&path), 4002, 0, 100), Vec::<String>::new());
    let used = &who(&[path], &question(4000, 75, 75), &mut |_, _| true).unwrap()[0];
    assert_eq!((used.opened, used.closed), (Some(BEGIN + 70 * SECOND), None));
    assert!(!used.altered);
    let told = serde_json::to_value(used).unwrap();
    assert_eq!(
        (&told["opened"], &told["closed"]),
        (&"2026-11-21T01:01:10.000000Z".into(), &Value::Null)
    );
}

#[test]
fn an_ending_dated_before_its_opening_is_paired_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    // A tunnel of 3 s; the clock was set back by 5 s while it was open.
    let record = |kind: &str, at: i64, total: f64| {
        let time = Timestamp::from_microsecond(BEGIN + at * SECOND).unwrap();
        format!(
            r#"{{"ts":"{time:.6}","kind":"{kind}","id":"stepped","egress":"203.0.113.2:4000","total_ms":{total}}}"#
        ) + "\n"
    };
    let beside = [session("beside", 4000, Some(40), Some(41))];
    fs::write(&path, record("egress-open", 110, 1.5) + &record("egress-close", 108, 3001.5))
        .unwrap();
    write(&path, &beside, Link::default());
    let at = |from, to| {
        let uses = who(std::slice::from_ref(&path), &question(4000, from, to), &mut |_, _| true);
        uses.unwrap()
    };

    for time in [106, 108, 109, 110, 112] {
        let uses = at(time, time);
        assert_eq!(uses.len(), 1, "at {time}");
        assert!(uses[0].clock_set && uses[0].closed.is_some(), "at {time}: {uses:?}");
    }
    assert!(at(120, 120).is_empty() && at(90, 90).is_empty());
    assert_eq!(at(80, 140).len(), 1, "one use, not an opening and an ending");
    assert!(!at(40, 40)[0].clock_set);
}

#[test]
fn a_clock_set_forward_while_it_was_open_is_told() {
    let (opened, total) = (Some(10 * SECOND), Some(3 * SECOND));

    assert_eq!(span(opened, Some(13 * SECOND), total), (10 * SECOND, 13 * SECOND, false));
    assert_eq!(span(opened, Some(73 * SECOND), total), (10 * SECOND, 73 * SECOND, true));
    assert_eq!(span(opened, Some(8 * SECOND), total), (5 * SECOND, 13 * SECOND, true));
    let slow_lookup = Some(9 * SECOND);
    assert_eq!(
        span(opened, Some(13 * SECOND), slow_lookup),
        (10 * SECOND, 13 * SECOND, false),
        "the duration includes what was before the port was taken"
    );
}

// S2.49+
#[test]
fn a_request_that_went_over_to_another_port_has_not_kept_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let sessions = [
        session("retried", 4000, Some(10), None),
        session("retried", 4005, None, Some(14)),
        session("lost", 4000, Some(20), None),
    ];
    write(&path, &sessions, Link::default());
    let at = |port, time| ask(std::slice::from_ref(&path), port, time, time);

    assert_eq!(
        (at(4000, 12), at(4005, 12)),
        (vec!["retried".to_owned()], vec!["retried".to_owned()])
    );
    assert_eq!(at(4000, 15), Vec::<String>::new());
    assert_eq!(at(4000, 25), ["lost"]);
}

// S2.49+
#[test]
fn rotated_files_are_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let (path, former) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
    fs::write(dir.path().join("audit.log.2.gz"), "").unwrap();
    let link = write(&former, &[session("long", 4000, Some(10), None)], Link::default());
    write(&path, &[session("long", 4000, None, Some(50))], link);

    let found = rotated(&path).unwrap();
    let files: Vec<PathBuf> = found.files.into_iter().chain([path]).collect();
    let used = &who(&files, &question(4000, 30, 30), &mut |_, _| true).unwrap()[0];

    assert_eq!(files[0], former);
    assert_eq!(found.compressed, [dir.path().join("audit.log.2.gz")]);
    assert_eq!((used.opened, used.closed), (Some(BEGIN + 10 * SECOND), Some(BEGIN + 50 * SECOND)));
    assert_eq!(ask(&files, 4000, 51, 51), Vec::<String>::new());
}

#[test]
fn a_record_that_was_altered_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    write(&path, &[session("one", 4000, Some(10), Some(20))], Link::default());
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("acme", "evil")).unwrap();

    let used = &who(&[path], &question(4000, 15, 15), &mut |_, _| true).unwrap()[0];

    assert!(used.altered);
}

/// 100,000 sessions, of which some have no end or beginning, on 500 ports: 200,000 records and too many bytes to go without an index.
fn many() -> Vec<Session> {
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    (0..100_000)
        .map(|number| {
            let begin = i64::try_from(random(100_000)).unwrap();
            let end = begin + i64::try_from(random(500)).unwrap();
            let (opened, closed) = match random(1_000) {
                0 => (Some(begin), None),
                _ => (Some(begin), Some(end)),
            };
            session(&number.to_string(), 4000 + random(500) as u16, opened, closed)
        })
        .collect()
}

/// Computes the expected answer from the sessions themselves.
fn model(sessions: &[Session], port: u16, at: i64) -> BTreeSet<String> {
    let uses = sessions.iter().filter(|session| {
        session.port == port
            && session.opened.is_some_and(|opened| opened <= at)
            && session.closed.is_none_or(|closed| closed >= at)
    });
    uses.map(|session| session.id.clone()).collect()
}

fn agree(path: &Path, sessions: &[Session]) {
    for number in 0..20 {
        let (port, at) = (4000 + number * 23, i64::from(number) * 5_000);
        let told: BTreeSet<String> = ask(&[path.to_path_buf()], port, at, at).into_iter().collect();
        assert_eq!(told, model(sessions, port, at), "port {port} at {at}");
    }
}

fn indexes(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir.join(".durward-index")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

// S2.49
#[test]
fn two_hundred_thousand_records_answer_from_an_index_that_is_made_anew_when_it_is_not_right() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let sessions = many();
    let link = write(&path, &sessions, Link::default());
    assert!(fs::metadata(&path).unwrap().len() > SMALL);

    // Made on first use, then used.
    agree(&path, &sessions);
    let index = indexes(dir.path()).pop().unwrap();
    let made = fs::read(&index).unwrap();
    let began = Instant::now();
    ask(std::slice::from_ref(&path), 4100, 50_000, 50_000);
    let asked = began.elapsed();
    assert!(asked < Duration::from_secs(1), "{asked:?}");
    // Damaged in its middle, at its end, everywhere.
    let mut damaged = made.clone();
    damaged[made.len() / 2..].iter_mut().step_by(512).for_each(|byte| *byte ^= 0x55);
    for content in [&damaged[..], &made[..made.len() - 4_000], &[0; 9_000]] {
        fs::write(&index, content).unwrap();
        agree(&path, &sessions);
    }
    assert_eq!(fs::read(&index).unwrap(), made);
    // Newer records than the index knows.
    write(&path, &[session("new", 4999, Some(1), Some(2))], link);
    assert_eq!(ask(std::slice::from_ref(&path), 4999, 1, 1), ["new"]);
    assert_eq!(fs::read(&index).unwrap(), made, "few records are read as they are");
}

#[test]
fn an_index_belongs_to_the_content_and_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, former) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
    let sessions = many();
    let link = write(&path, &sessions, Link::default());
    refresh(&path, &mut |_, _| true).unwrap();
    let before = indexes(dir.path());

    // Rotation moves no index.
    fs::rename(&path, &former).unwrap();
    write(&path, &sessions[..60_000], link);
    refresh(&path, &mut |_, _| true).unwrap();
    let both = indexes(dir.path());
    // A file that is gone takes its index along.
    fs::remove_file(&former).unwrap();
    refresh(&path, &mut |_, _| true).unwrap();
    let after = indexes(dir.path());

    assert_eq!((before.len(), both.len(), after.len()), (1, 2, 1));
    assert!(both.contains(&before[0]) && !after.contains(&before[0]));
    // Same beginning, other content: what the index knows of is not there any more.
    let text = fs::read_to_string(&path).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    fs::write(&path, format!("{first}\n{}", rest.replace("203.0.113.2:", "203.0.113.3:"))).unwrap();
    assert_eq!(ask(&[path], 4100, 0, 200_000), Vec::<String>::new());
}

#[test]
fn without_a_place_for_an_index_the_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let sessions = many();
    write(&path, &sessions, Link::default());
    // A file where the folder should be, because root may write anywhere.
    fs::write(dir.path().join(".durward-index"), "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();

    let told: BTreeSet<String> = ask(&[path], 4100, 50_000, 50_000).into_iter().collect();

    assert_eq!(told, model(&sessions, 4100, 50_000));
}
