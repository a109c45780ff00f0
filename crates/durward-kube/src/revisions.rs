//! The last accepted revisions of an object, kept in the API server, so that a process that starts serves what the one before it served.
//!
//! Each object has two places for them, so that the older of two is always whole while the newer one is written. They belong to the object: when it is deleted, the API
//! server deletes them too. They are read by name, and only for objects whose present revision is not accepted.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use durward_control::document::Document;
use durward_model::{ResourceId, Revision};
use http::Method;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

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
    /// Namespace for the revisions of objects that have none.
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
    /// Generation.
    pub generation: u64,
    /// The document, as [`crate::object::Object::text`] had it.
    pub text: Arc<str>,
}

/// Last accepted revisions of several objects.
#[derive(Debug, Default)]
pub struct Formers {
    /// The documents.
    pub documents: Vec<Document>,
    /// Objects of which it is not known whether they have one: it could not be read, or not in time.
    pub unread: usize,
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
    /// An object whose revisions cannot be read costs itself only. Namespaces take turns, and at the deadline the rest is left out, so that nobody's broken objects keep
    /// those of others from being found.
    pub async fn former_documents<'a>(
        &self,
        objects: impl IntoIterator<Item = &'a Object>,
        deadline: Instant,
    ) -> Formers {
        let mut objects = in_turns(objects).into_iter();
        let (mut asked, mut found) = (JoinSet::new(), Formers::default());
        loop {
            while asked.len() < AT_ONCE
                && let Some(object) = objects.next()
            {
                let (revisions, object) = (self.clone(), object.clone());
                asked.spawn(async move { revisions.former_document(&object).await });
            }
            match timeout_at(deadline, asked.join_next()).await {
                Ok(None) => break,
                Ok(Some(Ok(Ok(document)))) => found.documents.extend(document),
                Ok(Some(Ok(Err(_)) | Err(_))) => found.unread += 1,
                Err(_) => {
                    found.unread += asked.len() + objects.len();
                    break;
                }
            }
        }
        found.documents.sort_by(|one, other| one.key.cmp(&other.key));
        found
    }

    async fn former_document(&self, object: &Object) -> Result<Option<Document>, ApiError> {
        let former = self.last_accepted(object).await.inspect_err(|error| {
            tracing::warn!(id = %object.id, %error, "last accepted revision of an object cannot be read");
        })?;
        Ok(former.map(|Former { generation, text }| object.former_document(text, generation)))
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

/// Returns the objects, one of each namespace after the other. Of each namespace those come first that have a status: the others most likely were never accepted.
fn in_turns<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Vec<&'a Object> {
    let mut namespaces: BTreeMap<&str, Vec<&Object>> = BTreeMap::new();
    for object in objects {
        let turn = object.id.namespace.as_deref().unwrap_or(&object.id.name);
        namespaces.entry(turn).or_default().push(object);
    }
    let mut turns = Vec::new();
    for objects in namespaces.values_mut() {
        objects.sort_by_key(|object| object.conditions.is_empty());
        turns.extend(objects.iter().enumerate().map(|(round, object)| (round, *object)));
    }
    turns.sort_by_key(|(round, _)| *round);
    turns.into_iter().map(|(_, object)| object).collect()
}

/// Returns the name of a place. It has the object's uid, so an object that is created again does not find those of its predecessor.
fn name(id: &ResourceId, uid: &str, place: &str) -> String {
    format!("{}-{uid}-{place}", id.kind.as_str().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use durward_model::Kind;
    use http::{Request, Response};
    use http_body_util::Full;
    use kube::client::Body;

    use super::*;

    fn object(namespace: &str, name: &str) -> Object {
        let json = json!({
            "metadata": {"name": name, "namespace": namespace, "uid": name, "generation": 2},
            "spec": {},
        });
        Object::decode(Kind::PortMapping, "durward.dev/v1alpha1", &json.to_string()).unwrap()
    }

    /// A server that has a revision of each object, fails for those called `bad…` and does not answer for those called `slow…`.
    fn revisions() -> Revisions {
        let service = tower::service_fn(|request: Request<Body>| async move {
            let path = request.uri().path().to_owned();
            if path.contains("portmapping-slow") {
                std::future::pending::<()>().await;
            }
            let status = if path.contains("portmapping-bad") { 500 } else { 200 };
            let spec = json!({"kind": "PortMapping", "metadata": {"name": "x"}, "spec": {}});
            let body = json!({"revision": 1, "data": spec}).to_string();
            let response = Response::builder().status(status);
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from(body))).unwrap())
        });
        Revisions::new(kube::Client::new(service, "default"), Arc::from("durward"))
    }

    fn names(found: &Formers) -> Vec<String> {
        let ids = found.documents.iter().filter_map(|document| document.id.as_ref());
        ids.map(|id| id.name.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_revision_that_cannot_be_read_costs_its_own_object_only() {
        let objects = ["a", "bad", "c"].map(|name| object("acme", name));
        let deadline = Instant::now() + Duration::from_secs(5);

        let found = revisions().former_documents(&objects, deadline).await;

        assert_eq!((names(&found), found.unread), (vec!["a".to_owned(), "c".to_owned()], 1));
    }

    #[tokio::test(start_paused = true)]
    async fn objects_of_one_namespace_do_not_use_up_the_time_of_others() {
        let mut objects: Vec<Object> =
            (0..1_000).map(|number| object("flood", &format!("slow{number}"))).collect();
        objects.push(object("globex", "web"));
        let (start, patience) = (Instant::now(), Duration::from_secs(5));

        let found = revisions().former_documents(&objects, start + patience).await;

        assert_eq!((names(&found), found.unread), (vec!["web".to_owned()], 1_000));
        assert_eq!(start.elapsed(), patience);
    }

    #[test]
    fn objects_with_a_status_come_first() {
        let mut objects = ["a", "b", "c"].map(|name| object("acme", name));
        let condition = json!({"type": "Accepted", "status": "False"});
        objects[2].conditions = vec![serde_json::from_value(condition).unwrap()];

        let order = in_turns(&objects);

        let order: Vec<&str> = order.iter().map(|object| &*object.id.name).collect();
        assert_eq!(order, ["c", "a", "b"]);
    }
}
