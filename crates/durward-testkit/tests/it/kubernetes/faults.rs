//! Faults of the double, and what it counts.

use std::pin::pin;
use std::time::Duration;

use durward_testkit::kubernetes::{ApiServer, Fault, PATIENCE, Requests, TestEnv};
use durward_testkit::process::eventually;
use durward_testkit::serde_json::json;
use futures_util::StreamExt;
use kube::Client;
use kube::api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams};

use super::*;

async fn env() -> TestEnv {
    TestEnv::on_double(ApiServer::settings()).await
}

fn double(env: &TestEnv) -> &ApiServer {
    env.double().expect("it was asked for")
}

/// ConfigMaps through a client that tries once.
fn once(env: &TestEnv) -> Api<DynamicObject> {
    let mut config = env.config();
    config.default_retry = false;
    let client = Client::try_from(config).expect("a client");
    let kind = kube::core::GroupVersionKind::gvk("", "v1", "ConfigMap");
    let resource = kube::core::ApiResource::from_gvk_with_plural(&kind, "configmaps");
    Api::namespaced_with(client, env.namespace(), &resource)
}

#[tokio::test]
async fn a_fault_meets_the_requests_that_it_is_for() {
    let env = env().await;
    let api = once(&env);
    let lists = || Requests::all().verb("list").resource("configmaps");
    double(&env).inject(lists(), Fault::InternalError, 1);
    double(&env).inject(lists(), Fault::TooManyRequests(7), 1);

    created(&api, &config_map("a", &json!({}))).await;
    let first = refused(api.list(&ListParams::default()).await);
    let second = refused(api.list(&ListParams::default()).await);
    let third = api.list(&ListParams::default()).await;

    assert_eq!((first.code, first.reason.as_str()), (500, "InternalError"));
    assert_eq!((second.code, second.reason.as_str()), (429, "TooManyRequests"));
    assert_eq!(second.details.expect("details").retry_after_seconds, 7);
    assert_eq!(third.expect("the faults are used up").items.len(), 1);
}

#[tokio::test]
async fn the_next_write_is_a_conflict() {
    let env = env().await;
    let api = once(&env);
    created(&api, &config_map("a", &json!({}))).await;
    double(&env).inject(Requests::all().verb("patch"), Fault::Conflict, 1);

    let body = json!({"data": {"x": "1"}});
    let patch = async || api.patch("a", &PatchParams::default(), &Patch::Merge(&body)).await;
    let status = refused(patch().await);

    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    patch().await.expect("the next one is not");
}

#[tokio::test]
async fn a_server_goes_away_and_comes_back_with_its_objects() {
    let env = env().await;
    let api = once(&env);
    created(&api, &config_map("a", &json!({}))).await;

    double(&env).go_away();
    assert!(matches!(
        api.get("a").await,
        Err(kube::Error::HyperError(_) | kube::Error::Service(_))
    ));
    double(&env).come_back();
    assert!(eventually(PATIENCE, async || api.get("a").await.is_ok()).await);

    double(&env).reset_connections();
    assert!(api.get("a").await.is_err());
    double(&env).come_back();
    assert!(eventually(PATIENCE, async || api.get("a").await.is_ok()).await);

    double(&env).hang();
    let hung = tokio::time::timeout(Duration::from_millis(300), api.get("a")).await;
    assert!(hung.is_err(), "nothing is answered");
    double(&env).come_back();
    assert!(eventually(PATIENCE, async || api.get("a").await.is_ok()).await);
}

#[tokio::test]
async fn watches_are_cut_or_expire() {
    let env = env().await;
    let api = once(&env);
    let watch = async || api.watch(&WatchParams::default(), "0").await.expect("a watch").boxed();
    let mut cut = watch().await;
    assert_eq!(double(&env).open_watches("configmaps"), 1);

    double(&env).cut_watches();
    assert!(tokio::time::timeout(PATIENCE, cut.next()).await.expect("in time").is_none());
    let mut expired = watch().await;
    double(&env).expire_watches();
    let event = tokio::time::timeout(PATIENCE, expired.next()).await.expect("in time");

    let Some(Ok(WatchEvent::Error(status))) = event else { panic!("an error, not {event:?}") };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    drop((cut, expired));
    assert!(eventually(PATIENCE, async || double(&env).all_open_watches() == 0).await);
}

#[tokio::test]
async fn a_watch_may_get_410_as_its_answer() {
    let env = env().await;
    double(&env).inject(Requests::all().verb("watch"), Fault::Gone, 1);

    let status = refused(once(&env).watch(&WatchParams::default(), "1").await.map(drop));

    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
}

#[tokio::test]
async fn bookmarks_come_and_are_dropped() {
    let env = env().await;
    double(&env).send_bookmarks_every(Duration::from_millis(20));
    let api = once(&env);

    let mut stream = pin!(api.watch(&WatchParams::default(), "0").await.expect("a watch"));
    created(
        &env.api("v1", "Secret", "secrets", true),
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}),
    )
    .await;
    let revision = double(&env).revision().to_string();
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time");
        let Some(Ok(WatchEvent::Bookmark(bookmark))) = event else {
            panic!("a bookmark, not {event:?}")
        };
        if bookmark.metadata.resource_version == revision {
            break;
        }
    }

    double(&env).drop_bookmarks(u64::MAX);
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(500), stream.next()).await {
        assert!(matches!(event, Some(Ok(WatchEvent::Bookmark(_)))), "one that was on its way");
    }
}

#[tokio::test]
async fn an_object_that_nobody_can_read_is_served_as_it_is() {
    let env = env().await;
    let mut broken = config_map("a", &json!("no map"));
    broken["metadata"]["namespace"] = env.namespace().into();

    double(&env).put(&broken);

    let read = env.raw("GET", &config_map_path(&env, "/a"), None).await.expect("it is there");
    assert_eq!(read["data"], "no map");
}

#[tokio::test]
async fn requests_and_writes_are_counted() {
    let env = env().await;
    env.define(&widget_definition(&env, &plain_spec())).await;
    let api = widgets(&env);
    created(&api, &widget(&env, "a", &json!({"size": 1}))).await;
    double(&env).clear_log();
    let status = json!({"status": {"phase": "Ready"}});
    let write = async || {
        let params = PatchParams::default();
        api.patch_status("a", &params, &Patch::Merge(&status)).await.expect("a status");
    };

    write().await;
    write().await;
    api.get("a").await.expect("it is there");

    let resource = format!("widgets.{}", env.group());
    assert_eq!(double(&env).status_writes(&resource), (1, 1));
    assert_eq!(double(&env).count("patch", &resource), 2);
    assert_eq!(double(&env).count("get", &resource), 1);
    let log = double(&env).log();
    assert_eq!(log.len(), 3);
    assert_eq!(
        (log[0].subresource.as_str(), log[0].changed, log[1].changed),
        ("status", true, false)
    );
}

#[tokio::test]
async fn the_clock_of_the_server_may_be_another() {
    let env = env().await;
    double(&env).set_clock_ahead(86_400);

    let made = created(&config_maps(&env), &config_map("a", &json!({}))).await;

    let created = made.metadata.creation_timestamp.expect("a time").0;
    let ahead = created.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((86_000..86_500).contains(&ahead), "{ahead} s ahead");
}

#[tokio::test]
async fn versions_differ_in_what_they_know() {
    let old = TestEnv::on_double(ApiServer::settings().version(25)).await;
    let new = TestEnv::on_double(ApiServer::settings().version(37)).await;
    let mut schema = plain_spec();
    schema["properties"]["color"]["x-kubernetes-validations"] =
        json!([{"rule": "isIP(self)", "message": "an address"}]);
    let definitions = |env: &TestEnv| {
        env.api(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            false,
        )
    };

    let refused = refused(create(&definitions(&old), &widget_definition(&old, &schema)).await);
    created(&definitions(&new), &widget_definition(&new, &schema)).await;

    assert!(refused.message.contains("undeclared reference to 'isIP'"), "{}", refused.message);
    let policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    assert!(old.raw("GET", policies, None).await.is_err());
    assert!(new.raw("GET", policies, None).await.is_ok());
    let version = old.client().apiserver_version().await.expect("a version");
    assert_eq!((version.minor.as_str(), version.git_version.as_str()), ("25", "v1.25.0"));
}

#[tokio::test]
async fn tls_tells_users_by_certificate_and_token() {
    let env = TestEnv::on_double(ApiServer::settings().tls()).await;
    let double = double(&env);
    let token = double.token("someone", &["some-group"]);
    let mut config = env.config();
    config.auth_info = kube::config::AuthInfo { token: Some(token.into()), ..Default::default() };
    config.default_retry = false;
    let someone = Client::try_from(config.clone()).expect("a client");
    let admin = double.certificate("root", "system:masters");
    config.auth_info = Default::default();
    let nobody = Client::try_from(config.clone()).expect("a client");
    let encode = |pem: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, pem);
    config.auth_info.client_certificate_data = Some(encode(&admin.chain_pem));
    config.auth_info.client_key_data = Some(encode(&admin.key_pem).into());
    let root = Client::try_from(config).expect("a client");
    let ask = async |client: &Client| {
        let request =
            http::Request::get(config_map_path(&env, "")).body(Vec::new()).expect("a request");
        client.request::<Value>(request).await
    };

    assert!(ask(&root).await.is_ok());
    assert!(refused(ask(&someone).await).message.contains("User \"someone\""));
    assert!(refused(ask(&nobody).await).message.contains("User \"system:anonymous\""));
    double.revoke_tokens("someone");
    assert_eq!(refused(ask(&someone).await).code, 401);
}

#[tokio::test]
async fn http_2_carries_many_watches_on_one_connection() {
    let env = env().await;
    let double = double(&env);
    let stream = tokio::net::TcpStream::connect(double.address()).await.expect("a connection");
    let (mut client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let before = double.all_open_watches();

    let mut bodies = Vec::new();
    for _ in 0..50 {
        client = client.ready().await.expect("room for a stream");
        let uri =
            format!("{}{}", double.url(), config_map_path(&env, "?watch=true&resourceVersion=0"));
        let request = http::Request::get(uri).body(()).expect("a request");
        let (response, _) = client.send_request(request, true).expect("it is sent");
        let response = response.await.expect("an answer");
        assert_eq!(response.status(), 200);
        bodies.push(response.into_body());
    }

    assert_eq!(double.all_open_watches(), before + 50);
    drop(bodies);
    assert!(eventually(PATIENCE, async || double.all_open_watches() == before).await);
    driver.abort();
}
