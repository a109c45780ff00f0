//! TLS pass-through: bytes go unchanged to the upstream that the ClientHello's server name selects.

use durward_model::Service;

use crate::admitted::Admitted;
use crate::io::Io;
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::reject::{Farewell, INTERNAL_ERROR, UNRECOGNIZED_NAME, alert, say};
use crate::tcp::carry;

/// Serves a connection of a pass-through listener to its end.
pub(crate) async fn serve(admitted: Admitted) {
    let view = admitted.view.clone();
    let Service::PassThrough(routes) = &view.listener().service else { return };
    let sni = admitted.facts.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    match routes.select(sni) {
        Some(route) => {
            carry(admitted, "passthrough", &route.upstreams, |io| {
                if let Some(socket) = io.socket() {
                    let _ = socket.try_write(&alert(INTERNAL_ERROR));
                }
            })
            .await;
        }
        None => refuse(admitted).await,
    }
}

/// Refuses a server name without a route, by a TLS alert.
async fn refuse(admitted: Admitted) {
    let Admitted { io, view, facts, watch, core, .. } = admitted;
    let outcome = Outcome::refused("passthrough", &Refusal::NoRoute);
    outcome.record(&core, Some(view.tenant()), &facts);
    if let Io::Tcp(stream) = io {
        say(stream, Farewell::Alert(UNRECOGNIZED_NAME), &watch).await;
    }
}
