//! Routes of a `HostedApi` for the ingress controller of others (`spec.publish`), beside it in its namespace. They are its own, so they end with it.

use std::time::Instant;

use durward_control::spec::publish;
use serde_json::{Value, json};

use super::cluster::{Found, TenantCluster, path_of, shown};
use super::target::Target;
use super::{AddonOptions, MANAGED_BY, OWNER, ROUTES_CONDITION};
use crate::request::ApiError;
use crate::resource_type::{HOSTED_APIS, TLS_ROUTES};
use crate::status::{Judgement, Truth, bounded};

/// Result of an attempt to write routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// None are asked for, and none of ours are there.
    Nothing,
    /// All of them are there: their kinds and names.
    Written(String),
    /// It failed: a word for programs, and a sentence.
    Failed(&'static str, String),
}

impl Published {
    /// Returns whether nothing is left to do until something changes.
    pub(super) fn is_settled(&self) -> bool {
        !matches!(self, Self::Failed(..))
    }

    pub(super) fn judgement(&self) -> Option<Judgement> {
        let (status, reason, message) = match self {
            Self::Nothing => return None,
            Self::Written(names) => (Truth::True, "Published", format!("written: {names}")),
            Self::Failed(reason, sentence) => (Truth::False, *reason, sentence.clone()),
        };
        Some(Judgement::new(ROUTES_CONDITION, status, reason, &message))
    }
}

/// What was written last.
#[derive(Default)]
pub(super) struct Routes {
    written: Option<(Vec<Value>, Instant)>,
}

impl Routes {
    /// Brings the routes to what the `HostedApi` says.
    pub(super) async fn attempt(
        &mut self,
        client: &kube::Client,
        options: &AddonOptions,
        target: &Target,
    ) -> Published {
        // What is deleted takes its routes with it.
        let was_published = target.said.iter().any(|said| *said.r#type == *ROUTES_CONDITION);
        let done = match &target.routes {
            _ if target.is_deleted => return Published::Nothing,
            Err(why) if was_published => Err(("Invalid", why.clone())),
            Err(why) if target.asks_for_routes => Err(("Invalid", why.clone())),
            Err(_) => return Published::Nothing,
            Ok(objects) if objects.is_empty() && !was_published => return Published::Nothing,
            Ok(objects) => {
                let cluster =
                    TenantCluster::of(client.clone(), options.patience, target.uid.clone());
                self.write(&cluster, client, options, target, objects).await
            }
        };
        done.unwrap_or_else(|(reason, why)| Published::Failed(reason, bounded(&why)))
    }

    async fn write(
        &mut self,
        cluster: &TenantCluster,
        client: &kube::Client,
        options: &AddonOptions,
        target: &Target,
        objects: &[Value],
    ) -> Result<Published, (&'static str, String)> {
        let is_fresh = |(written, at): &(Vec<Value>, Instant)| {
            written == objects && at.elapsed() < options.recheck
        };
        let names: Vec<String> = objects.iter().map(|one| shown(&placed(one, target))).collect();
        let names = names.join(", ");
        if self.written.as_ref().is_some_and(is_fresh) {
            return Ok(Published::Written(names));
        }
        self.written = None;
        let version = TLS_ROUTES.discover(client).await.map_err(|error| of_api(&error))?;
        let wanted: Vec<Value> = objects
            .iter()
            .map(|one| owned(versioned(placed(one, target), version), target))
            .collect();
        for object in &wanted {
            write(cluster, object).await?;
        }
        let all = publish::known(&target.name.name);
        let all = all.iter().map(|one| versioned(placed(one, target), version));
        let paths: Vec<String> = wanted.iter().map(path_of).collect();
        for stale in all.filter(|one| !paths.contains(&path_of(one))) {
            remove(cluster, &stale).await?;
        }
        if objects.is_empty() {
            return Ok(Published::Nothing);
        }
        self.written = Some((objects.to_vec(), Instant::now()));
        Ok(Published::Written(names))
    }
}

async fn write(cluster: &TenantCluster, object: &Value) -> Result<(), (&'static str, String)> {
    let found = cluster.look(object).await.map_err(|error| of_api(&error))?;
    if matches!(found, Found::Foreign | Found::OfAnother) {
        let (label, value) = MANAGED_BY;
        let sentence = format!(
            "{} is there and was not written from here: remove it, or label it {label}={value} and annotate it {OWNER} with this object's uid to hand it over",
            shown(object)
        );
        return Err(("ObjectForeign", sentence));
    }
    cluster.apply(object, &found).await.map_err(|error| match error {
        ApiError::NotFound(_) => {
            let kind = object["kind"].as_str().unwrap_or_default();
            ("KindMissing", format!("{kind} is not installed in this cluster: install its definition, or choose another controller"))
        }
        error => of_api(&error),
    })
}

async fn remove(cluster: &TenantCluster, object: &Value) -> Result<(), (&'static str, String)> {
    match cluster.look(object).await {
        Ok(found) => cluster.remove(object, &found).await.map_err(|error| of_api(&error)),
        // What may not be read was not written from here either.
        Err(ApiError::Forbidden(_)) => Ok(()),
        Err(error) => Err(of_api(&error)),
    }
}

fn of_api(error: &ApiError) -> (&'static str, String) {
    match error {
        ApiError::Forbidden(why) => (
            "RoutesForbidden",
            format!("{why}: bind the ClusterRole durward-api-addons-routes in this namespace"),
        ),
        error => ("RoutesUnwritten", error.to_string()),
    }
}

fn placed(object: &Value, target: &Target) -> Value {
    let mut object = object.clone();
    object["metadata"]["namespace"] = json!(&*target.name.namespace);
    object
}

/// Gives a `TLSRoute` the version that is served.
fn versioned(mut object: Value, version: Option<&'static str>) -> Value {
    if object["kind"] == TLS_ROUTES.kind {
        object["apiVersion"] =
            json!(TLS_ROUTES.api_version(version.unwrap_or_else(|| TLS_ROUTES.newest())));
    }
    object
}

fn owned(mut object: Value, target: &Target) -> Value {
    let (label, value) = MANAGED_BY;
    let metadata = &mut object["metadata"];
    metadata["labels"][label] = json!(value);
    metadata["annotations"][OWNER] = json!(&*target.uid);
    metadata["ownerReferences"] = json!([{
        "apiVersion": HOSTED_APIS.api_version(HOSTED_APIS.newest()), "kind": HOSTED_APIS.kind,
        "name": &*target.name.name, "uid": &*target.uid, "controller": true,
    }]);
    object
}
