//! Routes for other ingress controllers, written beside a `HostedApi` that asks for some.

use durward_kube::addon::{MANAGED_BY, OWNER, ROUTES_CONDITION};
use durward_testkit::kubernetes::TestEnv;
use serde_json::{Value, json};

use super::{World, is_there};
use crate::cluster::eventually;

/// Defines a kind of another controller, in some versions of it.
async fn define(env: &TestEnv, group: &str, kind: &str, versions: &[&str]) {
    let plural = format!("{}s", kind.to_ascii_lowercase());
    let anything = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let versions = versions.iter().enumerate().map(|(at, version)| {
        json!({"name": version, "served": true, "storage": at == 0, "schema": anything})
    });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        // A server refuses a group of Kubernetes' own without it.
        "metadata": {
            "name": format!("{plural}.{group}"),
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_ascii_lowercase()},
            "versions": versions.collect::<Vec<_>>(),
        },
    });
    env.define(&definition).await;
}

/// A `HostedApi` that has routes and no proxies.
async fn published(world: &World, publish: &Value) {
    let hosted = json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "HostedApi", "metadata": {"name": "t1"},
        "spec": {
            "names": ["t1.k8s.example"], "upstream": {"service": {"name": "t1", "port": 6443}},
            "konnectivity": {"name": "t1.konnectivity.example", "service": {"name": "t1", "port": 8132}},
            "publish": publish,
        },
    });
    world.cluster.env.create(&hosted).await;
}

async fn said(world: &World) -> Option<String> {
    let hosted = world.cluster.env.raw("GET", &world.path("t1"), None).await.ok()?;
    let conditions = hosted["status"]["conditions"].as_array()?;
    let one = conditions.iter().find(|condition| condition["type"] == ROUTES_CONDITION)?;
    Some(format!("{} {}", one["status"].as_str()?, one["reason"].as_str()?))
}

async fn until_said(world: &World, wanted: &str) {
    eventually(&format!("the routes are {wanted}"), async || {
        said(world).await.as_deref() == Some(wanted)
    })
    .await;
}

fn path(world: &World, group: &str, plural: &str, name: &str) -> String {
    format!("/apis/{group}/namespaces/{}/{plural}/{name}", world.namespace())
}

// S4.14+ S4.15+ S4.18+ S4.62+
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_are_written_for_the_controller_that_is_named_and_go_when_it_is_another() {
    let world = World::start().await;
    let env = &world.cluster.env;
    let ingress = path(&world, "networking.k8s.io/v1", "ingresses", "t1");
    let traefik = path(&world, "traefik.io/v1alpha1", "ingressroutetcps", "t1");
    let tls_route =
        |name: &str| path(&world, "gateway.networking.k8s.io/v1alpha2", "tlsroutes", name);
    published(&world, &json!({"controller": "Traefik"})).await;
    let _addons = world.start_addons();

    until_said(&world, "False KindMissing").await;
    define(env, "traefik.io", "IngressRouteTCP", &["v1alpha1"]).await;
    define(env, "gateway.networking.k8s.io", "TLSRoute", &["v1alpha2"]).await;
    until_said(&world, "True Published").await;
    let there = env.raw("GET", &traefik, None).await.unwrap();
    let hosted = env.raw("GET", &world.path("t1"), None).await.unwrap();
    assert_eq!(there["spec"]["routes"][0]["match"], "HostSNI(`t1.k8s.example`)");
    assert_eq!(there["spec"]["routes"][1]["services"][0]["port"], 8132);
    assert_eq!(there["metadata"]["ownerReferences"][0]["uid"], hosted["metadata"]["uid"]);

    published(&world, &json!({"controller": "HAProxy", "ingressClassName": "haproxy"})).await;
    eventually("an Ingress is in its place", async || {
        is_there(env, &ingress).await && !is_there(env, &traefik).await
    })
    .await;
    let there = env.raw("GET", &ingress, None).await.unwrap();
    assert_eq!(there["spec"]["ingressClassName"], "haproxy");
    assert_eq!(there["metadata"]["annotations"]["haproxy.org/ssl-passthrough"], "true");

    published(&world, &json!({"controller": "TLSRoute", "parentRefs": [{"name": "gateway"}]}))
        .await;
    eventually("a TLSRoute each is in its place", async || {
        is_there(env, &tls_route("t1")).await
            && is_there(env, &tls_route("t1-konnectivity")).await
            && !is_there(env, &ingress).await
    })
    .await;

    world
        .change("t1", |hosted| {
            hosted["spec"].as_object_mut().unwrap().remove("publish");
        })
        .await;
    eventually("nothing is left", async || {
        !is_there(env, &tls_route("t1")).await
            && !is_there(env, &tls_route("t1-konnectivity")).await
            && said(&world).await.is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingress_of_somebody_else_is_neither_changed_nor_removed() {
    let world = World::start().await;
    let env = &world.cluster.env;
    let ingress = path(&world, "networking.k8s.io/v1", "ingresses", "t1");
    let own = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "t1"},
        "spec": {"rules": [{"host": "shop.example"}]},
    });
    env.create(&own).await;
    let before = env.raw("GET", &ingress, None).await.unwrap();
    published(&world, &json!({"controller": "NGINX"})).await;
    let addons = world.start_addons();

    until_said(&world, "False ObjectForeign").await;
    assert_eq!(addons.report().failed.len(), 1);
    world
        .change("t1", |hosted| {
            hosted["spec"].as_object_mut().unwrap().remove("publish");
        })
        .await;
    eventually("nothing is said", async || said(&world).await.is_none()).await;

    assert_eq!(env.raw("GET", &ingress, None).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_was_changed_is_as_it_was_after_the_next_look_and_ends_with_its_hosted_api() {
    let world = World::start().await;
    let env = &world.cluster.env;
    if !env.need_controllers("a_route_that_was_changed") {
        return;
    }
    let ingress = path(&world, "networking.k8s.io/v1", "ingresses", "t1");
    let often = |namespace: &str| durward_kube::addon::AddonOptions {
        recheck: std::time::Duration::from_millis(500),
        ..super::options(namespace)
    };
    published(&world, &json!({"controller": "NGINX"})).await;
    let _addons =
        durward_kube::addon::Addons::start(&world.cluster.clients, often(world.namespace()));
    until_said(&world, "True Published").await;

    env.raw("DELETE", &ingress, None).await.unwrap();
    eventually("it is there again", async || is_there(env, &ingress).await).await;
    let there = env.raw("GET", &ingress, None).await.unwrap();
    assert_eq!(there["metadata"]["labels"][MANAGED_BY.0], MANAGED_BY.1);
    assert!(there["metadata"]["annotations"][OWNER].is_string());

    world.cluster.delete(&world.path("t1")).await;
    world.until_gone("t1").await;
    eventually("it went with its owner", async || !is_there(env, &ingress).await).await;
}
