//! A `HostedApi` as an installer sees it: what is to be in its tenant cluster.

use std::sync::Arc;

use durward_control::document::Content;
use durward_control::spec::api_proxy::{self, ApiProxyPlan};
use durward_control::spec::object_name::is_object_name;
use durward_model::Kind;
use serde::Deserialize;

use super::{CONDITION, FINALIZER};
use crate::object::{Object, ObjectName};
use crate::status::Condition;

/// Annotation that names the kubeconfig by which the objects can be removed, whatever the `HostedApi` says by then.
pub(super) const KUBECONFIG: &str = "durward.dev/api-proxy-kubeconfig";

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
    /// What was said of it.
    pub(super) said: Option<Condition>,
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
        let plan = match object.document().content {
            Content::HostedApi(hosted) => api_proxy::plan(&hosted.spec).map_err(|faults| {
                let said = faults.iter().map(|it| format!("{} {}", it.field, it.sentence));
                said.collect::<Vec<_>>().join("; ")
            }),
            _ => Err("spec cannot be read, see the condition Accepted".to_owned()),
        };
        let metadata = object.metadata;
        let has_finalizer = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        // The tenant may write the annotation, and the name becomes a part of a path.
        let installed_by = metadata.annotations.get(KUBECONFIG);
        let installed_by = installed_by.filter(|name| has_finalizer && is_object_name(name));
        Ok(Self {
            name: metadata.object_name(),
            uid: Arc::clone(&metadata.uid),
            generation: metadata.generation,
            version: Arc::clone(&metadata.resource_version),
            is_deleted: metadata.deletion_timestamp.is_some(),
            has_finalizer,
            installed_by: installed_by.map(ToString::to_string),
            plan,
            said: object.conditions.into_iter().find(|one| *one.r#type == *CONDITION),
        })
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
