//! From a wish to a connection: through the gate, then from the tenant's own address, straight or by way of another proxy.
//!
//! Deliberately absent: what is carried.

use std::rc::Rc;

use durward_model::egress::{Asked, Policy};

use crate::core::Core;
use crate::decisions::Passage;
use crate::forward::gate::{self, Cleared};
use crate::forward::parent;
use crate::prepared::TenantView;
use crate::refusal::Refusal;
use crate::relay::Side;
use crate::upstream::{Lease, visit};

/// A connection that nobody used yet.
pub(crate) struct Reached {
    pub(crate) side: Side,
    pub(crate) lease: Lease,
}

/// A tunnel to what is asked for.
///
/// # Errors
/// Why it may not be, or cannot be.
pub(crate) async fn tunnel(
    core: &Rc<Core>,
    view: &TenantView,
    policy: &Policy,
    asked: Asked<'_>,
    passage: &mut Passage,
) -> Result<Reached, Refusal> {
    let cleared = gate::check(core, view, policy, asked, passage).await?;
    connect(core, view, &cleared, asked, Some(passage)).await
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
    let (mut io, lease) = visit(&core.upstreams, view.access(), &cleared.addresses).await?;
    let early = match cleared.parent {
        None => Vec::new(),
        Some(parent) => {
            if let Some(passage) = passage {
                passage.opened(&core.decisions, lease.peer, lease.source);
                core.decisions.committed().await.map_err(Refusal::NotRecorded)?;
            }
            let asking = parent::ask(&mut io, parent, (asked.host, asked.port));
            let limit = view.tenant().tenant.limits.timeouts.response;
            match tokio::time::timeout(limit, asking).await {
                Ok(early) => early?,
                Err(_) => return Err(Refusal::ConnectTimeout { peer: lease.peer.0 }),
            }
        }
    };
    Ok(Reached { side: Side { io, early }, lease })
}
