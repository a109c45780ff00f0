//! Events of a watch, as the API server writes them.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::object::{Labels, ObjectName};

#[derive(Deserialize)]
pub(super) struct Event<'a> {
    pub(super) r#type: &'a str,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

#[derive(Deserialize)]
pub(super) struct Bookmark {
    pub(super) metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BookmarkMetadata {
    pub(super) resource_version: Arc<str>,
    #[serde(default)]
    pub(super) annotations: Labels,
}

/// Fields that are read of every object.
#[derive(Deserialize)]
pub(super) struct Named {
    pub(super) metadata: Name,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Name {
    pub(super) name: Arc<str>,
    #[serde(default)]
    pub(super) namespace: Arc<str>,
    #[serde(default)]
    pub(super) resource_version: Arc<str>,
}

impl Name {
    pub(super) fn object_name(&self) -> ObjectName {
        ObjectName { namespace: Arc::clone(&self.namespace), name: Arc::clone(&self.name) }
    }
}
