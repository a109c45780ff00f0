//! The tenant: the one identity every path resolves to, and all that belongs to it.
//!
//! Deliberately absent: anything of another tenant. Whoever holds a `Tenant` holds only that tenant's view.

use std::sync::Arc;

use serde::Serialize;

use crate::address::EgressAddress;
use crate::limits::Limits;
use crate::listener::Listener;
use crate::origin::Origin;
use crate::tenant_id::TenantId;
use crate::upstream::{Upstream, UpstreamIndex};

/// All that is true of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tenant {
    /// Name.
    pub id: TenantId,
    /// The addresses its connections leave from. A tenant without any can serve no upstream.
    pub egress: Vec<EgressAddress>,
    /// Upstreams, sorted by name; routes refer to them by index.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Listeners, sorted by address and port.
    pub listeners: Vec<Arc<Listener>>,
    /// Listeners for connections that the kernel hands over, one per family; at no address of the tenant.
    pub transparent: Vec<Arc<Listener>>,
    /// Limits.
    pub limits: Limits,
    /// Origin: the beginning of the document.
    pub origin: Origin,
}

impl Tenant {
    /// The upstream a route refers to.
    ///
    /// # Panics
    /// When the index is another tenant's: indexes are made by the compile step for this tenant only.
    #[must_use]
    pub fn upstream(&self, index: UpstreamIndex) -> &Arc<Upstream> {
        &self.upstreams[index.0]
    }
}
