//! A `HostedApi` as an installer sees it: what is to be in its tenant cluster.

use std::sync::Arc;

use durward_control::document::Content;
use durward_control::spec::api_proxy::{self, ApiProxyPlan};
use durward_control::spec::object_name::is_object_name;
use durward_control::spec::publish;
use durward_model::Kind;
use serde::Deserialize;
use serde_json::Value;

use super::{ABANDONED_CONDITION, CONDITION, FINALIZER, ROUTES_CONDITION};
use crate::object::{Object, ObjectName};
use crate::status::{Condition, Judgement, Truth};

/// Annotation that names the kubeconfig by which the objects can be removed, whatever the `HostedApi` says by then.
pub(super) const KUBECONFIG: &str = "durward.dev/api-proxy-kubeconfig";
/// Annotation that names the cluster with the objects, by the uid of its namespace `kube-system`.
pub(super) const CLUSTER: &str = "durward.dev/api-proxy-cluster";
/// Annotation that names clusters in which objects were left, joined by commas. Whoever has removed them there takes it away.
pub(super) const ABANDONED: &str = "durward.dev/api-proxy-abandoned";

/// Most clusters that are named as abandoned.
pub(super) const MOST_ABANDONED: usize = 8;

/// A `HostedApi`.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) name: ObjectName,
    pub(super) uid: Arc<str>,
    pub(super) generation: u64,
    /// Version of the object.
    pub(super) version: Arc<str>,
    /// True once its deletion was asked for.
    pub(super) is_deleted: bool,
    /// True while it has our finalizer.
    pub(super) has_finalizer: bool,
    /// The Secret with the kubeconfig of a cluster that has objects of ours.
    pub(super) installed_by: Option<String>,
    /// What is to be installed; the sentence says why that cannot be told.
    pub(super) plan: Result<Option<ApiProxyPlan>, String>,
    /// The cluster with objects of ours, if its kubeconfig may say that.
    pub(super) cluster: Option<Arc<str>>,
    /// Clusters in which objects were left.
    pub(super) abandoned: Vec<Arc<str>>,
    /// Routes for another ingress controller; the sentence says why they cannot be told.
    pub(super) routes: Result<Vec<Value>, String>,
    /// True if there is a `publish`.
    pub(super) asks_for_routes: bool,
    /// What was said of it, by type.
    pub(super) said: Vec<Condition>,
}

#[derive(Deserialize)]
pub(super) struct Whole {
    pub(super) metadata: Finalizers,
}

#[derive(Deserialize)]
pub(super) struct Finalizers {
    #[serde(default)]
    pub(super) finalizers: Vec<String>,
}

impl Target {
    /// Reads a `HostedApi`.
    ///
    /// # Errors
    /// Fails, with a phrase for people, if its metadata is not that of an object.
    pub(super) fn read(api_version: &str, json: &str) -> Result<Self, String> {
        let unreadable = |error: serde_json::Error| error.to_string();
        let Whole { metadata: Finalizers { finalizers } } =
            serde_json::from_str(json).map_err(unreadable)?;
        let object = Object::decode(Kind::HostedApi, api_version, json).map_err(unreadable)?;
        let sentences = |faults: Vec<api_proxy::PlanFault>| {
            let said = faults.iter().map(|it| format!("{} {}", it.field, it.sentence));
            said.collect::<Vec<_>>().join("; ")
        };
        let (plan, routes, asks_for_routes) = match object.document().content {
            Content::HostedApi(hosted) => (
                api_proxy::plan(&hosted.spec).map_err(sentences),
                publish::objects(&object.metadata.name, &hosted.spec).map_err(sentences),
                hosted.spec.publish.is_some(),
            ),
            _ => {
                let unread = || "spec cannot be read, see the condition Accepted".to_owned();
                (Err(unread()), Err(unread()), false)
            }
        };
        let metadata = object.metadata;
        let has_finalizer = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        // The tenant may write the annotation, and the name becomes a part of a path.
        let installed_by = metadata.annotations.get(KUBECONFIG);
        let installed_by = installed_by.filter(|name| has_finalizer && is_object_name(name));
        let list = |name: &str| {
            let written = metadata.annotations.get(name);
            let all = written.into_iter().flat_map(|text| text.split(','));
            let all = all.filter(|uid| is_object_name(uid)).take(MOST_ABANDONED);
            all.map(Arc::from).collect::<Vec<Arc<str>>>()
        };
        let ours = [CONDITION, ROUTES_CONDITION, ABANDONED_CONDITION];
        let mut said = object.conditions;
        said.retain(|one| ours.contains(&&*one.r#type));
        said.sort_by(|one, other| one.r#type.cmp(&other.r#type));
        Ok(Self {
            cluster: list(CLUSTER).into_iter().next(),
            abandoned: list(ABANDONED),
            name: metadata.object_name(),
            uid: Arc::clone(&metadata.uid),
            generation: metadata.generation,
            version: Arc::clone(&metadata.resource_version),
            is_deleted: metadata.deletion_timestamp.is_some(),
            has_finalizer,
            installed_by: installed_by.map(ToString::to_string),
            plan,
            routes,
            asks_for_routes,
            said,
        })
    }

    /// Returns what is said of clusters in which objects were left.
    pub(super) fn abandonment(&self) -> Option<Judgement> {
        if self.abandoned.is_empty() || self.is_deleted {
            return None;
        }
        let message = format!(
            "objects labelled app.kubernetes.io/managed-by=durward-api-addons were left in {}, known by the uid of its namespace kube-system: it could not be reached by a kubeconfig any more. Remove them there (durward api hand-back gives the endpoints of kubernetes back), then take the annotation {ABANDONED} away here",
            self.abandoned.join(", ")
        );
        Some(Judgement::new(ABANDONED_CONDITION, Truth::True, "KubeconfigReplaced", &message))
    }

    /// Returns whether the object says by which kubeconfig its objects can be removed, and stays until they are.
    pub(super) fn is_held(&self) -> bool {
        self.has_finalizer && self.installed_by.is_some()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(annotation: &str, finalizers: &[&str]) -> Target {
        let object = json!({
            "metadata": {"name": "t1", "namespace": "acme", "uid": "u", "finalizers": finalizers, "annotations": {KUBECONFIG: annotation}},
            "spec": {"names": ["t1.api.example"], "upstream": {"endpoints": ["10.0.0.1"]}},
        });
        Target::read("durward.dev/v1alpha1", &object.to_string()).unwrap()
    }

    #[test]
    fn an_annotation_that_is_no_name_of_a_secret_names_none() {
        for annotation in ["../../../other/secrets/admin", "..", "a/b", "A", "a?watch=1", ""] {
            let target = read(annotation, &[FINALIZER]);
            assert!(target.installed_by.is_none() && target.has_finalizer, "{annotation}");
        }

        let held = read("t1.admin", &["other", FINALIZER]);
        assert_eq!((held.installed_by.as_deref(), held.is_held()), (Some("t1.admin"), true));
        assert!(!read("t1.admin", &["other"]).is_held());
    }
}
