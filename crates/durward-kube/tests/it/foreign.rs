//! Objects of other controllers that name hosted API servers: which are read, in which version, and that none is ever written.

use durward_control::document::Content;
use durward_kube::Sources;
use durward_model::{Kind, ResourceId};
use durward_testkit::kubernetes::{ApiServer, TestEnv};
use serde_json::{Value, json};

use crate::cluster::{Cluster, gather, names, next, sources};

/// A definition that lets objects have any fields.
fn definition(group: &str, kind: &str, plural: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .enumerate()
        .map(|(at, name)| {
            json!({"name": name, "served": true, "storage": at == 0, "schema": {"openAPIV3Schema":
                {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"),
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
            "versions": versions},
    })
}

fn control_plane(group: &str, name: &str, host: Option<&str>) -> Value {
    let ingress = host.map(|host| json!({"hostname": host}));
    json!({
        "apiVersion": format!("{group}/v1alpha1"), "kind": "TenantControlPlane", "metadata": {"name": name},
        "spec": {"controlPlane": {"ingress": ingress, "deployment": {"replicas": 2}}},
    })
}

// S4.26+
#[tokio::test]
async fn kinds_of_other_controllers_are_awaited_told_apart_by_group_and_left_where_they_name_no_host()
 {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    let source = cluster.source(&Sources { foreign_apis: true, ..sources() });
    // A start waits for no kind that is not installed.
    next(&source).await;

    for group in ["kamaji.clastix.io", "steward.butlerlabs.dev"] {
        let define = definition(group, "TenantControlPlane", "tenantcontrolplanes", &["v1alpha1"]);
        cluster.env.define(&define).await;
        cluster.env.create(&control_plane(group, "t1", Some("t1.k8s.example"))).await;
        cluster.env.create(&control_plane(group, "by-address", None)).await;
    }
    let tls_routes =
        definition("gateway.networking.k8s.io", "TLSRoute", "tlsroutes", &["v1alpha2", "v1alpha3"]);
    cluster.env.define(&tls_routes).await;
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": "TLSRoute", "metadata": {"name": "t2"},
        "spec": {"hostnames": ["t2.k8s.example"], "rules": [{"backendRefs": [{"name": "t2", "port": 6443}]}]},
    });
    cluster.env.create(&route).await;
    let seen = gather(&source, |seen| seen.upserts.len() == 3).await;

    let namespace = cluster.env.namespace().to_owned();
    let id = |kind, name| ResourceId::namespaced(kind, &namespace, name);
    let (kamaji, steward) =
        (id(Kind::KamajiControlPlane, "t1"), id(Kind::StewardControlPlane, "t1"));
    for id in [&kamaji, &steward, &id(Kind::TlsRoute, "t2")] {
        let object = seen.upserts.iter().find(|object| object.id == *id);
        let document = object.unwrap_or_else(|| panic!("{id}")).document();
        let Content::ForeignApi(foreign) = &document.content else {
            panic!("{:?}", document.content)
        };
        assert!(foreign.routes[0].names[0].ends_with(".k8s.example"));
    }

    // One that names no host any more is gone, like one that is deleted.
    cluster.env.create(&control_plane("kamaji.clastix.io", "t1", None)).await;
    let path = format!(
        "/apis/steward.butlerlabs.dev/v1alpha1/namespaces/{namespace}/tenantcontrolplanes/t1"
    );
    cluster.delete(&path).await;
    let seen = gather(&source, |seen| seen.deletes.len() == 2).await;
    assert!(seen.deletes.contains(&kamaji) && seen.deletes.contains(&steward));
    let double = cluster.env.double().unwrap();
    for resource in ["tenantcontrolplanes.kamaji.clastix.io", "tlsroutes.gateway.networking.k8s.io"]
    {
        // Those of this test alone.
        assert_eq!(double.count("update", resource), 0);
        assert_eq!(double.status_writes(resource), (0, 0));
    }
}

#[tokio::test]
async fn a_kind_of_another_controller_that_cannot_be_read_keeps_no_tenant_out() {
    let cluster = Cluster::on(TestEnv::on_double(ApiServer::settings()).await).await;
    cluster.install().await;
    cluster.tenant("acme", "203.0.113.7").await;
    let routes = definition("gateway.networking.k8s.io", "TLSRoute", "tlsroutes", &["v9"]);
    cluster.env.define(&routes).await;

    let source = cluster.source(&Sources { foreign_apis: true, ..sources() });
    let seen = gather(&source, |seen| !seen.upserts.is_empty()).await;

    assert_eq!(names(&seen), ["acme"]);
    let unread = source.health().unread();
    let [(kind, fault)] = &unread[..] else { panic!("{unread:?}") };
    assert!(*kind == "TLSRoute" && fault.contains("served only as v9"), "{fault}");
    assert!(source.health().is_synced());
}
