use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use durward_model::{DocumentKey, Kind, Revision};
use proptest::prelude::*;

use super::*;
use crate::change::{Change, Entries, Fact};
use crate::document::{Content, Document, Source};
use crate::reference::Grantee;
use crate::spec::smartnat::{self, MappingObject, SmartNatOptions};
use crate::spec::{document, egress_policy};
use crate::{Cluster, Store, compile};

fn object(name: &str, generation: u64, body: &str) -> Document {
    let id = ResourceId::new(Kind::Tenant, name);
    let text = format!(
        r#"{{"apiVersion": "durward.dev/v1alpha1", "kind": "Tenant", "metadata": {{"name": "{name}"}},
"spec": {{"ingress": [{{"address": "198.51.100.1", "port": 80, "protocol": "HTTP", "routes": [{{"respond": {{"body": "{body}"}}}}]}}]}}}}"#
    );
    let source =
        document::source(Kind::Tenant, &Arc::from(id.to_string()), text.into(), 1, Vec::new());
    let content = document::content(&source);
    let revision = Revision { uid: Some(Arc::from("u")), generation };
    Document::of_object(id, revision, Some(Arc::from("2026-11-01T10:00:00Z")), source, content)
}

fn secret(name: &str) -> Reference {
    Reference::Secret { namespace: Arc::from("acme"), name: Arc::from(name) }
}

fn bytes(content: &[u8]) -> Fact {
    Fact::Bytes(BTreeMap::from([(Arc::from("tls.key"), Arc::from(content))]).into())
}

/// Sends what is due, as one change.
fn send(outbox: &mut Outbox, said: &Said, received: &mut Received) -> Change {
    for key in outbox.take() {
        let Some(message) = outbox.message(&key, said).unwrap() else { continue };
        let mut frames = Frames::default();
        frames.push(&message);
        let (message, json) = frames.next_message::<ToGateway>().unwrap().unwrap();
        match message {
            ToGateway::Item(item) => received.item(*item, json).unwrap(),
            ToGateway::Gone(key) => received.gone(key),
            other => panic!("{other:?}"),
        }
    }
    received.commit()
}

/// Connects anew: the receiver says what it holds, and gets the rest.
fn connect(said: &Said, received: &mut Received) -> (Outbox, Change) {
    received.break_off();
    let mut outbox = Outbox::default();
    outbox.note_held(received.held().map(|(key, digest)| (key.clone(), digest)));
    outbox.begin(said);
    let change = send(&mut outbox, said, received);
    (outbox, change)
}

#[test]
fn every_fact_comes_through_as_it_was() {
    let target = ResourceId::namespaced(Kind::Secret, "acme", "shop");
    let grantee = Grantee { kind: Kind::Tenant, namespace: Arc::from("globex") };
    let service = |port: &str| Reference::Service {
        namespace: Arc::from("acme"),
        name: Arc::from("pay"),
        port: Arc::from(port),
    };
    let config_map = Reference::ConfigMap { namespace: Arc::from("acme"), name: Arc::from("c") };
    let labels = BTreeMap::from([(Arc::from("a"), Arc::from("b"))]);
    let entries = Entries::from(BTreeMap::from([(Arc::from("tls.crt"), Arc::from(&b"c"[..]))]));
    let typed = Fact::Bytes(entries.of_type(Some(Arc::from("kubernetes.io/tls"))));
    let facts = [
        (secret("shop"), bytes(b"\0\xff hidden")),
        (secret("typed"), typed),
        (config_map, Fact::Missing),
        (
            service("http"),
            Fact::Endpoints(["[2001:db8::1]:80".parse().unwrap()].into_iter().collect()),
        ),
        (service("outside"), Fact::WithoutEndpoints("is of the type ExternalName".to_owned())),
        (service("80"), Fact::PortUnknown("has http".to_owned())),
        (Reference::Namespace(Arc::from("acme")), Fact::Labels(labels)),
        (Reference::Grant(target), Fact::Grants(BTreeSet::from([grantee]))),
        (secret("other"), Fact::Unreadable("is forbidden".to_owned())),
    ];
    let mut said = Said::default();
    said.take(Change {
        facts: facts.iter().map(|(name, fact)| (name.clone(), Some(fact.clone()))).collect(),
        ..Change::default()
    });

    let (_, change) = connect(&said, &mut Received::default());

    let came: BTreeMap<_, _> = change.facts.into_iter().collect();
    assert_eq!(came.len(), facts.len());
    for (name, fact) in facts {
        assert_eq!(came[&name], Some(fact), "{name:?}");
    }
}

#[test]
fn a_document_compiles_on_the_other_side_as_on_this_one() {
    let document = object("acme", 7, "a\\nb");
    let mut said = Said::default();
    said.take(Change { upserts: vec![document.clone()], ..Change::default() });

    let (_, change) = connect(&said, &mut Received::default());

    assert!(change.upserts[0].is_same_as(&document));
    assert_eq!(change.upserts[0].created, document.created);
    let snapshot = |document: Document| {
        let mut store = Store::default();
        store.read_cluster(Some(Cluster::new("durward")));
        store.apply(Change { upserts: vec![document], ..Change::default() });
        compile(&store, None, 0)
    };
    let (here, there) = (snapshot(document), snapshot(change.upserts[0].clone()));
    assert_eq!(here.snapshot, there.snapshot);
    assert_eq!(here.snapshot.tenants.len(), 1);
    assert_eq!(here.verdicts, there.verdicts);
}

#[test]
fn documents_of_every_kind_come_through_as_they_were() {
    let namespaced = |kind, text: &str| {
        let id = ResourceId::namespaced(kind, "acme", "one");
        let head = format!(
            r#"{{"apiVersion": "durward.dev/v1alpha1", "kind": "{kind}", "metadata": {{"name": "one"}}, "spec": {text}}}"#
        );
        let source = document::source(kind, &Arc::from(id.to_string()), head.into(), 1, Vec::new());
        let content = document::content(&source);
        Document::of_object(id, Revision::default(), None, source, content)
    };
    let mapping = |spec: &str| {
        let object = MappingObject {
            id: ResourceId::namespaced(Kind::Mapping, "acme", "one"),
            revision: Revision { uid: Some(Arc::from("u")), generation: 2 },
            created: Some(Arc::from("2026-11-01T10:00:00Z")),
            annotations: BTreeMap::new(),
            spec: Arc::from(spec),
        };
        smartnat::document(&object, SmartNatOptions::default())
    };
    let id = ResourceId::new(Kind::Namespace, "acme");
    let text = egress_policy::of_namespace("acme", None);
    let source =
        document::source(Kind::Namespace, &Arc::from(id.to_string()), text.into(), 1, Vec::new());
    let content = document::content(&source);
    let documents = [
        object("acme", 1, "a"),
        namespaced(
            Kind::PortMapping,
            r#"{"addresses": ["203.0.113.1"], "ports": [{"port": 80}], "endpoints": ["192.0.2.1:80"]}"#,
        ),
        namespaced(Kind::EgressPolicy, r#"{"allow": [{"host": "pay.example"}]}"#),
        namespaced(
            Kind::HostedApi,
            r#"{"names": ["t1.api.example"], "address": "203.0.113.3", "upstream": {"endpoints": ["192.0.2.1:6443"]}}"#,
        ),
        Document::of_object(id, Revision::default(), None, source, content),
        mapping(
            r#"{"addresses": ["203.0.113.2"], "serviceName": "pay", "mode": "service", "ports": [{"port": 80}]}"#,
        ),
    ];
    let mut said = Said::default();
    said.take(Change { upserts: documents.to_vec(), ..Change::default() });

    let (_, change) = connect(&said, &mut Received::default());

    let came: BTreeMap<_, _> = change.upserts.iter().map(|one| (&one.key, one)).collect();
    assert_eq!(came.len(), documents.len());
    for document in &documents {
        let one = came[&document.key];
        assert!(one.is_same_as(document), "{:?}", document.key);
        let read = std::mem::discriminant(&one.content);
        assert_eq!(read, std::mem::discriminant(&document.content), "{:?}", document.key);
        assert_eq!(one.source.field_names, document.source.field_names);
        assert!(!matches!(one.content, Content::Broken(_)), "{:?}", one.content);
    }
}

/// The text of an invalid Mapping is that of SmartNat's object, which says nothing of why it is invalid.
#[test]
fn an_invalid_mapping_comes_through_with_why_it_is() {
    let object = MappingObject {
        id: ResourceId::namespaced(Kind::Mapping, "acme", "one"),
        revision: Revision { uid: Some(Arc::from("u")), generation: 2 },
        created: None,
        annotations: BTreeMap::new(),
        spec: Arc::from(
            r#"{"addresses": ["gateway"], "serviceName": "pay", "mode": "service", "ports": [{"port": 80}]}"#,
        ),
    };
    let document = smartnat::document(&object, SmartNatOptions::default());
    let mut said = Said::default();
    said.take(Change { upserts: vec![document.clone()], ..Change::default() });

    let (_, change) = connect(&said, &mut Received::default());

    let of = |document: &Document| match &document.content {
        Content::Broken(broken) => broken.findings.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(of(&change.upserts[0]), of(&document));
    assert!(of(&document)[0].sentence.contains("gateway"), "{:?}", of(&document));
}

#[test]
fn files_stay_in_the_process_that_reads_them() {
    let file = Reference::File(Arc::from(Path::new("/etc/shadow")));
    let of_file = Document::of_file(
        0,
        Source::default(),
        Content::Broken(Arc::new(crate::document::Broken { name: None, findings: Vec::new() })),
    );
    let mut said = Said::default();

    let touched = said.take(Change {
        upserts: vec![of_file],
        facts: vec![(file.clone(), Some(Fact::Missing))],
        ..Change::default()
    });

    assert!(touched.is_empty(), "{touched:?}");
    let forged =
        format!(r#"{{"Item":{{"Fact":[{},"Missing"]}}}}"#, serde_json::to_string(&file).unwrap());
    assert!(serde_json::from_str::<ToGateway>(&forged).is_err(), "{forged}");
}

#[test]
fn a_receiver_that_holds_everything_is_sent_nothing_when_it_connects_again() {
    let (mut said, mut received) = (Said::default(), Received::default());
    said.take(Change {
        upserts: vec![object("acme", 1, "a"), object("globex", 1, "b")],
        facts: vec![(secret("shop"), Some(bytes(b"k")))],
        ..Change::default()
    });
    let (_, first) = connect(&said, &mut received);
    assert_eq!((first.upserts.len(), first.facts.len()), (2, 1));

    let (_, again) = connect(&said, &mut received);
    assert!(again.is_empty(), "{again:?}");
    said.take(Change {
        upserts: vec![object("acme", 2, "c")],
        deletes: vec![DocumentKey::Object(ResourceId::new(Kind::Tenant, "globex"))],
        ..Change::default()
    });
    let (_, rest) = connect(&said, &mut received);

    assert_eq!(rest.upserts.len(), 1);
    assert_eq!(rest.deletes, [DocumentKey::Object(ResourceId::new(Kind::Tenant, "globex"))]);
    assert!(rest.facts.is_empty());
}

#[test]
fn a_change_that_was_cut_off_is_said_again() {
    let (mut said, mut received) = (Said::default(), Received::default());
    said.take(Change { upserts: vec![object("acme", 1, "a")], ..Change::default() });
    let mut outbox = Outbox::default();
    outbox.begin(&said);
    for key in outbox.take() {
        let message = outbox.message(&key, &said).unwrap().unwrap();
        let mut frames = Frames::default();
        frames.push(&message);
        let (message, json) = frames.next_message::<ToGateway>().unwrap().unwrap();
        let ToGateway::Item(item) = message else { panic!("{message:?}") };
        received.item(*item, json).unwrap();
    }
    // The connection ends before the change does.
    let (_, again) = connect(&said, &mut received);

    assert_eq!(again.upserts.len(), 1);
}

#[test]
fn a_message_is_whole_or_not_there_and_never_larger_than_allowed() {
    let hello = frame(&FromGateway::Hello { version: VERSION }).unwrap();
    let mut frames = Frames::default();
    for byte in &hello[..hello.len() - 1] {
        frames.push(&[*byte]);
        assert!(frames.next_message::<FromGateway>().unwrap().is_none());
    }
    frames.push(&hello[hello.len() - 1..]);
    assert!(matches!(
        frames.next_message::<FromGateway>().unwrap(),
        Some((FromGateway::Hello { version: VERSION }, _))
    ));

    let mut endless = Frames::default();
    endless.push(&[0xff; 4]);
    assert!(matches!(endless.next_message::<FromGateway>(), Err(FrameFault::TooLarge(_))));
    let mut junk = Frames::default();
    junk.push(&[0, 0, 0, 2, b'{', b'x']);
    assert!(matches!(junk.next_message::<FromGateway>(), Err(FrameFault::Unreadable(_))));
}

#[test]
fn a_secret_that_is_too_large_is_said_to_be_unreadable() {
    let mut said = Said::default();
    let large = vec![b'x'; LARGEST_FRAME];
    said.take(Change { facts: vec![(secret("big"), Some(bytes(&large)))], ..Change::default() });

    let (_, change) = connect(&said, &mut Received::default());

    assert!(matches!(&change.facts[0].1, Some(Fact::Unreadable(why)) if why.contains("too large")));
}

#[test]
fn no_message_shows_the_bytes_of_a_secret() {
    let item = Item::Fact(secret("shop"), bytes(b"hidden"));

    let shown = format!("{:?}", ToGateway::Item(Box::new(item)));

    assert!(shown.contains("tls.key") && !shown.contains("104"), "{shown}");
}

#[test]
fn a_report_is_bounded_and_a_larger_one_is_told_from_it() {
    use durward_model::Origin;
    use durward_model::verdict::{Finding, Outcome, Severity, Verdict};
    let finding = Finding {
        severity: Severity::Error,
        reason: Arc::from("Bad"),
        field: Arc::from("spec"),
        sentence: Arc::from("é".repeat(5_000)),
        origin: Origin::BuiltIn,
        excerpt: Some(Arc::from("excerpt")),
    };
    let id = ResourceId::new(Kind::Tenant, "acme");
    let verdict = Verdict {
        document: DocumentKey::Object(id.clone()),
        resource: id,
        observed: Revision::default(),
        outcome: Outcome::Rejected,
        findings: vec![finding.clone(); 300],
        origin: Origin::BuiltIn,
    };

    let report = ObjectReport::new(&verdict, Vec::new()).unwrap();

    assert!(report.is_bounded());
    assert_eq!(report.verdict().findings.len(), 100);
    assert!(!ObjectReport { findings: vec![finding], ..report }.is_bounded());
}

/// A step of a history: what happens to one of a few things, or the connection ends in the middle of a change or after it.
#[derive(Clone, Debug)]
enum Step {
    Document(u8, u8),
    Delete(u8),
    Fact(u8, Option<u8>),
    Cut(u8),
    Send,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4u8, 0..3u8).prop_map(|(name, body)| Step::Document(name, body)),
        (0..4u8).prop_map(Step::Delete),
        (0..4u8, proptest::option::of(0..3u8)).prop_map(|(name, body)| Step::Fact(name, body)),
        (0..8u8).prop_map(Step::Cut),
        Just(Step::Send),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_cut_off_the_receiver_holds_what_the_sender_says(steps in steps()) {
        let (mut said, mut received, mut outbox) =
            (Said::default(), Received::default(), Outbox::default());
        let mut served: BTreeMap<ItemKey, String> = BTreeMap::new();
        let serve = |served: &mut BTreeMap<ItemKey, String>, change: Change| {
            for key in change.deletes {
                served.remove(&ItemKey::Document(key.object().unwrap().clone()));
            }
            for document in change.upserts {
                let item = Item::Document(document);
                served.insert(item.key().unwrap(), serde_json::to_string(&item).unwrap());
            }
            for (name, fact) in change.facts {
                let key = ItemKey::Fact(name.clone());
                match fact {
                    Some(fact) => {
                        let text = serde_json::to_string(&Item::Fact(name, fact)).unwrap();
                        // Nothing is said twice.
                        assert_ne!(served.insert(key, text.clone()), Some(text));
                    }
                    None => drop(served.remove(&key)),
                }
            }
        };
        for step in steps.into_iter().chain([Step::Cut(0), Step::Send]) {
            let change = match step {
                Step::Document(name, body) => Change {
                    upserts: vec![object(&name.to_string(), u64::from(body), &body.to_string())],
                    ..Change::default()
                },
                Step::Delete(name) => Change {
                    deletes: vec![DocumentKey::Object(ResourceId::new(Kind::Tenant, &name.to_string()))],
                    ..Change::default()
                },
                Step::Fact(name, body) => Change {
                    facts: vec![(secret(&name.to_string()), body.map(|body| bytes(&[body])))],
                    ..Change::default()
                },
                Step::Cut(after) => {
                    for key in outbox.take().into_iter().take(usize::from(after)) {
                        let Some(message) = outbox.message(&key, &said).unwrap() else { continue };
                        let mut frames = Frames::default();
                        frames.push(&message);
                        let (message, json) = frames.next_message::<ToGateway>().unwrap().unwrap();
                        match message {
                            ToGateway::Item(item) => received.item(*item, json).unwrap(),
                            ToGateway::Gone(key) => received.gone(key),
                            other => panic!("{other:?}"),
                        }
                    }
                    let (anew, change) = connect(&said, &mut received);
                    outbox = anew;
                    serve(&mut served, change);
                    continue;
                }
                Step::Send => {
                    let change = send(&mut outbox, &said, &mut received);
                    serve(&mut served, change);
                    continue;
                }
            };
            // Watches say each thing only when it changed.
            let is_news = |item: &Item| said.items_json(&item.key().unwrap()) != serde_json::to_string(item).ok();
            let news = Change {
                upserts: change.upserts.into_iter().filter(|one| is_news(&Item::Document(one.clone()))).collect(),
                facts: change.facts.into_iter().filter(|(name, fact)| fact.as_ref().is_none_or(|fact| is_news(&Item::Fact(name.clone(), fact.clone())))).collect(),
                ..change
            };
            outbox.extend(said.take(news));
        }
        let wanted: BTreeMap<ItemKey, String> =
            said.keys().map(|key| (key.clone(), said.items_json(key).unwrap())).collect();
        prop_assert_eq!(served, wanted);
    }
}
