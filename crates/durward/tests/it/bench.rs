//! The bench can be asked for what it compares, and what it measured is written down: figures against Squid for each forward workload.
//!
//! Deliberately absent: the measuring itself, which takes minutes and is `bench/run`.

use std::process::Command;

use crate::{root, text};

const FORWARD: &[&str] = &["forward-small", "connect-bulk", "connect-new", "connect-idle"];

// S2.59
#[test]
fn the_bench_compares_the_forward_proxy_with_squid_and_its_figures_are_written_down() {
    let listed = Command::new(root().join("bench/run")).arg("--list").output().unwrap();
    let help = Command::new(root().join("bench/run")).arg("--help").output().unwrap();

    let listed = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<&str> =
        listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("squid") && help.contains("tinyproxy"), "{help}");
    let figures = text("docs/performance.md");
    let (_, section) = figures.split_once("\n## Forward proxy\n").expect("a section of its own");
    let section = section.split("\n## ").next().unwrap();
    for name in FORWARD {
        assert!(names.contains(name), "{name} is not in {names:?}");
        let row = section
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` ")))
            .unwrap_or_else(|| panic!("no row for {name}"));
        let squid = row.split('|').nth(4).unwrap().trim();
        let ratio = squid.split(' ').next().unwrap();
        assert!(ratio.parse::<f64>().is_ok_and(|ratio| ratio > 0.0), "{name}: {squid:?}");
        assert!(squid.contains('[') && squid.contains(".."), "{name}: no range in {squid:?}");
    }
}
