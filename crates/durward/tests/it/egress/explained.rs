//! `explain` and `check` about a forward proxy, as an operator asks them.

use durward_testkit::certificates::{Authority, CertSpec};
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

/// Two tenants at one proxy that tells their clients apart by credential. Both know a client `ci`, each by another secret.
fn shared_by_credential() -> TempDir {
    let dir = TempDir::new();
    let entry =
        |users: &str| format!("address: 172.16.28.8, shared: true, credentials: {{file: {users}}}");
    let rules = ["allow: [{host: bank.example}]", "allow: [{host: shop.example}]"];
    for (at, name) in ["a", "b"].into_iter().enumerate() {
        let hash = |first: &str| format!("{first}{name}").repeat(32);
        let users = format!("ci-{name}:{}\nci:{}\n", hash("1"), hash("2"));
        dir.write(format!("users-{name}"), users);
        let entry = entry(&format!("users-{name}"));
        let egress = [203, 0, 113, 2 + u8::try_from(at).unwrap()];
        dir.write(format!("{name}.yaml"), document(name, egress, &entry, rules[at]));
    }
    dir
}

// S2.15 S2.54
#[test]
fn explain_goes_by_the_credential_where_that_decides_whose_a_client_is() {
    let dir = shared_by_credential();
    let explain = |more: &[&str]| {
        let config = dir.path().to_str().unwrap();
        let asked = ["explain", "-c", config, "172.16.28.8:3128", "--client", "172.16.28.9"];
        let to = ["--host", "bank.example:443"];
        stdout(&output(&[&asked[..], &to, more].concat()))
    };

    let (bank, denied) = ("SERVED by outside\n", "REFUSED policy_denied\n");
    for (shown, wanted) in [
        ("--credential=ci-a", &["belongs to tenant a", "203.0.113.2, a's own", bank][..]),
        ("--credential=ci-b", &["belongs to tenant b", denied]),
        ("--credential=a/ci", &["belongs to tenant a", bank]),
        ("--credential=b/ci", &["belongs to tenant b", denied]),
        ("--credential=nobody", &["nobody is none of them: 407", "REFUSED proxy_authentication\n"]),
        ("--credential=b/ci-a", &["b/ci-a is none of them: 407"]),
        (
            "--credential",
            &[
                "a, b share it, told apart by credential",
                "a client of a, with the credential a/ci-a or a/ci:",
                "203.0.113.2, a's own",
                "so a's client is served",
                "so b's client is refused: policy_denied",
                "SERVED by outside IF it is a's client\n",
            ],
        ),
        (
            "--credential=ci",
            &["so b's client is refused", "SERVED by outside IF it is a's client\n"],
        ),
    ] {
        let told = explain(&[shown]);
        for word in wanted {
            assert!(told.contains(word), "{word:?} for {shown}:\n{told}");
        }
    }
    let without = explain(&[]);
    assert!(without.contains("REFUSED proxy_authentication\n"), "{without}");
    assert!(
        without.contains("a/ci-a or a/ci; with the credential b/ci-b or b/ci; none is shown: 407")
    );
    assert!(!without.contains("belongs to"), "{without}");
}

// S2.15 S2.54
#[test]
fn explain_without_a_client_says_what_each_tenant_at_a_shared_proxy_is_told() {
    let dir = two_tenants();
    let config = dir.path().to_str().unwrap();
    let asked = ["explain", "-c", config, "172.16.28.8:3128", "--host", "evil.example:443"];

    let told = stdout(&output(&asked));

    for word in [
        "a, b share it",
        "a client of a, from 172.16.28.0/24:",
        "so a's client is refused: policy_denied",
        "so b's client is served",
        "SERVED by outside IF it is b's client\n",
    ] {
        assert!(told.contains(word), "{word:?}:\n{told}");
    }
}

// S2.48 S2.15
#[test]
fn explain_goes_by_the_names_in_a_client_certificate() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let dir = TempDir::new();
    servers.issue(&CertSpec::new().ip([172, 16, 28, 8]).server()).write(dir.path(), "proxy");
    dir.write("clients.crt", clients.pem());
    for (name, last) in [("a", 2), ("b", 3)] {
        let entry = format!(
            "address: 172.16.28.8, shared: true, certificate: {{file: proxy}}, clientCertificates: {{caFile: clients.crt}}, \
             certificateNames: [\"spiffe://x/ns/{name}/*\"]"
        );
        let rules = "allow: [{host: bank.example}]";
        dir.write(format!("{name}.yaml"), document(name, [203, 0, 113, last], &entry, rules));
    }
    let explain = |more: &[&str]| {
        let config = dir.path().to_str().unwrap();
        let asked = ["explain", "-c", config, "172.16.28.8:3128", "--client", "172.16.28.9"];
        let to = ["--host", "bank.example:443"];
        stdout(&output(&[&asked[..], &to, more].concat()))
    };

    let named = explain(&["--client-cert=spiffe://x/ns/b/web"]);
    let other = explain(&["--client-cert=spiffe://x/ns/c/web"]);
    let unnamed = explain(&["--client-cert"]);
    let without = explain(&[]);

    assert!(named.contains("belongs to tenant b") && named.contains("203.0.113.3"), "{named}");
    assert!(named.contains("SERVED by outside\n"), "{named}");
    assert!(other.contains("REFUSED proxy_authentication"), "{other}");
    assert!(
        unnamed.contains("SERVED by outside IF it is a's client, or it is b's client"),
        "{unnamed}"
    );
    assert!(unnamed.contains("with a certificate of spiffe://x/ns/a/*"), "{unnamed}");
    assert!(without.contains("REFUSED client_certificate_missing"), "{without}");
    assert!(!without.contains("belongs to"), "{without}");
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
        "of b: rules are not applied",
        "84 destinations near the gateway are all denied",
    ] {
        assert!(told.contains(word), "{word:?}:\n{told}");
    }
    assert!(route.contains("rules are enforced (4 allow, 1 deny)"), "{route}");
}
