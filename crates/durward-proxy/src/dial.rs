//! A connection of the forward proxy's to addresses that were checked: from the tenant's own address, straight or through a parent proxy.
//!
//! Deliberately absent: names, and whether the client may go there; `egress_proxy` has decided that.

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

/// A way that is open.
pub(crate) struct Cleared<'p> {
    /// The addresses to dial, all of them checked.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The other proxy these are of, if it goes through one.
    pub(crate) parent: Option<&'p Parent>,
}

impl Cleared<'_> {
    /// Leaves of the addresses that were checked the one a client has chosen itself, if it is one of them.
    pub(crate) fn keep_to(&mut self, chosen: SocketAddr) {
        if self.addresses.contains(&chosen) {
            self.addresses = vec![chosen];
        }
    }
}

/// A connection that nobody used yet.
pub(crate) struct Reached {
    pub(crate) side: Side,
    pub(crate) lease: Lease,
}

/// A connection of its own along a way that is open.
///
/// # Errors
/// Why there is none.
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
