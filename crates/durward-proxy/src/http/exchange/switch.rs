//! After `101 Switching Protocols`: the bytes of both connections, as they are, until both directions end.
//!
//! Deliberately absent: any look at them.

use crate::http::Http;
use crate::http::exchange::Account;
use crate::http::h1::Conn;
use crate::io::Io;
use crate::relay::relay;
use crate::upstream::Lease;
use crate::watch::Watch;

/// An exchange that became a tunnel.
pub(crate) struct Switched<'a> {
    up: Conn,
    /// Holds the limits of the upstream connection as long as it lives.
    _lease: Lease,
    pub(super) account: Option<Account<'a>>,
}

impl<'a> Switched<'a> {
    pub(super) fn new(up: Conn, lease: Lease) -> Self {
        Self { up, _lease: lease, account: None }
    }

    /// Carries bytes until both sides are done. `early` came from the client after its request.
    pub(crate) async fn relay(mut self, http: &Http, watch: &Watch, client: Io, early: Vec<u8>) {
        let to_client = self.up.input.buffer.take();
        let relayed =
            relay(&http.core, &http.view, watch, client, self.up.io, early, to_client).await;
        if let Some(account) = self.account.take() {
            account.close_tunnel((relayed.from_client, relayed.from_upstream), relayed.ended);
        }
    }
}
