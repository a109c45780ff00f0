//! The `EgressPolicy` document: rules and networks that are added to the egress of a tenant.
//!
//! Deliberately absent: addresses, proxies and the mode; those are the tenant's own, in its `Tenant` document.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::place::{At, Place};
use crate::spec::egress::RuleSpec;
use crate::spec::tenant::{API_VERSION, Metadata};

/// The kind of the documents read here.
pub const KIND: &str = "EgressPolicy";

/// Returns the text of the policy that a Namespace with the label `network/isolation: egress-proxy` stands for: its programs may reach every host,
/// but through the proxy alone, at its usual ports. What is guarded stays closed.
#[must_use]
pub fn of_namespace(name: &str, created: Option<&str>) -> String {
    let created = created.map(|created| format!(", creationTimestamp: {created:?}"));
    let created = created.unwrap_or_default();
    format!(
        "apiVersion: {API_VERSION}\nkind: {KIND}\nmetadata: {{name: {name:?}{created}}}\nspec:\n  allow:\n    - {{name: names, host: \"*\"}}\n    - {{name: addresses, cidrs: [0.0.0.0/0, \"::/0\"]}}\n"
    )
}

/// Rules and networks of a tenant's egress.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "EgressPolicy")]
pub struct EgressPolicyDocument {
    /// `durward.dev/v1alpha1`
    pub api_version: At<String>,
    /// `EgressPolicy`
    pub kind: At<String>,
    /// Name, unique among its tenant's policies.
    pub metadata: Metadata,
    /// Additions to the tenant's egress.
    pub spec: EgressPolicySpec,
}

/// Additions to a tenant's egress.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressPolicySpec {
    /// The tenant it belongs to, as its `Tenant` document calls it. An object of a cluster belongs to the tenant of its namespace, and need not say.
    #[serde(default)]
    pub tenant: Option<At<String>>,
    /// Networks of pods or machines whose traffic leaves as the tenant's, beside its own `egress.sources`. Only the operator writes them: in a file, or in the gateway's own namespace.
    #[serde(default)]
    pub sources: Vec<At<String>>,
    /// Rules for what the tenant may reach, in addition to its own rules.
    #[serde(default)]
    pub allow: Option<At<Vec<At<RuleSpec>>>>,
    /// Rules for what the tenant may not reach, whatever any rule allows.
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
