//! Objects of a cluster come to the same whatever happened before: in whatever order they were read, with broken edits and restarts in between.
//!
//! Any order is drawn, also those in which an older object comes later than a younger one that claims the same: then the younger one loses it.
//! What meets here: ingress and egress addresses of tenants, networks whose traffic leaves as a tenant's, and addresses and ports of mappings, of one tenant and of several.
//! `DURWARD_HISTORIES=10000` draws as many histories; without it there are few.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use durward_control::change::{Change, Fact};
use durward_control::cluster::TENANT_LABEL;
use durward_control::compile::still_served;
use durward_control::document::{Document, Source};
use durward_control::reference::Reference;
use durward_control::spec::document;
use durward_control::spec::smartnat::{self, MappingObject, SmartNatOptions};
use durward_control::{Cluster, Compiled, Store, compile};
use durward_model::verdict::Outcome;
use durward_model::{DocumentKey, Kind, ResourceId, Revision};
use serde_json::{Value, json};

use crate::certificates::NOW;

const TENANTS: usize = 6;
/// Addresses that tenants ask for: so many that several of them meet, and not all.
const ADDRESSES: u64 = 12;
/// Addresses that mappings of all tenants ask for, beside those of listeners.
const MAPPED: u64 = 6;
/// Addresses that the traffic of tenants leaves from.
const LEAVING: u64 = 12;

/// A sequence of numbers that a seed stands for (SplitMix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn is_one_of(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// An object, in the form that it has at the end.
#[derive(Clone)]
struct Object {
    id: ResourceId,
    /// Position in the order of creation.
    age: usize,
    spec: Value,
    /// Whether its last edit is a broken one.
    ends_broken: bool,
    /// Documents of its specs.
    parsed: RefCell<BTreeMap<String, Document>>,
}

impl Object {
    /// Builds the document that the object is with this spec, of which all is parsed once.
    fn document(&self, spec: &Value, generation: u64) -> Document {
        let mut parsed = self.parsed.borrow_mut();
        let first = parsed.entry(spec.to_string()).or_insert_with(|| self.parse(spec));
        let revision = Revision { generation, ..first.revision.clone() };
        let (source, content) = (Source::clone(&first.source), first.content.clone());
        Document::of_object(self.id.clone(), revision, first.created.clone(), source, content)
    }

    fn parse(&self, spec: &Value) -> Document {
        let revision = Revision { uid: Some(Arc::from(self.id.to_string())), generation: 1 };
        let created = format!("2026-11-{:02}T10:00:00Z", self.age + 1);
        let created = Some(Arc::from(created));
        if self.id.kind == Kind::Mapping {
            let (id, annotations) = (self.id.clone(), BTreeMap::new());
            let spec = Arc::from(spec.to_string());
            let object = MappingObject { id, revision, created, annotations, spec };
            return smartnat::document(&object, SmartNatOptions::default());
        }
        let text = json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": self.id.kind.as_str(),
            "metadata": {"name": &*self.id.name}, "spec": spec,
        });
        let text = Arc::from(format!("{text:#}"));
        let place = Arc::from(self.id.to_string());
        let source = document::source(self.id.kind, &place, text, 1, Vec::new());
        let content = document::content(&source);
        Document::of_object(self.id.clone(), revision, created, source, content)
    }

    /// Returns an edit that is wrong: by itself, or in its form.
    fn broken(&self, draw: &mut Draw) -> Value {
        let mut spec = self.spec.clone();
        match draw.below(3) {
            0 => spec["addresses"] = json!("none"),
            1 => spec["ingress"] = json!([{"address": "gateway"}]),
            _ => spec = json!({"nothing": [1]}),
        }
        spec
    }
}

/// Draws the objects of a cluster, the oldest first.
fn objects(draw: &mut Draw) -> Vec<Object> {
    let mut objects = Vec::new();
    let address = |draw: &mut Draw| format!("198.51.100.{}", draw.below(ADDRESSES) + 1);
    for tenant in 0..TENANTS {
        let at = address(draw);
        let leaves = format!("203.0.113.{}", draw.below(LEAVING) + 1);
        let sources = match draw.below(4) {
            0 => vec![format!("10.{}.0.0/14", 4 * draw.below(3))],
            1 => vec![format!("10.{}.0.0/16", draw.below(ADDRESSES))],
            _ => Vec::new(),
        };
        let spec = json!({
            "namespace": format!("n{tenant}"),
            "ingress": [{"address": at, "port": 8443, "protocol": "TCP", "upstream": "u"}],
            "upstreams": {"u": {"service": {"name": "s", "port": 80}, "protocol": "TCP"}},
            "egress": {"addresses": [leaves], "sources": sources},
        });
        objects.push(Object {
            id: ResourceId::new(Kind::Tenant, &format!("t{tenant}")),
            age: 0,
            spec,
            ends_broken: draw.is_one_of(6),
            parsed: RefCell::default(),
        });
    }
    for number in 0..12 {
        let tenant = usize::try_from(draw.below(TENANTS as u64)).unwrap();
        let namespace = format!("n{tenant}");
        let mapped = format!("192.0.2.{}", draw.below(MAPPED) + 1);
        let at = if draw.is_one_of(4) { address(draw) } else { mapped };
        let port = 8_000 + draw.below(2);
        let is_smartnats = draw.is_one_of(2);
        let (kind, spec) = if is_smartnats {
            let ports = json!([{"port": port, "servicePort": 80}]);
            let spec =
                json!({"addresses": [at], "mode": "service", "serviceName": "s", "ports": ports});
            (Kind::Mapping, spec)
        } else {
            let ports = json!([{"port": port, "service": {"name": "s", "port": "80/TCP"}}]);
            (Kind::PortMapping, json!({"addresses": [at], "ports": ports}))
        };
        objects.push(Object {
            id: ResourceId::namespaced(kind, &namespace, &format!("m{number}")),
            age: 0,
            spec,
            ends_broken: draw.is_one_of(6),
            parsed: RefCell::default(),
        });
    }
    for (age, object) in objects.iter_mut().enumerate() {
        object.age = age;
    }
    objects
}

/// Draws an order in which objects come.
fn order(objects: &[Object], draw: &mut Draw) -> Vec<usize> {
    let mut order: Vec<usize> = (0..objects.len()).collect();
    for at in (1..order.len()).rev() {
        let other = usize::try_from(draw.below(at as u64 + 1)).unwrap();
        order.swap(at, other);
    }
    order
}

/// A process that reads the objects, and the API server with their last accepted revisions.
#[derive(Default)]
struct World {
    store: Store,
    compiled: Option<Compiled>,
    /// The objects as they are in the API server.
    present: BTreeMap<usize, (Value, u64)>,
    accepted: BTreeMap<usize, (Value, u64)>,
}

fn facts() -> Vec<(Reference, Option<Fact>)> {
    let mut facts = Vec::new();
    for tenant in 0..TENANTS {
        let namespace: Arc<str> = Arc::from(format!("n{tenant}"));
        let labels = BTreeMap::from([(Arc::from(TENANT_LABEL), Arc::from(format!("t{tenant}")))]);
        facts.push((Reference::Namespace(Arc::clone(&namespace)), Some(Fact::Labels(labels))));
        for port in ["80", "80/TCP"] {
            let (name, port) = (Arc::from("s"), Arc::from(port));
            let endpoint = format!("10.244.{tenant}.5:8080").parse().unwrap();
            let namespace = Arc::clone(&namespace);
            let reference = Reference::Service { namespace, name, port };
            facts.push((reference, Some(Fact::Endpoints([endpoint].into_iter().collect()))));
        }
    }
    facts
}

fn fresh() -> Store {
    let mut store = Store::default();
    store.read_cluster(Some(Cluster::new("durward")));
    store.apply(Change { facts: facts(), ..Change::default() });
    store
}

impl World {
    fn edit(&mut self, objects: &[Object], at: usize, spec: Value) {
        let generation = self.present.get(&at).map_or(1, |(_, generation)| generation + 1);
        let document = objects[at].document(&spec, generation);
        self.present.insert(at, (spec, generation));
        self.store.apply(Change { upserts: vec![document], ..Change::default() });
    }

    fn compile(&mut self, objects: &[Object]) {
        let compiled = compile(&self.store, self.compiled.as_ref(), NOW);
        self.note_accepted(objects, &compiled);
        self.compiled = Some(compiled);
    }

    fn note_accepted(&mut self, objects: &[Object], compiled: &Compiled) {
        for (at, present) in &self.present {
            let verdict = compiled.verdicts.on(&DocumentKey::Object(objects[*at].id.clone()));
            let is_served = verdict.is_some_and(|verdict| {
                matches!(verdict.outcome, Outcome::Accepted | Outcome::Partial)
            });
            if is_served {
                self.accepted.insert(*at, present.clone());
            }
        }
    }

    /// Ends the process, and starts another that reads everything at once: for objects that are broken, first their last accepted revisions.
    fn restart(&mut self, objects: &[Object]) {
        let is_broken = |compiled: &Compiled, at: usize| {
            let verdict = compiled.verdicts.on(&DocumentKey::Object(objects[at].id.clone()));
            verdict.is_none_or(|verdict| verdict.outcome != Outcome::Accepted)
        };
        let now = |at: usize| {
            let (spec, generation) = &self.present[&at];
            objects[at].document(spec, *generation)
        };
        let all: Vec<usize> = self.present.keys().copied().collect();
        let mut store = fresh();
        let upserts = all.iter().map(|at| now(*at)).collect();
        store.apply(Change { upserts, ..Change::default() });
        let alone = compile(&store, None, NOW);
        let broken: Vec<usize> = all.into_iter().filter(|at| is_broken(&alone, *at)).collect();
        let former = broken.iter().filter_map(|at| {
            let (spec, generation) = self.accepted.get(at)?;
            Some(objects[*at].document(spec, *generation))
        });
        let former = still_served(&store, former.collect(), NOW);
        store.apply(Change { upserts: former, ..Change::default() });
        let before = compile(&store, None, NOW);
        let upserts = broken.iter().map(|at| now(*at)).collect();
        store.apply(Change { upserts, ..Change::default() });
        let compiled = compile(&store, Some(&before), NOW);
        self.note_accepted(objects, &compiled);
        (self.store, self.compiled) = (store, Some(compiled));
    }
}

/// Everything that is served, and what is said of each object, as text.
fn digest(compiled: &Compiled) -> String {
    let snapshot = &compiled.snapshot;
    let verdicts = compiled.verdicts.iter().map(|verdict| {
        let reasons: Vec<&str> = verdict.findings.iter().map(|one| &*one.reason).collect();
        format!("{} {:?} {reasons:?}", verdict.resource, verdict.outcome)
    });
    let mut verdicts: Vec<String> = verdicts.collect();
    verdicts.sort();
    let mut mappings: Vec<String> =
        snapshot.nat.mappings.iter().map(|one| serde_json::to_string(one).unwrap()).collect();
    mappings.sort();
    let tenants: Vec<String> =
        snapshot.tenants.values().map(|one| serde_json::to_string(one).unwrap()).collect();
    let binds: Vec<String> = snapshot.binds.keys().map(ToString::to_string).collect();
    [verdicts, mappings, tenants, binds].map(|part| part.join("\n")).join("\n--\n")
}

/// Draws a history with this seed, and returns the digests of where it ends and of a process that reads the end alone.
fn history(seed: u64) -> [String; 2] {
    let mut draw = Draw(seed);
    let objects = objects(&mut draw);
    let mut world = World { store: fresh(), ..World::default() };
    let mut to_mend = Vec::new();
    for at in order(&objects, &mut draw) {
        world.edit(&objects, at, objects[at].spec.clone());
        if draw.is_one_of(3) {
            world.compile(&objects);
        }
        if draw.is_one_of(4) && world.accepted.contains_key(&at) {
            let broken = objects[at].broken(&mut draw);
            world.edit(&objects, at, broken);
            to_mend.push(at);
        }
        if draw.is_one_of(6) {
            world.restart(&objects);
        }
    }
    world.compile(&objects);
    for at in to_mend {
        world.edit(&objects, at, objects[at].spec.clone());
        world.compile(&objects);
    }
    for at in (0..objects.len()).filter(|at| objects[*at].ends_broken) {
        let broken = objects[at].broken(&mut draw);
        world.edit(&objects, at, broken);
        if draw.is_one_of(2) {
            world.compile(&objects);
        }
    }
    world.compile(&objects);
    let end = digest(world.compiled.as_ref().unwrap());
    world.restart(&objects);
    [end, digest(world.compiled.as_ref().unwrap())]
}

#[test]
fn whatever_happened_before_the_same_objects_come_to_the_same() {
    let histories = std::env::var("DURWARD_HISTORIES").ok().and_then(|text| text.parse().ok());
    let histories = histories.unwrap_or(150);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let of_thread = |thread: u64| {
        let mut different = Vec::new();
        for seed in (thread..histories).step_by(threads as usize) {
            let [end, alone] = history(seed);
            assert!(end.contains("Accepted"), "something is served");
            if end != alone {
                different.push((seed, end, alone));
            }
        }
        different
    };

    let different: Vec<(u64, String, String)> = std::thread::scope(|scope| {
        let running: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || of_thread(thread))).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });

    let first =
        different.first().map(|(seed, end, alone)| format!("seed {seed}:\n{end}\n=====\n{alone}"));
    assert!(different.is_empty(), "{} differ; {}", different.len(), first.unwrap_or_default());
}

/// Builds a tenant, or a mapping of a tenant, that asks for an address.
fn asking(kind: Kind, tenant: usize, age: usize, at: &str) -> Object {
    let (id, spec) = if kind == Kind::Tenant {
        let entry = json!({"address": at, "port": 8443, "protocol": "TCP", "upstream": "u"});
        let spec = json!({
            "namespace": format!("n{tenant}"),
            "ingress": [entry],
            "upstreams": {"u": {"service": {"name": "s", "port": 80}, "protocol": "TCP"}},
            "egress": {"addresses": [format!("203.0.113.{}", tenant + 1)]},
        });
        (ResourceId::new(kind, &format!("t{tenant}")), spec)
    } else {
        let ports = json!([{"port": 9_000, "service": {"name": "s", "port": "80/TCP"}}]);
        let id = ResourceId::namespaced(kind, &format!("n{tenant}"), "m");
        (id, json!({"addresses": [at], "ports": ports}))
    };
    Object { id, age, spec, ends_broken: false, parsed: RefCell::default() }
}

/// Reads objects one after the other, and returns the reasons of what is said of each.
fn reasons(objects: &[Object], order: &[usize]) -> Vec<Vec<String>> {
    let mut world = World { store: fresh(), ..World::default() };
    for at in order {
        world.edit(objects, *at, objects[*at].spec.clone());
        world.compile(objects);
    }
    let compiled = world.compiled.unwrap();
    let of = |object: &Object| {
        let verdict = compiled.verdicts.on(&DocumentKey::Object(object.id.clone())).unwrap();
        verdict.findings.iter().map(|finding| finding.reason.to_string()).collect()
    };
    objects.iter().map(of).collect()
}

#[test]
fn whoever_may_write_in_the_namespace_of_an_older_tenant_takes_nothing_that_a_tenant_names() {
    let objects = [
        asking(Kind::Tenant, 0, 0, "198.51.100.1"),
        asking(Kind::PortMapping, 0, 1, "198.51.100.9"),
        asking(Kind::Tenant, 1, 2, "198.51.100.9"),
    ];

    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
        let said = reasons(&objects, &order);

        assert_eq!(said, [vec![], vec!["AddressTaken".to_owned()], vec![]], "{order:?}");
    }
}

#[test]
fn of_two_objects_in_namespaces_the_older_one_has_what_both_ask_for_whatever_the_ages_of_their_tenants()
 {
    let objects = [
        asking(Kind::Tenant, 0, 0, "198.51.100.1"),
        asking(Kind::Tenant, 1, 1, "198.51.100.2"),
        asking(Kind::PortMapping, 1, 2, "198.51.100.9"),
        asking(Kind::PortMapping, 0, 3, "198.51.100.9"),
    ];

    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [0, 3, 1, 2], [1, 2, 0, 3]] {
        let said = reasons(&objects, &order);

        let expected = [vec![], vec![], vec![], vec!["AddressTaken".to_owned()]];
        assert_eq!(said, expected, "{order:?}");
    }
}

#[test]
fn a_tenant_of_which_nothing_is_served_keeps_no_address_that_its_document_no_longer_names() {
    let mut objects = [
        asking(Kind::Tenant, 0, 0, "198.51.100.1"),
        asking(Kind::Tenant, 1, 1, "198.51.100.9"),
        asking(Kind::Tenant, 2, 2, "198.51.100.9"),
    ];
    objects[1].spec["egress"] = objects[0].spec["egress"].clone();
    let mut world = World { store: fresh(), ..World::default() };
    for at in [0, 1, 2] {
        world.edit(&objects, at, objects[at].spec.clone());
        world.compile(&objects);
    }

    let mut broken = objects[1].spec.clone();
    broken["ingress"] = json!([{"address": "gateway"}]);
    world.edit(&objects, 1, broken);
    world.compile(&objects);

    let end = digest(world.compiled.as_ref().unwrap());
    assert!(end.contains("Tenant/t2 Accepted []"), "{end}");
    world.restart(&objects);
    assert_eq!(end, digest(world.compiled.as_ref().unwrap()));
}
