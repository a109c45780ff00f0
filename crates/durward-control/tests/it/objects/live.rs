//! What changes in a cluster changes what is served: of those who name it, and of nobody else.

use durward_control::change::ServiceEndpoints;
use durward_model::mapping::Affinity;

use super::*;

fn touched(world: &mut World, reference: Reference, fact: Fact) -> Vec<String> {
    let facts = vec![(reference, Some(fact))];
    let touched = world.store.apply(Change { facts, ..Change::default() });
    touched.tenants.iter().map(ToString::to_string).collect()
}

#[test]
fn a_renewed_secret_concerns_the_tenants_that_name_it_and_no_other() {
    let mut world = World::new();
    for name in ["acme", "globex"] {
        world.label(name, Some(name));
        world.tls((name, "shop"), &PAIRS[usize::from(name == "globex")]);
        let spec = with_certificate("", "{secretName: shop}");
        let spec = if name == "acme" {
            spec
        } else {
            spec.replace(".100.1", ".100.2").replace(".113.1", ".113.2")
        };
        world.put(tenant_object(name, &spec));
    }
    world.compile();
    assert!(world.compiled.verdicts.all_accepted(), "{:#?}", world.compiled.verdicts);
    let (before, globex) =
        (world.tenant("acme").unwrap().clone(), world.tenant("globex").unwrap().clone());

    let renewed = Fact::Bytes(bytes(&[("tls.crt", &PAIRS[2].0), ("tls.key", &PAIRS[2].1)]).into());
    assert_eq!(touched(&mut world, secret(("acme", "shop")), renewed.clone()), ["acme"]);
    assert!(touched(&mut world, secret(("acme", "shop")), renewed).is_empty());
    world.compile();

    let fingerprint =
        |tenant: &Tenant| tenant.listeners[0].tls().unwrap().certificates[0].fingerprint.clone();
    assert_ne!(fingerprint(&before), fingerprint(world.tenant("acme").unwrap()));
    assert!(Arc::ptr_eq(&globex, world.tenant("globex").unwrap()));
}

#[test]
fn endpoints_of_a_service_come_and_go() {
    let mut world = World::new();
    for (at, name) in [(1, "acme"), (2, "globex")] {
        world.label(name, Some(name));
        world.service((name, "pay"), &[&format!("10.0.{at}.1:8080")]);
        world.put(tenant_object(name, &with_service(at, "{name: pay, port: http}")));
    }
    world.compile();
    assert!(world.compiled.verdicts.all_accepted(), "{:#?}", world.compiled.verdicts);
    assert_eq!(world.endpoints("acme"), ["10.0.1.1:8080"]);
    let globex = world.tenant("globex").unwrap().clone();

    world.service(("acme", "pay"), &["10.0.1.1:8080", "10.0.1.2:8080"]);
    world.compile();
    assert_eq!(world.endpoints("acme"), ["10.0.1.1:8080", "10.0.1.2:8080"]);

    world.service(("acme", "pay"), &[]);
    world.compile();
    assert!(world.endpoints("acme").is_empty());
    assert_eq!(world.reasons("acme"), ["NoEndpoints"]);
    assert_eq!(world.verdict("acme").outcome, Outcome::Accepted, "the upstream is there");
    assert_eq!(world.tenant("acme").unwrap().listeners.len(), 1);

    world.service(("acme", "pay"), &["[2001:db8::1]:8080", "10.0.1.3:8080"]);
    world.compile();
    assert_eq!(world.endpoints("acme"), ["10.0.1.3:8080"]);
    assert_eq!(world.reasons("acme"), ["EgressFamily"]);
    assert!(Arc::ptr_eq(&globex, world.tenant("globex").unwrap()));
}

/// Slices are the tenant's own objects: what they say must not be multiplied by the places that name the Service.
#[test]
fn a_service_with_too_many_endpoints_serves_the_first_ones_at_each_place_and_a_document_bounds_them_all()
 {
    let endpoint = |number: u16| format!("10.{}.{}.1:80", number >> 8, number & 255);
    let many: Vec<String> = (0..1_500).map(endpoint).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.service(("acme", "pay"), &many);
    world.put(tenant_object("acme", &with_service(1, "{name: pay, port: http}")));
    let mapping = |ports: u16| {
        let port =
            |number: u16| format!("{{port: {}, service: {{name: pay, port: http}}}}", number + 1);
        let ports: Vec<String> = (0..ports).map(port).collect();
        format!("{{addresses: [198.51.100.9], ports: [{}]}}", ports.join(", "))
    };
    let counts = |world: &World| -> Vec<usize> {
        let ports = world.compiled.snapshot.nat.mappings[0].ports.iter();
        let count = |one: &durward_model::mapping::MappedPort| match &one.endpoints {
            durward_model::mapping::Endpoints::At(at) => at.len(),
            durward_model::mapping::Endpoints::SamePort(at) => at.len(),
        };
        ports.map(count).collect()
    };

    for (ports, expected) in [(2, 1024), (256, 390)] {
        world.put(mapping_object(("acme", "web"), &mapping(ports)));
        world.compile();

        assert_eq!(world.endpoints("acme").len(), 1024);
        assert_eq!(world.endpoints("acme")[..2], ["10.0.0.1:80", "10.0.1.1:80"]);
        assert_eq!(counts(&world), vec![expected; usize::from(ports)]);
        for (name, field) in
            [("acme", "spec.upstreams.u.service.name"), ("web", "spec.ports[0].service.name")]
        {
            assert_eq!(world.verdict(name).outcome, Outcome::Accepted, "{name}");
            let (reason, at, sentence) = &world.findings(name)[0];
            assert_eq!((&**reason, &**at), ("EndpointsLeftOut", field), "{sentence}");
        }
    }
}

#[test]
fn the_endpoints_of_all_services_of_a_tenants_upstreams_are_bounded() {
    let endpoint = |number: u16| format!("10.{}.{}.1:80", number >> 8, number & 255);
    let many: Vec<String> = (0..1_000).map(endpoint).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.service(("acme", "pay"), &many);
    let upstream = |number: usize| format!("u{number}: {{service: {{name: pay, port: http}}}}");
    let upstreams: Vec<String> = (0..100).map(upstream).collect();
    let spec = with_service(1, "{name: pay, port: http}");
    let spec = spec.replace("upstreams: {", &format!("upstreams: {{{}, ", upstreams.join(", ")));
    world.put(tenant_object("acme", &spec));

    world.compile();

    let upstreams = &world.tenant("acme").unwrap().upstreams;
    let all: usize = upstreams.iter().map(|upstream| upstream.endpoints.len()).sum();
    assert!(all > 0 && all <= 20_000, "{all}");
    assert!(world.reasons("acme").contains(&"EndpointsLeftOut".to_owned()));
}

#[test]
fn one_port_of_a_service_is_asked_for_once_however_it_is_written() {
    let mut world = World::new();
    world.label("acme", Some("acme"));
    let port = |(at, written): (usize, &str)| {
        format!("{{port: {}, service: {{name: pay, port: '{written}'}}}}", at + 1)
    };
    let ports: Vec<String> = ["80", "080", "00080"].into_iter().enumerate().map(port).collect();
    let spec = format!("{{addresses: [198.51.100.9], ports: [{}]}}", ports.join(", "));
    world.put(mapping_object(("acme", "web"), &spec));

    let services = world.store.wanted().filter(|one| matches!(one, Reference::Service { .. }));

    assert_eq!(services.count(), 1);
}

/// Addresses of pods are given out again: a Service that is gone must not be remembered by them.
#[test]
fn endpoints_of_a_service_that_is_gone_or_not_the_tenants_any_more_are_not_connected_to() {
    let foreign = Fact::Labels(BTreeMap::from([(Arc::from(TENANT_LABEL), Arc::from("globex"))]));
    let namespace = Reference::Namespace(Arc::from("acme"));
    let elsewhere = Fact::Unreadable("is not read".to_owned());
    let external = Fact::WithoutEndpoints("is of type ExternalName".to_owned());
    let unknown = Fact::PortUnknown("has no port \"http\": its ports are https (443)".to_owned());
    for (reference, fact, reason, field) in [
        (service(("acme", "pay")), Fact::Missing, "ServiceMissing", "name"),
        (service(("acme", "pay")), unknown, "PortUnknown", "port"),
        (service(("acme", "pay")), external, "ServiceUnfitting", "name"),
        (namespace.clone(), foreign, "NamespaceForeign", "name"),
        (namespace.clone(), Fact::Missing, "NamespaceMissing", "name"),
        (namespace, elsewhere, "NamespaceUnreadable", "name"),
    ] {
        let mut world = World::new();
        world.label("acme", Some("acme"));
        world.service(("acme", "pay"), &["10.0.1.1:8080"]);
        world.put(tenant_object("acme", &with_service(1, "{name: pay, port: http}")));
        let ports = "{tenant: acme, addresses: [198.51.100.9], ports: [{port: 80, service: {name: pay, port: http}}]}";
        world.put(in_file("m", &text("PortMapping", "web", ports)));
        world.compile();
        assert!(world.compiled.verdicts.all_accepted(), "{:#?}", world.compiled.verdicts);
        let of_mapping = |world: &World| {
            format!("{:?}", world.compiled.snapshot.nat.mappings[0].ports[0].endpoints)
        };
        assert!(of_mapping(&world).contains("10.0.1.1:8080"));

        world.say(reference, fact);
        world.compile();

        assert!(world.endpoints("acme").is_empty(), "{reason}");
        assert_eq!(world.findings("acme")[0].0, reason);
        assert_eq!(world.findings("acme")[0].1, format!("spec.upstreams.u.service.{field}"));
        assert_eq!(world.verdict("acme").outcome, Outcome::Partial);
        assert!(!of_mapping(&world).contains("10.0.1.1"), "{reason}");
        assert!(world.reasons("web").contains(&reason.to_owned()), "{:?}", world.findings("web"));
    }
}

#[test]
fn a_service_that_cannot_be_read_for_a_while_keeps_its_endpoints() {
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.service(("acme", "pay"), &["10.0.1.1:8080"]);
    world.put(tenant_object("acme", &with_service(1, "{name: pay, port: http}")));
    world.compile();

    world.say(service(("acme", "pay")), Fact::Unreadable("cannot be read: forbidden".to_owned()));
    world.compile();

    assert_eq!(world.endpoints("acme"), ["10.0.1.1:8080"]);
    assert_eq!(world.reasons("acme"), ["ServiceUnreadable"]);
}

#[test]
fn a_certificate_whose_secret_is_gone_is_served_on_and_one_that_is_denied_is_not() {
    let foreign = Fact::Labels(BTreeMap::from([(Arc::from(TENANT_LABEL), Arc::from("globex"))]));
    for (reference, fact, listeners) in [
        (secret(("acme", "shop")), Fact::Missing, 1),
        (Reference::Namespace(Arc::from("acme")), foreign, 0),
    ] {
        let mut world = World::new();
        world.label("acme", Some("acme"));
        world.tls(("acme", "shop"), &PAIRS[0]);
        world.put(tenant_object("acme", &with_certificate("", "{secretName: shop}")));
        world.compile();
        assert!(world.compiled.verdicts.all_accepted(), "{:#?}", world.compiled.verdicts);

        world.say(reference, fact);
        world.compile();

        let served = world.tenant("acme").map_or(0, |tenant| tenant.listeners.len());
        assert_eq!(served, listeners, "{:#?}", world.findings("acme"));
    }
}

#[test]
fn a_mapping_goes_with_its_namespace_from_tenant_to_tenant() {
    let mut world = World::new();
    let spec = "{addresses: [198.51.100.7], endpoints: [10.0.0.1], ports: [{port: 80}]}";
    world.put(tenant_object("acme", "{}"));
    world.put(tenant_object("globex", "{}"));
    world.put(mapping_object(("x", "web"), spec));
    let whose = |world: &World| {
        let mappings = world.compiled.snapshot.nat.mappings.iter();
        mappings.map(|mapping| mapping.tenant.to_string()).collect::<Vec<_>>()
    };

    for (label, expected) in [
        (Some("acme"), vec!["acme"]),
        (Some("globex"), vec!["globex"]),
        (None, vec![]),
        (Some("Not a name!"), vec![]),
        (Some("nobody"), vec![]),
        (Some("acme"), vec!["acme"]),
    ] {
        world.label("x", label);
        world.compile();
        assert_eq!(whose(&world), expected, "{label:?}");
        let whole = compile(&world.store, None, NOW);
        assert_eq!(whole.snapshot.nat.mappings, world.compiled.snapshot.nat.mappings);
    }
    // While it is broken it is what it was, and of a namespace that is another's by then nothing.
    let id = ResourceId::namespaced(Kind::PortMapping, "x", "web");
    world.put(object(id.clone(), &text("PortMapping", "web", "{nonsense: 1}")));
    world.compile();
    assert_eq!(whose(&world), ["acme"]);
    world.label("x", Some("globex"));
    world.compile();
    assert_eq!(whose(&world), [""; 0]);
    world.delete(DocumentKey::Object(id));
    world.compile();
    assert_eq!(world.compiled.verdicts.len(), 2);
}

#[test]
fn what_a_source_takes_back_once_nobody_may_have_it_is_forgotten() {
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.tls(("acme", "shop"), &PAIRS[0]);
    world.put(tenant_object("acme", &with_certificate("", "{secretName: shop}")));
    let shop = secret(("acme", "shop"));
    let take_back = |world: &mut World| {
        let facts = vec![(shop.clone(), None)];
        world.store.apply(Change { facts, ..Change::default() });
    };
    take_back(&mut world);
    assert!(world.store.fact(&shop).is_some(), "it is asked for still");

    world.label("acme", Some("globex"));
    take_back(&mut world);

    assert!(world.store.fact(&shop).is_none());
}

/// Who creates and deletes objects all the time must not keep a gateway from handing over.
#[test]
fn what_is_lost_because_its_object_is_gone_or_changed_is_no_loss_of_a_hand_over() {
    use durward_control::compile::retained;
    use durward_control::{FileSource, State};
    type Edit<'a> = &'a dyn Fn(&mut World);

    let mapping = |port: u16| {
        format!("{{addresses: [198.51.100.9], endpoints: [10.0.0.1], ports: [{{port: {port}}}]}}")
    };
    let key = DocumentKey::Object(ResourceId::namespaced(Kind::PortMapping, "acme", "web"));
    let older = || {
        let mut world = World::new();
        world.label("acme", Some("acme"));
        world.put(tenant_object("acme", "{}"));
        world.put(mapping_object(("acme", "web"), &mapping(80)));
        world.put(mapping_object(("acme", "other"), &mapping(81)));
        world.compile();
        assert!(world.compiled.verdicts.all_accepted(), "{:#?}", world.compiled.verdicts);
        world
    };
    let (nothing, taken) = (|_: &mut World| {}, "its port is another's by now");
    let gone = |world: &mut World| world.delete(key.clone());
    let changed = |world: &mut World| world.put(mapping_object(("acme", "web"), &mapping(90)));
    let cases: [(&str, Edit<'_>, bool); 3] =
        [("gone", &gone, true), ("changed", &changed, true), (taken, &nothing, false)];
    for (name, edit, is_excused) in cases {
        let mut world = older();
        let (served, json) = (world.compiled.served(), world.compiled.state().to_json());
        let state = State::from_json(&json).unwrap();
        edit(&mut world);
        let restored = retained::restore_beside(&state, &FileSource::default(), &world.store, NOW);
        let mut younger = compile(&world.store, Some(&restored), NOW);
        if !is_excused {
            // A younger process that serves less of what is there is refused all the same.
            world.delete(key.clone());
            younger = compile(&world.store, Some(&restored), NOW);
            world.put(mapping_object(("acme", "web"), &mapping(80)));
        }

        let elsewhere = retained::changed_objects(&state, &world.store, Some("other"));
        assert!(elsewhere.is_empty(), "{name}: what is not read may be there: {elsewhere:?}");
        let changed = retained::changed_objects(&state, &world.store, None);
        let lost = served.without(&changed).lost_in(&younger.served());

        assert_eq!(lost.is_empty(), is_excused, "{name}: {lost:?}");
    }
}

#[test]
fn a_mapping_takes_over_the_affinity_of_its_service_unless_it_says_another() {
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.put(tenant_object("acme", "{}"));
    let endpoints = |by_client: bool| {
        let mut at: ServiceEndpoints = ["10.0.0.1:80".parse().unwrap()].into_iter().collect();
        at.by_client = by_client;
        Fact::Endpoints(at)
    };
    let spec = |more: &str| {
        format!(
            "{{addresses: [198.51.100.7], ports: [{{port: 80, service: {{name: pay, port: http}}}}]{more}}}"
        )
    };
    for (by_client, more, expected) in [
        (true, "", Affinity::ClientIp),
        (false, "", Affinity::None),
        (true, ", affinity: None", Affinity::None),
        (false, ", affinity: ClientIP", Affinity::ClientIp),
    ] {
        world.say(service(("acme", "pay")), endpoints(by_client));
        world.put(mapping_object(("acme", "web"), &spec(more)));

        world.compile();

        let mapping = &world.compiled.snapshot.nat.mappings[0];
        assert_eq!(mapping.affinity, expected, "{by_client} {more:?}");
    }
}
