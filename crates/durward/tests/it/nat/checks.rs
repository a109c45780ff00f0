//! Checks of a mapping's endpoints seen from outside: list, readiness, snapshot, metrics and log say what is out and why.

use std::net::TcpListener;

use durward_testkit::netns::in_namespace;
use durward_testkit::process::eventually_blocking;

use super::{ADMIN, HERE, Lab, POD, greet};
use crate::support::{DEADLINE, durward, get, status, stdout};

/// Connects often; the time within which an answer comes is generous.
const CHECK: &str = "{interval: 100ms, timeout: 2s, unhealthyAfter: 2, healthyAfter: 2}";

impl Lab {
    /// A mapping with two endpoints on the pod, and what else is written.
    fn write_checked(&self, check: &str, more: &str) {
        let text = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec: {{}}\n---\n\
             apiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {{name: desk}}\nspec:\n  \
               tenant: acme\n  addresses: [{HERE}]\n  endpoints: ['{POD}:9000', '{POD}:9009']\n  \
               ports: [{{port: 8080}}]\n  healthCheck: {check}\n{more}"
        );
        self.dir.replace("acme.yaml", text);
    }

    /// Whether so many new connections are all accepted.
    fn all_get_through(&self, count: usize) -> bool {
        (0..count).all(|_| self.by_partner(8080).is_ok())
    }
}

fn text(path: &str) -> String {
    get(ADMIN, path).map(|(_, text)| text).unwrap_or_default()
}

fn list() -> String {
    stdout(&durward(&["nat", "list"]).output().unwrap())
}

#[test]
fn an_endpoint_that_is_out_is_shown_with_the_reason_until_it_is_back() {
    in_namespace(
        "nat::checks::an_endpoint_that_is_out_is_shown_with_the_reason_until_it_is_back",
        || {
            let lab = Lab::new();
            lab.write_checked(CHECK, "");
            let running = lab.start();
            let why = "10.244.0.11:9009 (Connection refused";

            let listed = || list().contains(&format!("in the kernel; 1 of 2 endpoints out: {why}"));
            assert!(eventually_blocking(DEADLINE, listed), "{} {}", list(), running.output());
            assert!(lab.all_get_through(40));

            let ready = text("/readyz?verbose");
            let shown = format!("    acme: desk has 1 of 2 endpoints out: {why}");
            assert!(ready.contains(&shown), "{ready}");
            assert_eq!(status(ADMIN, "/readyz"), Some(200));
            let snapshot = text("/snapshot");
            let row = "{\"endpoint\":\"10.244.0.11:9009\",\"state\":\"unhealthy\",\"cause\":\"Connection refused";
            assert!(snapshot.contains(row), "{snapshot}");
            assert!(
                snapshot.contains("{\"endpoint\":\"10.244.0.11:9000\",\"state\":\"healthy\"}"),
                "{snapshot}"
            );
            let metrics = text("/metrics");
            for sample in [
                "durward_nat_mapping_endpoints{tenant=\"acme\",mapping=\"desk\",state=\"healthy\"} 1",
                "durward_nat_mapping_endpoints{tenant=\"acme\",mapping=\"desk\",state=\"unhealthy\"} 1",
                "durward_nat_endpoint_ejections_total{tenant=\"acme\"} 1",
                "durward_problems{tenant=\"acme\",kind=\"kernel\"} 1",
            ] {
                assert!(metrics.contains(sample), "{sample}: {metrics}");
            }
            running.wait_for_line_blocking("endpoint ejected: its checks fail", DEADLINE);
            // Without the gateway the kernel itself says it, and that it is as the documents say.
            let read = lab.nat(&["list"]);
            assert!(
                stdout(&read).contains("1 of 2 endpoints out: 10.244.0.11:9009"),
                "{}",
                stdout(&read)
            );
            assert_eq!(stdout(&lab.nat(&["diff"])), "the kernel matches the configuration\n");

            greet(&lab.pod, "pod", 9009);
            let back = || {
                !list().contains("endpoints out")
                    && !text("/readyz?verbose").contains("endpoints out")
            };
            assert!(eventually_blocking(DEADLINE, back), "{} {}", list(), running.output());
            running.wait_for_line_blocking("endpoint restored: its checks pass", DEADLINE);
        },
    );
}

#[test]
fn a_mapping_without_a_live_endpoint_refuses_and_the_gateway_stays_ready() {
    let name = "nat::checks::a_mapping_without_a_live_endpoint_refuses_and_the_gateway_stays_ready";
    in_namespace(name, || {
        let lab = Lab::new();
        lab.write_checked(CHECK, "  # 9001 and 9002\n");
        let text_of = std::fs::read_to_string(lab.dir.path().join("acme.yaml")).unwrap();
        lab.dir.replace("acme.yaml", text_of.replace(":9000'", ":9001'"));
        let running = lab.start();

        let shown = || {
            text("/readyz?verbose")
                .contains("acme: desk refuses connections, because all its endpoints are out: ")
        };
        assert!(
            eventually_blocking(DEADLINE, shown),
            "{} {}",
            text("/readyz?verbose"),
            running.output()
        );
        let refused = || {
            let refused = lab.by_partner(8080).map(|_| ()) == Err("connection refused".to_owned());
            refused
                && !text("/metrics")
                    .contains("durward_nat_refused_packets_total{reason=\"no_endpoint\"} 0")
        };
        assert!(eventually_blocking(DEADLINE, refused), "{}", text("/metrics"));
        assert_eq!(status(ADMIN, "/readyz"), Some(200));
        // A document without the check puts both back into rotation: the pod refuses, not the kernel.
        lab.dir.replace("acme.yaml", text_of.replace(&format!("  healthCheck: {CHECK}\n"), ""));
        assert!(eventually_blocking(DEADLINE, || !list().contains("endpoints out")), "{}", list());
        assert!(
            !text("/metrics").contains("durward_nat_mapping_endpoints{"),
            "{}",
            text("/metrics")
        );
    });
}

#[test]
fn a_check_that_would_leave_from_another_tenants_address_is_not_made() {
    in_namespace(
        "nat::checks::a_check_that_would_leave_from_another_tenants_address_is_not_made",
        || {
            let lab = Lab::new();
            let listener = lab.pod.run(|| TcpListener::bind((POD, 9009)).unwrap());
            listener.set_nonblocking(true).unwrap();
            // The gateway's address towards the pods is what another tenant's upstreams are reached from.
            let bank = "---\napiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: bank}\n\
                    spec: {egress: {addresses: [10.244.0.1]}}\n";
            lab.write_checked(CHECK, bank);
            let running = lab.start();
            let why = "the check would leave from 10.244.0.1, which is bank's";

            let shown =
                || text("/readyz?verbose").contains("desk has endpoints that cannot be checked: ");
            assert!(
                eventually_blocking(DEADLINE, shown),
                "{} {}",
                text("/readyz?verbose"),
                running.output()
            );
            assert!(list().contains(why), "{}", list());
            running
                .wait_for_line_blocking("endpoint cannot be checked: it stays as it is", DEADLINE);
            assert!(listener.accept().is_err(), "nobody came");
            lab.write_checked(CHECK, "");
            let came = || listener.accept().is_ok();
            assert!(eventually_blocking(DEADLINE, came), "{}", running.output());
            assert!(
                eventually_blocking(DEADLINE, || !list().contains("cannot be checked")),
                "{}",
                list()
            );
            // The kernel's share is as before; what is whose is not.
            lab.write_checked(CHECK, bank);
            assert!(eventually_blocking(DEADLINE, shown), "{}", text("/readyz?verbose"));
        },
    );
}
