//! What others change in the kernel, and the end of the process in the middle of traffic: undone and counted, and no packet with a wrong address.

use durward_nat::nftables::table::{Ownership, Table};
use durward_testkit::netns::traffic::{Sender, Traffic};
use durward_testkit::netns::{in_namespace, ip, sysctl};
use durward_testkit::process::eventually_blocking;

use super::{ADMIN, HERE, Lab, OPTIONS, POD};
use crate::support::{DEADLINE, get, spawn, status};

/// Foreign changes that were undone, as the metrics say.
fn repairs() -> u64 {
    let (_, metrics) = get(ADMIN, "/metrics").unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix("durward_nat_repairs_total "));
    line.unwrap().parse().unwrap()
}

// S5.62+
#[test]
fn cures_of_table_routes_rules_and_parameters_are_logged_and_counted() {
    in_namespace(
        "nat::repair::cures_of_table_routes_rules_and_parameters_are_logged_and_counted",
        || {
            let lab = Lab::new();
            lab.write("{port: 8080}");
            let options = [&OPTIONS[..], &["--nat-shared-table"]].concat();
            let running = spawn(lab.dir.path(), ADMIN, &options);
            let ready = || status(ADMIN, "/readyz") == Some(200);
            assert!(eventually_blocking(DEADLINE, ready), "{}", running.output());
            assert_eq!(repairs(), 0, "{}", running.output());

            let parameter = "net.ipv4.conf.ext1.rp_filter";
            let foreign: [(&str, &str, &dyn Fn()); 6] = [
                ("the packet filter's table", "durward", &|| {
                    Table::open("durward", Ownership::Shared, DEADLINE).unwrap().delete().unwrap();
                }),
                ("routes or routing rules", "route 0.0.0.0/0 via 203.0.113.254", &|| {
                    drop(ip("route del default table 10101"));
                }),
                ("routes or routing rules", "from 10.244.0.0/24 prohibit ipv4", &|| {
                    drop(ip("rule del priority 1003"));
                }),
                // What somebody adds under Durward's label is a change too.
                ("routes or routing rules", "route 192.0.2.0/24 unreachable table 10101", &|| {
                    drop(ip("route add unreachable 192.0.2.0/24 table 10101 protocol 157"));
                }),
                ("kernel parameters", "/proc/sys/net/ipv4/conf/ext1/rp_filter", &|| {
                    sysctl(parameter, "1");
                }),
                ("kernel parameters", "/proc/sys/net/ipv4/ip_forward", &|| {
                    sysctl("net.ipv4.ip_forward", "0");
                }),
            ];
            for (count, (what, which, tamper)) in (1..).zip(foreign) {
                tamper();
                let told = || {
                    running
                        .output()
                        .lines()
                        .filter(|line| line.contains("undid a foreign change"))
                        .any(|line| {
                            line.contains(&format!("\"what\":\"{what}\"")) && line.contains(which)
                        })
                };
                assert!(eventually_blocking(DEADLINE, told), "{which}: {}", running.output());
                assert_eq!(repairs(), count, "{which}: {}", running.output());
            }
            // A change of the configuration is none of others.
            lab.write("{port: 8080}, {port: 8081}");
            assert!(eventually_blocking(DEADLINE, || lab.by_partner(8081).is_ok()));
            assert_eq!(repairs(), 6, "{}", running.output());
        },
    );
}

// S5.61+ S2.56+
#[test]
fn a_process_killed_under_load_lets_no_packet_out_with_another_address() {
    in_namespace(
        "nat::repair::a_process_killed_under_load_lets_no_packet_out_with_another_address",
        || {
            let lab = Lab::new();
            // The worst case: the host forwards whatever Durward does.
            sysctl("net.ipv4.ip_forward", "1");
            lab.write("{port: 8080}");
            let remote = "192.0.2.101";
            lab.partner.add_address("lo", &format!("{remote}/32"));
            let mut running = lab.start();
            let sender = Sender::new(&lab.pod, POD, remote, Some(HERE));
            let traffic = Traffic::start(&lab.partner, vec![sender]);

            for round in 0..5 {
                traffic.flows(500);
                running.kill();
                running.wait_blocking(DEADLINE);
                traffic.flows(500);
                // Where the kernel keeps owned tables, nobody has the table now, so anybody can take it away.
                if round % 2 == 1 {
                    let mut table = Table::open("durward", Ownership::Shared, DEADLINE).unwrap();
                    table.delete().unwrap();
                    traffic.flows(500);
                }
                running = lab.start();
            }

            traffic.flows(500);
            traffic.assert_nothing_foreign("a process killed under load");
            drop(running);
        },
    );
}
