//! One table of the kernel: read whole, changed in transactions, owned where the kernel can do that.
//!
//! A transaction is one datagram; it names the generation it was made for, and the kernel refuses it when that has passed.
//! Deliberately absent: when to do either; see `engine`.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::io::Errno;
use thiserror::Error;

use super::changes::Changes;
use super::ruleset::{Element, Ruleset};
use super::uapi::{BATCH_GENERATION, HEADER, INET, OBJECT_COUNTER, SUBSYSTEM, msg, table_flag};
use super::{decode, encode};
use crate::netlink::{Builder, Family, Socket, flags};

/// A table of family `inet`.
#[derive(Debug)]
pub struct Table {
    socket: Socket,
    name: String,
    ownership: Ownership,
}

/// Whether others can change the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Only we can, and it stays when we are gone (Linux 6.9 and later).
    Ours,
    /// Everybody with the capability can.
    Shared,
}

/// What the kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Whether the table is there.
    pub exists: bool,
    /// Its contents.
    pub ruleset: Ruleset,
    /// The generation they are of.
    pub generation: u32,
}

/// Packets and bytes a counter has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Why the kernel did not do it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// Somebody changed a ruleset meanwhile: read it again.
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
        /// What it refused, `rule 2 of chain nat4`.
        object: String,
        /// Its reason.
        #[source]
        errno: Errno,
    },
    /// The socket failed.
    #[error("netlink failed")]
    Socket {
        /// Its reason.
        #[source]
        errno: Errno,
    },
}

impl Table {
    /// A handle on the table of this name, in the network namespace of the calling thread. Nothing is changed yet.
    ///
    /// # Errors
    /// When there is no netlink socket to be had.
    pub fn open(name: &str, ownership: Ownership, timeout: Duration) -> Result<Self, TableError> {
        let socket = Socket::open(Family::Netfilter, 0, timeout).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            TableError::Socket { errno }
        })?;
        Ok(Self { socket, name: name.to_owned(), ownership })
    }

    /// Whether others can change the table, after the first transaction.
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
    /// When the kernel does not answer, or it changes too often to be read.
    pub fn read(&self) -> Result<Held, TableError> {
        for _ in 0..20 {
            let before = self.generation()?;
            let held = self.read_once(before);
            let after = self.generation()?;
            match held {
                Ok(held) if before == after => return Ok(held),
                // An object that vanished between two questions.
                Err(TableError::Socket { errno: Errno::NOENT }) | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Err(TableError::Outdated)
    }

    /// The generation of all rulesets together.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn generation(&self) -> Result<u32, TableError> {
        let answer = self.socket.get(msg::GETGEN, |to| header(to, 0)).map_err(socket_error)?;
        Ok(answer.and_then(|answer| answer.attributes(HEADER).be32(1)).unwrap_or_default())
    }

    /// Makes all changes or none; they were computed for what `generation` held. Returns the next generation.
    ///
    /// # Errors
    /// `Outdated` when the generation has passed; otherwise what the kernel refused.
    pub fn change(&mut self, generation: u32, changes: &Changes) -> Result<u32, TableError> {
        let result = self.try_change(generation, changes);
        let unknown = matches!(&result, Err(TableError::Refused { object, errno })
            if object == "the table" && matches!(*errno, Errno::OPNOTSUPP | Errno::INVAL));
        if unknown && self.ownership == Ownership::Ours {
            // A kernel without `persist`, or a table that began without an owner.
            self.ownership = Ownership::Shared;
            return self.try_change(generation, changes);
        }
        result
    }

    /// Takes the table away, if it is there.
    ///
    /// # Errors
    /// When the kernel refuses.
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

    /// The named counters.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn counters(&self) -> Result<BTreeMap<String, Count>, TableError> {
        let found = self.dump(msg::GETOBJ)?;
        Ok(found
            .iter()
            .filter_map(|message| decode::counter(message.attributes(HEADER)))
            .map(|(name, packets, bytes)| (name, Count { packets, bytes }))
            .collect())
    }

    /// How many packets each element of a counting set has seen, by key.
    ///
    /// # Errors
    /// When the kernel does not answer.
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

    /// All objects of a kind in all tables.
    pub(super) fn dump_all(&self, kind: u16) -> Result<Vec<crate::netlink::Message>, TableError> {
        let found = self.socket.dump(kind, |to| {
            to.raw(&[0, 0, 0, 0]);
        });
        found.map_err(socket_error)
    }

    /// All objects of a kind in this table; older kernels ignore the filter.
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
            Ownership::Shared => 0,
        };
        let table = |to: &mut Builder| {
            to.text(1, name).be32(2, ownership);
        };
        batch.add("the table", msg::NEWTABLE, flags::CREATE, table);
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

/// A transaction being written.
pub(super) struct Batch<'a> {
    socket: &'a Socket,
    builder: Builder,
    generation: u32,
    begin: u32,
    /// The objects by sequence number.
    objects: Vec<(u32, String)>,
    last: usize,
}

impl<'a> Batch<'a> {
    pub(super) fn begin(socket: &'a Socket, generation: u32) -> Self {
        let mut builder = Builder::default();
        let begin = socket.next_sequence();
        builder.message(msg::BATCH_BEGIN, flags::REQUEST, begin, |to| {
            header(to, SUBSYSTEM);
            to.be32(BATCH_GENERATION, generation);
        });
        Self { socket, builder, generation, begin, objects: Vec::new(), last: 0 }
    }

    pub(super) fn add(
        &mut self,
        object: impl Into<String>,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Builder),
    ) {
        let sequence = self.socket.next_sequence();
        self.objects.push((sequence, object.into()));
        self.last = self.builder.len();
        self.builder.message(kind, flags | flags::REQUEST, sequence, |to| {
            header(to, 0);
            body(to);
        });
    }

    fn add_new(&mut self, table: &str, changes: &Changes) {
        for (name, chain) in &changes.new_chains {
            self.add(format!("chain {name}"), msg::NEWCHAIN, flags::CREATE | flags::EXCL, |to| {
                to.text(1, table);
                encode::chain(to, name, chain);
            });
        }
        for name in &changes.new_counters {
            self.add(format!("counter {name}"), msg::NEWOBJ, flags::CREATE | flags::EXCL, |to| {
                to.text(1, table).text(2, name).be32(3, OBJECT_COUNTER).nest(4, |_| {});
            });
        }
        for (id, (name, set)) in changes.new_sets.iter().enumerate() {
            self.add(format!("set {name}"), msg::NEWSET, flags::CREATE | flags::EXCL, |to| {
                to.text(1, table);
                encode::set(to, name, set, id as u32 + 1);
            });
        }
    }

    fn add_contents(&mut self, table: &str, changes: &Changes) {
        let emptied =
            changes.rewritten.keys().filter(|name| !changes.new_chains.contains_key(*name));
        for name in emptied.chain(&changes.old_chains) {
            self.add(format!("the rules of chain {name}"), msg::DELRULE, 0, |to| {
                to.text(1, table).text(2, name);
            });
        }
        for (name, elements) in &changes.removed {
            self.add_elements(msg::DELSETELEM, 0, table, name, elements);
        }
        for (name, elements) in &changes.added {
            self.add_elements(msg::NEWSETELEM, flags::CREATE, table, name, elements);
        }
        for (name, chain) in &changes.rewritten {
            for (index, rule) in chain.rules.iter().enumerate() {
                let object = format!("rule {index} of chain {name}");
                self.add(object, msg::NEWRULE, flags::CREATE | flags::APPEND, |to| {
                    to.text(1, table);
                    encode::rule(to, name, rule);
                });
            }
        }
    }

    fn add_removals(&mut self, table: &str, changes: &Changes) {
        for name in &changes.old_sets {
            self.add(format!("old set {name}"), msg::DELSET, 0, |to| {
                to.text(1, table).text(2, name);
            });
        }
        for name in &changes.old_chains {
            self.add(format!("old chain {name}"), msg::DELCHAIN, 0, |to| {
                to.text(1, table).text(3, name);
            });
        }
        for name in &changes.old_counters {
            self.add(format!("old counter {name}"), msg::DELOBJ, 0, |to| {
                to.text(1, table).text(2, name).be32(3, OBJECT_COUNTER);
            });
        }
    }

    fn add_elements(
        &mut self,
        kind: u16,
        flags: u16,
        table: &str,
        set: &str,
        elements: &[(Vec<u8>, Element)],
    ) {
        let mut rest = elements;
        while !rest.is_empty() {
            let mut written = 0;
            let before = rest.len();
            self.add(format!("elements of {set}"), kind, flags, |to| {
                to.text(1, table).text(2, set).nest(3, |to| {
                    let start = to.len();
                    while let Some(((key, element), more)) = rest.split_first() {
                        if to.len() - start > encode::ELEMENTS {
                            break;
                        }
                        encode::element(to, key, element);
                        written += 1;
                        rest = more;
                    }
                });
            });
            debug_assert!(written > 0 && rest.len() < before, "each message carries an element");
        }
    }

    /// Sends it as one datagram and reads the answer to its last message, or what was refused.
    pub(super) fn commit(mut self) -> Result<u32, TableError> {
        let Some((last, _)) = self.objects.last().cloned() else { return Ok(self.generation) };
        self.builder.add_flags(self.last, flags::ACK);
        let end = self.socket.next_sequence();
        self.builder.message(msg::BATCH_END, flags::REQUEST, end, |to| header(to, SUBSYSTEM));
        self.socket.send(self.builder.bytes()).map_err(socket_error)?;
        let mut refused = None;
        loop {
            for message in self.socket.receive().map_err(socket_error)? {
                let Some(result) = message.error() else { continue };
                if message.sequence == self.begin {
                    return result.map(|()| self.generation).map_err(|errno| match errno {
                        Errno::RESTART => TableError::Outdated,
                        Errno::PERM => TableError::Forbidden,
                        errno => {
                            TableError::Refused { object: "the transaction".to_owned(), errno }
                        }
                    });
                }
                if let Err(errno) = result {
                    refused.get_or_insert_with(|| self.refusal(message.sequence, errno));
                }
                if message.sequence == last {
                    // After generation 2^32 - 1 comes 1.
                    let next = self.generation.checked_add(1).unwrap_or(1);
                    return refused.map_or(Ok(next), Err);
                }
            }
        }
    }

    fn refusal(&self, sequence: u32, errno: Errno) -> TableError {
        if errno == Errno::PERM {
            return TableError::Forbidden;
        }
        let found = self.objects.iter().find(|(known, _)| *known == sequence);
        let object = found.map_or_else(|| "an object".to_owned(), |(_, object)| object.clone());
        TableError::Refused { object, errno }
    }
}

fn header(to: &mut Builder, resource: u16) {
    let family = if resource == 0 { INET } else { 0 };
    to.raw(&[family, 0]).raw(&resource.to_be_bytes());
}

const fn socket_error(errno: Errno) -> TableError {
    TableError::Socket { errno }
}

/// The multicast group that tells of changes, as a bit of a socket's mask.
pub(crate) const EVENT_GROUP: u32 = super::uapi::GROUP;

/// The generation an event announces.
pub(crate) fn new_generation(message: &crate::netlink::Message) -> Option<u32> {
    (message.kind == msg::NEWGEN).then(|| message.attributes(HEADER).be32(1)).flatten()
}
