//! Connections of checks: opened from a chosen address, polled, and ended without a reset.
//!
//! An accepted connection is shut down, and what the endpoint still sends is read for a moment: a socket that is closed with unread bytes sends a
//! reset. A connection that is not accepted in time is closed during the handshake, which sends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::schedule::{Outcome, Target};
use crate::error::NatError;
use crate::watch::Waker;

/// Time for an endpoint to end its side of a connection.
const GOODBYE: Duration = Duration::from_secs(1);
/// Bytes that the endpoint may send meanwhile.
const GOODBYE_BYTES: usize = 64 * 1024;
/// Events read from epoll at once.
const EVENTS: usize = 256;
/// epoll data of the waker; connections have smaller numbers.
const WAKER: u64 = u64::MAX;

/// Connections being checked or ended.
#[derive(Debug)]
pub(super) struct Dials {
    epoll: OwnedFd,
    connections: BTreeMap<u64, Connection>,
    deadlines: BTreeSet<(Instant, u64)>,
    by_target: BTreeMap<Target, u64>,
    /// Connections that are ending, the oldest first, and their limit; above it the oldest is closed.
    ending: BTreeSet<u64>,
    most_ending: usize,
    next: u64,
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    deadline: Instant,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Connecting { target: Target },
    Ending { left: usize },
}

impl Dials {
    /// Creates the epoll instance with the waker in it; `most_ending` connections may be ending beside those being checked.
    pub(super) fn open(waker: &Waker, most_ending: usize) -> Result<Self, NatError> {
        let kernel = |errno| NatError::Kernel { what: "events of checks", errno };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(kernel)?;
        let data = epoll::EventData::new_u64(WAKER);
        epoll::add(&epoll, waker.fd(), data, epoll::EventFlags::IN).map_err(kernel)?;
        Ok(Self {
            epoll,
            connections: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            by_target: BTreeMap::new(),
            ending: BTreeSet::new(),
            most_ending,
            next: 0,
        })
    }

    /// Starts a connect; returns the outcome if it is known at once.
    pub(super) fn connect(
        &mut self,
        target: Target,
        source: IpAddr,
        endpoint: SocketAddr,
        deadline: Instant,
    ) -> Option<Outcome> {
        match begin(source, endpoint) {
            Ok(socket) => {
                let flags = epoll::EventFlags::OUT | epoll::EventFlags::IN;
                // Numbers rise, so they sort connections by their beginning.
                let number = self.next;
                self.next += 1;
                let data = epoll::EventData::new_u64(number);
                if let Err(errno) = epoll::add(&self.epoll, &socket, data, flags) {
                    return Some(Outcome::Unchecked(io::Error::from(errno).to_string()));
                }
                self.by_target.insert(target, number);
                self.deadlines.insert((deadline, number));
                let phase = Phase::Connecting { target };
                self.connections.insert(number, Connection { socket, deadline, phase });
                None
            }
            Err(error) => Some(failed(&error)),
        }
    }

    /// Closes the connection of a check that is no longer wanted.
    pub(super) fn cancel(&mut self, target: Target) {
        if let Some(number) = self.by_target.remove(&target) {
            self.close(number);
        }
    }

    /// Waits for events, at most until `until`, and returns the outcomes.
    pub(super) fn wait(&mut self, until: Option<Instant>) -> Vec<(Target, Outcome)> {
        let first = self.deadlines.first().map(|(deadline, _)| *deadline);
        let until = until.into_iter().chain(first).min();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let mut events = Vec::with_capacity(EVENTS);
        // A wait that a signal interrupts is merely shorter.
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref());
        let numbers = events.iter().map(|event| event.data.u64()).filter(|one| *one != WAKER);
        let mut outcomes: Vec<_> = numbers
            .collect::<Vec<_>>()
            .into_iter()
            .filter_map(|number| self.proceed(number))
            .collect();
        if events.len() >= EVENTS {
            // Other outcomes are known already, also of connections past their deadline.
            return outcomes;
        }
        let now = Instant::now();
        while let Some((_, number)) = self.deadlines.first().filter(|one| one.0 <= now).copied() {
            if let Some(Phase::Connecting { target }) = self.close(number) {
                outcomes.push((target, Outcome::Failed("no answer in time".to_owned())));
            }
        }
        outcomes
    }

    /// Advances one connection.
    fn proceed(&mut self, number: u64) -> Option<(Target, Outcome)> {
        let connection = self.connections.get_mut(&number)?;
        match &mut connection.phase {
            Phase::Connecting { target } => {
                let target = *target;
                let outcome = match accepted(&connection.socket) {
                    Ok(()) => Outcome::Passed,
                    Err(error) if error.kind() == ErrorKind::NotConnected => return None,
                    Err(error) => failed(&error),
                };
                self.by_target.remove(&target);
                if outcome == Outcome::Passed {
                    self.say_goodbye(number);
                } else {
                    self.close(number);
                }
                Some((target, outcome))
            }
            Phase::Ending { left } => {
                if !goes_on(&mut &connection.socket, left) {
                    self.close(number);
                }
                None
            }
        }
    }

    /// Shuts the write side down, and gives the endpoint a moment to end its side.
    fn say_goodbye(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        self.deadlines.remove(&(connection.deadline, number));
        connection.deadline = Instant::now() + GOODBYE;
        connection.phase = Phase::Ending { left: GOODBYE_BYTES };
        self.deadlines.insert((connection.deadline, number));
        let data = epoll::EventData::new_u64(number);
        let said = connection.socket.shutdown(Shutdown::Write).is_ok()
            && epoll::modify(&self.epoll, &connection.socket, data, epoll::EventFlags::IN).is_ok();
        self.ending.insert(number);
        if !said {
            self.close(number);
        }
        if self.ending.len() > self.most_ending
            && let Some(oldest) = self.ending.first().copied()
        {
            self.close(oldest);
        }
    }

    /// Closes a connection; the kernel removes it from epoll.
    fn close(&mut self, number: u64) -> Option<Phase> {
        let connection = self.connections.remove(&number)?;
        self.deadlines.remove(&(connection.deadline, number));
        self.ending.remove(&number);
        if let Phase::Connecting { target } = connection.phase {
            self.by_target.remove(&target);
        }
        Some(connection.phase)
    }
}

fn begin(source: IpAddr, endpoint: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(endpoint), kind, Some(Protocol::TCP))?;
    // A port chosen by `bind` would be taken for all destinations; this leaves the choice to `connect`.
    let _kernel_may_lack_it = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
    socket.bind(&SocketAddr::new(source, 0).into())?;
    match socket.connect(&endpoint.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket),
    }
}

/// Fails unless the connection was accepted; a TCP self-connect counts as refused.
fn accepted(socket: &Socket) -> io::Result<()> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    let peer = socket.peer_addr()?.as_socket();
    if socket.local_addr()?.as_socket() == peer {
        return Err(io::Error::new(
            ErrorKind::ConnectionRefused,
            "TCP self-connect: nothing listens there",
        ));
    }
    Ok(())
}

/// Reads what an endpoint still sends; returns true if it may send more.
fn goes_on(socket: &mut &Socket, left: &mut usize) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => *left = left.saturating_sub(length),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
        if *left == 0 {
            return false;
        }
    }
}

/// Returns the outcome of an error: a failure of the endpoint or the network, or a fault of this host.
pub(super) fn failed(error: &io::Error) -> Outcome {
    const OWN: [Errno; 8] = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        Errno::ADDRINUSE,
        Errno::PERM,
        Errno::ACCESS,
    ];
    let own =
        error.raw_os_error().is_some_and(|raw| OWN.iter().any(|one| one.raw_os_error() == raw));
    if own { Outcome::Unchecked(error.to_string()) } else { Outcome::Failed(error.to_string()) }
}
