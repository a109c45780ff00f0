//! Where requests go in a tenant that is made of Ingresses.

use super::{accepted, ending, get, ingress, rule};

#[test]
fn the_oldest_ingress_gets_a_path_whatever_the_order() {
    let aged = |name: &str, created: Option<&str>, service: &str| {
        let spec = format!(
            "{{rules: [{{host: a.example, http: {{paths: [{{path: /x, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]}}}}]}}"
        );
        let mut ingress = ingress(name, "", &spec);
        ingress.metadata.creation_timestamp = created.map(str::to_owned);
        ingress
    };
    let young = aged("a-young", Some("2026-01-02T00:00:00Z"), "young");
    let old = aged("z-old", Some("2020-01-02T00:00:00Z"), "old");
    let unborn = aged("a-unborn", None, "unborn");

    let (merged, compiled) = accepted(&[unborn.clone(), young.clone(), old.clone()]);
    let (_, other) = accepted(&[old, unborn, young]);

    assert_eq!(get(&compiled, "a.example/x/y"), "shop.old.80");
    assert_eq!(get(&other, "a.example/x/y"), "shop.old.80");
    let said: Vec<String> = merged
        .findings
        .iter()
        .map(|(id, finding)| format!("{id} {} {}", finding.reason, finding.field))
        .collect();
    assert_eq!(
        said,
        [
            "shop/a-young PathTaken spec.rules[0].http.paths[0]",
            "shop/a-unborn PathTaken spec.rules[0].http.paths[0]"
        ]
    );
    assert_eq!(merged.upstreams.len(), 1, "only what is used");
}

#[test]
fn requests_go_where_the_rules_say() {
    let spec = format!(
        "{{rules: [{}, {}, {}], defaultBackend: {{service: {{name: api, port: {{number: 80}}}}}}}}",
        rule("a.example", "/x", "{name: web}"),
        rule("*.example", "/", "{number: 8080}"),
        rule("gone.example", "/", "{number: 99}"),
    );

    let (_, compiled) = accepted(&[ingress("web", "", &spec)]);

    for (request, expected) in [
        ("a.example/x", "shop.app.8080"),
        ("a.example/x/y?z", "shop.app.8080"),
        ("b.example/any", "shop.app.8080"),
        ("gone.example/", "503"),
        ("elsewhere.test/", "shop.api.80"),
    ] {
        assert_eq!(get(&compiled, request), expected, "{request}");
    }
    let tenant = compiled.snapshot.tenants.values().next().unwrap();
    let api = tenant.upstreams.iter().find(|one| &*one.name == "shop.api.80").unwrap();
    assert_eq!(format!("{:?}", api.protocol), "Http2", "the Service says h2c");
}

#[test]
fn what_is_refused_does_not_fall_to_a_broader_rule() {
    let wide =
        ingress("wide", "", &format!("{{rules: [{}]}}", rule("a.example", "/", "{number: 8080}")));
    let spec = format!("{{rules: [{}]}}", rule("a.example", "/admin", "{number: 8080}"));
    let guarded = [
        "nginx.ingress.kubernetes.io/auth-url: 'https://auth.example'",
        "nginx.ingress.kubernetes.io/server-snippet: 'deny all;'",
        "nginx.ingress.kubernetes.io/auth-tls-secret: shop/clients",
        "traefik.ingress.kubernetes.io/router.middlewares: shop-login@kubernetescrd",
    ];
    for annotations in guarded {
        let (merged, compiled) = accepted(&[wide.clone(), ingress("admin", annotations, &spec)]);

        assert_eq!(get(&compiled, "a.example/admin/x"), "503", "{annotations}\n{merged:#?}");
        assert_eq!(get(&compiled, "a.example/adminx"), "shop.app.8080", "{annotations}");
    }
}

#[test]
fn clients_outside_the_sources_are_answered_403() {
    let spec = format!("{{rules: [{}]}}", rule("a.example", "/in", "{number: 8080}"));
    let wide = ingress(
        "wide",
        "",
        &format!(
            "{{defaultBackend: {{service: {{name: api, port: {{number: 80}}}}}}, rules: [{}]}}",
            rule("a.example", "/", "{number: 8080}")
        ),
    );
    let annotations = "nginx.ingress.kubernetes.io/whitelist-source-range: 192.0.2.0/24, nginx.ingress.kubernetes.io/denylist-source-range: 192.0.2.66, nginx.ingress.kubernetes.io/enable-cors: 'true', nginx.ingress.kubernetes.io/cors-allow-origin: 'https://b.example'";
    let (_, compiled) = accepted(&[wide, ingress("web", annotations, &spec)]);
    let origin: &[(&str, &str)] = &[("origin", "https://b.example")];
    let asks: &[(&str, &str)] =
        &[("origin", "https://b.example"), ("access-control-request-method", "PUT")];
    for (request, client, headers, expected) in [
        ("GET a.example/in", "192.0.2.9", &[][..], "shop.app.8080"),
        ("GET a.example/in", "192.0.2.9", origin, "shop.app.8080"),
        ("OPTIONS a.example/in", "192.0.2.9", asks, "204"),
        ("GET a.example/in", "192.0.2.66", &[], "403"),
        ("GET a.example/in", "192.0.2.66", origin, "403"),
        ("OPTIONS a.example/in", "192.0.2.66", asks, "403"),
        ("GET a.example/in", "203.0.113.9", &[], "403"),
        ("GET a.example/in", "203.0.113.9", origin, "403"),
        ("GET a.example/out", "203.0.113.9", &[], "shop.app.8080"),
    ] {
        let found = ending(&compiled, request, client, headers);
        assert_eq!(found, expected, "{request} of {client} with {headers:?}");
    }
}

#[test]
fn a_canary_gets_its_part_of_the_same_paths() {
    let spec = |service: &str| {
        format!(
            "{{rules: [{{host: a.example, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]}}}}]}}"
        )
    };
    let canary = "nginx.ingress.kubernetes.io/canary: 'true', nginx.ingress.kubernetes.io/canary-weight: '10', nginx.ingress.kubernetes.io/canary-by-header: x-canary";
    let lost = ingress(
        "lost",
        canary,
        &format!("{{rules: [{}]}}", rule("b.example", "/", "{number: 8080}")),
    );
    // The canary is the older one: age decides among equals only.
    let mut new = ingress("new", canary, &spec("new"));
    new.metadata.creation_timestamp = Some("2019-01-01T00:00:00Z".to_owned());

    let (merged, compiled) = accepted(&[ingress("main", "", &spec("main")), new, lost]);

    let with =
        |value: &str| ending(&compiled, "GET a.example/", "192.0.2.9", &[("x-canary", value)]);
    assert_eq!((&*with("always"), &*with("never")), ("shop.new.80", "shop.main.80"));
    let entry = &merged.ingress[0];
    let weights: Vec<(&str, Option<u32>)> = entry
        .routes
        .iter()
        .flat_map(|route| &route.upstreams)
        .map(|one| (&*one.name.value, one.weight))
        .collect();
    assert_eq!(weights, [("shop.main.80", Some(90)), ("shop.new.80", Some(10))]);
    assert_eq!(get(&compiled, "b.example/"), "no_route", "a canary alone serves nothing");
    let said = merged.findings.iter().map(|(id, finding)| format!("{id} {}", finding.reason));
    assert_eq!(said.collect::<Vec<_>>(), ["shop/lost Canary"]);
}

#[test]
fn a_host_whose_certificate_is_missing_is_not_served_by_plain_http() {
    let spec = format!(
        "{{rules: [{}, {}], tls: [{{hosts: [a.example], secretName: gone}}]}}",
        rule("a.example", "/", "{number: 8080}"),
        rule("b.example", "/", "{number: 8080}"),
    );

    let (merged, compiled) = accepted(&[ingress("web", "", &spec)]);

    assert_eq!(get(&compiled, "a.example/"), "308");
    assert_eq!(get(&compiled, "b.example/"), "shop.app.8080");
    assert_eq!(merged.ingress.len(), 1);
    assert_eq!(merged.findings[0].1.field, "spec.tls[0].secretName");
}

#[test]
fn two_ingresses_that_speak_to_one_port_in_two_ways_have_two_upstreams() {
    let spec = |path: &str| format!("{{rules: [{}]}}", rule("a.example", path, "{number: 8080}"));
    let grpc = "nginx.ingress.kubernetes.io/backend-protocol: GRPC";

    let (merged, compiled) =
        accepted(&[ingress("a", "", &spec("/")), ingress("b", grpc, &spec("/grpc"))]);

    assert_eq!(merged.upstreams.len(), 2);
    assert_ne!(get(&compiled, "a.example/grpc"), get(&compiled, "a.example/"));
}
