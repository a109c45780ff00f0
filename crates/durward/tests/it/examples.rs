//! Every configuration we print or ship is accepted by the compile that serves it.
//!
//! Certificates are made for the addresses the examples name. Deliberately absent: serving them.

use std::path::{Path, PathBuf};

use durward_control::{FileSource, Issuance, RoutingJsonOptions, compile};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::deploy::objects;
use crate::docs::{GUIDES, blocks};
use crate::text;

// S1.69
#[test]
fn the_tenants_of_each_overlay_are_accepted() {
    for path in [
        "deploy/kustomize/overlays/development/tenants.yaml",
        "deploy/kustomize/overlays/production/tenants.yaml",
    ] {
        let tenants = objects(&text(path));

        assert_eq!(tenants.len(), 2, "{path}");
        accepted(path, &tenants);
    }
}

// S1.69
#[test]
fn the_examples_of_the_guides_are_accepted() {
    let mut seen = 0;

    for guide in GUIDES {
        for block in blocks(&text(guide), "yaml") {
            let Ok(example) = serde_saphyr::from_str::<Value>(&block) else {
                panic!("{guide}: not YAML:\n{block}")
            };
            // Objects of a cluster are tried where there is an API server.
            if !example["metadata"]["namespace"].is_null() {
                continue;
            }
            let mut documents = vec![completed(example)];
            if documents[0]["kind"] != "Tenant" {
                let name = documents[0]["spec"]["tenant"].clone();
                let spec = match documents[0]["kind"].as_str() {
                    Some("HostedApi") => json!({"egress": {"addresses": ["203.0.113.2"]}}),
                    _ => json!({}),
                };
                documents.push(json!({"apiVersion": "durward.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec}));
            }
            accepted(&format!("{guide}:\n{block}"), &documents);
            seen += 1;
        }
    }

    assert!(seen >= 6, "only {seen} examples");
}

/// A fragment of a guide, made a whole document.
fn completed(example: Value) -> Value {
    if ["Tenant", "PortMapping", "HostedApi"].iter().any(|kind| example["kind"] == *kind) {
        return example;
    }
    let mut ingress = json!({"address": "198.51.100.2", "port": 443, "certificate": {"file": "certs/acme"}, "upstream": "app"});
    let mut spec = json!({
        "upstreams": {"app": {"endpoints": ["10.0.0.1:8080"]}, "pay": {"endpoints": ["10.0.0.2:8080"]},
            "status": {"endpoints": ["10.0.0.3:8080"]}, "canary": {"endpoints": ["10.0.0.4:8080"]}},
        "egress": {"addresses": ["203.0.113.2"]},
    });
    for (key, value) in example.as_object().expect("an example is a mapping") {
        match key.as_str() {
            "ingress" => merge(&mut ingress, &value[0]),
            "upstreams" => merge(&mut spec["upstreams"], value),
            "limits" | "egress" => spec[key] = value.clone(),
            "routes" => {
                ingress.as_object_mut().expect("it is a mapping").remove("upstream");
                ingress[key] = value.clone();
            }
            _ => ingress[key] = value.clone(),
        }
    }
    spec["ingress"] = json!([ingress]);
    json!({"apiVersion": "durward.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"}, "spec": spec})
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().expect("an example is a mapping") {
        into[key] = value.clone();
    }
}

fn accepted(name: &str, tenants: &[Value]) {
    let folder = tempfile::tempdir().unwrap();
    for (index, tenant) in tenants.iter().enumerate() {
        write_files(folder.path(), tenant, &["198.51.100.2"]);
        let file = folder.path().join(format!("{index}.json"));
        std::fs::write(file, tenant.to_string()).unwrap();
    }

    let paths: Vec<PathBuf> = vec![folder.path().to_owned()];
    let state = Issuance { directory: folder.path().join("state"), authorities: Vec::new() };
    let source = FileSource::new(RoutingJsonOptions::default()).with_issuance(state);
    let resources = source.load(&paths);
    let compiled = compile(&resources, None, now());

    // A fragment about one upstream leaves the others unused.
    let telling = |sentence: &String| !sentence.contains("is used by no route");
    let findings: Vec<_> =
        compiled.verdicts.findings().map(|(_, it)| it.to_string()).filter(telling).collect();
    assert!(compiled.verdicts.all_accepted() && findings.is_empty(), "{name}: {findings:?}");
    let wanted = |kind: &str| tenants.iter().filter(|one| one["kind"] == kind).count();
    assert_eq!(compiled.snapshot.tenants.len(), wanted("Tenant"), "{name}");
    assert_eq!(compiled.snapshot.nat.mappings.len(), wanted("PortMapping"), "{name}");
}

/// Makes the files a document refers to; certificates for the address of the entry they are in.
fn write_files(folder: &Path, value: &Value, names: &[&str]) {
    match value {
        Value::Object(fields) => {
            let own = fields.get("names").and_then(Value::as_array).into_iter().flatten();
            let own = fields.get("address").into_iter().chain(own).filter_map(Value::as_str);
            let own: Vec<&str> = own.collect();
            let names = if own.is_empty() { names } else { &own };
            for (key, field) in fields {
                match (key.as_str(), field.as_str()) {
                    ("file", Some(name)) => write_pair_for(&folder.join(name), names),
                    ("credentialFile", Some(name)) => {
                        std::fs::write(folder.join(name), "NAME:SECRET\n").unwrap();
                    }
                    ("caFile", Some(name)) => write_authority(&folder.join(name), None),
                    ("crlFile", Some(name)) => {
                        let authority = folder.join(name).with_extension("crt");
                        write_authority(&authority, Some(&folder.join(name)));
                    }
                    _ => write_files(folder, field, names),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| write_files(folder, item, names)),
        _ => {}
    }
}

pub(crate) fn write_pair(stem: &Path, address: &str) {
    write_pair_for(stem, &[address]);
}

/// A certificate for addresses and names, and its key.
fn write_pair_for(stem: &Path, names: &[&str]) {
    std::fs::create_dir_all(stem.parent().expect("a file is in a folder")).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params =
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key).unwrap();
    let with = |end: &str| PathBuf::from(format!("{}.{end}", stem.display()));
    std::fs::write(with("crt"), certificate.pem()).unwrap();
    std::fs::write(with("key"), key.serialize_pem()).unwrap();
}

fn write_authority(file: &Path, revocations: Option<&Path>) {
    std::fs::create_dir_all(file.parent().expect("a file is in a folder")).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(file, certificate.pem()).unwrap();
    let Some(revocations) = revocations else { return };
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2025, 1, 1),
        next_update: rcgen::date_time_ymd(2055, 1, 1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&rcgen::Issuer::new(params, key)).unwrap();
    std::fs::write(revocations, list.pem().unwrap()).unwrap();
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
