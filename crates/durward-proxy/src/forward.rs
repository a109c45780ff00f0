//! The way out: who asks a forward proxy, what the tenant may reach through it, and the record of it.
//!
//! Deliberately absent: HTTP; the engine in `http` reads requests and carries them.

pub(crate) mod door;
pub(crate) mod gate;
pub(crate) mod identify;
pub(crate) mod parent;
pub(crate) mod reach;
pub(crate) mod sni;
pub(crate) mod socks;
mod told;
mod transparent;

use durward_model::Service;
use durward_model::egress::Taken;
use durward_model::mapping::Transport;

use crate::admitted::Admitted;
use crate::http;

/// Serves a client of a forward proxy: one that asks it, or one that was handed over and does not know.
pub(crate) async fn serve(admitted: Admitted) {
    let Service::Forward(service) = &admitted.view.listener().service else { return };
    let Some(transparent) = &service.transparent else {
        return Box::pin(http::serve(admitted)).await;
    };
    let port = admitted.facts.destination.0.port();
    match transparent.take(Transport::Tcp.number(), port) {
        // Each in a place of its own: a client of one kind does not keep memory for the other.
        Taken::Http => Box::pin(http::serve(admitted)).await,
        Taken::Tls => Box::pin(transparent::serve(admitted)).await,
        Taken::Quic | Taken::Denied | Taken::Translated => transparent::turn_away(admitted),
    }
}
