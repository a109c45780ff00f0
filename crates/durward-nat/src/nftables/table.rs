//! One nftables table of the kernel: read whole, changed in transactions, owned where the kernel supports that.
//!
//! A transaction is one datagram; it names the generation it was computed for, and the kernel refuses it if that has passed.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::io::Errno;
use thiserror::Error;

use super::batch::Batch;
use super::changes::Changes;
use super::decode;
use super::ruleset::Ruleset;
use super::uapi::{HEADER, INET, msg, table_flag};
use crate::netlink::{Builder, Family, Socket, flags};

/// Tries of a transaction, because other programs may change rulesets at the same time.
const ATTEMPTS: usize = 50;

/// Handle on a table of family `inet`.
#[derive(Debug)]
pub struct Table {
    socket: Socket,
    name: String,
    ownership: Ownership,
    /// True if this process has changed the table, and so owns it where that is supported.
    taken: bool,
}

/// Protection of the table from changes by other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Only this process can change it, and it stays when the process ends (Linux 6.9 and later).
    Ours,
    /// Only this process can change it, and the kernel deletes it when the process ends (Linux 5.12 and later).
    Fleeting,
    /// Every process with CAP_NET_ADMIN can change it.
    Shared,
}

/// Contents of the table at one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// True if the table exists.
    pub exists: bool,
    /// Contents of the table.
    pub ruleset: Ruleset,
    /// Generation of the contents.
    pub generation: u32,
}

/// Packets and bytes of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Error of a transaction or dump.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// Another program changed a ruleset meanwhile: read it again.
    #[error("the ruleset changed meanwhile")]
    Outdated,
    /// The process lacks CAP_NET_ADMIN, or another process owns the table.
    #[error(
        "not allowed to change the packet filter (CAP_NET_ADMIN, or another owner of the table)"
    )]
    Forbidden,
    /// The kernel refused one object.
    #[error("the kernel refused {object}: {errno}")]
    Refused {
        /// Refused object, such as `rule 2 of chain nat4`.
        object: String,
        /// Error of the kernel.
        #[source]
        errno: Errno,
    },
    /// The socket failed.
    #[error("netlink failed")]
    Socket {
        /// Error of the socket.
        #[source]
        errno: Errno,
    },
}

impl Table {
    /// Opens a handle on the table of this name, in the network namespace of the calling thread. Changes nothing yet.
    ///
    /// # Errors
    /// Fails if no netlink socket can be opened.
    pub fn open(name: &str, ownership: Ownership, timeout: Duration) -> Result<Self, TableError> {
        let socket = Socket::open(Family::Netfilter, 0, timeout).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            TableError::Socket { errno }
        })?;
        Ok(Self { socket, name: name.to_owned(), ownership, taken: false })
    }

    /// Returns the protection of the table, as it is after the first transaction.
    #[must_use]
    pub const fn ownership(&self) -> Ownership {
        self.ownership
    }

    pub(super) const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Reads the table.
    ///
    /// # Errors
    /// Fails if the kernel does not answer, or the table changes too often to be read.
    pub fn read(&self) -> Result<Held, TableError> {
        for _ in 0..20 {
            let before = self.generation()?;
            let held = self.read_once(before);
            let after = self.generation()?;
            match held {
                Ok(held) if before == after => return Ok(held),
                // The object vanished between the two dumps.
                Err(TableError::Socket { errno: Errno::NOENT }) | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Err(TableError::Outdated)
    }

    /// Reads the generation that all rulesets share.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    pub fn generation(&self) -> Result<u32, TableError> {
        let answer = self.socket.get(msg::GETGEN, |to| header(to, 0)).map_err(socket_error)?;
        Ok(answer.and_then(|answer| answer.attributes(HEADER).be32(1)).unwrap_or_default())
    }

    /// Makes all changes or none; they were computed for `generation`. Returns the next generation.
    ///
    /// # Errors
    /// `Outdated` if the generation has passed; otherwise the kernel's refusal.
    pub fn change(&mut self, generation: u32, changes: &Changes) -> Result<u32, TableError> {
        let mut result = self.try_change(generation, changes);
        let unknown = matches!(&result, Err(TableError::Refused { object, errno })
            if object == "the table" && matches!(*errno, Errno::OPNOTSUPP | Errno::INVAL));
        if unknown && self.ownership != Ownership::Shared {
            // The kernel lacks the `persist` flag, or the table was created without an owner.
            self.ownership = Ownership::Shared;
            result = self.try_change(generation, changes);
        }
        self.taken |= result.is_ok();
        result
    }

    /// Takes ownership of the table that an earlier process left, where that is supported; its contents stay.
    ///
    /// # Errors
    /// `Outdated` if the generation has passed; fails if another process owns the table.
    pub fn take(&mut self, generation: u32) -> Result<(), TableError> {
        if self.taken {
            return Ok(());
        }
        self.change(generation, &Changes::default()).map(|_| ())
    }

    /// Makes the table hold exactly `desired`, whatever other programs do meanwhile; returns true if anything had to be changed.
    ///
    /// # Errors
    /// Returns the kernel's refusal.
    pub fn bring_to(&mut self, desired: &Ruleset) -> Result<bool, TableError> {
        for _ in 0..ATTEMPTS {
            let held = self.read()?;
            let changes = Changes::between(&held.ruleset, desired);
            if changes.is_empty() && held.exists && self.taken {
                return Ok(false);
            }
            match self.change(held.generation, &changes) {
                Ok(_) => return Ok(!changes.is_empty() || !held.exists),
                Err(TableError::Outdated) => {}
                Err(error) => return Err(error),
            }
        }
        Err(TableError::Outdated)
    }

    /// Deletes the table, if it exists.
    ///
    /// # Errors
    /// Fails if the kernel refuses.
    pub fn delete(&mut self) -> Result<(), TableError> {
        let generation = self.generation()?;
        let mut batch = Batch::begin(&self.socket, generation);
        let name = self.name.clone();
        batch.add("the table", msg::DELTABLE, 0, |to| {
            to.text(1, &name);
        });
        match batch.commit() {
            Err(TableError::Refused { errno: Errno::NOENT, .. }) | Ok(_) => Ok(()),
            Err(TableError::Outdated) => self.delete(),
            Err(error) => Err(error),
        }
    }

    /// Reads the named counters.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    pub fn counters(&self) -> Result<BTreeMap<String, Count>, TableError> {
        let found = self.dump(msg::GETOBJ)?;
        Ok(found
            .iter()
            .filter_map(|message| decode::counter(message.attributes(HEADER)))
            .map(|(name, packets, bytes)| (name, Count { packets, bytes }))
            .collect())
    }

    /// Reads the packets of each element of a counting set, by key.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    pub fn element_packets(&self, set: &str) -> Result<BTreeMap<Vec<u8>, u64>, TableError> {
        Ok(self.elements(set)?.packets())
    }

    fn read_once(&self, generation: u32) -> Result<Held, TableError> {
        let table = self.socket.get(msg::GETTABLE, |to| {
            header(to, 0);
            to.text(1, &self.name);
        });
        if table.map_err(socket_error)?.is_none() {
            return Ok(Held { exists: false, ruleset: Ruleset::default(), generation });
        }
        let mut ruleset = Ruleset::default();
        for message in self.dump(msg::GETCHAIN)? {
            ruleset.chains.extend(decode::chain(message.attributes(HEADER)));
        }
        for message in self.dump(msg::GETRULE)? {
            if let Some((chain, rule)) = decode::rule(message.attributes(HEADER)) {
                ruleset.chains.entry(chain).or_default().rules.push(rule);
            }
        }
        for message in self.dump(msg::GETSET)? {
            if let Some((name, mut set)) = decode::set(message.attributes(HEADER)) {
                set.elements = self.elements(&name)?.elements(set.interval);
                ruleset.sets.insert(name, set);
            }
        }
        ruleset.counters = self.counters()?.into_keys().collect();
        Ok(Held { exists: true, ruleset, generation })
    }

    fn elements(&self, set: &str) -> Result<decode::Collected, TableError> {
        let dump = self.socket.dump(msg::GETSETELEM, |to| {
            header(to, 0);
            to.text(1, &self.name).text(2, set);
        });
        let mut collected = decode::Collected::default();
        for message in dump.map_err(socket_error)? {
            collected.take(message.attributes(HEADER));
        }
        Ok(collected)
    }

    /// Dumps all objects of a kind in all tables.
    pub(super) fn dump_all(&self, kind: u16) -> Result<Vec<crate::netlink::Message>, TableError> {
        let found = self.socket.dump(kind, |to| {
            to.raw(&[0, 0, 0, 0]);
        });
        found.map_err(socket_error)
    }

    /// Dumps all objects of a kind in this table; older kernels ignore the filter.
    fn dump(&self, kind: u16) -> Result<Vec<crate::netlink::Message>, TableError> {
        let found = self.socket.dump(kind, |to| {
            header(to, 0);
            to.text(1, &self.name);
        });
        let mut found = match found {
            Err(Errno::NOENT) => Vec::new(),
            other => other.map_err(socket_error)?,
        };
        found.retain(|message| {
            message.payload.first() == Some(&INET)
                && message.attributes(HEADER).text(1).as_deref() == Some(&*self.name)
        });
        Ok(found)
    }

    fn try_change(&self, generation: u32, changes: &Changes) -> Result<u32, TableError> {
        let mut batch = Batch::begin(&self.socket, generation);
        let name = self.name.as_str();
        let ownership = match self.ownership {
            Ownership::Ours => table_flag::OWNER | table_flag::PERSIST,
            Ownership::Fleeting => table_flag::OWNER,
            Ownership::Shared => 0,
        };
        let table = |to: &mut Builder| {
            to.text(1, name).be32(2, ownership);
        };
        // The kernel cannot change the kind of ownership of a table, only delete it.
        if !changes.whole_table || self.ownership != Ownership::Shared {
            batch.add("the table", msg::NEWTABLE, flags::CREATE, table);
        }
        if changes.whole_table {
            batch.add("the old table", msg::DELTABLE, 0, |to| {
                to.text(1, name);
            });
            batch.add("the table", msg::NEWTABLE, flags::CREATE, table);
        }
        batch.add_new(name, changes);
        batch.add_contents(name, changes);
        batch.add_removals(name, changes);
        batch.commit()
    }
}

pub(super) fn header(to: &mut Builder, resource: u16) {
    let family = if resource == 0 { INET } else { 0 };
    to.raw(&[family, 0]).raw(&resource.to_be_bytes());
}

pub(super) const fn socket_error(errno: Errno) -> TableError {
    TableError::Socket { errno }
}

/// Multicast group of ruleset changes, as a bit of a socket's mask.
pub(crate) const EVENT_GROUP: u32 = super::uapi::GROUP;

/// Multicast group of packet traces, as a bit of a socket's mask (`NFNLGRP_NFTRACE` is 9).
pub(crate) const TRACE_GROUP: u32 = 1 << 8;

/// Returns true for a step of a traced packet.
pub(crate) const fn is_trace(message: &crate::netlink::Message) -> bool {
    message.kind == msg::TRACE
}

/// Returns the generation that an event announces.
pub(crate) fn new_generation(message: &crate::netlink::Message) -> Option<u32> {
    (message.kind == msg::NEWGEN).then(|| message.attributes(HEADER).be32(1)).flatten()
}
