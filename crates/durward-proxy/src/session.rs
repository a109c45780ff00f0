//! The life of a connection, on one screen.

use durward_model::Service;
use durward_model::egress::Taken;
use durward_model::listener::Protocol;
use durward_model::transport::Transport;

use crate::admit::{Accepted, enter};
use crate::admitted::Admitted;
use crate::egress_proxy::transparent;
use crate::{agents, passthrough, server, tcp};

/// Serves a connection to its end: `enter` peeks and admits, the protocol's server routes, connects and relays.
///
/// The outcome is recorded once: by the step that refused the connection, or by the server that served it.
pub(crate) async fn serve(accepted: Accepted) {
    let entrance = match Box::pin(enter(accepted)).await {
        Ok(entrance) => entrance,
        Err(turned_away) => return Box::pin(turned_away.leave()).await,
    };
    let (admitted, _counted) = (entrance.admitted, entrance.counted);
    match admitted.view.listener().protocol() {
        Protocol::Http | Protocol::Https => Box::pin(server::serve(admitted)).await,
        Protocol::Forward => Box::pin(serve_forward(admitted)).await,
        Protocol::Tcp => Box::pin(tcp::serve(admitted)).await,
        Protocol::Link => Box::pin(agents::serve(admitted)).await,
        Protocol::Tls => Box::pin(passthrough::serve(admitted)).await,
        // Datagrams make no connections.
        Protocol::Udp => {}
    }
}

/// Serves a client of a forward proxy: by SOCKS or HTTP, or transparently.
async fn serve_forward(admitted: Admitted) {
    let Service::Forward(service) = &admitted.view.listener().service else { return };
    let Some(transparent) = &service.transparent else {
        return Box::pin(server::serve(admitted)).await;
    };
    let port = admitted.facts.destination.0.port();
    match transparent.take(Transport::Tcp.number(), port) {
        // Boxed separately, so that a client of one kind does not hold memory for the other's future.
        Taken::Http => Box::pin(server::serve(admitted)).await,
        Taken::Tls => Box::pin(transparent::serve(admitted)).await,
        Taken::Quic | Taken::Denied | Taken::Translated => transparent::turn_away(admitted),
    }
}
