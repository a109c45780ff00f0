//! Life of the process: start, serve, reload, hand over, stop.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::app::{Gateway, Settings};
use crate::cli::Admin;
use crate::failure::{Exit, Failure};
use crate::handover::{Older, Younger};

/// Time for a new process to start serving.
const PATIENCE: Duration = Duration::from_secs(60);
/// Descriptors for which the kernel's table has room from the start, at most; it takes 1 MiB of kernel memory then.
const DESCRIPTOR_TABLE: u64 = 128 * 1024;
/// Interval of retries of sockets that could not be bound.
const RETRY_BINDS: Duration = Duration::from_secs(2);
/// Time after which a thread for blocking work ends if there is none.
const IDLE_THREAD: Duration = Duration::from_secs(3);

/// Serves until a signal arrives or a younger process has taken over.
pub(crate) fn run(
    mut settings: Settings,
    admin: Admin,
    older: Option<Older>,
) -> Result<Exit, Failure> {
    // Read before the file can be replaced: afterwards the path in /proc ends in " (deleted)".
    let program = std::env::current_exe()
        .map_err(|error| Failure::broken("finding our own program", error))?;
    let listener = admin_listener(admin, &mut settings.sockets)?;
    raise_descriptor_limit();
    reserve_descriptor_table();
    let runtime = tokio::runtime::Builder::new_current_thread()
        // Threads of slow readers go soon after them: periodic work would keep several of them awake in turn.
        .thread_keep_alive(IDLE_THREAD)
        .enable_all()
        .build()
        .map_err(|error| Failure::broken("starting", error))?;
    let ended = runtime.block_on(async {
        let signals = Signals::listen()?;
        let (drain_delay, watch) = (settings.drain_delay, settings.watch);
        let gateway = Gateway::start(settings)?;
        if watch {
            gateway.watch()?;
        } else if gateway.reads_cluster() {
            gateway.follow_sources();
        }
        gateway.order_certificates()?;
        let supervisor = Supervisor { gateway, admin: listener, program, drain_delay };
        supervisor.serve(signals, older).await
    });
    runtime.shutdown_background();
    ended
}

/// Raises the soft limit of file descriptors to the hard limit: each connection needs one or more.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of descriptors could not be raised");
    }
}

/// Enlarges the kernel's table of descriptors to the size that it may need. The kernel doubles a full table; in a process with several threads it then
/// waits for every processor (RCU), and for 10 to 25 ms no thread can open a socket.
fn reserve_descriptor_table() {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTOR_TABLE);
    let last =
        i32::try_from(limit.min(DESCRIPTOR_TABLE)).map_or(0, |count| count.saturating_sub(1));
    // The table keeps its size when the descriptor is closed again.
    let reserved = rustix::pipe::pipe().and_then(|(end, _)| fcntl_dupfd_cloexec(end, last));
    if let Err(error) = reserved {
        tracing::debug!(%error, "the table of descriptors grows as it is needed");
    }
}

/// Returns the socket of the admin listener: one of those passed to this process, or a new one.
fn admin_listener(
    admin: Admin,
    passed: &mut Vec<TcpListener>,
) -> Result<Option<TcpListener>, Failure> {
    let Admin::At(address) = admin else { return Ok(None) };
    let ours = |socket: &TcpListener| socket.local_addr().is_ok_and(|local| local == address);
    if let Some(at) = passed.iter().position(ours) {
        return Ok(Some(passed.swap_remove(at)));
    }
    let listener = TcpListener::bind(address).map_err(|error| {
        Failure::broken(
            format!("opening the admin interface at {address} (--admin ADDRESS:PORT or off)"),
            error,
        )
    })?;
    Ok(Some(listener))
}

struct Signals {
    hangup: Signal,
    user1: Signal,
    terminate: Signal,
    interrupt: Signal,
    user2: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::broken("listening for signals", error));
        // A write beyond RLIMIT_FSIZE kills a process that does not catch SIGXFSZ; with a handler, the write fails with EFBIG.
        drop(listen(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            user1: listen(SignalKind::user_defined1())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            user2: listen(SignalKind::user_defined2())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Reason serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Told,
    HandedOver,
}

struct Supervisor {
    gateway: Arc<Gateway>,
    admin: Option<TcpListener>,
    program: PathBuf,
    drain_delay: Duration,
}

impl Supervisor {
    async fn serve(self, mut signals: Signals, older: Option<Older>) -> Result<Exit, Failure> {
        let stopped = CancellationToken::new();
        let admin = self.serve_admin(&stopped)?;
        if let Some(older) = older {
            // The older process may have ended meanwhile.
            drop(older.tell_ready());
        }
        notify(&[NotifyState::Ready]);
        tokio::spawn(stopped.clone().run_until_cancelled_owned(watchdog()));
        let gateway = Arc::clone(&self.gateway);
        tokio::spawn(stopped.clone().run_until_cancelled_owned(retry(gateway)));

        let end = self.wait(&mut signals).await;
        tracing::info!(handed_over = end == End::HandedOver, "draining");
        self.gateway.announce_end();
        match end {
            End::HandedOver => {
                stopped.cancel();
                self.gateway.stop_accepting();
            }
            End::Told => {
                notify(&[NotifyState::Stopping]);
                // A second signal cuts the delay short.
                drop(tokio::time::timeout(self.drain_delay, signals.stop()).await);
            }
        }
        self.drain(&mut signals).await;
        stopped.cancel();
        if let Some(admin) = admin {
            // Only a hanging scrape could block this; it ends with the process.
            drop(tokio::time::timeout(Duration::from_secs(1), admin).await);
        }
        Ok(Exit::Ok)
    }

    fn serve_admin(
        &self,
        stopped: &CancellationToken,
    ) -> Result<Option<JoinHandle<std::io::Result<()>>>, Failure> {
        let Some(socket) = &self.admin else { return Ok(None) };
        let fault = |error| Failure::broken("opening the admin interface", error);
        let socket = socket.try_clone().map_err(fault)?;
        socket.set_nonblocking(true).map_err(fault)?;
        let listener = tokio::net::TcpListener::from_std(socket).map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        tracing::info!(%address, "admin interface");
        let stopped = stopped.clone().cancelled_owned();
        Ok(Some(tokio::spawn(admin::serve(listener, Arc::clone(&self.gateway), stopped))))
    }

    async fn wait(&self, signals: &mut Signals) -> End {
        let mut younger: Option<JoinHandle<bool>> = None;
        loop {
            let handed_over = async {
                match &mut younger {
                    Some(younger) => younger.await.unwrap_or(false),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = signals.terminate.recv() => return End::Told,
                _ = signals.interrupt.recv() => return End::Told,
                _ = signals.hangup.recv() => self.reload(),
                _ = signals.user1.recv() => self.gateway.reopen_access_log(),
                served = handed_over => {
                    if served {
                        return End::HandedOver;
                    }
                    younger = None;
                }
                _ = signals.user2.recv() => {
                    if younger.is_none() {
                        younger = Some(self.hand_over());
                    }
                }
            }
        }
    }

    fn reload(&self) {
        let gateway = Arc::clone(&self.gateway);
        tokio::task::spawn_blocking(move || {
            match NotifyState::monotonic_usec_now() {
                Ok(now) => notify(&[NotifyState::Reloading, now]),
                Err(_) => notify(&[NotifyState::Reloading]),
            }
            gateway.reopen_access_log();
            gateway.reload("SIGHUP");
            notify(&[NotifyState::Ready]);
        });
    }

    /// Starts the program again with our sockets; true once it serves.
    fn hand_over(&self) -> JoinHandle<bool> {
        let sockets = self.sockets();
        let program = self.program.clone();
        let gateway = Arc::clone(&self.gateway);
        tokio::task::spawn_blocking(move || {
            let handed = gateway.handed();
            let started = sockets.and_then(|sockets| Younger::start(&program, &sockets, &handed));
            let outcome = started.map_err(|error| error.to_string()).and_then(|younger| {
                let id = younger.id();
                tracing::info!(process = id, "a new process is starting");
                younger.wait_ready(PATIENCE).map(|()| id)
            });
            match outcome {
                Ok(id) => {
                    tracing::info!(process = id, "the new process serves; this one ends");
                    notify(&[NotifyState::MainPid(id)]);
                    true
                }
                Err(error) => {
                    tracing::error!(%error, "the new process could not take over; this one goes on serving");
                    gateway.take_back();
                    false
                }
            }
        })
    }

    fn sockets(&self) -> std::io::Result<Vec<OwnedFd>> {
        let mut sockets = self.gateway.listening_sockets()?;
        if let Some(admin) = &self.admin {
            sockets.push(admin.try_clone()?.into());
        }
        Ok(sockets)
    }

    /// Waits for connections to finish; a second signal closes them.
    async fn drain(&self, signals: &mut Signals) {
        let gateway = Arc::clone(&self.gateway);
        let grace = gateway.drain_grace();
        let drained = tokio::task::spawn_blocking(move || gateway.drain(grace));
        tokio::select! {
            _ = drained => {}
            () = signals.stop() => tracing::warn!("told again: connections are cut"),
        }
    }
}

/// Retries at intervals: a port that was taken may be free, and a kernel that refused may accept by now.
async fn retry(gateway: Arc<Gateway>) {
    let mut beats = tokio::time::interval(RETRY_BINDS);
    loop {
        beats.tick().await;
        let gateway = Arc::clone(&gateway);
        // On a blocking thread: reading the kernel may take a moment.
        drop(tokio::task::spawn_blocking(move || gateway.retry()).await);
    }
}

async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut beats = tokio::time::interval(limit / 3);
    loop {
        beats.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// Notifies systemd, if it started this process; an error is ignored.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
