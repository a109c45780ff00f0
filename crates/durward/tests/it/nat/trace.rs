//! `durward nat trace` seen from outside: blocks for people, lines for programs, bounds, and nothing left, not even by SIGKILL.

use std::time::Duration;

use durward_nat::nftables::table::{Ownership, Table};
use durward_testkit::netns::in_namespace;
use durward_testkit::process::{Child, eventually_blocking};
use serde_json::Value;

use super::{HERE, Lab, hear};
use crate::support::{DEADLINE, durward, stderr};

/// A trace that has begun.
fn trace(lab: &Lab, arguments: &[&str]) -> Child {
    let config = lab.dir.path().to_str().unwrap().to_owned();
    let mut command = durward(&[&["nat", "trace", "-c", &config], arguments].concat());
    command.env("PATH", "");
    let child = Child::spawn(command);
    let begun = eventually_blocking(DEADLINE, || has_table(&child));
    assert!(begun, "{}", child.output());
    child
}

fn has_table(child: &Child) -> bool {
    let name = format!("durward-trace-{}-0", child.id());
    Table::open(&name, Ownership::Shared, DEADLINE).unwrap().read().unwrap().exists
}

#[test]
fn people_and_programs_are_told_the_way_of_packets() {
    in_namespace("nat::trace::people_and_programs_are_told_the_way_of_packets", || {
        let lab = Lab::new();
        lab.write("{port: 8080}");
        let _running = lab.start();

        let mut people =
            trace(&lab, &["--to", &format!("{HERE}:8080"), "--packets", "1", "--for", "30s"]);
        lab.by_partner(8080).unwrap();
        people.wait_blocking(DEADLINE);
        let mut programs = trace(
            &lab,
            &["--client", super::PARTNER, "--packets", "1", "--for", "30s", "-o", "json"],
        );
        let _ = hear(&lab.partner, (HERE, 99));
        programs.wait_blocking(DEADLINE);

        let text = people.output();
        for words in [
            "→ 203.0.113.1:8080 tcp SYN in ext1",
            "an endpoint is chosen",
            "its own address is kept",
            "left by br0 to 10.244.0.11:9000, tenant acme, desk, ",
            "traced, 1 shown",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let lines = programs.lines();
        let packet: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!((&packet["end"], &packet["reason"]), (&"dropped".into(), &"unmapped".into()));
        assert_eq!((&packet["to"], &packet["in"]), (&"203.0.113.1:99".into(), &"ext1".into()));
        assert!(packet["steps"].as_array().unwrap().len() > 3, "{packet}");
    });
}

#[test]
fn a_trace_ends_in_time_or_by_a_signal_and_its_table_ends_with_it() {
    in_namespace(
        "nat::trace::a_trace_ends_in_time_or_by_a_signal_and_its_table_ends_with_it",
        || {
            let lab = Lab::new();
            lab.write("{port: 8080}");

            let mut in_time = trace(&lab, &["--protocol", "tcp", "--for", "300ms"]);
            let timed = in_time.wait_blocking(DEADLINE);
            let mut told = trace(&lab, &["--for", "1h"]);
            told.terminate();
            let ended = told.wait_blocking(DEADLINE);
            let mut killed = trace(&lab, &["--for", "1h"]);
            killed.kill();
            killed.wait_blocking(DEADLINE);

            assert!(timed.success() && ended.success(), "{}{}", in_time.output(), told.output());
            assert!(in_time.output().contains("0 matching packets"), "{}", in_time.output());
            for child in [&in_time, &told, &killed] {
                assert!(eventually_blocking(Duration::from_secs(5), || !has_table(child)));
            }
        },
    );
}

#[test]
fn without_the_capability_it_says_so() {
    in_namespace("nat::trace::without_the_capability_it_says_so", || {
        let trace = durward(&["nat", "trace", "--for", "1s"]);
        let mut without = std::process::Command::new("setpriv");
        without.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(trace.get_program());

        let refused = without.args(trace.get_args()).output().unwrap();

        assert_eq!(refused.status.code(), Some(1));
        let said = stderr(&refused);
        assert!(said.contains("tracing: CAP_NET_ADMIN is missing"), "{said}");
    });
}
