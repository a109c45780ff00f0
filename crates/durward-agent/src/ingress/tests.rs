use serde_json::{Value, json};

use super::*;

fn objects(ingresses: &[Value], services: &[Value]) -> Objects {
    let service = |value: &Value| {
        let service: Service = serde_json::from_value(value.clone()).unwrap();
        let name =
            (service.metadata.namespace.as_str().into(), service.metadata.name.as_str().into());
        (name, Arc::new(service))
    };
    Objects {
        ingresses: ingresses
            .iter()
            .map(|value| Arc::new(serde_json::from_value(value.clone()).unwrap()))
            .collect(),
        services: services.iter().map(service).collect(),
        balanced: BTreeMap::new(),
    }
}

fn service(namespace: &str, name: &str, port: u16) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name},
           "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "web", "port": port}]}})
}

fn ingress(name: &str, created: &str, spec: &Value) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "creationTimestamp": created}, "spec": spec})
}

fn path(path: &str, kind: &str, service: &str, port: &Value) -> Value {
    json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": port}}})
}

fn rule(host: &str, paths: &[Value]) -> Value {
    json!({"host": host, "http": {"paths": paths}})
}

fn shown(found: &Found) -> Vec<String> {
    let route = |route: &Route| {
        let exact = if route.exact { "=" } else { "" };
        format!("{exact}{}{} {} {}", route.host, route.path, route.target, route.ingress)
    };
    found.routes.iter().map(route).collect()
}

// S3.25
#[test]
fn the_ingress_of_the_manual_gives_its_host_path_service_and_port() {
    let manual: Value = serde_saphyr::from_str(
        "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: my-app
  namespace: default
spec:
  rules:
    - host: my-app.example.com
      http:
        paths:
          - path: /
            pathType: Prefix
            backend:
              service:
                name: my-app
                port:
                  number: 8080
",
    )
    .unwrap();

    let found = found(&objects(&[manual], &[service("default", "my-app", 8080)]), None);

    assert_eq!(
        shown(&found),
        ["my-app.example.com/ my-app.default.svc.cluster.local:8080 default/my-app"]
    );
    let target = &found.routes[0].target;
    assert_eq!(found.addresses[target].to_string(), "10.96.0.7:8080");
    assert_eq!(found.left_out, []);
}

// S3.27 S3.28+
#[test]
fn hosts_paths_and_ports_of_every_kind_are_read_and_what_cannot_be_carried_is_said() {
    let web = json!({"name": "web"});
    let number = json!({"number": 80});
    let all = ingress(
        "all",
        "2026-01-01T00:00:00Z",
        &json!({
            "ingressClassName": "haproxy",
            "defaultBackend": {"service": {"name": "app", "port": {"number": 80}}},
            "rules": [
                rule("*.wild.example", &[path("/", "Prefix", "app", &web)]),
                rule("a.example", &[
                    path("/x/", "Prefix", "app", &number),
                    path("/x", "Exact", "app", &number),
                    json!({"pathType": "ImplementationSpecific", "backend": {"service": {"name": "app", "port": {"number": 80}}}}),
                ]),
                rule("gone.example", &[path("/", "Prefix", "missing", &number)]),
                rule("port.example", &[path("/", "Prefix", "app", &json!({"number": 81}))]),
                rule("name.example", &[path("/", "Prefix", "outside", &number)]),
                rule("", &[path("/", "Prefix", "app", &number)]),
                {"host": "no-paths.example"},
            ],
        }),
    );
    let outside = json!({"metadata": {"namespace": "shop", "name": "outside"},
                         "spec": {"type": "ExternalName", "externalName": "db.example", "ports": [{"port": 80}]}});

    let found = found(&objects(&[all], &[service("shop", "app", 80), outside]), None);

    let app = "app.shop.svc.cluster.local:80 shop/all";
    let mut routes = shown(&found);
    routes.sort();
    let mut expected = [
        format!("*.wild.example/ {app}"),
        format!("a.example/ {app}"),
        format!("a.example/x {app}"),
        format!("=a.example/x {app}"),
        format!("no-paths.example/ {app}"),
    ];
    expected.sort();
    assert_eq!(routes, expected);
    assert_eq!(found.ingresses, BTreeMap::from([("shop/all".to_owned(), 5)]));
    let said: Vec<&str> = found.left_out.iter().map(|(_, sentence)| sentence.as_str()).collect();
    for word in ["missing", "81", "stands for a host elsewhere", "has no host"] {
        assert!(said.iter().any(|sentence| sentence.contains(word)), "{word}: {said:#?}");
    }
}

#[test]
fn of_two_ingresses_for_one_path_the_older_is_registered_and_a_shared_host_outlives_it() {
    let number = json!({"number": 80});
    let of = |service: &str| json!({"rules": [rule("a.example", &[path("/", "Prefix", service, &number)])]});
    let younger = ingress("a-younger", "2026-02-01T00:00:00Z", &of("other"));
    let older = ingress("older", "2026-01-01T00:00:00Z", &of("app"));
    let services = [service("shop", "app", 80), service("shop", "other", 80)];

    let both = found(&objects(&[younger.clone(), older], &services), None);
    let one = found(&objects(&[younger], &services), None);

    assert_eq!(shown(&both), ["a.example/ app.shop.svc.cluster.local:80 shop/older"]);
    assert!(both.left_out[0].1.contains("an older Ingress"), "{:?}", both.left_out);
    assert_eq!(shown(&one), ["a.example/ other.shop.svc.cluster.local:80 shop/a-younger"]);
}

// S3.66+
#[test]
fn what_an_annotation_restricts_is_not_served_without_the_restriction() {
    let number = json!({"number": 80});
    let with = |name: &str, value: &str| {
        let mut ingress = ingress(
            "a",
            "2026-01-01T00:00:00Z",
            &json!({"rules": [rule("a.example", &[path("/", "Prefix", "app", &number)])]}),
        );
        ingress["metadata"]["annotations"] = json!({name: value});
        found(&objects(&[ingress], &[service("shop", "app", 80)]), None)
    };
    let annotations = [
        ("nginx.ingress.kubernetes.io/whitelist-source-range", "10.0.0.0/8"),
        ("nginx.ingress.kubernetes.io/rewrite-target", "/x"),
        ("nginx.ingress.kubernetes.io/auth-url", "https://auth.example"),
        ("nginx.ingress.kubernetes.io/auth-tls-secret", "shop/ca"),
        ("nginx.ingress.kubernetes.io/backend-protocol", "GRPC"),
        ("nginx.ingress.kubernetes.io/ssl-passthrough", "true"),
        ("nginx.ingress.kubernetes.io/canary", "true"),
    ];
    for (name, value) in annotations {
        let found = with(name, value);
        assert_eq!(shown(&found), [""; 0], "{name}");
        assert!(!found.left_out.is_empty(), "{name}");
    }
    for (name, value) in
        [("nginx.ingress.kubernetes.io/ssl-redirect", "true"), ("example.com/owner", "shop")]
    {
        assert_eq!(with(name, value).routes.len(), 1, "{name}");
    }
}

#[test]
fn no_route_gets_requests_that_a_narrower_rule_would_have_held_back() {
    let number = json!({"number": 80});
    let resource = json!({"path": "/admin", "pathType": "Prefix",
                          "backend": {"resource": {"apiGroup": "x", "kind": "Bucket", "name": "b"}}});
    let spec = json!({"rules": [rule("a.example", &[
        path("/", "Prefix", "app", &number), resource, path("/shop", "Prefix", "app", &number),
        path("/admin/x", "Exact", "app", &number),
    ])]});
    let other = json!({"rules": [rule("b.example", &[path("/", "Prefix", "app", &number)])]});

    let found = found(
        &objects(
            &[
                ingress("a", "2026-01-01T00:00:00Z", &spec),
                ingress("b", "2026-01-01T00:00:00Z", &other),
            ],
            &[service("shop", "app", 80)],
        ),
        None,
    );

    assert_eq!(
        shown(&found),
        [
            "a.example/shop app.shop.svc.cluster.local:80 shop/a",
            "b.example/ app.shop.svc.cluster.local:80 shop/b",
        ]
    );
}

// S3.67+
#[test]
fn hosts_without_tls_and_rules_without_a_host_are_known() {
    let ingress = json!({
        "metadata": {"namespace": "shop", "name": "a"},
        "spec": {
            "rules": [{"host": "a.example"}, {"host": "b.example"}, {"host": "x.w.example"}, {}],
            "tls": [{"hosts": ["A.example", "*.w.example"]}],
        },
    });
    let all = json!({"metadata": {"namespace": "shop", "name": "b"},
        "spec": {"rules": [{"host": "c.example"}], "tls": [{"secretName": "s"}]}});

    let found = hosts(&objects(&[ingress, all], &[]));

    let tls = |at: usize| found[at].hosts.iter().map(|one| one.tls).collect::<Vec<_>>();
    assert_eq!((tls(0), found[0].without_host), (vec![true, false, true], 1));
    assert_eq!((tls(1), found[1].without_host), (vec![true], 0));
    assert_eq!(found[0].ingress, "shop/a");
}

// S3.50 S3.88+ S3.51+
#[test]
fn tls_of_hosts_in_spec_tls_goes_to_the_controller_and_tls_of_backends_is_said_and_not_guessed() {
    let https = json!({"number": 443});
    let spec = json!({
        "tls": [{"hosts": ["secure.example", "*.wild.example"], "secretName": "s"}],
        "rules": [
            rule("secure.example", &[path("/", "Prefix", "app", &https)]),
            rule("x.wild.example", &[path("/", "Prefix", "app", &https)]),
            rule("plain.example", &[path("/", "Prefix", "app", &https)]),
            rule("said.example", &[path("/", "Prefix", "tls", &https)]),
        ],
    });
    let mut said = service("shop", "tls", 443);
    said["spec"]["ports"][0]["appProtocol"] = json!("https");
    let all = objects(
        &[ingress("a", "2026-01-01T00:00:00Z", &spec)],
        &[service("shop", "app", 443), said],
    );
    let controller = (
        "controller.ingress.svc.cluster.local:443".parse().unwrap(),
        "10.96.0.9:443".parse().unwrap(),
    );

    let without = found(&all, None);
    let with = found(&all, Some(&controller));

    assert!(without.routes.iter().all(|route| !route.passthrough));
    let carried: Vec<&str> = with
        .routes
        .iter()
        .filter(|route| route.passthrough)
        .map(|route| route.host.as_str())
        .collect();
    assert_eq!(carried, ["secure.example", "x.wild.example"]);
    assert_eq!(with.addresses[&controller.0], controller.1);
    // Port 443 alone says nothing.
    let tls: Vec<_> = with
        .routes
        .iter()
        .filter_map(|route| Some((route.host.as_str(), route.backend_tls.as_deref()?)))
        .collect();
    assert_eq!(tls, [("said.example", "tls.shop.svc.cluster.local")]);

    let mut annotated = ingress(
        "b",
        "2026-01-01T00:00:00Z",
        &json!({"rules": [rule("b.example", &[path("/", "Prefix", "app", &https)])]}),
    );
    annotated["metadata"]["annotations"] = json!({
        "nginx.ingress.kubernetes.io/backend-protocol": "HTTPS",
        "nginx.ingress.kubernetes.io/proxy-ssl-name": "app.internal",
    });
    let found = found(&objects(&[annotated], &[service("shop", "app", 443)]), None);
    assert_eq!(
        found.routes[0].backend_tls.as_deref(),
        Some("app.internal"),
        "{:?}",
        found.left_out
    );
}

// S3.7+ S3.68+
#[test]
fn one_ingress_may_keep_its_requests_to_the_link() {
    let number = json!({"number": 80});
    let mut one = ingress(
        "a",
        "2026-01-01T00:00:00Z",
        &json!({"rules": [rule("a.example", &[path("/", "Prefix", "app", &number)])]}),
    );
    for (name, value, expected) in [
        ("durward.dev/routing-mode", "tunnel", true),
        ("pipeops.io/routing-mode", "tunnel", true),
        ("pipeops.io/routing-mode", "direct", false),
        ("example.com/other", "tunnel", false),
    ] {
        one["metadata"]["annotations"] = json!({name: value});
        let found = found(&objects(&[one.clone()], &[service("shop", "app", 80)]), None);
        assert_eq!(found.routes[0].tunnel_only, expected, "{name}: {value}");
    }
}

#[test]
fn an_ingress_that_is_no_route_of_the_link_is_left_out_in_silence() {
    let with = |name: &str, written: Option<&str>| {
        let host = format!("{name}.example");
        let paths = [path("/", "Prefix", "app", &json!({"number": 80}))];
        let mut one =
            ingress(name, "2026-01-01T00:00:00Z", &json!({"rules": [rule(&host, &paths)]}));
        if let Some(written) = written {
            one["metadata"]["annotations"] = json!({"durward.dev/register": written});
        }
        one
    };
    let ingresses = [with("a", None), with("b", Some("false")), with("c", Some("true"))];

    let found = found(&objects(&ingresses, &[service("shop", "app", 80)]), None);

    let hosts: Vec<&str> = found.routes.iter().map(|route| route.host.as_str()).collect();
    assert_eq!((hosts, found.left_out), (vec!["a.example", "c.example"], Vec::new()));
}

// S3.79+
#[test]
fn ports_of_services_are_reached_where_the_service_says_so_and_nowhere_else() {
    let of = |name: &str, annotations: &Value, spec: &Value| json!({"metadata": {"namespace": "net", "name": name, "annotations": annotations}, "spec": spec});
    let ports =
        json!([{"port": 53, "protocol": "UDP"}, {"port": 53}, {"port": 99, "protocol": "SCTP"}]);
    let asked = json!({"durward.dev/register": "true"});
    let services = [
        of("dns", &asked, &json!({"clusterIP": "10.96.0.10", "ports": ports})),
        of("headless", &asked, &json!({"clusterIP": "None", "ports": [{"port": 5432}]})),
        of("silent", &json!({}), &json!({"clusterIP": "10.96.0.11", "ports": ports})),
        of("refusing", &json!({"durward.dev/register": "false"}), &json!({"ports": ports})),
        of("away", &asked, &json!({"type": "ExternalName", "ports": ports})),
    ];

    let found = found(&objects(&[], &services), None);

    let target = |text: &str| text.parse::<Target>().unwrap();
    let dns = target("dns.net.svc.cluster.local:53");
    let headless = target("headless.net.svc.cluster.local:5432");
    let expected = [(Kind::Tcp, dns.clone()), (Kind::Udp, dns.clone()), (Kind::Tcp, headless)];
    assert_eq!(found.services, expected.into());
    assert_eq!(found.addresses, [(dns, "10.96.0.10:53".parse().unwrap())].into());
    let left_out: Vec<_> = found.left_out.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(left_out, ["Service net/away", "Service net/dns"]);
}
