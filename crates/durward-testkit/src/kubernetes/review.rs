//! Questions to the server that store nothing: may a user do this, who am I, a token for a service account.

use serde_json::{Value, json};

use super::auth::Auth;
use super::failure::Failure;
use super::kind::GroupResource;
use super::rbac::{Attributes, allows};
use super::request::{Call, User};
use super::state::{State, seconds};
use super::store::Key;

/// Answers a review; `None` if the path is none.
pub(crate) fn answer(state: &State, call: &Call) -> Option<Result<Value, Failure>> {
    let target = call.target.as_ref()?;
    let path = (target.resource.group.as_str(), target.resource.resource.as_str());
    let review: fn(&State, &Call, Value) -> Value = match path {
        ("authorization.k8s.io", "selfsubjectaccessreviews" | "subjectaccessreviews") => access,
        ("authentication.k8s.io", "selfsubjectreviews") => who_am_i,
        _ => return None,
    };
    if call.verb != "create" {
        return Some(Err(Failure::method_not_allowed()));
    }
    let body = serde_json::from_slice::<Value>(&call.body);
    Some(match body {
        Ok(body) if body.is_object() => Ok(review(state, call, body)),
        _ => Err(Failure::bad_request("the object provided is unrecognized")),
    })
}

fn access(state: &State, call: &Call, mut review: Value) -> Value {
    let spec = &review["spec"];
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let is_own = review["kind"] != "SubjectAccessReview";
    let user = match is_own {
        true => call.user.clone(),
        false => {
            let groups = spec["groups"].as_array().into_iter().flatten();
            let groups = groups.filter_map(Value::as_str).map(str::to_owned).collect();
            User { name: text(spec, "user"), uid: text(spec, "uid"), groups }
        }
    };
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let attributes = match resource.is_object() {
        true => Attributes {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            resource: match text(resource, "subresource").as_str() {
                "" => text(resource, "resource"),
                subresource => format!("{}/{subresource}", text(resource, "resource")),
            },
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            path: String::new(),
        },
        false => Attributes {
            verb: text(path, "verb"),
            path: text(path, "path"),
            ..Attributes::default()
        },
    };
    review["status"] = json!({"allowed": allows(state, &user, &attributes)});
    review
}

fn who_am_i(_state: &State, call: &Call, mut review: Value) -> Value {
    let user = &call.user;
    review["status"] =
        json!({"userInfo": {"username": user.name, "uid": user.uid, "groups": user.groups}});
    review
}

/// Makes a token for a service account.
pub(crate) fn token(state: &State, auth: &mut Auth, call: &Call) -> Result<Value, Failure> {
    let target = call.target.clone().unwrap_or_default();
    let accounts = GroupResource::new("", "serviceaccounts");
    let account = state.store.get(&accounts, &Key::new(&target.namespace, &target.name));
    let account = account.ok_or_else(|| Failure::not_found(&accounts, &target.name))?;
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let lifetime = body["spec"]["expirationSeconds"].as_i64().unwrap_or(3_600);
    let namespace = &target.namespace;
    let user = User {
        name: format!("system:serviceaccount:{namespace}:{}", target.name),
        uid: account.uid.clone(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ],
    };
    let token = auth.token(user);
    let now = state.time();
    let end = now.checked_add(jiff::SignedDuration::from_secs(lifetime)).unwrap_or(now);
    Ok(json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": target.name, "namespace": namespace},
        "spec": {"expirationSeconds": lifetime, "audiences": body["spec"]["audiences"]},
        "status": {"token": token, "expirationTimestamp": seconds(end)},
    }))
}
