//! What the kernel really does with packets: each step of matching ones through all tables, in words where it is Durward's.
//!
//! It has a table of its own while it runs, which the kernel takes away with the process (Linux 5.12). Deliberately absent: what is
//! dropped outside of nftables; of such a packet it says how far it came.

mod event;
pub mod header;
mod packet;
mod report;
mod ruleset;
mod words;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use durward_model::mapping::NatModel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::conntrack::Conntrack;
use crate::engine::NatError;
use crate::netlink::{Family, Socket};
use crate::nftables::listing::{self, Listing};
use crate::nftables::table::{Ownership, TRACE_GROUP, is_trace};
use crate::nftables::{Ruleset, Table, TableError};
use crate::rtnetlink::Rtnetlink;
use packet::Ways;
pub use report::{End, Packet, Step};
pub use ruleset::Filter;
pub use words::reason;

/// Between two readings of all rules because one was not known.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Traces of this process, for their names.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// What is traced, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of Durward's table, which the others are named after.
    pub table: String,
    /// Which packets.
    pub filter: Filter,
    /// At most so many packets a second.
    pub per_second: u64,
    /// For the names of mappings.
    pub model: Option<Arc<NatModel>>,
    /// How long the kernel may take for an answer.
    pub timeout: Duration,
}

/// How much was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets that matched.
    pub matched: u64,
    /// Those of them that were traced.
    pub traced: u64,
    /// How often the kernel told more than could be read, so that steps are missing.
    pub lost: u64,
}

/// A trace that runs; it ends when it is dropped, or its process is.
#[derive(Debug)]
pub struct Tracer {
    options: Options,
    socket: Socket,
    table: Table,
    name: String,
    ways: Ways,
    lost: u64,
    route: Rtnetlink,
    conntrack: Conntrack,
    /// What the rules' numbers stand for.
    listing: Listing,
    /// Durward's own table, for tenants' names and allowed sources.
    ours: Ruleset,
    links: BTreeMap<u32, String>,
    read: Instant,
}

impl Tracer {
    /// Begins.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or when the kernel cannot trace.
    pub fn start(options: Options) -> Result<Self, NatError> {
        let socket = |what| move |error| NatError::Socket { what, error };
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-{number}", prefix(&options.table), std::process::id());
        // Heard before it is asked for, so that nothing is missed.
        let heard = Socket::open(Family::Netfilter, TRACE_GROUP, options.timeout);
        let heard = heard.map_err(socket("the way of packets"))?;
        let route = Rtnetlink::open(options.timeout).map_err(socket("interfaces"))?;
        let conntrack = Conntrack::open(options.timeout).map_err(socket("connection tracking"))?;
        let mut table = Table::open(&name, Ownership::Fleeting, options.timeout)?;
        table.bring_to(&ruleset::ruleset(&options.filter, options.per_second))?;
        let mut tracer = Self {
            options,
            socket: heard,
            table,
            name,
            ways: Ways::default(),
            lost: 0,
            route,
            conntrack,
            listing: Listing::default(),
            ours: Ruleset::default(),
            links: BTreeMap::new(),
            read: Instant::now(),
        };
        tracer.read_names()?;
        Ok(tracer)
    }

    /// The name of its table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.name
    }

    /// The next packet that has come to its end; `None` when there is none until then.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn next(&mut self, until: Instant) -> Result<Option<Packet>, NatError> {
        loop {
            self.hear()?;
            let now = Instant::now();
            if let Some(packet) = self.ended(now, false)? {
                return Ok(Some(packet));
            }
            if now >= until {
                return Ok(None);
            }
            self.wait(self.ways.due().map_or(until, |due| due.min(until)));
        }
    }

    /// Packets that have not come to their end, at the end of all.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn rest(&mut self) -> Result<Option<Packet>, NatError> {
        self.hear()?;
        self.ended(Instant::now(), true)
    }

    /// How much was told.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn tally(&self) -> Result<Tally, NatError> {
        let counters = self.table.counters()?;
        let packets = |name: &str| counters.get(name).map_or(0, |count| count.packets);
        let (matched, traced) = (packets(ruleset::MATCHED), packets(ruleset::TRACED));
        Ok(Tally { matched, traced, lost: self.lost })
    }

    fn hear(&mut self) -> Result<(), NatError> {
        loop {
            let now = Instant::now();
            match self.socket.receive_now() {
                Ok(messages) if messages.is_empty() => return Ok(()),
                Ok(messages) => {
                    let events =
                        messages.iter().filter(|one| is_trace(one)).filter_map(event::read);
                    let others = prefix(&self.options.table);
                    for event in events {
                        if event.table == self.name || !event.table.starts_with(&others) {
                            self.ways.take(event, &self.name, now);
                        }
                    }
                }
                Err(Errno::NOBUFS) => self.lost += 1,
                Err(errno) => return Err(NatError::Kernel { what: "the way of packets", errno }),
            }
        }
    }

    fn ended(&mut self, now: Instant, all: bool) -> Result<Option<Packet>, NatError> {
        while let Some(way) = self.ways.next(now, all) {
            let known = way.events.iter().all(|event| {
                event.handle.is_none_or(|handle| {
                    let table = (event.family, event.table.clone());
                    self.listing.rules.contains_key(&(table, handle))
                })
            });
            if !known && now.duration_since(self.read) >= READ_AGAIN {
                self.read_names()?;
            }
            if let Some(packet) = self.report(&way) {
                return Ok(Some(packet));
            }
        }
        Ok(None)
    }

    fn read_names(&mut self) -> Result<(), NatError> {
        self.listing = Listing::read(self.options.timeout)?;
        let table = Table::open(&self.options.table, Ownership::Shared, self.options.timeout)?;
        self.ours = table.read()?.ruleset;
        let links = self.route.links(0);
        let links = links.map_err(|errno| NatError::Kernel { what: "interfaces", errno })?;
        self.links = links.into_iter().map(|link| (link.index, link.name)).collect();
        self.read = Instant::now();
        Ok(())
    }

    fn wait(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, Some(&timeout));
    }
}

impl Drop for Tracer {
    /// The kernel takes an owned table away by itself; an older kernel's is taken away here.
    fn drop(&mut self) {
        if let Err(error) = self.table.delete() {
            tracing::warn!(%error, table = self.name, "the trace's table stays; `durward nat cleanup` takes it away");
        }
    }
}

fn prefix(table: &str) -> String {
    format!("{table}-trace-")
}

/// Takes away what traces of killed processes left; those that run keep theirs.
///
/// # Errors
/// When the kernel refuses.
pub fn cleanup(table: &str, timeout: Duration) -> Result<(), NatError> {
    let prefix = prefix(table);
    for name in listing::tables(timeout)?.iter().filter(|name| name.starts_with(&prefix)) {
        match Table::open(name, Ownership::Shared, timeout)?.delete() {
            Ok(()) | Err(TableError::Forbidden) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
