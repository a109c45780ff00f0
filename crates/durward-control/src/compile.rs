//! Documents become one snapshot and a verdict per document: pure, total, and the oldest claim wins.
//!
//! A document that was served before and is broken now keeps what it had, as far as nobody older claims it. Deliberately absent: I/O,
//! clocks, randomness, and an error for the whole.

mod addresses;
mod assemble;
mod body;
mod bounds;
mod certificates;
mod claims;
mod credentials;
mod egress;
mod header;
mod keys;
mod last_good;
mod limits;
mod listen;
mod listener;
mod mapping;
mod name_list;
mod names;
mod nat;
mod outward;
mod patch;
mod precedence;
mod report;
pub mod retained;
mod roster;
mod route;
mod server_tls;
mod sni;
mod times;
mod transparent;
mod trust;
mod upstream;
mod upstream_set;
mod verdict;
mod words;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use durward_model::{Snapshot, TenantId, Verdicts};

use crate::named_file::NamedFile;
use crate::resources::{Document, FileBytes, Links, Resources};
use addresses::Addresses;
use certificates::{Certificates, Files};
use mapping::MappingId;
use roster::Past;

/// What came of one compile, and what the next one needs to know of it.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// What is served. Unchanged, it is the same `Arc` as in the compile before.
    pub snapshot: Arc<Snapshot>,
    /// What became of each document.
    pub verdicts: Verdicts,
    memory: Memory,
}

/// What later compiles need to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    tenants: Arc<HashMap<TenantId, Arc<Past>>>,
    mappings: Arc<BTreeMap<MappingId, mapping::Past>>,
    certificates: Arc<Certificates>,
    seen: Seen,
}

/// What was compiled last.
#[derive(Clone, Default)]
struct Seen {
    documents: Vec<Document>,
    files: Arc<HashMap<Arc<Path>, FileBytes>>,
    links: Arc<Links>,
    /// Whether there were files that could not be read.
    unreadable: bool,
    /// Whether no tenant is served as it was before, for what becomes of those may decide the next compile.
    settled: bool,
    /// When all of it was.
    at: i64,
}

impl fmt::Debug for Seen {
    /// Files by name only: they hold keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen")
            .field("documents", &self.documents.len())
            .field("files", &self.files.keys())
            .finish_non_exhaustive()
    }
}

/// Returns whether documents take `text` for a host name.
#[must_use]
pub fn is_host_name(text: &str) -> bool {
    words::host_name(text).is_ok()
}

/// Compiles `resources`, given what was served before and the time in seconds since the Unix epoch.
///
/// Claims to an address, a network, a name or a socket are decided by age: what `previous` says is held stays held, among others
/// `metadata.creationTimestamp` counts where it is written, and the order of arrival decides the rest.
#[must_use]
pub fn compile(resources: &Resources, previous: Option<&Compiled>, now: i64) -> Compiled {
    let patched = previous.and_then(|previous| patch::compile(resources, previous, now));
    patched.unwrap_or_else(|| whole(resources, previous, now))
}

/// Returns the files without their bytes: later compiles compare them and read them no more.
fn digests(files: &HashMap<Arc<Path>, FileBytes>) -> HashMap<Arc<Path>, FileBytes> {
    let without = |read: &FileBytes| read.as_ref().map(NamedFile::released).map_err(Clone::clone);
    files.iter().map(|(path, read)| (Arc::clone(path), without(read))).collect()
}

/// Compiles everything, whatever changed.
fn whole(resources: &Resources, previous: Option<&Compiled>, now: i64) -> Compiled {
    let mut files =
        Files::new(resources, previous.map(|previous| &*previous.memory.certificates), now);
    let mut roster = roster::enrol(resources, previous);
    let mut mappings = mapping::enrol(resources, &mut roster, previous);
    let mut addresses = Addresses::decide(&roster, &mappings);
    egress::grant(&mut roster, &mut addresses);
    let steered = egress::steer(&mut roster, &addresses);
    mapping::foreign::refuse(&mut mappings, &roster);
    mapping::yield_addresses(&mut mappings, &roster, &mut addresses);
    let candidates = body::compile(&mut roster, &mut files, previous);
    let mut claimed =
        claims::decide(&mut roster, candidates, &mut mappings, (&mut addresses, previous));
    let owners = addresses.owners(&roster);
    addresses.remember(&mut roster);
    roster::remember_good(&mut roster, resources);
    let nat = nat::assemble(&roster, &mut mappings, steered, &owners);
    claimed.owners = owners;
    let certificates = files.into_certificates();
    let mut compiled = assemble::assemble(roster, claimed, (mappings, nat), certificates, previous);
    // Whoever writes rejected documents must not fill memory with what their files hold.
    let rejected = resources.named_by_rejected(&compiled.verdicts);
    Arc::make_mut(&mut compiled.memory.certificates).forget(&rejected);
    let seen = &mut compiled.memory.seen;
    seen.documents.clone_from(&resources.documents);
    seen.files = Arc::new(digests(&resources.files));
    seen.links = Arc::clone(&resources.links);
    seen.unreadable = !resources.unreadable.is_empty();
    seen.at = now;
    compiled
}
