//! The state directory of a running gateway: full, forbidden, damaged. What is in force stays in force, the file stays whole, and the gateway
//! says what to do and recovers by itself.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use durward_testkit::netns::{self, in_namespace};
use durward_testkit::origin::Origin;
use durward_testkit::process::{Child, TempDir, eventually_blocking, unique_loopback};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::support::{
    DEADLINE, Gateway, HERE, admin_address, durward, get, nowhere, spawn, status, tenant,
};

/// Longer than the 30 s after which a file is tried again, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);
/// Bytes of a large document, and a limit that it does not fit in.
const LARGE: usize = 300 * 1024;
const LIMIT: u64 = 128 * 1024;

/// A gateway of one tenant with a state directory.
struct Stage {
    config: TempDir,
    admin: SocketAddr,
    listener: SocketAddr,
    file: PathBuf,
    child: Child,
}

impl Stage {
    /// Starts it; `wrap` may put a program before it.
    fn start(state: &Path, wrap: &[&str]) -> Self {
        let (config, admin) = (TempDir::new(), admin_address());
        let listener = SocketAddr::new(unique_loopback().into(), 8080);
        config.write("acme.yaml", tenant("acme", listener.ip(), listener.port(), nowhere()));
        let paths = [config.path(), state].map(|path| path.to_str().unwrap().to_owned());
        let admin_text = admin.to_string();
        let run = ["--log-format", "json", "run", "-c", &paths[0], "--admin", &admin_text];
        let more =
            ["--workers", "1", "--access-log", "off", "--no-watch", "--state-dir", &paths[1]];
        let plain = durward(&[&run[..], &more[..]].concat());
        let command = match wrap {
            [] => plain,
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(plain.get_program()).args(plain.get_args());
                command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
                command
            }
        };
        let child = Child::spawn(command);
        let stage = Self { config, admin, listener, file: state.join("claims.json"), child };
        stage.wait("it starts", |stage| {
            status(stage.admin, "/readyz") == Some(200) && stage.text().contains("\"acme\"")
        });
        stage
    }

    fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let came = eventually_blocking(PATIENCE, || condition(self));
        assert!(came, "{what}: {}\n{}", self.text().len(), self.child.output());
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap_or_default()
    }

    /// Adds a tenant with a document of so many bytes and has it read.
    fn add(&mut self, name: &str, bytes: usize) {
        let document = tenant(name, unique_loopback().into(), 8080, nowhere());
        let comment = "x".repeat(bytes);
        let large = document.replace("spec:\n", &format!("# {comment}\nspec:\n"));
        assert!(large.len() > bytes, "{document}");
        self.config.write(format!("{name}.yaml"), large);
        self.child.signal(Signal::HUP);
    }

    fn readiness(&self) -> String {
        get(self.admin, "/readyz?verbose").map(|(_, text)| text).unwrap_or_default()
    }

    /// Waits for the fault everywhere it is told, and asserts that the process serves.
    fn assert_told(&self, error: &str, cure: &str) {
        let message = "\"level\":\"ERROR\",\"message\":\"cannot write the state file";
        self.wait("an error is logged", |stage| {
            let output = stage.child.output();
            output.lines().any(|line| {
                line.contains(message)
                    && [error, cure, "claims.json"].iter().all(|part| line.contains(part))
            })
        });
        let ready = self.readiness();
        assert!(ready.contains("[!]state warning") && ready.contains(cure), "{ready}");
        assert!(ready.contains(error) && ready.contains("readyz check passed"), "{ready}");
        let metrics = get(self.admin, "/metrics").unwrap().1;
        assert!(metrics.contains("durward_problems{tenant=\"\",kind=\"state\"} 1"), "{metrics}");
        assert!(get(self.listener, "/").is_some(), "{}", self.child.output());
    }

    fn assert_recovers(&self, name: &str) {
        let name = format!("name: {name}");
        self.wait("it is written again", |stage| stage.text().contains(&name));
        self.child.wait_for_line_blocking("the state file is written again", DEADLINE);
        self.wait("readiness says so", |stage| stage.readiness().contains("[+]state ok"));
    }
}

fn limit(child: &Child, current: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
}

#[test]
fn a_limit_of_file_sizes_costs_documents_only_and_nothing_when_it_is_raised() {
    let state = TempDir::new();
    let mut stage = Stage::start(state.path(), &[]);

    limit(&stage.child, Some(LIMIT));
    stage.add("globex", LARGE);

    stage.assert_told("os error 27", "raise the limit of file sizes");
    assert!(stage.readiness().contains("claims are kept, last good documents are not"));
    let text = stage.text();
    assert!(text.contains("\"globex\"") && !text.contains("apiVersion"), "{text}");
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
    limit(&stage.child, None);
    stage.assert_recovers("globex");
    assert!(stage.child.is_running());
}

#[test]
fn a_full_disk_keeps_the_old_file_then_the_claims_then_all() {
    in_namespace("state_dir::a_full_disk_keeps_the_old_file_then_the_claims_then_all", || {
        let state = TempDir::new();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(state.path())
            .status();
        assert!(mount.unwrap().success());
        let mut stage = Stage::start(state.path(), &[]);
        let before = stage.text();
        let filler = state.join("filler");
        let mut bytes = 2 << 20;
        while bytes > 0 {
            // Until the last page is used.
            let mut file = fs::OpenOptions::new().append(true).create(true).open(&filler).unwrap();
            if std::io::Write::write_all(&mut file, &vec![b'x'; bytes]).is_err() {
                bytes /= 2;
            }
        }

        stage.add("globex", LARGE);
        stage.assert_told("os error 28", "free space there");
        assert!(stage.readiness().contains("neither claims nor documents"));
        assert_eq!(stage.text(), before);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 2, "nothing half written");

        let opened = fs::OpenOptions::new().write(true).open(&filler).unwrap();
        opened.set_len((1 << 20) - LARGE as u64 / 2).unwrap();
        drop(opened);
        stage.wait("claims are written", |stage| {
            stage.text().contains("\"globex\"") && !stage.text().contains("apiVersion")
        });
        stage.wait("that is told", |stage| {
            stage.readiness().contains("claims are kept, last good documents are not")
        });

        fs::remove_file(&filler).unwrap();
        stage.assert_recovers("globex");
    });
}

#[test]
fn a_directory_that_may_not_be_written_keeps_the_old_file_until_it_may() {
    let test = "state_dir::a_directory_that_may_not_be_written_keeps_the_old_file_until_it_may";
    // Root of a host may write everywhere; in a user namespace of which it is not root, it may not.
    if let Err(reason) = netns::possible() {
        netns::skip(test, reason);
        return;
    }
    let state = TempDir::new();
    let mut stage = Stage::start(state.path(), &["unshare", "-U"]);
    let before = stage.text();

    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o500)).unwrap();
    stage.add("globex", 10);

    stage.assert_told("os error 13", "let the user of the gateway read and write the directory");
    assert_eq!(stage.text(), before);
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o700)).unwrap();
    stage.assert_recovers("globex");
}

/// Lets a newcomer ask for what acme has, in a document that sorts first and has an older date.
fn contest(gateway: &mut Gateway, thief: SocketAddr) {
    let at = gateway.listener;
    let newcomer = tenant("ant", at.ip(), at.port(), thief)
        .replace("name: ant", "name: ant, creationTimestamp: \"1999-01-01T00:00:00Z\"");
    gateway.dir.write("aaa.yaml", newcomer);
    gateway.child.signal(Signal::HUP);
    gateway.child.wait_for_line_blocking("aaa.yaml", DEADLINE);
}

#[test]
fn a_file_that_was_damaged_meanwhile_is_replaced_at_the_end_and_in_a_hand_over() {
    for damage in ["contents", "gone", "directory"] {
        let (origin, thief) = (Origin::http1(HERE), Origin::http1(HERE));
        let state = TempDir::new();
        let file = state.join("claims.json");
        let arguments = ["--no-watch", "--state-dir", state.path().to_str().unwrap()];
        let mut gateway = Gateway::start(origin.address(), &arguments);
        contest(&mut gateway, thief.address());
        let is_kept = || fs::read_to_string(&file).is_ok_and(|text| text.contains("\"ant\""));
        assert!(eventually_blocking(DEADLINE, is_kept), "{}", gateway.child.output());
        let harm = || {
            fs::remove_file(&file).unwrap();
            match damage {
                "contents" => fs::write(&file, "{").unwrap(),
                "directory" => fs::create_dir(&file).unwrap(),
                _ => {}
            }
        };

        // The older process knows who holds what, and the younger one believes it, not the file.
        harm();
        gateway.child.signal(Signal::USR2);
        let line = gateway.child.wait_for_line_blocking("the new process serves", DEADLINE);
        assert!(gateway.child.wait_blocking(DEADLINE).success(), "{}", gateway.child.output());
        assert!(eventually_blocking(DEADLINE, is_kept), "{damage}: {}", gateway.child.output());
        assert!(!gateway.child.output().contains("decided anew"), "{}", gateway.child.output());
        assert_eq!(gateway.get("/").unwrap().0, 200, "{damage}: {}", gateway.child.output());

        // Whoever ends leaves a whole file.
        harm();
        end(&line);
        assert!(is_kept(), "{damage}: {}", gateway.child.output());
        let restarted = spawn(gateway.dir.path(), gateway.admin, &arguments);
        let is_ready = || status(gateway.admin, "/readyz") == Some(200);
        assert!(eventually_blocking(DEADLINE, is_ready), "{}", restarted.output());
        assert_eq!(gateway.get("/").unwrap().0, 200, "{damage}: {}", restarted.output());
        assert_eq!(thief.requests(), 0, "{damage}: {}", restarted.output());
    }
}

/// Ends the process a log line names, which is no child of this one.
pub(crate) fn end(line: &str) {
    let number = line.split("\"process\":").nth(1).unwrap();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    let pid = Pid::from_raw(digits.parse().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let gone = || rustix::process::test_kill_process(pid).is_err();
    assert!(eventually_blocking(DEADLINE, gone), "the new process ends");
}
