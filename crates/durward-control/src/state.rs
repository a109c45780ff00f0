//! What must survive the process: who holds what, and the last good documents. Written to a file and given to a younger process.
//!
//! Holds nothing that the documents do not hold: of keys only the hashes of their public parts, of other files nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The version of the format written here. A reader refuses others: they are from a newer Durward.
const VERSION: u32 = 1;
/// The most bytes of documents that are kept; more are left out, the claims are not.
const MOST_TEXT: usize = 64 << 20;
/// The largest state that is read, in bytes.
pub const LARGEST: u64 = 256 << 20;

/// Who holds what, and the last good documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    version: u32,
    /// The texts of documents; a `routing.json` is one text of many tenants.
    pub(crate) texts: Vec<Text>,
    pub(crate) tenants: Vec<TenantState>,
    pub(crate) mappings: Vec<MappingState>,
}

/// The text of a document, and where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Text {
    pub(crate) file: Arc<str>,
    pub(crate) first_line: u32,
    pub(crate) text: Arc<str>,
}

/// What a tenant holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TenantState {
    pub(crate) name: String,
    pub(crate) file: Arc<str>,
    pub(crate) seniority: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<Arc<str>>,
    /// The position of its last good document among the texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) good: Option<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) listeners: Vec<(IpAddr, u16)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<AddressState>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) egress: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sources: Vec<IpNet>,
    /// SHA-256 of public keys in hexadecimal, and whether they are shared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) keys: Vec<(String, bool)>,
}

/// An address that a tenant holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddressState {
    pub(crate) address: IpAddr,
    pub(crate) role: RoleState,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) shared: bool,
}

/// The part an address plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RoleState {
    Ingress,
    Egress,
    Mapped,
    Listen,
}

/// What a mapping holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MappingState {
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) file: Arc<str>,
    pub(crate) seniority: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) shared: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) good: Option<usize>,
}

/// Why bytes are not a state.
#[derive(Debug, Error)]
pub enum StateFault {
    /// The bytes are not JSON of this form.
    #[error("the state is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    /// A Durward of another version wrote the state.
    #[error("the state has version {version}, and this Durward reads version {VERSION}")]
    Version {
        /// The version written.
        version: u32,
    },
}

impl State {
    /// Reads a state from JSON.
    ///
    /// # Errors
    /// When the bytes are damaged, or of another version.
    pub fn from_json(bytes: &[u8]) -> Result<Self, StateFault> {
        let state: Self = serde_json::from_slice(bytes)?;
        if state.version == VERSION {
            Ok(state)
        } else {
            Err(StateFault::Version { version: state.version })
        }
    }

    /// Returns the state as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns whether documents were left out because there were too many bytes of them.
    #[must_use]
    pub fn lacks_documents(&self) -> bool {
        self.texts.is_empty() && !self.tenants.is_empty()
    }
}

/// A state while it is written.
pub(crate) struct Writer {
    state: State,
    known: HashMap<(Arc<str>, u32, Arc<str>), usize>,
    bytes: usize,
}

impl Writer {
    pub(crate) fn new() -> Self {
        let state = State { version: VERSION, ..State::default() };
        Self { state, known: HashMap::new(), bytes: 0 }
    }

    /// Returns the position of a document's text among the texts.
    pub(crate) fn text(&mut self, file: &Arc<str>, first_line: u32, text: &Arc<str>) -> usize {
        let key = (Arc::clone(file), first_line, Arc::clone(text));
        let next = self.state.texts.len();
        let at = *self.known.entry(key).or_insert(next);
        if at == next {
            self.bytes += text.len();
            let (file, text) = (Arc::clone(file), Arc::clone(text));
            self.state.texts.push(Text { file, first_line, text });
        }
        at
    }

    pub(crate) fn tenant(&mut self, tenant: TenantState) {
        self.state.tenants.push(tenant);
    }

    pub(crate) fn mapping(&mut self, mapping: MappingState) {
        self.state.mappings.push(mapping);
    }

    pub(crate) fn finish(mut self) -> State {
        if self.bytes > MOST_TEXT {
            self.state.texts = Vec::new();
            self.state.tenants.iter_mut().for_each(|tenant| tenant.good = None);
            self.state.mappings.iter_mut().for_each(|mapping| mapping.good = None);
        }
        self.state
    }
}
