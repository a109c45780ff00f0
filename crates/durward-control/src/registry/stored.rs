//! Claims of a link as JSON, for the state directory.

use std::sync::Arc;

use durward_model::link::{LinkPath, LinkRoute};
use serde::{Deserialize, Serialize};

use super::{LinkId, Registration, Registry, RouteOwner};
use crate::words;

/// Version of the format. Others are refused: they are from a newer Durward.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    version: u32,
    tenant: Arc<str>,
    link: Arc<str>,
    routes: Vec<StoredRoute>,
}

#[derive(Serialize, Deserialize)]
struct StoredRoute {
    host: String,
    path: LinkPath,
    target: Arc<str>,
    port: u16,
    #[serde(default, skip_serializing_if = "is_empty")]
    namespace: Arc<str>,
    #[serde(default, skip_serializing_if = "is_empty")]
    ingress: Arc<str>,
}

fn is_empty(text: &Arc<str>) -> bool {
    text.is_empty()
}

/// Reason why bytes are no claims of a link.
#[derive(Debug, thiserror::Error)]
pub enum BadClaims {
    /// The bytes are not JSON of this form.
    #[error("the claims are damaged")]
    Damaged(#[from] serde_json::Error),
    /// A Durward of another version wrote them.
    #[error("the claims have version {0}, and this Durward reads version {VERSION}")]
    Version(u32),
    /// A host is none.
    #[error("the claims are damaged: {0:?} is no host name")]
    Host(String),
}

impl Registry {
    /// Returns the claims of a link as JSON; `None` if it has none.
    #[must_use]
    pub fn to_json(&self, id: &LinkId) -> Option<Vec<u8>> {
        let claims = self.links.get(id).filter(|claims| !claims.routes.is_empty())?;
        let routes = claims.routes.iter().map(|Registration { route, owner }| StoredRoute {
            host: route.host.to_string(),
            path: route.path.clone(),
            target: Arc::clone(&route.target),
            port: route.port,
            namespace: Arc::clone(&owner.namespace),
            ingress: Arc::clone(&owner.name),
        });
        let (tenant, link) = (Arc::clone(&id.tenant), Arc::clone(&id.link));
        serde_json::to_vec(&Stored { version: VERSION, tenant, link, routes: routes.collect() })
            .ok()
    }

    /// Takes in the claims of a link as an earlier process stored them. A name that another link holds by now stays with that.
    ///
    /// # Errors
    /// Fails if the bytes are damaged, or of another version.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<LinkId, BadClaims> {
        let stored: Stored = serde_json::from_slice(bytes)?;
        if stored.version != VERSION {
            return Err(BadClaims::Version(stored.version));
        }
        let id = LinkId { tenant: stored.tenant, link: stored.link };
        let mut routes = Vec::with_capacity(stored.routes.len());
        for one in stored.routes {
            let host = words::host_pattern(&one.host).map_err(|_| BadClaims::Host(one.host))?;
            if *self.holders.entry(host.clone()).or_insert_with(|| id.clone()) != id {
                continue;
            }
            routes.push(Registration {
                route: LinkRoute { host, path: one.path, target: one.target, port: one.port },
                owner: RouteOwner { namespace: one.namespace, name: one.ingress },
            });
        }
        self.links.entry(id.clone()).or_default().routes = routes;
        Ok(id)
    }
}
