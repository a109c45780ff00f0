//! Routes that are written for controllers of others, read back as objects of these controllers: they lead where the `HostedApi` leads.

use std::time::Duration;

use durward_control::document::Content;
use durward_control::spec::publish;
use durward_model::verdict::Outcome;
use durward_model::{Kind, ResourceId, Service};
use serde_json::Value;

use super::{World, document, object, tenant_object, text};

const HOUR: Duration = Duration::from_secs(3_600);
const ENTRY: &str = "{egress: {addresses: [203.0.113.1]}, ingress: [{address: 198.51.100.10, protocol: TLS, shared: true, \
                     names: ['*.k8s.acme.example', '*.konnectivity.acme.example'], acceptHostedApis: true, allowedRoutes: {kinds: [Ingress]}}]}";

fn world() -> World {
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.put(tenant_object("acme", ENTRY));
    world.service_port(("acme", "t1"), "6443", &["10.0.0.11:6443"]);
    world.service_port(("acme", "t1"), "8132", &["10.0.0.11:8132"]);
    world
}

fn spec(publish: &str) -> String {
    format!(
        "{{names: [t1.k8s.acme.example], upstream: {{service: {{name: t1, port: 6443}}}}, \
         konnectivity: {{name: t1.konnectivity.acme.example, service: {{name: t1, port: 8132}}}}, publish: {{{publish}}}}}"
    )
}

/// Returns the objects that are written for a `HostedApi`.
fn written(publish: &str) -> Vec<Value> {
    let text = text("HostedApi", "t1", &spec(publish)).into();
    let source = document::source(Kind::HostedApi, &"f".into(), text, 1, Vec::new());
    let Content::HostedApi(hosted) = document::content(&source) else { panic!("{publish}") };
    publish::objects("t1", &hosted.spec).unwrap()
}

/// Hosts of the tenant's listeners, each with the endpoints behind it.
fn routes(world: &World) -> Vec<(String, String)> {
    let tenant = world.tenant("acme").unwrap();
    let mut shown = Vec::new();
    for listener in &tenant.listeners {
        let Service::PassThrough(routes) = &listener.service else { continue };
        for route in routes.iter() {
            let upstreams =
                route.upstreams.iter().map(|choice| &tenant.upstreams[choice.upstream.0]);
            let endpoints = upstreams.flat_map(|upstream| &upstream.endpoints);
            let endpoints: Vec<String> = endpoints.map(|one| one.target.to_string()).collect();
            shown.extend(route.hosts.iter().map(|host| (host.to_string(), endpoints.join(" "))));
        }
    }
    shown.sort();
    shown
}

/// Time for which a stream to each upstream of the tenant may be silent.
fn idles(world: &World) -> Vec<Option<Duration>> {
    world.tenant("acme").unwrap().upstreams.iter().map(|upstream| upstream.stream_idle).collect()
}

fn read_back(objects: &[Value]) -> World {
    let mut world = world();
    for value in objects {
        let kind = match value["kind"].as_str().unwrap() {
            "IngressRouteTCP" => Kind::IngressRouteTcp,
            "TLSRoute" => Kind::TlsRoute,
            _ => Kind::Ingress,
        };
        let name = value["metadata"]["name"].as_str().unwrap();
        let id = ResourceId::namespaced(kind, "acme", name);
        let mut value = value.clone();
        if kind == Kind::Ingress {
            value["metadata"]["namespace"] = "acme".into();
        }
        world.put(object(id, &value.to_string()));
    }
    world.compile();
    world
}

// S4.14 S4.15 S4.16 S4.18+ S4.25 S4.47+
#[test]
fn what_is_written_for_each_controller_leads_where_the_hosted_api_leads() {
    let mut own = world();
    let id = ResourceId::namespaced(Kind::HostedApi, "acme", "t1");
    own.put(object(id, &text("HostedApi", "t1", &spec("controller: Traefik"))));
    own.compile();
    assert_eq!(own.verdict("t1").outcome, Outcome::Accepted, "{:?}", own.findings("t1"));
    let expected = routes(&own);
    assert_eq!(expected.len(), 2, "API server and konnectivity: {expected:?}");

    for controller in [
        "controller: Traefik",
        "controller: HAProxy",
        "controller: NGINX",
        "controller: TLSRoute, parentRefs: [{name: gateway}]",
    ] {
        let objects = written(controller);

        let world = read_back(&objects);

        for value in &objects {
            let name = value["metadata"]["name"].as_str().unwrap();
            // What the annotation of the backend's protocol says of verification is not for TLS that is passed through.
            let mut reasons = world.reasons(name);
            reasons.retain(|reason| reason != "AlwaysVerified");
            assert_eq!(reasons, Vec::<String>::new(), "{controller}");
            assert!(!value.to_string().contains("HostSNI(`kubernetes"), "{value}");
        }
        assert_eq!(routes(&world), expected, "{controller}");
        // Konnectivity agents say nothing for an hour.
        let is_long = |idle: &Option<Duration>| idle.is_some_and(|idle| idle > HOUR);
        assert!(idles(&world).iter().all(is_long), "{controller}: {:?}", idles(&world));
    }
}

// S4.17
#[test]
fn for_a_generic_controller_the_users_annotations_are_all_there_is() {
    let plain = written("controller: Generic");
    assert!(plain[0]["metadata"].get("annotations").is_none(), "{plain:?}");

    let annotated = written(
        "controller: Generic, annotations: {haproxy-ingress.github.io/ssl-passthrough: 'true'}",
    );

    let annotations = annotated[0]["metadata"]["annotations"].as_object().unwrap();
    assert_eq!(annotations.len(), 1);
    assert_eq!(routes(&read_back(&annotated)).len(), 2);
    assert_eq!(routes(&read_back(&plain)), []);
}
