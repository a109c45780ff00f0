//! Thread of one core: a runtime, its accept loops and its connections, controlled by commands.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::accept;
use crate::accept::{Acceptor, Complaint};
use crate::core::{Core, Shared};
use crate::prepared::Prepared;
use crate::proxy::Drained;
use crate::status::Closing;
use crate::{http, server, upstream};

/// Interval at which log lines are handed to the writer.
const LOG_FLUSH: Duration = Duration::from_millis(100);
/// Interval at which half of the unused buffers is released.
const SHRINK: Duration = Duration::from_secs(1);
/// Time that connections which are being closed have to end.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// Commands to a core.
pub(super) enum Command {
    /// Accept on this socket too.
    Open(SocketAddr, TcpListener),
    /// Receive datagrams on this socket too.
    OpenUdp(SocketAddr, UdpSocket),
    /// Stop accepting on this bind.
    Close(SocketAddr),
    /// Stop receiving datagrams on this bind.
    CloseUdp(SocketAddr),
    /// Stop accepting and receiving on all binds.
    CloseAll(Closing),
    /// Handle a new configuration; sent to one core.
    Prepared(Arc<Prepared>),
    /// Drain and end within this time.
    Drain(Duration),
}

/// A core's thread.
pub(super) struct Worker {
    commands: UnboundedSender<Command>,
    thread: JoinHandle<Drained>,
}

impl Worker {
    pub(super) fn start(id: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (commands, received) = unbounded_channel();
        let thread =
            std::thread::Builder::new().name(format!("durward-core-{id}")).spawn(move || {
                let local = LocalSet::new();
                let drained = local.block_on(&runtime, live(id, shared, received));
                runtime.shutdown_background();
                drained
            })?;
        Ok(Self { commands, thread })
    }

    pub(super) fn tell(&self, command: Command) {
        // Fails only after the thread has ended.
        let _ = self.commands.send(command);
    }

    pub(super) fn join(self) -> Drained {
        self.thread.join().unwrap_or_else(|_| {
            error!("a core's thread has panicked");
            Drained::default()
        })
    }
}

async fn live(id: usize, shared: Arc<Shared>, mut commands: UnboundedReceiver<Command>) -> Drained {
    let core = Core::new(id, shared, seed(id));
    tokio::task::spawn_local(Rc::clone(&core.watchdog).run());
    tokio::task::spawn_local(flush_log(Rc::clone(&core)));
    tokio::task::spawn_local(shrink_pools());
    let acceptor = Acceptor {
        core,
        connections: TaskTracker::new(),
        accepted: Cell::new(0),
        complaint: Complaint::default(),
    };
    let mut loops = AcceptLoops {
        acceptor: Rc::new(acceptor),
        open: BTreeMap::new(),
        receiving: BTreeMap::new(),
        accepting: TaskTracker::new(),
    };
    let mut grace = Duration::ZERO;
    while let Some(command) = commands.recv().await {
        match command {
            Command::Open(bind, socket) => loops.open(bind, socket),
            Command::OpenUdp(bind, socket) => loops.open_udp(bind, socket),
            Command::CloseUdp(bind) => loops.close_udp(bind),
            Command::Close(bind) => loops.close(bind, Closing::EmptyQueue),
            Command::CloseAll(closing) => loops.close_all(closing),
            Command::Prepared(prepared) => {
                let upstreams = &loops.acceptor.core.upstreams;
                upstream::spawn_health_checks(upstreams, prepared.checked_tenants());
            }
            Command::Drain(given) => {
                grace = given;
                break;
            }
        }
    }
    loops.drain(grace).await
}

/// Returns a seed that differs between cores and processes; good enough to spread load.
fn seed(id: usize) -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_nanos() as u64 ^ u64::from(std::process::id())).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ ((id as u64) << 32)
}

async fn flush_log(core: Rc<Core>) {
    let mut ticks = tokio::time::interval(LOG_FLUSH);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        core.log.flush();
        core.decisions.flush();
    }
}

/// Releases unused buffers at intervals, so that a peak is forgotten.
async fn shrink_pools() {
    let mut ticks = tokio::time::interval(SHRINK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        http::shrink_pools();
        server::shrink_pools();
    }
}

/// The accept loops of one core.
struct AcceptLoops {
    acceptor: Rc<Acceptor>,
    open: BTreeMap<SocketAddr, Vec<Handle>>,
    /// Loops that receive datagrams, each with what ends it.
    receiving: BTreeMap<SocketAddr, Vec<CancellationToken>>,
    accepting: TaskTracker,
}

/// Handle that ends one accept loop.
struct Handle {
    closed: CancellationToken,
    closing: Rc<Cell<Closing>>,
}

impl AcceptLoops {
    fn open(&mut self, bind: SocketAddr, socket: TcpListener) {
        let listener = match tokio::net::TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => return error!(%bind, %error, "a listening socket cannot be polled"),
        };
        let (closed, closing) = (CancellationToken::new(), Rc::new(Cell::new(Closing::EmptyQueue)));
        let handles = self.open.entry(bind).or_default();
        self.accepting.spawn_local(accept::run(
            Rc::clone(&self.acceptor),
            (bind, handles.len()),
            listener,
            closed.clone(),
            Rc::clone(&closing),
        ));
        handles.push(Handle { closed, closing });
    }

    fn open_udp(&mut self, bind: SocketAddr, socket: UdpSocket) {
        let socket = match tokio::net::UdpSocket::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return error!(%bind, %error, "a socket for datagrams cannot be polled"),
        };
        let (closed, acceptor) = (CancellationToken::new(), Rc::clone(&self.acceptor));
        let sockets = self.receiving.entry(bind).or_default();
        let place = (bind, sockets.len());
        self.accepting.spawn_local(accept::udp::run(acceptor, place, socket, closed.clone()));
        sockets.push(closed);
    }

    fn close_udp(&mut self, bind: SocketAddr) {
        let receiving = self.receiving.remove(&bind);
        receiving.into_iter().flatten().for_each(|closed| closed.cancel());
    }

    fn close(&mut self, bind: SocketAddr, closing: Closing) {
        for handle in self.open.remove(&bind).into_iter().flatten() {
            handle.closing.set(closing);
            handle.closed.cancel();
        }
    }

    fn close_all(&mut self, closing: Closing) {
        while let Some((bind, _)) = self.open.first_key_value() {
            self.close(*bind, closing);
        }
        while let Some((bind, _)) = self.receiving.first_key_value() {
            self.close_udp(*bind);
        }
    }

    /// Lets connections finish, then closes the rest.
    async fn drain(mut self, grace: Duration) -> Drained {
        let deadline = Instant::now() + grace;
        let acceptor = Rc::clone(&self.acceptor);
        let Acceptor { core, connections, accepted, .. } = &*acceptor;
        let ended_before = accepted.get() - connections.len();
        let closing = if grace.is_zero() { Closing::LeaveQueue } else { Closing::EmptyQueue };
        self.close_all(closing);
        core.watchdog.drain();
        self.accepting.close();
        self.accepting.wait().await;
        connections.close();
        let left = deadline.saturating_duration_since(Instant::now());
        let _ = tokio::time::timeout(left, connections.wait()).await;
        let cut = connections.len();
        core.watchdog.cut();
        let _ = tokio::time::timeout(LAST_MOMENT, connections.wait()).await;
        core.log.flush();
        core.decisions.flush();
        Drained { finished: accepted.get() - ended_before - cut, cut }
    }
}
