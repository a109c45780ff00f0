//! Programs people use, in a pod that nobody told of a proxy.
//!
//! Who is not installed is skipped, loudly. Deliberately absent: anything on the internet; the far side is here.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::Command;

use durward_testkit::certificates::{Authority, CertSpec};
use durward_testkit::netns::in_namespace;
use durward_testkit::origin::Origin;
use durward_testkit::process::TempDir;

use super::{ACME, Lab};

const HERE: &str = "198.51.100.90";
const NAMES: [&str; 2] = ["ip.bank.example", "ip.evil.example"];

// S2.57+ S2.27+
#[test]
fn curl_without_variables_ends_tls_with_the_far_side() {
    in_namespace(
        "transparent::programs::curl_without_variables_ends_tls_with_the_far_side",
        || {
            let lab = Lab::new();
            let (authority, dir) = (Authority::new("root"), TempDir::new());
            authority.write(dir.path(), "ca");
            let world = &lab.world.namespace;
            world.add_address("lo", &format!("{HERE}/32"));
            NAMES.iter().for_each(|name| lab.dns.set(name, &[HERE.parse::<IpAddr>().unwrap()]));
            let spec = NAMES.iter().fold(CertSpec::new(), |spec, name| spec.dns(name));
            let identity = authority.issue(&spec.server());
            let secure = || Origin::tls((HERE, 443), &identity, None, &["h2", "http/1.1"]);
            let (plain, secure) =
                world.block_on(|| async { (Origin::http1((HERE, 80)), secure()) });
            let _running = lab.start();
            let curl = |scheme: &str, name: &str| curl(&lab, &dir, scheme, name);
            let Some(allowed) = curl("https", NAMES[0]) else {
                // Past the capture of the test harness: a test that did not run must not look like one that passed.
                let _ = writeln!(std::io::stderr(), "SKIPPED curl (not installed)");
                return;
            };

            assert!(allowed.contains(ACME[0]) && allowed.contains(" 200"), "{allowed}");
            let allowed = curl("http", NAMES[0]).unwrap();
            assert!(allowed.contains(ACME[0]) && allowed.contains(" 200"), "{allowed}");
            let denied = curl("https", NAMES[1]).unwrap();
            assert!(denied.contains("access denied") || denied.contains("alert"), "{denied}");
            assert!(curl("http", NAMES[1]).unwrap().contains(" 403"));
            assert_eq!((plain.requests(), secure.requests()), (1, 1));
        },
    );
}

/// What it prints, then the status; `None` when it is not here.
fn curl(lab: &Lab, dir: &TempDir, scheme: &str, name: &str) -> Option<String> {
    let resolve = [80, 443].map(|port| format!("{name}:{port}:{HERE}"));
    lab.acme.run(|| {
        let mut curl = Command::new("curl");
        curl.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        curl.args(["-sS", "-m", "20", "-w", " %{http_code}", "--cacert"]).arg(dir.join("ca.crt"));
        let output = curl
            .args(["--resolve", &resolve[0], "--resolve", &resolve[1]])
            .arg(format!("{scheme}://{name}/ip"))
            .output()
            .ok()?;
        Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    })
}
