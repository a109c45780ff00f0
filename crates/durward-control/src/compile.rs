//! Documents become one snapshot and a verdict per document: pure, total, and the oldest claim wins.
//!
//! A document that was served before and is broken now keeps what it had, as far as nobody older claims it. Deliberately absent: I/O,
//! clocks, randomness, and an error for the whole.

mod acme;
mod addresses;
mod alone;
mod assemble;
mod body;
mod bounds;
mod certificates;
mod claim_table;
mod claims;
mod contribution;
mod credentials;
mod egress;
mod header;
mod keys;
mod last_good;
mod limits;
mod link;
mod link_routes;
mod listen;
mod listener;
mod mapping;
mod name_list;
mod names;
mod nat;
mod outward;
mod part;
mod precedence;
mod report;
pub mod retained;
mod roster;
mod route;
mod scope;
mod served_documents;
mod server_names;
mod server_tls;
mod service_endpoints;
mod sni;
mod times;
mod transparent;
mod trust;
mod upstream;
mod upstream_set;
mod verdict;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use durward_model::verdict::Outcome;
use durward_model::{AddressOwners, PortMapping, Snapshot, TenantId, Verdicts};

use crate::change::Change;
use crate::document::Document;
use crate::store::Store;
use crate::words;
use addresses::Addresses;
use assemble::Decided;
use certificates::{Certificates, Files};
use claim_table::{ClaimTable, Tenants};
use contribution::Contribution;
use part::Pasts;
use scope::Scope;

/// Result of one compile, and the state that the next one starts from.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Snapshot to serve. Unchanged, it is the same `Arc` as in the compile before.
    pub snapshot: Arc<Snapshot>,
    /// Verdict on each document.
    pub verdicts: Verdicts,
    memory: Memory,
}

/// State kept from one compile to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    tenants: Tenants,
    mappings: Pasts<PortMapping>,
    contributions: Pasts<Contribution>,
    certificates: Arc<Certificates>,
    /// The holders of addresses.
    owners: Arc<AddressOwners>,
    /// Tenants that are not served as their documents say: the next compile may find them something.
    unsettled: BTreeSet<TenantId>,
    /// True if these find nothing as long as no claim changes: they were compiled again, and nothing changed.
    at_rest: bool,
    /// The next place in the order of arrival.
    newcomers: u64,
    /// Sockets at which connections to addresses of other tenants arrive.
    elsewhere: BTreeSet<SocketAddr>,
    claims: ClaimTable,
    seen: Seen,
}

/// State of the store that was compiled last.
#[derive(Clone, Debug, Default)]
struct Seen {
    version: u64,
    /// True if the tenants of all documents could be determined.
    told: bool,
    /// True if all of it was compiled; false while it is only what an earlier process had.
    complete: bool,
    /// Time of the last compile of all documents.
    at: i64,
}

/// The documents that are compiled, and the facts that they depend on.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub(crate) store: &'a Store,
    /// In order.
    pub(crate) documents: Vec<&'a Document>,
}

/// Rounds after which a change is taken as it is. What one gives up another may get, who gives up something else.
const MOST_ROUNDS: u32 = 4;

/// Returns whether documents take `text` for a host name.
#[must_use]
pub fn is_host_name(text: &str) -> bool {
    words::host_name(text).is_ok()
}

/// Compiles what the store holds, given what was served before and the time in seconds since the Unix epoch.
///
/// Claims to an address, a network, a name or a socket are decided by age. Among documents of files what `previous` says is held stays held, among others
/// `metadata.creationTimestamp` counts where it is written, and the order of arrival decides the rest; among objects of a cluster only their age counts.
///
/// Only the tenants that a change concerns are compiled: those whose documents or files differ, and those whose claims meet theirs.
#[must_use]
pub fn compile(store: &Store, previous: Option<&Compiled>, now: i64) -> Compiled {
    if let Some(alone) = alone::compile(store, previous, now) {
        return alone;
    }
    let scope = Scope::touched(store, previous, now);
    settled(compile_scope(store, previous, scope, now), store, previous, now)
}

/// Compiles as often as this to find the last accepted revisions of which something is served.
const MOST_TRIES: usize = 4;

/// Returns those of the last accepted revisions of broken objects of which something is served beside everything else in the store. The others have lost what they had to
/// somebody else meanwhile, and must not keep it from a third one: the process that saw it all did not keep them either.
#[must_use]
pub fn still_served(store: &Store, mut former: Vec<Document>, now: i64) -> Vec<Document> {
    for _ in 0..MOST_TRIES {
        if former.is_empty() {
            break;
        }
        let mut before = store.clone();
        before.apply(Change { upserts: former.clone(), ..Change::default() });
        let compiled = compile(&before, None, now);
        let is_served = |document: &Document| {
            let verdict = compiled.verdicts.on(&document.key);
            verdict.is_some_and(|verdict| verdict.outcome != Outcome::Rejected)
        };
        let count = former.len();
        former.retain(is_served);
        if former.len() == count {
            break;
        }
    }
    former
}

/// Compiles those again that were left without something, for another may have given it up in the same change.
fn settled(
    mut compiled: Compiled,
    store: &Store,
    previous: Option<&Compiled>,
    now: i64,
) -> Compiled {
    let former = previous.map(|previous| &previous.snapshot);
    let mut changed = former.is_some_and(|former| !Arc::ptr_eq(former, &compiled.snapshot));
    let mut rounds = 0;
    compiled.memory.at_rest = is_at_rest(&compiled, previous);
    while changed && !compiled.memory.unsettled.is_empty() && rounds < MOST_ROUNDS {
        let scope = Scope::touched(store, Some(&compiled), now);
        let again = compile_scope(store, Some(&compiled), scope, now);
        changed = !Arc::ptr_eq(&again.snapshot, &compiled.snapshot);
        let at_rest = is_at_rest(&again, Some(&compiled));
        compiled = again;
        compiled.memory.at_rest = at_rest;
        rounds += 1;
    }
    // One change is one generation.
    let generation = former.map_or(0, |former| former.generation) + 1;
    if compiled.snapshot.generation > generation {
        Arc::make_mut(&mut compiled.snapshot).generation = generation;
    }
    compiled
}

/// Returns whether compiling everybody again who is not served as their documents say has changed nothing.
fn is_at_rest(compiled: &Compiled, previous: Option<&Compiled>) -> bool {
    let is_same = |previous: &Compiled| {
        Arc::ptr_eq(&previous.snapshot, &compiled.snapshot)
            && previous.verdicts == compiled.verdicts
    };
    compiled.memory.unsettled.is_empty() || previous.is_some_and(is_same)
}

fn compile_scope(
    store: &Store,
    previous: Option<&Compiled>,
    mut scope: Scope,
    now: i64,
) -> Compiled {
    loop {
        if let Some(previous) = previous {
            scope = scope.closed(&previous.memory, store);
        }
        let decided = decide(&scope.input(store), previous, &scope, now);
        let (Scope::Part(part), Some(known)) = (&scope, previous) else {
            return decided.put_in(store, previous, &scope, now);
        };
        match part.grown(&known.memory.claims, &decided.tenants) {
            Some(larger) => scope = Scope::Part(larger),
            None => return decided.put_in(store, previous, &scope, now),
        }
    }
}

/// Decides what is served of the tenants in `input`, which are all that `scope` says.
fn decide(input: &Input<'_>, previous: Option<&Compiled>, scope: &Scope, now: i64) -> Decided {
    let mut files =
        Files::new(input.store, previous.map(|previous| &*previous.memory.certificates), now);
    let mut roster = roster::enrol(input, previous, scope);
    let mut mappings = mapping::enrol(input, &mut roster, (previous, scope));
    contribution::enrol(input, &mut roster, &mut files, (previous, scope));
    mapping::note_claims(&mappings, &mut roster);
    let mut addresses = Addresses::decide(&roster, &mappings);
    egress::grant(&mut roster, &mut addresses);
    let steered = egress::steer(&mut roster, &mappings, &addresses);
    mapping::foreign::refuse(&mut mappings, &mut roster, &steered);
    mapping::yield_addresses(&mut mappings, &roster, &mut addresses);
    let candidates = body::compile(&mut roster, &mut files, previous);
    let mut claimed =
        claims::decide(&mut roster, candidates, &mut mappings, (&mut addresses, previous));
    let owners = addresses.owners(&roster);
    addresses.remember(&mut roster);
    let rules = nat::rules(&roster, &mut mappings, steered.networks, &owners);
    let certificates = files.into_certificates();
    claimed.owners = owners;
    assemble::conclude(roster, claimed, mappings, rules, input, certificates)
}

#[cfg(test)]
mod tests;
