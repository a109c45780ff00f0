//! Receiving datagrams on one core: each goes to the session of its client's address and port, or begins one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Acceptor;
use crate::admit::sessions;
use crate::admitted::AdmittedSession;
use crate::metrics::Counter;
use crate::turns::{self, Owner, QueueEntry};
use crate::udp::{self, Inlet};

/// Datagrams received in a row before other tasks run.
const BURST: usize = 64;
/// Bytes of the longest datagram.
const LONGEST: usize = 65_535;
/// Interval between two access-log lines about datagrams that are refused at one socket. All are counted.
const REFUSALS_EVERY: Duration = Duration::from_secs(1);
/// Pause after a failed receive.
const PAUSE: Duration = Duration::from_millis(100);

thread_local! {
    static RECEIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; LONGEST].into_boxed_slice());
}

/// One socket of a bind.
struct Receiver {
    acceptor: Rc<Acceptor>,
    bind: SocketAddr,
    socket: Rc<UdpSocket>,
    sessions: Rc<Sessions>,
    /// Place in the core's scheduling of turns: that of the tenant of the last session that began.
    turn: Rc<QueueEntry>,
    /// Time of the last access-log line about a refused datagram.
    refused: Cell<Option<Instant>>,
}

/// Sessions of one socket, by the client's address and port.
#[derive(Default)]
struct Sessions(RefCell<HashMap<SocketAddr, Rc<Inlet>>>);

impl Sessions {
    /// Takes a session out, unless another has its place.
    fn leave(&self, client: SocketAddr, inlet: &Rc<Inlet>) {
        let mut sessions = self.0.borrow_mut();
        if sessions.get(&client).is_some_and(|there| Rc::ptr_eq(there, inlet)) {
            sessions.remove(&client);
        }
    }
}

/// Receives on one socket until `closed` is cancelled. Its sessions may still answer from it then. `number` tells the core's sockets of the bind apart.
pub(crate) async fn run(
    acceptor: Rc<Acceptor>,
    (bind, number): (SocketAddr, usize),
    socket: UdpSocket,
    closed: CancellationToken,
) {
    let turn = QueueEntry::new(acceptor.core.turns.of(&Owner::Socket(bind, number)));
    let receiver = Receiver {
        turn: Rc::clone(&turn),
        acceptor,
        bind,
        socket: Rc::new(socket),
        sessions: Rc::default(),
        refused: Cell::default(),
    };
    // Datagrams of one tenant take no more of a core than its connections do.
    let _ = turn.run(closed.run_until_cancelled(receiver.receive())).await;
}

impl Receiver {
    async fn receive(&self) {
        loop {
            if let Err(error) = self.socket.readable().await {
                // The socket's own fault is none that a client caused.
                warn!(bind = %self.bind, %error, "receiving UDP pauses");
                tokio::time::sleep(PAUSE).await;
            }
            RECEIVED.with_borrow_mut(|buffer| self.burst(buffer));
            tokio::task::yield_now().await;
        }
    }

    /// Takes the datagrams that are there, up to a number of them.
    fn burst(&self, buffer: &mut [u8]) {
        for _ in 0..BURST {
            match self.socket.try_recv_from(buffer) {
                Ok((bytes, client)) => self.take(&buffer[..bytes], client),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // An ICMP message about an earlier answer.
                Err(_) => {}
            }
        }
    }

    fn take(&self, datagram: &[u8], client: SocketAddr) {
        turns::spend(datagram.len());
        let known = self.sessions.0.borrow().get(&client).cloned();
        let inlet = match known {
            Some(inlet) => inlet,
            None => match self.begin(client) {
                Some(inlet) => inlet,
                None => return,
            },
        };
        if !inlet.push(datagram) {
            self.dropped();
        }
    }

    /// Begins a session; `None` if the client is refused.
    fn begin(&self, client: SocketAddr) -> Option<Rc<Inlet>> {
        let core = &self.acceptor.core;
        let admitted = match sessions::enter(core, self.bind, client) {
            Ok(admitted) => admitted,
            Err(refused) => {
                let now = Instant::now();
                let last = self.refused.get();
                let is_due = last.is_none_or(|last| now.duration_since(last) >= REFUSALS_EVERY);
                if is_due {
                    self.refused.set(Some(now));
                }
                refused.record(core, is_due);
                return None;
            }
        };
        let inlet = Rc::<Inlet>::default();
        self.sessions.0.borrow_mut().insert(client, Rc::clone(&inlet));
        self.serve(admitted, client, Rc::clone(&inlet));
        Some(inlet)
    }

    fn serve(&self, admitted: AdmittedSession, client: SocketAddr, inlet: Rc<Inlet>) {
        let Acceptor { core, connections, accepted, .. } = &*self.acceptor;
        let owner = Owner::Tenant(admitted.view.listener().tenant.clone());
        let queue = core.turns.of(&owner);
        self.turn.belong_to(Rc::clone(&queue));
        let turn = QueueEntry::new(queue);
        let (sessions, own) = (Rc::clone(&self.sessions), Rc::clone(&inlet));
        let leave = move || sessions.leave(client, &own);
        let socket = Rc::clone(&self.socket);
        accepted.set(accepted.get() + 1);
        connections.spawn_local(turn.run(async move {
            Box::pin(udp::serve(admitted, inlet, socket, leave)).await;
        }));
    }

    /// Counts a datagram of a known client that is dropped.
    fn dropped(&self) {
        let core = &self.acceptor.core;
        let prepared = core.shared.prepared.load();
        let listener = prepared.udp.get(&self.bind).and_then(|bind| bind.listeners.first());
        if let Some(Some(listener)) = listener {
            listener.tenant.metrics.core(core.id).add(Counter::UdpDatagramsDropped, 1);
        }
    }
}
