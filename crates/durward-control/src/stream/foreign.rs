//! Questions about objects that are no documents, or not any more: addresses that Services ask for, and Mappings that are being deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use durward_model::{ResourceId, TenantId};
use serde::{Deserialize, Serialize};

/// Questions and answers in one message.
const MOST: usize = 200_000;

/// What is asked of the process that serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Addresses, each with the tenant that would have to have it.
    pub addresses: BTreeSet<(TenantId, IpAddr)>,
    /// Mappings that are being deleted.
    pub going: BTreeSet<ResourceId>,
}

/// What is true of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// How each tenant stands to each address.
    #[serde(with = "pairs")]
    pub addresses: BTreeMap<(TenantId, IpAddr), Standing>,
    /// Mappings of which the kernel carries nothing any more.
    pub out: BTreeSet<ResourceId>,
}

/// How a tenant stands to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It is none of the tenant's.
    Foreign,
    /// It is the tenant's, and not served here, or not yet.
    Elsewhere,
    /// It is the tenant's and served here.
    Here,
}

impl Asked {
    /// Returns whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.going.is_empty()
    }
}

impl Answered {
    /// Returns what was asked of it, and leaves out the rest. The sender may be somebody who has taken a gateway over.
    #[must_use]
    pub fn only(mut self, asked: &Asked) -> Self {
        self.addresses.retain(|key, _| asked.addresses.contains(key));
        self.out.retain(|id| asked.going.contains(id));
        self
    }

    /// Returns whether it is no longer than questions can be.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.addresses.len() + self.out.len() <= MOST
    }
}

/// JSON has texts alone for keys.
mod pairs {
    use super::{BTreeMap, Deserialize, IpAddr, Serialize, Standing, TenantId};

    pub(super) fn serialize<S: serde::Serializer>(
        addresses: &BTreeMap<(TenantId, IpAddr), Standing>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        addresses.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<(TenantId, IpAddr), Standing>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}
