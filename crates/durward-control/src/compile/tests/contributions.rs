//! What objects add to a tenant: the oldest has what two ask for, a conflict costs one object, and what goes is gone.

use std::collections::BTreeMap as Map;

use durward_model::{Listener, Service};

use super::*;
use crate::cluster::{Cluster, TENANT_LABEL};

/// A tenant with a listener for plain HTTP, which other objects may add routes to.
fn tenant(name: &str, address: u8, more: &str) -> Document {
    let text = format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress: [{{address: 198.51.100.{address}, protocol: HTTP, shared: true, names: [own{address}.example], routes: [{{host: own{address}.example, respond: {{body: own}}}}]}}]\n  egress: {{addresses: [203.0.113.{address}]}}\n{more}"
    );
    document_in(&format!("{name}.yaml"), text)
}

/// An object of namespace and name, created on a day, that adds a listener.
fn adding((namespace, name): (&str, &str), day: u8, listener: &str) -> Document {
    let text = format!(
        "apiVersion: durward.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}, labels: {{listener: \"{listener}\"}}}}\nspec: {{allow: [{{host: a.example}}]}}\n"
    );
    let document = document_in(&format!("{namespace}/{name}"), text);
    let id = ResourceId::namespaced(Kind::EgressPolicy, namespace, name);
    let created = Some(Arc::from(format!("2026-01-{day:02}T00:00:00Z")));
    let source = Source::clone(&document.source);
    Document::of_object(id, Revision::default(), created, source, document.content)
}

/// A store in which the namespaces `x` and `y` are tenant `a`'s, and `z` tenant `b`'s.
fn store(documents: Vec<Document>) -> Store {
    let mut store = Store::default();
    store.read_cluster(Some(Cluster::new("durward")));
    let facts = [("x", "a"), ("y", "a"), ("z", "b")].map(|(namespace, tenant)| {
        let labels = Map::from([(Arc::from(TENANT_LABEL), Arc::from(tenant))]);
        (Reference::Namespace(Arc::from(namespace)), Some(Fact::Labels(labels)))
    });
    store.apply(Change { upserts: documents, facts: facts.to_vec(), ..Change::default() });
    store
}

fn put(store: &mut Store, document: Document) {
    store.apply(Change { upserts: vec![document], ..Change::default() });
}

fn take_out(store: &mut Store, (namespace, name): (&str, &str)) {
    let id = ResourceId::namespaced(Kind::EgressPolicy, namespace, name);
    let deletes = vec![crate::change::DocumentKey::Object(id)];
    store.apply(Change { deletes, ..Change::default() });
}

/// Outcome and reasons of errors of each verdict, by kind, namespace and name.
fn verdicts(compiled: &Compiled) -> Map<String, (Outcome, Vec<String>)> {
    let shown = compiled.verdicts.iter().map(|verdict| {
        let findings = verdict.findings.iter();
        let errors = findings.filter(|one| one.severity == durward_model::verdict::Severity::Error);
        let reasons = errors.map(|one| one.reason.to_string()).collect();
        (verdict.resource.to_string(), (verdict.outcome, reasons))
    });
    shown.collect()
}

fn listener<'c>(compiled: &'c Compiled, tenant: &str, port: u16) -> Option<&'c Arc<Listener>> {
    let tenant = compiled.snapshot.tenants.get(&TenantId::new(tenant).unwrap())?;
    tenant.listeners.iter().find(|listener| listener.port == port)
}

/// The upstream to which a listener leads clients of each host.
fn hosts(compiled: &Compiled, tenant: &str, port: u16) -> Map<String, String> {
    let Some(listener) = listener(compiled, tenant, port) else { return Map::new() };
    let tenant = &compiled.snapshot.tenants[&TenantId::new(tenant).unwrap()];
    let upstream =
        |index: durward_model::upstream::UpstreamIndex| tenant.upstream(index).name.to_string();
    match &listener.service {
        Service::PassThrough(routes) => routes
            .iter()
            .map(|route| (route.hosts[0].to_string(), upstream(route.upstreams[0].upstream)))
            .collect(),
        Service::Http(service) => service
            .routes
            .iter()
            .map(|route| {
                let to = match &route.action {
                    durward_model::route::Action::Forward(forward) => {
                        upstream(forward.upstreams[0].upstream)
                    }
                    _ => "own".to_owned(),
                };
                (route.matches.hosts[0].to_string(), to)
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn map(pairs: &[(&str, &str)]) -> Map<String, String> {
    pairs.iter().map(|(host, to)| ((*host).to_owned(), (*to).to_owned())).collect()
}

fn accepted() -> (Outcome, Vec<String>) {
    (Outcome::Accepted, Vec::new())
}

fn rejected(reason: &str) -> (Outcome, Vec<String>) {
    (Outcome::Rejected, vec![reason.to_owned()])
}

const TLS: &str = "tls 198.51.100.1";

#[test]
fn listeners_of_several_objects_at_one_address_and_port_are_one() {
    let store = store(vec![
        tenant("a", 1, ""),
        adding(("x", "one"), 1, &format!("{TLS} one.example named one 10.0.0.1")),
        adding(("y", "two"), 2, &format!("{TLS} two.example named two 10.0.0.2")),
        adding(("y", "web"), 3, "http 198.51.100.1 web.example named web 10.0.0.3"),
    ]);

    let compiled = compile(&store, None, NOW);

    assert!(compiled.verdicts.all_accepted(), "{:#?}", compiled.verdicts);
    assert_eq!(hosts(&compiled, "a", 443), map(&[("one.example", "one"), ("two.example", "two")]));
    assert_eq!(hosts(&compiled, "a", 80), map(&[("own1.example", "own"), ("web.example", "web")]));
    let names = |port| listener(&compiled, "a", port).unwrap().names.clone().unwrap();
    assert_eq!(names(443).iter().count(), 2);
    assert_eq!(names(80).iter().count(), 2);
    let tenant = &compiled.snapshot.tenants[&TenantId::new("a").unwrap()];
    assert!(tenant.upstreams.iter().all(|upstream| upstream.sources == tenant.egress));
}

#[test]
fn of_two_objects_that_ask_for_one_thing_the_oldest_has_it_whatever_was_served_before() {
    let one = |day| adding(("x", "one"), day, &format!("{TLS} pay.example named one 10.0.0.1"));
    let two = || adding(("y", "two"), 5, &format!("{TLS} pay.example named two 10.0.0.2"));
    let upstream = || adding(("y", "zzz"), 6, &format!("{TLS} zzz.example named two 10.0.0.3"));
    let mut store = store(vec![tenant("a", 1, ""), two()]);
    let first = compile(&store, None, NOW);
    assert_eq!(hosts(&first, "a", 443), map(&[("pay.example", "two")]));

    put(&mut store, one(1));
    put(&mut store, upstream());
    let second = compile(&store, Some(&first), NOW);

    assert_eq!(hosts(&second, "a", 443), map(&[("pay.example", "one"), ("zzz.example", "two")]));
    let said = verdicts(&second);
    assert_eq!(said["EgressPolicy/x/one"], accepted());
    assert_eq!(said["EgressPolicy/y/two"], rejected("SniTaken"));
    assert_eq!(said["EgressPolicy/y/zzz"], accepted(), "an object that is left out takes no name");
    assert_eq!(said["Tenant/a"], accepted());
    let fresh = compile(&store, None, NOW);
    assert_eq!(verdicts(&fresh), said);

    // Of one age, the first by namespace and name.
    put(&mut store, one(5));
    let same_age = compile(&store, Some(&second), NOW);
    assert_eq!(hosts(&same_age, "a", 443)["pay.example"], "one");

    take_out(&mut store, ("x", "one"));
    let third = compile(&store, Some(&same_age), NOW);
    assert_eq!(hosts(&third, "a", 443), map(&[("pay.example", "two")]));
    assert_eq!(verdicts(&third)["EgressPolicy/y/two"], accepted());
    assert_eq!(verdicts(&third)["EgressPolicy/y/zzz"], rejected("UpstreamTaken"));
}

#[test]
fn what_the_tenants_document_has_no_object_takes() {
    let store = store(vec![
        tenant("a", 1, ""),
        adding(("x", "host"), 1, "http 198.51.100.1 own1.example named host 10.0.0.1"),
        adding(("x", "alone"), 2, "http 198.51.100.1 c.example alone alone 10.0.0.1"),
        adding(("x", "family"), 3, "http 198.51.100.1 d.example named family 2001:db8::1"),
    ]);

    let compiled = compile(&store, None, NOW);

    assert_eq!(hosts(&compiled, "a", 80), map(&[("own1.example", "own")]));
    let said = verdicts(&compiled);
    assert_eq!(said["Tenant/a"], accepted());
    assert_eq!(said["EgressPolicy/x/host"], rejected("RouteTaken"));
    assert_eq!(said["EgressPolicy/x/alone"], rejected("ListenerUnfitting"));
    assert_eq!(said["EgressPolicy/x/family"], rejected("EgressFamily"));
}

#[test]
fn an_object_with_a_mistake_is_served_as_it_was_and_one_that_goes_is_gone_whatever_its_tenant_is() {
    let object = |host: &str| {
        adding(("x", "web"), 1, &format!("http 198.51.100.1 {host}.example named web 10.0.0.1"))
    };
    let mut store = store(vec![tenant("a", 1, ""), object("web")]);
    let first = compile(&store, None, NOW);
    let both = map(&[("own1.example", "own"), ("web.example", "web")]);
    assert_eq!(hosts(&first, "a", 80), both);

    // The object conflicts, the tenant is broken: both are kept, each by itself.
    put(&mut store, object("own1"));
    put(&mut store, tenant("a", 1, "  nonsense: true\n"));
    let second = compile(&store, Some(&first), NOW);
    assert_eq!(hosts(&second, "a", 80), both);
    assert_eq!(verdicts(&second)["EgressPolicy/x/web"].0, Outcome::KeptLastGood);
    assert_eq!(verdicts(&second)["Tenant/a"].0, Outcome::KeptLastGood);

    take_out(&mut store, ("x", "web"));
    let third = compile(&store, Some(&second), NOW);
    assert_eq!(hosts(&third, "a", 80), map(&[("own1.example", "own")]));
    let names = listener(&third, "a", 80).unwrap().names.clone().unwrap();
    assert_eq!(names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["own1.example"]);
    let tenant = &third.snapshot.tenants[&TenantId::new("a").unwrap()];
    assert!(tenant.upstreams.is_empty(), "{:?}", tenant.upstreams);
}

#[test]
fn a_name_that_another_tenant_has_costs_the_object_that_asks_for_it() {
    let shared =
        |address: u8| tenant("b", 2, "").source.text.replace("100.2", &format!("100.{address}"));
    let mut store = store(vec![
        document_in("b.yaml", shared(1)),
        adding(("z", "away"), 3, "tls 198.51.100.7 away.example alone away 10.0.0.1"),
    ]);
    let first = compile(&store, None, NOW);
    for later in [
        tenant("a", 1, ""),
        adding(("x", "web"), 1, "http 198.51.100.1 own2.example named web 10.0.0.1"),
        adding(("x", "other"), 2, "http 198.51.100.1 other.example named other 10.0.0.1"),
        adding(("x", "late"), 4, "tls 198.51.100.7 late.example alone late 10.0.0.1"),
    ] {
        put(&mut store, later);
    }

    let compiled = compile(&store, Some(&first), NOW);

    let said = verdicts(&compiled);
    assert_eq!(said["EgressPolicy/x/web"], rejected("ServerNameTaken"));
    assert_eq!(said["EgressPolicy/x/other"], accepted());
    assert_eq!(said["EgressPolicy/z/away"], accepted());
    assert_eq!(said["EgressPolicy/x/late"], rejected("AddressTaken"));
    assert_eq!((&said["Tenant/a"], &said["Tenant/b"]), (&accepted(), &accepted()));
    assert!(listener(&compiled, "a", 443).is_none());

    // Whoever waits for what another tenant has gets it when that goes.
    take_out(&mut store, ("z", "away"));
    let later = compile(&store, Some(&compiled), NOW);
    assert_eq!(hosts(&later, "a", 443), map(&[("late.example", "late")]));
    assert_eq!(verdicts(&later)["EgressPolicy/x/late"], accepted());
}

#[test]
fn an_object_that_did_not_change_is_not_read_again() {
    let object = |name: &str, endpoint: u8| {
        adding(("x", name), 1, &format!("{TLS} {name}.example named {name} 10.0.0.{endpoint}"))
    };
    let mut store = store(vec![tenant("a", 1, ""), object("one", 1), object("two", 2)]);
    let first = compile(&store, None, NOW);
    put(&mut store, object("two", 3));

    let second = compile(&store, Some(&first), NOW);

    let served = |compiled: &Compiled, name: &str| {
        let all = compiled.memory.contributions.iter();
        let mut named = all.filter(|(id, _)| *id.name == *name);
        named.next().and_then(|(_, past)| past.served.clone()).unwrap()
    };
    assert!(Arc::ptr_eq(&served(&first, "one"), &served(&second, "one")));
    assert!(!Arc::ptr_eq(&served(&first, "two"), &served(&second, "two")));
    // A fact that a document asks for makes it be read again.
    let labels =
        Map::from([(Arc::from(TENANT_LABEL), Arc::from("a")), (Arc::from("team"), Arc::from("1"))]);
    let facts = vec![(Reference::Namespace(Arc::from("x")), Some(Fact::Labels(labels)))];
    store.apply(Change { facts, ..Change::default() });
    let third = compile(&store, Some(&second), NOW);
    assert!(!Arc::ptr_eq(&served(&second, "one"), &served(&third, "one")));
}

#[test]
fn an_object_of_no_tenant_is_rejected_and_costs_nobody_anything() {
    let mut store = store(vec![
        tenant("a", 1, ""),
        adding(("z", "early"), 1, "tls 198.51.100.7 early.example alone early 10.0.0.1"),
        adding(("nowhere", "lost"), 1, "tls 198.51.100.8 lost.example alone lost 10.0.0.1"),
    ]);

    let compiled = compile(&store, None, NOW);

    assert_eq!(verdicts(&compiled)["EgressPolicy/z/early"], rejected("TenantUnknown"));
    assert_eq!(
        verdicts(&compiled)["EgressPolicy/nowhere/lost"],
        rejected("NamespaceWithoutTenant")
    );
    assert_eq!(verdicts(&compiled)["Tenant/a"], accepted());
    put(&mut store, tenant("b", 2, ""));
    let later = compile(&store, Some(&compiled), NOW);
    assert_eq!(hosts(&later, "b", 443), map(&[("early.example", "early")]));
}
