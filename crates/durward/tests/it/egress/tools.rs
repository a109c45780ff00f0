//! `durward egress`: the variables it prints work, and its test tells a right proxy from a wrong one.
//!
//! Deliberately absent: what the proxy decides; here is only whether the command says so.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use durward_testkit::origin::Origin;
use durward_testkit::process::{TempDir, unique_loopback};

use super::{Out, document};
use crate::support::{durward, output, stderr, stdout};

/// Answers every request with the address it comes from, for as long as the tests run.
fn address_echo() -> SocketAddr {
    let listener = TcpListener::bind((unique_loopback(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut stream, peer) = (&stream, stream.peer_addr().unwrap().ip().to_string());
            let mut request = [0; 4096];
            let Ok(1..) = stream.read(&mut request) else { continue };
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
            let _ = write!(stream, "{head} {}\r\n\r\n{peer}", peer.len());
        }
    });
    address
}

// S2.24 S2.38+
#[test]
fn env_prints_what_programs_read() {
    let dir = TempDir::new();
    dir.write("a.yaml", document("acme", unique_loopback(), "address: 127.9.8.7", ""));
    let config = dir.path().to_str().unwrap();

    let printed = output(&["egress", "env", "-c", config]);
    let script = format!("{}\nprintf '%s %s' \"$https_proxy\" \"$NO_PROXY\"", stdout(&printed));
    let evaluated = Command::new("sh").args(["-c", &script]).env_clear().output().unwrap();

    let direct = "localhost,127.0.0.1,::1,.svc,.svc.cluster.local,.cluster.local,.internal";
    assert_eq!(stdout(&evaluated), format!("http://127.9.8.7:3128 {direct}"));
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy"] {
        assert!(stdout(&printed).contains(&format!("export {name}='")), "{name}");
    }
    let list = output(&["egress", "env", "-c", config, "-o", "kubernetes"]);
    let list: serde_json::Value = serde_saphyr::from_str(&stdout(&list)).unwrap();
    assert_eq!(
        list[3],
        serde_json::json!({"name": "https_proxy", "value": "http://127.9.8.7:3128"})
    );
}

// S2.15+
#[test]
fn env_asks_for_what_it_cannot_know() {
    let dir = TempDir::new();
    let hash = "a".repeat(64);
    dir.write("keys", format!("ci:{hash}\n"));
    dir.write("secret", "ci:p@ss/word\n");
    let proxy = "address: 127.9.8.7, credentials: {file: keys}";
    dir.write("a.yaml", document("acme", unique_loopback(), proxy, ""));
    dir.write("b.yaml", document("globex", unique_loopback(), "address: 127.9.8.6", ""));
    let config = dir.path().to_str().unwrap();
    let run = |more: &[&str]| output(&[&["egress", "env", "-c", config], more].concat());

    let whose = run(&[]);
    assert_eq!(whose.status.code(), Some(2));
    assert!(stderr(&whose).contains("--tenant: acme, globex"), "{}", stderr(&whose));
    let secret = run(&["--tenant", "acme"]);
    assert_eq!(secret.status.code(), Some(2));
    assert!(stderr(&secret).contains("--credential-file"), "{}", stderr(&secret));
    let file = dir.join("secret");
    let shown =
        run(&["--tenant", "acme", "--credential-file", file.to_str().unwrap(), "-o", "dotenv"]);
    assert!(stdout(&shown).contains("https_proxy=http://ci:p%40ss%2Fword@127.9.8.7:3128\n"));
    assert_eq!(run(&["--tenant", "other"]).status.code(), Some(2));
}

// S2.27 S2.46
#[test]
fn test_tells_a_right_proxy_from_a_wrong_one() {
    let (origin, echo) = (Origin::http1((unique_loopback(), 0)), address_echo());
    let rules: String = [origin.address(), echo]
        .iter()
        .map(|address| format!("  - {{cidr: {}, ports: [{}]}}\n", address.ip(), address.port()))
        .collect();
    let out = Out::open(&format!("allow:\n{rules}"));
    let proxy = format!("http://{}", out.proxy);
    let allowed = format!("http://{}/", origin.address());
    let (echo, egress) = (format!("http://{echo}/ip"), out.egress.to_string());
    let closed = SocketAddr::from((unique_loopback(), 9)).to_string();
    let open = origin.address().to_string();
    let run = |arguments: &[&str]| {
        let mut command = durward(&[&["egress", "test", "--timeout", "5s"], arguments].concat());
        command.env("https_proxy", &proxy);
        let output = command.output().unwrap();
        (output.status.code(), stdout(&output))
    };

    let (code, said) = run(&[
        "--allowed",
        &allowed,
        "--denied",
        "http://evil.example/",
        "--denied",
        "https://169.254.169.254/",
        "--echo",
        &echo,
        "--address",
        &egress,
        "--direct",
        &closed,
    ]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("sees {egress}, the tenant's own")), "{said}");
    assert!(said.contains("0 errors, 0 warnings, 5 ok"), "{said}");
    for (wrong, sentence) in [
        (&["--denied", &*allowed][..], "was let through and answered 200"),
        (&["--allowed", "http://evil.example/"], "refused with 403"),
        (&["--allowed", "https://evil.example/"], "refused with 403"),
        (&["--echo", &echo, "--address", "203.0.113.9"], "instead of 203.0.113.9"),
        (&["--echo", &allowed], "does not answer with an address"),
        (&["--direct", &open], "without the proxy"),
        (&["--denied", "http://evil.example/", "--proxy", &closed], "not denied"),
    ] {
        let (code, said) = run(wrong);
        assert_eq!(code, Some(1), "{wrong:?}: {said}");
        assert!(said.contains(sentence), "{wrong:?}: {said}");
    }
    assert_eq!(run(&[]).0, Some(2));
    let (code, said) = run(&["--direct", "no-such-name.invalid:443"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 warning") && said.contains("nothing was tried"), "{said}");
}

// S2.42+ S2.47+
#[test]
fn prove_reads_counts_and_attacks() {
    let origin = Origin::http1("127.0.0.1:0");
    let gateway = crate::support::Gateway::start(origin.address(), &[]);
    for _ in 0..3 {
        assert_eq!(gateway.get("/").unwrap().0, 200);
    }
    let (config, admin) = (gateway.dir.path().to_str().unwrap(), gateway.admin.to_string());
    let beside = unique_loopback();
    let more = document("globex", beside, &format!("address: {beside}"), "mode: Open");
    gateway.dir.write("globex.yaml", more);

    let proved = output(&["prove", "-c", config, "--admin", &admin, "--requests", "40"]);

    let said = stdout(&proved);
    assert_eq!(proved.status.code(), Some(0), "{said}");
    for sentence in [
        "2 tenants, 2 egress addresses: each address belongs to one tenant",
        "2 evaluations of the proxies' rules for other tenants' addresses: all denied",
        "getsockname() checks before the first byte, 0 mismatches",
        "40 interleaved requests acme/globex to one partner over reused connections: 0 crossings",
        "addresses: 0 reached",
        "4 tries with the other tenant's credential or none: 0 accepted",
    ] {
        assert!(said.contains(sentence), "{sentence} in {said}");
    }
    assert!(
        !said.contains('×') && !said.contains('–') && !said.contains(" 0 connections"),
        "{said}"
    );
}

#[test]
fn prove_says_what_it_could_not_show() {
    let dir = TempDir::new();
    for name in ["a", "b"] {
        let text = document(
            name,
            [203, 0, 113, 2],
            &format!("address: {}", unique_loopback()),
            "shared: true",
        );
        dir.write(format!("{name}.yaml"), text);
    }
    dir.write("c.yaml", "kind: Tenant\n");
    let config = dir.path().to_str().unwrap();
    let admin = crate::support::admin_address().to_string();

    let proved = output(&["prove", "-c", config, "--admin", &admin, "--no-attack"]);

    let said = stdout(&proved);
    for sentence in [
        "a, b leave from 203.0.113.2 together",
        "no gateway answers",
        "some documents are not accepted",
    ] {
        assert!(said.contains(sentence), "{sentence} in {said}");
    }
    assert!(!said.contains("attack"), "{said}");
}
