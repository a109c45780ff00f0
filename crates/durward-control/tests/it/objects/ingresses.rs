//! Ingresses as objects: their routes at the listeners of their tenant that take them, and nothing of another's.

mod forms;

use durward_model::listener::HttpService;
use durward_model::route::{Action, RequestView};
use durward_model::verdict::Outcome;
use durward_model::{Kind, Listener, ResourceId, Route, Service};
use serde_json::{Value, json};

use super::*;

const ALLOWED: &str = "allowedRoutes: {kinds: [Ingress]}";
const ADDRESS: &str = "198.51.100.1";

fn ingress((namespace, name): Name<'_>, metadata: &Value, spec: &Value) -> Document {
    let mut written = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    });
    let more = metadata.as_object().unwrap().clone();
    written["metadata"].as_object_mut().unwrap().extend(more);
    let created = metadata["creationTimestamp"].as_str().map(Arc::from);
    let id = ResourceId::namespaced(Kind::Ingress, namespace, name);
    let file = Arc::from(id.to_string());
    let text = Arc::from(written.to_string());
    let source = document::source(Kind::Ingress, &file, text, 1, Vec::new());
    let content = document::content(&source);
    Document::of_object(id, Revision::default(), created, source, content)
}

/// A rule for a host, with one path that leads to port `http` of a Service.
fn rule(host: &str, path: &str, service: &str) -> Value {
    json!({"host": host, "http": {"paths": [{
        "path": path, "pathType": "Prefix",
        "backend": {"service": {"name": service, "port": {"name": "http"}}},
    }]}})
}

fn rules(rules: &[Value]) -> Value {
    json!({"rules": rules})
}

/// A world with a tenant `acme` that has these entries of `ingress`, and a Service `web`.
fn world(entries: &str) -> World {
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.put(tenant_object(
        "acme",
        &format!("{{ingress: [{entries}], egress: {{addresses: [203.0.113.1]}}}}"),
    ));
    world.service(("acme", "web"), &["10.0.0.11:8080"]);
    world
}

fn http(more: &str) -> String {
    format!("{{address: {ADDRESS}, protocol: HTTP, {ALLOWED}{more}}}")
}

fn listener(world: &World, port: u16) -> Arc<Listener> {
    let tenant = world.tenant("acme").unwrap();
    Arc::clone(tenant.listeners.iter().find(|listener| listener.port == port).unwrap())
}

fn service(listener: &Listener) -> &HttpService {
    match &listener.service {
        Service::Http(service) => service,
        other => panic!("{other:?}"),
    }
}

/// What is done with a request: the upstream, the status, or the scheme of a redirect.
fn done(world: &World, port: u16, host: &str, path: &str) -> String {
    let listener = listener(world, port);
    let headers: Vec<(String, String)> = Vec::new();
    let (client, method) = ("192.0.2.1".parse().unwrap(), "GET");
    let request = RequestView { host, path, method, client, headers: &headers };
    let route: Option<&Route> = service(&listener).routes.select(&request).map(|(_, route)| route);
    let Some(route) = route else { return "none".to_owned() };
    match &route.action {
        Action::Forward(forward) => {
            let at = forward.upstreams[0].upstream.0;
            world.tenant("acme").unwrap().upstreams[at].name.to_string()
        }
        Action::Redirect(redirect) => redirect.scheme.as_deref().unwrap_or("same").to_owned(),
        Action::Respond { status, .. } => status.to_string(),
    }
}

#[test]
fn the_routes_of_an_ingress_are_added_to_the_listeners_that_take_them() {
    let other = "{address: 198.51.100.2, protocol: HTTP, upstream: own}";
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.put(tenant_object(
        "acme",
        &format!(
            "{{ingress: [{}, {other}], upstreams: {{own: {{endpoints: [10.0.0.9]}}}}, egress: {{addresses: [203.0.113.1]}}}}",
            http("")
        ),
    ));
    world.service(("acme", "web"), &["10.0.0.11:8080"]);
    world.service(("acme", "api"), &["10.0.0.12:8080"]);
    let mut spec = rules(&[rule("shop.example", "/", "web"), rule("shop.example", "/api", "api")]);
    spec["defaultBackend"] = json!({"service": {"name": "web", "port": {"name": "http"}}});
    world.put(ingress(("acme", "shop"), &json!({}), &spec));

    world.compile();

    assert_eq!(world.verdict("shop").outcome, Outcome::Accepted, "{:?}", world.findings("shop"));
    assert_eq!(done(&world, 80, "shop.example", "/x"), "service/acme/web:http");
    assert_eq!(done(&world, 80, "shop.example", "/api/x"), "service/acme/api:http");
    assert_eq!(done(&world, 80, "shop.example", "/apix"), "service/acme/web:http");
    assert_eq!(done(&world, 80, "other.example", "/"), "service/acme/web:http");
    let untouched = world.tenant("acme").unwrap().listeners.iter();
    let untouched = untouched.filter(|it| it.address.0.to_string() == "198.51.100.2");
    let routes: Vec<usize> = untouched.map(|it| service(it).routes.len()).collect();
    assert_eq!(routes, [1]);
    let upstream = &world.tenant("acme").unwrap().upstreams;
    let web = upstream.iter().find(|it| &*it.name == "service/acme/web:http").unwrap();
    assert_eq!(web.endpoints[0].target.to_string(), "10.0.0.11:8080");
    assert_eq!(web.sources.len(), 1, "connections leave from the tenant's address");

    // Endpoints come and go with the Service, and the routes with the Ingress.
    world.service(("acme", "api"), &["10.0.0.13:8080"]);
    world.compile();
    let tenant = world.tenant("acme").unwrap();
    let api = tenant.upstreams.iter().find(|it| &*it.name == "service/acme/api:http").unwrap();
    assert_eq!(api.endpoints[0].target.to_string(), "10.0.0.13:8080");
    world.delete(DocumentKey::Object(ResourceId::namespaced(Kind::Ingress, "acme", "shop")));
    world.compile();
    assert_eq!(done(&world, 80, "shop.example", "/x"), "none");
    assert_eq!(world.tenant("acme").unwrap().upstreams.len(), 1, "only the document's own is left");
}

#[test]
fn a_listener_that_takes_ingresses_needs_no_route_and_no_certificate_of_its_own() {
    let https = format!("{{address: {ADDRESS}, {ALLOWED}}}");
    let mut world = world(&format!("{https}, {}", http("")));

    world.compile();

    assert_eq!(world.verdict("acme").outcome, Outcome::Accepted, "{:?}", world.findings("acme"));
    assert_eq!(done(&world, 80, "shop.example", "/"), "none");
    assert!(listener(&world, 443).lacks_certificate(Some("shop.example")));
    for (entry, reason) in [
        (format!("{{address: {ADDRESS}, protocol: TCP, port: 9, {ALLOWED}}}"), "FieldUnfitting"),
        (
            format!("{{address: {ADDRESS}, protocol: HTTP, allowedRoutes: {{kinds: []}}}}"),
            "FieldUnfitting",
        ),
        (format!("{{address: {ADDRESS}, protocol: HTTP}}"), "NoRoute"),
    ] {
        world.put(tenant_object("acme", &format!("{{ingress: [{entry}]}}")));
        world.compile();
        assert!(
            world.reasons("acme").contains(&reason.to_owned()),
            "{entry} {:?}",
            world.findings("acme")
        );
    }
}

#[test]
fn without_a_listener_that_takes_it_an_ingress_is_rejected_and_says_what_the_operator_writes() {
    let own = format!("{{address: {ADDRESS}, protocol: HTTP, upstream: own}}");
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.put(tenant_object(
        "acme",
        &format!(
            "{{ingress: [{own}], upstreams: {{own: {{endpoints: [10.0.0.9]}}}}, egress: {{addresses: [203.0.113.1]}}}}"
        ),
    ));
    world.put(ingress(("acme", "shop"), &json!({}), &rules(&[rule("a.example", "/", "web")])));

    world.compile();

    assert_eq!(world.verdict("shop").outcome, Outcome::Rejected);
    let findings = world.findings("shop");
    let missing = findings.iter().find(|(reason, ..)| reason == "ListenerMissing");
    let (_, _, sentence) = missing.unwrap_or_else(|| panic!("{findings:?}"));
    assert!(sentence.contains("allowedRoutes: {kinds: [Ingress]}"), "{sentence}");
    assert_eq!(done(&world, 80, "a.example", "/"), "own");
}

#[test]
fn the_document_comes_first_then_the_oldest_ingress_whatever_the_order_of_arrival() {
    let entry = format!(
        "{{address: {ADDRESS}, protocol: HTTP, {ALLOWED}, routes: [{{host: own.example, respond: {{status: 204}}}}]}}"
    );
    let spec = |service: &str| {
        rules(&[rule("own.example", "/", service), rule("shop.example", "/", service)])
    };
    let at = |day: u8| json!({"creationTimestamp": format!("2026-11-0{day}T10:00:00Z")});
    let mut digests = BTreeSet::new();
    for turned in [false, true] {
        let mut world = world(&entry);
        world.service(("acme", "api"), &["10.0.0.12:8080"]);
        let mut objects = vec![
            ingress(("acme", "younger"), &at(2), &spec("api")),
            ingress(("acme", "zz-older"), &at(1), &spec("web")),
        ];
        if turned {
            objects.reverse();
        }
        for object in objects {
            world.put(object);
            world.compile();
        }

        assert_eq!(done(&world, 80, "own.example", "/"), "204");
        assert_eq!(done(&world, 80, "shop.example", "/"), "service/acme/web:http");
        assert_eq!(world.reasons("zz-older"), ["PathTaken"]);
        let taken = world.findings("younger");
        assert!(
            taken.iter().any(|(_, _, it)| it.contains("Ingress acme/zz-older has it")),
            "{taken:?}"
        );
        assert_eq!(world.verdict("younger").outcome, Outcome::Rejected, "nothing of it is served");
        digests.insert(format!("{:?}", world.tenant("acme").unwrap()));
    }
    assert_eq!(digests.len(), 1, "the same objects make the same tenant");
}

// S3.27+
#[test]
fn a_secret_is_shown_by_sni_and_plain_http_sends_clients_to_https() {
    let made = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    let pair = (made.cert.pem(), made.signing_key.serialize_pem());
    let https = format!("{{address: {ADDRESS}, {ALLOWED}}}");
    let mut world = world(&format!("{https}, {}", http("")));
    world.tls(("acme", "shop-tls"), &pair);
    let mut spec = rules(&[rule("shop.example", "/", "web"), rule("plain.example", "/", "web")]);
    spec["tls"] = json!([
        {"hosts": ["shop.example"], "secretName": "shop-tls"},
        {"hosts": ["gone.example"], "secretName": "gone"},
    ]);
    world.say(secret(("acme", "gone")), Fact::Missing);
    world.put(ingress(("acme", "shop"), &json!({}), &spec));

    world.compile();

    assert_eq!(done(&world, 443, "shop.example", "/"), "service/acme/web:http");
    assert_eq!(done(&world, 80, "shop.example", "/"), "https");
    assert_eq!(done(&world, 80, "plain.example", "/"), "service/acme/web:http");
    let tls = listener(&world, 443);
    let names: Vec<_> =
        tls.tls().unwrap().certificates.iter().flat_map(|one| one.dns_names.iter()).collect();
    assert_eq!(names.iter().map(|name| &***name).collect::<Vec<_>>(), ["shop.example"]);
    // A Secret that is not there costs its hosts alone.
    assert_eq!(world.verdict("shop").outcome, Outcome::Partial);
    let missing = world.findings("shop").into_iter().find(|(reason, ..)| reason == "SecretMissing");
    let (_, field, sentence) = missing.unwrap();
    assert_eq!(field, "spec.tls[1].secretName");
    assert!(sentence.contains("create it"), "{sentence}");
}

#[test]
fn at_a_shared_address_an_ingress_has_the_names_of_the_listener_and_adds_none() {
    let names = ", shared: true, names: [shop.example, '*.apps.example']";
    let mut world = world(&http(names));
    let hosts = ["shop.example", "a.apps.example", "*.b.apps.example", "bank.example", "*.example"];
    let spec = rules(&hosts.map(|host| rule(host, "/", "web")));
    world.put(ingress(("acme", "shop"), &json!({}), &spec));

    world.compile();

    let shared = listener(&world, 80);
    let held: Vec<String> =
        shared.names.as_ref().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(held, ["shop.example", "*.apps.example"]);
    assert_eq!(service(&shared).routes.len(), 3);
    let refused = world.findings("shop").into_iter().filter(|(reason, ..)| reason == "HostNotHeld");
    let refused: Vec<String> = refused.map(|(_, field, _)| field).collect();
    assert_eq!(refused, ["spec.rules[3].http.paths[0]", "spec.rules[4].http.paths[0]"]);
    assert_eq!(done(&world, 80, "bank.example", "/"), "none");
}

#[test]
fn an_annotation_that_is_not_understood_is_named_and_one_that_keeps_clients_out_closes_the_rules() {
    let mut world = world(&http(""));
    let unknown = "nginx.ingress.kubernetes.io/made-up";
    let auth = "nginx.ingress.kubernetes.io/auth-url";
    let annotated = |name: &str| json!({"annotations": {name: "https://sso.example"}});
    let spec = |host: &str| rules(&[rule(host, "/", "web")]);
    world.put(ingress(("acme", "odd"), &annotated(unknown), &spec("odd.example")));
    world.put(ingress(("acme", "closed"), &annotated(auth), &spec("closed.example")));

    world.compile();

    assert_eq!(done(&world, 80, "odd.example", "/"), "service/acme/web:http");
    let said = world.findings("odd");
    assert_eq!(said[0].0, "AnnotationUnknown");
    assert!(said[0].1.contains(unknown), "{said:?}");
    assert_eq!(done(&world, 80, "closed.example", "/"), "503");
    assert!(world.findings("closed")[0].1.contains(auth));
}

#[test]
fn what_cannot_be_reached_is_answered_503_and_never_by_a_broader_route() {
    let entry = format!("{{address: {ADDRESS}, protocol: HTTP, {ALLOWED}, upstream: own}}");
    let mut world = World::new();
    world.label("acme", Some("acme"));
    world.put(tenant_object(
        "acme",
        &format!(
            "{{ingress: [{entry}], upstreams: {{own: {{endpoints: [10.0.0.9]}}}}, egress: {{addresses: [203.0.113.1]}}}}"
        ),
    ));
    let unread = rules(&[rule("unread.example", "/", "unread")]);
    let bad = json!({"rules": [{"host": "bad.example", "http": {"paths": [{
        "path": "/", "pathType": "Prefix", "backend": {"resource": {"kind": "Bucket", "name": "b"}},
    }]}}]});
    world.put(ingress(("acme", "unread"), &json!({}), &unread));
    world.put(ingress(("acme", "bad"), &json!({}), &bad));

    world.compile();

    assert_eq!(done(&world, 80, "unread.example", "/"), "503");
    assert_eq!(done(&world, 80, "bad.example", "/"), "503");
    assert_eq!(done(&world, 80, "other.example", "/"), "own");

    // A Service that is gone has no endpoints: what it had may be another's.
    world.say(service_of("unread"), Fact::Missing);
    world.compile();
    let tenant = world.tenant("acme").unwrap();
    let gone = tenant.upstreams.iter().find(|it| &*it.name == "service/acme/unread:http").unwrap();
    assert!(gone.endpoints.is_empty());
    assert!(world.reasons("unread").contains(&"ServiceMissing".to_owned()));
}

fn service_of(name: &str) -> Reference {
    let (namespace, name) = (Arc::from("acme"), Arc::from(name));
    Reference::Service { namespace, name, port: Arc::from("http") }
}

#[test]
fn tls_that_is_carried_through_is_a_route_by_name_of_the_listener_for_that() {
    let tls = format!("{{address: {ADDRESS}, protocol: TLS, {ALLOWED}}}");
    let mut world = world(&format!("{tls}, {}", http("")));
    for controller in CONTROLLERS {
        let passed = json!({"annotations": {format!("{controller}/ssl-passthrough"): "true"}});
        let host = format!("{controller}.raw.example");
        world.put(ingress(("acme", controller), &passed, &rules(&[rule(&host, "/", "web")])));
    }
    world.put(ingress(("acme", "web"), &json!({}), &rules(&[rule("web.example", "/", "web")])));

    world.compile();

    let raw = listener(&world, 443);
    let Service::PassThrough(routes) = &raw.service else { panic!("{raw:?}") };
    let hosts: Vec<String> =
        routes.iter().flat_map(|route| &route.hosts).map(ToString::to_string).collect();
    assert_eq!(
        hosts.into_iter().collect::<BTreeSet<_>>(),
        CONTROLLERS.map(|controller| format!("{controller}.raw.example")).into()
    );
    for controller in CONTROLLERS {
        assert_eq!(done(&world, 80, &format!("{controller}.raw.example"), "/"), "https");
        assert_eq!(world.verdict(controller).outcome, Outcome::Accepted);
    }
    assert_eq!(done(&world, 80, "web.example", "/"), "service/acme/web:http");
}

/// At an address of many tenants the names of the listener say which names are the tenant's: the pass-through names of its API servers.
// S4.15+ S4.16+
#[test]
fn at_a_shared_address_only_names_of_the_listener_are_carried_through() {
    let tls = format!(
        "{{address: {ADDRESS}, protocol: TLS, shared: true, names: ['*.api.example'], {ALLOWED}}}"
    );
    for controller in CONTROLLERS {
        let mut world = world(&tls);
        let passed = json!({"annotations": {format!("{controller}/ssl-passthrough"): "true"}});
        let spec =
            rules(&[rule("t1.api.example", "/", "web"), rule("t1.bank.example", "/", "web")]);
        world.put(ingress(("acme", "api"), &passed, &spec));

        world.compile();

        let raw = listener(&world, 443);
        let Service::PassThrough(routes) = &raw.service else { panic!("{raw:?}") };
        let hosts = routes.iter().flat_map(|route| &route.hosts).map(ToString::to_string);
        assert_eq!(hosts.collect::<Vec<_>>(), ["t1.api.example"], "{controller}");
        let reasons = world.reasons("api");
        assert_eq!(reasons.iter().filter(|reason| *reason == "HostNotHeld").count(), 1);
    }
}

/// Prefixes of the annotations of controllers that carry TLS through.
const CONTROLLERS: [&str; 3] =
    ["nginx.ingress.kubernetes.io", "haproxy.org", "haproxy-ingress.github.io"];

#[test]
fn an_ingress_of_a_namespace_that_is_no_tenants_or_the_gateways_own_is_nobodys() {
    let mut world = world(&http(""));
    world.label("lost", None);
    world.label("durward", Some("acme"));
    let spec = rules(&[rule("shop.example", "/", "web")]);
    world.put(ingress(("lost", "lost"), &json!({}), &spec));
    world.put(ingress(("durward", "own"), &json!({}), &spec));

    world.compile();

    assert_eq!(world.reasons("lost"), ["NamespaceWithoutTenant"]);
    assert_eq!(world.reasons("own"), ["NamespaceWithoutTenant"]);
    assert!(world.findings("own")[0].2.contains("namespace of the tenant"));
    assert_eq!(done(&world, 80, "shop.example", "/"), "none");
}

#[test]
fn more_routes_than_a_tenant_may_have_cost_the_youngest_ingress() {
    let mut world = world(&http(""));
    let paths = |count: usize| {
        let path = |at: usize| {
            json!({"path": format!("/{at}"), "pathType": "Exact",
            "backend": {"service": {"name": "web", "port": {"name": "http"}}}})
        };
        let paths: Vec<Value> = (0..count).map(path).collect();
        json!({"rules": [{"host": "shop.example", "http": {"paths": paths}}]})
    };
    let at = |day: u8| json!({"creationTimestamp": format!("2026-11-0{day}T10:00:00Z")});
    world.put(ingress(("acme", "older"), &at(1), &paths(30_000)));
    world.put(ingress(("acme", "younger"), &at(2), &paths(30_000)));

    world.compile();

    assert_eq!(service(&listener(&world, 80)).routes.len(), 30_000);
    assert_eq!(world.reasons("younger"), ["TooMany"]);
    assert_eq!(world.verdict("younger").outcome, Outcome::Rejected);
}

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

/// Ingresses of `own` that ask for what is another's: metadata and spec.
fn asking(own: &str, other: &str) -> Vec<(Value, Value)> {
    let tls_backend = |secret: &str| {
        json!({"annotations": {
            "nginx.ingress.kubernetes.io/backend-protocol": "HTTPS",
            "nginx.ingress.kubernetes.io/proxy-ssl-secret": secret,
        }})
    };
    let to = |service: &str| rules(&[rule("a.example", "/", service)]);
    let mut asked = vec![
        (json!({}), to(&format!("{other}/pay"))),
        (json!({}), to(&format!("pay.{other}"))),
        (json!({}), to(&format!("pay.{other}.svc.cluster.local"))),
        (json!({}), to(&format!("pay-{other}"))),
        (tls_backend(&format!("{other}/shop")), to("pay")),
        (tls_backend("durward/shop"), to("pay")),
        (
            json!({"namespace": own, "labels": {"durward.dev/tenant": other}}),
            to(&format!("pay-{other}")),
        ),
    ];
    let secrets = [
        format!("{other}/shop"),
        format!("../{other}/shop"),
        format!("of-{other}"),
        "nobodys/shop".to_owned(),
    ];
    for secret in secrets {
        let mut spec = to("pay");
        spec["tls"] = json!([{"hosts": ["a.example"], "secretName": secret}]);
        asked.push((json!({}), spec));
    }
    asked
}

/// A cluster in which every tenant has objects of the same names, and listeners that take Ingresses.
fn cluster() -> World {
    let mut world = World::new();
    for (at, name) in TENANTS.into_iter().enumerate() {
        world.label(name, Some(name));
        world.tls((name, "shop"), &PAIRS[at]);
        world.tls((name, &format!("of-{name}")), &PAIRS[at]);
        world.service((name, "pay"), &[&format!("10.0.{at}.1:80")]);
        world.service((name, &format!("pay-{name}")), &[&format!("10.0.{at}.2:80")]);
        let entries = format!(
            "{{address: 198.51.100.{at}, protocol: HTTP, {ALLOWED}}}, {{address: 198.51.100.{at}, {ALLOWED}}}"
        );
        let spec = format!("{{ingress: [{entries}], egress: {{addresses: [203.0.113.{at}]}}}}");
        world.put(tenant_object(name, &spec));
    }
    world
}

/// Returns the upstreams and certificates of a tenant, as text.
fn programmed(world: &World, tenant: &str) -> (String, usize) {
    let tenant = world.tenant(tenant).unwrap();
    let tls = tenant.listeners.iter().filter_map(|listener| listener.tls());
    (format!("{:?}", tenant.upstreams), tls.map(|tls| tls.certificates.len()).sum())
}

#[test]
fn of_no_pair_of_tenants_an_ingress_has_what_is_the_others() {
    let mut cases = 0;
    for own in TENANTS {
        for (at, other) in TENANTS.into_iter().enumerate().filter(|(_, other)| *other != own) {
            let asked = asking(own, other);
            for ((metadata, spec), grants) in
                asked.iter().flat_map(|asked| [(asked, false), (asked, true)])
            {
                let mut world = cluster();
                if grants {
                    // The other tenant may not give away more than is the asking tenant's.
                    world.grant(Kind::Secret, (other, "shop"), (Kind::Ingress, own));
                    world.grant(Kind::Service, (other, "pay"), (Kind::Ingress, own));
                }
                world.put(ingress((own, "asking"), metadata, spec));

                let wanted: Vec<_> = world.store.wanted().cloned().collect();
                world.compile();

                let foreign = |reference: &Reference| match reference {
                    Reference::Secret { namespace, .. } | Reference::Service { namespace, .. } => {
                        **namespace != *own && **namespace != *"durward"
                    }
                    _ => false,
                };
                assert!(!wanted.iter().any(foreign), "{own} {spec} {wanted:?}");
                for name in TENANTS {
                    let (upstreams, certificates) = programmed(&world, name);
                    let theirs = format!("10.0.{at}.");
                    assert!(!upstreams.contains(&theirs), "{own} {metadata} {spec} {upstreams}");
                    assert_eq!(certificates, 0, "{own} {spec}");
                }
                assert!(!world.findings("asking").is_empty(), "{own} {metadata} {spec}");
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 6 * 11 * 2);
}
