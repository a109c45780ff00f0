//! Certificates of clients and servers, judged by the whole gateway and beside it by OpenSSL.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use durward_testkit::certificates::{Authority, CertSpec, Identity, client_config};
use durward_testkit::client::RawHttp;
use durward_testkit::process::unique_loopback;

use crate::gateway::Gateway;

/// A client of a listener with these authorities and lists, and who lets it in.
struct Case<'a> {
    name: &'static str,
    authorities: Vec<&'a Authority>,
    lists: Vec<String>,
    client: &'a Identity,
    /// Whether the gateway does, and whether `openssl verify -crl_check` does.
    admitted: [bool; 2],
}

/// Where both differ, the reference says so: a list that is out of date still counts, and who has no list has nothing revoked.
const DIFFERS: [&str; 3] =
    ["outdated list", "list of another authority", "list of an intermediate"];

fn client(authority: &Authority) -> Identity {
    authority.issue(&CertSpec::new().common_name("client").client())
}

async fn admits(servers: &Authority, case: &Case<'_>) -> bool {
    let address = SocketAddr::from((unique_loopback(), 8443));
    let prepared = Gateway::prepare();
    servers.issue(&CertSpec::new().ip(address.ip()).server()).write(prepared.dir(), "server");
    let authorities: String = case.authorities.iter().map(|one| one.pem()).collect();
    fs::write(prepared.dir().join("ca.crt"), authorities).unwrap();
    fs::write(prepared.dir().join("lists.crl"), case.lists.concat()).unwrap();
    let document = format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  ingress:\n    - address: {}\n      port: 8443\n      protocol: HTTPS\n      certificate: {{file: server}}\n      clientCertificates: {{mode: Required, caFile: ca.crt, crlFile: lists.crl}}\n      routes: [{{respond: {{body: in}}}}]\n",
        address.ip()
    );
    let gateway = prepared.start(&document);
    let config = client_config(servers, Some(case.client));
    let served = match RawHttp::connect_tls(address, None, config, None).await {
        Ok(mut http) => http.get("acme", "/").await.is_ok_and(|answer| answer.status == 200),
        Err(_) => false,
    };
    gateway.stop();
    served
}

/// Says past the test runner that a test is skipped where OpenSSL is not installed.
fn has_openssl(test: &str) -> bool {
    let there = Command::new("openssl").arg("version").output().is_ok();
    if !there {
        let text = format!("SKIPPED {test} (openssl is not installed)\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    }
    there
}

fn openssl_admits(dir: &Path, case: &Case<'_>) -> bool {
    let authorities: String = case.authorities.iter().map(|one| one.pem()).collect();
    let files = case.client.write(dir, "client");
    fs::write(dir.join("ca.pem"), authorities).unwrap();
    fs::write(dir.join("lists.pem"), case.lists.concat()).unwrap();
    let chain = files.certificate.to_str().unwrap();
    let arguments = [
        &["verify", "-purpose", "sslclient", "-crl_check", "-CAfile", "ca.pem"][..],
        &["-CRLfile", "lists.pem", "-untrusted", chain, chain],
    ];
    let output = Command::new("openssl").args(arguments.concat()).current_dir(dir).output();
    output.unwrap().status.success()
}

// Issue 10, point 21.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_lists_are_judged_as_openssl_does() {
    if !has_openssl("revocation_lists_are_judged_as_openssl_does") {
        return;
    }
    let servers = Authority::new("servers");
    let [one, other, stranger] = ["partners", "partners", "others"].map(Authority::new);
    let issuing = one.intermediate("issuing");
    let [good, bad] = [client(&one), client(&one)];
    let [good_of_other, bad_of_other] = [client(&other), client(&other)];
    let [good_below, bad_below] = [client(&issuing), client(&issuing)];
    let case = |name, authorities, lists, client, admitted| Case {
        name,
        authorities,
        lists,
        client,
        admitted,
    };
    let pem = |list: durward_testkit::certificates::RevocationList| list.pem;
    let own = || pem(one.revoke(&[&bad]));
    let both = || vec![own(), pem(other.revoke(&[&bad_of_other]))];
    let below = || vec![own(), pem(issuing.revoke(&[&bad_below]))];
    let outdated = || vec![pem(one.revoke_outdated(&[&bad]))];
    let (yes, no) = ([true, true], [false, false]);
    let cases = [
        case("not revoked", vec![&one], vec![own()], &good, yes),
        case("revoked", vec![&one], vec![own()], &bad, no),
        case("wrong key", vec![&one], vec![pem(other.revoke(&[]))], &good, no),
        case("wrong key, revoked", vec![&one], vec![pem(other.revoke(&[&bad]))], &bad, no),
        case("below an intermediate", vec![&one], below(), &good_below, yes),
        case("revoked by an intermediate", vec![&one], below(), &bad_below, no),
        case("beside an intermediate", vec![&one], below(), &good, yes),
        case("revoked beside an intermediate", vec![&one], below(), &bad, no),
        case("two keys, the first", vec![&one, &other], both(), &good, yes),
        case("two keys, the second", vec![&one, &other], both(), &good_of_other, yes),
        case("two keys, revoked by the first", vec![&one, &other], both(), &bad, no),
        case("two keys, revoked by the second", vec![&one, &other], both(), &bad_of_other, no),
        case("outdated list", vec![&one], outdated(), &good, [true, false]),
        case("outdated list, revoked", vec![&one], outdated(), &bad, no),
        case(
            "list of another authority",
            vec![&one, &stranger],
            vec![pem(stranger.revoke(&[]))],
            &good,
            [true, false],
        ),
        case(
            "list of an intermediate",
            vec![&one],
            vec![pem(issuing.revoke(&[]))],
            &good,
            [true, false],
        ),
    ];

    for case in &cases {
        let dir = durward_testkit::process::TempDir::new();
        let judged = [admits(&servers, case).await, openssl_admits(dir.path(), case)];

        assert_eq!(judged, case.admitted, "{}", case.name);
        assert_eq!(judged[0] != judged[1], DIFFERS.contains(&case.name), "{}", case.name);
    }
}

// Issue 10, point 21.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_a_name_of_the_same_certificate_is_served_and_for_another_misdirected() {
    let servers = Authority::new("servers");
    let address = SocketAddr::from((unique_loopback(), 8443));
    let prepared = Gateway::prepare();
    let certificate = |names: [&str; 2], stem: &str| {
        let spec = names.into_iter().fold(CertSpec::new(), |spec, name| spec.dns(name));
        servers.issue(&spec.ip(address.ip()).server()).write(prepared.dir(), stem);
    };
    certificate(["a.example", "*.wild.example"], "one");
    certificate(["c.example", "d.example"], "other");
    let document = format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: acme}}\nspec:\n  ingress:\n    - address: {}\n      port: 8443\n      protocol: HTTPS\n      certificates: [{{file: one}}, {{file: other}}]\n      routes: [{{respond: {{body: in}}}}]\n",
        address.ip()
    );
    let gateway = prepared.start(&document);
    assert_eq!(gateway.findings(), Vec::<String>::new());

    for (sni, host, status) in [
        ("a.example", "a.example", 200),
        ("a.example", "x.wild.example", 200),
        ("x.wild.example", "y.wild.example", 200),
        ("x.wild.example", "a.example", 200),
        ("a.example", "y.x.wild.example", 421),
        ("a.example", "c.example", 421),
        ("x.wild.example", "d.example", 421),
        ("c.example", "d.example", 200),
        ("d.example", "a.example", 421),
        ("d.example", "unknown.example", 421),
    ] {
        let config = client_config(&servers, None);
        let mut http = RawHttp::connect_tls(address, None, config, Some(sni)).await.unwrap();

        let answer = http.get(host, "/").await.unwrap();

        assert_eq!(answer.status, status, "{sni} {host}");
    }
    gateway.stop();
}
