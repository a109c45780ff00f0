//! What a patch says is what compiling everything says, whatever was edited before.

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::super::{compile, whole};
use super::*;
use crate::named_file::NamedFile;
use crate::spec::document;

const NOW: i64 = 1_906_502_400;

/// What an edit may touch, each from a few values, so that documents often meet.
#[derive(Clone, Debug)]
struct Written {
    name: u8,
    broken: bool,
    created: bool,
    address: u8,
    second: Option<u8>,
    listen: bool,
    endpoint: u8,
    upstream_known: bool,
    egress: u8,
    shared: bool,
    source: Option<u8>,
    transparent: bool,
    proxy: Option<(u8, bool, u8)>,
    host: u8,
    limit: u8,
    protocol: bool,
    lines: u8,
}

fn written() -> impl Strategy<Value = Written> {
    let likely = |yes: f64| prop::bool::weighted(yes);
    let doors = (0..5_u8, prop::option::weighted(0.3, 0..5_u8), likely(0.2));
    let inner = (0..4_u8, likely(0.95), 0..3_u8, 1..4_u8);
    let leaving = (0..5_u8, likely(0.2), prop::option::weighted(0.4, 0..4_u8), likely(0.4));
    let proxy = prop::option::weighted(0.3, (0..4_u8, likely(0.5), 0..3_u8));
    let whole = (0..4_u8, likely(0.03), likely(0.1), likely(0.5), 0..3_u8);
    (doors, inner, leaving, proxy, whole).prop_map(|(doors, inner, leaving, proxy, whole)| {
        Written {
            name: whole.0,
            broken: whole.1,
            created: whole.2,
            protocol: whole.3,
            lines: whole.4,
            address: doors.0,
            second: doors.1,
            listen: doors.2,
            endpoint: inner.0,
            upstream_known: inner.1,
            host: inner.2,
            limit: inner.3,
            egress: leaving.0,
            shared: leaving.1,
            source: leaving.2,
            transparent: leaving.3,
            proxy,
        }
    })
}

/// Tenants first, then mappings.
const TENANTS: usize = 5;
const ALL: usize = 8;

impl Written {
    fn head(&self, kind: &str, name: &str) -> String {
        let mut text = "# a line\n".repeat(self.lines.into());
        let created =
            if self.created { ", creationTimestamp: \"2026-01-02T03:04:05Z\"" } else { "" };
        let _ = write!(
            text,
            "apiVersion: durward.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}{created}}}\nspec:\n"
        );
        text
    }

    fn text(&self, at: usize) -> String {
        let mut text = if at < TENANTS { self.tenant(at) } else { self.mapping(at) };
        if self.broken {
            text.push_str("  nonsense: true\n");
        }
        text
    }

    fn tenant(&self, at: usize) -> String {
        // A name is another's now and then.
        let name = if self.name == 0 && at > 0 { at - 1 } else { at };
        let mut text = self.head("Tenant", &format!("t{name}"));
        let upstream = if self.upstream_known { "pay" } else { "play" };
        let listen = if self.listen { ", listen: {address: 0.0.0.0}" } else { "" };
        let _ = writeln!(text, "  ingress:");
        let shared = self.protocol;
        for address in [self.address].into_iter().chain(self.second) {
            let _ = writeln!(
                text,
                "    - {{address: 198.51.100.{address}, protocol: HTTP, upstream: {upstream}, shared: {shared}{listen}}}"
            );
        }
        // An address for both directions now and then.
        let network = if (self.lines, self.host) == (2, 2) { "198.51.100" } else { "203.0.113" };
        let _ = writeln!(
            text,
            "  upstreams: {{pay: {{endpoints: [10.0.0.{}]}}}}\n  limits: {{connections: {}}}\n  egress:\n    addresses: [{network}.{}]\n    shared: {}",
            self.endpoint, self.limit, self.egress, self.shared
        );
        if let Some(source) = self.source {
            let networks =
                ["10.244.1.0/24", "10.244.2.0/24", "10.244.0.0/16", "10.244.2.0/24, 10.244.1.0/24"];
            let _ = writeln!(text, "    sources: [{}]", networks[usize::from(source)]);
        }
        if self.transparent {
            let _ = writeln!(text, "    transparent: {{http: [8{}]}}", self.limit);
        }
        let _ = writeln!(text, "    allow: [{{host: h{}.example}}]", self.host);
        if let Some((address, shared, clients)) = self.proxy {
            let _ = writeln!(
                text,
                "    proxy: [{{address: 198.51.100.{address}, shared: {shared}, allowedSources: [192.0.2.{clients}/32]}}]"
            );
        }
        text
    }

    fn mapping(&self, at: usize) -> String {
        let name = if self.name == 0 && at > TENANTS { at - 1 } else { at };
        let mut text = self.head("PortMapping", &format!("m{name}"));
        let port = if self.listen { "80-90" } else { "80" };
        let protocol = if self.protocol { "TCP" } else { "UDP" };
        let _ = writeln!(
            text,
            "  tenant: t{}\n  addresses: [198.51.100.{}]\n  endpoints: [10.244.1.{}]\n  ports: [{{port: {port}, protocol: {protocol}}}]\n  allowedSources: [192.0.2.0/2{}]\n  egress: {}\n  shared: {}",
            self.egress, self.address, self.endpoint, self.host, self.shared, self.transparent
        );
        text
    }
}

fn document(at: usize, text: String) -> Document {
    let (file, text) = (Arc::from(format!("{at}.yaml")), Arc::from(text));
    let kind = document::kind(&text);
    let source = document::source(kind, &file, text, 1, vec![PathBuf::from(".")]);
    let content = document::content(&source);
    Document { source: Arc::new(source), content }
}

fn documents(written: &[Written], former: &[Document]) -> Vec<Document> {
    let documents = written.iter().enumerate().map(|(at, written)| {
        let text = written.text(at);
        let same = former.get(at).filter(|former| *former.source.text == *text);
        same.cloned().unwrap_or_else(|| document(at, text))
    });
    documents.collect()
}

/// One field of a document as in another.
fn edited(was: &Written, other: &Written, field: usize) -> Written {
    let mut now = was.clone();
    match field {
        0 => now.address = other.address,
        1 => now.second = other.second,
        2 => (now.endpoint, now.limit) = (other.endpoint, other.limit),
        3 => now.upstream_known = other.upstream_known,
        4 => now.egress = other.egress,
        5 => now.shared = other.shared,
        6 => now.source = other.source,
        7 => now.transparent = other.transparent,
        8 => now.proxy = other.proxy,
        9 => now.broken = other.broken,
        10 => (now.name, now.created) = (other.name, other.created),
        11 => (now.listen, now.protocol) = (other.listen, other.protocol),
        12 => now.lines = other.lines,
        _ => now.host = other.host,
    }
    now
}

/// Of two who have what a third asked for, a second compile may name the other one.
fn said(verdict: &Verdict) -> Verdict {
    let mut said = verdict.clone();
    for finding in &mut said.findings {
        if finding.sentence.contains("which asked first") {
            finding.sentence = Arc::from("taken");
        }
    }
    said
}

#[test]
fn what_is_patched_is_what_is_compiled_as_a_whole() {
    let (steps, patched) = (Cell::new(0), Cell::new(0));
    let edits = prop::collection::vec((0..ALL, 0..18_usize, written()), 1..12);
    let world = prop::collection::vec(written(), ALL..=ALL);
    let mut runner = TestRunner::new(Config { cases: 300, ..Config::default() });

    let result = runner.run(&(world, edits), |(mut world, edits)| {
        let resources = |documents| Resources { documents, ..Resources::default() };
        let mut now = resources(documents(&world, &[]));
        let mut all = whole(&now, None, NOW);
        let mut patch = all.clone();
        // Now and then two at once.
        for edits in edits.chunk_by(|(at, ..), (next, ..)| at < next) {
            for (at, field, other) in edits {
                world[*at] = edited(&world[*at], other, *field);
            }
            now = resources(documents(&world, &now.documents));
            steps.set(steps.get() + 1);
            patched.set(patched.get() + usize::from(super::compile(&now, &patch, NOW).is_some()));
            all = whole(&now, Some(&all), NOW);
            patch = compile(&now, Some(&patch), NOW);
            for (one, other) in patch.verdicts.verdicts.iter().zip(&all.verdicts.verdicts) {
                prop_assert_eq!(said(one), said(other));
            }
            prop_assert_eq!(&patch.snapshot, &all.snapshot);
        }
        Ok(())
    });

    assert!(result.is_ok(), "{}", result.unwrap_err());
    let (steps, patched) = (steps.get(), patched.get());
    assert!(patched * 10 > steps && patched < steps, "{patched} of {steps} were patched");
}

#[test]
fn what_stays_is_the_same_value_and_a_file_or_an_hour_is_looked_at_as_a_whole() {
    let text = |address: u8, endpoint: &str| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: t{address}}}\nspec:\n  ingress: [{{address: 198.51.100.{address}, protocol: HTTP, upstream: pay}}]\n  upstreams: {{pay: {{endpoints: [{endpoint}]}}}}\n  egress: {{addresses: [203.0.113.{address}]}}\n"
        )
    };
    let mut resources = Resources {
        documents: vec![
            document(0, text(1, "10.0.0.1")),
            document(1, text(2, "10.0.0.1")),
            document(2, text(3, "10.0.0.1")),
        ],
        ..Resources::default()
    };
    let first = whole(&resources, None, NOW);
    resources.documents[1] = document(1, text(2, "10.0.0.2"));

    let second = super::compile(&resources, &first, NOW).expect("no claim moves");

    assert_eq!(second.snapshot.generation, 2);
    for name in ["t1", "t3"] {
        let id = TenantId::new(name).unwrap();
        assert!(Arc::ptr_eq(&first.snapshot.tenants[&id], &second.snapshot.tenants[&id]));
    }
    let bind = "198.51.100.1:80".parse().unwrap();
    assert!(Arc::ptr_eq(&first.snapshot.binds[&bind], &second.snapshot.binds[&bind]));
    let same = super::compile(&resources, &second, NOW).unwrap();
    assert!(Arc::ptr_eq(&second.snapshot, &same.snapshot));
    assert!(super::compile(&resources, &second, NOW + LONG).is_none());
    let path = Arc::from(PathBuf::from("a.crt"));
    let mut with_file = resources.clone();
    with_file.files.insert(path, Ok(NamedFile::new(b"one".to_vec())));
    let third = super::compile(&with_file, &second, NOW).expect("a file more is nobody else's");
    assert!(super::compile(&resources, &third, NOW).is_none(), "a file less may be another's");
    resources.documents.swap(0, 2);
    assert!(super::compile(&resources, &second, NOW).is_none(), "the order decides claims");
}

#[test]
fn what_the_kernel_carries_of_a_change_is_patched_too() {
    let tenant = |port: u16| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: t}}\nspec:\n  egress: {{addresses: [203.0.113.1], sources: [10.244.1.0/24], transparent: {{http: [{port}]}}, allow: [{{host: a.example}}]}}\n"
        )
    };
    let mapping = |endpoint: &str| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {{name: m}}\nspec: {{tenant: t, addresses: [198.51.100.1], endpoints: [{endpoint}], ports: [{{port: 80}}]}}\n"
        )
    };
    let of = |port, endpoint| Resources {
        documents: vec![document(0, tenant(port)), document(1, mapping(endpoint))],
        ..Resources::default()
    };
    let first = whole(&of(80, "10.0.0.1"), None, NOW);

    for (port, endpoint) in [(81, "10.0.0.1"), (80, "10.0.0.2"), (81, "10.0.0.2")] {
        let patched = super::compile(&of(port, endpoint), &first, NOW).expect("no claim moves");
        let all = whole(&of(port, endpoint), Some(&first), NOW);
        assert!(all.verdicts.all_accepted(), "{:#?}", all.verdicts);
        assert_eq!(patched.snapshot, all.snapshot);
        assert_ne!(patched.snapshot.nat, first.snapshot.nat);
        assert_eq!(patched.verdicts, all.verdicts);
    }
}

/// What becomes of a tenant that is kept may decide what others get in the next compile.
#[test]
fn nothing_is_patched_while_a_tenant_is_kept_as_it_was() {
    let text = |address: u8, limit: &str| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: t{address}}}\nspec:\n  ingress: [{{address: 198.51.100.{address}, protocol: HTTP, redirectToHttps: true}}]\n  limits: {{bodyBytes: {limit}}}\n"
        )
    };
    let of = |first: &str, second: &str| Resources {
        documents: vec![document(0, text(1, first)), document(1, text(2, second))],
        ..Resources::default()
    };
    let sound = whole(&of("1MiB", "1MiB"), None, NOW);
    assert!(sound.verdicts.all_accepted(), "{:#?}", sound.verdicts);
    assert!(super::compile(&of("1MiB", "2MiB"), &sound, NOW).is_some());

    let kept = compile(&of("nonsense", "1MiB"), Some(&sound), NOW);
    assert_eq!(kept.verdicts.verdicts[0].outcome, Outcome::KeptLastGood);
    let mut edited = of("nonsense", "2MiB");
    edited.documents[0] = kept.memory.seen.documents[0].clone();

    assert!(super::compile(&edited, &kept, NOW).is_none());
    let now = compile(&edited, Some(&kept), NOW);
    assert_eq!(now.verdicts.verdicts[1].outcome, Outcome::Accepted);
    assert_eq!(now.snapshot.tenants.len(), 2);
}
