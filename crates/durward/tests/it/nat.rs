//! The kernel's share seen from outside the binary: served, changed, crashed, handed over, looked at and cleaned up, without root or a path.
//!
//! `partner -ext1- gateway -br0- pod`; the gateway is the test's own namespace. Deliberately absent: what netfilter does in detail; the
//! tests of `durward-nat` show it.

mod checks;
mod mappings;
mod repair;
mod steer;
mod trace;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use durward_testkit::netns::{
    Namespace, add_address, add_route, in_namespace, ip, link_up, sysctl, veth,
};
use durward_testkit::process::{Child, TempDir, eventually_blocking};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{DEADLINE, durward, get, spawn, status, stderr, stdout};

const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9440);
const HERE: &str = "203.0.113.1";
const PARTNER: &str = "203.0.113.254";
const POD: &str = "10.244.0.11";

struct Lab {
    partner: Namespace,
    pod: Namespace,
    dir: TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { partner: Namespace::new(), pod: Namespace::new(), dir: TempDir::new() };
        veth("ext1", "wan", &lab.partner);
        add_address("ext1", &format!("{HERE}/24"));
        lab.partner.add_address("wan", &format!("{PARTNER}/24"));
        ip("link add br0 type bridge");
        link_up("br0");
        add_address("br0", "10.244.0.1/24");
        veth("v1", "eth0", &lab.pod);
        ip("link set v1 master br0");
        lab.pod.add_address("eth0", &format!("{POD}/24"));
        lab.pod.add_route("default", "10.244.0.1");
        add_route("default", PARTNER);
        greet(&lab.pod, "pod", 9000);
        greet(&lab.partner, "partner", 443);
        lab
    }

    /// A tenant whose pods leave from its address, a mapping with these ports, and a listener beside it.
    fn write(&self, ports: &str) {
        let text = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  \
               ingress: [{{address: {HERE}, port: 8088, protocol: TCP, upstream: pod}}]\n  \
               upstreams: {{pod: {{endpoints: ['{POD}:9000'], protocol: TCP}}}}\n  \
               egress: {{addresses: [{HERE}], sources: [10.244.0.0/24]}}\n---\n\
             apiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {{name: desk}}\nspec:\n  \
               tenant: acme\n  addresses: [{HERE}]\n  endpoints: ['{POD}:9000']\n  ports: [{ports}]\n"
        );
        self.dir.replace("acme.yaml", text);
    }

    fn start(&self) -> Child {
        let child = spawn(self.dir.path(), ADMIN, &OPTIONS);
        let ready = eventually_blocking(DEADLINE, || status(ADMIN, "/readyz") == Some(200));
        let why = get(ADMIN, "/readyz?verbose");
        assert!(ready, "{why:?}: {}", child.output());
        child
    }

    /// `durward nat WHAT` on the lab's configuration.
    fn nat(&self, what: &[&str]) -> Output {
        // Nothing but the binary itself is needed.
        self.command(what).env("PATH", "").output().unwrap()
    }

    fn command(&self, what: &[&str]) -> Command {
        let config = self.dir.path().to_str().unwrap().to_owned();
        let config = if what[0] == "cleanup" { vec![] } else { vec!["-c", &config] };
        durward(&[&["nat"], what, &config, &OPTIONS].concat())
    }

    fn by_partner(&self, port: u16) -> Result<(TcpStream, String), String> {
        hear(&self.partner, (HERE, port))
    }
}

const OPTIONS: [&str; 6] = [
    "--nat-external",
    "ext[0-9]+",
    "--nat-gateway=ext1=203.0.113.254",
    "--nat-cluster",
    "10.244.0.0/16",
    "--nat-cluster-address=10.244.0.1",
];

/// Says its name and the peer's address, then echoes.
fn greet(at: &Namespace, name: &'static str, port: u16) {
    let listener = at.run(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let peer = stream.peer_addr().unwrap().ip();
                let _ = stream.write_all(format!("{name} {peer}\n").as_bytes());
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..length]);
                }
            });
        }
    });
}

fn hear(from: &Namespace, to: (&str, u16)) -> Result<(TcpStream, String), String> {
    from.run(|| {
        let to: SocketAddr = format!("{}:{}", to.0, to.1).parse().unwrap();
        let text = |error: std::io::Error| error.kind().to_string();
        let patience = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&to, patience).map_err(text)?;
        stream.set_read_timeout(Some(patience)).unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).map_err(text)?;
            line.push(byte[0]);
        }
        Ok((stream, String::from_utf8(line).unwrap().trim().to_owned()))
    })
}

fn is_alive(stream: &mut TcpStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut back).is_ok() && back == *b"ping"
}

fn said(heard: Result<(TcpStream, String), String>) -> Result<String, String> {
    heard.map(|(_, said)| said)
}

// S5.1 S5.2 S5.33 S5.71
#[test]
fn a_configuration_is_carried_by_the_kernel_and_changes_with_its_file() {
    in_namespace("nat::a_configuration_is_carried_by_the_kernel_and_changes_with_its_file", || {
        let lab = Lab::new();
        lab.write("{port: 8080}");
        let _running = lab.start();

        assert_eq!(said(lab.by_partner(8080)), Ok(format!("pod {PARTNER}")));
        assert_eq!(said(hear(&lab.pod, (PARTNER, 443))), Ok(format!("partner {HERE}")));
        assert!(lab.by_partner(8088).is_ok(), "its own listener is let in");
        assert!(lab.by_partner(8081).is_err());
        lab.write("{port: 8080}, {port: 8081}");
        assert!(eventually_blocking(DEADLINE, || lab.by_partner(8081).is_ok()));
        lab.write("{port: 8081}");
        assert!(eventually_blocking(DEADLINE, || lab.by_partner(8080).is_err()));

        let (_, ready) = get(ADMIN, "/readyz?verbose").unwrap();
        assert!(ready.contains("1 of 1 mappings, 1 of 1 egress rules in the kernel"), "{ready}");
        let (_, snapshot) = get(ADMIN, "/snapshot").unwrap();
        assert!(snapshot.contains("\"in the kernel\""), "{snapshot}");
        let (_, metrics) = get(ADMIN, "/metrics").unwrap();
        for sample in [
            "durward_nat_up 1",
            "durward_nat_mappings{state=\"carried\"} 1",
            "durward_nat_mapping_connections{tenant=\"acme\",mapping=\"desk\"} ",
            "durward_nat_refused_packets_total{reason=\"unmapped\"} ",
            "durward_nat_tenant_bytes_total{tenant=\"acme\"} ",
            "durward_nat_egress_connections{address=\"203.0.113.1\"} ",
            "durward_nat_egress_ports_used{tenant=\"acme\",address=\"203.0.113.1\"} ",
            "durward_nat_egress_ports_budget 64512",
        ] {
            assert!(metrics.contains(sample), "{sample}: {metrics}");
        }
        let page = crate::text("docs/reference/metrics.md");
        let told = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE durward_nat_"));
        let told: Vec<&str> = told.collect();
        for family in &told {
            let (name, kind) = family.split_once(' ').unwrap();
            let suffix = if kind == "counter" { "_total" } else { "" };
            assert!(page.contains(&format!("| `durward_nat_{name}{suffix}` | {kind} |")), "{name}");
        }
        assert_eq!(page.matches("| `durward_nat_").count(), told.len());
    });
}

// S5.61+ S5.63+
#[test]
fn the_kernel_goes_on_without_the_process_and_cleanup_ends_it() {
    in_namespace("nat::the_kernel_goes_on_without_the_process_and_cleanup_ends_it", || {
        let lab = Lab::new();
        lab.write("{port: 8080}");
        let mut first = lab.start();
        let (mut open, _) = lab.by_partner(8080).unwrap();

        first.kill();
        first.wait_blocking(DEADLINE);
        assert!(is_alive(&mut open), "after a crash");
        assert!(lab.by_partner(8080).is_ok(), "a new one after a crash");
        let mut second = lab.start();
        assert!(is_alive(&mut open), "after the restart");
        second.terminate();
        second.wait_blocking(DEADLINE);
        assert!(is_alive(&mut open), "after the end");
        let cleaned = lab.nat(&["cleanup"]);

        assert!(cleaned.status.success(), "{}", stderr(&cleaned));
        assert!(!is_alive(&mut open));
        assert!(lab.by_partner(8080).is_err());
        assert_eq!(ip("rule").lines().count(), 3, "{}", ip("rule"));
    });
}

// S5.61+
#[test]
fn a_younger_process_takes_the_table_over() {
    in_namespace("nat::a_younger_process_takes_the_table_over", || {
        let lab = Lab::new();
        lab.write("{port: 8080}");
        let mut first = lab.start();
        let (mut open, _) = lab.by_partner(8080).unwrap();

        first.signal(Signal::USR2);
        first.wait_blocking(DEADLINE);
        assert!(is_alive(&mut open));
        lab.write("{port: 8080}, {port: 8082}");

        assert!(eventually_blocking(DEADLINE, || lab.by_partner(8082).is_ok()));
        let healthy = || status(ADMIN, "/readyz") == Some(200);
        assert!(eventually_blocking(DEADLINE, healthy), "{:?}", get(ADMIN, "/readyz?verbose"));
        // It is no child of ours.
        let (_, snapshot) = get(ADMIN, "/snapshot").unwrap();
        assert!(snapshot.contains("\"ownsTable\":true"), "{snapshot}");
        let told = first.output();
        let number = told.split("\"process\":").nth(1).unwrap().split([',', '}']).next().unwrap();
        kill_process(Pid::from_raw(number.parse().unwrap()).unwrap(), Signal::TERM).unwrap();
    });
}

#[test]
fn list_and_diff_show_what_is_and_what_would_be() {
    in_namespace("nat::list_and_diff_show_what_is_and_what_would_be", || {
        let lab = Lab::new();
        lab.write("{port: 8080}");

        sysctl("net.ipv4.ip_forward", "0");
        let before = lab.nat(&["list"]);
        assert_eq!(before.status.code(), Some(1), "{}", stderr(&before));
        let absent = stdout(&before).matches("not in the kernel yet").count();
        assert_eq!(absent, 2, "the mapping and the egress rule: {}", stdout(&before));
        let would = lab.nat(&["diff"]);
        assert_eq!(would.status.code(), Some(1));
        assert!(
            stdout(&would).contains("+ svc4 203.0.113.1 tcp 8080 -> lb4_1"),
            "{}",
            stdout(&would)
        );
        let parameter = "- sysctl net/ipv4/ip_forward = 0\n+ sysctl net/ipv4/ip_forward = 1\n";
        assert!(stdout(&would).contains(parameter), "{}", stdout(&would));

        let _running = lab.start();
        lab.by_partner(8080).unwrap();
        let list = lab.nat(&["list"]);
        assert!(list.status.success(), "{}{}", stdout(&list), stderr(&list));
        assert!(
            stdout(&list)
                .contains("203.0.113.1 tcp 8080   10.244.0.11:9000   1             in the kernel"),
            "{}",
            stdout(&list)
        );
        assert!(stdout(&list).contains("egress"), "{}", stdout(&list));
        let same = lab.nat(&["diff"]);
        assert_eq!(stdout(&same), "the kernel matches the configuration\n", "{}", stderr(&same));
        let refused = lab.nat(&["cleanup"]);
        assert!(stderr(&refused).contains("a running durward owns it"), "{}", stderr(&refused));
    });
}

#[test]
fn without_the_right_the_missing_capability_is_named() {
    in_namespace("nat::without_the_right_the_missing_capability_is_named", || {
        let lab = Lab::new();
        lab.write("{port: 8080}");

        for what in ["list", "diff", "cleanup"] {
            let plain = lab.command(&[what]);
            // A program keeps no capability that is outside of its bounding set.
            let mut without = Command::new("setpriv");
            without.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
            let told = without.arg(plain.get_program()).args(plain.get_args()).output().unwrap();
            assert_eq!(told.status.code(), Some(1), "{what}");
            assert!(stderr(&told).contains("needs CAP_NET_ADMIN"), "{what}: {}", stderr(&told));
        }
    });
}

#[test]
fn list_and_diff_tell_what_is_rejected_and_kept() {
    in_namespace("nat::list_and_diff_tell_what_is_rejected_and_kept", || {
        let lab = Lab::new();
        lab.write("{port: 8080}");
        let _running = lab.start();
        lab.write("{port: 808000}");

        let list = lab.nat(&["list"]);
        let diff = lab.nat(&["diff"]);

        for told in [&list, &diff] {
            assert_eq!(told.status.code(), Some(3), "{}", stdout(told));
            let finding = "PortMapping desk: spec.ports[0].port \"808000\" is not a whole number from 0 to 65535";
            assert!(stderr(told).contains(finding), "{}", stderr(told));
            assert!(stderr(told).contains("acme.yaml:"), "{}", stderr(told));
        }
        assert!(!stdout(&list).contains("desk"), "{}", stdout(&list));
        assert!(stdout(&diff).contains("- svc4 203.0.113.1 tcp 8080"), "{}", stdout(&diff));
        let kept = "a running gateway keeps what rejected documents had before";
        assert!(stderr(&diff).contains(kept), "{}", stderr(&diff));
        assert!(lab.by_partner(8080).is_ok(), "and it does");
    });
}

#[test]
fn mappings_without_external_interfaces_are_a_condition_while_listeners_serve() {
    let name = "nat::mappings_without_external_interfaces_are_a_condition_while_listeners_serve";
    in_namespace(name, || {
        let lab = Lab::new();
        lab.write("{port: 8080}");

        let child = spawn(lab.dir.path(), ADMIN, &[]);
        let says = || {
            get(ADMIN, "/readyz?verbose").is_some_and(|(status, text)| {
                status == 200 && text.contains("[!]kernel") && text.contains("--nat-external")
            })
        };

        assert!(eventually_blocking(DEADLINE, says), "{}", child.output());
    });
}

#[test]
fn an_egress_address_that_comes_or_goes_is_shown_without_a_change_of_configuration() {
    let name =
        "nat::an_egress_address_that_comes_or_goes_is_shown_without_a_change_of_configuration";
    in_namespace(name, || {
        let lab = Lab::new();
        let address = "203.0.113.9";
        lab.dir.replace(
            "acme.yaml",
            format!(
                "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  \
                   egress: {{addresses: [{address}], sources: [10.244.0.0/24]}}\n"
            ),
        );
        let running = lab.start();
        let says = |here: bool| {
            let told = || {
                let text = get(ADMIN, "/readyz?verbose").map(|(_, text)| text).unwrap_or_default();
                let snapshot = get(ADMIN, "/snapshot").map(|(_, text)| text).unwrap_or_default();
                let list = stdout(&durward(&["nat", "list"]).output().unwrap());
                let shown = text.contains(&format!("uses {address}, which is not on this host"));
                let listed = snapshot.contains(&format!("\"addressesNotHere\":[\"{address}\"]"));
                let in_list = list.contains(&format!("not on this host: {address}"));
                list.contains("may leave") && [shown, listed, in_list] == [!here; 3]
            };
            let said = eventually_blocking(DEADLINE, told);
            assert!(said, "{here}: {:?} {}", get(ADMIN, "/readyz?verbose"), running.output());
        };

        says(false);
        add_address("ext1", &format!("{address}/24"));
        says(true);
        running.wait_for_line_blocking("its addresses are on this host", DEADLINE);
        let before = running.lines().len();
        ip(&format!("address del {address}/24 dev ext1"));
        says(false);
        let logged = || {
            let lines = running.lines().split_off(before);
            lines.iter().any(|line| line.contains("addresses are not on this host"))
        };
        assert!(eventually_blocking(DEADLINE, logged), "{}", running.output());
        assert_eq!(status(ADMIN, "/readyz"), Some(200));
    });
}

// S5.4 S5.13 S5.23
#[test]
fn check_finds_a_wrong_gateway_a_firewall_and_parameters() {
    in_namespace("nat::check_finds_a_wrong_gateway_a_firewall_and_parameters", || {
        use durward_nat::nftables::ruleset::{Chain, Hook, Point, Ruleset};
        use durward_nat::nftables::table::{Ownership, Table};
        use durward_nat::nftables::{Changes, Expression, Verdict};
        let lab = Lab::new();
        lab.write("{port: 8080}");
        let config = lab.dir.path().to_str().unwrap().to_owned();
        let check = |more: &[&str]| {
            let arguments = ["check", "-c", &config, "--admin", "off", "-o", "short"];
            let nat = ["--nat-external", "ext[0-9]+", "--nat-cluster", "10.244.0.0/16"];
            let output = durward(&[&arguments[..], &nat, more].concat()).output().unwrap();
            stdout(&output) + &stderr(&output)
        };

        let bridge = |rp_filter: &str| {
            std::fs::write("/proc/sys/net/ipv4/conf/br0/rp_filter", rp_filter).unwrap();
        };
        bridge("0");
        let forgeable = check(&["--nat-gateway", "-1"]);
        bridge("1");
        let sound = check(&["--nat-gateway", "-1"]);
        let wrong = check(&["--nat-gateway", "7", "--nat-keep-sysctls"]);
        // A firewall of somebody else's that drops what it does not know.
        let hook = Hook { kind: "filter", point: Point::Forward, priority: 0 };
        let rules = vec![vec![Expression::Verdict(Verdict::Drop)]];
        let chain = Chain { hook: Some(hook), rules };
        let theirs =
            Ruleset { chains: [("FORWARD".to_owned(), chain)].into(), ..Ruleset::default() };
        let mut table = Table::open("firewalld", Ownership::Shared, DEADLINE).unwrap();
        let generation = table.read().unwrap().generation;
        table.change(generation, &Changes::between(&Ruleset::default(), &theirs)).unwrap();
        let walled = check(&["--nat-gateway", "-1"]);

        assert!(forgeable.contains("br0 accepts any source address"), "{forgeable}");
        assert!(!sound.contains("kernel: "), "{sound}");
        assert!(wrong.contains("gateway 203.0.113.7 on ext1 does not answer"), "{wrong}");
        assert!(wrong.contains("net/ipv4/ip_forward is 0 instead of 1"), "{wrong}");
        assert!(walled.contains("inet firewalld FORWARD drops"), "{walled}");
    });
}

#[test]
fn explain_knows_what_the_kernel_does() {
    let dir = TempDir::new();
    dir.write(
        "acme.yaml",
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\n\
         spec: {egress: {addresses: [203.0.113.1], sources: [10.244.3.0/24]}}\n---\n\
         apiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {name: desk}\nspec:\n  \
           tenant: acme\n  addresses: [203.0.113.1]\n  allowedSources: [192.0.2.0/24]\n  \
           ports: [{port: 80, endpoints: [10.0.0.1, 10.0.0.2]}, {port: 53, protocol: UDP}]\n",
    );
    let explain = |arguments: &[&str]| {
        let config = dir.path().to_str().unwrap().to_owned();
        stdout(&durward(&[&["explain", "-c", &config], arguments].concat()).output().unwrap())
    };

    for (arguments, words) in [
        (
            &["203.0.113.1:80", "--client", "192.0.2.9"][..],
            &[
                "tcp: port mapping desk ",
                "SERVED by desk",
                "10.0.0.1:80, 10.0.0.2:80",
                "acme.yaml:",
            ][..],
        ),
        (
            &["203.0.113.1:80", "--client", "198.51.100.9"],
            &["REFUSED denied", "in none of 192.0.2.0/24"],
        ),
        (
            &["203.0.113.1:53", "--protocol", "udp", "--client", "192.0.2.9"],
            &["REFUSED no_endpoint"],
        ),
        (&["203.0.113.1:53"], &["REFUSED tenant_not_found"]),
        (
            &["198.51.100.7:443", "--client", "10.244.3.9"],
            &[": kernel egress ", "SERVED by egress", "203.0.113.1"],
        ),
    ] {
        let said = explain(arguments);
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
    }
}

/// SmartNat's demo: the objects a cluster would show, an echo behind 192.168.60.5.
const DEMO: &str = "
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: echo, namespace: default}
spec: {addresses: [192.168.60.5], allowedSources: [0.0.0.0/0], mode: service, serviceName: echo, ports: [{port: 8080}, {port: 8081, servicePort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec: {ports: [{port: 8080, targetPort: 9000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-x, namespace: default, labels: {kubernetes.io/service-name: echo}}
ports: [{port: 9000}]
endpoints: [{addresses: [10.244.0.11]}]
";

#[test]
fn smartnats_objects_are_written_into_a_directory_that_holds_none_of_them() {
    let dir = TempDir::new();
    let objects = dir.write("objects.txt", DEMO);
    let climbing = dir.write("climbing.txt", DEMO.replace("default", "../up"));
    let out = dir.join("tenants");
    let migrate = |objects: &std::path::Path| {
        let (objects, out) = (objects.to_str().unwrap(), out.to_str().unwrap());
        durward(&["migrate", objects, "--out", out]).output().unwrap()
    };

    let first = migrate(&objects);
    let again = migrate(&objects);
    let outside = migrate(&climbing);
    let valid = durward(&["validate", "-c", out.to_str().unwrap()]).output().unwrap();

    assert!(first.status.success() && first.stdout.is_empty(), "{}", stderr(&first));
    let next = format!("1 mapping; next: durward validate -c {}", out.display());
    assert!(stderr(&first).contains(&next), "{}", stderr(&first));
    assert!(out.join("default.yaml").is_file());
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("exists already"), "{}", stderr(&again));
    assert_eq!(outside.status.code(), Some(3), "{}", stderr(&outside));
    assert!(!dir.join("up.yaml").exists());
    assert!(
        stdout(&valid).contains("1 tenant with 0 listeners and 1 mapping"),
        "{}",
        stdout(&valid)
    );
}

// S5.12 S5.24 S5.25 S5.38+ S5.73
#[test]
fn who_comes_from_smartnat_keeps_the_objects_and_the_variables() {
    in_namespace("nat::who_comes_from_smartnat_keeps_the_objects_and_the_variables", || {
        let lab = Lab::new();
        add_address("ext1", "192.168.60.5/24");
        lab.partner.add_address("wan", "192.168.60.1/24");
        // Something on the host that nobody outside may reach.
        let _private = TcpListener::bind("0.0.0.0:22").unwrap();
        let objects = lab.dir.write("objects.txt", DEMO);
        let migrated = durward(&["migrate", objects.to_str().unwrap()]).output().unwrap();
        assert!(migrated.status.success(), "{}", stderr(&migrated));
        lab.dir.replace("migrated.yaml", &migrated.stdout);
        let config = lab.dir.path().to_str().unwrap().to_owned();
        let mut command =
            durward(&["--log-format", "json", "run", "-c", &config, "--access-log", "off"]);
        for (name, value) in [
            ("INTERFACES_PATTERN", "ext[0-9]+"),
            ("DEFAULT_GW_INTERFACE", "br0"),
            ("GW_ADDRESS_OFFSET", "-1"),
            ("MONITOR_IP", ""),
            ("MONITOR_PORT", "8099"),
            ("DEBUG_ENABLED", "false"),
        ] {
            command.env(format!("SNCTRLR_{name}"), value);
        }
        let child = Child::spawn(command);
        let monitor: SocketAddr = "10.244.0.1:8099".parse().unwrap();
        let healthy = || {
            get(monitor, "/healthcheck")
                .is_some_and(|(status, text)| status == 200 && text.starts_with("OK 20"))
        };
        assert!(
            eventually_blocking(DEADLINE, healthy),
            "{:?} {}",
            get(monitor, "/healthcheck"),
            child.output()
        );

        for port in [8080, 8081] {
            let heard = said(hear(&lab.partner, ("192.168.60.5", port)));
            assert_eq!(heard, Ok("pod 10.244.0.1".to_owned()), "masqueraded, as SmartNat does");
        }
        let open: Vec<u16> = [22, 80, 443, 8079, 8080, 8081, 8082, 8099, 9000, 9440]
            .into_iter()
            .filter(|port| hear(&lab.partner, ("192.168.60.5", *port)).is_ok())
            .collect();
        assert_eq!(open, [8080, 8081]);
    });
}
