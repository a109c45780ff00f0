//! Hosted API servers in numbers, for the metrics: how many addresses serve how many of them.

use std::collections::HashSet;
use std::sync::Arc;

use crate::hosted::HostedApi;
use crate::listener::{Listener, Service};

/// Hosted API servers of a configuration in numbers: one address each, or one for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostedApiCounts {
    /// API servers, konnectivity servers not counted.
    pub servers: usize,
    /// Tenants that have one.
    pub tenants: usize,
    /// Ingress addresses at which they are served.
    pub addresses: usize,
}

impl HostedApiCounts {
    /// Counts the hosted API servers of listeners.
    #[must_use]
    pub fn of<'a>(listeners: impl IntoIterator<Item = &'a Arc<Listener>>) -> Self {
        let (mut servers, mut tenants) = (HashSet::new(), HashSet::new());
        let mut addresses = HashSet::new();
        for listener in listeners {
            let Service::PassThrough(routes) = &listener.service else { continue };
            for api in routes.iter().filter_map(|route| route.hosted.as_ref()) {
                if api.name.ends_with(HostedApi::KONNECTIVITY) {
                    continue;
                }
                let name = api.name.strip_suffix(HostedApi::UNNAMED).unwrap_or(&api.name);
                servers.insert((&listener.tenant, name));
                tenants.insert(&listener.tenant);
                addresses.insert(listener.address);
            }
        }
        Self { servers: servers.len(), tenants: tenants.len(), addresses: addresses.len() }
    }
}
