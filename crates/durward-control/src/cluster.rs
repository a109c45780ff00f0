//! Namespaces of a cluster: whose each is, and from which one a document looks names up.
//!
//! The label [`TENANT_LABEL`] on a Namespace says whose it is: only who may edit Namespaces can give one away.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use durward_model::{Kind, ResourceId, TenantId};

use crate::reference::{Grantee, Reference};

/// Label of a Namespace that names the tenant it belongs to.
pub const TENANT_LABEL: &str = "durward.dev/tenant";

/// Label of a Namespace whose programs leave through a forward proxy alone.
pub const ISOLATION_LABEL: &str = "network/isolation";
/// Value of that label.
pub const ISOLATED: &str = "egress-proxy";
/// Label of such a Namespace that names its tenant.
pub const ISOLATED_TENANT_LABEL: &str = "tenant";

/// Labels of an object.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Returns whether the labels of a Namespace say `network/isolation: egress-proxy` and name a `tenant`.
#[must_use]
pub fn is_isolated(labels: &Labels) -> bool {
    let isolation = labels.get(ISOLATION_LABEL).map(|label| &**label);
    isolation == Some(ISOLATED) && labels.contains_key(ISOLATED_TENANT_LABEL)
}

/// Returns the tenant that the labels of a Namespace name. [`TENANT_LABEL`] comes first.
pub(crate) fn tenant_label(labels: &Labels) -> Option<&Arc<str>> {
    let isolated = is_isolated(labels).then(|| labels.get(ISOLATED_TENANT_LABEL)).flatten();
    labels.get(TENANT_LABEL).or(isolated)
}
/// Type of a Secret that holds a certificate and its key.
pub(crate) const TLS_SECRET: &str = "kubernetes.io/tls";

/// A cluster whose API server is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The gateway's own namespace, which is the operator's: what is in it may be for any tenant.
    pub namespace: Arc<str>,
    /// Objects in its namespaces that a tenant may have; more are rejected, the youngest first.
    pub objects_per_tenant: usize,
}

impl Cluster {
    /// Objects that a tenant may have unless the operator says otherwise.
    pub const OBJECTS_PER_TENANT: usize = 1_000;

    /// Builds a cluster in which the gateway has this namespace.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self { namespace: Arc::from(namespace), objects_per_tenant: Self::OBJECTS_PER_TENANT }
    }
}

/// Namespace from which a document looks names up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Viewpoint {
    /// A namespace. Names in others need a grant for documents of this kind.
    Namespace(Grantee),
    /// None, as for a mapping in a file, which may name any namespace of its tenant; this one if it names none.
    Outside(Arc<str>),
}

impl Viewpoint {
    /// Returns the namespace in which a name is looked up.
    #[must_use]
    pub fn namespace(&self, written: Option<&str>) -> Arc<str> {
        match (written, self) {
            (Some(written), _) => Arc::from(written),
            (None, Self::Namespace(own)) => Arc::clone(&own.namespace),
            (None, Self::Outside(usual)) => Arc::clone(usual),
        }
    }

    /// Returns the one to whom a resource in a namespace must be granted; `None` if it needs no grant.
    #[must_use]
    pub fn grantee(&self, namespace: &str) -> Option<&Grantee> {
        match self {
            Self::Namespace(own) if *own.namespace != *namespace => Some(own),
            Self::Namespace(_) | Self::Outside(_) => None,
        }
    }
}

/// An object that a document refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Kind, namespace and name.
    pub id: ResourceId,
    /// The port, of a Service.
    pub port: Option<Arc<str>>,
}

impl Target {
    /// Returns the namespace.
    #[must_use]
    pub fn namespace(&self) -> &Arc<str> {
        static NOWHERE: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| Arc::from(""));
        self.id.namespace.as_ref().unwrap_or(&NOWHERE)
    }

    /// Returns the reference by which its content is asked for.
    #[must_use]
    pub fn reference(&self) -> Reference {
        let (namespace, name) = (Arc::clone(self.namespace()), Arc::clone(&self.id.name));
        match (self.id.kind, &self.port) {
            (Kind::Secret, _) => Reference::Secret { namespace, name },
            (Kind::Service, Some(port)) => {
                Reference::Service { namespace, name, port: Arc::clone(port) }
            }
            _ => Reference::ConfigMap { namespace, name },
        }
    }

    /// Returns the object that a reference is to; `None` for other references.
    #[must_use]
    pub fn of(reference: &Reference) -> Option<Self> {
        let of = |kind, namespace: &Arc<str>, name: &Arc<str>, port: Option<&Arc<str>>| Self {
            id: ResourceId { kind, namespace: Some(Arc::clone(namespace)), name: Arc::clone(name) },
            port: port.cloned(),
        };
        match reference {
            Reference::Secret { namespace, name } => Some(of(Kind::Secret, namespace, name, None)),
            Reference::ConfigMap { namespace, name } => {
                Some(of(Kind::ConfigMap, namespace, name, None))
            }
            Reference::Service { namespace, name, port } => {
                Some(of(Kind::Service, namespace, name, Some(port)))
            }
            Reference::File(_)
            | Reference::Namespace(_)
            | Reference::Grant(_)
            | Reference::LinkRoutes { .. } => None,
        }
    }
}

impl fmt::Display for Target {
    /// Names the object as a sentence does: `Secret "shop" of namespace acme`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} of namespace {}", self.id.kind, self.id.name, self.namespace())
    }
}

/// Tenant that a document belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The one that it names.
    #[default]
    Written,
    /// The one of its namespace.
    OfNamespace(TenantId),
    /// None, with the reason.
    Nobody(Ownerless),
}

impl Owner {
    /// Returns the tenant whose objects the document is counted among.
    pub(crate) fn counted_for(&self) -> Option<&TenantId> {
        match self {
            Self::OfNamespace(tenant) | Self::Nobody(Ownerless::TooMany { tenant, .. }) => {
                Some(tenant)
            }
            _ => None,
        }
    }

    /// Returns whether both are the same, were there no limit to a tenant's objects.
    pub(crate) fn is_same_but_for_counts(&self, other: &Self) -> bool {
        match (self.counted_for(), other.counted_for()) {
            (Some(one), Some(other)) => one == other,
            _ => self == other,
        }
    }
}

/// Reason why an object belongs to no tenant. The phrases follow the name of its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ownerless {
    /// No API server is read.
    NotRead,
    /// The namespace was not read yet.
    Unread,
    /// The namespace cannot be read; the phrase says why.
    Unreadable(String),
    /// There is no such namespace.
    Missing,
    /// The namespace has no label.
    Unlabelled,
    /// The label is no name of a tenant.
    BadLabel(Arc<str>),
    /// The namespace is the gateway's own, and the object names no tenant.
    Unsaid,
    /// The namespace is the gateway's own, and objects of the kind are the tenant's of their namespace.
    Operators,
    /// The tenant has more objects than it may have, and this is none of the oldest.
    TooMany {
        /// The tenant.
        tenant: TenantId,
        /// Objects that it may have.
        most: usize,
    },
}

impl Ownerless {
    /// Returns the stable word for programs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::TooMany { .. } => "TooManyObjects",
            _ => "NamespaceWithoutTenant",
        }
    }
}

impl fmt::Display for Ownerless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRead => f.write_str(
                "is not known: no Kubernetes API is read, start durward with --kubernetes",
            ),
            Self::Unread => f.write_str("was not read from the API server yet"),
            Self::Unreadable(why) => f.write_str(why),
            Self::Missing => f.write_str("does not exist"),
            Self::Unlabelled => {
                write!(f, "is no tenant's: label the Namespace {TENANT_LABEL}: NAME")
            }
            Self::BadLabel(label) => write!(
                f,
                "has the label {TENANT_LABEL}: {label:?}, which is no tenant's name: correct the label"
            ),
            Self::Operators => {
                f.write_str("is the gateway's own: create the object in a namespace of the tenant")
            }
            Self::Unsaid => f.write_str("is the gateway's own: say the tenant with spec.tenant"),
            Self::TooMany { tenant, most } => write!(
                f,
                "is of tenant {tenant}, which has more than {most} objects: only the oldest {most} count, delete others"
            ),
        }
    }
}

/// Reason why a document cannot have an object that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectFault {
    /// No API server is read.
    NotRead,
    /// The object, or what decides whether it may be had, was not read yet; named by the phrase.
    Unread(String),
    /// The document has no namespace to look names up in; the phrase says why.
    BadNamespace(String),
    /// Text that cannot be the name or the port of a Service, with the reason as a phrase.
    BadService(String),
    /// A namespace does not exist.
    NamespaceMissing(Arc<str>),
    /// A namespace cannot be read; the phrase says why.
    NamespaceUnreadable(Arc<str>, String),
    /// A namespace is not the tenant's.
    NamespaceForeign {
        /// The namespace.
        namespace: Arc<str>,
        /// The tenant that its label would have to name.
        tenant: TenantId,
    },
    /// The object is in another namespace, and nothing grants it.
    GrantMissing(Target, Grantee),
    /// The object does not exist.
    Missing(Target),
    /// The Secret is of this type, and not one for certificates.
    NoTlsSecret(Target, Arc<str>),
    /// The object has no entry of this key; the phrase names those that it has.
    KeyMissing(Target, String),
    /// The Service has no such port.
    PortUnknown(Target, String),
    /// The Service has no endpoints by its nature, with the reason.
    WithoutEndpoints(Target, String),
    /// The object cannot be read.
    Unreadable(Target, String),
}

impl ObjectFault {
    /// Returns the stable word for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match (self, self.kind()) {
            (Self::NotRead, _) => "KubernetesNotRead",
            (Self::Unread(_), _) => "ObjectUnread",
            (Self::BadNamespace(_), _) => "BadNamespace",
            (Self::BadService(_), _) => "BadService",
            (Self::NamespaceMissing(_), _) => "NamespaceMissing",
            (Self::NamespaceUnreadable(..), _) => "NamespaceUnreadable",
            (Self::NamespaceForeign { .. }, _) => "NamespaceForeign",
            (Self::GrantMissing(..), _) => "GrantMissing",
            (Self::Missing(_), Some(Kind::Secret)) => "SecretMissing",
            (Self::Missing(_), Some(Kind::Service)) => "ServiceMissing",
            (Self::Missing(_), _) => "ConfigMapMissing",
            (Self::NoTlsSecret(..), _) => "SecretTypeMismatch",
            (Self::KeyMissing(..), Some(Kind::Secret)) => "SecretKeyMissing",
            (Self::KeyMissing(..), _) => "ConfigMapKeyMissing",
            (Self::PortUnknown(..), _) => "PortUnknown",
            (Self::WithoutEndpoints(..), _) => "ServiceUnfitting",
            (Self::Unreadable(..), Some(Kind::Secret)) => "SecretUnreadable",
            (Self::Unreadable(..), Some(Kind::Service)) => "ServiceUnreadable",
            (Self::Unreadable(..), _) => "ConfigMapUnreadable",
        }
    }

    fn kind(&self) -> Option<Kind> {
        match self {
            Self::Missing(target)
            | Self::GrantMissing(target, _)
            | Self::NoTlsSecret(target, _)
            | Self::KeyMissing(target, _)
            | Self::PortUnknown(target, _)
            | Self::WithoutEndpoints(target, _)
            | Self::Unreadable(target, _) => Some(target.id.kind),
            _ => None,
        }
    }

    /// Returns whether the document has no right to the object. What it had of it before must not be served on.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::NamespaceForeign { .. } | Self::GrantMissing(..))
    }

    /// Returns whether there is nothing to connect to any more: the addresses that the Service had may belong to another Service now.
    #[must_use]
    pub fn leaves_no_endpoints(&self) -> bool {
        let is_gone = matches!(
            self,
            Self::Missing(_)
                | Self::PortUnknown(..)
                | Self::WithoutEndpoints(..)
                | Self::NamespaceMissing(_)
                | Self::NamespaceUnreadable(..)
        );
        is_gone || self.is_denial()
    }
}

impl fmt::Display for ObjectFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRead => f.write_str(
                "is an object of a cluster, and no Kubernetes API is read: start durward with --kubernetes",
            ),
            Self::Unread(what) => write!(f, "cannot be had yet: {what} was not read from the API server"),
            Self::BadNamespace(why) | Self::BadService(why) => f.write_str(why),
            Self::NamespaceMissing(namespace) => {
                write!(f, "is in namespace {namespace}, which does not exist: create it, or say another with spec.namespace")
            }
            Self::NamespaceUnreadable(namespace, why) => {
                write!(f, "is in namespace {namespace}, which {why}")
            }
            Self::NamespaceForeign { namespace, tenant } => write!(
                f,
                "is in namespace {namespace}, which is not the tenant's: label the Namespace {TENANT_LABEL}: {tenant}"
            ),
            Self::GrantMissing(target, grantee) => write!(
                f,
                "is in another namespace: create a ReferenceGrant in namespace {} from {} of namespace {} to {} {:?}",
                target.namespace(), grantee.kind, grantee.namespace, target.id.kind, target.id.name
            ),
            Self::Missing(target) => write!(f, "is the {target}, which does not exist: create it"),
            Self::NoTlsSecret(target, r#type) => write!(
                f,
                "is the {target}, which is of type {}, not {TLS_SECRET}: create it with kubectl create secret tls",
                r#type
            ),
            Self::KeyMissing(target, has) => write!(f, "is no entry of the {target}, which {has}"),
            Self::PortUnknown(target, why) => write!(f, "is a port of the {target}, which {why}"),
            Self::WithoutEndpoints(target, why) | Self::Unreadable(target, why) => {
                write!(f, "is the {target}, which {why}")
            }
        }
    }
}
