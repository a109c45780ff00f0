//! Discovery of groups and resources, the version, and health.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::failure::Failure;
use super::kind::{Kind, Version};
use super::request::Call;
use super::state::State;

/// Media type of the document that describes all groups at once.
pub(crate) const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Media types of documents that this server has.
const ACCEPTED: &str = "application/json";

/// Answers a path that is no resource.
pub(crate) fn answer(state: &State, call: &Call) -> Result<Value, Failure> {
    let parts: Vec<&str> = call.path.trim_matches('/').split('/').collect();
    let only_aggregated = call.accept.contains("g=apidiscovery.k8s.io")
        && !call.accept.split(',').any(|one| one.trim() == ACCEPTED);
    match parts.as_slice() {
        ["api" | "apis"] if wants_aggregated(state, call) => {
            Ok(aggregated(state, parts[0] == "api"))
        }
        ["api" | "apis"] if only_aggregated => Err(Failure::not_acceptable(ACCEPTED)),
        ["version"] => Ok(version(state)),
        ["api"] => Ok(json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        })),
        ["apis"] => {
            let groups: Vec<Value> =
                groups(state).iter().map(|(name, versions)| group(name, versions)).collect();
            Ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", name] => {
            let groups = groups(state);
            let versions = groups.get(*name).ok_or_else(Failure::no_such_path)?;
            let mut group = group(name, versions);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            Ok(group)
        }
        _ => Err(Failure::no_such_path()),
    }
}

/// Returns whether a request is answered with all groups at once, which servers do in this form from 1.30 on.
pub(crate) fn wants_aggregated(state: &State, call: &Call) -> bool {
    let is_root = matches!(call.path.trim_matches('/'), "api" | "apis");
    is_root && state.minor >= 30 && call.accept.contains("g=apidiscovery.k8s.io;v=v2;")
}

/// Describes the resources of the core group, or of all others.
fn aggregated(state: &State, is_core: bool) -> Value {
    let groups = match is_core {
        true => BTreeMap::from([(String::new(), vec!["v1".to_owned()])]),
        false => groups(state),
    };
    let items = groups.iter().map(|(group, versions)| {
        let versions: Vec<Value> = versions
            .iter()
            .map(|version| {
                json!({
                    "version": version,
                    "resources": aggregated_resources(state, group, version),
                    "freshness": "Current",
                })
            })
            .collect();
        json!({"metadata": {"name": group}, "versions": versions})
    });
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items.collect::<Vec<Value>>(),
    })
}

fn aggregated_resources(state: &State, group: &str, version: &str) -> Vec<Value> {
    let mut described = Vec::new();
    for kind in state.kinds().filter(|kind| kind.resource.group == group) {
        let Some(served) = kind.version(version).filter(|served| served.served) else { continue };
        let response = json!({"group": group, "version": version, "kind": kind.kind});
        let mut resource = json!({
            "resource": kind.resource.resource,
            "responseKind": response,
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": kind.singular,
            "verbs": VERBS,
            "shortNames": kind.short_names,
            "categories": kind.categories,
        });
        if served.status {
            resource["subresources"] = json!([{
                "subresource": "status",
                "responseKind": response,
                "verbs": ["get", "patch", "update"],
            }]);
        }
        described.push(resource);
    }
    described
}

/// Verbs of a resource type.
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Lists the resources of a group and version.
pub(crate) fn resources(state: &State, path: &str) -> Option<Value> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version) = match parts.as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return None,
    };
    let mut resources = Vec::new();
    for kind in state.kinds().filter(|kind| kind.resource.group == group) {
        if let Some(version) = kind.version(version).filter(|version| version.served) {
            describe(kind, version, &mut resources);
        }
    }
    resources.extend(reviews(group, version));
    if resources.is_empty() {
        return None;
    }
    let group_version =
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }))
}

fn version(state: &State) -> Value {
    json!({
        "major": "1",
        "minor": state.minor.to_string(),
        "gitVersion": format!("v1.{}.0", state.minor),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "gc",
        "platform": "linux/amd64",
    })
}

/// Groups with their versions, preferred first; the core group is not among them.
fn groups(state: &State) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for kind in state.kinds().filter(|kind| !kind.resource.group.is_empty()) {
        let known = groups.entry(kind.resource.group.clone()).or_default();
        for version in kind.versions.iter().filter(|version| version.served) {
            if !known.contains(&version.name) {
                known.push(version.name.clone());
            }
        }
    }
    for group in ["authorization.k8s.io", "authentication.k8s.io"] {
        groups.insert(group.to_owned(), vec!["v1".to_owned()]);
    }
    groups
}

fn group(name: &str, versions: &[String]) -> Value {
    let version =
        |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
}

fn describe(kind: &Kind, version: &Version, resources: &mut Vec<Value>) {
    let mut resource = json!({
        "name": kind.resource.resource,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": VERBS,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    resources.push(resource);
    if version.status {
        resources.push(json!({
            "name": format!("{}/status", kind.resource.resource),
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": ["get", "patch", "update"],
        }));
    }
}

/// Resources that answer questions and store nothing.
fn reviews(group: &str, version: &str) -> Vec<Value> {
    let kinds: &[(&str, &str)] = match (group, version) {
        ("authorization.k8s.io", "v1") => &[
            ("selfsubjectaccessreviews", "SelfSubjectAccessReview"),
            ("subjectaccessreviews", "SubjectAccessReview"),
        ],
        ("authentication.k8s.io", "v1") => &[("selfsubjectreviews", "SelfSubjectReview")],
        _ => &[],
    };
    let describe = |&(name, kind): &(&str, &str)| json!({"name": name, "singularName": "", "namespaced": false, "kind": kind, "verbs": ["create"]});
    kinds.iter().map(describe).collect()
}
