//! A `Mapping` as it is in the API server, as far as gateways write it: its finalizers, its status, and which of both are whose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::FINALIZER;
use crate::object::Lenient;
use crate::status::{ACCEPTED, Condition};

/// A `Mapping` in one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) uid: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) generation: u64,
    /// Time at which it was deleted, by the server's clock.
    pub(crate) deleted: Option<Timestamp>,
    pub(crate) finalizers: Vec<Arc<str>>,
    pub(crate) status: Status,
    pub(crate) owned: Owned,
}

/// The status of a `Mapping`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    #[serde(default)]
    pub(crate) invalid: Option<Arc<str>>,
    #[serde(default, rename = "serviceVIP")]
    pub(crate) service_vip: Option<Arc<str>>,
    #[serde(default)]
    pub(crate) configured_addresses: BTreeMap<Arc<str>, Pods>,
    #[serde(default)]
    pub(crate) observed_generation: u64,
    #[serde(default)]
    pub(crate) conditions: Vec<Condition>,
}

/// Pods that connections to an address go to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pods {
    #[serde(default, rename = "podIPs")]
    pub(crate) pod_ips: Vec<Arc<str>>,
}

/// Whose the fields are that gateways write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owned {
    /// True if this gateway holds the finalizer.
    pub(crate) finalizer: bool,
    /// True if another gateway does.
    pub(crate) others_finalize: bool,
    /// True if something in the status is this gateway's.
    pub(crate) status: bool,
    /// This gateway's addresses in the status.
    pub(crate) addresses: BTreeSet<Arc<str>>,
}

#[derive(Deserialize)]
struct Whole {
    metadata: OwnMetadata,
    #[serde(default)]
    status: Lenient<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnMetadata {
    #[serde(default)]
    uid: Arc<str>,
    #[serde(default)]
    resource_version: Arc<str>,
    #[serde(default)]
    generation: u64,
    #[serde(default)]
    deletion_timestamp: Option<Arc<str>>,
    #[serde(default)]
    finalizers: Vec<Arc<str>>,
    #[serde(default)]
    managed_fields: Vec<ManagedFields>,
}

#[derive(Deserialize)]
struct ManagedFields {
    #[serde(default)]
    manager: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    subresource: String,
    #[serde(default, rename = "fieldsV1")]
    fields: Value,
}

impl Seen {
    /// Decodes a `Mapping`; `manager` is the name that this gateway's fields are owned by.
    pub(crate) fn decode(json: &str, manager: &str) -> Result<Self, serde_json::Error> {
        let Whole { metadata, status } = serde_json::from_str(json)?;
        // A time that cannot be read is long ago: nothing waits for ever.
        let deleted = metadata.deletion_timestamp.as_ref();
        let deleted = deleted.map(|time| time.parse().unwrap_or(Timestamp::UNIX_EPOCH));
        let mut owned = Owned::default();
        let held = format!("v:{:?}", FINALIZER);
        // Who updates an object instead of applying is no gateway of ours.
        for entry in metadata.managed_fields.iter().filter(|entry| entry.operation == "Apply") {
            let is_own = entry.manager == manager;
            if !entry.fields["f:metadata"]["f:finalizers"][&held].is_null() {
                owned.finalizer |= is_own;
                owned.others_finalize |= !is_own;
            }
            if is_own && entry.subresource == "status" {
                owned.status = true;
                let addresses = entry.fields["f:status"]["f:configuredAddresses"].as_object();
                let addresses = addresses.into_iter().flatten();
                owned
                    .addresses
                    .extend(addresses.filter_map(|(key, _)| key.strip_prefix("f:").map(Arc::from)));
            }
        }
        Ok(Self {
            uid: metadata.uid,
            version: metadata.resource_version,
            generation: metadata.generation,
            deleted,
            finalizers: metadata.finalizers,
            status: status.0,
            owned,
        })
    }

    /// Returns whether the finalizer is there, whoever holds it.
    pub(crate) fn is_held(&self) -> bool {
        self.finalizers.iter().any(|finalizer| **finalizer == *FINALIZER)
    }

    /// Returns the condition `Accepted`.
    pub(crate) fn accepted(&self) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| &*condition.r#type == ACCEPTED)
    }
}
