//! The command line: the transcripts of the reference, exit codes, certificates, checks.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use durward_proxy::audit::chain::{Link, seal};
use durward_testkit::netns;
use durward_testkit::origin::Origin;
use durward_testkit::process::{TempDir, unique_loopback};
use serde_json::Value;

use crate::support::{HERE, durward, nowhere, output, stderr, stdout, tenant};

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");

/// The first block of a page in a language.
fn block(page: &str, language: &str) -> String {
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// The first YAML block of a page.
fn document_in(page: &str) -> String {
    block(page, "yaml")
}

/// An audit file with a request that has ended and one that has not.
fn audit_file() -> String {
    let egress = |kind: &str, time: &str, id: &str, identity: &str, more: &str| {
        format!(
            r#"{{"ts":"2026-11-21T14:03:{time}Z","kind":"egress-{kind}","id":"{id}","tenant":"acme",{identity}"client":"172.16.28.9:4711","method":"CONNECT","host":"bank.example","port":443,"resolved":["198.51.100.7"],"dialled":"198.51.100.7:443","egress":"203.0.113.2:40000","rule":"allow[0]","verdict":"allowed",{more}}}"#
        )
    };
    let user = r#""identity":"user:ci","#;
    let records = [
        r#"{"ts":"2026-11-21T14:02:59.000000Z","kind":"audit-start","pid":1,"version":"0.1.0"}"#
            .to_owned(),
        egress("open", "04.250000", "01-a", user, r#""bytes_up":0,"bytes_down":0,"total_ms":1.5"#),
        egress(
            "close",
            "05.750000",
            "01-a",
            user,
            r#""bytes_up":810,"bytes_down":4211,"total_ms":1501.5"#,
        ),
        egress("open", "09.000000", "01-b", "", r#""bytes_up":0,"bytes_down":0,"total_ms":1.5"#)
            .replace("40000", "40001"),
    ];
    let (mut out, mut link) = (Vec::new(), Link::default());
    for record in records {
        link = seal(&mut out, record.as_bytes(), &link);
    }
    String::from_utf8(out).unwrap()
}

/// Dates and the machine's kind as `[..]`, which stands for anything.
fn without_today(page: &str) -> String {
    let date =
        |word: &str| word.len() == 10 && word.starts_with("20") && word.matches('-').count() == 2;
    let kind = |word: &str| word.ends_with("-linux\"");
    let line = |line: &str| {
        let words =
            line.split(' ').map(|word| if date(word) || kind(word) { "[..]" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    page.lines().map(|text| line(text) + "\n").collect()
}

// S1.10 S1.60 S1.63 S1.67
#[test]
fn the_transcripts_of_the_reference_are_true() {
    let page = fs::read_to_string(REFERENCE).unwrap();
    let place = TempDir::new();
    let copy = place.write("cli.md", &page);
    let input = place.join("cli.in");
    fs::create_dir_all(&input).unwrap();
    fs::create_dir_all(place.join("cli.out")).unwrap();
    let document = document_in(&page);
    fs::write(
        input.join("broken.yaml"),
        document.replace("allowedSources: [192.0.2.0/24]", "allowedSources: [192.0.2.0/42]"),
    )
    .unwrap();
    fs::write(input.join("pay.yaml"), document).unwrap();
    fs::write(input.join("squid.conf"), block(&page, "squid")).unwrap();
    fs::write(input.join("ingress.yaml"), block(&page, "ingress")).unwrap();
    let audit = audit_file();
    fs::write(input.join("altered.log"), audit.replace("user:ci", "user:xx")).unwrap();
    fs::write(input.join("audit.log"), audit).unwrap();

    trycmd::TestCases::new()
        .register_bin("durward", Path::new(env!("CARGO_BIN_EXE_durward")))
        .env("NO_COLOR", "1")
        .case(&copy)
        .run();

    // TRYCMD=overwrite works on the copy.
    if std::env::var_os("TRYCMD").is_some_and(|wish| wish == "overwrite") {
        fs::write(REFERENCE, without_today(&fs::read_to_string(&copy).unwrap())).unwrap();
    }
}

#[test]
fn the_readmes_first_configuration_is_valid() {
    let place = TempDir::new();
    place.write("pay.yaml", document_in(&fs::read_to_string(README).unwrap()));
    let run = |arguments: &[&str]| durward(arguments).current_dir(place.path()).output().unwrap();

    let issued =
        run(&["certs", "issue", "--dir", "certs", "--ip", "198.51.100.2", "--name", "acme"]);
    let valid = run(&["validate", "-c", "pay.yaml"]);
    let explained = run(&[
        "explain",
        "-c",
        "pay.yaml",
        "https://198.51.100.2/",
        "--client",
        "192.0.2.9",
        "--client-cert",
    ]);

    assert!(issued.status.success(), "{}", stderr(&issued));
    assert!(valid.status.success(), "{}", stdout(&valid));
    assert!(stdout(&explained).contains("SERVED by pay"), "{}", stdout(&explained));
}

#[test]
fn usage_and_missing_files_have_codes_of_their_own() {
    assert_eq!(output(&["run"]).status.code(), Some(2), "no configuration is named");
    assert_eq!(output(&["frobnicate"]).status.code(), Some(2));
    assert_eq!(output(&["validate", "-c", "/nowhere.yaml"]).status.code(), Some(3));
    assert_eq!(output(&["version"]).status.code(), Some(0));
}

// S1.19 S1.30
#[test]
fn routing_json_is_found_by_its_variable_alone() {
    let place = TempDir::new();
    let issue = |ip: &str, name: &str| {
        let certs = place.join("certs");
        output(&["certs", "issue", "--dir", certs.to_str().unwrap(), "--ip", ip, "--name", name])
    };
    assert!(issue("198.51.100.2", "tenant-A").status.success());
    assert!(issue("198.51.100.3", "tenant-B").status.success());
    fs::create_dir_all(place.join("config")).unwrap();
    let routing = place.write(
        "config/routing.json",
        r#"{"198.51.100.2": {"tenant": "tenant-A", "backend": "10.244.1.5", "egressIP": "203.0.113.2"},
            "198.51.100.3": {"tenant": "tenant-B", "backend": "10.244.1.6", "egressIP": "203.0.113.3"}}"#,
    );

    let valid =
        durward(&["validate", "-o", "json"]).env("ROUTING_CONFIG_PATH", &routing).output().unwrap();

    let report: Value = serde_json::from_slice(&valid.stdout).unwrap();
    assert_eq!(report["tenants"], 2, "{report}");
}

// S1.10
#[test]
fn issued_certificates_are_what_openssl_expects() {
    let place = TempDir::new();
    let dir = place.path().to_str().unwrap().to_owned();
    for (kind, ip) in
        [("ecdsa", "198.51.100.2"), ("rsa", "198.51.100.3"), ("ed25519", "2001:db8::1")]
    {
        let issued =
            output(&["certs", "issue", "--dir", &dir, "--ip", ip, "--name", kind, "--key", kind]);
        assert!(issued.status.success(), "{}", stderr(&issued));
    }
    assert!(
        output(&["certs", "issue", "--dir", &dir, "--client", "--name", "partner"])
            .status
            .success()
    );
    let mode = fs::metadata(place.join("rsa.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let openssl = |arguments: &[&str]| {
        Command::new("openssl").args(arguments).current_dir(place.path()).output()
    };
    let Ok(version) = openssl(&["version"]) else {
        eprintln!("skipped: openssl is not installed");
        return;
    };
    assert!(version.status.success());

    for (name, ip) in
        [("ecdsa", "198.51.100.2"), ("rsa", "198.51.100.3"), ("ed25519", "2001:db8::1")]
    {
        let file = format!("{name}.crt");
        let good = openssl(&[
            "verify",
            "-x509_strict",
            "-CAfile",
            "ca.crt",
            "-purpose",
            "sslserver",
            "-verify_ip",
            ip,
            &file,
        ])
        .unwrap();
        let other =
            openssl(&["verify", "-CAfile", "ca.crt", "-verify_ip", "192.0.2.1", &file]).unwrap();
        assert!(good.status.success(), "{}", stderr(&good));
        assert!(!other.status.success());
    }
    let client = openssl(&[
        "verify",
        "-x509_strict",
        "-CAfile",
        "ca.crt",
        "-purpose",
        "sslclient",
        "partner.crt",
    ])
    .unwrap();
    let server =
        openssl(&["verify", "-CAfile", "ca.crt", "-purpose", "sslserver", "partner.crt"]).unwrap();
    assert!(client.status.success(), "{}", stderr(&client));
    assert!(!server.status.success(), "a client certificate is no server's");
}

#[test]
fn nothing_is_overwritten_without_force() {
    let place = TempDir::new();
    let dir = place.path().to_str().unwrap().to_owned();
    let issue = |more: &[&str]| {
        output(
            &[&["certs", "issue", "--dir", &dir, "--ip", "198.51.100.2", "--name", "a"], more]
                .concat(),
        )
    };
    assert!(issue(&[]).status.success());
    let (key, authority) =
        (fs::read(place.join("a.key")).unwrap(), fs::read(place.join("ca.key")).unwrap());

    let again = issue(&[]);
    let kept = fs::read(place.join("a.key")).unwrap();
    let forced = issue(&["--force"]);

    assert_eq!(again.status.code(), Some(2));
    assert_eq!(kept, key);
    assert!(forced.status.success());
    assert_ne!(fs::read(place.join("a.key")).unwrap(), key);
    assert_eq!(fs::read(place.join("ca.key")).unwrap(), authority, "the authority stays");
    for bad in ["../up", "ca", ".hidden", "a/b"] {
        assert_eq!(
            output(&["certs", "issue", "--dir", &dir, "--client", "--name", bad]).status.code(),
            Some(2),
            "{bad}"
        );
    }
}

// S1.67
#[test]
fn the_audit_tells_everything_about_each_certificate() {
    let place = TempDir::new();
    let dir = place.path().to_str().unwrap().to_owned();
    assert!(
        output(&[
            "certs",
            "issue",
            "--dir",
            &dir,
            "--ip",
            "198.51.100.2",
            "--name",
            "a",
            "--days",
            "10"
        ])
        .status
        .success()
    );
    // A chain whose second certificate did not issue the first.
    let other = TempDir::new();
    let elsewhere = other.path().to_str().unwrap().to_owned();
    assert!(
        output(&["certs", "issue", "--dir", &elsewhere, "--dns", "pay.example", "--key", "rsa"])
            .status
            .success()
    );
    let leaf = fs::read_to_string(other.join("pay.example.crt")).unwrap();
    place.write("b.crt", leaf + &fs::read_to_string(place.join("ca.crt")).unwrap());

    let listed = output(&["certs", "list", "--dir", &dir, "-o", "json"]);

    let rows: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    assert_eq!(row("a.crt")["names"][0], "IP:198.51.100.2");
    assert_eq!(row("a.crt")["key"], "ECDSA-P256");
    assert_eq!(row("a.crt")["daysLeft"], 9);
    assert_eq!(row("a.crt")["endsSoon"], false, "it has most of its lifetime left");
    assert_eq!(row("a.crt")["chain"], "ok");
    let issuer = row("a.crt")["issuer"].as_str().unwrap().to_owned();
    assert!(issuer.starts_with("CN=Durward local authority "), "{issuer}");
    assert_eq!(row("ca.crt")["authority"], true);
    assert_eq!(row("b.crt")["key"], "RSA-2048");
    assert!(row("b.crt")["chain"].as_str().unwrap().starts_with("broken"), "{}", row("b.crt"));
    assert_eq!(rows[0]["name"], "a.crt", "what ends first comes first");
}

// S1.13 S1.60
#[test]
fn check_tells_what_would_not_work_here() {
    let origin = Origin::http1(HERE);
    let place = TempDir::new();
    let taken = std::net::TcpListener::bind((unique_loopback(), 8080)).unwrap();
    let at = taken.local_addr().unwrap();
    let free = SocketAddr::new(unique_loopback().into(), 8080);
    let dead = nowhere();
    place.write("good.yaml", tenant("good", free.ip(), free.port(), origin.address()));
    place.write("taken.yaml", tenant("taken", at.ip(), at.port(), dead));
    place.write(
        "absent.yaml",
        tenant("absent", "203.0.113.99".parse().unwrap(), 8080, origin.address()),
    );

    let config = place.path().to_str().unwrap();
    let check = output(&["check", "-c", config, "--admin", "off", "-o", "json"]);
    let route = output(&["check", "route", &at.to_string(), "-c", config]);

    assert_eq!(check.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(report["result"], "error");
    let items: Vec<String> = report["categories"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|category| category["checks"].as_array().unwrap())
        .map(|item| {
            format!("{} {}", item["result"].as_str().unwrap(), item["sentence"].as_str().unwrap())
        })
        .collect();
    let expected = [
        "error 203.0.113.99 (ingress of absent, egress of absent) is not on this host".to_owned(),
        format!("error {at} is in use by another process"),
        format!("ok {free} is free"),
        format!("ok good upstream app at {}: reached from {}", origin.address(), free.ip()),
        format!(
            "error taken upstream app at {dead}: cannot be reached from {}: Connection refused",
            at.ip()
        ),
        format!("warning absent upstream app at {}: not dialled", origin.address()),
    ];
    for wanted in expected {
        assert!(items.iter().any(|item| item.starts_with(&wanted)), "{wanted}\nin {items:#?}");
    }
    let text = stdout(&route);
    assert_eq!(route.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("√ {at} belongs to tenant taken")), "{text}");
    assert!(text.contains("Connection refused"), "{text}");
    assert_eq!(output(&["check", "route", "192.0.2.1:1", "-c", config]).status.code(), Some(1));
}

#[test]
fn check_dials_the_tcp_endpoints_of_mappings() {
    netns::in_namespace("cli::check_dials_the_tcp_endpoints_of_mappings", || {
        netns::add_address("lo", "198.51.100.7/32");
        let here = std::net::IpAddr::from([198, 51, 100, 7]);
        let listener = std::net::TcpListener::bind((here, 0)).unwrap();
        let (live, dead) = (listener.local_addr().unwrap(), SocketAddr::from((here, 9)));
        let place = TempDir::new();
        place.write(
        "acme.yaml",
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec: {{}}\n---\n\
             apiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {{name: desk}}\nspec:\n  \
               tenant: acme\n  addresses: [198.51.100.8]\n  ports:\n    \
               - {{port: 80, endpoints: ['{live}', '{dead}']}}\n    \
               - {{port: 53, protocol: UDP, endpoints: ['{here}:53']}}\n"
        ),
    );

        let config = place.path().to_str().unwrap();
        let check = output(&["check", "-c", config, "--admin", "off", "-o", "json"]);

        assert_eq!(check.status.code(), Some(1));
        let report: Value = serde_json::from_slice(&check.stdout).unwrap();
        let categories = report["categories"].as_array().unwrap();
        let mappings = categories.iter().find(|one| one["category"] == "mappings").unwrap();
        let said: Vec<String> = mappings["checks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                format!("{} {}", one["result"].as_str().unwrap(), one["sentence"].as_str().unwrap())
            })
            .collect();
        let reached = format!("ok mapping acme/desk at {live}: reached");
        let refused =
            format!("error mapping acme/desk at {dead}: cannot be reached: Connection refused");
        assert_eq!(said.len(), 2, "UDP is not dialled: {said:?}");
        assert!(said.contains(&reached), "{reached} in {said:?}");
        assert!(said.iter().any(|one| one.starts_with(&refused)), "{refused} in {said:?}");
    });
}

#[test]
fn what_check_advises_about_a_certificate_cures_it_word_for_word() {
    let place = TempDir::new();
    let certs = place.join("certs");
    let address = unique_loopback();
    let ip = address.to_string();
    let few = ["--dns", "*.pay.example", "--name", "pay"];
    let common = ["certs", "issue", "--dir", certs.to_str().unwrap()];
    assert!(output(&[&common[..], &few].concat()).status.success());
    let document = tenant("pay", address.into(), 8443, nowhere()).replace(
        "protocol: HTTP,",
        "protocol: HTTPS, ipSan: Warn, certificate: {file: certs/pay},",
    );
    let file = place.write("pay.yaml", document);
    let check = || {
        let asked = ["check", "-c", file.to_str().unwrap(), "--admin", "off"];
        stdout(&output(&asked))
    };

    let before = check();
    let advice = before.split_once("durward certs issue").unwrap().1.lines().next().unwrap();
    let line = format!("{} certs issue{advice}", env!("CARGO_BIN_EXE_durward"));
    let elsewhere = TempDir::new();
    let run = Command::new("sh").args(["-c", &line]).current_dir(elsewhere.path()).output();
    let after = check();

    assert!(before.contains(&format!("does not name {ip}")), "{before}");
    assert!(run.as_ref().unwrap().status.success(), "{line}\n{}", stderr(&run.unwrap()));
    assert!(after.contains("ECDSA-P256, 2 names, 89 days"), "{after}");
    assert!(!after.contains("durward certs issue"), "{after}");
}

#[test]
fn what_the_kernel_alone_would_serve_is_something() {
    let guide = crate::text("docs/guide/nat.md");
    let blocks: Vec<&str> = guide.split("```yaml\n").skip(1).take(2).collect();
    let document = |at: usize| blocks[at].split_once("```").unwrap().0.to_owned();
    let bare = document(0).replace(", sources: [10.244.3.0/24]", "");
    let cases = [(document(0), true), (format!("{bare}---\n{}", document(1)), true), (bare, false)];

    for (text, something) in cases {
        let place = TempDir::new();
        let file = place.write("nat.yaml", &text);
        let check =
            output(&["check", "-c", file.to_str().unwrap(), "--admin", "off", "-o", "short"]);

        let said = stdout(&check);
        assert!(said.contains("is not on this host"), "{said}");
        assert_eq!(!said.contains("nothing would be served"), something, "{text}\n{said}");
    }
}

#[test]
fn the_schema_and_completions_are_printed() {
    let schema: Value = serde_json::from_slice(&output(&["schema"]).stdout).unwrap();
    let completions = stdout(&output(&["completions", "bash"]));

    assert_eq!(schema["title"], "Durward document");
    assert_eq!(schema["anyOf"].as_array().map(Vec::len), Some(4), "one for each kind");
    assert!(completions.contains("_durward"));
}

#[test]
fn a_closed_pipe_is_no_fault() {
    let shell = format!(
        "{} schema | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_durward")
    );

    let piped = Command::new("bash").args(["-c", &shell]).output().unwrap();

    assert!(!stderr(&piped).contains("durward:"), "{}", stderr(&piped));
}
