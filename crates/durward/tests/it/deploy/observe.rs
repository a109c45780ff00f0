//! Alerts, dashboard, autoscaling, certificates and the chart refer only to what exists.
//!
//! Deliberately absent: Prometheus and Grafana themselves.

use std::collections::{BTreeMap, BTreeSet};

use durward_model::TenantId;
use durward_proxy::exposition::{self, ExpositionState};
use durward_proxy::metrics::Metrics;
use durward_proxy::metrics::openmetrics::Text;
use durward_proxy::refusal::{HandshakeFailure, Refusal};
use serde_json::Value;

use super::policy;
use super::render::{kustomize, objects};
use crate::text;

// S1.45+ S1.51+ S2.43 S2.45
#[test]
fn alerts_dashboard_and_autoscaling_name_only_documented_metrics() {
    let documented = metrics_in(&text("docs/reference/metrics.md"));

    for path in [
        "deploy/prometheus/alerts.yaml",
        "deploy/grafana/overview.json",
        "deploy/seed1/hpa.yaml",
        "deploy/kustomize/components/ha/hpa.yaml",
        "deploy/helm/durward/templates/hpa.yaml",
    ] {
        let used = metrics_in(&text(path));

        assert!(!used.is_empty(), "{path} names no metric");
        let unknown: Vec<_> = used.difference(&documented).collect();
        assert!(unknown.is_empty(), "{path} uses {unknown:?}");
    }
}

// S1.45 S1.51+
#[test]
fn the_reference_describes_the_metrics_that_exist_and_no_others() {
    let metrics = Metrics::new(1);
    drop(metrics.tenant(&TenantId::new("acme").unwrap()));
    let mut exposition = Text::default();
    exposition::write(&mut exposition, &metrics, &ExpositionState::default());
    let exposition = exposition.end();
    let exposed: BTreeSet<(String, String)> = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| match kind {
            "counter" => (format!("{name}_total"), kind.to_owned()),
            "info" => (format!("{name}_info"), kind.to_owned()),
            _ => (name.to_owned(), kind.to_owned()),
        })
        .collect();

    let page = text("docs/reference/metrics.md");
    let documented: BTreeSet<(String, String)> = page
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `durward_")?.split('|').map(str::trim);
            let name = format!("durward_{}", cells.next()?.trim_end_matches('`'));
            Some((name, cells.next()?.to_owned()))
        })
        // Told by the binary, which knows the configuration and the kernel; everything else by the proxy.
        .filter(|(name, _)| {
            !name.starts_with("durward_nat_")
                && !name.starts_with("durward_acme_")
                && !name.starts_with("durward_kube_")
                && !name.starts_with("durward_api_proxy_")
                && !name.starts_with("durward_api_addons_")
                && !["durward_ready", "durward_problems"].contains(&name.as_str())
                && (!name.starts_with("durward_config_") || name == "durward_config_generation")
        })
        .collect();

    assert!(documented.len() > 15);
    assert_eq!(exposed, documented);
}

#[test]
fn alerts_name_only_reasons_that_exist() {
    let alerts: Value = serde_saphyr::from_str(&text("deploy/prometheus/alerts.yaml")).unwrap();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();

    let mut named = 0;
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        for matched in expression.split("reason=").skip(1) {
            let words = matched.trim_start_matches('~').split('"').nth(1).unwrap();
            for word in words.split('|') {
                assert!(Refusal::WORDS.contains(&word), "{}: {word}", rule["alert"]);
                named += 1;
            }
        }
        assert!(rule["annotations"]["summary"].is_string(), "{}", rule["alert"]);
        assert!(rule["annotations"]["action"].is_string(), "{} says what to do", rule["alert"]);
    }

    assert!(named >= 8, "only {named} reasons looked at");
}

#[test]
fn the_reference_describes_every_reason() {
    let page = text("docs/reference/refusals.md");

    for word in Refusal::WORDS.iter().chain(HandshakeFailure::WORDS) {
        assert!(page.contains(&format!("| `{word}` |")), "docs/reference/refusals.md lacks {word}");
    }
}

// S1.55
#[test]
fn each_mounted_secret_has_a_certificate_for_its_ingress_address() {
    let Some(seed) = kustomize("deploy/seed1") else { return };
    let certificates = objects(&text("deploy/cert-manager/certificate.yaml"));
    let by_tenant = |kind: &str| {
        let rows = certificates.iter().chain(&seed).filter(move |object| object["kind"] == kind);
        rows.collect::<Vec<_>>()
    };

    let balanced: BTreeSet<&str> = by_tenant("Service")
        .iter()
        .filter_map(|service| service["spec"]["loadBalancerIP"].as_str())
        .collect();
    let volumes = &policy::find(&seed, "Deployment", "pingora").unwrap()["spec"]["template"]["spec"]
        ["volumes"];
    let mounted = volumes.to_string();
    let issued = by_tenant("Certificate");

    assert_eq!(issued.len(), balanced.len());
    for certificate in issued {
        let spec = &certificate["spec"];
        assert_eq!(certificate["apiVersion"], "cert-manager.io/v1");
        assert_eq!(certificate["metadata"]["namespace"], "pingora-multitenant");
        assert!(balanced.contains(spec["ipAddresses"][0].as_str().unwrap()), "{spec}");
        assert!(mounted.contains(&format!("\"name\":{}", spec["secretName"])), "{spec}");
        assert!(spec["usages"].as_array().unwrap().iter().any(|usage| usage == "server auth"));
        assert_eq!(spec["issuerRef"]["kind"], "Issuer");
        assert!(only_known_fields(spec), "{spec}");
    }
}

/// Fields of `Certificate.spec` in cert-manager.io/v1; stands in for the CRD's schema.
fn only_known_fields(spec: &Value) -> bool {
    let known = [
        "secretName",
        "subject",
        "commonName",
        "dnsNames",
        "ipAddresses",
        "uris",
        "emailAddresses",
        "duration",
        "renewBefore",
        "privateKey",
        "usages",
        "issuerRef",
        "isCA",
        "secretTemplate",
        "revisionHistoryLimit",
    ];
    spec.as_object().unwrap().keys().all(|field| known.contains(&field.as_str()))
}

// S1.12
#[test]
fn templates_values_and_schema_agree() {
    let values: Value = serde_saphyr::from_str(&text("deploy/helm/durward/values.yaml")).unwrap();
    let schema: Value =
        serde_json::from_str(&text("deploy/helm/durward/values.schema.json")).unwrap();
    let used: BTreeSet<Vec<String>> = templates().iter().flat_map(|text| values_in(text)).collect();

    assert!(used.len() > 20, "only {} values are used", used.len());
    for path in &used {
        let pointer = format!("/{}", path.join("/"));
        let declared = format!("/properties/{}", path.join("/properties/"));
        assert!(values.pointer(&pointer).is_some(), "values.yaml lacks {}", path.join("."));
        assert!(schema.pointer(&declared).is_some(), "values.schema.json lacks {}", path.join("."));
    }
    for name in values.as_object().unwrap().keys() {
        assert!(used.iter().any(|path| path[0] == *name), "no template uses {name}");
    }
}

/// `DURWARD_WRITE_SCHEMA=1` writes the definitions after a field was added to a document.
#[test]
fn tenants_in_the_charts_values_are_checked_as_documents_are() {
    const PATH: &str = "deploy/helm/durward/values.schema.json";
    let mut values: Value = serde_json::from_str(&text(PATH)).unwrap();
    let schema = durward_control::schema();
    let all = schema["$defs"].as_object().unwrap();
    let mut wanted = BTreeMap::new();
    let mut names = vec!["TenantSpec".to_owned()];
    while let Some(name) = names.pop() {
        if wanted.contains_key(&name) {
            continue;
        }
        let definition = without_prose(&all[&name]);
        let text = definition.to_string();
        let used = text.split("#/$defs/").skip(1).map(|rest| rest.split('"').next().unwrap());
        names.extend(used.map(str::to_owned));
        wanted.insert(name, definition);
    }
    let wanted = serde_json::to_value(wanted).unwrap();

    if std::env::var_os("DURWARD_WRITE_SCHEMA").is_some() && values["$defs"] != wanted {
        values["$defs"] = wanted.clone();
        let text = serde_json::to_string_pretty(&values).unwrap() + "\n";
        std::fs::write(crate::root().join(PATH), text).unwrap();
    }

    assert_eq!(
        values["properties"]["tenants"]["additionalProperties"]["$ref"],
        "#/$defs/TenantSpec"
    );
    assert!(
        values["$defs"] == wanted,
        "{PATH} has other definitions than `durward schema`: run this test with DURWARD_WRITE_SCHEMA=1"
    );
}

/// A schema without descriptions and titles; fields may be called so.
fn without_prose(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let kept = fields
                .iter()
                .filter(|(name, _)| !["description", "title"].contains(&name.as_str()));
            let kept = kept.map(|(name, value)| {
                let value = match value {
                    Value::Object(properties) if name == "properties" => properties
                        .iter()
                        .map(|(name, value)| (name.clone(), without_prose(value)))
                        .collect(),
                    value => without_prose(value),
                };
                (name.clone(), value)
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) => items.iter().map(without_prose).collect(),
        other => other.clone(),
    }
}

fn templates() -> Vec<String> {
    let folder = crate::root().join("deploy/helm/durward/templates");
    let files = std::fs::read_dir(folder).unwrap();
    files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

/// The paths after `.Values` and `$.Values`.
fn values_in(template: &str) -> Vec<Vec<String>> {
    let word = |character: char| character.is_ascii_alphanumeric() || character == '.';
    template
        .split(".Values.")
        .skip(1)
        .map(|rest| rest.split(|character| !word(character)).next().unwrap())
        .map(|path| path.trim_end_matches('.').split('.').map(str::to_owned).collect())
        .collect()
}

/// Metric families named in a text, without the suffixes of histograms.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let part = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_'
    };
    text.split(|character| !part(character))
        .filter(|word| word.starts_with("durward_") && word.len() > "durward_".len())
        .map(|word| {
            let histogram = word.strip_suffix("_bucket").or_else(|| word.strip_suffix("_sum"));
            histogram.unwrap_or(word).to_owned()
        })
        .collect()
}
