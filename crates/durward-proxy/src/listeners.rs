//! Listening sockets: one per bind and core, opened and closed without touching the others.
//!
//! A duplicate of each socket is kept for a hand-over.

mod socket;
mod udp;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durward_model::address::canonical;
use durward_model::transport::Transport;
use tracing::{info, warn};

use crate::prepared::PreparedBind;
use crate::present::{PresentAddresses, can_bind};
use crate::status::{BindReport, BindState};
use socket::Options;
pub(crate) use udp::{Receivers, UdpOpened, divide};

/// Backlog of a listening socket; the kernel's `net.core.somaxconn` bounds it too.
pub(crate) const BACKLOG: i32 = 4096;
/// Lanes of a bind, at most.
const LANES: usize = 128;
/// Time after closing a bind during which a socket found at its address may be our own.
const CLOSING: Duration = Duration::from_secs(5);

/// All listening sockets of the process.
pub(crate) struct Listeners {
    cores: usize,
    /// Sockets that all lanes may have.
    lane_sockets: usize,
    /// True to listen at addresses where another process listens.
    shared: bool,
    inherited: Vec<TcpListener>,
    open: BTreeMap<SocketAddr, OpenBind>,
    failed: BTreeMap<SocketAddr, String>,
    /// Binds that were closed, with the time: the cores may not have closed their sockets yet.
    closed: BTreeMap<SocketAddr, Instant>,
}

struct OpenBind {
    options: Options,
    /// True if the host had the address at the last [`Listeners::log_moves`].
    present: bool,
    sockets: Vec<Held>,
}

/// Duplicate of a listening socket.
struct Held {
    socket: TcpListener,
    /// True if no other process has the socket: no service manager, predecessor or successor.
    alone: bool,
}

/// Sockets for the cores, to be distributed in turn.
pub(crate) struct Opened {
    /// Address of the sockets.
    pub(crate) bind: SocketAddr,
    /// At least one per core.
    pub(crate) sockets: Vec<TcpListener>,
}

impl Listeners {
    /// Starts with the inherited sockets only, which wait for a bind that claims them.
    pub(crate) fn new(
        (cores, lane_sockets): (usize, usize),
        inherited: Vec<TcpListener>,
        shared: bool,
    ) -> Self {
        Self {
            cores,
            lane_sockets,
            shared,
            inherited,
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
            closed: BTreeMap::new(),
        }
    }

    /// Opens the wanted binds that are not open yet.
    pub(crate) fn open(&mut self, wanted: &BTreeMap<SocketAddr, Arc<PreparedBind>>) -> Vec<Opened> {
        self.failed.clear();
        let mut opened = Vec::new();
        let (lanes, mut left) = (self.lanes(wanted), self.left_for_lanes());
        for (address, bind) in wanted {
            let options = Options {
                transparent: bind.bind.mode.is_transparent(),
                deferred: bind.bind.clients_speak_first(),
                lanes: if bind.bind.is_shared() { lanes } else { 1 },
            };
            match self.open_one(*address, options, &mut left) {
                Ok(sockets) => opened.extend(sockets),
                Err(error) => {
                    self.failed.insert(*address, describe(*address, options, &error));
                }
            }
        }
        opened
    }

    /// Opens a bind, or changes an open one. `left` sockets may be opened for lanes.
    fn open_one(
        &mut self,
        address: SocketAddr,
        options: Options,
        left: &mut usize,
    ) -> io::Result<Option<Opened>> {
        if let Some(open) = self.open.get_mut(&address) {
            for held in &open.sockets {
                socket::change(&held.socket, address, open.options, options)?;
            }
            // Lanes that are open stay: what waits in their queues would be lost.
            let lanes = options.lanes.max(open.options.lanes);
            open.options = Options { lanes, ..options };
            let before = open.sockets.len();
            open.widen(address, self.cores, left);
            let added = open.duplicates(before)?;
            if !added.is_empty() {
                open.choose_by_source(address, self.cores);
            }
            return Ok((!added.is_empty()).then_some(Opened { bind: address, sockets: added }));
        }
        let sockets = self.sockets(address, options)?;
        let present = options.transparent || can_bind(address.ip());
        let mut open = OpenBind { options, present, sockets };
        open.widen(address, self.cores, left);
        open.choose_by_source(address, self.cores);
        let opened = open.duplicates(0)?;
        self.open.insert(address, open);
        Ok(Some(Opened { bind: address, sockets: opened }))
    }

    /// Returns inherited sockets first, and new ones for the remaining cores; if those cannot be opened, cores share the inherited ones.
    fn sockets(&mut self, address: SocketAddr, options: Options) -> io::Result<Vec<Held>> {
        let (inherited, others) = std::mem::take(&mut self.inherited)
            .into_iter()
            .partition::<Vec<_>, _>(|inherited| socket::listens_on(inherited, address));
        self.inherited = others;
        for socket in &inherited {
            socket::adopt(socket, address, options)?;
        }
        let given = inherited.len();
        if given == 0 && !self.shared && !self.may_meet_itself(address) {
            socket::ensure_free(address, options.transparent)?;
        }
        let shared = |socket| Held { socket, alone: false };
        let mut sockets: Vec<_> = inherited.into_iter().map(shared).collect();
        for core in given..self.cores {
            match socket::open(address, options) {
                Ok(socket) => sockets.push(Held { socket, alone: true }),
                Err(_) if given > 0 => {
                    sockets.push(shared(sockets[core % given].socket.try_clone()?));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(sockets)
    }

    /// Returns the lanes of each bind that several tenants share. Beside another process there are none: its sockets would not be chosen.
    fn lanes(&self, wanted: &BTreeMap<SocketAddr, Arc<PreparedBind>>) -> usize {
        let binds = wanted.values().filter(|bind| bind.bind.is_shared()).count();
        let lanes = self.lane_sockets / (self.cores * binds.max(1));
        if self.shared { 1 } else { lanes.clamp(1, LANES) }
    }

    /// Returns the sockets that lanes may have yet: earlier binds may have more than their part of today.
    fn left_for_lanes(&self) -> usize {
        let beyond = |open: &OpenBind| open.sockets.len().saturating_sub(self.cores);
        self.lane_sockets.saturating_sub(self.open.values().map(beyond).sum())
    }

    /// Returns true if a socket of our own may occupy the address: a wildcard one, one not closed yet, or an unclaimed inherited one.
    fn may_meet_itself(&self, address: SocketAddr) -> bool {
        let meets = |own: &SocketAddr| {
            let everywhere = own.ip().is_unspecified() || address.ip().is_unspecified();
            own.port() == address.port() && (everywhere || own == &address)
        };
        let closing = self.closed.iter().filter(|(_, since)| since.elapsed() < CLOSING);
        let given = self.inherited.iter().filter_map(|socket| socket.local_addr().ok());
        let own = self.open.keys().chain(closing.map(|(own, _)| own));
        own.copied().chain(given.map(canonical)).any(|own| meets(&own))
    }

    /// Closes the binds that are not wanted any more and returns their addresses; the cores must close theirs too.
    pub(crate) fn close(
        &mut self,
        wanted: &BTreeMap<SocketAddr, Arc<PreparedBind>>,
    ) -> Vec<SocketAddr> {
        let gone: Vec<_> =
            self.open.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        self.closed.retain(|_, since| since.elapsed() < CLOSING);
        for address in &gone {
            self.open.remove(address).iter().for_each(OpenBind::divert);
            self.closed.insert(*address, Instant::now());
        }
        gone
    }

    /// Closes the inherited sockets that no bind claimed, because no task would ever accept on them.
    pub(crate) fn close_unclaimed(&mut self) -> Vec<SocketAddr> {
        let unclaimed = std::mem::take(&mut self.inherited);
        unclaimed.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Returns the file descriptors in use, the cores' own duplicates included.
    pub(crate) fn files(&self) -> usize {
        2 * self.open.values().map(|open| open.sockets.len()).sum::<usize>()
    }

    /// Returns true if a bind could not be opened.
    pub(crate) fn any_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Logs each address that this host got or lost since the last call.
    pub(crate) fn log_moves(&mut self) {
        let host = PresentAddresses::now();
        for (address, open) in self.open.iter_mut().filter(|(_, open)| !open.options.transparent) {
            let present = host.has(address.ip());
            match (std::mem::replace(&mut open.present, present), present) {
                (true, false) => {
                    warn!(%address, "the listener's address left this host: nothing arrives until it is back");
                }
                (false, true) => info!(%address, "the listener's address is on this host now"),
                (true, true) | (false, false) => {}
            }
        }
    }

    /// Returns the current state of every wanted bind.
    pub(crate) fn reports(&self) -> Vec<BindReport> {
        let host = PresentAddresses::now();
        let open = self.open.iter().map(|(address, open)| {
            let present = open.options.transparent || host.has(address.ip());
            let state = if present { BindState::Bound } else { BindState::AddressNotLocal };
            (*address, state)
        });
        let failed =
            self.failed.iter().map(|(address, why)| (*address, BindState::Failed(why.clone())));
        let all: BTreeMap<_, _> = open.chain(failed).collect();
        let report = |(address, state)| BindReport { transport: Transport::Tcp, address, state };
        all.into_iter().map(report).collect()
    }

    /// Duplicates all sockets for a successor.
    pub(crate) fn duplicates(&mut self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let all = self.open.iter_mut();
        let sockets = all
            .flat_map(|(address, open)| open.sockets.iter_mut().map(move |held| (*address, held)));
        sockets
            .map(|(address, held)| {
                held.alone = false;
                Ok((address, held.socket.try_clone()?.into()))
            })
            .collect()
    }

    /// Closes all sockets.
    pub(crate) fn close_all(&mut self) {
        self.open.values().for_each(OpenBind::divert);
        self.open.clear();
        self.inherited.clear();
    }
}

impl OpenBind {
    /// Opens the sockets that its lanes lack, as far as `left` allows.
    fn widen(&mut self, address: SocketAddr, cores: usize, left: &mut usize) {
        while self.options.lanes > 1 && self.sockets.len() < self.options.lanes * cores && *left > 0
        {
            let Ok(socket) = socket::open(address, self.options) else { break };
            self.sockets.push(Held { socket, alone: true });
            *left -= 1;
        }
    }

    /// Lets the kernel choose among the sockets by source. Where it cannot, it spreads connections over all of them alike.
    fn choose_by_source(&self, address: SocketAddr, cores: usize) {
        let lanes = self.sockets.len() / cores;
        let wants = lanes > 1 && self.options.lanes > 1;
        let Some(first) = self.sockets.first().filter(|_| wants) else { return };
        if let Err(error) = socket::choose_by_source(&first.socket, lanes, cores) {
            warn!(%address, %error, "clients share their queues: a flood from one of them delays all");
        }
    }

    /// Duplicates the sockets from this position on.
    fn duplicates(&self, from: usize) -> io::Result<Vec<TcpListener>> {
        self.sockets[from..].iter().map(|held| held.socket.try_clone()).collect()
    }

    /// Diverts new clients from sockets that only we have, so that the accept queues can be emptied before they are closed.
    fn divert(&self) {
        for held in self.sockets.iter().filter(|held| held.alone) {
            socket::divert(&held.socket);
        }
    }
}

fn describe(address: SocketAddr, options: Options, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "another process listens on {address}; stop it, use another port, or share it with another Durward (--share-addresses)"
            )
        }
        io::ErrorKind::PermissionDenied if options.transparent => {
            "a transparent socket needs CAP_NET_ADMIN".to_owned()
        }
        io::ErrorKind::PermissionDenied => format!(
            "port {} needs CAP_NET_BIND_SERVICE or a lower net.ipv4.ip_unprivileged_port_start",
            address.port()
        ),
        _ => error.to_string(),
    }
}
