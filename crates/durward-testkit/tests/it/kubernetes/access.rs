//! Who may do what.

use durward_testkit::kubernetes::{PATIENCE, TestEnv};
use durward_testkit::process::eventually;
use durward_testkit::serde_json::json;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::*;

/// Lets a user do this in the test's namespace.
async fn grant(env: &TestEnv, user: &str, rules: &Value) {
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "Role",
        "metadata": {"name": user},
        "rules": rules,
    });
    let binding = json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "RoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": user},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    });
    env.create(&role).await;
    env.create(&binding).await;
}

/// Sends a request as a client and returns the HTTP status and the message of a refusal.
async fn ask(client: &Client, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .expect("a path makes a request");
    match client.request::<Value>(request).await {
        Ok(_) => (200, String::new()),
        Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
        Err(error) => panic!("the server answers, but: {error}"),
    }
}

fn secrets_path(env: &TestEnv, rest: &str) -> String {
    format!("/api/v1/namespaces/{}/secrets{rest}", env.namespace())
}

#[tokio::test]
async fn a_stranger_may_do_nothing() {
    let env = TestEnv::start().await;
    let client = env.client_as("stranger", &[]);

    let (code, message) = ask(&client, "GET", &secrets_path(&env, ""), None).await;
    let namespace = env.namespace();
    assert_eq!(code, 403);
    assert_eq!(
        message,
        format!(
            "secrets is forbidden: User \"stranger\" cannot list resource \"secrets\" in API group \"\" in the namespace \"{namespace}\""
        )
    );

    let (code, message) = ask(&client, "GET", "/api/v1/nodes/a", None).await;
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "nodes \"a\" is forbidden: User \"stranger\" cannot get resource \"nodes\" in API group \"\" at the cluster scope"
    );

    let (code, message) = ask(&client, "GET", "/metrics", None).await;
    assert_eq!(code, 403);
    assert_eq!(message, "forbidden: User \"stranger\" cannot get path \"/metrics\"");
}

#[tokio::test]
async fn a_right_may_be_for_one_name() {
    let env = TestEnv::start().await;
    for name in ["mine", "other"] {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        env.create(&secret).await;
    }
    let rule = json!({
        "apiGroups": [""],
        "resources": ["secrets"],
        "resourceNames": ["mine"],
        "verbs": ["get", "watch", "list"],
    });
    grant(&env, "reader", &json!([rule])).await;
    let client = env.client_as("reader", &[]);
    let path = |rest: &str| secrets_path(&env, rest);

    let allowed =
        eventually(PATIENCE, async || ask(&client, "GET", &path("/mine"), None).await.0 == 200);
    assert!(allowed.await);
    assert_eq!(ask(&client, "GET", &path("/other"), None).await.0, 403);
    assert_eq!(ask(&client, "GET", &path(""), None).await.0, 403, "a list is of all");
    let by_name = path("?fieldSelector=metadata.name%3Dmine");
    assert_eq!(ask(&client, "GET", &by_name, None).await.0, 200, "a list of one name is not");
    let by_other = path("?fieldSelector=metadata.name%3Dother");
    assert_eq!(ask(&client, "GET", &by_other, None).await.0, 403);
    assert_eq!(ask(&client, "DELETE", &path("/mine"), None).await.0, 403);
}

#[tokio::test]
async fn a_subresource_is_a_right_of_its_own() {
    let env = TestEnv::start().await;
    env.define(&widget_definition(&env, &plain_spec())).await;
    created(&widgets(&env), &widget(&env, "a", &json!({"size": 1}))).await;
    let rule = json!({
        "apiGroups": [env.group()],
        "resources": ["widgets/status"],
        "verbs": ["patch"],
    });
    grant(&env, "writer", &json!([rule])).await;
    let client = env.client_as("writer", &[]);
    let path = |rest: &str| {
        format!("/apis/{}/v1/namespaces/{}/widgets/a{rest}", env.group(), env.namespace())
    };
    let send = async |rest: &str| {
        let request = http::Request::patch(path(rest))
            .header(http::header::CONTENT_TYPE, MERGE_PATCH)
            .body(json!({"status": {"phase": "x"}}).to_string().into_bytes())
            .expect("a path makes a request");
        client.request::<Value>(request).await
    };

    let allowed = eventually(PATIENCE, async || send("/status").await.is_ok());
    assert!(allowed.await);
    let status = refused(send("").await);

    assert_eq!(status.code, 403);
    let expected = format!(
        "widgets.{group} \"a\" is forbidden: User \"writer\" cannot patch resource \"widgets\" in API group \"{group}\" in the namespace \"{}\"",
        env.namespace(),
        group = env.group()
    );
    assert_eq!(status.message, expected);
}

#[tokio::test]
async fn a_user_may_ask_what_it_may_do() {
    let env = TestEnv::start().await;
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]});
    grant(&env, "asker", &json!([rule])).await;
    let client = env.client_as("asker", &[]);
    let may = async |verb: &str| {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": verb,
                "resource": "configmaps",
                "namespace": env.namespace(),
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(review.to_string().into_bytes())
            .expect("a path makes a request");
        let answer = client.request::<Value>(request).await.expect("everybody may ask");
        answer["status"]["allowed"] == true
    };

    assert!(eventually(PATIENCE, async || may("get").await).await);
    assert!(!may("delete").await);
}

#[tokio::test]
async fn a_service_account_has_a_token_and_its_own_rights() {
    let env = TestEnv::start().await;
    let kubeconfig = env.service_account("gateway").await;
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "Role",
        "metadata": {"name": "gateway"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    });
    let binding = json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "RoleBinding",
        "metadata": {"name": "gateway"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "gateway"},
        "subjects": [{"kind": "ServiceAccount", "name": "gateway", "namespace": env.namespace()}],
    });
    env.create(&role).await;
    env.create(&binding).await;
    let kubeconfig: Kubeconfig = serde_json::from_str(&kubeconfig).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let client = Client::try_from(config.expect("a configuration")).expect("a client");

    let allowed = eventually(PATIENCE, async || {
        ask(&client, "GET", &config_map_path(&env, ""), None).await.0 == 200
    });
    assert!(allowed.await);
    let (code, message) = ask(&client, "GET", &secrets_path(&env, ""), None).await;

    assert_eq!(code, 403);
    let user = format!("User \"system:serviceaccount:{}:gateway\"", env.namespace());
    assert!(message.contains(&user), "{message}");
}

#[tokio::test]
async fn a_token_that_nobody_has_is_unauthorized() {
    let env = TestEnv::start().await;
    let mut config = env.config();
    config.default_retry = false;
    config.auth_info = Default::default();
    config.headers.push((
        http::header::AUTHORIZATION,
        http::HeaderValue::from_static("Bearer nobody-has-this"),
    ));
    let client = Client::try_from(config).expect("a client");

    let (code, message) = ask(&client, "GET", &config_map_path(&env, ""), None).await;

    assert_eq!((code, message.as_str()), (401, "Unauthorized"));
}
