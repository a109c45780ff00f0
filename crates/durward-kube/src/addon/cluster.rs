//! A tenant cluster while objects are applied there or removed.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use kube::config::Kubeconfig;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{MANAGED_BY, MANAGER};
use crate::client::{Clients, Limits, Location};
use crate::request::{self, ApiError};

/// Connections to one tenant cluster.
const LIMITS: Limits = Limits {
    connections: 1,
    streams: 8,
    http1_connections: 1,
    max_age: Duration::from_secs(60),
    connect: Duration::from_secs(5),
    head: Duration::from_secs(10),
};

/// A tenant cluster. Its connections are closed when this is dropped.
pub(super) struct TenantCluster {
    clients: Clients,
    patience: Duration,
}

/// How much of what runs in a cluster is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) ready: u64,
    pub(super) wanted: u64,
    /// False while the controllers of the cluster have not seen the last version.
    pub(super) is_current: bool,
}

impl Readiness {
    pub(super) fn is_complete(self) -> bool {
        self.is_current && self.ready >= self.wanted
    }
}

#[derive(Deserialize)]
struct Labelled {
    metadata: Labels,
}

#[derive(Deserialize)]
struct Labels {
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
}

impl TenantCluster {
    /// Makes the clients. A connection is opened by the first request.
    pub(super) async fn new(kubeconfig: Kubeconfig, patience: Duration) -> Result<Self, ApiError> {
        let location = Location::Inline(std::sync::Arc::new(kubeconfig));
        let clients = Clients::new(location, LIMITS).await;
        // The library's own words may quote what is written, which may be a secret.
        let clients = clients.map_err(|_| {
            ApiError::Unreadable(
                "the kubeconfig has an authority or a credential that cannot be used".to_owned(),
            )
        })?;
        Ok(Self { clients, patience })
    }

    /// Applies an object by server-side apply.
    pub(super) async fn apply(&self, object: &Value) -> Result<Value, ApiError> {
        let query = [("fieldManager", MANAGER), ("force", "true")];
        let path = request::path(&path_of(object), &query);
        let body = Bytes::from(object.to_string());
        let send = request::send(
            &self.clients.write,
            Method::PATCH,
            &path,
            "application/apply-patch+yaml",
            body,
        );
        let answer = self.in_time(send).await?;
        serde_json::from_slice(&answer)
            .map_err(|_| ApiError::Unreadable("an object has another form".to_owned()))
    }

    /// Removes an object if it is there and has our label.
    pub(super) async fn remove(&self, object: &Value) -> Result<(), ApiError> {
        let path = path_of(object);
        let body = match self.in_time(request::get(&self.clients.write, &path)).await {
            Err(ApiError::NotFound(_)) => return Ok(()),
            body => body?,
        };
        let there: Labelled = serde_json::from_slice(&body)
            .map_err(|_| ApiError::Unreadable("an object has another form".to_owned()))?;
        let (label, value) = MANAGED_BY;
        if there.metadata.labels.get(label).map(String::as_str) != Some(value) {
            return Ok(());
        }
        let body = Bytes::from(json!({"propagationPolicy": "Background"}).to_string());
        let send =
            request::send(&self.clients.write, Method::DELETE, &path, "application/json", body);
        match self.in_time(send).await {
            Ok(_) | Err(ApiError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives the endpoints of `kubernetes` back, if proxies have written them.
    pub(super) async fn hand_back(&self) -> Result<(), ApiError> {
        self.in_time(crate::slice::hand_back(&self.clients.write)).await.map(drop)
    }

    /// Returns how many proxies are ready.
    pub(super) async fn readiness(&self, workload: &Value) -> Result<Readiness, ApiError> {
        let body = self.in_time(request::get(&self.clients.write, &path_of(workload))).await?;
        let there: Value = serde_json::from_slice(&body)
            .map_err(|_| ApiError::Unreadable("an object has another form".to_owned()))?;
        Ok(readiness(&there))
    }

    async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let answer = timeout(self.patience, request).await;
        answer.unwrap_or_else(|_| Err(ApiError::Unreachable("no answer in time".to_owned())))
    }
}

/// Returns how much of a `DaemonSet` or Deployment is ready.
fn readiness(object: &Value) -> Readiness {
    let (spec, status) = (&object["spec"], &object["status"]);
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let (wanted, updated, ready) = if object["kind"] == "Deployment" {
        let wanted = spec["replicas"].as_u64().unwrap_or(1);
        (wanted, number(&status["updatedReplicas"]), number(&status["readyReplicas"]))
    } else {
        let wanted = number(&status["desiredNumberScheduled"]);
        (wanted, number(&status["updatedNumberScheduled"]), number(&status["numberReady"]))
    };
    let generation = number(&object["metadata"]["generation"]);
    let is_seen = status["observedGeneration"].as_u64().is_some_and(|seen| seen >= generation);
    Readiness { ready: ready.min(updated), wanted, is_current: is_seen }
}

/// Returns the path of an object, of which kind, version, namespace and name are known.
pub(super) fn path_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let (namespace, name) =
        (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    let group =
        if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    format!("{group}/namespaces/{namespace}/{}s/{name}", kind.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_ready_once_its_controller_has_seen_it_and_all_are_new_and_ready() {
        let daemon_set = |seen: u64, updated: u64, ready: u64| {
            let status = json!({"observedGeneration": seen, "desiredNumberScheduled": 3, "updatedNumberScheduled": updated, "numberReady": ready});
            readiness(
                &json!({"kind": "DaemonSet", "metadata": {"generation": 2}, "status": status}),
            )
        };
        let deployment = json!({"kind": "Deployment", "metadata": {"generation": 1}, "spec": {"replicas": 2},
            "status": {"observedGeneration": 1, "updatedReplicas": 2, "readyReplicas": 2}});

        assert!(daemon_set(2, 3, 3).is_complete() && readiness(&deployment).is_complete());
        assert!(!daemon_set(1, 3, 3).is_complete());
        assert!(!daemon_set(2, 1, 3).is_complete());
        assert!(!daemon_set(2, 3, 2).is_complete());
        assert!(
            !readiness(&json!({"kind": "DaemonSet", "metadata": {"generation": 1}})).is_complete()
        );
    }

    #[test]
    fn paths_have_group_namespace_and_the_kind_in_the_plural() {
        let object = |version: &str, kind: &str| {
            path_of(
                &json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": "n", "name": "x"}}),
            )
        };

        assert_eq!(object("v1", "Secret"), "/api/v1/namespaces/n/secrets/x");
        assert_eq!(object("apps/v1", "DaemonSet"), "/apis/apps/v1/namespaces/n/daemonsets/x");
        assert_eq!(
            object("rbac.authorization.k8s.io/v1", "RoleBinding"),
            "/apis/rbac.authorization.k8s.io/v1/namespaces/n/rolebindings/x"
        );
    }
}
