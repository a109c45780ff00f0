//! Follows the API server: events of the watches become changes in the feed, and objects that documents name are watched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use durward_control::change::Change;
use durward_control::compile::still_served;
use durward_control::document::Document;
use durward_control::reference::Reference;
use durward_control::stream::{Answered, Asked, ObjectReport};
use durward_control::{Store, compile};
use durward_kube::object::Object;
use durward_kube::revisions::Revisions;
use durward_kube::source::{Observed, Wanted};
use durward_kube::status::Desired;
use durward_kube::{Clients, Limits, Source};
use durward_model::verdict::{Outcome, Verdict};
use durward_model::{DocumentKey, Kind, ResourceId};
use tokio::time::{Instant, timeout_at};

use super::mappings::{self, Look};
use super::objects::of_kind;
use super::routing::RoutingDocuments;
use super::wants::Wants;
use super::writers::Writers;
use super::{ApiOptions, Shared, load_balancers};
use crate::app::sentence;
use crate::inspect::now;

/// Time for which a new document waits for the objects that it names.
const FACTS: Duration = Duration::from_secs(1);
/// Time in which facts that are known already arrive.
const KNOWN: Duration = Duration::from_millis(50);
/// Time after which things are let go that no document names any more.
const TIDY: Duration = Duration::from_secs(1);
/// Time for which a start reads the last accepted revisions of broken objects.
const FORMER: Duration = Duration::from_secs(10);

/// Follower of one API server. It also writes the statuses of the objects.
pub(crate) struct Follower {
    source: Source,
    revisions: Option<Revisions>,
    writers: Option<Writers>,
    shared: Arc<Shared>,
    /// The objects as they are in the API server.
    objects: BTreeMap<ResourceId, Object>,
    /// What was said of them: the documents, and the things that these name.
    store: Store,
    routing: RoutingDocuments,
    /// Things that are read though no document of the store names them.
    also: Also,
    /// The last reports on Mappings.
    mappings: BTreeMap<ResourceId, ObjectReport>,
    /// A change whose documents wait for what they name, and until when.
    pending: Change,
    deadline: Option<Instant>,
    /// True if the pending change asks for things that nothing asked for before.
    asks: bool,
    /// True until everything was read once.
    starts: bool,
    /// Time at which things are let go that documents name no more; `None` if there can be none.
    tidied_at: Option<Instant>,
}

/// Things to be read, each with the tenant whose document names it, where that is known.
pub(crate) type Also = BTreeMap<Reference, Option<Arc<str>>>;

/// Everything that was read first.
pub(crate) struct Begun {
    /// The objects as they are now, and the things that they name.
    pub(crate) change: Change,
    /// The last accepted revisions of those that are broken now.
    pub(crate) former: Vec<Document>,
}

impl Begun {
    /// Splits the change in two: the first part has the last accepted revisions, and the second what these objects say now. A process that compiles one after the other
    /// serves what the one before it served.
    pub(crate) fn split(self) -> (Change, Change) {
        let Self { change, former } = self;
        let keys: BTreeSet<DocumentKey> = former.iter().map(|one| one.key.clone()).collect();
        let (now, mut before): (Vec<_>, Vec<_>) =
            change.upserts.into_iter().partition(|document| keys.contains(&document.key));
        before.extend(former);
        let later = Change { upserts: now, ..Change::default() };
        (Change { upserts: before, ..change }, later)
    }
}

impl Follower {
    /// Starts to read. Called within a runtime.
    ///
    /// # Errors
    /// Fails with a sentence if the kubeconfig or the service account cannot be used.
    pub(crate) async fn start(options: ApiOptions, shared: Arc<Shared>) -> Result<Self, String> {
        let clients = Clients::new(options.location.clone(), Limits::default()).await;
        let clients = clients.map_err(|error| sentence(&error))?;
        let source = Source::start(&clients, &options.sources);
        {
            let mut state = shared.state();
            state.health = Some(Arc::clone(source.health()));
            state.traffic = Some(clients.traffic.clone());
        }
        let revisions = options
            .statuses
            .as_ref()
            .map(|options| Revisions::new(clients.write.clone(), Arc::clone(&options.namespace)));
        let writers = Writers::start(&clients, &options);
        shared.state().lease = writers.as_ref().and_then(Writers::lease);
        let mut store = Store::default();
        store.read_cluster(Some(options.cluster));
        Ok(Self {
            source,
            revisions,
            writers,
            shared,
            objects: BTreeMap::new(),
            store,
            routing: RoutingDocuments::new(options.routing),
            also: Also::new(),
            mappings: BTreeMap::new(),
            pending: Change::default(),
            deadline: None,
            asks: false,
            starts: true,
            tidied_at: None,
        })
    }

    /// Reads everything once.
    pub(crate) async fn begin(&mut self) -> Begun {
        self.want();
        let mut change = self.next().await;
        self.starts = false;
        let former = self.former().await;
        if !former.is_empty() {
            change.then(self.facts_of(&former).await);
        }
        let former = still_there(former, &self.objects);
        let former = still_served(&self.store, former, now());
        Begun { change, former }
    }

    /// Adds to what a cache has what that means: the documents of a `ConfigMap`. Called before anything is read.
    pub(crate) fn complete(&mut self, cached: &mut Change) {
        self.routing.follow(cached);
    }

    /// Returns the objects that were read.
    pub(crate) fn objects(&self) -> &BTreeMap<ResourceId, Object> {
        &self.objects
    }

    /// Returns what was said of the objects.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Replaces the things that are read though no document of the objects names them.
    pub(crate) fn want_also(&mut self, also: Also) {
        let former = std::mem::replace(&mut self.also, also);
        let more = self.also.iter().filter(|(reference, _)| !former.contains_key(*reference));
        let more: Vec<Wanted<'_>> = more.map(wanted).collect();
        if !more.is_empty() {
            self.source.want_more(more);
        }
        if former.keys().any(|reference| !self.also.contains_key(reference)) {
            self.tidy_soon();
        }
    }

    /// Returns the things that these documents name, and may have.
    pub(crate) fn wanted_by(&self, documents: Vec<Document>) -> Also {
        if documents.is_empty() {
            return Also::new();
        }
        let mut store = self.store.clone();
        let keys: Vec<DocumentKey> = documents.iter().map(|one| one.key.clone()).collect();
        store.apply(Change { upserts: documents, ..Change::default() });
        let documents = keys.iter().filter_map(|key| store.document(key));
        let references: BTreeSet<Reference> =
            documents.flat_map(|document| store.wanted_by(document)).collect();
        let named = references.into_iter().map(|reference| {
            let tenant = asking(&store, &reference);
            (reference, tenant)
        });
        named.collect()
    }

    /// Returns the things that documents of files name, and those without which nothing can be said of Services.
    pub(crate) fn wanted_beside(&self, of_files: BTreeSet<Reference>) -> Also {
        let namespaces = load_balancers::namespaces(&self.source).into_iter();
        let all = of_files.into_iter().chain(namespaces.map(Reference::Namespace));
        all.map(|reference| (reference, None)).collect()
    }

    /// Has the status say what became of an object, if it is still the one that the report is on.
    pub(crate) fn note(&mut self, report: &ObjectReport) {
        let (Some(writers), Some(object)) = (&self.writers, self.objects.get(&report.id)) else {
            return;
        };
        if report.observed != object.revision {
            return;
        }
        if object.mapping.is_some() {
            self.mappings.insert(report.id.clone(), report.clone());
            return;
        }
        if let (Kind::Ingress, Some(ingresses)) = (object.id.kind, &writers.ingresses) {
            return ingresses.note(object, report);
        }
        if let (Kind::TlsRoute, Some(routes)) = (object.id.kind, &writers.tls_routes) {
            // Routes in namespaces of nobody are for other gateways.
            let document = self.store.document(&DocumentKey::Object(object.id.clone()));
            return match document.and_then(Document::tenant) {
                Some(_) => routes.note(object, report),
                None => routes.leave(object),
            };
        }
        if object.is_ours() {
            writers.own.want(&report.id, Desired::new(object, &report.verdict(), &report.planes));
        }
    }

    /// Returns what is to be asked of whoever serves: the addresses of Services, and the Mappings that are being deleted.
    pub(crate) fn asked(&self) -> Asked {
        let Some(writers) = &self.writers else { return Asked::default() };
        let addresses = match &writers.load_balancers {
            Some(_) => load_balancers::asked(&self.store, &self.source),
            None => BTreeSet::new(),
        };
        let mappings = of_kind(&self.objects, Kind::Mapping);
        let going = mappings.filter(|(_, object)| object.is_going());
        Asked { addresses, going: going.map(|(id, _)| id.clone()).collect() }
    }

    /// Says of the objects of others' kinds what became of them: of Mappings, and of Services.
    pub(crate) fn look_at_foreign(&self, answered: &Answered) -> Look {
        let Some(writers) = &self.writers else { return Look::Settled };
        if let Some(writer) = &writers.load_balancers {
            load_balancers::look(writer, answered, &self.store, &self.source);
        }
        match &writers.mappings {
            Some(writer) => {
                mappings::look(writer, (&self.objects, &self.mappings), answered, &self.source)
            }
            None => Look::Settled,
        }
    }

    /// Shows others how reading and writing go.
    pub(crate) fn show(&self) {
        let mut state = self.shared.state();
        state.named = Some(self.source.named());
        if let Some(writers) = &self.writers {
            state.writer = writers.report();
        }
    }

    /// Has more things read, at once; those that are named no more are let go a little later.
    fn follow(&mut self, wants: &Wants) {
        if !wants.more.is_empty() {
            let store = &self.store;
            let more = wants.more.iter();
            let more = more.map(|reference| Wanted { reference, tenant: asking(store, reference) });
            self.source.want_more(more);
        }
        if wants.less {
            self.tidy_soon();
        }
    }

    fn tidy_soon(&mut self) {
        self.tidied_at.get_or_insert_with(|| Instant::now() + TIDY);
    }

    /// Replaces all that is read. Takes time in proportion to that.
    fn want(&mut self) {
        self.tidied_at = None;
        let beside = wanted_beside(&self.also, &self.routing);
        self.source.want(wanted_of(&self.store).chain(beside));
    }

    /// Waits for a change, and for the things that its documents name anew. Cancelling the wait loses nothing.
    pub(crate) async fn next(&mut self) -> Change {
        let mut asked = false;
        loop {
            let Some(observed) = self.observe(asked).await else { break };
            let (change, wants) = self.take_in(observed);
            asked = !wants.more.is_empty();
            self.asks |= asked;
            self.pending.then(change);
            self.deadline.get_or_insert_with(|| Instant::now() + FACTS);
            self.follow(&wants);
        }
        self.deadline = None;
        self.asks = false;
        std::mem::take(&mut self.pending)
    }

    /// Waits for more; `None` if the pending change waits for nothing more. `asked` says that it has asked for things just now.
    async fn observe(&mut self, asked: bool) -> Option<Observed> {
        let Some(deadline) = self.deadline else {
            while let Some(at) = self.tidied_at {
                match timeout_at(at, self.source.next()).await {
                    Ok(observed) => return Some(observed),
                    Err(_) => self.want(),
                }
            }
            return Some(self.source.next().await);
        };
        // A change that names nothing new does not wait for what others name.
        if !self.asks {
            return None;
        }
        let mut waits = self.source.waiting() > 0;
        if !waits && !asked {
            return None;
        }
        let mut deadline = deadline;
        loop {
            // What was asked for and is known already comes at once.
            let patience = if waits { FACTS } else { KNOWN };
            let until = deadline.min(Instant::now() + patience);
            if let Ok(observed) = timeout_at(until, self.source.next()).await {
                return Some(observed);
            }
            // What is not known at a start would take tenants out of service that were served before.
            if !self.starts || !self.source.is_reading() {
                return None;
            }
            deadline = Instant::now() + FACTS;
            self.deadline = Some(deadline);
            waits = true;
        }
    }

    /// Notes what was seen, and returns the change that it is, and what it means for the things that are read.
    fn take_in(&mut self, observed: Observed) -> (Change, Wants) {
        for object in &observed.upserts {
            self.writers.iter().for_each(|writers| writers.observe(object));
            self.objects.insert(object.id.clone(), object.clone());
        }
        for id in &observed.deletes {
            self.writers.iter().for_each(|writers| writers.forget(id));
            self.objects.remove(id);
            self.mappings.remove(id);
        }
        let mut change = observed.into_change();
        self.routing.follow(&mut change);
        let before = self.store.clone();
        let touched = self.store.apply(change.clone());
        let wants = Wants::of(&touched, &change, (&before, &self.store));
        (change, wants)
    }

    /// Returns the last accepted revisions of objects that are broken now.
    async fn former(&self) -> Vec<Document> {
        let Some(revisions) = &self.revisions else { return Vec::new() };
        let compiled = compile(&self.store, None, now());
        let broken = compiled.verdicts.iter().filter(|verdict| is_broken(verdict));
        let broken = broken.filter_map(|verdict| self.objects.get(verdict.document.object()?));
        // Of foreign objects no revisions are kept.
        let broken = broken.filter(|object| object.is_ours());
        let found = revisions.former_documents(broken, Instant::now() + FORMER).await;
        if found.unread > 0 {
            let objects = found.unread;
            tracing::warn!(
                objects,
                "broken objects are not served as they were before: their last accepted revisions cannot be read"
            );
        }
        found.documents
    }

    /// Waits for the things that former documents name, one after the other: whose a namespace is says what is asked for in it.
    async fn facts_of(&mut self, former: &[Document]) -> Change {
        let mut before = self.store.clone();
        before.apply(Change { upserts: former.to_vec(), ..Change::default() });
        let (mut change, deadline) = (Change::default(), Instant::now() + FACTS);
        // What only they name is read no longer than until they are served.
        self.tidy_soon();
        loop {
            let beside = wanted_beside(&self.also, &self.routing);
            self.source.want(wanted_of(&self.store).chain(beside).chain(wanted_of(&before)));
            let patience = if self.source.waiting() > 0 { FACTS } else { KNOWN };
            let until = deadline.min(Instant::now() + patience);
            let Ok(observed) = timeout_at(until, self.source.next()).await else { return change };
            let (more, _) = self.take_in(observed);
            before.apply(Change { facts: more.facts.clone(), ..Change::default() });
            change.then(more);
        }
    }
}

/// Returns the things that documents name, each with a tenant whose document it is in.
fn wanted_of(store: &Store) -> impl Iterator<Item = Wanted<'_>> {
    store.wanted().map(|reference| Wanted { reference, tenant: asking(store, reference) })
}

/// Returns the things that are read beside these, and the `ConfigMap` of documents.
fn wanted_beside<'a>(
    also: &'a Also,
    routing: &'a RoutingDocuments,
) -> impl Iterator<Item = Wanted<'a>> {
    also.iter().map(wanted).chain(routing.wanted().map(Wanted::from))
}

fn wanted<'a>((reference, tenant): (&'a Reference, &Option<Arc<str>>)) -> Wanted<'a> {
    Wanted { reference, tenant: tenant.clone() }
}

/// Returns a tenant with a document that names a thing.
fn asking(store: &Store, reference: &Reference) -> Option<Arc<str>> {
    store.tenant_asking(reference).map(|tenant| Arc::from(tenant.as_str()))
}

/// Returns the former documents of objects that are there: those that are gone by now, or made anew, have none.
fn still_there(mut former: Vec<Document>, objects: &BTreeMap<ResourceId, Object>) -> Vec<Document> {
    former.retain(|document| {
        let object = document.key.object().and_then(|id| objects.get(id));
        object.is_some_and(|object| object.revision.uid == document.revision.uid)
    });
    former
}

/// Returns whether not all of what a document says is served.
fn is_broken(verdict: &Verdict) -> bool {
    verdict.outcome != Outcome::Accepted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, uid: &str) -> Object {
        let json = json!({"metadata": {"name": name, "uid": uid, "generation": 2}, "spec": {}});
        Object::decode(Kind::Tenant, "durward.dev/v1alpha1", &json.to_string()).unwrap()
    }

    /// What was deleted while former documents were read must not come back with one.
    #[test]
    fn an_object_that_is_gone_or_made_anew_has_no_former_document() {
        let former = ["stays", "gone", "anew"].map(|name| {
            let object = object(name, "1");
            object.former_document(Arc::clone(&object.text), 1)
        });
        let objects = [object("stays", "1"), object("anew", "2")];
        let change = Change {
            upserts: objects.iter().map(Object::document).collect(),
            deletes: vec![former[1].key.clone()],
            ..Change::default()
        };
        let objects = objects.map(|object| (object.id.clone(), object)).into();

        let former = still_there(former.into(), &objects);
        let (before, later) = Begun { change, former }.split();

        let said = |change: &Change| {
            let upserts = change.upserts.iter();
            let name = |one: &Document| one.id.as_ref().unwrap().name.to_string();
            upserts.map(|one| (name(one), one.revision.generation)).collect::<Vec<_>>()
        };
        assert_eq!(said(&before), [("anew".to_owned(), 2), ("stays".to_owned(), 1)]);
        assert_eq!(said(&later), [("stays".to_owned(), 2)]);
        assert_eq!(before.deletes.len(), 1);
    }
}
