//! Upstream connections bound to one client: it has authenticated on them, so no other client may use them.
//!
//! Bound connections end with the client's connection.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use durward_model::upstream::UpstreamIndex;

use super::acquire::Carrier;
use super::balance::Tried;
use super::lease::{Lease, Load};
use super::path::Ticket;
use super::per_core::Upstreams;
use super::pool::alive;
use super::tenant::Access;
use crate::io::Io;
use crate::refusal::Refusal;

/// Bound connections per client connection; the least recently used makes room.
const MOST: usize = 4;

/// Bound connections of one client connection.
#[derive(Default)]
pub(crate) struct Pins(RefCell<Vec<Pinned>>);

struct Pinned {
    io: Io,
    ticket: Ticket,
}

impl Pins {
    /// Keeps a connection for the client's next request.
    pub(crate) fn keep(&self, io: Io, lease: Lease) {
        let Some(ticket) = lease.into_ticket() else { return };
        let mut pins = self.0.borrow_mut();
        if pins.len() == MOST {
            pins.remove(0);
        }
        pins.push(Pinned { io, ticket });
    }

    /// Takes the client's own connection to the upstream, or to one of these destination addresses, unless the request has tried its endpoint.
    ///
    /// # Errors
    /// [`Refusal::CircuitOpen`] if the tenant has reached its limit of requests under way.
    pub(crate) fn take(
        &self,
        upstreams: &Rc<Upstreams>,
        access: impl FnOnce() -> Access,
        index: Option<UpstreamIndex>,
        addresses: &[SocketAddr],
        tried: &mut Tried,
    ) -> Result<Option<(Carrier, Lease)>, Refusal> {
        let mut pins = self.0.borrow_mut();
        if pins.is_empty() {
            return Ok(None);
        }
        pins.retain_mut(|pin| !pin.ticket.retired() && alive(&mut pin.io));
        let access = access();
        let tenant = access.tenant();
        let runtime = index.map_or(&tenant.outside, |index| &tenant.upstreams[index.0]);
        let fits = |pin: &Pinned| {
            // The flag identifies the endpoint: one of a changed or another upstream has another one.
            let at = runtime.endpoint_of(&pin.ticket.retired)?;
            let is_meant = index.is_some() || addresses.contains(&pin.ticket.port.0.peer().0);
            (is_meant && !tried.contains(at)).then_some(at)
        };
        let mut newest_first = pins.iter().enumerate().rev();
        let found = newest_first.find_map(|(place, pin)| Some((place, fits(pin)?)));
        let Some((found, at)) = found else { return Ok(None) };
        let pending = tenant.usage.pending(&tenant.tenant.limits)?;
        let Pinned { io, ticket } = pins.remove(found);
        tried.insert(at);
        let load = Load::new(upstreams, access, index, at, pending);
        Ok(Some((Carrier::Http1(io), load.with(ticket, true, Duration::ZERO))))
    }
}
