//! ValidatingAdmissionPolicies.

use durward_testkit::kubernetes::{PATIENCE, TestEnv};
use durward_testkit::process::eventually;
use durward_testkit::serde_json::json;
use kube::api::{Patch, PatchParams};

use super::*;

/// Makes a policy for ConfigMaps of this test's namespace, with its binding, and waits until it refuses what it must.
async fn enforce(env: &TestEnv, spec: &Value, refused: &Value) {
    let (name, group) = (env.namespace(), "admissionregistration.k8s.io/v1");
    let mut policy = json!({
        "apiVersion": group,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": spec,
    });
    policy["spec"]["matchConstraints"] = json!({"resourceRules": [{
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["configmaps"],
    }]});
    let binding = json!({
        "apiVersion": group,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}},
        },
    });
    env.create(&policy).await;
    env.create(&binding).await;
    let api = config_maps(env);
    let is_enforced = eventually(PATIENCE, async || {
        let made = create(&api, refused).await;
        if made.is_ok() {
            let name = refused["metadata"]["name"].as_str().expect("a name");
            api.delete(name, &Default::default()).await.expect("it goes");
        }
        made.is_err()
    });
    assert!(is_enforced.await, "the policy is not enforced");
}

#[tokio::test]
async fn a_policy_refuses_with_its_message_and_its_names() {
    let env = TestEnv::start().await;
    let spec = json!({"validations": [{
        "expression": "!has(object.data.port) || int(object.data.port) < 1024",
        "messageExpression": "'port ' + object.data.port + ' is taken'",
        "reason": "Forbidden",
    }]});
    let bad = config_map("bad", &json!({"port": "2000"}));
    enforce(&env, &spec, &bad).await;

    let status = refused(create(&config_maps(&env), &bad).await);
    let fine = create(&config_maps(&env), &config_map("fine", &json!({"port": "80"}))).await;

    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
    let name = env.namespace();
    assert_eq!(
        status.message,
        format!(
            "configmaps \"bad\" is forbidden: ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: port 2000 is taken"
        )
    );
    fine.expect("the policy has nothing against it");
}

#[tokio::test]
async fn a_policy_names_the_entries_of_a_list_and_those_of_a_map() {
    let env = TestEnv::start().await;
    let spec = json!({"validations": [{
        "expression": "!object.data.exists(key, object.data[key].split('/').all(part, part == 'no'))",
        "message": "no",
    }]});
    let bad = config_map("bad", &json!({"one": "yes/no", "two": "no/no"}));
    enforce(&env, &spec, &bad).await;

    let fine = create(&config_maps(&env), &config_map("fine", &json!({"one": "no/yes"}))).await;

    fine.expect("the policy has nothing against it");
}

#[tokio::test]
async fn a_policy_knows_the_namespace_the_user_and_the_version_before() {
    let env = TestEnv::start().await;
    let spec = json!({
        "variables": [{"name": "home", "expression": "namespaceObject.metadata.name"}],
        "matchConditions": [{"name": "named", "expression": "object.metadata.name != 'free'"}],
        "validations": [
            {
                "expression": "object.data.home == variables.home",
                "message": "home is the namespace",
            },
            {
                "expression": "oldObject == null || object.data.fixed == oldObject.data.fixed",
                "message": "fixed stays",
            },
            {"expression": "request.userInfo.username != 'mallory'", "message": "not mallory"},
        ],
    });
    let home = env.namespace();
    enforce(&env, &spec, &config_map("bad", &json!({"home": "elsewhere", "fixed": "1"}))).await;
    let api = config_maps(&env);

    created(&api, &config_map("free", &json!({}))).await;
    created(&api, &config_map("a", &json!({"home": home, "fixed": "1"}))).await;
    let change = json!({"data": {"fixed": "2"}});
    let status = refused(api.patch("a", &PatchParams::default(), &Patch::Merge(&change)).await);

    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert!(status.message.ends_with("denied request: fixed stays"), "{}", status.message);
}

#[tokio::test]
async fn an_expression_that_fails_denies() {
    let env = TestEnv::start().await;
    let spec = json!({"validations": [{"expression": "object.data.must == 'x'"}]});
    let bad = config_map("bad", &json!({"must": "y"}));
    enforce(&env, &spec, &bad).await;

    let failed = refused(create(&config_maps(&env), &bad).await);
    let missing = refused(create(&config_maps(&env), &config_map("b", &json!({"x": "y"}))).await);

    assert!(
        failed.message.ends_with("denied request: failed expression: object.data.must == 'x'"),
        "{}",
        failed.message
    );
    let expected =
        "denied request: expression 'object.data.must == 'x'' resulted in error: no such key: must";
    assert!(missing.message.to_lowercase().ends_with(expected), "{}", missing.message);
}
