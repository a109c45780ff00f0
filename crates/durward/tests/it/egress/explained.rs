//! `explain` and `check` about a forward proxy, as an operator asks them.

use durward_testkit::process::TempDir;

use super::document;
use crate::support::{output, stdout};

fn two_tenants() -> TempDir {
    let dir = TempDir::new();
    let entry =
        |sources: &str| format!("address: 172.16.28.8, shared: true, allowedSources: [{sources}]");
    let rules = "allow: [{host: bank.example}, {host: .partner.example}, {name: erp, host: erp.example, cidr: 10.1.2.0/24}, {name: peer, cidr: 192.0.2.7, ports: [22]}]\n\
        deny: [{name: no-mail, ports: [25]}]\n\
        parents: [{address: \"proxy.partner.example:3128\", hosts: [.partner.example]}]";
    dir.write("a.yaml", document("a", [203, 0, 113, 2], &entry("172.16.28.0/24"), rules));
    dir.write("b.yaml", document("b", [203, 0, 113, 3], &entry("172.16.29.0/24"), "mode: Open"));
    dir
}

fn explain(dir: &TempDir, client: &str, host: &str) -> String {
    let config = dir.path().to_str().unwrap();
    let asked = ["explain", "-c", config, "172.16.28.8:3128", "--client", client, "--host", host];
    stdout(&output(&asked))
}

// S2.15 S2.54
#[test]
fn explain_says_whose_a_client_is_and_which_rule_decides() {
    let dir = two_tenants();

    for (client, host, wanted) in [
        (
            "172.16.28.9",
            "bank.example:443",
            &["tenant a", "allow[0]", "203.0.113.2", "SERVED", ": tunnel to bank.example:443 "][..],
        ),
        ("172.16.28.9", "evil.example:443", &["default denies a tunnel", "REFUSED policy_denied"]),
        ("172.16.28.9", "bank.example:25", &["no-mail denies", "REFUSED policy_denied"]),
        ("172.16.28.9", "169.254.169.254:443", &["REFUSED policy_denied"]),
        ("172.16.28.9", "192.0.2.7:22", &["peer decides", "SERVED"]),
        (
            "172.16.28.9",
            "erp.example:443",
            &["is checked", "SERVED by outside IF all its addresses are in 10.1.2.0/24\n"],
        ),
        (
            "172.16.28.9",
            "x.partner.example:443",
            &["goes through proxy.partner.example:3128", "SERVED"],
        ),
        ("172.16.28.9", "0x7f.1:443", &["REFUSED bad_request"]),
        ("172.16.29.9", "evil.example:443", &["tenant b", "203.0.113.3", "SERVED"]),
        ("172.16.29.9", "10.0.0.1:443", &["guard:private denies", "REFUSED"]),
        ("172.16.29.9", "203.0.113.2:443", &["guard:other-tenant denies", "REFUSED"]),
        (
            "10.9.9.9",
            "bank.example:443",
            &["allowedSources of none of a, b", "REFUSED source_not_allowed"],
        ),
    ] {
        let told = explain(&dir, client, host);
        for word in wanted {
            assert!(told.contains(word), "{word:?} for {client} to {host}:\n{told}");
        }
    }
}

#[test]
fn explain_goes_by_the_address_that_is_named() {
    let dir = two_tenants();
    let config = dir.path().to_str().unwrap();
    let explain = |address: &str| {
        let asked = ["explain", "-c", config, "172.16.28.8:3128", "--client", "172.16.28.9"];
        let more = ["--host", "erp.example:443", "--address", address];
        stdout(&output(&[&asked[..], &more].concat()))
    };

    let inside = explain("10.1.2.3");
    let outside = explain("198.51.100.7");
    let nameless =
        output(&["explain", "-c", config, "172.16.28.8:3128", "--address", "198.51.100.7"]);

    assert!(inside.contains("SERVED by outside\n"), "{inside}");
    assert!(inside.contains("erp.example is taken to stand for 10.1.2.3"), "{inside}");
    assert!(inside.contains("erp decides"), "{inside}");
    assert!(outside.contains("REFUSED policy_denied"), "{outside}");
    assert_eq!(nameless.status.code(), Some(2));
}

#[test]
fn explain_tells_who_shows_no_credential_what_they_get() {
    let dir = TempDir::new();
    dir.write("ci", format!("ci:{}\n", "a".repeat(64)));
    let entry = "address: 172.16.28.8, credentials: {file: ci}";
    let rules = "allow: [{host: bank.example}]";
    dir.write("a.yaml", document("a", [203, 0, 113, 2], entry, rules));
    let file = dir.join("a.yaml");
    let explain = |more: &[&str]| {
        let asked = ["explain", "-c", file.to_str().unwrap(), "172.16.28.8:3128", "--host"];
        stdout(&output(&[&asked[..], &["bank.example:443"], more].concat()))
    };

    let without = explain(&[]);
    let with = explain(&["--credential"]);

    assert!(without.contains("REFUSED proxy_authentication"), "{without}");
    assert!(without.contains("of one of ci; none is shown: 407"), "{without}");
    assert!(with.contains("SERVED by outside\n"), "{with}");
}

#[test]
fn explain_says_when_a_credential_decides_whose_a_client_is() {
    let dir = TempDir::new();
    let entry =
        |users: &str| format!("address: 172.16.28.8, shared: true, credentials: {{file: {users}}}");
    for (name, last, hash) in [("a", 2, "a"), ("b", 3, "b")] {
        dir.write(format!("users-{name}"), format!("ci-{name}:{}\n", hash.repeat(64)));
        let entry = entry(&format!("users-{name}"));
        dir.write(
            format!("{name}.yaml"),
            document(name, [203, 0, 113, last], &entry, "allow: [{host: bank.example}]"),
        );
    }

    let told = explain(&dir, "172.16.28.9", "bank.example:443");

    assert!(told.contains("a, b share it, told apart by credential"), "{told}");
}

// S2.42
#[test]
fn check_tells_who_may_use_a_proxy_and_what_it_opens() {
    let dir = two_tenants();

    let told = stdout(&output(&["check", "-c", dir.path().to_str().unwrap()]));
    let route = stdout(&output(&[
        "check",
        "route",
        "172.16.28.8:3128",
        "-c",
        dir.path().to_str().unwrap(),
    ]));

    for word in [
        "of a: is for its tenant's clients only",
        "of b: rules are not asked",
        "84 targets nearby are all denied",
    ] {
        assert!(told.contains(word), "{word:?}:\n{told}");
    }
    assert!(route.contains("rules are enforced (4 allow, 1 deny)"), "{route}");
}
