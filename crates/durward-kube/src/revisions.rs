//! The last accepted revisions of an object, kept in the API server, so that a process that starts serves what the one before it served.
//!
//! Each object has two places for them, so that the older of two is always whole while the newer one is written. They belong to the object: when it is deleted, the API
//! server deletes them too. They are read by name, and only for objects whose present revision is not accepted.

use std::sync::Arc;

use bytes::Bytes;
use durward_control::document::Document;
use durward_model::{ResourceId, Revision};
use http::Method;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::task::{JoinError, JoinSet};

use crate::object::{Object, text};
use crate::request::{self, ApiError};
use crate::resource_type::CONTROLLER_REVISIONS;

/// Endings of the names of the two places.
const PLACES: [&str; 2] = ["a", "b"];

/// Objects whose revisions are asked for at once.
const AT_ONCE: usize = 8;

/// Keeps and finds accepted revisions.
#[derive(Clone)]
pub struct Revisions {
    client: kube::Client,
    /// Where the revisions of objects are that have no namespace.
    namespace: Arc<str>,
}

/// A revision that is served.
pub(crate) struct Accepted<'a> {
    pub(crate) id: &'a ResourceId,
    pub(crate) revision: &'a Revision,
    pub(crate) text: &'a str,
}

/// A revision that was accepted earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former {
    /// Its generation.
    pub generation: u64,
    /// The document, as [`crate::object::Object::text`] had it.
    pub text: Arc<str>,
}

#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(default)]
    revision: u64,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl Revisions {
    /// Builds a keeper of revisions. Those of objects without a namespace are in `namespace`.
    #[must_use]
    pub fn new(client: kube::Client, namespace: Arc<str>) -> Self {
        Self { client, namespace }
    }

    /// Returns the newest accepted revision of an object.
    ///
    /// # Errors
    /// Fails if the API server cannot be asked.
    pub async fn last_accepted(&self, object: &Object) -> Result<Option<Former>, ApiError> {
        let Some(uid) = object.revision.uid.as_deref() else { return Ok(None) };
        let mut newest: Option<Former> = None;
        for place in PLACES {
            let Some(former) = self.read(&object.id, uid, place).await? else { continue };
            if newest.as_ref().is_none_or(|newest| newest.generation < former.generation) {
                newest = Some(former);
            }
        }
        Ok(newest)
    }

    /// Returns the documents that these objects were in their last accepted revisions; those that never were accepted are left out. A process that starts asks this for the
    /// objects that are not accepted as they are.
    ///
    /// # Errors
    /// Fails if the API server cannot be asked.
    pub async fn former_documents<'a>(
        &self,
        objects: impl IntoIterator<Item = &'a Object>,
    ) -> Result<Vec<Document>, ApiError> {
        let mut asked = JoinSet::new();
        let mut documents = Vec::new();
        for object in objects {
            if asked.len() >= AT_ONCE
                && let Some(answer) = asked.join_next().await
            {
                documents.extend(answered(answer)?);
            }
            let (revisions, object) = (self.clone(), object.clone());
            asked.spawn(async move {
                let former = revisions.last_accepted(&object).await?;
                Ok(former
                    .map(|Former { generation, text }| object.former_document(text, generation)))
            });
        }
        while let Some(answer) = asked.join_next().await {
            documents.extend(answered(answer)?);
        }
        documents.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(documents)
    }

    /// Keeps a revision in place of the older one.
    pub(crate) async fn keep(
        &self,
        accepted: &Accepted<'_>,
        api_version: &str,
    ) -> Result<(), ApiError> {
        let Accepted { id, revision, .. } = accepted;
        let Some(uid) = revision.uid.as_deref() else { return Ok(()) };
        let mut held = Vec::new();
        for place in PLACES {
            held.push(self.read(id, uid, place).await?.map(|former| former.generation));
        }
        if held.contains(&Some(revision.generation)) {
            return Ok(());
        }
        // An empty place, or else the one of the older revision.
        let at = usize::from(held[1].is_none_or(|other| held[0].is_some_and(|one| other < one)));
        let at = if held[0].is_none() { 0 } else { at };
        if held[at].is_some() {
            // The content of a revision cannot be changed.
            let path = self.path(id, uid, PLACES[at]);
            let deleted = request::send(
                &self.client,
                Method::DELETE,
                &path,
                "application/json",
                Bytes::new(),
            );
            match deleted.await {
                Ok(_) | Err(ApiError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.create(accepted, uid, PLACES[at], api_version).await
    }

    async fn create(
        &self,
        accepted: &Accepted<'_>,
        uid: &str,
        place: &str,
        api_version: &str,
    ) -> Result<(), ApiError> {
        let Accepted { id, revision, text } = accepted;
        let unreadable = |error: serde_json::Error| ApiError::Unreadable(error.to_string());
        let data: serde_json::Value = serde_json::from_str(text).map_err(unreadable)?;
        let namespace = self.namespace_of(id);
        let body = json!({
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": name(id, uid, place),
                "namespace": namespace,
                "labels": { "app.kubernetes.io/managed-by": "durward", "durward.dev/kind": id.kind.as_str() },
                "ownerReferences": [{
                    "apiVersion": api_version, "kind": id.kind.as_str(), "name": &*id.name, "uid": uid,
                }],
            },
            "revision": revision.generation,
            "data": data,
        });
        let path = CONTROLLER_REVISIONS.path("v1", Some(namespace));
        let created = request::send(
            &self.client,
            Method::POST,
            &path,
            "application/json",
            Bytes::from(body.to_string()),
        );
        match created.await {
            // Another process kept one first; both say what is served.
            Ok(_) | Err(ApiError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn read(
        &self,
        id: &ResourceId,
        uid: &str,
        place: &str,
    ) -> Result<Option<Former>, ApiError> {
        let bytes = match request::get(&self.client, &self.path(id, uid, place)).await {
            Err(ApiError::NotFound(_)) => return Ok(None),
            bytes => bytes?,
        };
        let unreadable = |error: serde_json::Error| ApiError::Unreadable(error.to_string());
        let stored: Stored<'_> = serde_json::from_slice(&bytes).map_err(unreadable)?;
        let Some(data) = stored.data else { return Ok(None) };
        // In the form that the text had, whatever spaces the server keeps.
        let data: serde_json::Value = serde_json::from_str(data.get()).map_err(unreadable)?;
        let text = text(&data).map_err(unreadable)?;
        Ok(Some(Former { generation: stored.revision, text: Arc::from(text) }))
    }

    fn path(&self, id: &ResourceId, uid: &str, place: &str) -> String {
        let namespace = self.namespace_of(id);
        CONTROLLER_REVISIONS.object_path("v1", Some(namespace), &name(id, uid, place))
    }

    fn namespace_of<'a>(&'a self, id: &'a ResourceId) -> &'a str {
        id.namespace.as_deref().unwrap_or(&self.namespace)
    }
}

fn answered(
    answer: Result<Result<Option<Document>, ApiError>, JoinError>,
) -> Result<Option<Document>, ApiError> {
    answer.unwrap_or_else(|error| Err(ApiError::Unreadable(error.to_string())))
}

/// Returns the name of a place. It has the object's uid, so an object that is made anew does not find those of the one before it.
fn name(id: &ResourceId, uid: &str, place: &str) -> String {
    format!("{}-{uid}-{place}", id.kind.as_str().to_ascii_lowercase())
}
