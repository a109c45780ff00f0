//! Objects that are deleted and made anew under their name, with or without a compile in between: they have nothing of the age, the claims or the last good version
//! of those before.

use durward_model::verdict::Outcome;

use super::*;

/// The same document as an object with this identifier, created at this hour.
fn with_uid(document: &Document, uid: &str, hour: u8) -> Document {
    let revision = Revision { uid: Some(Arc::from(uid)), generation: 1 };
    let created = Some(Arc::from(format!("2026-11-01T{hour:02}:00:00Z")));
    let (id, source) = (document.id.clone().unwrap(), Source::clone(&document.source));
    Document::of_object(id, revision, created, source, document.content.clone())
}

fn claiming(tenant: &str) -> Document {
    let spec =
        "{ingress: [{address: 198.51.100.7, protocol: HTTP, routes: [{respond: {status: 204}}]}]}";
    tenant_object(tenant, spec)
}

#[test]
fn a_tenant_made_anew_has_no_claim_of_the_one_before() {
    for document_of_globex_is_older in [true, false] {
        let mut world = World::new();
        world.put(with_uid(&claiming("acme"), "first", 1));
        world.compile();
        world.put(with_uid(
            &claiming("globex"),
            "g",
            if document_of_globex_is_older { 2 } else { 4 },
        ));
        world.compile();
        assert_eq!(world.reasons("globex"), ["AddressTaken"]);

        // Deleted and created within one change: the key is the same, the object is another.
        world.put(with_uid(&claiming("acme"), "second", 3));
        world.compile();

        let (winner, loser) =
            if document_of_globex_is_older { ("globex", "acme") } else { ("acme", "globex") };
        assert_eq!(
            world.verdict(winner).outcome,
            Outcome::Accepted,
            "{:?}",
            world.findings(winner)
        );
        assert_eq!(world.reasons(loser), ["AddressTaken"]);
    }
}

#[test]
fn a_broken_object_made_anew_is_not_served_as_the_one_before() {
    let broken = |id: ResourceId, kind: &str, name: &str| object(id, &text(kind, name, "[]"));
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.put(with_uid(&tenant_object("acme", "{egress: {addresses: [203.0.113.1]}}"), "t", 1));
    world.put(with_uid(&claiming("globex"), "g1", 1));
    let mapping = "{addresses: [198.51.100.8], endpoints: [10.0.0.1], ports: [{port: 80}]}";
    world.put(with_uid(&mapping_object(("acme", "web"), mapping), "m1", 1));
    let policy = |spec: &str| {
        let id = ResourceId::namespaced(Kind::EgressPolicy, "acme", "pay");
        object(id, &text("EgressPolicy", "pay", spec))
    };
    world.put(with_uid(&policy("{allow: [{host: bank.example}]}"), "p1", 1));
    let hosted = |spec: &str| {
        let id = ResourceId::namespaced(Kind::HostedApi, "acme", "t1");
        object(id, &text("HostedApi", "t1", spec))
    };
    world.service(("acme", "t1"), &["10.0.0.11:6443"]);
    let sound = "{names: [t1.api.example], address: 198.51.100.10, upstream: {service: {name: t1, port: http}}}";
    world.put(with_uid(&hosted(sound), "h1", 1));
    world.compile();
    let of = |world: &World, name: &str| world.verdict(name).outcome;
    for name in ["globex", "web", "pay", "t1"] {
        assert_eq!(of(&world, name), Outcome::Accepted, "{name} {:?}", world.findings(name));
    }
    let edits = [
        ("globex", broken(ResourceId::new(Kind::Tenant, "globex"), "Tenant", "globex")),
        (
            "web",
            broken(ResourceId::namespaced(Kind::PortMapping, "acme", "web"), "PortMapping", "web"),
        ),
        ("pay", policy("{allow: [{host: 'not a host'}]}")),
        (
            "t1",
            hosted(
                "{names: [t1.api.example], address: 198.51.100.10, idleTimeout: soon, upstream: {service: {name: t1, port: http}}}",
            ),
        ),
    ];

    // An edit keeps what was served.
    for ((name, edit), uid) in edits.iter().zip(["g1", "m1", "p1", "h1"]) {
        world.put(with_uid(edit, uid, 1));
        world.compile();
        assert_eq!(of(&world, name), Outcome::KeptLastGood, "{name} {:?}", world.findings(name));
    }
    // A new object of the same name does not.
    for ((name, edit), uid) in edits.iter().zip(["g2", "m2", "p2", "h2"]) {
        world.put(with_uid(edit, uid, 2));
        world.compile();
        assert_eq!(of(&world, name), Outcome::Rejected, "{name} {:?}", world.findings(name));
    }
    assert!(world.compiled.snapshot.nat.mappings.is_empty());
    assert!(world.tenant("acme").unwrap().listeners.is_empty());
}

#[test]
fn a_mapping_made_anew_comes_after_those_that_are_older_than_it() {
    let mapping = |namespace: &str| {
        let spec =
            "{addresses: [198.51.100.8], shared: true, endpoints: [10.0.0.1], ports: [{port: 80}]}";
        mapping_object((namespace, "web"), spec)
    };
    let mut world = World::new();
    for tenant in ["acme", "globex"] {
        world.label(tenant, Some(tenant));
        world.put(with_uid(&tenant_object(tenant, "{}"), tenant, 1));
    }
    world.put(with_uid(&mapping("acme"), "a1", 1));
    world.compile();
    world.put(with_uid(&mapping("globex"), "g1", 2));
    world.compile();
    assert_eq!(world.compiled.snapshot.nat.mappings[0].tenant.as_str(), "acme");

    world.put(with_uid(&mapping("acme"), "a2", 3));
    world.compile();

    let tenants: Vec<&str> =
        world.compiled.snapshot.nat.mappings.iter().map(|one| one.tenant.as_str()).collect();
    assert_eq!(tenants, ["globex"]);
}

#[test]
fn what_was_handed_on_is_of_the_object_that_had_it() {
    let mut world = World::new();
    world.put(with_uid(&claiming("acme"), "first", 1));
    world.compile();
    let state = world.compiled.state();
    let json = String::from_utf8(state.to_json()).unwrap();

    assert!(json.contains("\"uid\":\"first\""), "{json}");
}
