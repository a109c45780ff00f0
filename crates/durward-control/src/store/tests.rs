//! Changes of several sources in one store, and what they touch.

use std::path::PathBuf;

use durward_model::{ResourceId, Revision};

use super::*;
use crate::document::Source;
use crate::named_file::NamedFile;
use crate::spec::document;

fn in_file(file: &str, position: usize, text: &str) -> Document {
    let (kind, file) = (document::kind(text), Arc::from(file));
    let source = document::source(kind, &file, Arc::from(text), 1, vec![PathBuf::from("d")]);
    let content = document::content(&source);
    Document::of_file(position, source, content)
}

fn object(name: &str, generation: u64, text: &str) -> Document {
    let kind = document::kind(text);
    let source = Source { kind, text: Arc::from(text), ..Source::default() };
    let content = document::content(&source);
    let id = ResourceId::new(kind, name);
    Document::of_object(id, Revision { uid: None, generation }, None, source, content)
}

fn tenant(name: &str, authority: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {{upstreams: {{u: {{endpoints: [192.0.2.1], tls: {{caFile: {authority}}}}}}}}}\n"
    )
}

fn upserts(upserts: impl IntoIterator<Item = Document>) -> Change {
    Change { upserts: upserts.into_iter().collect(), ..Change::default() }
}

fn reference(path: &str) -> Reference {
    Reference::File(Arc::from(Path::new(path)))
}

fn content(path: &str, bytes: &[u8]) -> Change {
    let fact = Fact::File(NamedFile::new(bytes.to_vec()));
    Change { facts: vec![(reference(path), Some(fact))], ..Change::default() }
}

fn tenants(touched: &Touched) -> Vec<&str> {
    touched.tenants.iter().map(TenantId::as_str).collect()
}

#[test]
fn a_change_touches_the_tenants_that_its_documents_had_and_have() {
    let mut store: Store =
        ["a", "b", "c"].map(|name| in_file(name, 0, &tenant(name, "x"))).into_iter().collect();
    let version = store.version();

    let renamed = store.apply(upserts([in_file("b", 0, &tenant("d", "x"))]));
    assert_eq!(tenants(&renamed), ["b", "d"]);
    let gone = in_file("c", 0, "").key;
    let deleted = store.apply(Change { deletes: vec![gone], ..Change::default() });
    assert_eq!(tenants(&deleted), ["c"]);
    let again = store.apply(upserts([in_file("a", 0, &tenant("a", "x"))]));
    assert!(again.is_empty(), "the same document says nothing new");

    assert_eq!(tenants(&store.touched_since(version).unwrap()), ["b", "c", "d"]);
    assert!(store.touched_since(store.version()).unwrap().is_empty());
}

#[test]
fn a_fact_touches_those_who_ask_for_it_and_nobody_else() {
    let documents = [("a", "one"), ("b", "two"), ("c", "one")];
    let documents = documents.map(|(name, file)| in_file(name, 0, &tenant(name, file)));
    let mut store: Store = documents.into_iter().collect();
    assert!(store.wanted().eq([&reference("d/one"), &reference("d/two")]));

    assert_eq!(tenants(&store.apply(content("d/one", b"1"))), ["a", "c"]);
    assert!(store.apply(content("d/one", b"1")).is_empty());
    assert_eq!(tenants(&store.apply(content("d/two", b"1"))), ["b"]);
    store.apply(upserts([in_file("c", 0, &tenant("c", "two"))]));
    assert_eq!(tenants(&store.apply(content("d/one", b"2"))), ["a"]);
    assert_eq!(tenants(&store.apply(content("d/two", b"2"))), ["b", "c"]);
}

#[test]
fn bytes_that_were_released_come_back_without_being_news() {
    let mut store: Store = [in_file("a", 0, &tenant("a", "one"))].into_iter().collect();
    store.apply(content("d/one", b"1"));
    store.release(&[Arc::from(Path::new("d/one"))]);
    assert_eq!(store.released().len(), 1);

    let touched = store.apply(content("d/one", b"1"));

    assert!(touched.is_empty());
    assert!(store.released().is_empty());
}

#[test]
fn what_a_source_takes_back_is_no_other_sources() {
    let of_file = in_file("a", 0, &tenant("a", "one"));
    let mut store: Store = [of_file.clone()].into_iter().collect();
    store.apply(content("d/one", b"1"));
    store.apply(upserts([object("o", 1, &tenant("o", "one"))]));

    let key = object("o", 1, "").key;
    let facts = vec![(reference("d/one"), None)];
    let touched = store.apply(Change { deletes: vec![key], facts, ..Change::default() });

    assert_eq!(tenants(&touched), ["o"]);
    assert!(store.documents().map(|document| &document.key).eq([&of_file.key]));
    assert!(store.fact(&reference("d/one")).is_some(), "the file's document still asks for it");
}

#[test]
fn a_new_version_of_an_object_is_news_whatever_it_says() {
    let mut store: Store = [object("o", 1, &tenant("o", "x"))].into_iter().collect();

    assert!(store.apply(upserts([object("o", 1, &tenant("o", "x"))])).is_empty());
    assert_eq!(tenants(&store.apply(upserts([object("o", 2, &tenant("o", "x"))]))), ["o"]);
}

#[test]
fn copies_that_go_different_ways_do_not_take_each_others_versions_for_their_own() {
    let mut one: Store = [in_file("a", 0, &tenant("a", "x"))].into_iter().collect();
    let mut other = one.clone();
    let before = one.version();
    one.apply(upserts([in_file("b", 0, &tenant("b", "x"))]));
    other.apply(upserts([in_file("c", 0, &tenant("c", "x"))]));

    assert_eq!(tenants(&one.touched_since(before).unwrap()), ["b"]);
    assert_eq!(tenants(&other.touched_since(before).unwrap()), ["c"]);
    assert_eq!(one.touched_since(other.version()), None);
}

#[test]
fn changes_without_end_do_not_fill_memory() {
    let mut store = Store::default();
    let first = store.version();
    for generation in 0..1000 {
        store.apply(upserts([object("o", generation, &tenant("o", "x"))]));
    }
    let before = store.version();
    store.apply(upserts((0..5000).map(|at| in_file("f", at, &tenant("t", "x")))));

    assert_eq!(store.touched_since(first), None, "everything may have changed since");
    assert_eq!(store.touched_since(before), None);
    assert!(store.touched_since(store.version()).unwrap().is_empty());
}

/// A mapping of a namespace, made in this minute.
fn counted(namespace: &str, name: &str, minute: u32) -> Document {
    let text = format!(
        "apiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {{name: {name}}}\nspec: {{}}\n"
    );
    let kind = document::kind(&text);
    let source = Source { kind, text: Arc::from(text), ..Source::default() };
    let content = document::content(&source);
    let id = ResourceId::namespaced(kind, namespace, name);
    let created = Some(Arc::from(format!("2026-11-29T10:{minute:02}:00Z")));
    Document::of_object(id, Revision::default(), created, source, content)
}

/// A store of a cluster in which a tenant may have three objects, and `one` and `two` are namespaces of `acme`.
fn bounded() -> Store {
    let mut store = Store::default();
    store.read_cluster(Some(Cluster { objects_per_tenant: 3, ..Cluster::new("durward") }));
    for namespace in ["one", "two"] {
        store.apply(label(namespace, "acme"));
    }
    store
}

fn label(namespace: &str, tenant: &str) -> Change {
    let labels = [(Arc::from(crate::cluster::TENANT_LABEL), Arc::from(tenant))];
    let fact = (Reference::Namespace(Arc::from(namespace)), Some(Fact::Labels(labels.into())));
    Change { facts: vec![fact], ..Change::default() }
}

/// Names of the objects that count.
fn accepted(store: &Store) -> Vec<&str> {
    let mut names: Vec<&str> = store
        .documents()
        .filter(|document| !document.is_nobodys())
        .filter_map(|document| Some(&*document.id.as_ref()?.name))
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn of_more_objects_than_a_tenant_may_have_the_oldest_count_in_whatever_order_they_came() {
    let objects = [
        counted("one", "a", 5),
        counted("two", "b", 1),
        counted("one", "c", 3),
        counted("two", "d", 3),
        counted("one", "e", 9),
    ];
    let orders = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1], [3, 1, 4, 2, 0]];
    for order in orders {
        let mut store = bounded();

        for at in order {
            store.apply(upserts([objects[at].clone()]));
        }

        assert_eq!(accepted(&store), ["b", "c", "d"], "{order:?}");
        let reason = |name: &str| {
            let mut documents = store.documents();
            let found = documents.find(|one| one.id.as_ref().is_some_and(|id| &*id.name == name));
            match &found.unwrap().owner {
                Owner::Nobody(why) => why.reason(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((reason("a"), reason("e")), ("TooManyObjects", "TooManyObjects"));
        let touched =
            store.apply(Change { deletes: vec![objects[1].key.clone()], ..Change::default() });
        assert_eq!(accepted(&store), ["a", "c", "d"], "{order:?}");
        assert!(touched.documents.contains(&objects[0].key), "the next one comes in");
    }
}

#[test]
fn an_object_that_changes_keeps_its_place_and_one_that_moves_to_another_tenant_is_counted_there() {
    let mut store = bounded();
    let objects = ["a", "b", "c", "d"].map(|name| counted("one", name, 1));
    store.apply(upserts(objects.clone()));
    let mut again = objects[0].clone();
    again.revision.generation = 2;

    store.apply(upserts([again]));
    assert_eq!(accepted(&store), ["a", "b", "c"]);
    store.apply(upserts([counted("two", "z", 0)]));
    assert_eq!(accepted(&store), ["a", "b", "z"]);
    store.apply(label("two", "globex"));

    assert_eq!(accepted(&store), ["a", "b", "c", "z"]);
    store.apply(label("two", "acme"));
    assert_eq!(accepted(&store), ["a", "b", "z"]);
}
