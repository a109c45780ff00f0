//! The life of a connection, on one screen.
//!
//! Deliberately absent: the steps themselves; each has a room of its own.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use durward_model::listener::Protocol;
use tokio::net::TcpStream;

use crate::admit::enter;
use crate::core::Core;
use crate::prepared::PreparedBind;
use crate::{forward, http, passthrough, tcp, turns};

/// A connection nobody knows anything of yet.
pub(crate) struct Accepted {
    /// The socket.
    pub(crate) stream: TcpStream,
    /// Its other end.
    pub(crate) peer: SocketAddr,
    /// Its own address.
    pub(crate) local: SocketAddr,
    /// What it was accepted on; `None` when the configuration has just given that up.
    pub(crate) bind: Option<Arc<PreparedBind>>,
    /// When it was accepted.
    pub(crate) at: Instant,
    /// The core it lives on.
    pub(crate) core: Rc<Core>,
    /// Its place among the connections that take turns there.
    pub(crate) turn: Rc<turns::Place>,
}

/// Serves a connection to its end. What became of it is recorded once: by the one that turned it away, or by the one that served it.
pub(crate) async fn serve(accepted: Accepted) {
    let entrance = match Box::pin(enter(accepted)).await {
        Ok(entrance) => entrance,
        Err(turned_away) => return Box::pin(turned_away.leave()).await,
    };
    let (admitted, _counted) = (entrance.admitted, entrance.counted);
    match admitted.view.listener().protocol() {
        Protocol::Http | Protocol::Https => Box::pin(http::serve(admitted)).await,
        Protocol::Forward => Box::pin(forward::serve(admitted)).await,
        Protocol::Tcp => Box::pin(tcp::serve(admitted)).await,
        Protocol::Tls => Box::pin(passthrough::serve(admitted)).await,
    }
}
