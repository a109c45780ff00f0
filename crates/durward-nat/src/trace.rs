//! Traces of packets in the kernel: each step of matching packets through all tables, in words where the rule is Durward's.
//!
//! A trace has a table of its own, which the kernel removes with the process (Linux 5.12). Drops outside of nftables are not reported; of such a
//! packet the trace shows how far it came.

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
use crate::error::NatError;
use crate::netlink::{Family, Socket};
use crate::nftables::listing::{self, Listing};
use crate::nftables::table::{Ownership, TRACE_GROUP, is_trace};
use crate::nftables::{Ruleset, Table, TableError};
use crate::rtnetlink::Rtnetlink;
use packet::Ways;
pub use report::{End, Packet, Step};
pub use ruleset::Filter;
pub use words::reason;

/// Pause between two listings of all rules that unknown handles cause.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Traces started by this process, to give each a name.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// Options of a trace.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of Durward's table, from which the trace's is derived.
    pub table: String,
    /// Packets to trace.
    pub filter: Filter,
    /// Packets per second at most.
    pub per_second: u64,
    /// Model, for the names of mappings.
    pub model: Option<Arc<NatModel>>,
    /// Timeout of the kernel's answers.
    pub timeout: Duration,
}

/// Counters of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets that matched.
    pub matched: u64,
    /// Packets that were traced.
    pub traced: u64,
    /// Times the kernel reported more than could be read, so that steps are missing.
    pub lost: u64,
}

/// Running trace; ends when it is dropped, or with its process.
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
    /// Rules by handle.
    listing: Listing,
    /// Contents of Durward's own table, for tenants' names and allowed sources.
    ours: Ruleset,
    links: BTreeMap<u32, String>,
    read: Instant,
}

impl Tracer {
    /// Starts the trace.
    ///
    /// # Errors
    /// Fails without CAP_NET_ADMIN, or if the kernel cannot trace.
    pub fn start(options: Options) -> Result<Self, NatError> {
        let socket = |what| move |error| NatError::Socket { what, error };
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-{number}", prefix(&options.table), std::process::id());
        // The socket listens before tracing is enabled, so that no step is missed.
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

    /// Returns the name of the trace's table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.name
    }

    /// Returns the next finished packet; `None` if there is none until then.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
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

    /// Returns the packets that are not finished, at the end of the trace.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    pub fn rest(&mut self) -> Result<Option<Packet>, NatError> {
        self.hear()?;
        self.ended(Instant::now(), true)
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
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
        // A wait that a signal interrupts is merely shorter.
        let _ = poll(&mut fds, Some(&timeout));
    }
}

impl Drop for Tracer {
    /// Deletes the table on older kernels; newer ones delete an owned table by themselves.
    fn drop(&mut self) {
        if let Err(error) = self.table.delete() {
            tracing::warn!(%error, table = self.name, "the trace's table stays; `durward nat cleanup` takes it away");
        }
    }
}

fn prefix(table: &str) -> String {
    format!("{table}-trace-")
}

/// Deletes tables that traces of killed processes left; those of running ones stay.
///
/// # Errors
/// Fails if the kernel refuses.
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
