//! One nftables transaction, sent as one datagram: all of it or nothing.

use rustix::io::Errno;

use super::changes::Changes;
use super::encode;
use super::ruleset::Element;
use super::table::{TableError, header, socket_error};
use super::uapi::{BATCH_GENERATION, OBJECT_COUNTER, SUBSYSTEM, msg};
use crate::netlink::{Builder, Socket, flags};

/// Transaction being written.
pub(super) struct Batch<'a> {
    socket: &'a Socket,
    builder: Builder,
    generation: u32,
    begin: u32,
    /// Objects by sequence number, to name the one that the kernel refuses.
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

    pub(super) fn add_new(&mut self, table: &str, changes: &Changes) {
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

    pub(super) fn add_contents(&mut self, table: &str, changes: &Changes) {
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

    pub(super) fn add_removals(&mut self, table: &str, changes: &Changes) {
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

    /// Sends the transaction and reads the answer to its last message, or the refusal.
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
                    // The kernel's generation skips 0: 1 follows 2^32 - 1.
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
