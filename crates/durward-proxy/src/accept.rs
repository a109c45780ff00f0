//! Accepting connections on one core: a few in a row, with a pause while the host is out of file descriptors or memory.

pub(crate) mod udp;

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::address::canonical;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::admit::Accepted;
use crate::core::Core;
use crate::files::{self, Files};
use crate::prepared::PreparedBind;
use crate::refusal::Refusal;
use crate::session;
use crate::status::Closing;
use crate::turns::{self, Owner, Queue};

/// Connections accepted in a row before others get their turn.
const BURST: u32 = 8;
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Interval between two log lines of a core about exhausted resources: clients decide how often that happens.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);
/// Time given to TCP handshakes that began before a listening socket was closed; they complete in its accept queue. Clients of a deferred socket that have said nothing yet
/// come into the queue when the kernel repeats its SYN-ACK, a second after the first (RFC 6298 §2.1).
const LAST_HANDSHAKES: Duration = Duration::from_millis(1250);

/// Accept side of one core: its connections and their count.
pub(crate) struct Acceptor {
    /// The core.
    pub(crate) core: Rc<Core>,
    /// Tasks of the core's open connections; drain waits for them.
    pub(crate) connections: TaskTracker,
    /// Connections accepted since the start.
    pub(crate) accepted: Cell<usize>,
    /// Time of the last log line about exhausted resources.
    pub(crate) complaint: Complaint,
}

/// Builds the error for a pause that our own limit of clients causes before `accept` returns EMFILE.
fn exhausted(files: &Files) -> io::Error {
    let text = format!(
        "{} clients are all that the limit of open files allows for (ulimit -n)",
        files.clients.most()
    );
    io::Error::new(io::ErrorKind::OutOfMemory, text)
}

/// Accepts on one socket until `closed` is cancelled, then closes the socket as `closing` says at that time. `number` tells the core's sockets of the bind apart.
pub(crate) async fn run(
    acceptor: Rc<Acceptor>,
    (bind, number): (SocketAddr, usize),
    listener: TcpListener,
    closed: CancellationToken,
    closing: Rc<Cell<Closing>>,
) {
    let newcomers = acceptor.core.turns.of(&Owner::Socket(bind, number));
    acceptor.accept(bind, &newcomers, &listener, closed.cancelled()).await;
    if closing.get() == Closing::EmptyQueue {
        acceptor.accept(bind, &newcomers, &listener, tokio::time::sleep(LAST_HANDSHAKES)).await;
        if let Ok(listener) = listener.into_std() {
            acceptor.empty(&listener, &newcomers, bind);
        }
    }
}

impl Acceptor {
    async fn accept(
        &self,
        bind: SocketAddr,
        newcomers: &Rc<Queue>,
        listener: &TcpListener,
        until: impl Future<Output = ()>,
    ) {
        let mut until = pin!(until);
        let (mut pause, mut burst) = (Pause::default(), 0);
        let files = &self.core.shared.files;
        loop {
            let attempt = tokio::select! {
                biased;
                () = &mut until => return,
                attempt = listener.accept(), if !files.clients.is_full() => attempt,
                () = std::future::ready(()), if files.clients.is_full() => Err(exhausted(files)),
            };
            match attempt {
                Ok((stream, peer)) => {
                    pause.over();
                    self.let_in(stream, peer, bind, newcomers);
                    burst += 1;
                    if burst % BURST == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) if concerns_one_connection(&error) => {}
                // Connections without a tenant make room first: tenants' connections must not wait for them.
                Err(_) if files.clients.is_full() && self.core.unidentified.make_room() => {
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    self.no_room(bind, &error);
                    if files::are_exhausted(&error) {
                        self.core.upstreams.pools.make_room(None);
                    }
                    tokio::select! {
                        biased;
                        () = &mut until => return,
                        () = tokio::time::sleep(pause.next()) => {}
                    }
                }
            }
        }
    }

    fn let_in(&self, stream: TcpStream, peer: SocketAddr, bind: SocketAddr, newcomers: &Rc<Queue>) {
        let prepared = self.core.shared.prepared.load();
        let on = prepared.binds.get(&bind);
        let Ok(local) = local_addr(&stream, bind, on.map(|on| &**on)) else { return };
        // The last clients of a removed bind may belong to one that replaced it, such as a wildcard bind.
        let on = on.or_else(|| prepared.binds.get(&prepared.snapshot.bind_for(local)?.address));
        let turn = turns::QueueEntry::new(Rc::clone(newcomers));
        let accepted = Accepted {
            turn: Rc::clone(&turn),
            stream,
            peer,
            local,
            bind: on.map(Arc::clone),
            at: Instant::now(),
            core: Rc::clone(&self.core),
        };
        let place = self.core.shared.files.client();
        self.accepted.set(self.accepted.get() + 1);
        self.connections.spawn_local(turn.run(async move {
            session::serve(accepted).await;
            drop(place);
        }));
    }

    fn no_room(&self, bind: SocketAddr, error: &io::Error) {
        let refusal = Refusal::Socket(io::Error::from(error.kind()));
        self.core.shared.metrics.unknown.core(self.core.id).refused(&refusal);
        if self.complaint.is_due(Instant::now()) {
            warn!(%bind, %error, open = self.core.shared.files.clients.used(), "accepting pauses: no room for more connections");
        }
    }

    /// Accepts the connections that already wait in the queue, without waiting for more.
    fn empty(&self, listener: &StdListener, newcomers: &Rc<Queue>, bind: SocketAddr) {
        let most = 2 * crate::listeners::BACKLOG;
        for _ in 0..most {
            let Ok((stream, peer)) = listener.accept() else { return };
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                self.let_in(stream, peer, bind, newcomers);
            }
        }
    }
}

/// Returns the accepted socket's own address; `getsockname` is called only where it can differ from the bind's.
fn local_addr(
    stream: &TcpStream,
    bind: SocketAddr,
    prepared: Option<&PreparedBind>,
) -> io::Result<SocketAddr> {
    let transparent = prepared.is_some_and(|prepared| prepared.bind.mode.is_transparent());
    let known = !transparent && !bind.ip().is_unspecified();
    if known { Ok(bind) } else { stream.local_addr().map(canonical) }
}

/// Back-off between failed `accept` calls: doubles up to [`LONGEST_PAUSE`].
#[derive(Default)]
struct Pause {
    last: Option<Duration>,
}

impl Pause {
    fn next(&mut self) -> Duration {
        let next = self.last.map_or(SHORTEST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        *self.last.insert(next)
    }

    fn over(&mut self) {
        self.last = None;
    }
}

/// Rate limiter of a log line.
#[derive(Default)]
pub(crate) struct Complaint(Cell<Option<Instant>>);

impl Complaint {
    fn is_due(&self, now: Instant) -> bool {
        let due = self.0.get().is_none_or(|last| now.duration_since(last) >= COMPLAINT_EVERY);
        if due {
            self.0.set(Some(now));
        }
        due
    }
}

/// Returns true for an error of one connection: Linux reports pending network errors of a new connection from `accept` (accept(2)), and the next
/// connection is not concerned.
fn concerns_one_connection(error: &io::Error) -> bool {
    let out_of_room = [
        rustix::io::Errno::MFILE,
        rustix::io::Errno::NFILE,
        rustix::io::Errno::NOBUFS,
        rustix::io::Errno::NOMEM,
    ];
    error
        .raw_os_error()
        .is_some_and(|raw| out_of_room.iter().all(|errno| errno.raw_os_error() != raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_begin_anew() {
        let mut pause = Pause::default();

        let pauses: Vec<_> = (0..9).map(|_| pause.next().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);

        pause.over();
        assert_eq!(pause.next(), SHORTEST_PAUSE);
    }

    #[test]
    fn a_complaint_is_made_once_in_a_while() {
        let (complaint, start) = (Complaint::default(), Instant::now());

        assert!(complaint.is_due(start));
        assert!(!complaint.is_due(start + Duration::from_secs(9)));
        assert!(complaint.is_due(start + Duration::from_secs(10)));
        assert!(!complaint.is_due(start + Duration::from_secs(11)));
    }

    #[test]
    fn an_aborted_connection_is_no_reason_to_pause() {
        let error = |errno: rustix::io::Errno| io::Error::from(errno);

        assert!(concerns_one_connection(&error(rustix::io::Errno::CONNABORTED)));
        assert!(!concerns_one_connection(&error(rustix::io::Errno::MFILE)));
        assert!(!concerns_one_connection(&io::ErrorKind::OutOfMemory.into()));
    }
}
