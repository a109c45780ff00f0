//! Records that lead clients to the gateway, read by the programs that they are for, where these are installed.

use std::net::SocketAddr;
use std::process::{Command, Output};

use durward_testkit::process::{Child, TempDir, eventually, unique_loopback};
use serde_json::Value;

use super::{DEADLINE, NAME, Pki, api_server};
use crate::support::{output, stderr, stdout};

const GUIDE: &str = "docs/guide/hosted-api-reach.md";

fn records(server: &str, more: &[&str]) -> String {
    let arguments = ["api", "dns", "--zone", "k8s.example.com", "--address", "10.0.0.50"];
    let output = output(&[&arguments[..], &["--for", server], more].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

/// Runs a program; `None`, after saying so, if it is not installed.
fn run(test: &str, program: &str, arguments: &[&str]) -> Option<Output> {
    let ran = Command::new(program).args(arguments).output();
    if ran.is_err() {
        eprintln!("SKIPPED {test} ({program} is missing)");
    }
    ran.ok()
}

/// A zone of both families as printed, which BIND's own checker accepts, where it is installed.
// S4.36
#[test]
fn binds_own_checker_accepts_the_printed_zone() {
    let zone = records("bind", &["--address", "fd00::50"]);
    let dir = TempDir::new();
    let file = dir.write("zone", zone);
    let file = file.to_str().unwrap();
    let test = "binds_own_checker_accepts_the_printed_zone";

    let Some(checked) = run(test, "named-checkzone", &["k8s.example.com", file]) else { return };

    assert!(checked.status.success(), "{}", stdout(&checked));
    // All its names, as the checker has read them.
    let dump = ["-D", "-o", "-", "k8s.example.com", file];
    let dumped = stdout(&run(test, "named-checkzone", &dump).unwrap());
    let has = |kind: &str, address: &str| {
        dumped.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.first() == Some(&"*.k8s.example.com.") && fields.ends_with(&[kind, address])
        })
    };
    assert!(has("A", "10.0.0.50") && has("AAAA", "fd00::50"), "{dumped}");
}

/// dnsmasq with a configuration and a hosts file, as printed.
struct NameServer {
    at: SocketAddr,
    _process: Child,
    _dir: TempDir,
}

impl NameServer {
    /// Starts, and waits until it answers; `None` where a program is missing.
    async fn start(test: &str, config: &str, hosts: &str) -> Option<Self> {
        for program in ["dnsmasq", "dig", "nslookup"] {
            run(test, program, &["-v"])?;
        }
        let dir = TempDir::new();
        let (config, hosts) = (dir.write("dnsmasq.conf", config), dir.write("hosts", hosts));
        let at = SocketAddr::from((unique_loopback(), 5353));
        let mut command = Command::new("dnsmasq");
        command.args(["--no-daemon", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user="]);
        command.arg(format!("--addn-hosts={}", hosts.display()));
        command.arg(format!("--conf-file={}", config.display()));
        command.args([format!("--listen-address={}", at.ip()), format!("--port={}", at.port())]);
        let process = Child::spawn(command);
        let server = Self { at, _process: process, _dir: dir };
        let answers = eventually(DEADLINE, async || !server.dig(NAME, "A").is_empty()).await;
        assert!(answers, "{}", server._process.output());
        Some(server)
    }

    fn dig(&self, name: &str, kind: &str) -> Vec<String> {
        let (at, port) = (format!("@{}", self.at.ip()), self.at.port().to_string());
        let arguments = [&at, "-p", &port, "+short", "+time=5", "+tries=3", name, kind];
        let answer = stdout(&Command::new("dig").args(arguments).output().unwrap());
        answer.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect()
    }

    fn nslookup(&self, name: &str) -> String {
        let (at, port) = (self.at.ip().to_string(), format!("-port={}", self.at.port()));
        stdout(&Command::new("nslookup").args([&port, name, &at]).output().unwrap())
    }
}

// S4.34 S4.38 S4.43
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_wildcard_answers_for_every_tenant_and_the_checks_of_the_guide_show_it() {
    let test = "one_wildcard_answers_for_every_tenant_and_the_checks_of_the_guide_show_it";
    let zones = ["--zone", "konnectivity.example.com", "--address", "fd00::50"];
    let hosts = output(&["api", "hosts", NAME, "x.other.example", "--address", "10.0.0.51"]);
    let (config, hosts) = (records("dnsmasq", &zones), stdout(&hosts));
    let Some(server) = NameServer::start(test, &config, &hosts).await else { return };

    for tenant in ["tenant-01", "any-tenant", "a.b"] {
        for zone in ["k8s.example.com", "konnectivity.example.com"] {
            let name = format!("{tenant}.{zone}");
            assert_eq!(server.dig(&name, "A"), ["10.0.0.50"], "{name}");
            assert_eq!(server.dig(&name, "AAAA"), ["fd00::50"], "{name}");
        }
    }
    let shown = server.nslookup("tenant-01.k8s.example.com");
    assert!(shown.contains("Address: 10.0.0.50"), "{shown}");
    // The lines of the hosts file.
    for name in [NAME, "x.other.example"] {
        assert_eq!(server.dig(name, "A"), ["10.0.0.51"]);
    }
    assert_eq!(server.dig("tenant-01.elsewhere.example", "A"), Vec::<String>::new());
}

/// A block of a Corefile: its head, and what stands in its braces.
#[derive(Debug)]
struct Block {
    head: Vec<String>,
    lines: Vec<Vec<String>>,
    blocks: Vec<Self>,
}

/// Reads blocks as CoreDNS does: words, texts in quotation marks, braces at the end of a line.
fn corefile(lines: &mut dyn Iterator<Item = &str>, head: Vec<String>) -> Block {
    let mut block = Block { head, lines: Vec::new(), blocks: Vec::new() };
    while let Some(line) = lines.next() {
        let mut words = Vec::new();
        for (at, part) in line.trim().split('"').enumerate() {
            match at % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        match words.last().map(String::as_str) {
            Some("{") => {
                words.pop();
                block.blocks.push(corefile(lines, words));
            }
            Some("}") => return block,
            Some(_) => block.lines.push(words),
            None => {}
        }
    }
    block
}

// S4.39
#[test]
fn the_corefile_answers_queries_of_both_families_and_of_any_other_type() {
    let text = records("coredns", &["--address", "fd00::50", "--zone", "k.example"]);

    let file = corefile(&mut text.lines(), Vec::new());

    let zones: Vec<_> = file.blocks.iter().map(|server| server.head.join(" ")).collect();
    assert_eq!(zones, ["k8s.example.com:53", "k.example:53"], "{text}");
    for server in &file.blocks {
        let plugins: Vec<_> = server.blocks.iter().map(|plugin| plugin.head.join(" ")).collect();
        assert_eq!(plugins, ["template IN A", "template IN AAAA", "template ANY ANY"]);
        for (plugin, answer) in server.blocks.iter().zip([
            Some("{{ .Name }} 300 IN A 10.0.0.50"),
            Some("{{ .Name }} 300 IN AAAA fd00::50"),
            None,
        ]) {
            let mut lines: Vec<Vec<&str>> =
                answer.into_iter().map(|answer| vec!["answer", answer]).collect();
            lines.push(vec!["rcode", "NOERROR"]);
            assert_eq!(plugin.lines, lines);
        }
    }
    assert!(file.lines.is_empty() && file.blocks.iter().all(|server| server.lines.is_empty()));
}

/// Cmdlets of the module `DnsServer` that are printed, with their parameters.
const CMDLETS: [(&str, &[&str]); 3] = [
    ("Add-DnsServerPrimaryZone", &["-Name", "-ZoneFile"]),
    ("Add-DnsServerResourceRecordA", &["-ZoneName", "-Name", "-IPv4Address", "-TimeToLive"]),
    ("Add-DnsServerResourceRecordAAAA", &["-ZoneName", "-Name", "-IPv6Address", "-TimeToLive"]),
];

// S4.35
#[test]
fn each_line_for_windows_is_a_cmdlet_with_its_parameters_and_quoted_values() {
    let text = records("windows", &["--address", "fd00::50"]);

    assert_eq!(text.lines().count(), 3, "{text}");
    for line in text.lines() {
        let (cmdlet, rest) = line.split_once(' ').unwrap();
        let known = CMDLETS.iter().find(|(name, _)| *name == cmdlet).expect(cmdlet).1;
        let words: Vec<&str> = rest.split_whitespace().collect();
        assert_eq!(words.len(), known.len() * 2, "{line}");
        for (parameter, pair) in known.iter().zip(words.chunks(2)) {
            assert_eq!(pair[0], *parameter, "{line}");
            let is_quoted = |text: &str| {
                text.len() > 2
                    && text.starts_with('"')
                    && text.ends_with('"')
                    && !text[1..text.len() - 1].contains(['"', '$', '`'])
            };
            let is_time = pair[1] == "([TimeSpan]::FromSeconds(300))";
            assert!(is_quoted(pair[1]) || (is_time && *parameter == "-TimeToLive"), "{line}");
        }
    }
}

// S4.37 S4.40 S4.42 S4.36+ S4.35+ S4.38+ S4.39+
#[test]
fn the_guide_shows_what_is_printed_and_how_each_service_takes_it() {
    let guide = crate::text(GUIDE);
    for (server, more) in [
        ("bind", &["--serial", "2026113001"][..]),
        ("dnsmasq", &["--zone", "konnectivity.example.com"]),
        ("coredns", &[]),
        ("windows", &[]),
        ("infoblox", &[]),
    ] {
        let printed = records(server, more);
        assert!(guide.contains(&printed), "{server}: the guide lacks\n{printed}");
    }
    // A table for the CSV import: a header, and rows with as many columns.
    let infoblox = records("infoblox", &["--address", "fd00::50"]);
    assert!(infoblox.lines().all(|line| line.split(',').count() == 4), "{infoblox}");
    for step in ["CSV Import", "Split tunnels", "Local domain fallback", "private network"] {
        assert!(guide.contains(step), "{step}");
    }

    let tunnel: Value = serde_saphyr::from_str(&records("cloudflare", &[])).unwrap();
    let rules = tunnel["ingress"].as_array().unwrap();
    assert_eq!(rules[0]["hostname"], "*.k8s.example.com");
    assert_eq!(rules[0]["service"], "tcp://10.0.0.50:443");
    // The last one takes what no other does.
    assert_eq!(rules.last().unwrap(), &serde_json::json!({"service": "http_status:404"}));
    for limit in ["client certificates do not arrive", "noTLSVerify"] {
        let output = output(&[
            "api",
            "dns",
            "--zone",
            "a.example",
            "--address",
            "10.0.0.50",
            "--for",
            "cloudflare",
        ]);
        assert!(guide.contains(limit) && stderr(&output).contains(limit), "{limit}");
    }
}

// S4.32 S4.61
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_of_the_guide_prints_the_names_of_the_certificate() {
    let test = "the_command_of_the_guide_prints_the_names_of_the_certificate";
    if run(test, "openssl", &["version"]).is_none() {
        return;
    }
    let pki = Pki::new();
    let at = api_server(&pki).await;
    let guide = crate::text(GUIDE);
    let written = guide.split('`').find(|part| part.starts_with("openssl s_client")).unwrap();
    let command = written
        .replace("10.0.0.50:443", &at.to_string())
        .replace("tenant-01.k8s.example.com", NAME);

    let shell = tokio::task::spawn_blocking(move || {
        Command::new("sh").args(["-c", &command]).output().unwrap()
    });
    let printed = stdout(&shell.await.unwrap());

    for name in [NAME, "kubernetes.default.svc"] {
        assert!(printed.contains(&format!("DNS:{name}")), "{name}: {printed}");
    }
    // And the Secret that it looks for is the one that the proxies have.
    let workload: Value =
        serde_saphyr::from_str(&crate::text("deploy/api-proxy/base/daemonset.yaml")).unwrap();
    let volumes = workload["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let secret = volumes.iter().find_map(|volume| volume["secret"]["secretName"].as_str()).unwrap();
    assert!(guide.contains(&format!("get secret -n kube-system {secret}`")), "{secret}");
}

/// Values for the charts of other ingress controllers.
// S4.44 S4.45 S4.46
#[test]
fn values_for_the_charts_of_other_controllers_are_yaml_and_in_the_guide() {
    let values = |controller: &str| -> Value {
        let file = format!("deploy/ingress-controllers/{controller}-values.yaml");
        assert!(crate::text(GUIDE).contains(&format!("(../../{file})")), "{file}");
        serde_saphyr::from_str(&crate::text(&file)).unwrap()
    };

    let traefik = values("traefik");
    let port = &traefik["ports"]["websecure"];
    assert_eq!((&port["exposedPort"], &port["protocol"]), (&443.into(), &"TCP".into()));
    assert_eq!(port["expose"]["default"], true);
    assert_eq!(traefik["providers"]["kubernetesCRD"]["enabled"], true);
    let haproxy = &values("haproxy")["controller"]["config"];
    assert_eq!(haproxy["timeout-tunnel"], "24h");
    // It is for each Ingress to say: this would pass the TLS of all others through as well.
    assert!(haproxy.get("ssl-passthrough").is_none());
    let config = haproxy.as_object().unwrap();
    assert!(config.values().all(Value::is_string), "a ConfigMap holds texts: {haproxy}");
    let nginx = &values("nginx")["controller"]["extraArgs"];
    assert_eq!(nginx["enable-ssl-passthrough"], "true", "a text, as arguments are");
}
