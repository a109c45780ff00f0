//! A tenant cluster while objects are applied there or removed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use kube::config::Kubeconfig;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{AddonOptions, MANAGED_BY, MANAGER, OWNER};
use crate::client::{Clients, Limits, Location};
use crate::request::{self, ApiError, LONGEST_OBJECT};

/// Connections to one tenant cluster.
const LIMITS: Limits = Limits {
    connections: 1,
    streams: 8,
    http1_connections: 1,
    max_age: Duration::from_secs(60),
    connect: Duration::from_secs(5),
    head: Duration::from_secs(10),
};

/// Namespace that every cluster has, with a uid of its own.
const KUBE_SYSTEM: &str = "/api/v1/namespaces/kube-system";

/// A tenant cluster, or the one of a `HostedApi` itself. Its connections are closed when this is dropped.
pub(super) struct TenantCluster {
    client: kube::Client,
    patience: Duration,
    /// Uid of the `HostedApi` that objects are applied for.
    owner: Arc<str>,
}

/// What was found in a tenant cluster in place of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// An object that was installed for this `HostedApi`, or for one that is not said.
    Ours {
        /// Uid of the object.
        uid: String,
        /// Version of an object that does not say for which `HostedApi` it was installed.
        unclaimed: Option<String>,
    },
    /// An object that was installed for another `HostedApi`.
    OfAnother,
    /// An object that was not installed from here.
    Foreign,
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
    /// Returns whether all proxies are ready. None at all serve nobody.
    pub(super) fn is_complete(self) -> bool {
        self.is_current && self.wanted > 0 && self.ready >= self.wanted
    }
}

/// An object, of which no more is read than is needed: whoever wrote the kubeconfig may answer anything.
#[derive(Deserialize)]
struct Head {
    metadata: HeadMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    labels: Option<HeadLabels>,
    #[serde(default)]
    annotations: Option<HeadAnnotations>,
}

#[derive(Deserialize)]
struct HeadLabels {
    #[serde(default, rename = "app.kubernetes.io/managed-by")]
    managed_by: Option<String>,
}

#[derive(Deserialize)]
struct HeadAnnotations {
    #[serde(default, rename = "durward.dev/hosted-api-uid")]
    owner: Option<String>,
}

/// A `DaemonSet` or Deployment.
#[derive(Deserialize)]
struct Workload {
    metadata: WorkloadMetadata,
    #[serde(default)]
    spec: WorkloadSpec,
    #[serde(default)]
    status: WorkloadStatus,
}

#[derive(Deserialize)]
struct WorkloadMetadata {
    #[serde(default)]
    generation: u64,
}

#[derive(Default, Deserialize)]
struct WorkloadSpec {
    #[serde(default)]
    replicas: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WorkloadStatus {
    observed_generation: Option<u64>,
    updated_replicas: u64,
    ready_replicas: u64,
    desired_number_scheduled: u64,
    updated_number_scheduled: u64,
    number_ready: u64,
}

impl TenantCluster {
    /// Makes the clients for the `HostedApi` with the uid `owner`. A connection is opened by the first request.
    pub(super) async fn new(
        kubeconfig: Kubeconfig,
        options: &AddonOptions,
        owner: Arc<str>,
    ) -> Result<Self, ApiError> {
        let (kubeconfig, reach) = (Arc::new(kubeconfig), Arc::clone(&options.reach));
        let clients = Clients::new(Location::Inline { kubeconfig, reach }, LIMITS).await;
        // The library's own words may quote what is written, which may be a secret.
        let clients = clients.map_err(|_| {
            ApiError::Unreadable(
                "the kubeconfig has an authority or a credential that cannot be used".to_owned(),
            )
        })?;
        Ok(Self::of(clients.write, options.patience, owner))
    }

    /// Applies by a client that is there.
    pub(super) fn of(client: kube::Client, patience: Duration, owner: Arc<str>) -> Self {
        Self { client, patience, owner }
    }

    /// Returns what tells the cluster from others: the uid of its namespace `kube-system`. `None` if the kubeconfig may not read that.
    pub(super) async fn identity(&self) -> Result<Option<Arc<str>>, ApiError> {
        let get = request::get_within(&self.client, KUBE_SYSTEM, LONGEST_OBJECT);
        match self.in_time(get).await {
            Ok(body) => {
                let uid = decode::<Head>(&body)?.metadata.uid;
                // It becomes a part of what people read.
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
                let is_uid = (1..=64).contains(&uid.len()) && uid.bytes().all(is_plain);
                Ok(is_uid.then(|| Arc::from(uid)))
            }
            Err(ApiError::Forbidden(_) | ApiError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks at what is there in place of an object.
    pub(super) async fn look(&self, object: &Value) -> Result<Found, ApiError> {
        let path = path_of(object);
        let get = request::get_within(&self.client, &path, LONGEST_OBJECT);
        match self.in_time(get).await {
            Err(ApiError::NotFound(_)) => Ok(Found::Nothing),
            body => Ok(found(decode(&body?)?, &self.owner)),
        }
    }

    /// Makes an object with nothing but its name, its label and its owner. Of several that try, one succeeds; the others are told that it exists.
    pub(super) async fn claim(&self, object: &Value) -> Result<(), ApiError> {
        let path = request::path(&collection_of(object), &[("fieldManager", MANAGER)]);
        let claim = json!({
            "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": object["metadata"],
        });
        self.send(Method::POST, &path, "application/json", &claim).await
    }

    /// Applies an object by server-side apply, unless another one is in its place by now.
    pub(super) async fn apply(&self, object: &Value, found: &Found) -> Result<(), ApiError> {
        let mut object = object.clone();
        // What is not there is not taken from anybody either.
        let mut force = "false";
        if let Found::Ours { uid, .. } = found {
            object["metadata"]["uid"] = json!(uid);
            force = "true";
        }
        let query = [("fieldManager", MANAGER), ("force", force)];
        let path = request::path(&path_of(&object), &query);
        self.send(Method::PATCH, &path, "application/apply-patch+yaml", &object).await
    }

    /// Takes an object that does not say its owner, unless it was written since it was found.
    pub(super) async fn adopt(&self, object: &Value, found: &Found) -> Result<(), ApiError> {
        let Found::Ours { uid, unclaimed: Some(version) } = found else { return Ok(()) };
        let metadata = json!({
            "uid": uid, "resourceVersion": version, "annotations": { OWNER: &*self.owner },
        });
        let path = request::path(&path_of(object), &[("fieldManager", MANAGER)]);
        let change = json!({ "metadata": metadata });
        self.send(Method::PATCH, &path, "application/merge-patch+json", &change).await
    }

    /// Removes an object that is ours, unless another one is in its place by now. What runs stays an object until its pods are gone.
    pub(super) async fn remove(&self, object: &Value, found: &Found) -> Result<(), ApiError> {
        let Found::Ours { uid, .. } = found else { return Ok(()) };
        let policy = if is_workload(object) { "Foreground" } else { "Background" };
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions",
            "propagationPolicy": policy, "preconditions": { "uid": uid },
        });
        match self.send(Method::DELETE, &path_of(object), "application/json", &options).await {
            Err(ApiError::NotFound(_)) => Ok(()),
            removed => removed,
        }
    }

    /// Gives the endpoints of `kubernetes` back, if proxies have written them. Returns whether they had.
    pub(super) async fn hand_back(&self) -> Result<bool, ApiError> {
        let changed = self.in_time(crate::slice::hand_back(&self.client)).await?;
        Ok(!changed.is_empty())
    }

    /// Returns how many proxies are ready.
    pub(super) async fn readiness(&self, workload: &Value) -> Result<Readiness, ApiError> {
        let path = path_of(workload);
        let get = request::get_within(&self.client, &path, LONGEST_OBJECT);
        let there = decode(&self.in_time(get).await?)?;
        Ok(readiness(&there, workload["kind"] == "Deployment"))
    }

    /// Sends a request. Nothing of the answer is needed.
    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &'static str,
        body: &Value,
    ) -> Result<(), ApiError> {
        let body = Bytes::from(body.to_string());
        let client = &self.client;
        let send = request::send_within(client, method, path, kind, body, LONGEST_OBJECT);
        self.in_time(send).await.map(drop)
    }

    async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let answer = timeout(self.patience, request).await;
        answer.unwrap_or_else(|_| Err(ApiError::Unreachable("no answer in time".to_owned())))
    }
}

fn decode<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(answer)
        .map_err(|_| ApiError::Unreadable("an object has another form".to_owned()))
}

fn found(there: Head, owner: &str) -> Found {
    let HeadMetadata { uid, resource_version: version, labels, annotations } = there.metadata;
    if labels.and_then(|labels| labels.managed_by).as_deref() != Some(MANAGED_BY.1) {
        return Found::Foreign;
    }
    match annotations.and_then(|annotations| annotations.owner) {
        Some(other) if other != owner => Found::OfAnother,
        Some(_) => Found::Ours { uid, unclaimed: None },
        None => Found::Ours { uid, unclaimed: Some(version) },
    }
}

/// Returns how much of a `DaemonSet` or Deployment is ready.
fn readiness(there: &Workload, is_deployment: bool) -> Readiness {
    let status = &there.status;
    let (wanted, updated, ready) = if is_deployment {
        let wanted = there.spec.replicas.unwrap_or(1);
        (wanted, status.updated_replicas, status.ready_replicas)
    } else {
        (status.desired_number_scheduled, status.updated_number_scheduled, status.number_ready)
    };
    let generation = there.metadata.generation;
    let is_current = status.observed_generation.is_some_and(|seen| seen >= generation);
    Readiness { ready: ready.min(updated), wanted, is_current }
}

/// Returns whether an object has pods.
pub(super) fn is_workload(object: &Value) -> bool {
    object["kind"] == "DaemonSet" || object["kind"] == "Deployment"
}

/// Returns kind, namespace and name of an object, for people.
pub(super) fn shown(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    format!(
        "{} {}/{}",
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"])
    )
}

/// Returns the path of an object, of which kind, version, namespace and name are known.
pub(super) fn path_of(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    format!("{}/{name}", collection_of(object))
}

fn collection_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let namespace = text(&object["metadata"]["namespace"]);
    let group =
        if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let plural = if kind.ends_with('s') { "es" } else { "s" };
    format!("{group}/namespaces/{namespace}/{}{plural}", kind.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_ready_once_its_controller_has_seen_it_and_all_are_new_and_ready() {
        let read = |kind: &str, object: Value| {
            readiness(&serde_json::from_value(object).unwrap(), kind == "Deployment").is_complete()
        };
        let daemon_set = |seen: u64, updated: u64, ready: u64| {
            let status = json!({"observedGeneration": seen, "desiredNumberScheduled": 3, "updatedNumberScheduled": updated, "numberReady": ready});
            read("DaemonSet", json!({"metadata": {"generation": 2}, "status": status}))
        };
        let deployment = json!({"metadata": {"generation": 1}, "spec": {"replicas": 2},
            "status": {"observedGeneration": 1, "updatedReplicas": 2, "readyReplicas": 2}});

        assert!(daemon_set(2, 3, 3) && read("Deployment", deployment));
        assert!(!daemon_set(1, 3, 3) && !daemon_set(2, 1, 3) && !daemon_set(2, 3, 2));
        assert!(!read("DaemonSet", json!({"metadata": {"generation": 1}})));
    }

    #[test]
    fn a_workload_that_no_node_takes_is_not_ready() {
        let status = json!({"observedGeneration": 1, "desiredNumberScheduled": 0});
        let there = json!({"metadata": {"generation": 1}, "status": status});

        let readiness = readiness(&serde_json::from_value(there).unwrap(), false);

        assert!(readiness.is_current && !readiness.is_complete());
    }

    #[test]
    fn an_object_is_ours_by_its_label_and_its_owner() {
        let found = |metadata: Value| {
            let object = json!({"metadata": metadata, "data": [0, 0]}).to_string();
            found(decode(object.as_bytes()).unwrap(), "me")
        };
        let labels = json!({MANAGED_BY.0: MANAGED_BY.1, "app": "x"});
        let ours = |unclaimed: Option<&str>| Found::Ours {
            uid: "u".to_owned(),
            unclaimed: unclaimed.map(str::to_owned),
        };
        let of = |owner: &str| json!({"uid": "u", "resourceVersion": "1", "labels": labels, "annotations": {OWNER: owner}});

        assert_eq!(found(of("me")), ours(None));
        let unsaid = json!({"uid": "u", "resourceVersion": "1", "labels": labels});
        assert_eq!(found(unsaid), ours(Some("1")));
        assert_eq!(found(of("another")), Found::OfAnother);
        assert_eq!(found(json!({"labels": {"app": "x"}, "annotations": null})), Found::Foreign);
        assert_eq!(found(json!({})), Found::Foreign);
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
