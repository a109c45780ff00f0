//! Objects of other controllers that name hosted API servers: in the namespace of a tenant, for names that an entry of the tenant holds.

use durward_control::document::Document;
use durward_model::sni::SniRoute;
use durward_model::verdict::Outcome;
use durward_model::{Kind, ResourceId, Service};
use serde_json::{Value, json};

use super::{Name, World, object, tenant_object};

/// An object as the reader of an API server hands it on.
fn foreign(kind: Kind, (namespace, name): Name<'_>, spec: &Value) -> Document {
    let id = ResourceId::namespaced(kind, namespace, name);
    let text = json!({"apiVersion": "x/v1", "kind": kind.as_str(), "metadata": {"name": name}, "spec": spec});
    object(id, &format!("{text:#}"))
}

fn control_plane(host: &str) -> Value {
    json!({
        "controlPlane": {"ingress": {"hostname": host}},
        "networkProfile": {"port": 6443},
        "addons": {"konnectivity": {}},
    })
}

fn traefik(rule: &str, service: &str) -> Value {
    json!({
        "routes": [{"match": rule, "services": [{"name": service, "port": "http"}]}],
        "tls": {"passthrough": true},
    })
}

/// A Tenant whose entry at the shared address takes API servers of these names.
fn tenant(name: &str, names: &str) -> Document {
    let spec = format!(
        "{{egress: {{addresses: [203.0.113.1]}}, ingress: [{{address: 198.51.100.10, protocol: TLS, shared: true, names: [{names}], acceptHostedApis: true}}]}}"
    );
    tenant_object(
        name,
        &spec.replace("203.0.113.1]", if name == "acme" { "203.0.113.1]" } else { "203.0.113.2]" }),
    )
}

fn world() -> World {
    let mut world = World::new();
    for (name, names) in [
        ("acme", "'*.k8s.acme.example', '*.konnectivity.acme.example'"),
        ("globex", "'*.k8s.globex.example'"),
    ] {
        world.label(name, Some(name));
        world.put(tenant(name, names));
        world.service_port((name, "t1"), "6443", &["10.0.0.11:6443"]);
        world.service_port((name, "t1"), "8132", &["10.0.0.11:8132"]);
        world.service((name, "web"), &["10.0.0.12:8443"]);
    }
    world
}

/// Hosts of the routes of a tenant's listener, each with the endpoints behind it.
fn routes(world: &World, tenant: &str) -> Vec<(String, Vec<String>)> {
    let tenant = world.tenant(tenant).unwrap();
    let [listener] = &tenant.listeners[..] else { panic!("{:#?}", tenant.listeners) };
    let Service::PassThrough(routes) = &listener.service else { panic!("{listener}") };
    let shown = |route: &SniRoute| {
        let hosts: Vec<String> = route.hosts.iter().map(ToString::to_string).collect();
        let upstreams = route.upstreams.iter().map(|choice| &tenant.upstreams[choice.upstream.0]);
        let endpoints = upstreams.flat_map(|upstream| &upstream.endpoints);
        (hosts.join(" "), endpoints.map(|endpoint| endpoint.target.to_string()).collect())
    };
    let mut shown: Vec<_> = routes.iter().map(shown).collect();
    shown.sort();
    shown
}

fn route(host: &str, endpoint: &str) -> (String, Vec<String>) {
    (host.to_owned(), vec![endpoint.to_owned()])
}

// S4.14+ S4.19 S4.25+ S4.47+
#[test]
fn control_planes_and_routes_of_others_are_served_at_the_entry_that_has_their_names() {
    let mut world = world();
    world.put(foreign(
        Kind::StewardControlPlane,
        ("acme", "t1"),
        &control_plane("t1.k8s.acme.example"),
    ));
    world.put(foreign(
        Kind::IngressRouteTcp,
        ("acme", "web"),
        &traefik("HostSNI(`w.k8s.acme.example`)", "web"),
    ));
    let tls_route = json!({"hostnames": ["g.k8s.globex.example"], "rules": [{"backendRefs": [{"name": "t1", "port": 6443}]}]});
    world.put(foreign(Kind::TlsRoute, ("globex", "g"), &tls_route));

    world.compile();

    for name in ["t1", "web", "g"] {
        assert_eq!(world.verdict(name).outcome, Outcome::Accepted, "{:?}", world.findings(name));
    }
    assert_eq!(
        routes(&world, "acme"),
        [
            route("t1.k8s.acme.example", "10.0.0.11:6443"),
            route("t1.konnectivity.acme.example", "10.0.0.11:8132"),
            route("w.k8s.acme.example", "10.0.0.12:8443"),
        ]
    );
    assert_eq!(routes(&world, "globex"), [route("g.k8s.globex.example", "10.0.0.11:6443")]);
    // The names of the listener are those of the Tenant: an object claims none.
    let names: Vec<String> = world.tenant("globex").unwrap().listeners[0]
        .names
        .iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["*.k8s.globex.example"]);
}

#[test]
fn names_of_another_tenant_and_of_nobody_are_not_to_be_had() {
    let mut world = world();
    for (name, rule) in [
        ("foreign", "HostSNI(`t9.k8s.acme.example`)"),
        ("nobodys", "HostSNI(`t1.example`)"),
        ("both", "HostSNI(`a.k8s.globex.example`) || HostSNI(`a.k8s.acme.example`)"),
        ("above", "HostSNI(`k8s.globex.example`)"),
    ] {
        world.put(foreign(Kind::IngressRouteTcp, ("globex", name), &traefik(rule, "web")));
    }
    for (name, rule, reason) in [
        ("everything", "HostSNI(`*`)", "BadHost"),
        ("below", "HostSNI(`*.k8s.globex.example`)", "BadHost"),
        ("address", "HostSNI(`198.51.100.10`)", "BadHost"),
        ("empty", "HostSNI(``)", "BadHost"),
    ] {
        world.put(foreign(Kind::IngressRouteTcp, ("globex", name), &traefik(rule, "web")));
        world.compile();
        assert_eq!(world.reasons(name), [reason], "{rule}");
    }

    world.compile();

    for name in ["foreign", "nobodys", "both", "above"] {
        assert_eq!(world.reasons(name), ["NameNotHeld"], "{:?}", world.findings(name));
        assert_eq!(world.findings(name)[0].1, "spec.routes[0].match");
    }
    assert_eq!(routes(&world, "globex"), []);
    assert_eq!(routes(&world, "acme"), []);
}

// S4.5+
#[test]
fn the_names_that_every_cluster_has_are_left_out_and_the_rest_is_served() {
    let mut world = world();
    let rule = "HostSNI(`t1.k8s.acme.example`) || HostSNI(`kubernetes`) || HostSNI(`kubernetes.default`) || HostSNI(`Kubernetes.default.svc.cluster.local`)";
    world.put(foreign(Kind::IngressRouteTcp, ("acme", "t"), &traefik(rule, "web")));
    world.put(foreign(
        Kind::IngressRouteTcp,
        ("acme", "only"),
        &traefik("HostSNI(`kubernetes.default.svc`)", "web"),
    ));

    world.compile();

    assert_eq!(world.verdict("t").outcome, Outcome::Accepted);
    assert_eq!(world.reasons("t"), ["NameShared"; 3]);
    assert_eq!(world.reasons("only"), ["NameMissing", "NameShared"]);
    assert_eq!(routes(&world, "acme"), [route("t1.k8s.acme.example", "10.0.0.12:8443")]);
}

#[test]
fn an_object_outside_of_a_tenants_namespace_and_one_that_names_anothers_service_are_not_taken() {
    let mut world = world();
    world.label("nobody", None);
    world.service_port(("nobody", "t1"), "6443", &["10.0.0.13:6443"]);
    let plane = control_plane("t1.k8s.acme.example");
    for namespace in ["nobody", "durward"] {
        world.put(foreign(Kind::KamajiControlPlane, (namespace, namespace), &plane));
    }
    let mut across = traefik("HostSNI(`x.k8s.globex.example`)", "web");
    across["routes"][0]["services"][0]["namespace"] = json!("acme");
    world.put(foreign(Kind::IngressRouteTcp, ("globex", "across"), &across));

    world.compile();

    for namespace in ["nobody", "durward"] {
        assert_eq!(world.reasons(namespace), ["NamespaceWithoutTenant"]);
    }
    assert_ne!(world.verdict("across").outcome, Outcome::Accepted);
    assert!(routes(&world, "globex").iter().all(|(_, endpoints)| endpoints.is_empty()));
    assert_eq!(routes(&world, "acme"), []);
}

// S4.5
#[test]
fn of_two_objects_for_one_name_the_older_has_it_and_a_gone_entry_takes_all() {
    let mut world = world();
    let rule = "HostSNI(`t1.k8s.acme.example`)";
    world.put(foreign(Kind::IngressRouteTcp, ("acme", "first"), &traefik(rule, "web")));
    world.compile();
    world.put(foreign(
        Kind::StewardControlPlane,
        ("acme", "t1"),
        &control_plane("t1.k8s.acme.example"),
    ));
    world.compile();
    assert_eq!(world.reasons("t1"), ["SniTaken"], "{:?}", world.findings("t1"));
    assert_eq!(routes(&world, "acme"), [route("t1.k8s.acme.example", "10.0.0.12:8443")]);

    let plain = tenant_object("acme", "{egress: {addresses: [203.0.113.1]}}");
    world.put(plain);
    world.compile();

    assert_eq!(world.reasons("first"), ["ListenerMissing"]);
    assert!(world.tenant("acme").unwrap().listeners.is_empty());
}

// S4.70+
#[test]
fn a_name_that_the_tenant_loses_is_lost_to_its_objects() {
    let mut world = world();
    world.put(foreign(
        Kind::StewardControlPlane,
        ("acme", "t1"),
        &control_plane("t1.k8s.acme.example"),
    ));
    world.compile();
    assert_eq!(routes(&world, "acme").len(), 2);

    world.put(tenant("acme", "'*.konnectivity.acme.example'"));
    world.put(tenant("globex", "'*.k8s.acme.example'"));
    world.compile();

    assert_eq!(world.reasons("t1"), ["NameNotHeld"]);
    assert_eq!(routes(&world, "acme"), []);
}

#[test]
fn a_broken_tenant_document_and_a_broken_object_keep_what_was_served() {
    let mut world = world();
    world.put(foreign(
        Kind::StewardControlPlane,
        ("acme", "t1"),
        &control_plane("t1.k8s.acme.example"),
    ));
    world.compile();
    let served = routes(&world, "acme");

    world.put(foreign(
        Kind::StewardControlPlane,
        ("acme", "t1"),
        &json!({"controlPlane": {"ingress": {"hostname": 7.5}}, "networkProfile": []}),
    ));
    world.compile();
    assert_eq!(world.verdict("t1").outcome, Outcome::KeptLastGood, "{:?}", world.findings("t1"));
    assert_eq!(routes(&world, "acme"), served);

    world.put(foreign(
        Kind::StewardControlPlane,
        ("acme", "t1"),
        &control_plane("t1.k8s.acme.example"),
    ));
    world.put(tenant_object("acme", "{egress: [], ingress: 7}"));
    world.compile();
    assert_eq!(routes(&world, "acme"), served);
    assert_eq!(world.verdict("t1").outcome, Outcome::Accepted, "{:?}", world.findings("t1"));
}

// S4.5+
#[test]
fn a_hosted_api_without_an_address_is_at_the_entry_of_its_tenant() {
    let mut world = world();
    let put = |world: &mut World, name: &str, spec: &str| {
        let id = ResourceId::namespaced(Kind::HostedApi, "acme", name);
        world.put(object(id, &super::text("HostedApi", name, spec)));
    };
    put(
        &mut world,
        "own",
        "{names: [own.k8s.acme.example], upstream: {service: {name: web, port: http}}}",
    );
    put(
        &mut world,
        "others",
        "{names: [x.k8s.globex.example], upstream: {service: {name: web, port: http}}}",
    );
    put(
        &mut world,
        "alone",
        "{names: [y.k8s.acme.example], port: 6443, shared: false, upstream: {service: {name: web, port: http}}}",
    );

    world.compile();

    assert_eq!(world.verdict("own").outcome, Outcome::Accepted, "{:?}", world.findings("own"));
    assert_eq!(world.reasons("others"), ["NameNotHeld"]);
    assert_eq!(world.reasons("alone"), ["FieldUnfitting", "FieldUnfitting"]);
    assert_eq!(routes(&world, "acme"), [route("own.k8s.acme.example", "10.0.0.12:8443")]);
}
