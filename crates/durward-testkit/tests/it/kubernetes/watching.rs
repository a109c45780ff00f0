//! Watching: order, resumption, bookmarks, and the end of a history.

use std::pin::pin;
use std::time::Duration;

use durward_testkit::kubernetes::{PATIENCE, TestEnv};
use durward_testkit::serde_json::json;
use futures_util::{Stream, StreamExt};
use kube::api::{DeleteParams, ListParams, WatchEvent, WatchParams};

use super::*;

type Event = WatchEvent<DynamicObject>;

/// Returns the next event that is no bookmark, as its type and the object's name.
async fn next(
    stream: &mut (impl Stream<Item = Result<Event, kube::Error>> + Unpin),
) -> (&'static str, String) {
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await.expect("an event in time");
        let name = |object: DynamicObject| object.metadata.name.unwrap_or_default();
        return match event.expect("the watch goes on").expect("an event is read") {
            WatchEvent::Added(object) => ("ADDED", name(object)),
            WatchEvent::Modified(object) => ("MODIFIED", name(object)),
            WatchEvent::Deleted(object) => ("DELETED", name(object)),
            WatchEvent::Error(status) => ("ERROR", format!("{} {}", status.code, status.reason)),
            WatchEvent::Bookmark(_) => continue,
        };
    }
}

async fn version_of_list(api: &Api<DynamicObject>) -> String {
    let list = api.list(&ListParams::default()).await.expect("a list");
    list.metadata.resource_version.expect("a list has a version")
}

#[tokio::test]
async fn a_watch_tells_changes_in_order_from_a_version_on() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    let fields = WatchParams::default().fields("metadata.name=a");
    let version = version_of_list(&api).await;
    created(&api, &config_map("a", &json!({"x": "1"}))).await;
    patch(&env, &config_map_path(&env, "/a"), MERGE_PATCH, &json!({"data": {"x": "2"}}))
        .await
        .expect("a change");
    api.delete("a", &DeleteParams::default()).await.expect("it goes");

    let mut stream = pin!(api.watch(&fields, &version).await.expect("a watch"));

    assert_eq!(next(&mut stream).await, ("ADDED", "a".to_owned()));
    assert_eq!(next(&mut stream).await, ("MODIFIED", "a".to_owned()));
    assert_eq!(next(&mut stream).await, ("DELETED", "a".to_owned()));
    created(&api, &config_map("a", &json!({"x": "3"}))).await;
    assert_eq!(next(&mut stream).await, ("ADDED", "a".to_owned()), "the watch goes on");
}

#[tokio::test]
async fn a_watch_from_zero_begins_with_what_is_there() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    let params = WatchParams::default().labels("durward=here");
    let mut json = config_map("a", &json!({}));
    json["metadata"]["labels"] = json!({"durward": "here"});
    created(&api, &json).await;

    let mut stream = pin!(api.watch(&params, "0").await.expect("a watch"));

    assert_eq!(next(&mut stream).await, ("ADDED", "a".to_owned()));
}

#[tokio::test]
async fn an_object_that_leaves_the_selection_is_deleted_for_the_watcher() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    let params = WatchParams::default().labels("durward=here");
    let version = version_of_list(&api).await;
    let mut json = config_map("a", &json!({}));
    json["metadata"]["labels"] = json!({"durward": "here"});
    created(&api, &json).await;
    let path = config_map_path(&env, "/a");
    let label = |value: &str| json!({"metadata": {"labels": {"durward": value}}});
    patch(&env, &path, MERGE_PATCH, &label("gone")).await.expect("a change");
    patch(&env, &path, MERGE_PATCH, &label("here")).await.expect("a change");

    let mut stream = pin!(api.watch(&params, &version).await.expect("a watch"));

    assert_eq!(next(&mut stream).await, ("ADDED", "a".to_owned()));
    assert_eq!(next(&mut stream).await, ("DELETED", "a".to_owned()));
    assert_eq!(next(&mut stream).await, ("ADDED", "a".to_owned()));
}

#[tokio::test]
async fn a_deleted_object_carries_the_version_of_its_deletion() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    let made = created(&api, &config_map("a", &json!({}))).await;
    let version = made.metadata.resource_version.clone().expect("a version");
    api.delete("a", &DeleteParams::default()).await.expect("it goes");

    let params = WatchParams::default().fields("metadata.name=a");
    let mut stream = pin!(api.watch(&params, &version).await.expect("a watch"));
    let event = tokio::time::timeout(PATIENCE, stream.next()).await.expect("an event in time");

    let Some(Ok(WatchEvent::Deleted(object))) = event else { panic!("a deletion, not {event:?}") };
    let number = |version: &str| version.parse::<u64>().expect("versions are numbers");
    let last = object.metadata.resource_version.expect("a version");
    assert!(number(&last) > number(&version), "{last} after {version}");
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark_that_says_so() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    created(&api, &config_map("a", &json!({}))).await;
    created(&api, &config_map("b", &json!({}))).await;
    let params = WatchParams::default().initial_events();

    let mut stream = pin!(api.watch(&params, "").await.expect("a watch"));

    let mut names = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await.expect("an event in time");
        match event.expect("the watch goes on").expect("an event is read") {
            WatchEvent::Added(object) => names.extend(object.metadata.name),
            WatchEvent::Bookmark(bookmark) => {
                let mark = bookmark.metadata.annotations.get("k8s.io/initial-events-end").cloned();
                assert_eq!(mark.as_deref(), Some("true"));
                break;
            }
            other => panic!("neither an object nor a bookmark: {other:?}"),
        }
    }
    names.retain(|name| name.len() == 1);
    names.sort();
    assert_eq!(names, ["a", "b"]);
}

#[tokio::test]
async fn a_watch_ends_after_the_time_that_it_asks_for() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    let version = version_of_list(&api).await;

    let params = WatchParams::default().timeout(1);
    let stream = pin!(api.watch(&params, &version).await.expect("a watch"));
    let events = tokio::time::timeout(PATIENCE, stream.count()).await;

    assert!(events.is_ok(), "the watch goes on after {PATIENCE:?}");
}

#[tokio::test]
async fn a_version_that_is_too_old_is_an_error_event() {
    let env = TestEnv::start().await;
    let Some(double) = env.need_double("watching::a_version_that_is_too_old") else { return };
    let api = config_maps(&env);
    created(&api, &config_map("a", &json!({}))).await;
    double.forget_history();

    let mut stream = pin!(api.watch(&WatchParams::default(), "1").await.expect("a watch"));

    assert_eq!(next(&mut stream).await, ("ERROR", "410 Expired".to_owned()));
    assert!(stream.next().await.is_none(), "the watch ends with the error");
}

#[tokio::test]
async fn a_server_without_watch_lists_refuses_them() {
    let settings = durward_testkit::kubernetes::ApiServer::settings().version(31);
    let env = TestEnv::on_double(settings).await;

    let params = WatchParams::default().initial_events();
    let status = refused(config_maps(&env).watch(&params, "").await.map(drop));

    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert!(status.message.contains("sendInitialEvents: Forbidden"), "{}", status.message);
}

#[tokio::test]
async fn a_watch_of_one_object_tells_of_no_other() {
    let env = TestEnv::start().await;
    let api = config_maps(&env);
    let version = version_of_list(&api).await;
    let params = WatchParams::default().fields("metadata.name=b");
    created(&api, &config_map("a", &json!({}))).await;
    created(&api, &config_map("b", &json!({}))).await;

    let mut stream = pin!(api.watch(&params, &version).await.expect("a watch"));

    assert_eq!(next(&mut stream).await, ("ADDED", "b".to_owned()));
    let more = tokio::time::timeout(Duration::from_millis(200), next(&mut stream)).await;
    assert!(more.is_err(), "only b is watched");
}

#[tokio::test]
async fn initial_events_of_a_version_to_come_are_a_timeout() {
    let env = TestEnv::start().await;
    let options = "?watch=true&timeoutSeconds=60&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&resourceVersion=99999999999";
    let request = http::Request::get(config_map_path(&env, options)).body(Vec::new());

    let events = env.client().request_events::<DynamicObject>(request.expect("a request")).await;
    let mut stream = pin!(events.expect("a watch"));

    assert_eq!(next(&mut stream).await, ("ERROR", "504 Timeout".to_owned()));
}
