//! The management cluster: Secrets that a `HostedApi` names, its finalizer, and the condition that says what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::target::{KUBECONFIG, Target};
use super::{CONDITION, FINALIZER, MANAGER, SecretEntries};
use crate::request::{self, ApiError};
use crate::resource_type::{HOSTED_APIS, SECRETS};
use crate::status::{Condition, Judgement, with_times};

const APPLY: &str = "application/apply-patch+yaml";

/// The API server that has the `HostedApi`s.
#[derive(Clone)]
pub(super) struct Management {
    pub(super) read: kube::Client,
    pub(super) write: kube::Client,
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
        let path = SECRETS.object_path(SECRETS.newest(), Some(namespace), name);
        let body = request::get(&self.read, &path).await?;
        let unreadable = || ApiError::Unreadable("its data has another form".to_owned());
        let secret: Secret = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        let decoded = secret.data.into_iter().map(|(key, value)| {
            STANDARD.decode(value).map(|bytes| (key, bytes)).map_err(|_| unreadable())
        });
        Ok(SecretEntries(decoded.collect::<Result<_, _>>()?))
    }

    /// Notes in the `HostedApi` by which kubeconfig its objects can be removed, or that there are none.
    pub(super) async fn hold(
        &self,
        target: &Target,
        kubeconfig: Option<&str>,
    ) -> Result<(), ApiError> {
        let mut metadata = json!({
            "name": &*target.name.name, "namespace": &*target.name.namespace,
            // An object of the same name that is not the one meant is left alone.
            "uid": &*target.uid,
        });
        if let Some(kubeconfig) = kubeconfig {
            metadata["finalizers"] = json!([FINALIZER]);
            metadata["annotations"] = json!({ KUBECONFIG: kubeconfig });
        }
        self.apply(target, "", json!({ "metadata": metadata })).await
    }

    /// Says what became of a `HostedApi`, unless that was said already.
    pub(super) async fn say(
        &self,
        target: &Target,
        judgement: Option<Judgement>,
    ) -> Result<(), ApiError> {
        let judgements: Vec<Judgement> = judgement.into_iter().collect();
        let former: Vec<Condition> = target.said.iter().cloned().collect();
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let conditions = with_times(&judgements, target.generation, &former, &Arc::from(now));
        if conditions == former {
            return Ok(());
        }
        let metadata = json!({
            "name": &*target.name.name, "namespace": &*target.name.namespace, "uid": &*target.uid,
        });
        let body = json!({ "metadata": metadata, "status": { "conditions": conditions } });
        self.apply(target, "/status", body).await
    }

    async fn apply(&self, target: &Target, below: &str, mut body: Value) -> Result<(), ApiError> {
        let version = HOSTED_APIS.newest();
        body["apiVersion"] = json!(HOSTED_APIS.api_version(version));
        body["kind"] = json!(HOSTED_APIS.kind);
        let object = HOSTED_APIS.object_path(version, target.name.namespace(), &target.name.name);
        let query = [("fieldManager", MANAGER), ("force", "true")];
        let path = request::path(&format!("{object}{below}"), &query);
        let body = Bytes::from(body.to_string());
        request::send(&self.write, Method::PATCH, &path, APPLY, body).await.map(drop)
    }
}

/// Returns a judgement of the installation.
pub(super) fn judgement(status: crate::status::Truth, reason: &str, message: &str) -> Judgement {
    Judgement { r#type: CONDITION, status, reason: Arc::from(reason), message: Arc::from(message) }
}
