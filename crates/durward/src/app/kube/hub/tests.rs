use std::sync::Arc;

use durward_control::change::Change;
use durward_control::spec::document;
use durward_control::stream::{Frames, Received, ToGateway};
use durward_model::verdict::Outcome;
use durward_model::{DocumentKey, Kind, Revision};

use super::*;

fn id(name: &str) -> ResourceId {
    ResourceId::new(Kind::Tenant, name)
}

fn object(name: &str, generation: u64) -> Document {
    let id = id(name);
    let text = format!("kind: Tenant\nmetadata: {{name: {name}}}\nspec: {{}} # {generation}");
    let file = Arc::from(id.to_string());
    let source = document::source(Kind::Tenant, &file, text.into(), 1, Vec::new());
    let content = document::content(&source);
    let revision = Revision { uid: Some(Arc::from("u")), generation };
    Document::of_object(id, revision, None, source, content)
}

fn change(documents: &[Document]) -> Change {
    Change { upserts: documents.to_vec(), ..Change::default() }
}

fn begun(documents: &[Document], former: &[Document]) -> Hub {
    let hub = Hub::new(Arc::from("durward"));
    hub.begin(Begun { change: change(documents), former: former.to_vec() });
    hub
}

fn report(document: &Document, outcome: Outcome) -> ObjectReport {
    ObjectReport {
        id: document.key.object().unwrap().clone(),
        observed: document.revision.clone(),
        outcome,
        findings: Vec::new(),
        planes: Vec::new(),
        addresses: Vec::new(),
        configured: None,
    }
}

/// Receives one change, as generations by object.
fn receive(hub: &Hub, number: u64, received: &mut Received) -> Option<Vec<(String, u64)>> {
    let batch = hub.batch(number)?;
    for key in batch.items {
        let Some(bytes) = hub.message(number, &key, batch.is_first).unwrap() else { continue };
        let mut frames = Frames::default();
        frames.push(&bytes);
        let (message, json) = frames.next_message::<ToGateway>().unwrap().unwrap();
        match message {
            ToGateway::Item(item) => received.item(*item, json).unwrap(),
            ToGateway::Gone(key) => received.gone(key),
            other => panic!("{other:?}"),
        }
    }
    let upserts = received.commit().upserts.into_iter();
    let named = upserts.map(|one| (one.id.unwrap().name.to_string(), one.revision.generation));
    Some(named.collect())
}

fn names(changes: &[(&str, u64)]) -> Option<Vec<(String, u64)>> {
    Some(changes.iter().map(|(name, generation)| ((*name).to_owned(), *generation)).collect())
}

#[test]
fn a_new_gateway_has_broken_objects_first_as_they_were_served() {
    let hub = begun(&[object("acme", 2), object("globex", 5)], &[object("acme", 1)]);
    let mut received = Received::default();

    let (number, _) = hub.join(Vec::new()).unwrap();

    assert_eq!(receive(&hub, number, &mut received), names(&[("acme", 1), ("globex", 5)]));
    assert_eq!(receive(&hub, number, &mut received), names(&[("acme", 2)]));
    assert_eq!(receive(&hub, number, &mut received), None);
}

#[test]
fn a_gateway_that_holds_an_object_is_not_sent_an_earlier_revision() {
    let hub = begun(&[object("acme", 1)], &[]);
    let mut received = Received::default();
    let (number, _) = hub.join(Vec::new()).unwrap();
    receive(&hub, number, &mut received);
    hub.report(number, report(&object("acme", 1), Outcome::Accepted));
    hub.reports();
    hub.say(change(&[object("acme", 2)]));
    receive(&hub, number, &mut received);
    hub.leave(number);

    let held = received.held().map(|(key, digest)| (key.clone(), digest)).collect();
    let (again, _) = hub.join(held).unwrap();

    assert_eq!(receive(&hub, again, &mut received), names(&[]));
    assert_eq!(receive(&hub, again, &mut received), None);
}

#[test]
fn what_was_served_last_is_kept_until_another_revision_is_served() {
    let hub = begun(&[object("acme", 1)], &[]);
    let (first, _) = hub.join(Vec::new()).unwrap();
    let former = || hub.former().iter().map(|one| one.revision.generation).collect::<Vec<_>>();
    hub.report(first, report(&object("acme", 1), Outcome::Accepted));
    hub.reports();
    assert_eq!(former(), [0; 0]);

    hub.say(change(&[object("acme", 2)]));
    assert_eq!(former(), [1]);
    hub.report(first, report(&object("acme", 2), Outcome::KeptLastGood));
    hub.reports();
    assert_eq!(former(), [1]);
    hub.say(change(&[object("acme", 3)]));
    hub.report(first, report(&object("acme", 3), Outcome::Partial));
    hub.reports();
    assert_eq!(former(), [0; 0]);

    hub.say(change(&[object("acme", 4)]));
    let deletes = vec![DocumentKey::Object(id("acme"))];
    hub.say(Change { deletes, ..Change::default() });
    assert_eq!(former(), [0; 0]);
}

#[test]
fn the_youngest_gateway_that_serves_is_heard_and_the_older_one_again_when_it_goes() {
    let acme = object("acme", 1);
    let hub = begun(std::slice::from_ref(&acme), &[]);
    let (older, _) = hub.join(Vec::new()).unwrap();
    let outcomes = || hub.reports().iter().map(|one| one.outcome).collect::<Vec<_>>();
    hub.report(older, report(&acme, Outcome::Accepted));
    assert_eq!(outcomes(), [Outcome::Accepted]);

    let (younger, _) = hub.join(Vec::new()).unwrap();
    hub.report(older, report(&acme, Outcome::Partial));
    assert_eq!(outcomes(), [Outcome::Partial], "the younger one does not serve yet");
    hub.report(younger, report(&acme, Outcome::Rejected));
    hub.report(older, report(&acme, Outcome::Accepted));
    assert_eq!(outcomes(), [Outcome::Rejected]);
    hub.leave(younger);

    assert_eq!(outcomes(), [Outcome::Accepted]);
}

#[test]
fn nothing_is_said_before_everything_was_read() {
    let hub = Hub::new(Arc::from("durward"));
    let mut before = Received::default();
    let known = begun(&[object("acme", 1)], &[]);
    let (number, _) = known.join(Vec::new()).unwrap();
    receive(&known, number, &mut before);
    let held = before.held().map(|(key, digest)| (key.clone(), digest)).collect();

    let (number, _) = hub.join(held).unwrap();
    let batch = hub.batch(number).unwrap();
    assert!(batch.items.is_empty() && !batch.is_first && batch.state.is_some());
    hub.begin(Begun { change: Change::default(), former: Vec::new() });

    let batch = hub.batch(number).unwrap();
    assert_eq!(batch.items.into_iter().collect::<Vec<_>>(), [ItemKey::Document(id("acme"))]);
}

#[test]
fn there_are_only_so_many_gateways() {
    let hub = begun(&[], &[]);
    let joined: Vec<_> = (0..MOST_PEERS).map(|_| hub.join(Vec::new()).unwrap().0).collect();

    assert!(hub.join(Vec::new()).is_none());
    hub.leave(joined[0]);

    assert!(hub.join(Vec::new()).is_some());
}
