//! The benches can be asked for what they compare, and what they measured is written down: against Squid for each forward workload,
//! against iptables and SmartNat's rules for packets.
//!
//! Deliberately absent: the measuring itself, which takes minutes and is `bench/run` and `bench/nat`.

use std::process::Command;

use crate::{root, text};

const FORWARD: &[&str] = &["forward-small", "connect-bulk", "connect-new", "connect-idle"];

/// Returns the workloads that `bench/run` lists, and its help.
fn bench_run() -> (Vec<String>, String) {
    let said = |option: &str| {
        let output = Command::new(root().join("bench/run")).arg(option).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = said("--list");
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    (names.map(str::to_owned).collect(), said("--help"))
}

// S2.59
#[test]
fn the_bench_compares_the_forward_proxy_with_squid_and_its_figures_are_written_down() {
    let (names, help) = bench_run();

    assert!(help.contains("squid") && help.contains("tinyproxy"), "{help}");
    let figures = text("docs/performance.md");
    let (_, section) = figures.split_once("\n## Forward proxy\n").expect("a section of its own");
    let section = section.split("\n## ").next().unwrap();
    for name in FORWARD {
        assert!(names.iter().any(|one| one == name), "{name} is not in {names:?}");
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

/// The rows of the first table of a section that has this in its head, by their first cell.
fn rows(section: &str, head: &str) -> Vec<Vec<String>> {
    let lines = section.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect();
    lines.take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn kernel_plane() -> String {
    let figures = text("docs/performance.md");
    let (_, section) = figures.split_once("\n## The kernel plane\n").expect("a section of its own");
    section.split("\n## ").next().unwrap().to_owned()
}

// S5.67 S5.70
#[test]
fn the_bench_compares_the_kernel_plane_with_others_rules_and_its_figures_are_written_down() {
    let listed = Command::new(root().join("bench/nat")).arg("--list").output().unwrap();

    let listed = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<&str> =
        listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for workload in ["established", "new", "connection"] {
        assert!(names.contains(&workload), "{names:?}");
    }
    let table = rows(&kernel_plane(), "| way |");
    for way in names.iter().filter(|name| name.contains('-')).chain(&["plain", "conntrack"]) {
        assert!(names.contains(way), "{way} is not in {names:?}");
        let row = table.iter().find(|cells| cells[1] == format!("`{way}`"));
        let row = row.unwrap_or_else(|| panic!("no row for {way}"));
        // Nanoseconds and the ratio to plain forwarding, for each of the three.
        for cell in &row[2..8] {
            let figure = cell.trim_matches('*').replace(',', "");
            assert!(figure.parse::<f64>().is_ok_and(|figure| figure > 0.0), "{way}: {cell:?}");
        }
    }
}

// S5.12+ S5.68 S5.69
#[test]
fn what_changes_and_the_process_cost_is_written_down() {
    let section = kernel_plane();

    let steps = rows(&section, "| change |");
    for (step, mappings) in [
        ("all put into an empty table", "500"),
        ("all put into an empty table", "10,000"),
        ("all replaced by others, in one transaction", "10,000"),
        ("one changed", "10,000"),
        ("one more or one less", "10,000"),
    ] {
        let row = steps.iter().find(|cells| cells[1] == step && cells[2] == mappings);
        let row = row.unwrap_or_else(|| panic!("no row for {step}, {mappings}"));
        assert!(row[3].parse::<f64>().is_ok() && row[4].parse::<f64>().is_ok(), "{row:?}");
    }
    assert!(section.contains("MB resident") && section.contains("% of a core"), "{section}");
}

// S4.4
#[test]
fn what_a_name_costs_among_many_is_measured_and_written_down() {
    let help = Command::new(root().join("bench/names")).arg("--help").output().unwrap();

    assert!(help.status.success(), "{}", String::from_utf8_lossy(&help.stderr));
    let figures = text("docs/performance.md");
    let (_, section) =
        figures.split_once("\n## Names at a shared port\n").expect("a section of its own");
    let section = section.split("\n## ").next().unwrap();
    let costs = rows(section, "| CPU of a new connection");
    for names in ["one tenant with one name", "10,000 tenants with ten names each"] {
        let row = costs.iter().find(|cells| cells[1] == names);
        let cost = &row.unwrap_or_else(|| panic!("no row for {names}"))[2];
        let figure = cost.split(' ').next().unwrap();
        assert!(figure.parse::<f64>().is_ok_and(|figure| figure > 0.0), "{names}: {cost:?}");
        assert!(cost.contains("µs"), "{names}: {cost:?}");
    }
}

#[test]
fn the_benchs_own_tests_pass() {
    let tests = Command::new("python3")
        .args(["-m", "unittest", "-q", "harness.nat_tests"])
        .current_dir(root().join("bench"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();

    assert!(tests.status.success(), "{}", String::from_utf8_lossy(&tests.stderr));
}

// S4.68
#[test]
fn the_bench_compares_hosted_api_servers_and_its_figures_are_written_down() {
    let (names, help) = bench_run();

    assert!(help.contains("haproxy-defaults") && help.contains("direct"), "{help}");
    let figures = text("docs/performance.md");
    let (_, section) =
        figures.split_once("\n## Hosted API servers\n").expect("a section of its own");
    let section = section.split("\n## ").next().unwrap();
    let head = section.lines().find(|line| line.starts_with("| workload |")).unwrap();
    for peer in ["÷ HAProxy", "÷ nginx"] {
        assert!(head.contains(peer), "{head}");
    }
    let table = rows(section, "| workload |");
    for name in ["api-bulk", "api-new", "api-idle"] {
        assert!(names.iter().any(|one| one == name), "{name} is not in {names:?}");
        let row = table.iter().find(|cells| cells[1] == format!("`{name}`"));
        let row = row.unwrap_or_else(|| panic!("no row for {name}"));
        // The figure, then ratios with their ranges.
        for cell in &row[2..4] {
            let figure = cell.split(' ').next().unwrap();
            assert!(figure.parse::<f64>().is_ok_and(|figure| figure > 0.0), "{name}: {cell:?}");
        }
        assert!(row[3].contains('[') && row[3].contains(".."), "{name}: no range in {row:?}");
    }
    // What the machine gives without a proxy, and by each of them.
    let reached = rows(section, "| way |");
    for way in ["direct", "Durward", "HAProxy", "nginx"] {
        assert!(reached.iter().any(|cells| cells[1].starts_with(way)), "no row for {way}");
    }
}
