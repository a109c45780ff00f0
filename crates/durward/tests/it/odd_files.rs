//! Files that are no regular files, or have no end, wherever a user can name one: they cost what names them, never a reload of others.

use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use durward_testkit::certificates::{Authority, CertSpec};
use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};

use crate::support::{DEADLINE, admin_address, durward, get, spawn, status};

fn fifo(path: &Path) -> PathBuf {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    path.to_owned()
}

fn respond(name: &str, address: Ipv4Addr, body: &str, more: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress:\n    - {{address: {address}, port: 8080, protocol: HTTP, routes: [{{respond: {{body: \"{body}\"}}}}]}}\n{more}"
    )
}

/// Ends a command that should end by itself.
fn finish(arguments: &[&str]) -> (bool, String) {
    let mut child = Child::spawn(durward(arguments));
    let status = child.wait_blocking(DEADLINE);
    (status.success(), child.output())
}

/// Returns a piece of a tenant's document for each field that names a file, with `name` in it; `own` is a sound pair.
fn fields_naming(name: &str, own: &str, other: Ipv4Addr) -> [String; 6] {
    let tls = |certificate: &str, more: &str| {
        format!(
            "    - {{address: {other}, port: 8443, certificate: {certificate}, {more} routes: [{{respond: {{body: x}}}}]}}\n"
        )
    };
    let sound = format!("{{file: {own}}}");
    [
        tls(&format!("{{certificateFile: {name}, keyFile: {own}.key}}"), ""),
        tls(&format!("{{certificateFile: {own}.crt, keyFile: {name}}}"), ""),
        tls(&sound, &format!("clientCertificates: {{caFile: {name}}},")),
        tls(&sound, &format!("clientCertificates: {{caFile: {own}.crt, crlFile: {name}}},")),
        format!("  upstreams: {{u: {{endpoints: [192.0.2.1], tls: {{caFile: {name}}}}}}}\n"),
        format!(
            "  egress: {{addresses: [{other}], proxy: [{{address: {other}, port: 3128, credentials: {{file: {name}}}}}]}}\n"
        ),
    ]
}

#[test]
fn a_fifo_or_device_named_anywhere_costs_what_names_it_and_no_reload_of_others() {
    let (dir, outside) = (TempDir::new(), TempDir::new());
    let address = unique_loopback();
    Authority::new("a").issue(&CertSpec::new().ip(address).server()).write(outside.path(), "own");
    let pipe = fifo(&outside.path().join("pipe"));
    let link = outside.path().join("link");
    symlink(&pipe, &link).unwrap();
    dir.write("good.yaml", respond("good", address, "one", ""));
    let admin = admin_address();
    let mut child = spawn(dir.path(), admin, &["--files-root", "/"]);
    let is_ready = || status(admin, "/readyz") == Some(200);
    assert!(eventually_blocking(DEADLINE, is_ready), "{}", child.output());
    let own = outside.path().join("own").display().to_string();

    let odd = [
        link.display().to_string(),
        pipe.display().to_string(),
        "/dev/zero".to_owned(),
        "/dev/ptmx".to_owned(),
        "/proc/self/pagemap".to_owned(),
        outside.path().display().to_string(),
    ];
    for (at, name) in odd.iter().enumerate() {
        let other = unique_loopback();
        for (number, field) in fields_naming(name, &own, other).into_iter().enumerate() {
            let tenant = format!("bad-{at}-{number}");
            let document = respond(&tenant, other, "bad", &field);
            dir.write(format!("{tenant}.yaml"), document);
        }
    }
    fifo(&dir.path().join("x.yaml"));
    fifo(&dir.path().join("routing.json"));
    symlink("/dev/zero", dir.path().join("zero.toml")).unwrap();
    dir.write("good.yaml", respond("good", address, "two", ""));

    let listener = (address, 8080).into();
    let served = || get(listener, "/").is_some_and(|(_, body)| body == "two");
    assert!(eventually_blocking(DEADLINE, served), "{}", child.output());
    child.terminate();
    assert!(child.wait_blocking(DEADLINE).success());

    let configuration = dir.path().to_str().unwrap();
    let began = Instant::now();
    let (valid, said) = finish(&["validate", "-c", configuration]);
    assert!(!valid && said.contains("is a FIFO: only regular files are read"), "{said}");
    finish(&["explain", "-c", configuration, &format!("http://{address}:8080/")]);
    finish(&["check", "-c", configuration]);
    finish(&["validate", "-c", pipe.to_str().unwrap()]);
    finish(&["certs", "list", "--dir", outside.path().to_str().unwrap()]);
    let (migrated, said) = finish(&["migrate", pipe.to_str().unwrap()]);
    assert!(!migrated && said.contains("is a FIFO"), "{said}");
    assert!(began.elapsed() < DEADLINE + Duration::from_secs(60));
    let admin = admin_address();
    let mut again = spawn(dir.path(), admin, &["--files-root", "/"]);
    assert!(eventually_blocking(DEADLINE, served), "the next start serves: {}", again.output());
    again.terminate();
}

#[test]
fn the_audit_file_and_logs_are_no_fifos_and_nobody_else_reads_them() {
    use std::os::unix::fs::PermissionsExt;

    let dir = TempDir::new();
    let address = unique_loopback();
    dir.write("good.yaml", respond("good", address, "one", ""));
    let logs = TempDir::new();
    let pipe = fifo(&logs.path().join("pipe"));
    fifo(&logs.path().join("audit.log.1"));
    let run = |more: &[&str]| {
        let configuration = dir.path().to_str().unwrap();
        let admin = admin_address().to_string();
        let run = ["run", "-c", configuration, "--admin", &admin];
        Child::spawn(durward(&[&run[..], more].concat()))
    };

    for flag in ["--access-log", "--audit-log"] {
        let mut child = run(&[flag, pipe.to_str().unwrap()]);
        assert!(!child.wait_blocking(DEADLINE).success(), "{flag}");
    }
    let [access, audit] = ["access.log", "audit.log"].map(|name| logs.path().join(name));
    let mut child =
        run(&["--access-log", access.to_str().unwrap(), "--audit-log", audit.to_str().unwrap()]);
    let served = || get((address, 8080).into(), "/").is_some();
    assert!(eventually_blocking(DEADLINE, served), "{}", child.output());
    child.terminate();
    child.wait_blocking(DEADLINE);

    for path in [access, audit] {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{}: {mode:o}", path.display());
    }
}
