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
