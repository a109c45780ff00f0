//! Tunnel after `101 Switching Protocols` or CONNECT: bytes of both connections pass unchanged until both directions end.

use std::sync::Arc;

use durward_model::egress::Host;

use crate::exchange::account::Account;
use crate::exchange::context::Http;
use crate::http::h1::Conn;
use crate::io::Io;
use crate::peek::sni;
use crate::refusal::Refusal;
use crate::relay::{Side, relay};
use crate::upstream::Lease;
use crate::watch::{Expired, Watch};

/// Exchange that became a tunnel.
pub(crate) struct Switched<'a> {
    up: Conn,
    /// Guards of the upstream connection's limits, held as long as it lives.
    lease: Lease,
    pub(crate) account: Option<Account<'a>>,
    /// Host that the tunnel's ClientHello must name, and the contact to show if it does not.
    pub(crate) must_name: Option<(Host, Option<Arc<str>>)>,
}

impl<'a> Switched<'a> {
    pub(crate) fn new(up: Conn, lease: Lease) -> Self {
        Self { up, lease, account: None, must_name: None }
    }

    /// Relays bytes until both sides are done. `early` came from the client after its request.
    pub(crate) async fn relay(
        mut self,
        http: &Http,
        watch: &Watch,
        mut client: Io,
        mut early: Vec<u8>,
    ) {
        if let Err(refusal) = self.check(http, watch, &mut client, &mut early).await {
            let _ = client.socket().set_zero_linger();
            if let Some(account) = self.account.take() {
                account.close_tunnel((early.len() as u64, 0), Some(refusal));
            }
            return;
        }
        let client = Side { io: client, early };
        let upstream = Side { early: self.up.input.buffer.take(), io: self.up.io };
        let relayed = relay(&http.core, &http.view, watch, client, upstream, &self.lease).await;
        if let Some(account) = self.account.take() {
            account.close_tunnel((relayed.from_client, relayed.from_upstream), relayed.ended);
        }
    }

    /// Waits for the ClientHello, where that has to name the host. Nothing is forwarded before that.
    async fn check(
        &mut self,
        http: &Http,
        watch: &Watch,
        client: &mut Io,
        early: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let Some((host, contact)) = self.must_name.take() else { return Ok(()) };
        let mut seen = None;
        watch.arm(Some(http.limits().timeouts.handshake), false);
        let waiting = sni::wait(client, early, (&host, contact.as_ref()), &mut seen);
        let waited = watch.guard(waiting).await.map_err(late);
        if let Some(passage) = self.account.as_mut().and_then(|account| account.passage.as_mut()) {
            passage.sni = seen;
        }
        waited?
    }
}

/// Returns the refusal for a client that did not send its ClientHello in time.
pub(crate) fn late(expired: Expired) -> Refusal {
    match expired {
        Expired::Deadline => Refusal::ClientTimeout { phase: "handshake" },
        Expired::Closing => Refusal::Draining,
    }
}
