//! Reading: pages, selectors, versions, and what a reader sees of an object.

use durward_testkit::kubernetes::TestEnv;
use durward_testkit::serde_json::json;
use kube::api::ListParams;

use super::*;

async fn three(env: &TestEnv) {
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut json = config_map(name, &json!({"k": name}));
        json["metadata"]["labels"] = json!({"durward": label});
        created(&config_maps(env), &json).await;
    }
}

async fn names(api: &Api<DynamicObject>, params: &ListParams) -> Vec<String> {
    let list = api.list(params).await.expect("a list");
    list.items.into_iter().filter_map(|object| object.metadata.name).collect()
}

#[tokio::test]
async fn a_missing_object_is_not_found_in_the_servers_words() {
    let env = TestEnv::start().await;

    let status = refused(config_maps(&env).get("nothing").await);

    assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"));
    assert_eq!(status.message, "configmaps \"nothing\" not found");
    let details = status.details.expect("details");
    assert_eq!((details.name.as_str(), details.kind.as_str()), ("nothing", "configmaps"));
}

#[tokio::test]
async fn a_path_without_a_kind_is_no_status() {
    let env = TestEnv::start().await;

    let status = refused(env.raw("GET", "/apis/durward.test/v1/nothings", None).await);

    assert_eq!(status.code, 404);
    assert_ne!(status.reason, "NotFound", "the body is plain text, as the client says");
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let env = TestEnv::start().await;
    three(&env).await;
    let api = config_maps(&env);

    let list = |labels: &str| ListParams::default().labels(labels);
    assert_eq!(names(&api, &list("durward=x")).await, ["a", "c"]);
    assert_eq!(names(&api, &list("durward in (y)")).await, ["b"]);
    assert_eq!(names(&api, &list("durward,durward notin (x)")).await, ["b"]);
    let fields = ListParams::default().fields("metadata.name=c");
    assert_eq!(names(&api, &fields).await, ["c"]);
}

#[tokio::test]
async fn a_field_that_cannot_be_selected_by_is_a_bad_request() {
    let env = TestEnv::start().await;

    let params = ListParams::default().fields("data.x=1");
    let status = refused(config_maps(&env).list(&params).await);

    assert_eq!((status.code, status.reason.as_str()), (400, "BadRequest"));
    let expected =
        "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"";
    assert_eq!(status.message, expected);
    let secrets = env.api("v1", "Secret", "secrets", true);
    let status = refused(secrets.list(&params).await);
    assert_eq!(status.message, "field label not supported: data.x");
}

#[tokio::test]
async fn what_a_built_in_group_does_not_have_is_not_found() {
    let env = TestEnv::start().await;
    let namespace = env.namespace();

    for path in [
        "/apis/apps/v1/nothings".to_owned(),
        format!("/api/v1/namespaces/{namespace}/configmaps/a/status"),
    ] {
        let status = refused(env.raw("GET", &path, None).await);

        assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"), "{path}");
        assert_eq!(status.message, "the server could not find the requested resource");
    }
}

#[tokio::test]
async fn pages_show_one_moment() {
    let env = TestEnv::start().await;
    three(&env).await;
    let api = config_maps(&env);
    let selected = ListParams::default().labels("durward");

    let first = api.list(&selected.clone().limit(2)).await.expect("a page");
    let token = first.metadata.continue_.clone().expect("there is more");
    let mut late = config_map("d", &json!({}));
    late["metadata"]["labels"] = json!({"durward": "x"});
    created(&api, &late).await;
    let second = api.list(&selected.limit(2).continue_token(&token)).await.expect("a page");

    assert_eq!(first.items.len(), 2);
    let rest: Vec<_> =
        second.items.iter().filter_map(|item| item.metadata.name.as_deref()).collect();
    assert_eq!(rest, ["c"], "what came later is on no page");
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    assert!(second.metadata.continue_.unwrap_or_default().is_empty());
}

#[tokio::test]
async fn a_version_that_the_server_has_not_reached_is_a_timeout() {
    let env = TestEnv::start().await;
    let path =
        config_map_path(&env, "?resourceVersion=99999999999&resourceVersionMatch=NotOlderThan");

    let mut config = env.config();
    config.default_retry = false;
    let client = kube::Client::try_from(config).expect("a client");
    let request = http::Request::get(path).body(Vec::new()).expect("a request");
    let status = refused(client.request::<Value>(request).await);

    assert_eq!((status.code, status.reason.as_str()), (504, "Timeout"));
    assert!(
        status.message.contains("Too large resource version: 99999999999"),
        "{}",
        status.message
    );
}

#[tokio::test]
async fn items_of_a_built_in_list_do_not_say_their_kind() {
    let env = TestEnv::start().await;
    three(&env).await;
    env.define(&widget_definition(&env, &plain_spec())).await;
    created(&widgets(&env), &widget(&env, "a", &json!({"size": 1}))).await;

    let maps = env.raw("GET", &config_map_path(&env, ""), None).await.expect("a list");
    let path = format!("/apis/{}/v1/namespaces/{}/widgets", env.group(), env.namespace());
    let widgets = env.raw("GET", &path, None).await.expect("a list");

    assert_eq!(
        (maps["kind"].as_str(), maps["apiVersion"].as_str()),
        (Some("ConfigMapList"), Some("v1"))
    );
    assert_eq!(maps["items"][0]["kind"], Value::Null);
    assert_eq!(widgets["kind"], "WidgetList");
    assert_eq!(widgets["items"][0]["kind"], "Widget");
}

#[tokio::test]
async fn metadata_alone_can_be_read() {
    let env = TestEnv::start().await;
    three(&env).await;

    let list = config_maps(&env).list_metadata(&ListParams::default().labels("durward=y")).await;

    let list = list.expect("a list of metadata");
    assert_eq!(list.items.len(), 1);
    assert_eq!(list.items[0].metadata.name.as_deref(), Some("b"));
}

#[tokio::test]
async fn discovery_names_groups_and_resources() {
    let env = TestEnv::start().await;
    let mut definition = widget_definition(&env, &plain_spec());
    definition["spec"]["names"]["shortNames"] = json!(["wd"]);
    definition["spec"]["names"]["categories"] = json!(["durward"]);
    env.define(&definition).await;

    let version = env.client().apiserver_version().await.expect("a version");
    let core = env.raw("GET", "/api/v1", None).await.expect("resources");
    let own = env.raw("GET", &format!("/apis/{}/v1", env.group()), None).await.expect("resources");

    assert_eq!(version.major, "1");
    let names = |list: &Value| -> Vec<String> {
        let resources = list["resources"].as_array().cloned().unwrap_or_default();
        resources.iter().filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
    };
    assert!(names(&core).contains(&"configmaps".to_owned()));
    assert_eq!(names(&own), ["widgets", "widgets/status"]);
    let widgets = &own["resources"][0];
    assert_eq!(widgets["shortNames"], json!(["wd"]));
    assert_eq!(widgets["categories"], json!(["durward"]));
    assert_eq!(
        (widgets["namespaced"].as_bool(), widgets["kind"].as_str()),
        (Some(true), Some("Widget"))
    );
}

#[tokio::test]
async fn a_list_of_any_version_comes_whole() {
    let env = TestEnv::start().await;
    three(&env).await;

    let path = config_map_path(&env, "?limit=1&resourceVersion=0&labelSelector=durward");
    let list = env.raw("GET", &path, None).await.expect("a list");

    assert_eq!(list["items"].as_array().map(Vec::len), Some(3));
    assert_eq!(list["metadata"].get("continue"), None);
}

#[tokio::test]
async fn options_of_a_list_are_checked() {
    let env = TestEnv::start().await;
    let table = [
        (
            "resourceVersionMatch=Exact",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Odd",
            "resourceVersionMatch: Unsupported value: \"Odd\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            "sendInitialEvents=true",
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
    ];

    for (options, expected) in table {
        let path = config_map_path(&env, &format!("?{options}"));
        let status = refused(env.raw("GET", &path, None).await);

        assert_eq!(status.message, format!("ListOptions.meta.k8s.io \"\" is invalid: {expected}"));
    }
    let odd = refused(env.raw("GET", &config_map_path(&env, "?resourceVersion=odd"), None).await);
    assert_eq!(
        (odd.code, odd.message.as_str()),
        (
            400,
            "invalid resource version: resourceVersion: Invalid value: \"odd\": strconv.ParseUint: parsing \"odd\": invalid syntax"
        )
    );
}

#[tokio::test]
async fn one_object_is_read_though_a_watch_is_asked_for() {
    let env = TestEnv::start().await;
    three(&env).await;

    let read = env.raw("GET", &config_map_path(&env, "/a?watch=true&timeoutSeconds=1"), None).await;

    assert_eq!(read.expect("it is there")["metadata"]["name"], "a");
}

#[tokio::test]
async fn discovery_in_one_answer_says_the_same() {
    let env = TestEnv::start().await;
    env.define(&widget_definition(&env, &plain_spec())).await;
    let group = env.group();

    // A real server brings it up to date in its own time.
    let found =
        durward_testkit::process::eventually(durward_testkit::kubernetes::PATIENCE, async || {
            let list = env.client().list_api_groups_aggregated().await.expect("all groups");
            let list = serde_json::to_value(list).expect("it is JSON");
            let groups = list["items"].as_array().cloned().unwrap_or_default();
            let own = groups.iter().find(|one| one["metadata"]["name"] == *group);
            own.is_some_and(|own| {
                let resource = &own["versions"][0]["resources"][0];
                resource["resource"] == "widgets"
                    && resource["scope"] == "Namespaced"
                    && resource["subresources"][0]["subresource"] == "status"
            })
        });
    let core = env.client().list_core_api_versions_aggregated().await.expect("the core group");

    assert!(found.await);
    assert!(serde_json::to_string(&core).expect("it is JSON").contains("\"configmaps\""));
}
