//! Admission of a UDP session, by its first datagram: tenant by the socket that it arrived on, allowed source, limits.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use durward_model::address::canonical;
use durward_model::{ClientAddr, Destination};

use crate::admitted::{AdmittedSession, CountedSession};
use crate::connection::ConnectionFacts;
use crate::core::Core;
use crate::memory::{self, Kind};
use crate::outcome::Outcome;
use crate::prepared::{PreparedBind, PreparedListener, TenantView};
use crate::refusal::Refusal;

/// Admits a session of `client` at a socket, or returns why it is refused.
pub(crate) fn enter(
    core: &Rc<Core>,
    bind: SocketAddr,
    client: SocketAddr,
) -> Result<AdmittedSession, Box<RefusedSession>> {
    let prepared = core.shared.prepared.load();
    let listener = prepared.udp.get(&bind).and_then(|bind| only(bind)).cloned();
    drop(prepared);
    let client = canonical(client);
    let refused = |refusal, listener| Box::new(RefusedSession { refusal, listener, client, bind });
    let Some(listener) = listener else {
        return Err(refused(Refusal::UnknownAddress { destination: bind }, None));
    };
    match check(core, &listener, client) {
        Ok(counted) => Ok(admitted(core, listener, client, counted)),
        Err(refusal) => Err(refused(refusal, Some(listener))),
    }
}

/// Returns the one listener of a socket for datagrams, if it could be prepared.
fn only(bind: &PreparedBind) -> Option<&Arc<PreparedListener>> {
    bind.listeners.first()?.as_ref()
}

fn check(
    core: &Core,
    listener: &PreparedListener,
    client: SocketAddr,
) -> Result<CountedSession, Refusal> {
    if !listener.listener.admits(client.ip()) {
        return Err(Refusal::SourceNotAllowed { client });
    }
    if core.watchdog.draining() {
        return Err(Refusal::Draining);
    }
    let tenant = &listener.tenant;
    let guard = tenant.usage.session(&tenant.tenant.limits, client.ip())?;
    let mut hold = core.shared.memory.hold(&tenant.usage, Kind::Clients);
    hold.grow(memory::CONNECTION)?;
    Ok(CountedSession::new(&tenant.metrics, core.id, (guard, hold)))
}

fn admitted(
    core: &Rc<Core>,
    listener: Arc<PreparedListener>,
    client: SocketAddr,
    counted: CountedSession,
) -> AdmittedSession {
    let watch = core.watchdog.watch();
    watch.retire_with(&listener.retirement, client.ip());
    let facts = facts(&listener, client);
    let view = TenantView::admitted(listener);
    AdmittedSession { core: Rc::clone(core), view, facts, watch, counted }
}

fn facts(listener: &PreparedListener, client: SocketAddr) -> ConnectionFacts {
    let (address, port) = listener.listener.key();
    ConnectionFacts {
        accepted: Instant::now(),
        client: ClientAddr(client),
        peer: client,
        destination: Destination(SocketAddr::new(address, port)),
        tls: None,
        link: None,
        proxied: None,
    }
}

/// A datagram that begins no session.
pub(crate) struct RefusedSession {
    refusal: Refusal,
    listener: Option<Arc<PreparedListener>>,
    client: SocketAddr,
    bind: SocketAddr,
}

impl RefusedSession {
    /// Counts the refusal, and writes it to the access log if `logged`: whoever sends datagrams from addresses of others decides how many there are.
    pub(crate) fn record(&self, core: &Core, logged: bool) {
        let Self { refusal, listener, client, bind } = self;
        let tenant = listener.as_ref().map(|listener| &*listener.tenant);
        if !logged {
            let metrics = tenant.map_or(&core.shared.metrics.unknown, |tenant| &tenant.metrics);
            return metrics.core(core.id).refused(refusal);
        }
        let facts = match listener {
            Some(listener) => facts(listener, *client),
            None => ConnectionFacts {
                accepted: Instant::now(),
                client: ClientAddr(*client),
                peer: *client,
                destination: Destination(*bind),
                tls: None,
                link: None,
                proxied: None,
            },
        };
        Outcome::refused("refused", refusal).record(core, tenant, &facts);
    }
}
