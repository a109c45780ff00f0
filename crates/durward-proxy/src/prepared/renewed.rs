//! Current form of the listener that a connection came in by, for the connection's next request.
//!
//! Another tenant's listener never takes its place, though it may have the same address and port now.

use std::net::IpAddr;
use std::sync::Arc;

use durward_model::{ClientAuth, Listener};

use super::{Prepared, PreparedListener, TenantView, build, fate};
use crate::watch::Retirement;

impl PreparedListener {
    /// Returns the same tenant's listener in the same place, if there still is one and it admits the client.
    pub(crate) fn renewed(&self, prepared: &Prepared, client: IpAddr) -> Option<Arc<Self>> {
        let now = build::in_place_of(&self.listener, prepared)?;
        now.listener.admits(client).then(|| Arc::clone(now))
    }
}

impl TenantView {
    /// Returns the view that a client accepted now would get.
    pub(crate) fn renewed(&self, prepared: &Prepared, client: IpAddr) -> Option<Self> {
        self.0.renewed(prepared, client).map(Self)
    }

    /// Returns the signal that retires connections of this listener.
    pub(crate) fn retirement(&self) -> &Arc<Retirement> {
        &self.0.retirement
    }

    /// Returns true if a connection of `former` may go on under this view.
    pub(crate) fn may_take_over(&self, former: &Self) -> bool {
        fate::may_go_on(
            (former.listener(), &former.tenant().tenant),
            (self.listener(), &self.tenant().tenant),
        )
    }

    /// Returns true if both authenticate clients in the same way, revocation lists included.
    pub(crate) fn trusts_like(&self, other: &Self) -> bool {
        let auth = |listener: &Listener| {
            listener.tls().map_or_else(ClientAuth::default, |tls| tls.client_auth.clone())
        };
        auth(self.listener()) == auth(other.listener())
    }
}
