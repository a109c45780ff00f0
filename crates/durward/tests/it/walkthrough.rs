//! What the documents tell people to type is typed here, against the binary.
//!
//! Ports are free ones in place of those printed. Deliberately absent: what the commands are for; their own tests show that.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use durward_testkit::origin::Origin;
use durward_testkit::process::{Child, TempDir, eventually_blocking, free_port};

use serde_json::Value;

use crate::deploy::{find, kustomize};
use crate::docs::{GUIDES, blocks, commands};
use crate::examples::write_pair;
use crate::text;

const BINARY: &str = env!("CARGO_BIN_EXE_durward");
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn commands_and_flags_in_the_guides_exist() {
    let mut seen = 0;

    for guide in GUIDES {
        for line in commands(guide).iter().filter(|line| line.starts_with("durward ")) {
            // What comes behind is a comment, or another program's.
            let line = line.split(" #").next().unwrap().split(" | ").next().unwrap();
            let words: Vec<&str> = line.split_whitespace().skip(1).collect();
            let depth = words
                .iter()
                .take_while(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()))
                .count();
            let help = help(&words[..depth.min(2)]).or_else(|| help(&words[..1]));
            let help = help.unwrap_or_else(|| panic!("{guide}: no such command: {line}"));
            for flag in words.iter().filter(|word| word.starts_with('-') && word.len() > 1) {
                let flag = flag.split('=').next().unwrap();
                let known = help.split([' ', ',', '\n', '[']).any(|word| word == flag);
                assert!(known, "{guide}: {flag} is not a flag: {line}");
            }
            seen += 1;
        }
    }

    assert!(seen >= 10, "only {seen} commands");
}

fn help(command: &[&str]) -> Option<String> {
    let output = Command::new(BINARY).args(command).arg("--help").output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

// S1.10+ S1.11 S1.69
#[test]
fn getting_started_works_as_it_is_written() {
    let folder = TempDir::new();
    let origin = Origin::http1("127.0.0.1:0");
    let [port, admin] = [free_port([127, 0, 0, 2]), free_port([127, 0, 0, 1])];
    let here = |line: &str| {
        line.replace("8443", &port.to_string()).replace("8080", &origin.port().to_string())
    };
    let guide = text("docs/guide/getting-started.md");
    let document = here(&blocks(&guide, "yaml")[0]);
    let lines = commands("docs/guide/getting-started.md");
    let typed = |beginning: &str| {
        let line = lines.iter().find(|line| line.starts_with(beginning));
        here(line.unwrap_or_else(|| panic!("the guide has no line {beginning:?}")))
    };

    shell(folder.path(), &typed("mkdir"));
    durward(folder.path(), &typed("durward certs issue"));
    folder.write("gateway/acme.yaml", document);
    durward(folder.path(), &typed("durward validate"));
    let explained = durward(folder.path(), &typed("durward explain"));
    let mut run = command(folder.path(), &typed("durward run"));
    run.arg("--admin").arg(format!("127.0.0.1:{admin}"));
    let mut running = Child::spawn(run);
    let client = typed("curl");
    let served = eventually_blocking(PATIENCE, || {
        let output = Command::new("sh").arg("-c").arg(&client).current_dir(folder.path()).output();
        output.is_ok_and(|output| output.status.success())
    });

    assert!(served, "{client}\n{}", running.output());
    assert!(explained.contains("127.0.0.2"), "{explained}");
    let peers = origin.peers();
    assert!(!peers.is_empty());
    assert!(peers.iter().all(|peer| peer.ip().to_string() == "127.0.0.2"), "{peers:?}");
    running.terminate();
    assert!(running.wait_blocking(PATIENCE).success());
}

// S1.19+ S1.30 S1.31 S1.69
#[test]
fn the_seeds_layout_is_read_with_the_environment_its_manifests_set() {
    for (path, mode) in
        [("deploy/seed1", "ProxyProtocol"), ("deploy/seed1-host-network", "OriginalDestination")]
    {
        let Some(objects) = kustomize(path) else { return };
        let folder = TempDir::new();
        lay_out(folder.path(), &objects);
        let pod = &find(&objects, "Deployment", "pingora").unwrap()["spec"]["template"]["spec"];
        let environment: Vec<(String, String)> = pod["containers"][0]["env"]
            .as_array()
            .unwrap()
            .iter()
            .map(|variable| {
                [&variable["name"], &variable["value"]].map(|text| text.as_str().unwrap())
            })
            .map(|[name, value]| {
                // The files lie below a temporary directory here.
                let value = value.replace("/etc/pingora", &folder.path().display().to_string());
                (name.to_owned(), value)
            })
            .collect();
        let typed = |line: &str| {
            let mut command = command(folder.path(), line);
            let output = command.envs(environment.clone()).output().unwrap();
            let said =
                String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{path}: {line}\n{said}");
            said.into_owned()
        };

        typed("durward validate");
        for (address, tenant) in [("198.51.100.2", "tenant-A"), ("198.51.100.3", "tenant-B")] {
            let explained = typed(&format!("durward explain {address}:443"));
            assert!(explained.contains(tenant), "{path}: {explained}");
        }
        assert!(environment.iter().any(|(_, value)| value == mode), "{path}");
    }
}

/// The files of the seed's volumes, as the kubelet would put them: links into a directory that is swapped as a whole.
fn lay_out(folder: &Path, objects: &[Value]) {
    let routing = &find(objects, "ConfigMap", "pingora-tenant-routing").unwrap()["data"];
    let project = |volume: &str, names: &[&str]| {
        let volume = folder.join(volume);
        std::fs::create_dir_all(volume.join("..2026")).unwrap();
        std::os::unix::fs::symlink("..2026", volume.join("..data")).unwrap();
        for name in names {
            std::os::unix::fs::symlink(Path::new("..data").join(name), volume.join(name)).unwrap();
        }
        volume.join("..2026")
    };
    let config = project("config", &["routing.json"]);
    std::fs::write(config.join("routing.json"), routing["routing.json"].as_str().unwrap()).unwrap();
    let certs = project("certs", &["tenant-A.crt", "tenant-A.key", "tenant-B.crt", "tenant-B.key"]);
    write_pair(&certs.join("tenant-A"), "198.51.100.2");
    write_pair(&certs.join("tenant-B"), "198.51.100.3");
}

// S1.15 S1.28 S1.29
#[test]
fn it_serves_without_any_privilege_from_files_it_cannot_write() {
    let folder = TempDir::new();
    let [port, admin] = [free_port([127, 0, 0, 2]), free_port([127, 0, 0, 1])];
    durward(folder.path(), "durward certs issue --ip 127.0.0.2 --name acme");
    let guide = text("docs/guide/getting-started.md");
    let document = blocks(&guide, "yaml")[0].replace("8443", &port.to_string());
    folder.write("acme.yaml", document.replace("certs/acme", "acme"));
    let binary = open_to_all(folder.path());
    let before = listing(folder.path());

    let mut run = unprivileged(&binary);
    run.args(["run", "-c"]).arg(folder.path()).args(["--admin", &format!("127.0.0.1:{admin}")]);
    run.current_dir("/");
    let mut running = Child::spawn(run);
    let ready = eventually_blocking(PATIENCE, || {
        let url = format!("http://127.0.0.1:{admin}/readyz");
        let output =
            Command::new("curl").args(["--fail", "--silent", "--max-time", "2", &url]).output();
        output.is_ok_and(|output| output.status.success())
    });

    assert!(ready, "{}", running.output());
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].trim().to_owned()
    };
    assert!(!field("Uid:").starts_with('0'), "{status}");
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert!(std::net::TcpStream::connect(("127.0.0.2", port)).is_ok());
    running.terminate();
    assert!(running.wait_blocking(PATIENCE).success());
    assert_eq!(listing(folder.path()), before, "nothing is written beside the certificates");
    set_mode(folder.path(), 0o755);
}

/// The binary under another user, without capabilities and without a way to get any.
fn unprivileged(binary: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=65532", "--regid=65532", "--clear-groups", "--bounding-set=-all"]);
    }
    command.args(["--inh-caps=-all", "--no-new-privs"]).arg(binary);
    command
}

/// Everybody may read the folder, nobody but its owner may write; the binary is put into it.
fn open_to_all(folder: &Path) -> PathBuf {
    let binary = folder.join("durward");
    std::fs::copy(BINARY, &binary).unwrap();
    for file in std::fs::read_dir(folder).unwrap() {
        set_mode(&file.unwrap().path(), 0o444);
    }
    set_mode(&binary, 0o555);
    set_mode(folder, 0o555);
    binary
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn listing(folder: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut found: Vec<_> = entries
        .map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap()))
        .collect();
    found.sort();
    found
}

fn shell(folder: &Path, line: &str) {
    let status = Command::new("sh").arg("-c").arg(line).current_dir(folder).status().unwrap();
    assert!(status.success(), "{line}");
}

/// Runs a `durward …` line to its end and returns what it printed.
fn durward(folder: &Path, line: &str) -> String {
    let output = command(folder, line).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}\n{said}");
    said.into_owned()
}

fn command(folder: &Path, line: &str) -> Command {
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("durward"), "{line}");
    let mut command = Command::new(BINARY);
    command
        .args(words)
        .current_dir(folder)
        .env_remove("DURWARD_CONFIG")
        .env_remove("ROUTING_CONFIG_PATH");
    command
}
