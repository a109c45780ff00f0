//! Name of a tenant, the identity that everything of a tenant carries.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A tenant's name: 1 to 63 of `A-Z a-z 0-9 - _ .`, beginning and ending with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "Arc<str>", try_from = "Arc<str>")]
pub struct TenantId(Arc<str>);

/// Reason why a text is not a tenant name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{name:?} is not a tenant name: use 1 to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit"
)]
pub struct InvalidTenantId {
    /// Text as written.
    pub name: String,
}

impl TenantId {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// When the name is empty, too long, or has other characters.
    pub fn new(name: &str) -> Result<Self, InvalidTenantId> {
        let bytes = name.as_bytes();
        let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let valid = bytes.len() <= 63
            && bytes.iter().all(inner)
            && edge(bytes.first())
            && edge(bytes.last());
        if valid {
            Ok(Self(Arc::from(name)))
        } else {
            Err(InvalidTenantId { name: name.to_owned() })
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<Arc<str>> for TenantId {
    type Error = InvalidTenantId;

    fn try_from(name: Arc<str>) -> Result<Self, InvalidTenantId> {
        Self::new(&name)
    }
}

impl From<TenantId> for Arc<str> {
    fn from(id: TenantId) -> Self {
        id.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_names_are_names_and_junk_is_not() {
        for good in ["tenant-A", "acme", "a", "bank_1.eu"] {
            assert!(TenantId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a/b", "ä", "a\n", &"x".repeat(64)] {
            assert!(TenantId::new(bad).is_err(), "{bad}");
        }
    }
}
