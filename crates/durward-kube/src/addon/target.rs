//! A `HostedApi` as an installer sees it: what is to be in its tenant cluster.

use std::sync::Arc;

use durward_control::document::Content;
use durward_control::spec::api_proxy::{self, ApiProxyPlan};
use durward_model::Kind;
use jiff::Timestamp;
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
    /// When its deletion was asked for.
    pub(super) deleted: Option<Timestamp>,
    /// The Secret with the kubeconfig of a cluster that has objects of ours.
    pub(super) installed_by: Option<String>,
    /// What is to be installed; the sentence says why that cannot be told.
    pub(super) plan: Result<Option<ApiProxyPlan>, String>,
    /// What was said of it.
    pub(super) said: Option<Condition>,
}

#[derive(Deserialize)]
struct Whole {
    metadata: Finalizers,
}

#[derive(Deserialize)]
struct Finalizers {
    #[serde(default)]
    finalizers: Vec<String>,
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
        let deleted = metadata.deletion_timestamp.as_ref();
        let deleted = deleted.map(|time| time.parse().unwrap_or(Timestamp::UNIX_EPOCH));
        let is_ours = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        let installed_by = metadata.annotations.get(KUBECONFIG).filter(|_| is_ours);
        Ok(Self {
            name: metadata.object_name(),
            uid: Arc::clone(&metadata.uid),
            generation: metadata.generation,
            deleted,
            installed_by: installed_by.map(ToString::to_string),
            plan,
            said: object.conditions.into_iter().find(|one| *one.r#type == *CONDITION),
        })
    }
}
