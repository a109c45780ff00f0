//! How long 10,000 tenants take to compile: from nothing, unchanged, with one of them changed, and with one more; also where they share an address by names.
//!
//! `cargo bench -p durward-control` prints divan's table; the line before it is the plain timing the target (100 ms) is about.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use durward_control::spec::document;
use durward_control::{Change, Compiled, Document, Store, compile};
use durward_model::Kind;

const TENANTS: usize = 10_000;
const NOW: i64 = 1_906_502_400;

fn main() {
    plain();
    divan::main();
}

/// One reading of each, for people.
fn plain() {
    let started = Instant::now();
    let first = store();
    let parsed = started.elapsed();
    let started = Instant::now();
    let compiled = compile(&first, None, NOW);
    let fresh = started.elapsed();
    let changed = with_changed(&first, TENANTS / 2);
    let started = Instant::now();
    let again = compile(&changed, Some(&compiled), NOW);
    let one = started.elapsed();
    assert_eq!(compiled.snapshot.tenants.len(), TENANTS);
    assert!(compiled.verdicts.all_accepted());
    assert_eq!(again.snapshot.generation, 2);
    eprintln(format_args!(
        "{TENANTS} tenants: parse {parsed:.1?}, compile {fresh:.1?}, compile with one changed {one:.1?}"
    ));
}

fn eprintln(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn store() -> Store {
    (0..TENANTS).map(|at| tenant(at, 8080)).collect()
}

/// The same with another document, as a source says it.
fn with(store: &Store, document: Document) -> Store {
    let mut changed = store.clone();
    changed.apply(change(document));
    changed
}

fn change(document: Document) -> Change {
    Change { upserts: vec![document], ..Change::default() }
}

/// The same with another port of one upstream.
fn with_changed(store: &Store, at: usize) -> Store {
    with(store, tenant(at, 8081))
}

fn with_one_more(store: &Store) -> Store {
    with(store, tenant(TENANTS, 8080))
}

/// Tenants with ten names each at one address and port.
fn by_name() -> Store {
    (0..TENANTS).map(|at| named(at, 10)).collect()
}

/// Each in a file of its own.
fn named(at: usize, names: usize) -> Document {
    let (high, low) = (at / 250, at % 250 + 1);
    let names: Vec<_> = (0..names).map(|name| format!("n{name}.t{at}.example")).collect();
    let text = format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: tenant-{at}}}\nspec:\n  ingress:\n    - address: 198.51.100.1\n      protocol: TLS\n      shared: true\n      names: [{}]\n      upstream: api\n  upstreams:\n    api: {{endpoints: [\"10.0.{high}.{low}:6443\"]}}\n  egress:\n    addresses: [198.19.{high}.{low}]\n",
        names.join(", ")
    );
    let file = Arc::from(format!("tenant-{at}.yaml"));
    let source =
        document::source(Kind::Tenant, &file, Arc::from(text), 1, vec![PathBuf::from(".")]);
    let content = document::content(&source);
    Document::of_file(0, source, content)
}

/// Each in a file of its own.
fn tenant(at: usize, port: u16) -> Document {
    let (high, low) = (at / 250, at % 250 + 1);
    let text = format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: tenant-{at}}}\nspec:\n  ingress:\n    - address: 198.18.{high}.{low}\n      protocol: HTTP\n      allowedSources: [192.0.2.0/24]\n      routes:\n        - {{pathPrefix: /, upstream: pay}}\n  upstreams:\n    pay: {{endpoints: [\"10.0.{high}.{low}:{port}\"], healthCheck: {{path: /healthz}}}}\n  egress:\n    addresses: [198.19.{high}.{low}]\n    sources: [10.{}.{low}.0/24]\n  limits: {{connections: 10000, requestsPerSecond: 2000}}\n",
        64 + high
    );
    let file = Arc::from(format!("tenant-{at}.yaml"));
    let source =
        document::source(Kind::Tenant, &file, Arc::from(text), 1, vec![PathBuf::from(".")]);
    let content = document::content(&source);
    Document::of_file(0, source, content)
}

#[divan::bench(sample_count = 20)]
fn from_nothing(bencher: divan::Bencher<'_, '_>) {
    let store = store();
    bencher.bench_local(|| compile(&store, None, NOW));
}

#[divan::bench(sample_count = 20)]
fn unchanged(bencher: divan::Bencher<'_, '_>) {
    let store = store();
    let previous = compile(&store, None, NOW);
    bencher.bench_local(|| compile(&store, Some(&previous), NOW));
}

/// Time for the store to apply a change of one document.
#[divan::bench(sample_count = 20)]
fn apply_one_changed(bencher: divan::Bencher<'_, '_>) {
    let store = store();
    let inputs = || (store.clone(), change(tenant(17, 8081)));
    bencher.with_inputs(inputs).bench_local_values(|(mut store, change)| {
        store.apply(change);
        store
    });
}

#[divan::bench(sample_count = 20)]
fn one_changed(bencher: divan::Bencher<'_, '_>) {
    let store = store();
    let previous: Compiled = compile(&store, None, NOW);
    let changed = with_changed(&store, 17);
    bencher.bench_local(|| compile(&changed, Some(&previous), NOW));
}

#[divan::bench(sample_count = 20)]
fn one_more(bencher: divan::Bencher<'_, '_>) {
    let store = store();
    let previous: Compiled = compile(&store, None, NOW);
    let more = with_one_more(&store);
    bencher.bench_local(|| compile(&more, Some(&previous), NOW));
}

#[divan::bench(sample_count = 20)]
fn one_fewer(bencher: divan::Bencher<'_, '_>) {
    let store = store();
    let previous: Compiled = compile(&store, None, NOW);
    let mut fewer = store;
    fewer.apply(Change { deletes: vec![tenant(17, 8080).key], ..Change::default() });
    bencher.bench_local(|| compile(&fewer, Some(&previous), NOW));
}

#[divan::bench(sample_count = 20)]
fn from_nothing_by_name(bencher: divan::Bencher<'_, '_>) {
    let store = by_name();
    bencher.bench_local(|| compile(&store, None, NOW));
}

#[divan::bench(sample_count = 20)]
fn one_name_more(bencher: divan::Bencher<'_, '_>) {
    let store = by_name();
    let previous: Compiled = compile(&store, None, NOW);
    let more = with(&store, named(17, 11));
    bencher.bench_local(|| compile(&more, Some(&previous), NOW));
}

#[divan::bench(sample_count = 20)]
fn one_tenant_more_by_name(bencher: divan::Bencher<'_, '_>) {
    let store = by_name();
    let previous: Compiled = compile(&store, None, NOW);
    let more = with(&store, named(TENANTS, 10));
    bencher.bench_local(|| compile(&more, Some(&previous), NOW));
}
