//! TLS pass-through: bytes go unchanged to the upstream that the ClientHello's server name selects.

use std::rc::Rc;
use std::sync::Arc;

use durward_model::server_name::server_name;
use durward_model::{HostedApi, Service};

use crate::admitted::Admitted;
use crate::connection::ConnectionFacts;
use crate::decisions::Passage;
use crate::exchange::new_request_id;
use crate::io::Io;
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::reject::{Farewell, UNRECOGNIZED_NAME, say};
use crate::tcp::{GiveUp, carry};

/// The log's word for a connection that a tenant cluster's API proxy brings.
const API_PROXY: &str = "api_proxy";

/// Serves a connection of a pass-through listener to its end.
pub(crate) async fn serve(admitted: Admitted) {
    let view = admitted.view.clone();
    let Service::PassThrough(routes) = &view.listener().service else { return };
    let facts = Rc::clone(&admitted.facts);
    let sni = facts.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    let authority = facts.proxied.as_ref().and_then(|proxied| proxied.authority.as_deref());
    // The TLS session of a tenant cluster's API proxy ended in `admit`; the client's own goes on inside it.
    let kind = if matches!(admitted.io, Io::Tls(_)) { API_PROXY } else { "passthrough" };
    match routes.route(sni, authority) {
        Some(route) => {
            let passage = route.hosted.as_ref().map(|api| passage(&admitted, api, kind));
            carry(admitted, kind, &route.upstreams, (GiveUp::Alert, passage.as_ref())).await;
        }
        None => refuse(admitted).await,
    }
}

/// Returns the record of a connection to a hosted API server.
fn passage(admitted: &Admitted, api: &HostedApi, kind: &'static str) -> Passage {
    let (facts, tenant) = (&admitted.facts, &admitted.view.tenant().tenant.id);
    let id = new_request_id(&admitted.core);
    let mut passage = Passage::to_api(&id, tenant, facts.client);
    let tls = facts.tls.as_ref();
    let certificate = tls.and_then(|tls| tls.client_certificate.as_ref());
    passage.identity = certificate.map(|shown| format!("certificate:{}", shown.subject));
    passage.method = if kind == API_PROXY { "API-PROXY" } else { "TLS" }.to_owned();
    passage.inner = facts.proxied.as_ref().and_then(|proxied| proxied.inner);
    passage.sni = tls.and_then(|tls| tls.sni.clone());
    passage.host = asked_host(facts, api);
    passage.port = facts.destination.0.port();
    passage.rule = Arc::clone(&api.name);
    passage
}

/// Returns the name of the API server that was reached: of its names the one that was asked for. The client's own server name may be another's, where a
/// PROXY header has named the API server.
fn asked_host(facts: &ConnectionFacts, api: &HostedApi) -> String {
    let authority = facts.proxied.as_ref().and_then(|proxied| proxied.authority.as_deref());
    let sni = facts.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    let asked = [authority, sni].into_iter().flatten().find(|name| api.is_authority(name));
    let asked = asked.and_then(|name| server_name(name).ok().flatten());
    let first = || api.names.iter().next().map(ToString::to_string);
    asked.or_else(first).unwrap_or_default()
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
