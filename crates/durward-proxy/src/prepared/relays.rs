//! TLS configurations for the outer connections of tenant clusters' API proxies.

use std::collections::HashMap;
use std::sync::Arc;

use durward_model::server_tls::ServerTls;
use durward_model::sni::SniRoute;
use durward_model::sni::SniTable;
use durward_model::{Listener, Service};
use rustls::ServerConfig;

use super::PreparedListener;
use crate::tls::server_config::server_configs;

/// Returns the configurations of each route, in the order of the routes; none where no route admits proxies. Those of an unchanged hosted API server are
/// the ones before, with their session tickets.
///
/// # Errors
/// Returns what cannot be used, as a message.
pub(super) fn relays(
    listener: &Listener,
    before: Option<&PreparedListener>,
) -> Result<Vec<Vec<Arc<ServerConfig>>>, String> {
    let routes = routes(listener);
    if !routes.iter().any(|route| relay(route).is_some()) {
        return Ok(Vec::new());
    }
    let before = before.filter(|before| before.listener.tenant == listener.tenant);
    let former: HashMap<&str, (&ServerTls, &Vec<Arc<ServerConfig>>)> = before
        .into_iter()
        .flat_map(|before| self::routes(&before.listener).iter().zip(&before.relays))
        .filter_map(|(route, configs)| relay(route).map(|(name, tls)| (name, (tls, configs))))
        .collect();
    let of_route = |route: &SniRoute| match relay(route) {
        None => Ok(Vec::new()),
        Some((name, tls)) => match former.get(name) {
            Some((same, configs)) if *same == tls => Ok((*configs).clone()),
            _ => server_configs(tls).map_err(|error| format!("hosted API {name}: {error}")),
        },
    };
    routes.iter().map(of_route).collect()
}

fn routes(listener: &Listener) -> &[SniRoute] {
    match &listener.service {
        Service::PassThrough(routes) => routes as &SniTable,
        _ => &[],
    }
}

/// Returns the name of a route's hosted API server and its TLS towards proxies, if it admits some.
fn relay(route: &SniRoute) -> Option<(&str, &ServerTls)> {
    let api = route.hosted.as_ref()?;
    Some((&api.name, api.relay.as_ref()?))
}
