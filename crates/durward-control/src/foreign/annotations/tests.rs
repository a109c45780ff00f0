//! The table of annotations: each becomes a setting, or a finding with its name.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::foreign::asked::{BackendProtocol, Canary, RedirectTo};
use crate::foreign::finding::Finding;

const CORS: &str = "nginx.ingress.kubernetes.io/enable-cors";

/// Reads annotations of an Ingress of namespace `shop`, where two middlewares are known.
fn settings(annotations: &[(&str, &str)]) -> (Settings, Vec<Finding>) {
    let annotations: BTreeMap<String, String> =
        annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let metadata = Metadata { namespace: "shop".to_owned(), annotations, ..Metadata::default() };
    let middleware = |namespace: &str, name: &str| match (namespace, name) {
        ("shop", "strip-api") => Some(vec!["stripPrefix".to_owned()]),
        ("shop", "login") => Some(vec!["forwardAuth".to_owned()]),
        _ => None,
    };
    let around = Surroundings { classes: &[], service: &|_, _| None, middleware: &middleware };
    let mut findings = Findings::default();
    let settings = read(&metadata, around, &mut findings);
    (settings, findings.into_vec())
}

fn nginx(key: &str) -> String {
    format!("{NGINX}{key}")
}

fn secret(name: &str) -> Option<SecretRef> {
    Some(SecretRef { namespace: Arc::from("shop"), name: Arc::from(name) })
}

#[test]
fn annotations_that_have_an_equal_become_settings() {
    type Check = fn(&Settings) -> bool;
    let cases: &[(&str, &str, Check)] = &[
        ("rewrite-target", "/v1", |s| s.rewrite_path.as_deref() == Some("/v1")),
        ("ssl-redirect", "false", |s| s.to_https == ToHttps::Never),
        ("ssl-redirect", "true", |s| s.to_https == ToHttps::WithTls),
        ("force-ssl-redirect", "true", |s| s.to_https == ToHttps::Always),
        ("ssl-passthrough", "true", |s| s.passthrough),
        ("backend-protocol", "HTTPS", |s| s.protocol == Some(BackendProtocol::Https)),
        ("backend-protocol", "GRPC", |s| s.protocol == Some(BackendProtocol::H2c)),
        ("backend-protocol", "GRPCS", |s| s.protocol == Some(BackendProtocol::H2)),
        ("proxy-ssl-secret", "shop/ca", |s| {
            s.backend_tls.authorities == secret("ca")
                && s.backend_tls.client_certificate == secret("ca")
        }),
        ("proxy-ssl-name", "pay.internal", |s| {
            s.backend_tls.name.as_deref() == Some("pay.internal")
        }),
        ("proxy-body-size", "8m", |s| s.limits.body == Some(8 << 20)),
        ("proxy-body-size", "0", |s| s.limits.body == Some(0)),
        ("proxy-connect-timeout", "7", |s| s.limits.connect == Some(Duration::from_secs(7))),
        ("proxy-read-timeout", "3600", |s| s.limits.read == Some(Duration::from_secs(3600))),
        ("proxy-send-timeout", "60s", |s| s.limits.send == Some(Duration::from_secs(60))),
        ("whitelist-source-range", "192.0.2.0/24, 2001:db8::1", |s| {
            s.sources == Some(vec!["192.0.2.0/24".to_owned(), "2001:db8::1/128".to_owned()])
        }),
        ("denylist-source-range", "192.0.2.9", |s| s.denied_sources == ["192.0.2.9/32"]),
        ("auth-tls-secret", "shop/clients", |s| {
            s.client_certificates
                .as_ref()
                .is_some_and(|c| !c.is_optional && Some(&c.secret) == secret("clients").as_ref())
        }),
        ("canary", "true", |s| s.canary == Some(Canary { total: 100, ..Canary::default() })),
        ("enable-cors", "true", |s| s.cors.as_ref().is_some_and(|cors| cors.origins.is_empty())),
        ("upstream-vhost", "app.internal:8080", |s| {
            s.rewrite_host.as_deref() == Some("app.internal:8080")
        }),
        ("app-root", "/start", |s| s.app_root.as_deref() == Some("/start")),
        ("permanent-redirect", "https://new.example/", |s| {
            s.redirect.as_ref().map(|to| to.status) == Some(301)
        }),
        ("temporal-redirect", "/later", |s| {
            s.redirect
                == Some(RedirectTo {
                    status: 302,
                    path: Some("/later".into()),
                    ..RedirectTo::default()
                })
        }),
        ("upstream-hash-by", "$binary_remote_addr", |s| s.by_client),
    ];
    for (key, value, check) in cases {
        let (settings, findings) = settings(&[(&nginx(key), value)]);

        assert!(check(&settings) && !settings.is_refused, "{key}: {value}\n{settings:#?}");
        let bad = findings.iter().find(|one| one.effect < Effect::Otherwise);
        assert_eq!(bad, None, "{key}: {value}");
    }
    let others: &[(&str, &str, Check)] = &[
        ("haproxy.org/ssl-passthrough", "true", |s| s.passthrough),
        ("haproxy-ingress.github.io/ssl-passthrough", "true", |s| s.passthrough),
        ("haproxy.org/allow-list", "192.0.2.0/24", |s| s.sources.is_some()),
        ("haproxy.org/whitelist", "192.0.2.0/24", |s| s.sources.is_some()),
        ("haproxy.org/server-ssl", "true", |s| s.protocol == Some(BackendProtocol::Https)),
        ("haproxy.org/server-ca", "shop/ca", |s| s.backend_tls.authorities == secret("ca")),
        ("haproxy.org/path-rewrite", "/v1", |s| s.rewrite_path.as_deref() == Some("/v1")),
        ("haproxy.org/timeout-server", "30s", |s| s.limits.read == Some(Duration::from_secs(30))),
        ("traefik.ingress.kubernetes.io/router.entrypoints", "websecure", |s| {
            *s == Settings::default()
        }),
        ("traefik.ingress.kubernetes.io/router.tls", "true", |s| *s == Settings::default()),
        ("traefik.ingress.kubernetes.io/service.serversscheme", "h2c", |s| {
            s.protocol == Some(BackendProtocol::H2c)
        }),
    ];
    for (name, value, check) in others {
        let (settings, _) = settings(&[(name, value)]);

        assert!(check(&settings) && !settings.is_refused, "{name}: {value}\n{settings:#?}");
    }
}

#[test]
fn what_is_not_understood_is_said_with_the_annotations_name() {
    let cases = [
        ("nginx.ingress.kubernetes.io/use-regex", "true", Effect::Otherwise),
        ("nginx.ingress.kubernetes.io/proxy-ssl-verify", "off", Effect::Otherwise),
        ("nginx.ingress.kubernetes.io/limit-rps", "5", Effect::Weaker),
        ("nginx.ingress.kubernetes.io/limit-connections", "5", Effect::Weaker),
        ("nginx.ingress.kubernetes.io/affinity", "cookie", Effect::Otherwise),
        ("nginx.ingress.kubernetes.io/server-alias", "b.example", Effect::Refused),
        ("nginx.ingress.kubernetes.io/proxy-buffering", "on", Effect::Noted),
        ("nginx.ingress.kubernetes.io/something-new", "on", Effect::Weaker),
        ("nginx.ingress.kubernetes.io/proxy-body-size", "many", Effect::Otherwise),
        ("nginx.ingress.kubernetes.io/ssl-redirect", "perhaps", Effect::Otherwise),
        ("haproxy.org/rate-limit-requests", "10", Effect::Weaker),
        ("haproxy.org/cors-enable", "true", Effect::Otherwise),
        ("traefik.ingress.kubernetes.io/router.entrypoints", "mysql", Effect::Otherwise),
        (
            "traefik.ingress.kubernetes.io/router.middlewares",
            "shop-strip-api@kubernetescrd",
            Effect::Otherwise,
        ),
        ("alb.ingress.kubernetes.io/target-type", "ip", Effect::Weaker),
        ("example.com/owner", "me", Effect::Noted),
    ];
    for (name, value, effect) in cases {
        let (settings, findings) = settings(&[(name, value)]);

        assert!(!settings.is_refused, "{name}");
        let found: Vec<_> = findings.iter().map(|one| (one.effect, &*one.field)).collect();
        assert_eq!(found, [(effect, &*finding::annotation(name))], "{name}");
    }
}

#[test]
fn what_keeps_clients_out_and_is_not_understood_leaves_nothing_served() {
    let cases = [
        ("nginx.ingress.kubernetes.io/auth-url", "https://auth.example/"),
        ("nginx.ingress.kubernetes.io/auth-signin", "https://auth.example/"),
        ("nginx.ingress.kubernetes.io/auth-type", "basic"),
        ("nginx.ingress.kubernetes.io/auth-tls-match-cn", "CN=x"),
        ("nginx.ingress.kubernetes.io/auth-tls-verify-client", "on"),
        ("nginx.ingress.kubernetes.io/server-snippet", "deny all;"),
        ("nginx.ingress.kubernetes.io/configuration-snippet", "deny all;"),
        ("nginx.ingress.kubernetes.io/rewrite-target", "/$2"),
        ("nginx.ingress.kubernetes.io/whitelist-source-range", "10.0.0.0/33"),
        ("nginx.ingress.kubernetes.io/whitelist-source-range", ""),
        ("nginx.ingress.kubernetes.io/denylist-source-range", "somebody"),
        ("nginx.ingress.kubernetes.io/backend-protocol", "FCGI"),
        ("nginx.ingress.kubernetes.io/proxy-ssl-secret", "../../etc"),
        ("nginx.ingress.kubernetes.io/permanent-redirect", "javascript:x"),
        ("nginx.ingress.kubernetes.io/ssl-passthrough", "maybe"),
        ("haproxy.org/auth-type", "basic-auth"),
        ("haproxy.org/backend-config-snippet", "http-request deny"),
        ("haproxy.org/path-rewrite", r"/foo/(.*) /\1"),
        ("haproxy-ingress.github.io/oauth", "oauth2_proxy"),
        ("traefik.ingress.kubernetes.io/router.middlewares", "shop-login@kubernetescrd"),
        ("traefik.ingress.kubernetes.io/router.middlewares", "shop-unknown@kubernetescrd"),
        ("traefik.ingress.kubernetes.io/router.middlewares", "login@file"),
        ("alb.ingress.kubernetes.io/auth-type", "oidc"),
        ("konghq.com/jwt-plugins", "x"),
    ];
    for (name, value) in cases {
        let (settings, findings) = settings(&[(name, value)]);

        assert!(settings.is_refused, "{name}: {value}");
        let named =
            |one: &Finding| one.effect == Effect::Refused && one.field == finding::annotation(name);
        assert!(findings.iter().any(named), "{name}: {value}\n{findings:#?}");
    }
}

#[test]
fn what_others_read_is_left_alone_without_a_word() {
    for name in [
        "cert-manager.io/cluster-issuer",
        "external-dns.alpha.kubernetes.io/hostname",
        "kubectl.kubernetes.io/last-applied-configuration",
        "kubernetes.io/ingress.class",
    ] {
        assert_eq!(settings(&[(name, "x\n{}")]), (Settings::default(), Vec::new()), "{name}");
    }
}

#[test]
fn a_canary_goes_by_header_before_weights() {
    let (settings, findings) = settings(&[
        (&nginx("canary"), "true"),
        (&nginx("canary-weight"), "300"),
        (&nginx("canary-weight-total"), "200"),
        (&nginx("canary-by-header"), "X-Canary"),
        (&nginx("canary-by-header-value"), "yes"),
    ]);

    let (header, value) = (Some(Arc::from("x-canary")), Some(Arc::from("yes")));
    let canary = Canary { weight: 200, total: 200, header, header_value: value };
    assert_eq!((settings.canary, findings.len()), (Some(canary), 0));
}

#[test]
fn origins_that_are_none_allow_nobody_rather_than_everybody() {
    let origin = nginx("cors-allow-origin");
    let of = |value: &str| settings(&[(CORS, "true"), (&origin, value)]).0.cors;

    assert_eq!(of("https://*.example.com, null"), None);
    assert!(of("*, https://a.example").is_some_and(|cors| cors.origins.is_empty()));
    assert_eq!(
        of("https://a.example, http://b.example:8080").map(|cors| cors.origins.len()),
        Some(2)
    );
    assert_eq!(of("https://a.example\r\nset-cookie: x"), None);
}
