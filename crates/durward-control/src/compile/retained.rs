//! Converts the result of a compile into the state for the next process, and that state into a compile.
//!
//! The documents that were served are compiled with the claims of the earlier process, and no more of them than was served; what the files say
//! now is compiled after that, as if it were a change.

mod changed;
mod served;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use durward_model::transport::Transport;
use durward_model::verdict::Outcome;
use durward_model::{EgressAddress, Kind, ListenerKey, PortMapping, Tenant, TenantId, Upstream};

use super::addresses::{Held, Role};
use super::contribution::Contribution;
use super::keys::HeldKey;
use super::part::{self, PartId, Pasts};
use super::roster::{KnownText, Past};
use super::scope::Scope;
use super::served_documents::{EarlierDocument, ServedDocuments};
use super::transparent::Wish;
use super::{Compiled, Memory, compile_scope, last_good, words};
use crate::certificate::hex;
use crate::change::Change;
use crate::cluster::Cluster;
use crate::document::{Content, Document, Source};
use crate::reference::Reference;
use crate::source::file::FileSource;
use crate::state::{
    AddressState, EarlierState, PartState, RoleState, State, TenantState, Writer, keys_of,
};
use crate::store::Store;
pub use changed::changed_objects;
pub use served::Served;

impl Compiled {
    /// Returns what the next process must know of this compile.
    #[must_use]
    pub fn state(&self) -> State {
        let mut writer = Writer::new();
        let mut tenants: Vec<_> = self.memory.tenants.iter().collect();
        tenants.sort_by_key(|(_, past)| past.seniority);
        for (id, past) in tenants {
            let tenant = tenant_state(&mut writer, id, past);
            writer.tenant(tenant);
        }
        write_parts(&mut writer, &self.memory.mappings);
        write_parts(&mut writer, &self.memory.contributions);
        writer.finish()
    }
}

fn write_parts<V>(writer: &mut Writer, pasts: &Pasts<V>) {
    for (id, past) in pasts {
        let good = past.good.as_deref().map(|good| text_of(writer, good));
        writer.part(PartState {
            tenant: id.tenant.to_string(),
            kind: id.kind,
            namespace: id.namespace.clone(),
            name: id.name.to_string(),
            file: Arc::clone(&past.file),
            seniority: past.seniority,
            uid: past.uid.clone(),
            created: past.created.clone(),
            shared: past.shared,
            good,
            text: other_text(&past.text, past.good.as_deref()),
        });
    }
}

fn text_of(writer: &mut Writer, good: &Source) -> usize {
    writer.text(good)
}

fn tenant_state(writer: &mut Writer, id: &TenantId, past: &Past) -> TenantState {
    let ServedDocuments { last, leans, earlier } = &past.documents;
    let earlier = earlier.iter().map(|document| EarlierState {
        document: text_of(writer, &document.source),
        listeners: keys_of(Transport::Tcp, document.listeners.iter().copied()),
        udp_listeners: keys_of(Transport::Udp, document.listeners.iter().copied()),
        leans: document.leans,
    });
    let earlier = earlier.collect();
    let good = last.as_deref().map(|last| text_of(writer, last));
    // Of a document that is served as it says all upstreams are.
    let partly = past.served.as_ref().filter(|_| past.outcome != Outcome::Accepted);
    let names = |tenant: &Arc<Tenant>| {
        tenant.upstreams.iter().map(|upstream| upstream.name.to_string()).collect()
    };
    let upstreams = partly.into_iter().flat_map(|tenant| &tenant.upstreams);
    let upstream_sources = upstreams
        .filter(|upstream| upstream.sources != past.egress)
        .map(|it| (it.name.to_string(), it.sources.iter().map(|source| source.0).collect()));
    let listeners = past.served.iter().flat_map(|tenant| &tenant.listeners);
    let own = past.alone.iter().flat_map(|tenant| &tenant.listeners);
    let own: BTreeSet<ListenerKey> = own.map(|listener| listener.full_key()).collect();
    let is_added = |key: &ListenerKey| !own.contains(key);
    let keys = listeners.clone().map(|listener| listener.full_key());
    TenantState {
        name: id.to_string(),
        file: Arc::clone(&past.file),
        seniority: past.seniority,
        uid: past.uid.clone(),
        created: past.created.clone(),
        good,
        names: listeners
            .clone()
            .flat_map(|listener| {
                let names = listener.names.iter().flatten();
                names.map(|name| (listener.address.0, listener.port, name.to_string()))
            })
            .collect(),
        earlier,
        leans: *leans,
        text: other_text(&past.text, last.as_deref()),
        upstreams: partly.map(names),
        upstream_sources: upstream_sources.collect(),
        listeners: keys_of(Transport::Tcp, keys.clone()),
        udp_listeners: keys_of(Transport::Udp, keys.clone()),
        // Objects add none for datagrams.
        added_listeners: keys_of(Transport::Tcp, keys.filter(is_added)),
        addresses: addresses(past),
        egress: past.egress.iter().map(|address| address.0).collect(),
        sources: past.sources.clone(),
        added_sources: past.added_sources.clone(),
        keys: past.keys.iter().map(|held| (hex(&held.key), held.shared)).collect(),
    }
}

/// Returns the addresses that a tenant holds.
fn addresses(past: &Past) -> Vec<AddressState> {
    let role = |role| match role {
        Role::Ingress => RoleState::Ingress,
        Role::Egress => RoleState::Egress,
        Role::Mapped => RoleState::Mapped,
        Role::Listen => RoleState::Listen,
    };
    let addresses = past.addresses.iter().map(|held| AddressState {
        address: held.address,
        role: role(held.role),
        shared: held.shared,
        added: held.added,
    });
    addresses.collect()
}

/// Compiles what an earlier process served, for the next compile to begin from. Performs blocking I/O: of the files that documents refer to only
/// the names were kept.
#[must_use]
pub fn restore(state: &State, source: &FileSource, now: i64) -> Compiled {
    let parsed = source.parse_again(&state.texts);
    restored(state, &parsed, |documents| source.with_references(documents), now)
}

/// Returns the documents that an earlier process served, so that what they refer to can be looked up before [`restore_beside`].
#[must_use]
pub fn documents(state: &State, source: &FileSource) -> Vec<Document> {
    source.parse_again(&state.texts).into_iter().map(|(_, document)| document).collect()
}

/// Compiles what an earlier process served, as [`restore`] does. The facts of `cluster` are those of objects; of these, too, only names were kept.
#[must_use]
pub fn restore_beside(state: &State, source: &FileSource, cluster: &Store, now: i64) -> Compiled {
    let parsed = source.parse_again(&state.texts);
    let with_facts = |documents| {
        let mut store = source.with_references(documents);
        store.read_cluster(cluster.cluster().map(|cluster| Cluster::clone(cluster)));
        let facts = cluster.facts().filter(|(of, _)| !matches!(of, Reference::File(_)));
        let facts = facts.map(|(of, fact)| (of.clone(), Some(fact.clone()))).collect();
        store.apply(Change { facts, ..Change::default() });
        store
    };
    restored(state, &parsed, with_facts, now)
}

/// Compiles what an earlier process served; `parsed` are the documents in its texts, and `with_files` reads the files that documents refer to.
///
/// Where parts of earlier documents stand in for mistakes in later ones, the documents of a tenant are compiled one after the other, as they
/// were when it changed. Of each only that is made that was served as it says.
pub(super) fn restored(
    state: &State,
    parsed: &[(usize, Document)],
    with_files: impl Fn(Vec<Document>) -> Store,
    now: i64,
) -> Compiled {
    let good = Good::of(parsed);
    let mut earlier = Earlier::of(state, &good);
    let mut compiled = Compiled { memory: earlier.memory(0), ..Compiled::default() };
    for round in 0..earlier.rounds() {
        let store = with_files(earlier.documents(round));
        compiled = compile_scope(&store, Some(&compiled), Scope::Everything, now);
        earlier.hold(&mut compiled.memory, round + 1);
    }
    if compiled.snapshot.generation > 1 {
        Arc::make_mut(&mut compiled.snapshot).generation = 1;
    }
    compiled
}

/// State of an earlier process.
struct Earlier<'d> {
    tenants: Vec<(TenantId, Past, Vec<Stage<'d>>)>,
    mappings: Vec<EarlierPart<'d, PortMapping>>,
    contributions: Vec<EarlierPart<'d, Contribution>>,
}

/// An object that an earlier process had, with its last good document.
type EarlierPart<'d, V> = (PartId, part::Past<V>, Option<&'d Document>);

/// One document of a tenant, and what is made from it.
struct Stage<'d> {
    document: &'d Document,
    part: Arc<Restoring>,
}

/// The part of a document that is made again.
#[derive(Debug)]
pub(crate) struct Restoring {
    /// Listeners that are served as this document says.
    own: BTreeSet<ListenerKey>,
    /// Listeners from documents before.
    kept: BTreeSet<ListenerKey>,
    /// The names of all upstreams that were served; `None` if the document was served as it says, or not at all.
    upstreams: Option<BTreeSet<Arc<str>>>,
    /// Egress addresses of those upstreams that use fewer than the tenant has.
    sources: BTreeMap<Arc<str>, Vec<EgressAddress>>,
    /// True if no later document of the tenant is made again.
    pub(crate) is_last: bool,
}

impl Restoring {
    /// Returns whether the listener is served as this document says.
    pub(crate) fn makes(&self, key: &ListenerKey) -> bool {
        self.own.contains(key)
    }

    /// Returns the listeners from documents before.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &ListenerKey> {
        self.kept.iter()
    }

    /// Returns the upstream as it was served: it may have left from fewer addresses than its tenant has now.
    pub(crate) fn upstream(&self, upstream: Arc<Upstream>) -> Arc<Upstream> {
        let sources = self.sources.get(&upstream.name);
        sources.and_then(|sources| last_good::upstream(&upstream, sources)).unwrap_or(upstream)
    }

    /// Returns whether the tenant was served though its document made no listener: for what objects added to it.
    pub(crate) fn stood_without_listeners(&self) -> bool {
        self.own.is_empty() && self.kept.is_empty() && self.upstreams.is_some()
    }

    /// Returns whether the upstream was served.
    pub(crate) fn has_upstream(&self, name: &str) -> bool {
        self.upstreams.as_ref().is_none_or(|upstreams| upstreams.contains(name))
    }
}

impl<'d> Earlier<'d> {
    fn of(state: &State, good: &Good<'d>) -> Self {
        let tenants = state.tenants.iter().filter_map(|tenant| {
            let id = TenantId::new(&tenant.name).ok()?;
            let document = |at| good.tenants.get(&(at, id.clone())).copied();
            let stages = stages(tenant, document);
            let past = tenant_past(tenant, document);
            Some((id, past, stages))
        });
        let tenants = tenants.collect();
        let mappings = state.mappings.iter().filter_map(|part| earlier_part(part, good));
        let contributions = state.contributions.iter().filter_map(|part| earlier_part(part, good));
        Self { tenants, mappings: mappings.collect(), contributions: contributions.collect() }
    }

    /// Returns how often documents are compiled.
    fn rounds(&self) -> usize {
        let most = self.tenants.iter().map(|(_, _, stages)| stages.len()).max();
        let has_parts = !self.mappings.is_empty() || !self.contributions.is_empty();
        most.unwrap_or(0).max(usize::from(has_parts))
    }

    fn documents(&self, round: usize) -> Vec<Document> {
        let tenants = self.tenants.iter().filter_map(|(_, _, stages)| stage(stages, round));
        let tenants = tenants.map(|stage| stage.document);
        let mappings = self.mappings.iter().filter_map(|(.., document)| *document);
        let contributions = self.contributions.iter().filter_map(|(.., document)| *document);
        let parts = mappings.chain(contributions);
        let mut documents: Vec<Document> = tenants.chain(parts).cloned().collect();
        // Several texts may have been in one place of a file, one after the other.
        documents.iter_mut().enumerate().for_each(|(at, document)| document.set_rank(at));
        documents
    }

    /// Returns what was held, before the first round.
    fn memory(&mut self, round: usize) -> Memory {
        let mut memory = Memory::default();
        self.hold(&mut memory, round);
        memory
    }

    /// Gives everybody what they held, no more and no less, whatever the documents that were compiled name. Without a document, or if it cannot
    /// be served, a tenant or mapping holds its age and its claims all the same.
    fn hold(&mut self, memory: &mut Memory, round: usize) {
        let is_over = round >= self.rounds();
        let tenants = &mut memory.tenants;
        for (id, past, stages) in &self.tenants {
            let part = stage(stages, round).filter(|_| !is_over);
            let mut past = past.clone();
            past.restoring = part.map(|stage| Arc::clone(&stage.part));
            if let Some(known) = tenants.get(id) {
                past.served.clone_from(&known.served);
                past.alone.clone_from(&known.alone);
                past.outcome = known.outcome;
                past.transparent = known.transparent.clone();
            }
            tenants.insert(id.clone(), Arc::new(past));
        }
        hold_parts(&self.mappings, &mut memory.mappings);
        hold_parts(&self.contributions, &mut memory.contributions);
        let ages = self.tenants.iter().map(|(_, past, _)| past.seniority);
        let ages = ages.chain(self.mappings.iter().map(|(_, past, _)| past.seniority));
        let ages = ages.chain(self.contributions.iter().map(|(_, past, _)| past.seniority));
        memory.newcomers = ages.max().map_or(0, |last| last + 1).max(memory.newcomers);
        memory.seen.complete = false;
    }
}

/// Returns what is remembered of an object that an earlier process had.
fn earlier_part<'d, V>(state: &PartState, good: &Good<'d>) -> Option<EarlierPart<'d, V>> {
    let tenant = TenantId::new(&state.tenant).ok()?;
    let name = words::object_name(&state.name).ok()?;
    let (kind, namespace) = (state.kind, state.namespace.clone());
    let id = PartId { tenant, kind, namespace, name };
    let document = state.good.and_then(|at| good.parts.get(&(at, kind, Arc::clone(&id.name))));
    let good = document.map(|document| Arc::clone(&document.source));
    Some((id, part::Past::of_earlier(state, good), document.copied()))
}

/// Gives objects what they held.
fn hold_parts<V>(parts: &[EarlierPart<'_, V>], pasts: &mut Pasts<V>) {
    for (id, past, _) in parts {
        let known = pasts.get(id).filter(|known| known.served.is_some());
        let past = known.map_or_else(|| past.clone(), |known| past.served_as(known));
        pasts.insert(id.clone(), past);
    }
}

fn stage<'s, 'd>(stages: &'s [Stage<'d>], round: usize) -> Option<&'s Stage<'d>> {
    stages.get(round).or_else(|| stages.last())
}

/// Returns the documents of a tenant in the order in which they replaced one another. `document` finds one by the position of its text.
fn stages<'d>(
    state: &TenantState,
    document: impl Fn(usize) -> Option<&'d Document>,
) -> Vec<Stage<'d>> {
    let Some(last) = state.good.and_then(&document) else { return Vec::new() };
    let upstreams = state.upstreams.as_ref();
    let upstreams =
        upstreams.map(|names| names.iter().map(|name| Arc::from(name.as_str())).collect());
    let sources = state.upstream_sources.iter().map(|(name, addresses)| {
        (Arc::from(name.as_str()), addresses.iter().copied().map(EgressAddress).collect())
    });
    let sources: BTreeMap<Arc<str>, Vec<EgressAddress>> = sources.collect();
    let mut left: BTreeSet<ListenerKey> = state.listener_keys().collect();
    left.retain(|(address, port, _)| !state.added_listeners.contains(&(*address, *port)));
    let mut kept = BTreeSet::new();
    let mut stages = Vec::with_capacity(state.earlier.len() + 1);
    let mut stage = |document, own: BTreeSet<ListenerKey>, is_last| {
        let (kept_now, upstreams) = (kept.clone(), Option::clone(&upstreams));
        kept.extend(&own);
        let part = Restoring { own, kept: kept_now, upstreams, sources: sources.clone(), is_last };
        stages.push(Stage { document, part: Arc::new(part) });
    };
    for earlier in &state.earlier {
        let own: BTreeSet<_> = earlier.listener_keys().filter(|key| left.remove(key)).collect();
        if let Some(document) = document(earlier.document) {
            stage(document, own, false);
        }
    }
    stage(last, left, true);
    stages
}

/// Documents by the position of their text and by what they are about.
#[derive(Default)]
struct Good<'d> {
    tenants: HashMap<(usize, TenantId), &'d Document>,
    /// Whose an object is, its namespace may say.
    parts: HashMap<(usize, Kind, Arc<str>), &'d Document>,
}

impl<'d> Good<'d> {
    fn of(parsed: &'d [(usize, Document)]) -> Self {
        let mut good = Self::default();
        for (at, document) in parsed {
            match &document.content {
                Content::Tenant(tenant) => {
                    if let Ok(id) = TenantId::new(&tenant.metadata.name) {
                        good.tenants.insert((*at, id), document);
                    }
                }
                content => {
                    let Some(part) = content.part() else { continue };
                    let name = Arc::from(part.metadata.name.value.as_str());
                    good.parts.insert((*at, document.source.kind, name), document);
                }
            }
        }
        good
    }
}

fn tenant_past<'d>(state: &TenantState, document: impl Fn(usize) -> Option<&'d Document>) -> Past {
    let role = |role| match role {
        RoleState::Ingress => Role::Ingress,
        RoleState::Egress => Role::Egress,
        RoleState::Mapped => Role::Mapped,
        RoleState::Listen => Role::Listen,
    };
    let addresses = state.addresses.iter().map(|held| Held {
        address: held.address,
        role: role(held.role),
        shared: held.shared,
        added: held.added,
    });
    let key = |(key, shared): &(String, bool)| Some(HeldKey { key: unhex(key)?, shared: *shared });
    let mut keys: Vec<_> = state.keys.iter().filter_map(key).collect();
    // They are looked up by halves.
    keys.sort();
    let source = |at| document(at).map(|document| Arc::clone(&document.source));
    let last = state.good.and_then(source);
    let earlier = state.earlier.iter().filter_map(|earlier| {
        let listeners = earlier.listener_keys().collect();
        Some(EarlierDocument { source: source(earlier.document)?, listeners, leans: earlier.leans })
    });
    Past {
        file: Arc::clone(&state.file),
        text: known_text(state.text.as_ref(), last.as_ref()),
        served: None,
        alone: None,
        added_sources: state.added_sources.clone(),
        outcome: Outcome::Rejected,
        documents: ServedDocuments { earlier: earlier.collect(), last, leans: state.leans },
        restoring: None,
        listeners: state.listener_keys().collect(),
        names: state
            .names
            .iter()
            .filter_map(|(address, port, name)| {
                Some(((*address, *port), words::host_pattern(name).ok()?))
            })
            .collect(),
        seniority: state.seniority,
        uid: state.uid.clone(),
        created: state.created.clone(),
        egress: state.egress.iter().copied().map(EgressAddress).collect(),
        addresses: addresses.collect(),
        keys,
        sources: state.sources.clone(),
        transparent: Wish::None,
        claims: Arc::default(),
        cited: 0,
    }
}

/// Returns the text that a document had: that of the last good one, unless another was written down.
pub(super) fn known_text(written: Option<&Arc<str>>, last: Option<&Arc<Source>>) -> KnownText {
    match (written, last) {
        (Some(hash), _) => KnownText::Hash(Arc::clone(hash)),
        (None, Some(last)) => KnownText::Whole(Arc::clone(&last.text)),
        (None, None) => KnownText::Whole(Arc::from("")),
    }
}

/// Returns what must be written down of a text beside the last good document.
fn other_text(text: &KnownText, last: Option<&Source>) -> Option<Arc<str>> {
    (!last.is_some_and(|last| text.is(&last.text))).then(|| text.hash())
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
