//! Hosted API servers as objects: in the namespace of a tenant, and in the gateway's own.

use durward_model::verdict::Outcome;
use durward_model::{Kind, ResourceId, Service};

use super::{Name, PAIRS, World, object, tenant_object, text};

fn hosted((namespace, name): Name<'_>, spec: &str) -> durward_control::document::Document {
    let id = ResourceId::namespaced(Kind::HostedApi, namespace, name);
    object(id, &text("HostedApi", name, spec))
}

/// Names of the routes of a tenant's first listener.
fn routes(world: &World, tenant: &str) -> Vec<String> {
    let Some(listener) = world.tenant(tenant).unwrap().listeners.first() else { return Vec::new() };
    let Service::PassThrough(routes) = &listener.service else { panic!("{listener}") };
    routes.iter().map(|route| route.hosted.as_ref().unwrap().name.to_string()).collect()
}

// S4.25+
#[test]
fn a_hosted_api_of_a_namespace_follows_its_service_and_its_secrets() {
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.put(tenant_object("acme", "{egress: {addresses: [203.0.113.1]}}"));
    world.tls(("acme", "relay"), &PAIRS[0]);
    world.config_map(("acme", "proxies"), &[("ca.crt", &PAIRS[1].0)]);
    world.service(("acme", "t1"), &["10.0.0.11:6443"]);
    let spec = |more: &str| {
        format!(
            "{{names: [t1.api.example], address: 198.51.100.10, upstream: {{service: {{name: t1, port: http}}}}{more}}}"
        )
    };
    let relay = ", relay: {certificate: {secretName: relay}, clientAuthorities: {caFile: 'configMap:proxies/ca.crt'}}";
    world.put(hosted(("acme", "t1"), &spec(relay)));

    world.compile();
    let findings = world.findings("t1");
    assert_eq!(world.verdict("t1").outcome, Outcome::Accepted, "{findings:?}");
    assert_eq!(routes(&world, "acme"), ["acme/t1"]);
    assert_eq!(world.endpoints("acme"), ["10.0.0.11:6443"]);

    world.service(("acme", "t1"), &["10.0.0.12:6443"]);
    world.compile();
    assert_eq!(world.endpoints("acme"), ["10.0.0.12:6443"]);

    // A broken edit keeps what was served; another object's mistake costs that one alone.
    world.put(hosted(("acme", "t1"), &spec(", idleTimeout: soon")));
    world.put(hosted(("acme", "t2"), "{names: [], address: 198.51.100.10, upstream: {}}"));
    world.compile();
    assert_eq!(world.verdict("t1").outcome, Outcome::KeptLastGood);
    assert_eq!(world.verdict("t2").outcome, Outcome::Rejected);
    assert_eq!(routes(&world, "acme"), ["acme/t1"]);
}

#[test]
fn a_tenant_names_a_service_and_no_address_that_only_the_gateway_reaches() {
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.put(tenant_object("acme", "{egress: {addresses: [203.0.113.1]}}"));
    let spec = |more: &str, endpoint: &str| {
        format!(
            "{{{more}names: [t1.api.example], address: 198.51.100.10, upstream: {{endpoints: ['{endpoint}']}}, konnectivity: {{name: k.example, endpoints: ['{endpoint}']}}}}"
        )
    };

    world.put(hosted(("acme", "t1"), &spec("", "127.0.0.1:9090")));
    world.compile();
    assert_eq!(world.reasons("t1"), ["EndpointsForeign", "EndpointsForeign"]);
    assert_eq!(routes(&world, "acme"), Vec::<String>::new());

    world.put(hosted(("durward", "t3"), &spec("tenant: acme, ", "10.0.0.11:6443")));
    world.compile();
    assert_eq!(world.verdict("t3").outcome, Outcome::Accepted, "{:?}", world.findings("t3"));
    assert_eq!(routes(&world, "acme"), ["durward/t3", "durward/t3/konnectivity"]);
}

#[test]
fn a_fault_of_what_is_meant_for_the_installer_takes_no_api_server_out_of_service() {
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.put(tenant_object("acme", "{egress: {addresses: [203.0.113.1]}}"));
    world.service(("acme", "t1"), &["10.0.0.11:6443"]);
    let spec = "{names: [t1.api.example], address: 198.51.100.10, upstream: {service: {name: t1, port: http}}, \
                kubeconfigSecretName: ../admin, mode: Slice, apiProxy: {certificateSecretName: t1.proxy}}";

    world.put(hosted(("acme", "t1"), spec));
    world.compile();

    assert_eq!(world.verdict("t1").outcome, Outcome::Accepted, "{:?}", world.findings("t1"));
    assert_eq!(world.reasons("t1"), ["BadApiProxy", "BadApiProxy"]);
    assert_eq!(routes(&world, "acme"), ["acme/t1"]);
}

#[test]
fn a_tenant_does_not_say_how_the_gateway_listens_and_follows_its_operator() {
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.put(tenant_object("acme", "{egress: {addresses: [203.0.113.1]}}"));
    world.service(("acme", "t1"), &["10.0.0.11:6443"]);
    let listen =
        "{address: 0.0.0.0, port: 8444, destination: ProxyProtocol, trustedProxies: [0.0.0.0/0]}";
    let spec = |more: &str| {
        format!(
            "{{{more}names: [t1.api.example], address: 198.51.100.10, upstream: {{service: {{name: t1, port: http}}}}}}"
        )
    };
    let bind = |world: &World| world.tenant("acme").unwrap().listeners[0].bind.to_string();

    world.put(hosted(("acme", "t1"), &spec(&format!("listen: {listen}, "))));
    world.compile();
    assert_eq!(world.reasons("t1"), ["ListenForeign"]);
    assert_eq!(routes(&world, "acme"), Vec::<String>::new());

    world.put(hosted(("acme", "t1"), &spec("")));
    world.compile();
    assert_eq!(world.verdict("t1").outcome, Outcome::Accepted, "{:?}", world.findings("t1"));
    assert_eq!(bind(&world), "198.51.100.10:443");

    // The operator puts this address behind a load balancer, and takes that back.
    let entry = "{address: 198.51.100.10, protocol: TLS, shared: true, names: [own.example], \
                 listen: {address: 10.0.0.5, port: 8443, destination: ProxyProtocol, trustedProxies: [10.0.0.0/24]}, \
                 routes: [{host: own.example, upstream: own}]}";
    let behind = format!(
        "{{egress: {{addresses: [203.0.113.1]}}, ingress: [{entry}], upstreams: {{own: {{endpoints: ['10.0.0.9:443']}}}}}}"
    );
    world.put(tenant_object("acme", &behind));
    world.compile();
    assert_eq!(world.verdict("t1").outcome, Outcome::Accepted, "{:?}", world.findings("t1"));
    assert_eq!(bind(&world), "10.0.0.5:8443");

    world.put(tenant_object("acme", "{egress: {addresses: [203.0.113.1]}}"));
    world.compile();
    assert_eq!(bind(&world), "198.51.100.10:443");
}
