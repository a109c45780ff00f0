//! What objects in the namespaces of a tenant add to it: whose they are, which comes first, and what the operator alone may give.

use super::*;
use durward_control::spec::egress_policy;
use durward_model::Service;
use durward_model::egress::Policy;

const PROXY: &str = "{egress: {addresses: [203.0.113.1], proxy: [{address: 198.51.100.1, allowedSources: [10.0.0.0/8]}], allow: [{host: own.example}]}}";

fn policy_object((namespace, name): Name<'_>, spec: &str) -> Document {
    let id = ResourceId::namespaced(Kind::EgressPolicy, namespace, name);
    object(id, &text("EgressPolicy", name, spec))
}

/// Names of the rules that a tenant's proxy asks, those that allow first.
fn rules(world: &World, tenant: &str) -> Vec<String> {
    let policy = policy(world, tenant);
    policy.allow.iter().chain(&policy.deny).map(|rule| rule.name.to_string()).collect()
}

fn policy(world: &World, tenant: &str) -> Arc<Policy> {
    match &world.tenant(tenant).unwrap().listeners[0].service {
        Service::Forward(service) => Arc::clone(&service.policy),
        other => panic!("{other:?}"),
    }
}

fn world() -> World {
    let mut world = World::new();
    for (namespace, tenant) in [("acme", "acme"), ("web", "acme"), ("globex", "globex")] {
        world.label(namespace, Some(tenant));
    }
    world.put(tenant_object("acme", PROXY));
    world
}

#[test]
fn mappings_of_one_name_in_two_namespaces_of_a_tenant_are_two() {
    let mut world = world();
    let mapping = |port: u16| {
        format!("{{addresses: [198.51.100.9], endpoints: [10.0.0.1], ports: [{{port: {port}}}]}}")
    };
    world.put(mapping_object(("acme", "web"), &mapping(80)));
    world.put(mapping_object(("web", "web"), &mapping(81)));

    let compiled = world.compile();

    assert!(compiled.verdicts.all_accepted(), "{:#?}", compiled.verdicts);
    let names: Vec<&str> = compiled.snapshot.nat.mappings.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["acme/web", "web/web"]);
    // Each is broken and mended by itself.
    let id = ResourceId::namespaced(Kind::PortMapping, "web", "web");
    world.put(object(id.clone(), &text("PortMapping", "web", "{nonsense: 1}")));
    let compiled = world.compile();
    assert_eq!(compiled.snapshot.nat.mappings.len(), 2);
    world.delete(DocumentKey::Object(id));
    let names: Vec<_> =
        world.compile().snapshot.nat.mappings.iter().map(|it| it.name.to_string()).collect();
    assert_eq!(names, ["acme/web"]);
}

#[test]
fn a_policy_is_of_the_tenant_of_its_namespace_and_goes_with_it() {
    let mut world = world();
    world.put(policy_object(("web", "pay"), "{allow: [{name: card, host: card.example}]}"));
    world.put(policy_object(("globex", "pay"), "{allow: [{host: other.example}]}"));

    world.compile();

    assert_eq!(rules(&world, "acme"), ["allow[0]", "web/pay/card"]);
    let verdicts = world.compiled.verdicts.iter();
    let of_globex: Vec<_> = verdicts
        .filter(|verdict| verdict.outcome == Outcome::Rejected)
        .flat_map(|verdict| verdict.findings.iter().map(|one| one.reason.to_string()))
        .collect();
    assert_eq!(of_globex, ["TenantUnknown"], "the tenant of its namespace is not there");

    world.put(tenant_object("globex", &PROXY.replace("100.1", "100.2").replace("113.1", "113.2")));
    world.compile();
    assert_eq!(rules(&world, "globex"), ["allow[0]", "globex/pay/allow[0]"]);
    world.label("web", Some("globex"));
    world.compile();
    assert_eq!(rules(&world, "acme"), ["allow[0]"]);
    assert_eq!(rules(&world, "globex"), ["allow[0]", "globex/pay/allow[0]", "web/pay/card"]);
    world.label("web", None);
    world.compile();
    assert_eq!(rules(&world, "globex"), ["allow[0]", "globex/pay/allow[0]"]);
}

#[test]
fn a_policy_in_a_tenants_namespace_gives_no_network_and_opens_nothing_that_is_guarded() {
    let mut world = world();
    world.put(policy_object(("web", "greedy"), "{sources: [10.244.0.0/16]}"));
    world.put(policy_object(("web", "curious"), "{allow: [{cidr: 169.254.169.254}]}"));
    world.put(policy_object(
        ("durward", "operators"),
        "{tenant: acme, sources: [10.244.1.0/24], allow: [{cidr: 10.1.0.0/16}]}",
    ));
    world.put(policy_object(("durward", "nobodys"), "{sources: [10.244.2.0/24]}"));

    world.compile();

    assert_eq!(world.reasons("greedy"), ["SourcesForeign"]);
    assert_eq!(world.reasons("nobodys"), ["NamespaceWithoutTenant"]);
    assert!(world.findings("operators").is_empty(), "{:?}", world.findings("operators"));
    let sources: Vec<_> =
        world.compiled.snapshot.nat.egress.iter().flat_map(|it| &it.sources).collect();
    assert_eq!(sources, [&"10.244.1.0/24".parse().unwrap()]);
    let opens: Vec<(String, bool)> = policy(&world, "acme")
        .allow
        .iter()
        .map(|rule| (rule.name.to_string(), rule.opens_guarded))
        .collect();
    let expected =
        [("allow[0]", true), ("durward/operators/allow[0]", true), ("web/curious/allow[0]", false)];
    assert_eq!(opens, expected.map(|(name, opens)| (name.to_owned(), opens)));
}

#[test]
fn a_list_of_names_that_is_gone_leaves_its_policy_as_it_was() {
    let mut world = world();
    world.config_map(("web", "partners"), &[("names", "a.example\n")]);
    world.put(policy_object(("web", "pay"), "{allow: [{hostsFile: 'configMap:partners/names'}]}"));
    world.compile();
    assert_eq!(rules(&world, "acme"), ["allow[0]", "web/pay/allow[0]"]);

    world.say(
        Reference::ConfigMap { namespace: Arc::from("web"), name: Arc::from("partners") },
        Fact::Missing,
    );
    world.compile();
    assert_eq!(world.verdict("pay").outcome, Outcome::KeptLastGood);
    assert_eq!(rules(&world, "acme"), ["allow[0]", "web/pay/allow[0]"]);
}

#[test]
fn a_namespace_that_is_isolated_belongs_to_the_tenant_that_its_label_names_and_leaves_by_the_proxy()
{
    let mut world = world();
    let labels = |pairs: &[(&str, &str)]| {
        Fact::Labels(
            pairs.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value))).collect(),
        )
    };
    let reference = || Reference::Namespace(Arc::from("client-a-demo"));
    let isolated = [("tenant", "acme"), ("network/isolation", "egress-proxy")];
    world.say(reference(), labels(&isolated));
    let id = ResourceId::new(Kind::Namespace, "client-a-demo");
    let document = object(id, &egress_policy::of_namespace("client-a-demo", None));
    world.put(document);

    world.compile();
    let all =
        ["allow[0]", "client-a-demo/client-a-demo/names", "client-a-demo/client-a-demo/addresses"];
    assert_eq!(rules(&world, "acme"), all);
    assert!(world.compiled.verdicts.all_accepted(), "{:#?}", world.compiled.verdicts);

    // One label alone says nothing, and our own label comes first.
    world.say(reference(), labels(&isolated[..1]));
    world.compile();
    assert_eq!(rules(&world, "acme"), ["allow[0]"]);
    let both = [isolated[0], isolated[1], (TENANT_LABEL, "globex")];
    world.say(reference(), labels(&both));
    world.compile();
    assert_eq!(rules(&world, "acme"), ["allow[0]"]);
}

#[test]
fn what_a_policy_added_that_is_gone_is_no_loss_of_a_hand_over() {
    use durward_control::compile::retained;
    use durward_control::{FileSource, State};

    let older = || {
        let mut world = world();
        for (name, network) in [("first", "10.244.1.0/24"), ("second", "10.244.2.0/24")] {
            let spec = format!("{{tenant: acme, sources: [{network}]}}");
            world.put(policy_object(("durward", name), &spec));
        }
        world.compile();
        assert!(world.compiled.verdicts.all_accepted(), "{:#?}", world.compiled.verdicts);
        world
    };
    let key = DocumentKey::Object(ResourceId::namespaced(Kind::EgressPolicy, "durward", "first"));
    for is_gone in [true, false] {
        let mut world = older();
        let (served, json) = (world.compiled.served(), world.compiled.state().to_json());
        let state = State::from_json(&json).unwrap();
        let mut younger = world.store.clone();
        younger.apply(Change { deletes: vec![key.clone()], ..Change::default() });
        if is_gone {
            world.delete(key.clone());
        }
        let restored = retained::restore_beside(&state, &FileSource::default(), &younger, NOW);
        let younger = compile(&younger, Some(&restored), NOW);

        let changed = retained::changed_objects(&state, &world.store, None);
        let lost = served.without(&changed).lost_in(&younger.served());

        assert_eq!(lost.is_empty(), is_gone, "{lost:?}");
        assert_eq!(!changed.is_empty(), is_gone, "{changed:?}");
    }
}
