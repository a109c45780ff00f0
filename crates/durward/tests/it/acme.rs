//! Certificates by ACME from pebble, the authority that Let's Encrypt tests clients with: the binary as its users run it.
//!
//! Debian's pebble 2.4 knows IP identifiers, but neither profiles nor renewal information: a double stands in for those (`app/acme/tests.rs`).

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;

use durward_testkit::certificates::{Authority, CertSpec, client_config_insecure};
use durward_testkit::client::tls_connect;
use durward_testkit::process::{Child, TempDir, eventually_blocking, free_port, unique_loopback};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::support::{DEADLINE, admin_address, durward, get, spawn, status, stdout};

/// Ports of listeners behind 443 and 80.
const TLS_PORT: u16 = 8443;
const HTTP_PORT: u16 = 8080;

/// Returns a running pebble that validates at those ports, its directory URL, and the file of its web server's authority.
fn pebble(place: &TempDir, resolver: SocketAddr) -> Option<(Child, String)> {
    if Command::new("pebble").arg("-version").output().is_err() {
        eprintln!("SKIPPED: pebble is not in PATH (apt-get install pebble)");
        return None;
    }
    let (port, management) = (free_port([127, 0, 0, 1]), free_port([127, 0, 0, 1]));
    let web = Authority::new("pebble's web server");
    let files = web.issue(&CertSpec::new().ip([127, 0, 0, 1]).server()).write(place.path(), "web");
    web.write(place.path(), "web-ca");
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let config = serde_json::json!({"pebble": {
        "listenAddress": format!("127.0.0.1:{port}"),
        "managementListenAddress": format!("127.0.0.1:{management}"),
        "certificate": path(&files.certificate), "privateKey": path(&files.key),
        "httpPort": HTTP_PORT, "tlsPort": TLS_PORT,
        "ocspResponderURL": "", "externalAccountBindingRequired": false,
    }});
    let config = place.write("pebble.json", config.to_string());
    let mut command = Command::new("pebble");
    command.args(["-config", &path(&config), "-dnsserver", &resolver.to_string()]);
    command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "5");
    let child = Child::spawn(command);
    let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    assert!(eventually_blocking(DEADLINE, listens), "{}", child.output());
    Some((child, format!("https://127.0.0.1:{port}/dir")))
}

/// Answers every question about an address with this one, and every other with nothing.
fn resolver(address: IpAddr) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    let IpAddr::V4(address) = address else { panic!("an IPv4 address") };
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let question = &query[12..length];
            let name = question.iter().position(|byte| *byte == 0).unwrap_or(0);
            let end = 12 + name + 5;
            if end > length {
                continue;
            }
            let is_a = query[end - 4..end - 2] == [0, 1];
            let mut answer = query[..end].to_vec();
            // A recursive answer without error; the question is repeated, additional records are not.
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[6..12].copy_from_slice(&[0, u8::from(is_a), 0, 0, 0, 0]);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
                answer.extend(address.octets());
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    at
}

fn tenant(name: &str, address: IpAddr, acme: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n    \
         - address: {address}\n      listen: {{port: {TLS_PORT}}}\n      \
         certificate: {{acme: {{termsOfServiceAgreed: true, contacts: [ops@example.com], {acme}}}}}\n      \
         routes: [{{pathPrefix: /, respond: {{body: {name}}}}}]\n    \
         - {{address: {address}, protocol: HTTP, listen: {{port: {HTTP_PORT}}}, redirectToHttps: true}}\n  \
         egress: {{addresses: [{address}]}}\n"
    )
}

/// A tenant that shares its address and port with others, under `asked`: a name, or the address for clients that name nothing.
fn named_tenant(name: &str, address: IpAddr, own: IpAddr, asked: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n    \
         - address: {address}\n      shared: true\n      names: [{asked}]\n      listen: {{port: {TLS_PORT}}}\n      \
         certificate: {{acme: {{termsOfServiceAgreed: true, names: [{asked}]}}}}\n      \
         routes: [{{pathPrefix: /, respond: {{body: {name}}}}}]\n  egress: {{addresses: [{own}]}}\n"
    )
}

/// Names of the certificate that is shown at an address to a client that asks for a name, or for none.
async fn names_at(address: IpAddr, asked: Option<&str>) -> Vec<String> {
    let config = Arc::new(client_config_insecure(None));
    let at = SocketAddr::new(address, TLS_PORT);
    let Ok(stream) = tls_connect(at, None, config, asked).await else { return Vec::new() };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let names = names.value.general_names.iter().map(|name| match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => {
            IpAddr::from(<[u8; 4]>::try_from(*bytes).unwrap()).to_string()
        }
        other => panic!("{other}"),
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

// S3.48+
#[test]
fn pebble_issues_names_and_addresses_by_both_challenges() {
    let (named, address) = (IpAddr::from(unique_loopback()), IpAddr::from(unique_loopback()));
    let place = TempDir::new();
    let Some((pebble, directory)) = pebble(&place, resolver(named)) else { return };
    let (documents, state) = (TempDir::new(), TempDir::new());
    documents.write("a.yaml", tenant("a", named, "names: [a.example.com, b.example.com]"));
    documents.write("b.yaml", tenant("b", address, "challenge: HTTP-01"));
    let admin = admin_address();
    let (ca, kept) = (place.join("web-ca.crt"), state.path().to_str().unwrap().to_owned());
    let acme = ["--acme-directory", &directory, "--state-dir", &kept];
    let more = [&acme[..], &["--acme-ca", ca.to_str().unwrap()]].concat();
    let gateway = spawn(documents.path(), admin, &more);

    let report = || get(admin, "/readyz?verbose").map(|(_, text)| text).unwrap_or_default();
    let issued =
        eventually_blocking(DEADLINE * 4, || report().contains("[+]acme ok: 2 of 2 issued"));
    assert!(issued, "{}\n{}\n{}", report(), gateway.output(), pebble.output());

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let shown =
        runtime.block_on(async { (names_at(named, None).await, names_at(address, None).await) });
    assert_eq!(shown.0, ["a.example.com", "b.example.com"]);
    assert_eq!(shown.1, [address.to_string()]);
    let list = durward(&["certs", "list", "-o", "json", "-c", documents.path().to_str().unwrap()])
        .args(acme)
        .output()
        .unwrap();
    let rows: serde_json::Value = serde_json::from_str(&stdout(&list)).unwrap();
    let planned = |row: &serde_json::Value| {
        row["acme"]["issued"] == true && row["acme"]["nextAttempt"].is_i64() && row["chain"] != ""
    };
    assert!(
        rows.as_array().is_some_and(|rows| rows.len() == 2 && rows.iter().all(planned)),
        "{rows:#}"
    );
    let explained = durward(&["validate", "-c", documents.path().to_str().unwrap()])
        .args(acme)
        .output()
        .unwrap();
    assert!(explained.status.success(), "{}", stdout(&explained));
    assert_eq!(status(admin, "/readyz"), Some(200));
}

// S3.48+
#[test]
fn pebble_validates_a_name_and_an_address_of_two_tenants_at_one_shared_port() {
    let shared = IpAddr::from(unique_loopback());
    let place = TempDir::new();
    let Some((pebble, directory)) = pebble(&place, resolver(shared)) else { return };
    let (documents, state) = (TempDir::new(), TempDir::new());
    let write = |name: &str, asked: &str| {
        let own = IpAddr::from(unique_loopback());
        documents.write(format!("{name}.yaml"), named_tenant(name, shared, own, asked));
    };
    write("a", "a.example.com");
    write("b", "b.example.com");
    write("c", &shared.to_string());
    let admin = admin_address();
    let (ca, kept) = (place.join("web-ca.crt"), state.path().to_str().unwrap().to_owned());
    let acme = ["--acme-directory", &directory, "--state-dir", &kept];
    let more = [&acme[..], &["--acme-ca", ca.to_str().unwrap()]].concat();
    let gateway = spawn(documents.path(), admin, &more);

    let report = || get(admin, "/readyz?verbose").map(|(_, text)| text).unwrap_or_default();
    let issued =
        eventually_blocking(DEADLINE * 4, || report().contains("[+]acme ok: 3 of 3 issued"));
    assert!(issued, "{}\n{}\n{}", report(), gateway.output(), pebble.output());

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        assert_eq!(names_at(shared, Some("a.example.com")).await, ["a.example.com"]);
        assert_eq!(names_at(shared, Some("b.example.com")).await, ["b.example.com"]);
        assert_eq!(names_at(shared, None).await, [shared.to_string()]);
    });
}
