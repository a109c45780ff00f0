//! A change that is compiled in part comes to what compiling everything comes to, whatever was changed before.

mod contributions;
mod objects;
mod parts;
mod restart;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use durward_model::verdict::{Outcome, Verdict};
use durward_model::{Kind, ResourceId, Revision};

use super::scope::LONG;
use super::*;
use crate::change::{Change, Fact};
use crate::document::Source;
use crate::named_file::NamedFile;
use crate::reference::Reference;
use crate::source::inventory::Inventory;
use crate::spec::document;
use objects::Objects;

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
    certificate: Option<u8>,
    /// Names of the listeners; 0 for none.
    names: u8,
    /// Bits: names are looked up in namespace `n`, the certificate is in a Secret, endpoints are those of a Service.
    cluster: u8,
}

fn written() -> impl Strategy<Value = Written> {
    let likely = |yes: f64| prop::bool::weighted(yes);
    let certificate = prop::option::weighted(0.3, 0..FILES as u8);
    let doors = (0..5_u8, prop::option::weighted(0.3, 0..5_u8), likely(0.2), certificate);
    let inner = (0..4_u8, likely(0.95), 0..3_u8, 1..4_u8, 0..8_u8);
    let leaving = (0..5_u8, likely(0.2), prop::option::weighted(0.4, 0..5_u8), likely(0.4));
    let proxy = prop::option::weighted(0.3, (0..4_u8, likely(0.5), 0..3_u8));
    let whole = (0..4_u8, likely(0.03), likely(0.1), likely(0.5), 0..3_u8, 0..8_u8);
    (doors, inner, leaving, proxy, whole).prop_map(|(doors, inner, leaving, proxy, whole)| {
        Written {
            name: whole.0,
            broken: whole.1,
            created: whole.2,
            protocol: whole.3,
            lines: whole.4,
            cluster: whole.5,
            address: doors.0,
            second: doors.1,
            listen: doors.2,
            certificate: doors.3,
            endpoint: inner.0,
            upstream_known: inner.1,
            host: inner.2,
            limit: inner.3,
            names: inner.4,
            egress: leaving.0,
            shared: leaving.1,
            source: leaving.2,
            transparent: leaving.3,
            proxy,
        }
    })
}

/// Tenants first, then mappings, then policies.
const TENANTS: usize = 5;
const MAPPINGS: usize = 8;
const ALL: usize = 12;
/// Files with a certificate and its key.
const FILES: usize = 3;

/// Two identities: two files may hold the same key.
static IDENTITIES: LazyLock<[String; 2]> = LazyLock::new(|| {
    [1, 2].map(|_| {
        let identity = rcgen::generate_simple_self_signed(["pay.example".to_owned()]).unwrap();
        identity.cert.pem() + &identity.signing_key.serialize_pem()
    })
});

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

    /// The name of what is in a slot: that of the slot before now and then, but an object never changes its name.
    fn named(&self, kind: char, at: usize, first: usize) -> String {
        let is_anothers = self.name == 0 && at > first && !OBJECTS.contains(&at);
        format!("{kind}{}", if is_anothers { at - 1 } else { at })
    }

    fn text(&self, at: usize) -> String {
        let mut text = match at {
            0..TENANTS => self.tenant(at),
            TENANTS..MAPPINGS => self.mapping(at),
            _ => self.policy(at),
        };
        if self.broken {
            text.push_str("  nonsense: true\n");
        }
        text
    }

    fn protocol_and_certificate(&self) -> String {
        match self.certificate {
            None => "HTTP".to_owned(),
            Some(_) if self.cluster & 2 != 0 => "HTTPS, certificate: {secretName: s}".to_owned(),
            Some(file) => {
                format!("HTTPS, certificate: {{certificateFile: {file}.pem, keyFile: {file}.pem}}")
            }
        }
    }

    fn upstream(&self) -> String {
        match (self.cluster, self.endpoint) {
            (4.., _) => "service: {name: pay, port: http}".to_owned(),
            (_, 3) => "endpoints: [10.0.0.300]".to_owned(),
            (_, endpoint) => format!("endpoints: [10.0.0.{endpoint}]"),
        }
    }

    fn tenant(&self, at: usize) -> String {
        let mut text = self.head("Tenant", &self.named('t', at, 0));
        let upstream = if self.upstream_known { "pay" } else { "play" };
        let listen = if self.listen { ", listen: {address: 0.0.0.0}" } else { "" };
        let _ = writeln!(text, "  ingress:");
        let shared = self.protocol;
        let protocol = self.protocol_and_certificate();
        let names = match self.names {
            1 => ", names: [a.example]",
            2 => ", names: [a.example, b.example]",
            3 => ", names: [\"*.example\", b.example]",
            4 => ", names: [b.example, c.example]",
            5 => ", names: [c.example, 198.51.100.1]",
            _ => "",
        };
        for address in [self.address].into_iter().chain(self.second) {
            // An address that cannot be read may have been any.
            let address = if address == 4 { "x".to_owned() } else { address.to_string() };
            let _ = writeln!(
                text,
                "    - {{address: 198.51.100.{address}, protocol: {protocol}, upstream: {upstream}, shared: {shared}{listen}{names}}}"
            );
        }
        // An address for both directions now and then.
        let network = if (self.lines, self.host) == (2, 2) { "198.51.100" } else { "203.0.113" };
        let second = if self.limit == 3 { ", 203.0.113.2" } else { "" };
        let endpoints = self.upstream();
        if self.cluster & 1 != 0 {
            let _ = writeln!(text, "  namespace: n");
        }
        let _ = writeln!(
            text,
            "  upstreams: {{pay: {{{endpoints}}}}}\n  limits: {{connections: {}}}\n  egress:\n    addresses: [{network}.{}{second}]\n    shared: {}",
            self.limit, self.egress, self.shared
        );
        if let Some(source) = self.source {
            let networks = [
                "10.244.1.0/24",
                "10.244.2.0/24",
                "10.244.0.0/16",
                "10.244.2.0/24, 10.244.1.0/24",
                "0.0.0.0/0",
            ];
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
        let mut text = self.head("PortMapping", &self.named('m', at, TENANTS));
        let port = if self.listen { "80-90" } else { "80" };
        let protocol = if self.protocol { "TCP" } else { "UDP" };
        // An object need not say whose it is.
        if !OBJECTS.contains(&at) || self.proxy.is_some() {
            let _ = writeln!(text, "  tenant: t{}", self.egress);
        }
        let service = if self.cluster < 4 { "" } else { ", service: {name: pay, port: http}" };
        let _ = writeln!(
            text,
            "  addresses: [198.51.100.{}]\n  endpoints: [10.244.1.{}]\n  ports: [{{port: {port}, protocol: {protocol}{service}}}]\n  allowedSources: [192.0.2.0/2{}]\n  egress: {}\n  shared: {}",
            self.address, self.endpoint, self.host, self.shared, self.transparent
        );
        text
    }
}

impl Written {
    /// A policy that adds a listener as well.
    fn policy(&self, at: usize) -> String {
        let name = self.named('p', at, MAPPINGS);
        let mut text = self.head("EgressPolicy", &name);
        if self.second.is_some() {
            let protocol = if self.protocol { "http" } else { "tls" };
            let host = ["a", "b", "*"][usize::from(self.host)];
            // Several have an upstream of one name now and then.
            let upstream =
                if self.limit == 3 { "pay".to_owned() } else { format!("of{}", &name[1..]) };
            let names = if self.names < 4 { "named" } else { "alone" };
            let listener = format!(
                "{protocol} 198.51.100.{} {host}.example {names} {upstream} 10.0.0.{}",
                self.address, self.endpoint
            );
            text = text
                .replace("}\nspec:", &format!(", labels: {{listener: \"{listener}\"}}}}\nspec:"));
        }
        if !OBJECTS.contains(&at) || self.proxy.is_some() {
            let _ = writeln!(text, "  tenant: t{}", self.egress);
        }
        // No kind adds both a listener and sources: one that loses its listener would still be the reason for which its tenant is served.
        if let Some(source) = self.source.filter(|_| self.second.is_none()) {
            let networks = [
                "10.244.3.0/24",
                "10.244.1.0/24",
                "10.244.4.0/24",
                "10.244.0.0/16",
                "10.244.3.0/24, 10.244.4.0/24",
            ];
            let _ = writeln!(text, "  sources: [{}]", networks[usize::from(source)]);
        }
        let _ = writeln!(text, "  allow: [{{host: p{}.example}}]", self.limit);
        if self.transparent {
            let _ = writeln!(text, "  deny: [{{cidr: 192.0.2.{}}}]", self.limit);
        }
        text
    }
}

fn document(at: usize, text: String) -> Document {
    document_in(&format!("{at}.yaml"), text)
}

fn document_in(file: &str, text: String) -> Document {
    let (file, text) = (Arc::from(file), Arc::from(text));
    let kind = document::kind(&text);
    let source = document::source(kind, &file, text, 1, vec![PathBuf::from(".")]);
    let content = document::content(&source);
    Document::of_file(0, source, content)
}

/// A file of a directory.
#[derive(Clone, Debug)]
enum Slot {
    Absent,
    Document(Written),
    Unreadable,
    /// Of a tenant or mapping that nobody knows.
    Nameless,
}

#[derive(Clone, Debug)]
struct World {
    /// Each with whether its file comes after the others.
    slots: Vec<(Slot, bool)>,
    /// What is in the files with certificates: one of the identities, or nothing that could be read.
    files: [u8; FILES],
    cluster: Objects,
}

impl World {
    fn new(slots: Vec<(Slot, bool)>) -> Self {
        let cluster = Objects { labels: [2, 0, 1], secrets: [0, 1, 0], services: [1, 2, 0] };
        Self { slots, files: [0, 1, 0], cluster }
    }
}

/// Two sources that feed one store.
#[derive(Clone, Default)]
struct Sources {
    /// What each has said: files, and objects of an API server.
    said: [Store; 2],
    store: Store,
}

impl Sources {
    /// Says what of a world is not as it was said before.
    fn say(&mut self, world: &World) {
        for (said, found) in self.said.iter_mut().zip(world.inventories()) {
            let change = found.since(said);
            said.apply(change.clone());
            self.store.apply(change);
        }
        world.cluster.say(&mut self.store);
    }
}

/// Slots whose documents are objects of an API server.
const OBJECTS: [usize; 4] = [3, 7, 9, 11];

impl World {
    /// What the two sources find in it.
    fn inventories(&self) -> [Inventory; 2] {
        let slots = self.slots.iter().enumerate();
        let (objects, files): (Vec<_>, Vec<_>) = slots
            .filter_map(|(at, (slot, last))| {
                let file = format!("{}{at}.yaml", if *last { "z" } else { "a" });
                Some((at, Self::document(at, slot, &file)?))
            })
            .partition(|(at, _)| OBJECTS.contains(at));
        [files, objects]
            .map(|found| self.with_files(found.into_iter().map(|(_, document)| document).collect()))
    }

    fn document(at: usize, slot: &Slot, file: &str) -> Option<Document> {
        let text = match slot {
            Slot::Absent => return None,
            Slot::Unreadable => {
                return Some(Document::unreadable(&Arc::from(file), "cannot be read"));
            }
            Slot::Nameless if at.is_multiple_of(2) => "kind: Tenant\nspec: {a".to_owned(),
            Slot::Nameless if at >= MAPPINGS => {
                "apiVersion: durward.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: p10}\nspec: {tenant: t9, nonsense: 1}\n".to_owned()
            }
            Slot::Nameless => {
                "apiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {name: m6}\nspec: {tenant: t9, nonsense: 1}\n".to_owned()
            }
            Slot::Document(written) => written.text(at),
        };
        let document = document_in(file, text);
        if !OBJECTS.contains(&at) {
            return Some(document);
        }
        let id = object_id(document.source.kind, at);
        let source = Source::clone(&document.source);
        Some(Document::of_object(id, Revision::default(), None, source, document.content))
    }

    /// Returns the documents with the files that they refer to.
    fn with_files(&self, documents: Vec<Document>) -> Inventory {
        let named = documents.iter().flat_map(Document::references);
        let files = named.map(|(_, path)| {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<usize>().ok());
            let content = self.files[number.unwrap()];
            let read = IDENTITIES.get(usize::from(content)).ok_or_else(|| "is locked".to_owned());
            (path, read.map(|pem| NamedFile::new(pem.clone().into_bytes())))
        });
        let files = Arc::new(files.collect());
        Inventory { documents, files, ..Inventory::default() }
    }

    fn change(&mut self, (at, field, other): &(usize, usize, Written)) {
        let third = at % 3;
        match field {
            26 => self.cluster.labels[third] = (other.lines + other.names) % 7,
            27 => self.cluster.secrets[third] = other.lines,
            28 => self.cluster.services[third] = other.endpoint,
            _ => {}
        }
        if *field > 25 {
            return;
        }
        if let 24..=25 = field {
            self.files[at % FILES] = other.limit % 3;
            return;
        }
        let (slot, last) = &mut self.slots[*at];
        *slot = match (&*slot, field) {
            (_, 20) => Slot::Absent,
            (_, 21) => Slot::Unreadable,
            (_, 22) => Slot::Nameless,
            (_, 23) => {
                *last = !*last;
                return;
            }
            (Slot::Document(was), field) if *field < 20 => {
                Slot::Document(edited(was, other, *field))
            }
            _ => Slot::Document(other.clone()),
        };
    }
}

/// The object in a slot. Mappings and policies are in namespaces.
fn object_id(kind: Kind, at: usize) -> ResourceId {
    let namespaced = |namespace, name| ResourceId::namespaced(kind, namespace, name);
    match at {
        0..TENANTS => ResourceId::new(kind, &format!("t{at}")),
        TENANTS..MAPPINGS => namespaced("n", &format!("m{at}")),
        _ => namespaced(if at == 9 { "n" } else { "t1" }, &format!("p{at}")),
    }
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
        13 => now.certificate = other.certificate,
        14..=16 => now.names = other.names,
        17..=18 => now.cluster = other.cluster,
        _ => now.host = other.host,
    }
    now
}

/// Compiles everything, whatever changed.
fn whole(store: &Store, previous: Option<&Compiled>, now: i64) -> Compiled {
    let compiled = compile_scope(store, previous, Scope::Everything, now);
    settled(compiled, store, previous, now)
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

/// All that decides a later compile.
fn remembered(compiled: &Compiled) -> String {
    let Memory { tenants, mappings, contributions, owners, unsettled, .. } = &compiled.memory;
    let tenants: BTreeMap<_, _> = tenants.iter().collect();
    let tenants = tenants.iter().map(|(id, past)| {
        let roster::Past { file, text, outcome, seniority, created, .. } = &***past;
        let age = (file, text.hash(), outcome, seniority, created);
        let sources = (&past.sources, &past.added_sources);
        (id, age, &past.egress, &past.addresses, &past.keys, sources, &past.served, &past.alone)
    });
    let tenants: Vec<_> = tenants.collect();
    format!("{tenants:#?} {mappings:#?} {contributions:#?} {owners:#?} {unsettled:?}")
}

#[test]
fn a_change_comes_to_what_compiling_everything_comes_to() {
    let cases = std::env::var("DURWARD_WORLDS").ok().and_then(|text| text.parse().ok());
    let cases = cases.unwrap_or(400);
    let (steps, parts, alone) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let edits = prop::collection::vec((0..ALL, 0..29_usize, written()), 1..20);
    let world = prop::collection::vec((written(), prop::bool::weighted(0.8)), ALL..=ALL);
    let mut runner = TestRunner::new(Config { cases, ..Config::default() });

    let result = runner.run(&(world, edits), |(world, edits)| {
        let slot =
            |(written, there)| (if there { Slot::Document(written) } else { Slot::Absent }, false);
        let mut world = World::new(world.into_iter().map(slot).collect());
        let mut sources = Sources::default();
        sources.say(&world);
        let mut all = whole(&sources.store, None, NOW);
        let mut part = all.clone();
        // Now and then two at once.
        for edits in edits.chunk_by(|(at, ..), (next, ..)| at < next) {
            edits.iter().for_each(|edit| world.change(edit));
            let was = sources.store.clone();
            sources.say(&world);
            let now = &sources.store;
            let scope = Scope::touched(now, Some(&part), NOW);
            steps.set(steps.get() + 1);
            parts.set(parts.get() + usize::from(matches!(scope, Scope::Part(_))));
            let without_others = alone::compile(now, Some(&part), NOW).is_some();
            alone.set(alone.get() + usize::from(without_others));
            all = whole(now, Some(&all), NOW);
            part = compile(now, Some(&part), NOW);
            prop_assert_eq!(part.verdicts.len(), all.verdicts.len());
            prop_assert_eq!(part.verdicts.len(), now.len());
            let verdicts = part.verdicts.iter().zip(all.verdicts.iter());
            let said_of_both = verdicts.map(|(one, other)| (said(one), said(other)));
            if part.snapshot != all.snapshot || said_of_both.clone().any(|(one, all)| one != all) {
                let differ = restart::difference(&all, &part).unwrap_or_default();
                let [was, now] = [&was, now].map(restart::written_down);
                let verdicts: Vec<_> = said_of_both.filter(|(one, all)| one != all).collect();
                prop_assert!(false, "{differ}{verdicts:#?}\n{was}=====\n{now}");
            }
            prop_assert_eq!(remembered(&part), remembered(&all));
        }
        Ok(())
    });

    assert!(result.is_ok(), "{}", result.unwrap_err());
    let (steps, parts, alone) = (steps.get(), parts.get(), alone.get());
    assert!(parts * 2 > steps, "{parts} of {steps} were compiled in part");
    assert!(alone * 50 > steps, "{alone} of {steps} were compiled without those that wait");
}
