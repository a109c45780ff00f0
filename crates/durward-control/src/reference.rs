//! Things outside of a document that its meaning depends on.

use std::path::Path;
use std::sync::Arc;

use durward_model::{Kind, ResourceId};
use serde::{Deserialize, Serialize};

/// Thing outside of a document that the meaning of the document depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reference {
    /// A file, by the path it is looked for at.
    File(Arc<Path>),
    /// A Secret.
    Secret {
        /// The namespace it is in.
        namespace: Arc<str>,
        /// Name.
        name: Arc<str>,
    },
    /// A `ConfigMap`.
    ConfigMap {
        /// The namespace it is in.
        namespace: Arc<str>,
        /// Name.
        name: Arc<str>,
    },
    /// The ready endpoints of a port of a Service.
    Service {
        /// The namespace it is in.
        namespace: Arc<str>,
        /// Name.
        name: Arc<str>,
        /// The port's name or number, as the document has it.
        port: Arc<str>,
    },
    /// The labels of a namespace.
    Namespace(Arc<str>),
    /// A grant that lets other namespaces refer to a resource.
    Grant(ResourceId),
    /// The routes that agents of a link have registered.
    LinkRoutes {
        /// The tenant of the link.
        tenant: Arc<str>,
        /// Name of the link within the tenant.
        link: Arc<str>,
    },
}

/// Resources that a grant lets refer to another namespace: those of a kind in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grantee {
    /// The kind.
    pub kind: Kind,
    /// The namespace; for a `Tenant` the one that it looks names up in.
    pub namespace: Arc<str>,
}
