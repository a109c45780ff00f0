//! How long `who` takes over many records, with and without an index, and what the audit file costs.
//!
//! `RECORDS=10000000 cargo bench -p durward-proxy --bench who`; a million records unless told otherwise, some 450 bytes each.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use durward_proxy::audit::chain::{self, Link};
use durward_proxy::audit::verify::verify;
use durward_proxy::audit::who::{Question, who};

const BEGIN: i64 = 1_795_222_800_000_000;

fn main() {
    let records: u64 = std::env::var("RECORDS").map_or(1_000_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let written = timed(|| write(&path, records));
    let size = fs::metadata(&path).unwrap().len();
    println!("{records} records, {} MB", size / 1_000_000);
    println!("{:>10.3} s  to make and seal them", written.as_secs_f64());
    let files = [path];
    let verified = timed(|| assert!(verify(&files).unwrap().broken.is_none()));
    println!("{:>10.3} s  to verify the chain", verified.as_secs_f64());
    let first = timed(|| assert_eq!(ask(&files, records / 3), 1));
    println!("{:>10.3} s  the first who, which makes the index", first.as_secs_f64());
    let mut asked: Vec<Duration> = (0..50)
        .map(|number| timed(|| assert_eq!(ask(&files, records / 2 * number / 50), 1)))
        .collect();
    asked.sort();
    println!("{:>10.3} s  each further who, median", asked[25].as_secs_f64());
    println!("{:>10.3} s  each further who, worst of 50", asked[49].as_secs_f64());
    println!("{:>10} MB index", folder_size(&dir.path().join(".durward-index")) / 1_000_000);
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

/// Pairs of records; ports of four addresses in turn, 20 ms each, one beginning every 10 ms.
fn write(path: &Path, records: u64) {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let (mut link, mut bytes) = (Link::default(), Vec::new());
    for step in 0..=records / 2 {
        let mut add = |kind: &str, session: u64, at: i64| {
            let (time, egress) = (jiff::Timestamp::from_microsecond(at).unwrap(), egress(session));
            let record = format!(
                r#"{{"ts":"{time:.6}","kind":"egress-{kind}","id":"{session:016x}","tenant":"tenant-{}","identity":"user:ci","client":"172.16.28.9:4711","method":"CONNECT","host":"bank.example","port":443,"sni":"bank.example","resolved":["198.51.100.7"],"dialled":"198.51.100.7:443","egress":"{egress}","rule":"allow[0]","verdict":"allowed","bytes_up":10,"bytes_down":20,"total_ms":20.000}}"#,
                session % 4
            );
            bytes.clear();
            link = chain::seal(&mut bytes, record.as_bytes(), &link);
            out.write_all(&bytes).unwrap();
        };
        let now = BEGIN + i64::try_from(step).unwrap() * 10_000;
        if step < records / 2 {
            add("open", step, now);
        }
        if step >= 2 {
            add("close", step - 2, now);
        }
    }
    out.flush().unwrap();
}

fn egress(session: u64) -> std::net::SocketAddr {
    let address = [203, 0, 113, (session % 4) as u8];
    (address, 1024 + (session / 4 % 60_000) as u16).into()
}

fn ask(files: &[PathBuf], session: u64) -> usize {
    let at = BEGIN + i64::try_from(session).unwrap() * 10_000 + 5_000;
    let question = Question { egress: egress(session), from: at, to: at };
    let found = who(files, &question, &mut |_, _| true).unwrap();
    assert_eq!(found[0].record["id"], format!("{session:016x}"));
    found.len()
}

fn folder_size(path: &Path) -> u64 {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}
