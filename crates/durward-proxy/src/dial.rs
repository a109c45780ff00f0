//! Connections of the forward proxy to checked addresses: from the tenant's own address, directly or through a parent proxy.

mod parent;

use std::net::SocketAddr;
use std::rc::Rc;

use durward_model::egress::{Asked, Parent};

use crate::core::Core;
use crate::decisions::Passage;
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use crate::relay::Side;
use crate::upstream::{Lease, visit};

/// Destination that the policy allows.
pub(crate) struct Cleared<'p> {
    /// Addresses to dial, all of them checked.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Parent proxy whose addresses these are, if the request goes through one.
    pub(crate) parent: Option<&'p Parent>,
}

impl Cleared<'_> {
    /// Keeps only the address that the client chose itself, if it is among the checked ones.
    pub(crate) fn keep_to(&mut self, chosen: SocketAddr) {
        if self.addresses.contains(&chosen) {
            self.addresses = vec![chosen];
        }
    }
}

/// Unused connection.
pub(crate) struct Reached {
    pub(crate) side: Side,
    pub(crate) lease: Lease,
}

/// Opens a connection of its own to an allowed destination.
///
/// # Errors
/// Returns why there is none.
pub(crate) async fn connect(
    core: &Rc<Core>,
    view: &TenantView,
    cleared: &Cleared<'_>,
    asked: Asked<'_>,
    passage: Option<&Passage>,
) -> Result<Reached, Refusal> {
    let (io, lease) = visit(&core.upstreams, view.access(), &cleared.addresses).await?;
    let side = match cleared.parent {
        None => Side { io, early: Vec::new() },
        Some(parent) => {
            if let Some(passage) = passage {
                passage.opened(&core.decisions, lease.peer, lease.source);
                core.decisions.committed().await.map_err(Refusal::NotRecorded)?;
            }
            let asking = parent::ask(io, parent, asked.host, asked.port);
            let limit = view.tenant().tenant.limits.timeouts.response;
            match tokio::time::timeout(limit, asking).await {
                Ok(side) => side?,
                Err(_) => return Err(Refusal::ConnectTimeout { peer: lease.peer.0 }),
            }
        }
    };
    Ok(Reached { side, lease })
}
