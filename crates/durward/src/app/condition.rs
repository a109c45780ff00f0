//! Conditions: things that do not work now, each with the tenant and the object it concerns.

use durward_model::TenantId;
use serde::{Deserialize, Serialize};

/// Kind of the object that a condition concerns; the label `kind` of `durward_problems`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Document that is rejected, partly accepted, or served as it last was.
    Document,
    /// Listener that no connection can reach.
    Listener,
    /// Egress address that is not on this host.
    EgressAddress,
    /// Certificate that is expired, expires soon, or does not name its address.
    Certificate,
    /// Upstream without a usable endpoint.
    Upstream,
    /// Mapping, egress rule or kernel parameter.
    Kernel,
    /// Audit file.
    Audit,
    /// Sink of log lines.
    Log,
    /// File that keeps claims and last good documents.
    State,
    /// Configuration files, and files that documents name.
    Files,
    /// Kubernetes API as a source.
    Kubernetes,
}

impl Kind {
    /// Returns the word of the metric label, which is also the serialised form.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::Listener => "listener",
            Self::EgressAddress => "egress_address",
            Self::Certificate => "certificate",
            Self::Upstream => "upstream",
            Self::Kernel => "kernel",
            Self::Audit => "audit",
            Self::Log => "log",
            Self::State => "state",
            Self::Files => "files",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// Something that does not work now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Condition {
    /// Kind of the object.
    pub(crate) kind: Kind,
    /// Tenant that is affected; `None` for the process as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<TenantId>,
    /// Object: an address, a document, an upstream.
    pub(crate) subject: String,
    /// Description of the problem, without the object's name.
    pub(crate) sentence: String,
}

impl Condition {
    /// Creates a condition of one tenant.
    #[expect(clippy::needless_pass_by_value, reason = "callers pass what they would format")]
    pub(crate) fn of(
        kind: Kind,
        tenant: &TenantId,
        subject: impl ToString,
        sentence: impl Into<String>,
    ) -> Self {
        let (subject, sentence) = (subject.to_string(), sentence.into());
        Self { kind, tenant: Some(tenant.clone()), subject, sentence }
    }

    /// Creates a condition of the process.
    #[expect(clippy::needless_pass_by_value, reason = "callers pass what they would format")]
    pub(crate) fn process(kind: Kind, subject: impl ToString, sentence: impl Into<String>) -> Self {
        Self { kind, tenant: None, subject: subject.to_string(), sentence: sentence.into() }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(tenant) = &self.tenant {
            write!(f, "{tenant}: ")?;
        }
        write!(f, "{} {}", self.subject, self.sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_is_the_serialised_word() {
        for kind in [
            Kind::Document,
            Kind::Listener,
            Kind::EgressAddress,
            Kind::Certificate,
            Kind::Upstream,
            Kind::Kernel,
            Kind::Audit,
            Kind::Log,
            Kind::State,
            Kind::Files,
            Kind::Kubernetes,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }
}
