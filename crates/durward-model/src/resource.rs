//! The identity of a resource: what verdicts, claims, counters and reports of planes are about, and how their status finds its way back.
//!
//! Names repeat, across kinds, namespaces and tenants; an identity does not.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Kind of a resource, as documents call it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(into = "&'static str", try_from = "String")]
pub enum Kind {
    /// A tenant.
    Tenant,
    /// External ports of a tenant that the kernel leads to endpoints.
    PortMapping,
    /// Rules for where a tenant's connections may go.
    EgressPolicy,
    /// A Kubernetes API server that is hosted for a tenant.
    HostedApi,
    /// A private cluster whose agent dials in.
    ClusterLink,
    /// Addresses that tenants are given.
    AddressPool,
    /// An object of SmartNat, which is read as a `PortMapping`.
    Mapping,
    /// An Ingress of a cluster: hosts and paths that its tenant's listeners serve.
    Ingress,
    /// Control plane of Kamaji, which is read as a hosted API server.
    KamajiControlPlane,
    /// Control plane of Steward, a fork of Kamaji.
    StewardControlPlane,
    /// Routes of Traefik, which are read as those of hosted API servers.
    IngressRouteTcp,
    /// A route of the Gateway API, which is read as that of a hosted API server.
    TlsRoute,
    /// A tenant of a `routing.json`.
    RoutingJson,
    /// A Secret of a cluster.
    Secret,
    /// A `ConfigMap` of a cluster.
    ConfigMap,
    /// A Service of a cluster.
    Service,
    /// A Namespace of a cluster.
    Namespace,
    /// A configuration file that cannot be read, or a document in it of which not even the name can be.
    #[default]
    File,
}

/// Text that is the name of no kind.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a kind")]
pub struct UnknownKind(pub String);

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 18] = [
        Self::Tenant,
        Self::PortMapping,
        Self::EgressPolicy,
        Self::HostedApi,
        Self::ClusterLink,
        Self::AddressPool,
        Self::Mapping,
        Self::Ingress,
        Self::KamajiControlPlane,
        Self::StewardControlPlane,
        Self::IngressRouteTcp,
        Self::TlsRoute,
        Self::RoutingJson,
        Self::Secret,
        Self::ConfigMap,
        Self::Service,
        Self::Namespace,
        Self::File,
    ];

    /// Returns whether objects of the kind are other controllers' and name hosted API servers.
    #[must_use]
    pub fn is_foreign_api(self) -> bool {
        matches!(
            self,
            Self::KamajiControlPlane
                | Self::StewardControlPlane
                | Self::IngressRouteTcp
                | Self::TlsRoute
        )
    }

    /// Returns the name of the kind, as documents and verdicts have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "Tenant",
            Self::PortMapping => "PortMapping",
            Self::EgressPolicy => "EgressPolicy",
            Self::HostedApi => "HostedApi",
            Self::ClusterLink => "ClusterLink",
            Self::AddressPool => "AddressPool",
            Self::Mapping => "Mapping",
            Self::Ingress => "Ingress",
            // Two groups have this kind: they are told apart as in `kubectl get`.
            Self::KamajiControlPlane => "TenantControlPlane.kamaji.clastix.io",
            Self::StewardControlPlane => "TenantControlPlane.steward.butlerlabs.dev",
            Self::IngressRouteTcp => "IngressRouteTCP",
            Self::TlsRoute => "TLSRoute",
            Self::RoutingJson => "routing.json",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::Namespace => "Namespace",
            Self::File => "File",
        }
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

impl TryFrom<String> for Kind {
    type Error = UnknownKind;

    fn try_from(text: String) -> Result<Self, UnknownKind> {
        text.parse()
    }
}

impl From<Kind> for &'static str {
    fn from(kind: Kind) -> Self {
        kind.as_str()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Identity of a resource.
///
/// What belongs to a tenant has the tenant's name for its namespace when it is written in a file, and the namespace it lives in when it is an
/// object of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceId {
    /// The kind.
    pub kind: Kind,
    /// The namespace; `None` for kinds that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// The name, unique within kind and namespace.
    pub name: Arc<str>,
}

impl ResourceId {
    /// Builds the identity of a resource without a namespace.
    #[must_use]
    pub fn new(kind: Kind, name: &str) -> Self {
        Self { kind, namespace: None, name: Arc::from(name) }
    }

    /// Builds the identity of a resource in a namespace.
    #[must_use]
    pub fn namespaced(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: Some(Arc::from(namespace)), name: Arc::from(name) }
    }

    /// Returns whether this is the document of the tenant of this name, or one in a namespace of that name.
    #[must_use]
    pub fn is_of(&self, tenant: &str) -> bool {
        match (&self.kind, &self.namespace) {
            (Kind::Tenant, _) => *self.name == *tenant,
            (_, Some(namespace)) => **namespace == *tenant,
            (_, None) => false,
        }
    }

    /// Returns whether `text` can be the name of a resource in a namespace: up to 253 letters, digits, `-`, `_` or `.`, beginning and ending with a
    /// letter or digit.
    #[must_use]
    pub fn is_name(text: &str) -> bool {
        let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        bytes.len() <= 253 && bytes.iter().all(inner) && edge(bytes.first()) && edge(bytes.last())
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        match namespace {
            Some(namespace) => write!(f, "{kind}/{namespace}/{name}"),
            None => write!(f, "{kind}/{name}"),
        }
    }
}

/// Version of a resource, which differs from that of the same resource at another time.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision {
    /// Identifier that no other object ever had, not even an earlier one of the same name; `None` where the source gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<Arc<str>>,
    /// Number that grows with each change of what is wanted; 0 where the source counts none.
    pub generation: u64,
}

impl Revision {
    /// Returns whether this is of another object than the one that had the identifier `former`. Where one of them has none, it is not known to be.
    #[must_use]
    pub fn is_made_anew(&self, former: Option<&Arc<str>>) -> bool {
        self.uid.as_ref().zip(former).is_some_and(|(now, former)| now != former)
    }
}

/// Place of a document in its source. Documents of files may share a name, so a name is not enough to tell them apart.
///
/// Keys are in the order of documents: those of files first, in the order of the configured paths, of files, and within a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DocumentKey {
    /// A document in a file.
    File {
        /// Position, among the configured paths, of the one that the file was found by.
        rank: u32,
        /// The file as the user named it.
        file: Arc<str>,
        /// Position among the documents of the file, counted from 0.
        position: u32,
    },
    /// An object of an API server.
    Object(ResourceId),
}

impl DocumentKey {
    /// Returns the object, if the document is one.
    #[must_use]
    pub fn object(&self) -> Option<&ResourceId> {
        match self {
            Self::Object(id) => Some(id),
            Self::File { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name_and_no_other_text_is() {
        for kind in Kind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        for other in ["", "tenant", "Tenant ", "Gateway"] {
            assert_eq!(other.parse::<Kind>(), Err(UnknownKind(other.to_owned())));
        }
    }

    #[test]
    fn an_identity_shows_kind_namespace_and_name() {
        let mapping = ResourceId::namespaced(Kind::PortMapping, "acme", "web");
        let tenant = ResourceId::new(Kind::Tenant, "acme");

        assert_eq!(mapping.to_string(), "PortMapping/acme/web");
        assert_eq!(tenant.to_string(), "Tenant/acme");
        assert_ne!(mapping, ResourceId::namespaced(Kind::PortMapping, "globex", "web"));
    }

    #[test]
    fn a_mapping_of_another_tenant_is_not_the_tenants() {
        let of = |id: ResourceId| id.is_of("acme");

        assert!(of(ResourceId::new(Kind::Tenant, "acme")));
        assert!(of(ResourceId::namespaced(Kind::PortMapping, "acme", "web")));
        assert!(!of(ResourceId::namespaced(Kind::PortMapping, "globex", "acme")));
        assert!(!of(ResourceId::new(Kind::Tenant, "globex")));
        assert!(!of(ResourceId::new(Kind::PortMapping, "acme")), "nothing says whose it is");
    }
}
