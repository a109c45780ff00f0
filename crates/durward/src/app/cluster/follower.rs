//! Follows the API server: what the watches see becomes changes in the feed, and what documents name becomes watched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use durward_control::change::{Change, Reference};
use durward_control::document::Document;
use durward_control::feed::Feed;
use durward_control::{Store, compile};
use durward_kube::object::Object;
use durward_kube::revisions::Revisions;
use durward_kube::source::{Observed, Wanted};
use durward_kube::{Clients, Source};
use durward_model::verdict::{Outcome, Verdict};
use durward_model::{DocumentKey, ResourceId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::load_balancers;
use super::routing::RoutingDocuments;
use super::statuses::{Look, Statuses};
use super::writers::Writers;
use super::{First, Options, Shared};
use crate::app::Gateway;
use crate::inspect::now;

/// Time for which a new document waits for the objects that it names.
const FACTS: Duration = Duration::from_secs(1);
/// Time in which facts that are known already arrive.
const KNOWN: Duration = Duration::from_millis(50);
/// Time for which a start reads the last accepted revisions of broken objects.
const FORMER: Duration = Duration::from_secs(10);
/// Pause between two looks at what is served, for the statuses.
const LOOK: Duration = Duration::from_secs(2);
/// Pause after a change that the kernel does not carry yet.
const SOON: Duration = Duration::from_millis(100);
/// Time in which the kernel carries a change, unless it refuses it.
const CARRIED: Duration = Duration::from_secs(10);

pub(super) struct Follower {
    options: Options,
    clients: Clients,
    feed: Arc<Feed>,
    shared: Arc<Shared>,
    /// The objects as they are in the API server.
    objects: BTreeMap<ResourceId, Object>,
    /// What was said of them: the documents, and the things that these name.
    store: Store,
    routing: RoutingDocuments,
    /// A change whose documents wait for what they name, and until when.
    pending: Change,
    deadline: Option<Instant>,
}

impl Follower {
    pub(super) fn new(
        options: Options,
        clients: Clients,
        feed: Arc<Feed>,
        shared: Arc<Shared>,
    ) -> Self {
        let (objects, pending) = (BTreeMap::new(), Change::default());
        let mut store = Store::default();
        store.read_cluster(Some(options.cluster.clone()));
        let routing = RoutingDocuments::new(options.routing.clone());
        Self { options, clients, feed, shared, objects, store, routing, pending, deadline: None }
    }

    /// Reads and follows for ever. `first` is told when the feed holds everything.
    pub(super) async fn run(
        mut self,
        first: First,
        mut gateway: watch::Receiver<Option<Weak<Gateway>>>,
    ) {
        let mut source = Source::start(&self.clients, &self.options.sources);
        {
            let mut state = self.shared.state();
            state.health = Some(Arc::clone(source.health()));
            state.traffic = Some(self.clients.traffic.clone());
        }
        let writer = Writers::start(&self.clients, &self.options);
        source.want(self.wanted(&BTreeSet::new()));
        let begun = self.next(&mut source, &BTreeSet::new(), writer.as_ref()).await;
        let (begun, later) = self.with_former(begun, &mut source, writer.as_ref()).await;
        self.feed.say(begun);
        // Whoever has waited may have lost patience.
        drop(first.try_send(Ok(())));
        let Some(gateway) = known(&mut gateway).await else { return };
        self.feed.say(later);
        let mut statuses = writer.as_ref().map(Statuses::new);
        let mut changes = match gateway.upgrade() {
            Some(gateway) => gateway.changes(),
            None => return,
        };
        let (mut next_look, mut changed_at) = (Instant::now(), Instant::now());
        let mut of_files = BTreeSet::new();
        loop {
            let look = tokio::select! {
                change = self.next(&mut source, &of_files, writer.as_ref()) => {
                    self.feed.say(change);
                    false
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    changed_at = Instant::now();
                    true
                }
                () = sleep_until(next_look) => true,
            };
            if !look {
                continue;
            }
            let Some(gateway) = gateway.upgrade() else { return };
            self.shared.state().named = Some(source.named());
            let mut wanted = gateway.wanted_of_cluster();
            wanted
                .extend(load_balancers::namespaces(&source).into_iter().map(Reference::Namespace));
            if wanted != of_files {
                of_files = wanted;
                source.want(self.wanted(&of_files));
            }
            next_look = Instant::now() + LOOK;
            if let Some(statuses) = &mut statuses {
                let cluster = (&self.objects, &self.store, &source);
                let look = statuses.look(gateway, cluster).await;
                if look == Look::Unsettled && changed_at.elapsed() < CARRIED {
                    next_look = Instant::now() + SOON;
                }
                self.shared.state().writer = statuses.report();
            }
        }
    }

    /// Waits for a change, and for the things that its documents name. Cancelling the wait loses nothing.
    async fn next(
        &mut self,
        source: &mut Source,
        of_files: &BTreeSet<Reference>,
        writer: Option<&Writers>,
    ) -> Change {
        let mut asked = false;
        loop {
            // What was asked for and is known already comes at once.
            let patience = if source.waiting() > 0 { FACTS } else { KNOWN };
            let observed = match self.deadline {
                None => source.next().await,
                Some(_) if source.waiting() == 0 && !asked => break,
                Some(deadline) => {
                    let until = deadline.min(Instant::now() + patience);
                    match timeout_at(until, source.next()).await {
                        Ok(observed) => observed,
                        Err(_) => break,
                    }
                }
            };
            // Whose a namespace is, and what is granted, says which objects a document may name.
            let is_right = |fact: &(Reference, _)| {
                matches!(fact.0, Reference::Namespace(_) | Reference::Grant(_))
            };
            let change = self.take_in(observed, writer);
            let asks = !change.upserts.is_empty()
                || !change.deletes.is_empty()
                || change.facts.iter().any(is_right);
            self.pending.then(change);
            self.deadline.get_or_insert_with(|| Instant::now() + FACTS);
            asked = asks;
            if asks {
                source.want(self.wanted(of_files));
            }
        }
        self.deadline = None;
        std::mem::take(&mut self.pending)
    }

    /// Returns everything that is to be read: what documents name, of objects and of files, and the `ConfigMap` of documents.
    fn wanted<'a>(&'a self, of_files: &'a BTreeSet<Reference>) -> impl Iterator<Item = Wanted<'a>> {
        let by = |reference| wanted_by(&self.store, reference);
        let others = of_files.iter().chain(self.routing.wanted());
        self.store.wanted().map(by).chain(others.map(Wanted::from))
    }

    /// Notes what was seen, and returns the change that it is.
    fn take_in(&mut self, observed: Observed, writer: Option<&Writers>) -> Change {
        for object in &observed.upserts {
            writer.iter().for_each(|writer| writer.observe(object));
            self.objects.insert(object.id.clone(), object.clone());
        }
        for id in &observed.deletes {
            writer.iter().for_each(|writer| writer.forget(id));
            self.objects.remove(id);
        }
        let mut change = observed.into_change();
        self.routing.follow(&mut change);
        self.store.apply(change.clone());
        change
    }

    /// Splits the first change in two, for objects that are broken now: the first part has their last accepted revisions, and the second what they say
    /// now. A process that starts then serves what the one before it served.
    async fn with_former(
        &mut self,
        mut change: Change,
        source: &mut Source,
        writer: Option<&Writers>,
    ) -> (Change, Change) {
        let compiled = compile(&self.store, None, now());
        let broken = compiled.verdicts.iter().filter(|verdict| is_broken(verdict));
        let broken = broken.filter_map(|verdict| self.objects.get(verdict.document.object()?));
        // Of foreign objects no revisions are kept.
        let broken = broken.filter(|object| object.mapping.is_none());
        let revisions = self.options.statuses.as_ref().map(|options| {
            Revisions::new(self.clients.write.clone(), Arc::clone(&options.namespace))
        });
        let Some(revisions) = revisions else { return (change, Change::default()) };
        let found = revisions.former_documents(broken, Instant::now() + FORMER).await;
        if found.unread > 0 {
            let objects = found.unread;
            tracing::warn!(
                objects,
                "broken objects are not served as they were before: their last accepted revisions cannot be read"
            );
        }
        let former = found.documents;
        if former.is_empty() {
            return (change, Change::default());
        }
        change.then(self.facts_of(&former, source, writer).await);
        split(change, former, &self.objects)
    }

    /// Waits for the things that former documents name, one after the other: whose a namespace is says what is asked for in it.
    async fn facts_of(
        &mut self,
        former: &[Document],
        source: &mut Source,
        writer: Option<&Writers>,
    ) -> Change {
        let mut before = self.store.clone();
        before.apply(Change { upserts: former.to_vec(), ..Change::default() });
        let (mut change, deadline) = (Change::default(), Instant::now() + FACTS);
        loop {
            let former = before.wanted().map(|reference| wanted_by(&before, reference));
            source.want(self.wanted(&BTreeSet::new()).chain(former));
            let patience = if source.waiting() > 0 { FACTS } else { KNOWN };
            let until = deadline.min(Instant::now() + patience);
            let Ok(observed) = timeout_at(until, source.next()).await else { return change };
            let more = self.take_in(observed, writer);
            before.apply(Change { facts: more.facts.clone(), ..Change::default() });
            change.then(more);
        }
    }
}

/// Returns a reference with a tenant whose document it is in.
fn wanted_by<'a>(store: &Store, reference: &'a Reference) -> Wanted<'a> {
    let tenant = store.tenant_asking(reference).map(|tenant| Arc::from(tenant.as_str()));
    Wanted { reference, tenant }
}

/// Splits a change in what is said first, with the former documents, and what these objects say now. Objects that are gone by now, or made anew, have no former document.
fn split(
    change: Change,
    mut former: Vec<Document>,
    objects: &BTreeMap<ResourceId, Object>,
) -> (Change, Change) {
    former.retain(|document| {
        let object = document.key.object().and_then(|id| objects.get(id));
        object.is_some_and(|object| object.revision.uid == document.revision.uid)
    });
    let keys: BTreeSet<DocumentKey> = former.iter().map(|one| one.key.clone()).collect();
    let (now, mut before): (Vec<_>, Vec<_>) =
        change.upserts.into_iter().partition(|document| keys.contains(&document.key));
    before.extend(former);
    let later = Change { upserts: now, ..Change::default() };
    (Change { upserts: before, ..change }, later)
}

/// Returns whether not all of what a document says is served.
fn is_broken(verdict: &Verdict) -> bool {
    verdict.outcome != Outcome::Accepted
}

/// Waits until the gateway is known; `None` if there will be none.
async fn known(gateway: &mut watch::Receiver<Option<Weak<Gateway>>>) -> Option<Weak<Gateway>> {
    gateway.wait_for(Option::is_some).await.ok()?.clone()
}

#[cfg(test)]
mod tests {
    use durward_model::Kind;
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

        let (before, later) = split(change, former.into(), &objects);

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
