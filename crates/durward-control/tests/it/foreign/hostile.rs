//! Texts that would be a line, a quote or a command elsewhere, in every field of an Ingress.

use durward_control::foreign::objects::{HttpPath, Ingress, ServiceBackend};
use durward_model::verdict::Severity;

use super::{asked, compiled, ingress, merged, rule};

const HOSTILE: [&str; 12] = [
    "a\nb",
    "a\r\nx: y",
    "\"",
    "'",
    "$(id)",
    "{a: b}",
    "\0",
    "\u{1b}[31m",
    "../../etc/passwd",
    "`id`",
    "${env:HOME}",
    "\u{202e}x",
];

/// Every text of an Ingress, replaced by `text`, one at a time.
fn with_each_text(text: &str) -> Vec<Ingress> {
    let spec = format!(
        "{{rules: [{}], tls: [{{hosts: [a.example], secretName: cert}}]}}",
        rule("a.example", "/", "{name: web}")
    );
    let base = ingress("web", "", &spec);
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Ingress, String)| {
        let mut changed = base.clone();
        change(&mut changed, text.to_owned());
        all.push(changed);
    };
    with(&|one, text| one.metadata.name = text);
    with(&|one, text| one.metadata.namespace = text);
    with(&|one, text| one.spec.rules[0].host = Some(text));
    with(&|one, text| one.spec.rules[0].host = Some(format!("*.{text}")));
    with(&|one, text| path(one).path = Some(text));
    with(&|one, text| path(one).path = Some(format!("/{text}")));
    with(&|one, text| path(one).path_type = Some(text));
    with(&|one, text| service(one).name = text);
    with(&|one, text| service(one).port.name = Some(text));
    with(&|one, text| one.spec.tls[0].hosts[0] = text);
    with(&|one, text| one.spec.tls[0].secret_name = Some(text));
    with(&|one, text| drop(one.metadata.annotations.insert(text, "true".to_owned())));
    for key in [
        "rewrite-target",
        "upstream-vhost",
        "proxy-ssl-secret",
        "proxy-ssl-name",
        "app-root",
        "permanent-redirect",
        "whitelist-source-range",
        "denylist-source-range",
        "auth-tls-secret",
        "proxy-body-size",
        "proxy-read-timeout",
        "backend-protocol",
        "ssl-redirect",
    ] {
        with(&|one, text| {
            let name = format!("nginx.ingress.kubernetes.io/{key}");
            one.metadata.annotations.insert(name, text);
        });
    }
    for key in [
        "canary-by-header",
        "canary-by-header-value",
        "canary-weight",
        "cors-allow-origin",
        "cors-allow-headers",
    ] {
        with(&|one, text| {
            for on in ["canary", "enable-cors"] {
                let name = format!("nginx.ingress.kubernetes.io/{on}");
                one.metadata.annotations.insert(name, "true".to_owned());
            }
            let name = format!("nginx.ingress.kubernetes.io/{key}");
            one.metadata.annotations.insert(name, text);
        });
    }
    all
}

fn path(ingress: &mut Ingress) -> &mut HttpPath {
    &mut ingress.spec.rules[0].http.as_mut().unwrap().paths[0]
}

fn service(ingress: &mut Ingress) -> &mut ServiceBackend {
    path(ingress).backend.service.as_mut().unwrap()
}

#[test]
fn a_hostile_text_is_unchanged_or_rejected_with_a_finding_that_prints_safely() {
    let mut asked_for = 0;
    for text in HOSTILE {
        for ingress in with_each_text(text) {
            let asked = asked(&ingress);
            let merged = merged(std::slice::from_ref(&ingress));
            let compiled = compiled(&merged);

            asked_for += 1;
            let errors = compiled.verdicts.findings().filter(|(_, finding)| {
                finding.severity == Severity::Error && !merged.ingress.is_empty()
            });
            assert_eq!(errors.count(), 0, "{ingress:#?}\n{:#?}", compiled.verdicts);
            let findings: Vec<_> =
                asked.findings.iter().chain(merged.findings.iter().map(|(_, one)| one)).collect();
            for finding in &findings {
                let printed = finding.to_string();
                let is_safe = |c: char| !c.is_control() && c != '\u{202e}';
                assert!(printed.chars().all(is_safe), "{printed:?}");
            }
            let document = serde_json::to_string(&merged.ingress).unwrap();
            let escaped = serde_json::to_string(text).unwrap();
            let is_unchanged = document.contains(escaped.trim_matches('"'));
            let is_rejected = findings
                .iter()
                .any(|finding| !matches!(finding.reason, "SecretUnusable" | "HostWithoutTls"));
            assert!(is_unchanged || is_rejected, "{text:?} is lost in silence:\n{ingress:#?}");
        }
    }
    assert!(asked_for > 300, "{asked_for}");
}
