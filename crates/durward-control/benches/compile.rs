//! How long 10,000 tenants take to compile: from nothing, unchanged, with one of them changed, and with one more; also where they share an address by names.
//!
//! `cargo bench -p durward-control` prints divan's table; the line before it is the plain timing the target (100 ms) is about.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use durward_control::spec::document;
use durward_control::{Compiled, Document, Resources, compile};
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
    let first = resources();
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

fn resources() -> Resources {
    let documents = (0..TENANTS).map(|at| tenant(at, 8080));
    Resources { documents: documents.collect(), ..Resources::default() }
}

/// The same with another port of one upstream; the others are the same values, as a source keeps them.
fn with_changed(resources: &Resources, at: usize) -> Resources {
    let mut changed = resources.clone();
    changed.documents[at] = tenant(at, 8081);
    changed
}

fn with_one_more(resources: &Resources) -> Resources {
    let mut more = resources.clone();
    more.documents.push(tenant(TENANTS, 8080));
    more
}

/// Tenants with ten names each at one address and port.
fn by_name() -> Resources {
    let documents = (0..TENANTS).map(|at| named(at, 10));
    Resources { documents: documents.collect(), ..Resources::default() }
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
    let resources = resources();
    bencher.bench_local(|| compile(&resources, None, NOW));
}

#[divan::bench(sample_count = 20)]
fn unchanged(bencher: divan::Bencher<'_, '_>) {
    let resources = resources();
    let previous = compile(&resources, None, NOW);
    bencher.bench_local(|| compile(&resources, Some(&previous), NOW));
}

#[divan::bench(sample_count = 20)]
fn one_changed(bencher: divan::Bencher<'_, '_>) {
    let resources = resources();
    let previous: Compiled = compile(&resources, None, NOW);
    let changed = with_changed(&resources, 17);
    bencher.bench_local(|| compile(&changed, Some(&previous), NOW));
}

#[divan::bench(sample_count = 20)]
fn one_more(bencher: divan::Bencher<'_, '_>) {
    let resources = resources();
    let previous: Compiled = compile(&resources, None, NOW);
    let more = with_one_more(&resources);
    bencher.bench_local(|| compile(&more, Some(&previous), NOW));
}

#[divan::bench(sample_count = 20)]
fn from_nothing_by_name(bencher: divan::Bencher<'_, '_>) {
    let resources = by_name();
    bencher.bench_local(|| compile(&resources, None, NOW));
}

#[divan::bench(sample_count = 20)]
fn one_name_more(bencher: divan::Bencher<'_, '_>) {
    let resources = by_name();
    let previous: Compiled = compile(&resources, None, NOW);
    let mut more = resources;
    more.documents[17] = named(17, 11);
    bencher.bench_local(|| compile(&more, Some(&previous), NOW));
}

#[divan::bench(sample_count = 20)]
fn one_tenant_more_by_name(bencher: divan::Bencher<'_, '_>) {
    let resources = by_name();
    let previous: Compiled = compile(&resources, None, NOW);
    let mut more = resources;
    more.documents.push(named(TENANTS, 10));
    bencher.bench_local(|| compile(&more, Some(&previous), NOW));
}
