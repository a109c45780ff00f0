//! Ingresses of three controllers become documents that compile and that route as the Ingresses say.

use std::net::{IpAddr, SocketAddr};

use durward_control::{Compiled, FileSource, compile};
use durward_migrate::ingress::{IngressFault, IngressOptions, migrate};
use durward_migrate::{Effect, Migrated};
use durward_model::explain::{Ending, Question, Shown, explain};
use durward_model::transport::Transport;
use durward_testkit::certificates::{Authority, CertSpec};

use crate::NOW;

const CLUSTER: &str = include_str!("../fixtures/cluster.yaml");
const ADDRESS: &str = "198.51.100.2";
const PASSED: &str = "198.51.100.3";

fn options(tenant: Option<&str>) -> IngressOptions {
    IngressOptions {
        address: ADDRESS.parse().unwrap(),
        passthrough: Some(PASSED.parse().unwrap()),
        egress: vec!["203.0.113.2".parse().unwrap()],
        tenant: tenant.map(str::to_owned),
        class: None,
    }
}

fn of(text: &str, options: &IngressOptions) -> Migrated {
    migrate(&[("cluster.yaml".to_owned(), text.to_owned())], options).unwrap()
}

/// Compiles the documents beside the files that the notes ask for.
fn compiled(migrated: &Migrated) -> Compiled {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in &migrated.documents {
        std::fs::write(directory.path().join(format!("{name}.yaml")), text).unwrap();
    }
    let certs = directory.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    let authority = Authority::new("test");
    for (secret, names) in [
        ("shop.shop-tls", &["shop.example.com", "*.shop.example.com"][..]),
        ("blog.blog-tls", &["blog.example.com"]),
    ] {
        let spec = names.iter().fold(CertSpec::new(), |spec, name| spec.dns(name));
        authority.issue(&spec).write(&certs, secret);
    }
    let compiled = compile(&FileSource::default().load(&[directory.path().to_owned()]), None, NOW);
    assert!(
        compiled.verdicts.all_accepted(),
        "{:#?}\n{:#?}",
        compiled.verdicts,
        migrated.documents
    );
    compiled
}

/// What becomes of a request for a URL: an upstream's name, a status, or a reason.
fn get(compiled: &Compiled, url: &str, client: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let port = if scheme == "https" { 443 } else { 80 };
    let address: IpAddr =
        if host == "bank.example.com" { PASSED } else { ADDRESS }.parse().unwrap();
    let question = Question {
        client: Some(client.parse().unwrap()),
        destination: SocketAddr::new(address, port),
        transport: Transport::Tcp,
        sni: (port == 443).then(|| host.to_owned()),
        host: Some(host.to_owned()),
        path: path.to_owned(),
        method: "GET".to_owned(),
        headers: Vec::new(),
        client_certificate: Shown::Nothing,
        credential: Shown::Nothing,
        resolved: None,
    };
    match explain(&compiled.snapshot, &question).ending {
        Ending::Served { upstream } | Ending::ServedIf { upstream, .. } => upstream.to_string(),
        Ending::Answered { status } => status.to_string(),
        Ending::Refused { reason } => reason.to_string(),
    }
}

/// What each Ingress asks for, in either layout of tenants.
const REQUESTS: [(&str, &str, &str); 14] = [
    ("https://shop.example.com/", "192.0.2.9", "shop.web.80"),
    ("https://a.shop.example.com/x", "192.0.2.9", "shop.web.80"),
    ("https://shop.example.com/statuses", "192.0.2.9", "shop.web.80"),
    ("https://shop.example.com/api/x", "192.0.2.9", "shop.api.443"),
    ("https://shop.example.com/api/x", "203.0.113.9", "403"),
    ("https://shop.example.com/admin/x", "192.0.2.9", "503"),
    ("https://blog.example.com/blog/1", "192.0.2.9", "blog.blog.80"),
    ("https://blog.example.com/other", "192.0.2.9", "no_route"),
    ("https://bank.example.com/", "192.0.2.9", "pay.bank.8443"),
    ("http://shop.example.com/", "192.0.2.9", "308"),
    ("http://a.shop.example.com/x", "192.0.2.9", "308"),
    ("http://shop.example.com/api", "192.0.2.9", "shop.api.443"),
    ("http://shop.example.com/api", "203.0.113.9", "403"),
    ("http://bank.example.com/", "192.0.2.9", "308"),
];

#[test]
fn one_tenant_routes_as_the_ingresses_say() {
    let migrated = of(CLUSTER, &options(Some("platform")));

    let compiled = compiled(&migrated);

    assert_eq!(migrated.documents.len(), 1);
    for (url, client, expected) in REQUESTS {
        assert_eq!(get(&compiled, url, client), expected, "{url} of {client}");
    }
    let tenant = compiled.snapshot.tenants.values().next().unwrap();
    let upstream = |name: &str| tenant.upstreams.iter().find(|one| &*one.name == name).unwrap();
    let endpoints = |name: &str| {
        let endpoints = upstream(name).endpoints.iter();
        endpoints.map(|one| one.target.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(endpoints("shop.web.80"), ["10.244.1.5:8080", "10.244.2.6:8080"]);
    assert_eq!(endpoints("shop.status.9000"), ["status.example.net:9000"]);
    assert_eq!(endpoints("blog.blog.80"), ["blog.blog.svc.cluster.local:80"]);
    assert!(upstream("shop.api.443").tls.is_some(), "the Service says https");
}

#[test]
fn a_tenant_per_namespace_routes_the_same() {
    let migrated = of(CLUSTER, &options(None));

    let compiled = compiled(&migrated);

    let names: Vec<&str> = migrated.documents.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["blog", "pay", "shop"]);
    for (url, client, expected) in REQUESTS {
        assert_eq!(get(&compiled, url, client), expected, "{url} of {client}");
    }
    assert_eq!(get(&compiled, "https://elsewhere.example/", "192.0.2.9"), "unknown_name");
}

#[test]
fn the_document_is_short_enough_to_be_read() {
    let migrated = of(CLUSTER, &options(Some("platform")));

    insta::assert_snapshot!(migrated.documents[0].1, @r#"
    apiVersion: durward.dev/v1alpha1
    kind: Tenant
    metadata: {name: platform}
    spec:
      ingress:
        - address: "198.51.100.2"
          protocol: HTTP
          routes:
            - {host: shop.example.com, path: /status, redirect: {scheme: https}}
            - {host: shop.example.com, pathPrefix: /admin, redirect: {scheme: https}}
            - {host: blog.example.com, pathPrefix: /blog, redirect: {scheme: https}}
            - {host: shop.example.com, pathPrefix: /api, rewrite: {pathPrefix: /v1}, sources: [192.0.2.0/24], upstream: shop.api.443}
            - {host: shop.example.com, pathPrefix: /api, respond: {status: 403}}
            - {host: shop.example.com, pathPrefix: /, redirect: {scheme: https}}
            - {host: "*.shop.example.com", pathPrefix: /, redirect: {scheme: https}}
        - address: "198.51.100.2"
          certificates:
            - file: certs/blog.blog-tls
            - file: certs/shop.shop-tls
          ipSan: Warn
          protocol: HTTPS
          routes:
            - {host: shop.example.com, path: /status, upstreams: [{name: shop.status.9000, weight: 90}, {name: shop.web.80, weight: 10}]}
            - {host: shop.example.com, pathPrefix: /admin, respond: {status: 503}}
            - {host: blog.example.com, pathPrefix: /blog, upstream: blog.blog.80}
            - {host: shop.example.com, pathPrefix: /api, rewrite: {pathPrefix: /v1}, sources: [192.0.2.0/24], upstream: shop.api.443}
            - {host: shop.example.com, pathPrefix: /api, respond: {status: 403}}
            - {host: shop.example.com, pathPrefix: /, upstream: shop.web.80}
            - {host: "*.shop.example.com", pathPrefix: /, upstream: shop.web.80}
        - address: "198.51.100.3"
          protocol: HTTP
          routes:
            - {host: bank.example.com, pathPrefix: /, redirect: {scheme: https}}
        - address: "198.51.100.3"
          protocol: TLS
          routes:
            - {host: bank.example.com, upstream: pay.bank.8443}
      upstreams:
        blog.blog.80: {endpoints: [blog.blog.svc.cluster.local:80]}
        pay.bank.8443: {endpoints: [10.244.3.3:8443], protocol: TCP}
        shop.api.443: {endpoints: [10.244.1.9:8443], tls: {verifyName: api.shop.svc}}
        shop.status.9000: {endpoints: [status.example.net:9000]}
        shop.web.80: {endpoints: [10.244.1.5:8080, 10.244.2.6:8080]}
      egress: {addresses: ["203.0.113.2"]}
      limits:
        bodyBytes: 8MiB
        timeouts:
          response: 120s
    "#);
}

#[test]
fn each_difference_is_a_note_with_object_and_annotation() {
    let migrated = of(CLUSTER, &options(Some("platform")));

    let notes: Vec<String> = migrated.notes.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(notes.join("\n"), @r#"
    cluster.yaml:1: note: shop/web: metadata.annotations["nginx.ingress.kubernetes.io/proxy-body-size"] is a limit of the whole tenant here: the most generous of its Ingresses counts
    cluster.yaml:1: note: shop/web: metadata.annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"] is a limit of the whole tenant here: the most generous of its Ingresses counts
    cluster.yaml:1: wider: shop/api: metadata.annotations["nginx.ingress.kubernetes.io/limit-rps"] has no equal: limits are a tenant's, in spec.limits
    cluster.yaml:1: note: shop/api: metadata.annotations["nginx.ingress.kubernetes.io/rewrite-target"] is put in place of the path that matched: what lies below it is kept, where NGINX drops it
    cluster.yaml:1: note: shop/api: spec.rules[0].http.paths[0].backend is spoken to by TLS, as the Service's appProtocol says, and verified with the host's own authorities: name another with proxy-ssl-secret or server-ca
    cluster.yaml:1: narrower: shop/admin: metadata.annotations["nginx.ingress.kubernetes.io/auth-secret"] is authentication, which is not done here: the rules are not served, their requests are answered 503
    cluster.yaml:1: narrower: shop/admin: metadata.annotations["nginx.ingress.kubernetes.io/auth-type"] is authentication, which is not done here: the rules are not served, their requests are answered 503
    cluster.yaml:1: note: pay/bank: metadata.annotations["haproxy.org/check"] has no equal here and needs none
    cluster.yaml:1: note: blog/blog: metadata.annotations["traefik.ingress.kubernetes.io/router.middlewares"] names "blog-strip-blog@kubernetescrd" with stripPrefix, which is not done here
    cluster.yaml:1: note: shop/web: spec.rules[1].http.paths[0] is for all names below shop.example.com, of any number of labels, where the Ingress API has one label
    cluster.yaml:1: note: Secret blog/blog-tls (it is not among the objects): write its tls.crt to certs/blog.blog-tls.crt and its tls.key to certs/blog.blog-tls.key beside the document, as kubectl get secret -n blog blog-tls -o yaml has them in base64
    cluster.yaml:1: note: Secret shop/shop-tls: write its tls.crt to certs/shop.shop-tls.crt and its tls.key to certs/shop.shop-tls.key beside the document, as kubectl get secret -n shop shop-tls -o yaml has them in base64
    "#);
}

#[test]
fn a_host_of_two_namespaces_is_the_older_ones() {
    let text = "
apiVersion: networking.k8s.io/v1
kind: IngressList
items:
- {metadata: {name: a, namespace: young, creationTimestamp: '2025-01-01T00:00:00Z'}, spec: {rules: [{host: x.example, http: {paths: [{path: /y, pathType: Prefix, backend: {service: {name: yonder, port: {number: 80}}}}]}}]}}
- {metadata: {name: b, namespace: old, creationTimestamp: '2020-01-01T00:00:00Z'}, spec: {rules: [{host: x.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: o, port: {number: 80}}}}]}}]}}
";
    let migrated = of(text, &options(None));
    let together = of(text, &options(Some("all")));

    assert_eq!(get(&compiled(&migrated), "http://x.example/y", "192.0.2.9"), "old.o.80");
    assert_eq!(get(&compiled(&together), "http://x.example/y", "192.0.2.9"), "young.yonder.80");
    let said = migrated.notes.iter().find(|note| note.text.contains("young/a")).unwrap();
    assert_eq!(said.effect, Effect::Narrower);
    assert!(said.text.contains("x.example is served for tenant old"), "{said}");
    assert!(together.notes.is_empty(), "{:#?}", together.notes);
}

#[test]
fn no_key_is_written_and_each_secret_is_named_with_its_files() {
    for tenant in [None, Some("platform")] {
        let migrated = of(CLUSTER, &options(tenant));

        let all = format!("{migrated:?}");
        assert!(!all.contains("TkVWRVIt") && !all.contains("NEVER-PRINTED"), "{all}");
        assert!(migrated.files.is_empty());
        let said: Vec<&str> = migrated
            .notes
            .iter()
            .map(|note| &*note.text)
            .filter(|text| text.starts_with("Secret "))
            .collect();
        assert_eq!(
            said,
            [
                "Secret blog/blog-tls (it is not among the objects): write its tls.crt to certs/blog.blog-tls.crt and its tls.key to certs/blog.blog-tls.key beside the document, as kubectl get secret -n blog blog-tls -o yaml has them in base64",
                "Secret shop/shop-tls: write its tls.crt to certs/shop.shop-tls.crt and its tls.key to certs/shop.shop-tls.key beside the document, as kubectl get secret -n shop shop-tls -o yaml has them in base64",
            ]
        );
    }
}

#[test]
fn one_class_alone_can_be_taken() {
    let only = IngressOptions { class: Some("haproxy".to_owned()), ..options(None) };
    let none = IngressOptions { class: Some("other".to_owned()), ..options(None) };

    let migrated = of(CLUSTER, &only);

    assert_eq!(migrated.documents.len(), 1);
    assert_eq!(migrated.documents[0].0, "pay");
    let texts = [("x".to_owned(), CLUSTER.to_owned())];
    let of = "of class \"other\"".to_owned();
    assert_eq!(migrate(&texts, &none).unwrap_err(), IngressFault::NoIngress { of });
}

#[test]
fn objects_that_cannot_be_read_cost_no_other() {
    let text = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: bad}
spec: {rules: 7}
---
apiVersion: extensions/v1beta1
kind: Ingress
metadata: {name: old}
---
{\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"Ingress\", \"metadata\": {\"name\": \"good\"}, \"spec\": {\"defaultBackend\": {\"service\": {\"name\": \"app\", \"port\": {\"number\": 80}}}}}
";
    let migrated = of(text, &options(None));

    assert_eq!(get(&compiled(&migrated), "http://any.example/", "192.0.2.9"), "default.app.80");
    let said: Vec<String> = migrated.notes.iter().map(ToString::to_string).collect();
    assert!(
        said[0].starts_with("cluster.yaml:1: narrower: Ingress bad cannot be read"),
        "{said:?}"
    );
    assert!(
        said[1].contains("default/old: apiVersion \"extensions/v1beta1\" is not read"),
        "{said:?}"
    );
}

#[test]
fn names_that_a_terminal_would_act_on_are_escaped() {
    let text = "{\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"Ingress\", \"metadata\": {\"name\": \"a\\u001b[31m\\nwider: b\"}, \"spec\": {}}";

    let migrated = of(text, &options(None));

    let said: Vec<String> = migrated.notes.iter().map(ToString::to_string).collect();
    assert!(
        !said.is_empty() && said.iter().all(|one| !one.chars().any(char::is_control)),
        "{said:?}"
    );
    assert!(said[0].contains("\\u{1b}[31m\\nwider: b"), "{said:?}");
}

#[test]
fn what_lets_more_in_is_wider() {
    let migrated = of(CLUSTER, &options(None));

    let wider: Vec<&str> = migrated
        .notes
        .iter()
        .filter(|note| note.effect == Effect::Wider)
        .map(|note| &*note.text)
        .collect();
    assert_eq!(wider.len(), 1, "{wider:?}");
    assert!(wider[0].contains("nginx.ingress.kubernetes.io/limit-rps"), "{wider:?}");
}
