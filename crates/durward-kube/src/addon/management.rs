//! The management cluster: Secrets that a `HostedApi` names, its finalizer, and the condition that says what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use durward_control::spec::object_name::is_object_name;
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::target::{ABANDONED, CLUSTER, KUBECONFIG, Target, Whole};
use super::{CONDITION, FINALIZER, MANAGER, SecretEntries};
use crate::request::{self, ApiError, LONGEST_OBJECT};
use crate::resource_type::{HOSTED_APIS, SECRETS};
use crate::status::{Condition, Judgement, with_times};

const APPLY: &str = "application/apply-patch+yaml";

/// The API server that has the `HostedApi`s.
#[derive(Clone)]
pub(super) struct Management {
    pub(super) read: kube::Client,
    pub(super) write: kube::Client,
}

/// What a `HostedApi` notes of the cluster with its objects.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Secret with the kubeconfig by which they can be removed.
    pub(super) kubeconfig: String,
    /// The cluster, if that is known.
    pub(super) cluster: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

impl Management {
    /// Returns the entries of a Secret.
    pub(super) async fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<SecretEntries, ApiError> {
        if !is_object_name(name) {
            return Err(ApiError::NotFound("no Secret can have this name".to_owned()));
        }
        let path = SECRETS.object_path(SECRETS.newest(), Some(namespace), name);
        let body = request::get_within(&self.read, &path, 2 * LONGEST_OBJECT).await?;
        let unreadable = || ApiError::Unreadable("its data has another form".to_owned());
        let secret: Secret = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        let decoded = secret.data.into_iter().map(|(key, value)| {
            STANDARD.decode(value).map(|bytes| (key, bytes)).map_err(|_| unreadable())
        });
        Ok(SecretEntries(decoded.collect::<Result<_, _>>()?))
    }

    /// Notes in the `HostedApi` in which cluster its objects are and by which kubeconfig they can be removed, or that there are none, and the clusters in which some were left.
    pub(super) async fn hold(
        &self,
        target: &Target,
        held: Option<&Held>,
        abandoned: &[Arc<str>],
    ) -> Result<(), ApiError> {
        let mut metadata = json!({
            "name": &*target.name.name, "namespace": &*target.name.namespace,
            // An object of the same name that is not the one meant is left alone.
            "uid": &*target.uid,
        });
        if let Some(Held { kubeconfig, cluster }) = held {
            metadata["finalizers"] = json!([FINALIZER]);
            metadata["annotations"] = json!({ KUBECONFIG: kubeconfig });
            if let Some(cluster) = cluster {
                metadata["annotations"][CLUSTER] = json!(&**cluster);
            }
        }
        if !abandoned.is_empty() {
            metadata["annotations"][ABANDONED] = json!(abandoned.join(","));
        }
        let answer = self.apply(target, "", json!({ "metadata": metadata })).await?;
        if held.is_some() {
            return Ok(());
        }
        // One that somebody else wrote too, by hand or from a backup, is not taken away with our own fields.
        let Whole { metadata } = serde_json::from_slice(&answer)
            .map_err(|_| ApiError::Unreadable("a HostedApi has another form".to_owned()))?;
        match metadata.finalizers.iter().position(|finalizer| finalizer == FINALIZER) {
            Some(at) => self.drop_finalizer(target, at).await,
            None => Ok(()),
        }
    }

    /// Takes the finalizer away that is at a position of the list, unless the object was changed there.
    async fn drop_finalizer(&self, target: &Target, at: usize) -> Result<(), ApiError> {
        let path = format!("/metadata/finalizers/{at}");
        let patch = json!([
            { "op": "test", "path": "/metadata/uid", "value": &*target.uid },
            { "op": "test", "path": path, "value": FINALIZER },
            { "op": "remove", "path": path },
        ]);
        let version = HOSTED_APIS.newest();
        let path = HOSTED_APIS.object_path(version, target.name.namespace(), &target.name.name);
        let path = request::path(&path, &[("fieldManager", MANAGER)]);
        let (kind, body) = ("application/json-patch+json", Bytes::from(patch.to_string()));
        request::send(&self.write, Method::PATCH, &path, kind, body).await.map(drop)
    }

    /// Says in conditions what became of a `HostedApi`, unless that was said already.
    ///
    /// # Errors
    /// Fails with a conflict if the object was written since it was read: what it says by then is not known here.
    pub(super) async fn say(
        &self,
        target: &Target,
        mut judgements: Vec<Judgement>,
    ) -> Result<(), ApiError> {
        judgements.sort_by_key(|one| one.r#type);
        let former: &[Condition] = &target.said;
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let conditions = with_times(&judgements, target.generation, former, &Arc::from(now));
        if conditions == former {
            return Ok(());
        }
        let metadata = json!({
            "name": &*target.name.name, "namespace": &*target.name.namespace, "uid": &*target.uid,
            "resourceVersion": &*target.version,
        });
        let body = json!({ "metadata": metadata, "status": { "conditions": conditions } });
        self.apply(target, "/status", body).await.map(drop)
    }

    async fn apply(
        &self,
        target: &Target,
        below: &str,
        mut body: Value,
    ) -> Result<Bytes, ApiError> {
        let version = HOSTED_APIS.newest();
        body["apiVersion"] = json!(HOSTED_APIS.api_version(version));
        body["kind"] = json!(HOSTED_APIS.kind);
        let object = HOSTED_APIS.object_path(version, target.name.namespace(), &target.name.name);
        let query = [("fieldManager", MANAGER), ("force", "true")];
        let path = request::path(&format!("{object}{below}"), &query);
        let body = Bytes::from(body.to_string());
        request::send(&self.write, Method::PATCH, &path, APPLY, body).await
    }
}

/// Returns a judgement of the installation.
pub(super) fn judgement(status: crate::status::Truth, reason: &str, message: &str) -> Judgement {
    Judgement::new(CONDITION, status, reason, message)
}
