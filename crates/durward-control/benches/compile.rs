//! How long 10,000 tenants take to compile: from nothing, unchanged, and with one of them changed.
//!
//! `cargo bench -p durward-control` prints divan's table; the line before it is the plain timing the target (100 ms) is about.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use durward_control::spec::document;
use durward_control::{Compiled, Document, Resources, compile};

const TENANTS: usize = 10_000;
const NOW: i64 = 1_906_502_400;

fn main() {
    plain();
    divan::main();
}

/// One reading of each, for people.
fn plain() {
    let started = Instant::now();
    let first = resources(None);
    let parsed = started.elapsed();
    let changed = resources(Some(TENANTS / 2));
    let started = Instant::now();
    let compiled = compile(&first, None, NOW);
    let fresh = started.elapsed();
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

fn resources(changed: Option<usize>) -> Resources {
    let file = Arc::from("tenants.yaml");
    let documents = (0..TENANTS).map(|at| {
        let (high, low) = (at / 250, at % 250 + 1);
        let port = if changed == Some(at) { 8081 } else { 8080 };
        let text = format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: tenant-{at}}}\nspec:\n  ingress:\n    - address: 198.18.{high}.{low}\n      protocol: HTTP\n      allowedSources: [192.0.2.0/24]\n      routes:\n        - {{pathPrefix: /, upstream: pay}}\n  upstreams:\n    pay: {{endpoints: [\"10.0.{high}.{low}:{port}\"], healthCheck: {{path: /healthz}}}}\n  egress:\n    addresses: [198.19.{high}.{low}]\n  limits: {{connections: 10000, requestsPerSecond: 2000}}\n"
        );
        let source = document::source("Tenant", &file, Arc::from(text), 1, vec![PathBuf::from(".")]);
        let content = document::content(&source);
        Document { source: Arc::new(source), content }
    });
    Resources { documents: documents.collect(), ..Resources::default() }
}

#[divan::bench(sample_count = 20)]
fn from_nothing(bencher: divan::Bencher<'_, '_>) {
    let resources = resources(None);
    bencher.bench_local(|| compile(&resources, None, NOW));
}

#[divan::bench(sample_count = 20)]
fn unchanged(bencher: divan::Bencher<'_, '_>) {
    let resources = resources(None);
    let previous = compile(&resources, None, NOW);
    bencher.bench_local(|| compile(&resources, Some(&previous), NOW));
}

#[divan::bench(sample_count = 20)]
fn one_changed(bencher: divan::Bencher<'_, '_>) {
    let previous: Compiled = compile(&resources(None), None, NOW);
    let resources = resources(Some(17));
    bencher.bench_local(|| compile(&resources, Some(&previous), NOW));
}
