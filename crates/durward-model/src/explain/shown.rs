//! Client authentication in questions: a certificate or a credential.

use std::convert::Infallible;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::egress::ForwardService;
use crate::tenant_id::TenantId;

/// Proof that a client shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Shown {
    /// None.
    #[default]
    Nothing,
    /// A valid one, of which the question does not say which.
    Valid,
    /// The one with this name; for a credential `TENANT/NAME` too.
    Of(String),
}

impl FromStr for Shown {
    type Err = Infallible;

    /// Reads the name of a proof; an empty one names none.
    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(if name.is_empty() { Self::Valid } else { Self::Of(name.to_owned()) })
    }
}

impl Shown {
    /// Returns true if the proof may be a credential of this tenant's proxy.
    pub(super) fn is_credential_of(&self, tenant: &TenantId, service: &ForwardService) -> bool {
        let mut names = service.credentials.iter().map(|known| &*known.name);
        match self {
            Self::Nothing => false,
            Self::Valid => names.next().is_some(),
            Self::Of(shown) => {
                let own =
                    shown.strip_prefix(tenant.as_str()).and_then(|rest| rest.strip_prefix('/'));
                names.any(|name| name == shown || Some(name) == own)
            }
        }
    }

    /// Returns true if the proof may be a certificate of one of the holders that the proxy admits.
    pub(super) fn is_holder_of(&self, service: &ForwardService) -> bool {
        let mut holders = service.holders.iter();
        match self {
            _ if service.holders.is_empty() => true,
            Self::Nothing => false,
            Self::Valid => true,
            Self::Of(name) => holders.any(|holder| holder.matches(name)),
        }
    }
}
