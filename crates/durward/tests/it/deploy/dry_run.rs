//! The manifests before a real API server, which validates more than schemas: strictly, and without storing anything but the namespaces
//! and the definitions that they need.

use std::path::Path;

use durward_testkit::kubernetes::{Backend, TestEnv};
use durward_testkit::netns::skip;
use serde_json::{Value, json};

use super::render::helm;
use super::{kustomize, objects};
use crate::root;

/// Groups of others' definitions, which a server without these products does not serve.
const OF_OTHERS: &[&str] = &[
    "monitoring.coreos.com",
    "source.toolkit.fluxcd.io",
    "kustomize.toolkit.fluxcd.io",
    "cert-manager.io",
];

/// Everything below `deploy` that can be applied: kustomizations, and files in none of them.
fn artefacts() -> Option<Vec<(String, Vec<Value>)>> {
    let mut found = Vec::new();
    for folder in folders(&root().join("deploy")) {
        let file = folder.join("kustomization.yaml");
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        if text.contains("kind: Component") {
            continue;
        }
        let path = folder.strip_prefix(root()).unwrap().display().to_string();
        found.push((path.clone(), kustomize(&path)?));
    }
    for file in [
        "deploy/smartnat/config/rbac/rbac_role.yaml",
        "deploy/smartnat/config/rbac/rbac_role_binding.yaml",
    ] {
        found.push((file.to_owned(), objects(&crate::text(file))));
    }
    for values in [json!({}), json!({"kubernetes": {"enabled": true}})] {
        // Without Helm's engine the kustomizations stand for the chart, which renders the same.
        if let Some(rendered) = helm(&values) {
            found.push((format!("the chart with {values}"), rendered));
        }
    }
    Some(found)
}

fn folders(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![folder.to_owned()];
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for inner in entries.filter(|path| path.is_dir()) {
        found.extend(folders(&inner));
    }
    found
}

fn group(object: &Value) -> &str {
    object["apiVersion"].as_str().unwrap().split_once('/').map_or("", |(group, _)| group)
}

// S1.7 S5.17+ S3.91+
#[tokio::test]
async fn every_manifest_is_accepted_by_a_real_api_server() {
    let env = TestEnv::start().await;
    if env.backend() == Backend::Double {
        skip("every_manifest_is_accepted_by_a_real_api_server", "no real kube-apiserver");
        return;
    }
    let Some(mut artefacts) = artefacts() else { return };
    let smartnat = "deploy/smartnat/config/crds/smartnat_v1alpha1_mapping.yaml";
    let mut ours = objects(&durward_kube::crds::yaml().unwrap());
    ours.extend(objects(&crate::text(smartnat)));
    for object in ours.iter().filter(|object| object["kind"] == "CustomResourceDefinition") {
        env.define(object).await;
    }
    artefacts.push(("durward crds".to_owned(), ours));

    let mut refusals = Vec::new();
    let mut accepted = 0;
    for (path, objects) in artefacts {
        for object in objects {
            if OF_OTHERS.contains(&group(&object)) {
                continue;
            }
            accepted += 1;
            let refusal = env.would_accept(&object).await.err();
            refusals.extend(refusal.map(|why| format!("{path}: {why}")));
        }
    }

    assert_eq!(refusals, Vec::<String>::new());
    assert!(accepted > 100, "{accepted}");
}
