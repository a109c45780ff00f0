//! Random documents: compile never fails, nothing crosses, and newcomers never change what others have.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use durward_control::isolation::crossings;
use durward_control::source::inventory::Inventory;
use durward_control::spec::document;
use durward_control::{Compiled, Document, Store, compile};
use durward_model::verdict::Outcome;
use durward_model::{Destination, Kind};
use proptest::prelude::*;
use proptest::sample::select;

use crate::certificates::NOW;

/// A tenant's document, with faults and conflicts as likely as not.
fn tenant() -> impl Strategy<Value = String> {
    let name = select(vec!["a", "b", "c", "d", "e", "f", "bad name"]);
    let created = select(vec![
        "",
        ", creationTimestamp: 2024-01-01T00:00:00Z",
        ", creationTimestamp: 2025-01-01T00:00:00Z",
    ]);
    let ingress = proptest::collection::vec(ingress(), 0..4);
    let upstreams = proptest::collection::btree_map(select(vec!["x", "y", "z"]), upstream(), 0..4);
    let egress = proptest::collection::vec(
        select(vec![
            "203.0.113.1",
            "203.0.113.2",
            "203.0.113.3",
            "203.0.113.4",
            "2001:db8::1",
            "203.0.113.x",
        ]),
        0..3,
    );
    (name, created, ingress, upstreams, egress, any::<bool>()).prop_map(|(name, created, ingress, upstreams, egress, shared)| {
        let upstreams: Vec<_> = upstreams.iter().map(|(name, upstream)| format!("{name}: {upstream}")).collect();
        let egress: Vec<_> = egress.iter().map(|address| format!("\"{address}\"")).collect();
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}{created}}}\nspec:\n  ingress: [{}]\n  upstreams: {{{}}}\n  egress: {{addresses: [{}], shared: {shared}}}\n",
            ingress.join(", "),
            upstreams.join(", "),
            egress.join(", "),
        )
    })
}

fn ingress() -> impl Strategy<Value = String> {
    let address = select(vec![
        "198.51.100.1",
        "198.51.100.2",
        "198.51.100.3",
        "2001:db8::5",
        "198.51.100.300",
    ]);
    let listen = select(vec![
        "",
        ", listen: {address: 0.0.0.0, port: 8080}",
        ", listen: {address: 0.0.0.0, port: 8080, destination: ProxyProtocol, trustedProxies: [10.0.0.0/8]}",
        ", listen: {address: 0.0.0.0, port: 8081, destination: Port}",
        ", listen: {address: \"::\", port: 15001, destination: OriginalDestination}",
    ]);
    let service = select(vec![
        "protocol: HTTP, upstream: x",
        "protocol: HTTP, upstream: y",
        "protocol: HTTP, redirectToHttps: true",
        "protocol: HTTP, routes: [{upstream: z}, {host: h.example, pathPrefix: /p, upstreams: [{name: x, weight: 2}, {name: y}]}]",
        "protocol: TCP, upstream: z",
        "protocol: TLS, routes: [{host: s.example, upstream: y}]",
        "protocol: HTTPS, certificate: {file: nowhere}, upstream: x",
        "protocol: HTPS",
    ]);
    let names = select(vec![
        "",
        "",
        "",
        ", shared: true",
        ", shared: true, names: [a.example]",
        ", shared: true, names: [a.example, b.example, \"*.b.example\"]",
        ", shared: true, names: [\"*.example\", 198.51.100.1]",
        ", shared: true, names: [c.b.example, b.example]",
        ", names: [a.example]",
    ]);
    let all = (address, 80u16..83, listen, service, names);
    all.prop_map(|(address, port, listen, service, names)| {
        format!("{{address: \"{address}\", port: {port}{listen}, {service}{names}}}")
    })
}

fn upstream() -> impl Strategy<Value = String> {
    select(vec![
        "{endpoints: [\"10.0.0.1:80\"]}",
        "{endpoints: [\"[2001:db8::9]:80\"]}",
        "{endpoints: [pay.internal], sourceAddresses: [203.0.113.1]}",
        "{endpoints: [\"10.0.0.300\"]}",
        "{endpoints: [\"10.0.0.1:80\", pay.internal], port: 81}",
    ])
    .prop_map(str::to_owned)
}

fn documents(texts: &[String]) -> Vec<Document> {
    let file = Arc::from("t.yaml");
    let documents = texts.iter().enumerate().map(|(position, text)| {
        let source = document::source(
            Kind::Tenant,
            &file,
            Arc::from(text.as_str()),
            (position as u32 + 1) * 100,
            vec![PathBuf::from(".")],
        );
        let content = document::content(&source);
        Document::of_file(position, source, content)
    });
    documents.collect()
}

/// Compiles the documents in these texts, which replace those that the store holds.
fn compiled(store: &mut Store, texts: &[String], previous: Option<&Compiled>) -> Compiled {
    let found = Inventory { documents: documents(texts), ..Inventory::default() };
    let change = found.since(store);
    store.apply(change);
    compile(store, previous, NOW)
}

fn outcomes(compiled: &Compiled) -> Vec<(Arc<str>, Outcome)> {
    let verdicts = compiled.verdicts.iter();
    verdicts.map(|verdict| (Arc::clone(&verdict.resource.name), verdict.outcome)).collect()
}

/// An entry whose address cannot be read may have meant an address that clients connected to, never one that the tenant left from.
#[test]
fn an_unreadable_address_holds_no_egress_address_that_the_tenant_gave_up() {
    let document = |name: &str, ingress: &str, egress: &str| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress: [{ingress}]\n  egress: {{addresses: [{egress}], shared: true}}\n"
        )
    };
    let by_port = "{address: 198.51.100.1, port: 80, listen: {address: 0.0.0.0, port: 8081, destination: Port}, protocol: HTTP, redirectToHttps: true}";
    let unreadable = "{address: 198.51.100.300, port: 80, protocol: HTTP, redirectToHttps: true}";
    let mut store = Store::default();
    let before = compiled(&mut store, &[document("a", "", "203.0.113.1")], None);
    let entries = [by_port, unreadable].join(", ");
    let texts = [document("a", &entries, ""), document("b", "", "203.0.113.1")];

    let after = compiled(&mut store, &texts, Some(&before));

    assert_eq!(crossings(&after.snapshot), []);
    assert_eq!(after.snapshot.tenants.len(), 2, "{:#?}", after.verdicts);
}

/// Both tenants say that they share the address, so a socket at all addresses may serve either of them there, also the one whose listener
/// there is broken and was never served.
#[test]
fn a_tenant_shares_an_address_also_while_its_listener_there_is_broken() {
    let document = |name: &str, ingress: &str| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  ingress: [{ingress}]\n"
        )
    };
    let by_port = "{address: 198.51.100.1, port: 80, listen: {address: 0.0.0.0, port: 8081, destination: Port}, protocol: HTTP, redirectToHttps: true}";
    let broken = |shared: &str| {
        format!(
            "{{address: 198.51.100.2, port: 81, protocol: HTTPS, certificate: {{file: nowhere}}, redirectToHttps: true{shared}, names: [a.example]}}"
        )
    };
    let sound = "{address: 198.51.100.2, port: 82, protocol: HTTP, redirectToHttps: true, shared: true, names: [b.example]}";
    let reached = |shared: &str| {
        let mut store = Store::default();
        let before = [document("a", by_port), document("b", sound)];
        let before = compiled(&mut store, &before, None);
        let texts = [document("a", &[by_port, &broken(shared)].join(", ")), document("b", sound)];
        let after = compiled(&mut store, &texts, Some(&before));
        assert_eq!(crossings(&after.snapshot), []);
        let bind = &after.snapshot.binds[&"0.0.0.0:8081".parse().unwrap()];
        let address = "198.51.100.2".parse().unwrap();
        bind.listener_at(Destination(SocketAddr::new(address, 8081)), address).is_some()
    };

    assert!(reached(", shared: true"));
    assert!(!reached(""), "b has the address, and a does not share it");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    // S1.22 S1.63
    #[test]
    fn whatever_is_written_compiles_and_nothing_crosses(
        first in proptest::collection::vec(tenant(), 0..7),
        second in proptest::collection::vec(tenant(), 0..7),
    ) {
        let mut store = Store::default();
        let before = compiled(&mut store, &first, None);
        let after = compiled(&mut store, &second, Some(&before));
        let again = compiled(&mut store, &second, Some(&after));

        for step in [&before, &after, &again] {
            prop_assert_eq!(crossings(&step.snapshot), []);
        }
        prop_assert_eq!(before.verdicts.len(), first.len());
        prop_assert!(Arc::ptr_eq(&after.snapshot, &again.snapshot), "a second compile of the same documents differs");
        // Sentences may mention what was kept and is no more; what became of a document may not change by itself.
        prop_assert_eq!(outcomes(&after), outcomes(&again));
    }

    // S1.22
    #[test]
    fn a_newcomer_changes_nothing_of_those_who_are_there(
        there in proptest::collection::vec(tenant(), 1..6),
        newcomer in tenant(),
        at in any::<prop::sample::Index>(),
    ) {
        // Timestamps are a claim to be older than others; without one a newcomer is a newcomer.
        let plain = |text: &String| text.replace(", creationTimestamp: 2024-01-01T00:00:00Z", "").replace(", creationTimestamp: 2025-01-01T00:00:00Z", "");
        let there: Vec<String> = there.iter().map(plain).collect();
        let mut store = Store::default();
        let before = compiled(&mut store, &there, None);
        let mut with = there.clone();
        with.insert(at.index(there.len() + 1), plain(&newcomer));

        let after = compiled(&mut store, &with, Some(&before));

        for (id, tenant) in &before.snapshot.tenants {
            let now = after.snapshot.tenants.get(id);
            prop_assert!(now.is_some_and(|now| Arc::ptr_eq(now, tenant)), "{} changed", id);
        }
    }

    #[test]
    fn junk_is_never_more_than_a_verdict(text in "\\PC{0,200}", salt in any::<u8>()) {
        let documents = [format!("{text}\n# {salt}"), text];

        let outcome = compiled(&mut Store::default(), &documents, None);

        prop_assert_eq!(outcome.verdicts.len(), 2);
        prop_assert!(outcome.snapshot.tenants.is_empty());
    }
}
