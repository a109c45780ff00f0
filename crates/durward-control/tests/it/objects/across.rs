//! No spelling of a name, no grant and no label lets a tenant have what is another's.

use std::collections::BTreeSet;

use super::*;

const NAMES: [&str; 3] = ["acme", "globex", "initech"];

/// A cluster in which every tenant has one object of each kind, all called the same, with a content of its own.
fn cluster() -> World {
    let mut world = World::new();
    for (at, name) in NAMES.into_iter().enumerate() {
        world.label(name, Some(name));
        world.tls((name, "shop"), &PAIRS[at]);
        world.tls((name, &format!("of-{name}")), &PAIRS[at]);
        world.config_map((name, "trust"), &[("names", &format!("of-{name}.example"))]);
        world.service((name, "pay"), &[&format!("10.0.{at}.1:80")]);
        world.service((name, &format!("pay-{name}")), &[&format!("10.0.{at}.2:80")]);
    }
    world.label("durward", None);
    world.label("nobodys", None);
    world.tls(("nobodys", "shop"), &PAIRS[2]);
    world
}

/// Spellings of the object of another tenant.
fn spellings(other: &str, name: &str) -> Vec<String> {
    vec![
        format!("{other}/{name}"),
        format!("../{other}/{name}"),
        format!("../{name}"),
        format!("./{other}/{name}"),
        format!("/{other}/{name}"),
        format!("{other}//{name}"),
        format!("{other}%2f{name}"),
        format!("{other}\\\\{name}"),
        format!("namespaces/{other}/secrets/{name}"),
        format!("{other}/../{other}/{name}"),
        format!("{other}.{name}"),
        format!("{}/{name}", other.to_uppercase()),
        format!(" {other}/{name}"),
        format!("{other}/{name} "),
        format!("{other}/{name}\\n"),
        format!("nobodys/{name}"),
    ]
}

/// Documents of `own` that ask for what is another's, in every field of every kind.
fn asking(own: &str, other: &str) -> Vec<String> {
    let quoted = |text: &str| format!("\"{text}\"");
    let mut asking = Vec::new();
    for name in spellings(other, "shop") {
        for certificate in [
            format!("{{secretName: {}}}", quoted(&name)),
            format!("{{file: {}}}", quoted(&format!("secret:{name}/tls"))),
            format!(
                "{{certificateFile: {}, keyFile: {}}}",
                quoted(&format!("secret:{name}/tls.crt")),
                quoted(&format!("secret:{name}/tls.key"))
            ),
        ] {
            asking.push(with_certificate("", &certificate));
            asking.push(with_certificate(&format!("namespace: {other}, "), &certificate));
        }
    }
    asking.push(with_certificate(&format!("namespace: {other}, "), "{secretName: shop}"));
    asking.push(with_certificate(
        &format!("namespace: {other}, "),
        &format!("{{secretName: {own}/of-{other}}}"),
    ));
    for name in spellings(other, "trust") {
        let file = quoted(&format!("configMap:{name}/names"));
        asking.push(format!(
            "{{egress: {{addresses: [203.0.113.1], proxy: [{{address: 198.51.100.1}}], allow: [{{hostsFile: {file}}}]}}}}"
        ));
    }
    for name in spellings(other, "pay") {
        asking.push(with_service(1, &format!("{{name: {}, port: http}}", quoted(&name))));
        asking.push(with_service(
            1,
            &format!("{{name: pay, port: http, namespace: {}}}", quoted(&name)),
        ));
    }
    asking.push(with_service(1, &format!("{{name: pay, port: http, namespace: {other}}}")));
    asking.push(with_service(1, &format!("{{name: pay-{other}, port: http}}")));
    asking
}

/// Everything in a snapshot that could be another tenant's.
fn programmed(world: &World, tenant: &str) -> BTreeSet<String> {
    let Some(served) = world.tenant(tenant) else { return BTreeSet::new() };
    let tls = served.listeners.iter().filter_map(|listener| listener.tls());
    let chains = tls.flat_map(|tls| &tls.certificates).map(|one| one.fingerprint.to_string());
    let endpoints = served.upstreams.iter().flat_map(|upstream| &upstream.endpoints);
    let endpoints = endpoints.map(|endpoint| endpoint.target.to_string());
    let rules = served.listeners.iter().map(|listener| format!("{:?}", listener.service));
    chains.chain(endpoints).chain(rules).collect()
}

#[test]
fn of_no_pair_of_tenants_one_is_programmed_with_what_is_the_others() {
    let mut cases = 0;
    for own in NAMES {
        for other in NAMES.into_iter().filter(|other| *other != own) {
            let theirs = [
                format!("10.0.{}.", NAMES.iter().position(|name| *name == other).unwrap()),
                format!("of-{other}.example"),
            ];
            for (spec, grants) in
                asking(own, other).iter().flat_map(|spec| [(spec, false), (spec, true)])
            {
                for is_object in [true, false] {
                    let mut world = cluster();
                    if grants {
                        // The other tenant grants all it has: it may not give away more than is the asking tenant's.
                        for (kind, name) in [
                            (Kind::Secret, "shop"),
                            (Kind::ConfigMap, "trust"),
                            (Kind::Service, "pay"),
                        ] {
                            world.grant(kind, (other, name), (Kind::Tenant, own));
                        }
                    }
                    let document = if is_object {
                        tenant_object(own, spec)
                    } else {
                        in_file("f", &text("Tenant", own, spec))
                    };
                    world.put(document);

                    let wanted: Vec<_> = world.store.wanted().cloned().collect();
                    world.compile();

                    let foreign = |reference: &Reference| match reference {
                        Reference::Secret { namespace, .. }
                        | Reference::ConfigMap { namespace, .. }
                        | Reference::Service { namespace, .. } => **namespace != *own,
                        _ => false,
                    };
                    assert!(!wanted.iter().any(foreign), "{own} {spec}\n{wanted:?}");
                    let has = programmed(&world, own);
                    for part in &theirs {
                        assert!(
                            !has.iter().any(|one| one.contains(&**part)),
                            "{own} {spec}\n{has:#?}"
                        );
                    }
                    let listeners = world.tenant(own).map_or(0, |tenant| {
                        tenant.listeners.iter().filter(|one| one.tls().is_some()).count()
                    });
                    assert_eq!(listeners, 0, "{own} {spec}");
                    assert!(!world.reasons(own).is_empty(), "{own} {spec}");
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 1000, "{cases} cases");
}

#[test]
fn what_is_granted_to_a_namespace_is_not_had_by_a_tenant_that_says_it_looks_from_there() {
    let shared = ("durward", "shared");
    for (tenant, expected) in [("globex", Outcome::Accepted), ("acme", Outcome::Rejected)] {
        let mut world = cluster();
        world.tls(shared, &PAIRS[0]);
        world.grant(Kind::Secret, shared, (Kind::Tenant, "globex"));
        let spec = with_certificate("namespace: globex, ", "{secretName: durward/shared}");
        world.put(tenant_object(tenant, &spec));

        world.compile();

        assert_eq!(world.verdict(tenant).outcome, expected, "{:#?}", world.findings(tenant));
    }
}

#[test]
fn a_mapping_in_a_namespace_is_its_tenants_and_has_what_is_its_tenants() {
    let ports = |service: &str| {
        format!("addresses: [198.51.100.7], ports: [{{port: 80, service: {service}}}]")
    };
    for own in NAMES {
        for other in NAMES.into_iter().filter(|other| *other != own) {
            let mut specs = vec![
                format!(
                    "{{tenant: {other}, addresses: [198.51.100.7], endpoints: [10.9.9.9], ports: [{{port: 80}}]}}"
                ),
                format!("{{tenant: {other}, {}}}", ports("{name: pay, port: http}")),
                format!("{{{}}}", ports(&format!("{{name: pay, port: http, namespace: {other}}}"))),
            ];
            for name in spellings(other, "pay") {
                specs.push(format!("{{{}}}", ports(&format!("{{name: \"{name}\", port: http}}"))));
            }
            for spec in specs {
                let mut world = cluster();
                for name in NAMES {
                    world.put(tenant_object(name, "{}"));
                }
                world.grant(Kind::Service, (other, "pay"), (Kind::PortMapping, own));
                world.put(mapping_object((own, "web"), &spec));

                world.compile();

                for mapping in &world.compiled.snapshot.nat.mappings {
                    assert_eq!(mapping.tenant.as_str(), own, "{spec}");
                    let endpoints = format!("{:?}", mapping.ports);
                    assert!(
                        !endpoints.contains("10.0.") && !endpoints.contains("10.9."),
                        "{spec} {endpoints}"
                    );
                }
                assert_ne!(world.verdict("web").outcome, Outcome::Accepted, "{spec}");
            }
        }
    }
}

#[test]
fn a_mapping_in_a_namespace_lets_out_pods_of_its_services_and_no_others() {
    let by_service = "ports: [{port: 80, service: {name: pay, port: http}}]";
    let cases = [
        (by_service, true),
        ("endpoints: [10.66.0.1], ports: [{port: 80}]", false),
        ("ports: [{port: 80, endpoints: [10.66.0.1]}]", false),
        (
            "endpoints: [10.66.0.1], ports: [{port: 81}, {port: 80, service: {name: pay, port: http}}]",
            false,
        ),
    ];
    for (ports, lets_out) in cases {
        let mut world = cluster();
        world.put(tenant_object("acme", "{}"));
        let spec = format!("{{addresses: [198.51.100.7], egress: true, {ports}}}");
        world.put(mapping_object(("acme", "web"), &spec));

        world.compile();

        let reasons = world.reasons("web");
        assert_eq!(reasons, if lets_out { vec![] } else { vec!["EgressUnproven"] }, "{ports}");
        assert_eq!(world.compiled.snapshot.nat.egress.is_empty(), !lets_out, "{ports}");
    }
}

#[test]
fn an_object_in_a_namespace_without_a_label_is_nobodys() {
    let spec =
        "{tenant: acme, addresses: [198.51.100.7], endpoints: [10.0.0.1], ports: [{port: 80}]}";
    for (namespace, fact, words) in [
        ("x", Some(Fact::Labels(BTreeMap::new())), "label the Namespace durward.dev/tenant: NAME"),
        ("x", Some(Fact::Missing), "does not exist"),
        ("x", None, "was not read"),
    ] {
        let mut world = World::new();
        world.put(tenant_object("acme", "{}"));
        world.put(mapping_object((namespace, "web"), spec));
        if let Some(fact) = fact {
            world.say(Reference::Namespace(Arc::from(namespace)), fact);
        }

        world.compile();

        let (reason, field, sentence) = world.findings("web")[0].clone();
        assert_eq!((&*reason, &*field), ("NamespaceWithoutTenant", "metadata.namespace"));
        assert!(sentence.contains(words), "{sentence}");
        assert!(world.compiled.snapshot.nat.mappings.is_empty());
    }
}

#[test]
fn in_the_gateways_own_namespace_a_mapping_says_whose_it_is() {
    let mut world = World::new();
    world.put(tenant_object("acme", "{}"));
    let spec = "addresses: [198.51.100.7], endpoints: [10.0.0.1], ports: [{port: 80}]";
    world.put(mapping_object(("durward", "web"), &format!("{{{spec}}}")));
    world.compile();
    assert_eq!(world.reasons("web"), ["NamespaceWithoutTenant"]);

    world.put(mapping_object(("durward", "web"), &format!("{{tenant: acme, {spec}}}")));
    world.compile();

    assert!(world.compiled.verdicts.all_accepted(), "{:#?}", world.compiled.verdicts);
    assert_eq!(world.compiled.snapshot.nat.mappings[0].tenant.as_str(), "acme");
}
