//! The `EgressPolicy` document: where the tenant of a namespace may go, said in that namespace.
//!
//! Addresses and networks are deliberately absent: those belong to the `Tenant`, and whoever writes in a namespace must not take any.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::place::At;
use crate::spec::egress::{ModeSpec, RuleSpec};

/// The kind of these documents.
pub const KIND: &str = "EgressPolicy";

/// Where the tenant of a namespace may go through the forward proxy.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressPolicySpec {
    /// How much the rules count. Default: Enforce.
    #[serde(default)]
    pub mode: Option<At<ModeSpec>>,
    /// What the tenant may reach. What no rule names is denied.
    #[serde(default)]
    pub allow: Option<At<Vec<At<RuleSpec>>>>,
    /// What it may not reach, whatever `allow` says.
    #[serde(default)]
    pub deny: Option<At<Vec<At<RuleSpec>>>>,
    /// Whom to ask, told to clients that are denied.
    #[serde(default)]
    pub contact: Option<At<String>>,
    /// Whether a tunnel must begin with a ClientHello for the host that was asked for. Default: false.
    #[serde(default)]
    pub sni_must_match: Option<At<bool>>,
}
