//! The `EgressPolicy` document: rules and networks that are added to the egress of a tenant.
//!
//! Deliberately absent: addresses, proxies and the mode; those are the tenant's own, in its `Tenant` document.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::place::{At, Place};
use crate::spec::egress::RuleSpec;
use crate::spec::tenant::Metadata;

/// The kind of the documents read here.
pub const KIND: &str = "EgressPolicy";

/// Rules and networks of a tenant's egress.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "EgressPolicy")]
pub struct EgressPolicyDocument {
    /// `durward.dev/v1alpha1`
    pub api_version: At<String>,
    /// `EgressPolicy`
    pub kind: At<String>,
    /// What it is called among its tenant's policies.
    pub metadata: Metadata,
    /// What it adds.
    pub spec: EgressPolicySpec,
}

/// What is added to a tenant's egress.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressPolicySpec {
    /// The tenant it belongs to, as its `Tenant` document calls it. An object of a cluster belongs to the tenant of its namespace, and need not say.
    #[serde(default)]
    pub tenant: Option<At<String>>,
    /// Networks of pods or machines whose traffic leaves as the tenant's, beside its own `egress.sources`. Only the operator writes them: in a file, or in the gateway's own namespace.
    #[serde(default)]
    pub sources: Vec<At<String>>,
    /// What the tenant may reach beside what its own rules allow.
    #[serde(default)]
    pub allow: Option<At<Vec<At<RuleSpec>>>>,
    /// What the tenant may not reach, whatever any rule allows.
    #[serde(default)]
    pub deny: Option<At<Vec<At<RuleSpec>>>>,
}

impl EgressPolicySpec {
    /// Returns where the tenant is written, or else where the policy begins to say something.
    #[must_use]
    pub fn place(&self) -> Place {
        let rules = [&self.allow, &self.deny].into_iter().flatten().map(|rules| rules.place);
        let written = self.tenant.iter().chain(self.sources.first()).map(|first| first.place);
        written.chain(rules).next().unwrap_or_default()
    }
}
