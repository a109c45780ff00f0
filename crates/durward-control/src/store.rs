//! Everything that sources have said: documents by key, and the facts that they depend on.
//!
//! Changes of all sources enter here and nowhere else. The store follows each to the tenants that it touches, so that a compile looks at those
//! and at no others.

mod counts;
mod files;
mod history;
mod objects;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use durward_model::verdict::Outcome;
use durward_model::{DocumentKey, SharedMap, TenantId, Verdicts};

use crate::change::{Change, Fact, Links};
use crate::cluster::{Cluster, Owner, Ownerless};
use crate::document::Document;
use crate::named_file::NamedFile;
use crate::reference::Reference;
use counts::Counted;
pub use files::{Found, Place};
use history::History;
pub(crate) use objects::Asker;

/// Documents and facts. Copies are cheap, and share what they have in common.
#[derive(Clone, Default)]
pub struct Store {
    documents: SharedMap<DocumentKey, Arc<Document>>,
    facts: SharedMap<Reference, Fact>,
    /// Numbers that tell what facts say from whatever they said before.
    stamps: SharedMap<Reference, u64>,
    /// The documents that ask for each fact.
    dependents: SharedMap<Reference, Keys>,
    /// The documents of each tenant.
    of_tenants: SharedMap<TenantId, Keys>,
    /// Objects in the namespaces of each tenant, as far as they count.
    counted: SharedMap<TenantId, Arc<Counted>>,
    /// Documents whose tenant cannot be determined.
    strays: BTreeSet<DocumentKey>,
    links: Arc<Links>,
    /// The cluster whose API server is read, if one is.
    cluster: Option<Arc<Cluster>>,
    history: History,
}

type Keys = Arc<BTreeSet<DocumentKey>>;

/// State of everything that the meaning of a document depends on beside its text.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    facts: Vec<(Reference, Option<u64>)>,
    links: Arc<Links>,
    cluster: Option<Arc<Cluster>>,
}

impl PartialEq for Surroundings {
    fn eq(&self, other: &Self) -> bool {
        self.facts == other.facts
            && self.cluster == other.cluster
            && (Arc::ptr_eq(&self.links, &other.links) || self.links == other.links)
    }
}

/// Extent of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Documents that came, changed or went.
    pub documents: BTreeSet<DocumentKey>,
    /// Tenants of those documents, as they are and as they were, and of documents that ask for a fact that changed.
    pub tenants: BTreeSet<TenantId>,
    /// True if everything may be touched.
    pub everything: bool,
}

impl Touched {
    /// Returns whether nothing is touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.tenants.is_empty() && !self.everything
    }

    fn take_in(&mut self, other: &Self) {
        self.documents.extend(other.documents.iter().cloned());
        self.tenants.extend(other.tenants.iter().cloned());
        self.everything |= other.everything;
    }
}

impl fmt::Debug for Store {
    /// Shows facts by name only: they hold keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("documents", &self.documents.len())
            .field("facts", &self.facts.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl FromIterator<Document> for Store {
    /// Builds the store of these documents, without any fact.
    fn from_iter<T: IntoIterator<Item = Document>>(documents: T) -> Self {
        let mut store = Self::default();
        store.apply(Change { upserts: documents.into_iter().collect(), ..Change::default() });
        store
    }
}

impl Store {
    /// Takes a change in, and returns what it touches. What is said again as it was touches nothing.
    pub fn apply(&mut self, change: Change) -> Touched {
        let Change { upserts, deletes, facts, links } = change;
        let mut touched = Touched::default();
        for key in deletes {
            self.take_out(&key, &mut touched);
        }
        for document in upserts {
            let known = self.documents.get(&document.key);
            if !known.is_some_and(|known| known.is_same_as(&document)) {
                self.take_out(&document.key, &mut touched);
                self.put(document, &mut touched);
            }
        }
        for (reference, fact) in facts {
            self.learn(reference, fact, &mut touched);
        }
        if let Some(links) = links.filter(|links| *links != self.links) {
            self.links = links;
            touched.everything = true;
        }
        self.history.note(&touched);
        touched
    }

    fn put(&mut self, mut document: Document, touched: &mut Touched) {
        document.owner = self.owner(&document);
        let mut pushed = None;
        if let (Owner::OfNamespace(tenant), Some(cluster)) = (&document.owner, &self.cluster) {
            let (tenant, most) = (tenant.clone(), cluster.objects_per_tenant);
            let mut counted = self.counted.get(&tenant).cloned().unwrap_or_default();
            match Arc::make_mut(&mut counted).add(&document, most) {
                counts::Place::Within(other) => pushed = other,
                counts::Place::Beyond => document.owner = too_many(&tenant, most),
            }
            self.counted.insert(tenant.clone(), counted);
            if let Some(other) = pushed.take() {
                self.give(&other, too_many(&tenant, most), touched);
            }
        }
        self.index(document, touched);
    }

    /// Gives a document to another owner.
    fn give(&mut self, key: &DocumentKey, owner: Owner, touched: &mut Touched) {
        let Some(document) = self.unindex(key, touched) else { return };
        self.index(Document { owner, ..Document::clone(&document) }, touched);
    }

    fn index(&mut self, document: Document, touched: &mut Touched) {
        let document = Arc::new(document);
        let key = document.key.clone();
        touched.documents.insert(key.clone());
        match document.tenant() {
            Some(tenant) => {
                touched.tenants.insert(tenant.clone());
                add(&mut self.of_tenants, tenant, key.clone());
            }
            // An object in a namespace without a tenant gets a finding, and concerns no tenant.
            None if matches!(document.owner, Owner::Nobody(_)) => {}
            None => drop(self.strays.insert(key.clone())),
        }
        for reference in document.wanted() {
            add(&mut self.dependents, reference, key.clone());
        }
        self.documents.insert(key, document);
    }

    fn unindex(&mut self, key: &DocumentKey, touched: &mut Touched) -> Option<Arc<Document>> {
        let document = self.documents.remove(key)?;
        touched.documents.insert(key.clone());
        match document.tenant() {
            Some(tenant) => {
                take(&mut self.of_tenants, &tenant, key);
                touched.tenants.insert(tenant);
            }
            None => drop(self.strays.remove(key)),
        }
        for reference in document.wanted() {
            take(&mut self.dependents, &reference, key);
        }
        Some(document)
    }

    fn take_out(&mut self, key: &DocumentKey, touched: &mut Touched) {
        let Some(document) = self.unindex(key, touched) else { return };
        let Some(tenant) = document.owner.counted_for().cloned() else { return };
        let Some(mut counted) = self.counted.remove(&tenant) else { return };
        let next = Arc::make_mut(&mut counted).take(&document);
        if !counted.is_empty() {
            self.counted.insert(tenant.clone(), counted);
        }
        if let Some(next) = next {
            self.give(&next, Owner::OfNamespace(tenant), touched);
        }
    }

    fn learn(&mut self, reference: Reference, fact: Option<Fact>, touched: &mut Touched) {
        let known = self.facts.get(&reference);
        let is_news = fact.is_some() && known != fact.as_ref();
        // The same file may come back with the bytes that were released.
        let has_more = fact.as_ref().map(Fact::held) > known.map(Fact::held);
        if is_news {
            let dependents = self.dependents.get(&reference).into_iter();
            let documents = dependents.flat_map(|keys| &**keys);
            let documents = documents.filter_map(|key| self.documents.get(key));
            touched.tenants.extend(documents.filter_map(|document| document.tenant()));
        }
        match fact {
            Some(fact) if is_news || has_more => {
                let namespace = match &reference {
                    Reference::Namespace(namespace) => Some(Arc::clone(namespace)),
                    _ => None,
                };
                if is_news {
                    self.stamps.insert(reference.clone(), history::next());
                }
                self.facts.insert(reference, fact);
                if let Some(namespace) = namespace {
                    self.change_owners(&namespace, touched);
                }
            }
            // Another source's documents may ask for it still.
            None if !self.is_wanted(&reference) => {
                self.facts.remove(&reference);
                self.stamps.remove(&reference);
            }
            _ => {}
        }
    }

    /// Gives the documents in a namespace to the tenant that has it now.
    fn change_owners(&mut self, namespace: &Arc<str>, touched: &mut Touched) {
        let reference = Reference::Namespace(Arc::clone(namespace));
        let dependents = self.dependents.get(&reference).cloned().unwrap_or_default();
        for key in &*dependents {
            let Some(document) = self.documents.get(key).map(Arc::clone) else { continue };
            if !self.owner(&document).is_same_but_for_counts(&document.owner) {
                self.take_out(key, touched);
                self.put(Document::clone(&document), touched);
            }
        }
    }

    /// Returns the number of this state. No other state, of this store or any other, has the same number; all empty ones have 0.
    pub(crate) fn version(&self) -> u64 {
        self.history.version()
    }

    /// Returns what was touched since the store had a version; `None` if that is not known, or the version is another store's.
    #[must_use]
    pub(crate) fn touched_since(&self, version: u64) -> Option<Touched> {
        self.history.since(version)
    }

    /// Returns the number of documents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Returns whether there are no documents.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Returns the documents in order.
    pub fn documents(&self) -> impl ExactSizeIterator<Item = &Document> {
        self.documents.values().map(|document| &**document)
    }

    /// Returns a document.
    #[must_use]
    pub fn document(&self, key: &DocumentKey) -> Option<&Document> {
        self.documents.get(key).map(|document| &**document)
    }

    /// Returns the keys of a tenant's documents.
    pub fn of_tenant(&self, tenant: &TenantId) -> impl Iterator<Item = &DocumentKey> {
        self.of_tenants.get(tenant).into_iter().flat_map(|keys| &**keys)
    }

    /// Returns the keys of the documents whose tenant cannot be determined.
    pub(crate) fn strays(&self) -> &BTreeSet<DocumentKey> {
        &self.strays
    }

    /// Returns what is known of a thing that documents refer to; `None` if no source has said anything of it.
    #[must_use]
    pub fn fact(&self, reference: &Reference) -> Option<&Fact> {
        self.facts.get(reference)
    }

    /// Returns what the meaning of a document depends on beside its text, as a value that is another one as soon as any of that is.
    pub(crate) fn surroundings(&self, document: &Document) -> Surroundings {
        let wanted = document.wanted().into_iter();
        let facts = wanted.map(|reference| {
            let stamp = self.stamps.get(&reference).copied();
            (reference, stamp)
        });
        Surroundings {
            facts: facts.collect(),
            links: Arc::clone(&self.links),
            cluster: self.cluster.clone(),
        }
    }

    /// Returns everything that documents ask for. A source says what it knows of those that are of its kind.
    ///
    /// Objects of a cluster are among them only if a document that names them may have them, so that nothing else is ever read. Whether it may is
    /// known by the facts of namespaces and grants: it takes another look once they are said.
    pub fn wanted(&self) -> impl Iterator<Item = &Reference> {
        self.dependents.keys().filter(|reference| self.is_wanted(reference))
    }

    /// Returns what the documents that ask for a thing ask for, as far as they may have it.
    #[must_use]
    pub fn wanted_with(&self, reference: &Reference) -> BTreeSet<Reference> {
        let dependents = self.dependents.get(reference).into_iter().flat_map(|keys| &**keys);
        let documents = dependents.filter_map(|key| self.document(key));
        documents.flat_map(|document| self.wanted_by(document)).collect()
    }

    /// Returns what a document of the store asks for, as far as any document may have it.
    pub fn wanted_by(&self, document: &Document) -> impl Iterator<Item = Reference> {
        document.wanted().into_iter().filter(|reference| self.is_wanted(reference))
    }

    /// Returns a tenant with a document that asks for a thing; `None` if there is none.
    #[must_use]
    pub fn tenant_asking(&self, reference: &Reference) -> Option<TenantId> {
        let dependents = self.dependents.get(reference)?;
        dependents.iter().find_map(|key| self.document(key)?.tenant())
    }

    /// Returns the facts that are held, whether or not a document asks for them.
    pub fn facts(&self) -> impl Iterator<Item = (&Reference, &Fact)> {
        self.facts.iter()
    }

    /// Returns where links in the paths of files lead.
    #[must_use]
    pub fn links(&self) -> &Arc<Links> {
        &self.links
    }

    /// Returns the things among these that no document asks for but rejected ones, where at least one does.
    pub(crate) fn only_rejected(
        &self,
        references: impl IntoIterator<Item = Reference>,
        verdicts: &Verdicts,
    ) -> BTreeSet<Reference> {
        let is_rejected = |key: &DocumentKey| {
            verdicts.on(key).is_some_and(|verdict| {
                matches!(verdict.outcome, Outcome::Rejected | Outcome::KeptLastGood)
            })
        };
        let named = references.into_iter().filter_map(|reference| {
            let dependents = self.dependents.get(&reference)?;
            dependents.iter().all(is_rejected).then_some(reference)
        });
        named.collect()
    }

    /// Returns the files that rejected documents refer to and no other, where any has bytes.
    #[must_use]
    pub fn files_of_rejected(&self, verdicts: &Verdicts) -> Vec<Arc<Path>> {
        let rejected = verdicts
            .iter()
            .filter(|verdict| matches!(verdict.outcome, Outcome::Rejected | Outcome::KeptLastGood));
        let documents = rejected.filter_map(|verdict| self.document(&verdict.document));
        let files = self.only_rejected(documents.flat_map(Document::wanted), verdicts);
        let held = files.into_iter().filter_map(|reference| {
            let is_held = self.fact(&reference).is_some_and(|fact| fact.held() > 0);
            match reference {
                Reference::File(path) if is_held => Some(path),
                _ => None,
            }
        });
        held.collect()
    }

    /// Lets the bytes of these files go. What documents say of them stays as it is.
    pub fn release(&mut self, files: &[Arc<Path>]) {
        for path in files {
            if let Some(Fact::File(file)) = self.facts.get_mut(&Reference::File(Arc::clone(path))) {
                *file = file.released();
            }
        }
    }

    /// Returns the files whose bytes were released.
    #[must_use]
    pub fn released(&self) -> Vec<Arc<Path>> {
        let released = self.facts.iter().filter_map(|(reference, fact)| match (reference, fact) {
            (Reference::File(path), Fact::File(file)) if file.bytes().is_none() => Some(path),
            _ => None,
        });
        released.cloned().collect()
    }

    /// Returns the change that other content of files makes, as far as documents refer to them; `None` for a file that is gone.
    #[must_use]
    pub fn with_files<'a>(
        &self,
        changed: impl IntoIterator<Item = (&'a Path, Option<&'a NamedFile>)>,
    ) -> Change {
        let changed = changed.into_iter().filter_map(|(path, file)| {
            let reference = Reference::File(Arc::from(path));
            self.facts.get(&reference)?;
            Some((reference, Some(file.cloned().map_or(Fact::Missing, Fact::File))))
        });
        Change { facts: changed.collect(), ..Change::default() }
    }
}

fn too_many(tenant: &TenantId, most: usize) -> Owner {
    Owner::Nobody(Ownerless::TooMany { tenant: tenant.clone(), most })
}

fn add<K: Ord + Clone>(index: &mut SharedMap<K, Keys>, at: K, key: DocumentKey) {
    match index.get_mut(&at) {
        Some(keys) => drop(Arc::make_mut(keys).insert(key)),
        None => drop(index.insert(at, Arc::new(BTreeSet::from([key])))),
    }
}

fn take<K: Ord + Clone>(index: &mut SharedMap<K, Keys>, at: &K, key: &DocumentKey) {
    let Some(keys) = index.get_mut(at) else { return };
    let keys = Arc::make_mut(keys);
    keys.remove(key);
    if keys.is_empty() {
        index.remove(at);
    }
}

#[cfg(test)]
mod tests;
