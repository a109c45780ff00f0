//! Gateway of the lab: `durward run` as a process of its own, so that it can be killed.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::stage::{HOST, Stage};
use super::talk;
use crate::failure::Failure;

const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9440);
/// Time to start serving, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// Running gateway.
pub(super) struct Gateway {
    child: Child,
    process: String,
}

impl Gateway {
    /// Starts the gateway and waits until it is ready.
    pub(super) fn start(stage: &Stage) -> Result<Self, Failure> {
        let failed = |error| Failure::broken("starting the lab's gateway", error);
        let program = std::env::current_exe().map_err(failed)?;
        let log = fs::File::create(stage.path().join("gateway.log")).map_err(failed)?;
        let mut command = Command::new(program);
        command.args(["run", "--access-log", "off", "--workers", "1", "-c"]);
        command.arg(stage.documents()).args(["--admin", &ADMIN.to_string()]);
        command.args(HOST.map(|(name, value)| format!("--nat-{name}={value}")));
        // The caller's environment must not configure the lab, and Ctrl-C is for the lab, not for this child.
        command.env_clear().process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(failed)?;
        let mut gateway = Self { child, process: String::new() };
        gateway.wait(stage)?;
        gateway.process = seen_by_the_host(gateway.child.id()).map_err(failed)?;
        stage.note_process(&gateway.process)?;
        Ok(gateway)
    }

    /// Returns the process id as the host sees it.
    pub(super) fn process(&self) -> &str {
        &self.process
    }

    /// Returns the exit status, if the process has ended.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(status.to_string())
    }

    /// Kills the process, as in a crash.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|error| Failure::broken("killing the gateway", error))
    }

    fn wait(&mut self, stage: &Stage) -> Result<(), Failure> {
        let begin = Instant::now();
        loop {
            // On a thread of its own in the same network namespace: the caller's thread may belong to a runtime, which cannot block on another.
            let asking = std::thread::spawn(|| talk::ask(ADMIN.ip(), ADMIN, "/readyz", PATIENCE));
            let answer = asking.join().unwrap_or_else(|_| Err("asking it failed".to_owned()));
            let Err(why) = answer else { return Ok(()) };
            let ended = self.ended();
            if ended.is_some() || begin.elapsed() > PATIENCE {
                let log = fs::read_to_string(stage.path().join("gateway.log"));
                let last = log.unwrap_or_default().lines().last().unwrap_or_default().to_owned();
                let why = ended.unwrap_or(why);
                return Err(Failure::broken(
                    "waiting for the lab's gateway",
                    format!("{why}: {last}"),
                ));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Returns the host's id of a process by its id in our process namespace.
fn seen_by_the_host(number: u32) -> io::Result<String> {
    let space = fs::read_link("/proc/self/ns/pid")?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let innermost = numbers.and_then(|numbers| numbers.split_whitespace().last());
        if innermost == Some(&number.to_string())
            && fs::read_link(entry.path().join("ns/pid")).is_ok_and(|its| its == space)
        {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The process may have ended already.
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}
