//! Role-based access control.

use serde_json::{Value, json};

use super::failure::Failure;
use super::kind::GroupResource;
use super::request::{Call, User};
use super::state::State;

/// Group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// What a user wants to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    /// Resource, with its subresource after a slash.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Path that is no resource; empty for a resource.
    pub(crate) path: String,
}

/// Objects of RBAC.
pub(crate) fn resource(plural: &str) -> GroupResource {
    GroupResource::new("rbac.authorization.k8s.io", plural)
}

/// Checks that the user of a request may do it.
pub(crate) fn authorize(state: &State, call: &Call) -> Result<(), Failure> {
    let Some(target) = &call.target else {
        let (verb, path) = (call.verb.to_owned(), call.path.clone());
        let attributes = Attributes { verb, path, ..Attributes::default() };
        if allows(state, &call.user, &attributes) {
            return Ok(());
        }
        let (user, verb, path) = (&call.user.name, call.verb, &call.path);
        return Err(Failure::forbidden_path(&format!(
            "User \"{user}\" cannot {verb} path \"{path}\""
        )));
    };
    let mut name = target.name.clone();
    if name.is_empty() && matches!(call.verb, "list" | "watch" | "deletecollection") {
        // A selection by name counts as the name.
        let fields = call.query.text("fieldSelector");
        let selector = super::selector::Selector::read("", "", fields).unwrap_or_default();
        name = selector.name().unwrap_or_default().to_owned();
    }
    let resource = match target.subresource.as_str() {
        "" => target.resource.resource.clone(),
        subresource => format!("{}/{subresource}", target.resource.resource),
    };
    let attributes = Attributes {
        verb: call.verb.to_owned(),
        group: target.resource.group.clone(),
        resource,
        // A Namespace is its own namespace here.
        namespace: match target.resource.to_string().as_str() {
            "namespaces" => target.name.clone(),
            _ => target.namespace.clone(),
        },
        name,
        path: String::new(),
    };
    match allows(state, &call.user, &attributes) {
        true => Ok(()),
        false => Err(refusal(&call.user, &attributes, &target.resource)),
    }
}

fn refusal(user: &User, wanted: &Attributes, resource: &GroupResource) -> Failure {
    let place = match wanted.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let detail = format!(
        "User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
        user.name, wanted.verb, wanted.resource, wanted.group
    );
    Failure::forbidden(resource, &wanted.name, &detail)
}

/// Returns whether a user may do something.
pub(crate) fn allows(state: &State, user: &User, wanted: &Attributes) -> bool {
    if user.groups.iter().any(|group| group == MASTERS) || is_public(user, wanted) {
        return true;
    }
    let everywhere = state.store.objects(&resource("clusterrolebindings"));
    let mut everywhere = everywhere.map(|binding| binding.value());
    if everywhere.any(|binding| binds(state, &binding, "", user, wanted)) {
        return true;
    }
    if wanted.namespace.is_empty() {
        return false;
    }
    let here = state.store.objects(&resource("rolebindings"));
    let mut here = here.filter(|binding| binding.key.namespace == wanted.namespace);
    here.any(|binding| binds(state, &binding.value(), &wanted.namespace, user, wanted))
}

/// Returns whether every user may do it: discovery, health, and questions about oneself.
fn is_public(user: &User, wanted: &Attributes) -> bool {
    let first = wanted.path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let is_known = user.groups.iter().any(|group| group == "system:authenticated");
    let is_question = wanted.verb == "create"
        && wanted.resource.starts_with("selfsubject")
        && wanted.group.ends_with(".k8s.io");
    match first {
        "healthz" | "livez" | "readyz" | "version" => wanted.verb == "get",
        "api" | "apis" | "openapi" => is_known && wanted.verb == "get",
        _ => is_known && is_question,
    }
}

fn binds(
    state: &State,
    binding: &Value,
    namespace: &str,
    user: &User,
    wanted: &Attributes,
) -> bool {
    let subjects = binding["subjects"].as_array().into_iter().flatten();
    let is_subject = |subject: &Value| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("User") => name == user.name,
            Some("Group") => user.groups.iter().any(|group| group == name),
            Some("ServiceAccount") => {
                let place = subject["namespace"].as_str().unwrap_or(namespace);
                user.name == format!("system:serviceaccount:{place}:{name}")
            }
            _ => false,
        }
    };
    if !subjects.into_iter().any(is_subject) {
        return false;
    }
    let role = &binding["roleRef"];
    let name = role["name"].as_str().unwrap_or_default();
    let (plural, place) = match role["kind"].as_str() {
        Some("ClusterRole") => ("clusterroles", ""),
        _ => ("roles", namespace),
    };
    let role = state.store.get(&resource(plural), &super::store::Key::new(place, name));
    let Some(role) = role.map(|role| role.value()) else { return false };
    let mut rules = role["rules"].as_array().into_iter().flatten();
    rules.any(|rule| permits(rule, wanted))
}

fn permits(rule: &Value, wanted: &Attributes) -> bool {
    let has = |key: &str, fits: &dyn Fn(&str) -> bool| {
        let list = rule[key].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).any(fits)
    };
    let has_verb = has("verbs", &|verb| verb == "*" || verb == wanted.verb);
    if !wanted.path.is_empty() {
        let fits = |path: &str| match path.strip_suffix('*') {
            Some(prefix) => wanted.path.starts_with(prefix),
            None => path == wanted.path,
        };
        return has_verb && has("nonResourceURLs", &fits);
    }
    let any_subresource =
        wanted.resource.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
    let is_resource = |resource: &str| {
        resource == "*"
            || resource == wanted.resource
            || any_subresource.as_deref() == Some(resource)
    };
    let names = rule["resourceNames"].as_array().filter(|names| !names.is_empty());
    has_verb
        && has("apiGroups", &|group| group == "*" || group == wanted.group)
        && has("resources", &is_resource)
        && names.is_none_or(|names| names.iter().any(|name| name == wanted.name.as_str()))
}

/// Roles that every cluster has.
pub(crate) fn default_roles() -> Vec<Value> {
    let everything = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]);
    let role = |name: &str, rules: &Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "rules": rules,
        })
    };
    let view = json!([{
        "apiGroups": [""],
        "resources": ["configmaps", "endpoints", "events", "namespaces", "pods", "serviceaccounts", "services"],
        "verbs": ["get", "list", "watch"],
    }, {
        "apiGroups": ["apps", "discovery.k8s.io", "networking.k8s.io", "policy"],
        "resources": ["*"],
        "verbs": ["get", "list", "watch"],
    }]);
    vec![role("cluster-admin", &everything), role("view", &view)]
}
