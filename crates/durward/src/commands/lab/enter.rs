//! Entry into the lab: this program once more, as root of a user namespace, in network and process namespaces of its own.
//!
//! The process namespace ends all of the lab with its first process.

use std::fs;
use std::process::{Child, Command, ExitStatus};

use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, Signal, getgid, getuid, kill_process};

use tokio::signal::unix::{SignalKind, signal};

use crate::commands::demo::interruption;
use crate::failure::{Exit, Failure};

/// Starts the lab inside the namespaces and waits for its end.
pub(super) fn again_inside() -> Result<Exit, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::broken("finding the running executable", error))?;
    leave_the_host().map_err(|cause| Failure::Unreachable {
        message: format!(
            "the lab needs a user namespace of its own, and this system forbids it ({cause}); \
             see sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone and \
             kernel.apparmor_restrict_unprivileged_userns, or use `durward demo`, which needs none"
        ),
    })?;
    let inside = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--inside")
        .spawn()
        .map_err(|error| Failure::broken("starting the lab inside", error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::broken("starting", error))?;
    let status = runtime.block_on(watch(inside))?;
    Ok(match status.code() {
        Some(0) => Exit::Ok,
        Some(4) => Exit::Unreachable,
        _ => Exit::FailedCheck,
    })
}

/// Creates the namespaces. Called while the process has one thread; processes that it starts are in the process namespace.
fn leave_the_host() -> Result<(), String> {
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID)
        .map_err(|errno| errno.desc().to_owned())?;
    for (path, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {user} 1")),
        ("/proc/self/gid_map", format!("0 {group} 1")),
    ] {
        fs::write(path, text).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

/// Waits for the lab, and passes a termination signal on. Without threads: this process may start none any more.
async fn watch(mut inside: Child) -> Result<ExitStatus, Failure> {
    let failed = |error| Failure::broken("waiting for the lab", error);
    let mut ended = signal(SignalKind::child()).map_err(failed)?;
    let interrupted = interruption()?;
    tokio::pin!(interrupted);
    let mut told = false;
    loop {
        if let Some(status) = inside.try_wait().map_err(failed)? {
            return Ok(status);
        }
        tokio::select! {
            _ = ended.recv() => {}
            () = &mut interrupted, if !told => {
                told = true;
                // The lab may have ended meanwhile, or have got the signal too.
                let _ = kill_process(Pid::from_child(&inside), Signal::TERM);
            }
        }
    }
}
