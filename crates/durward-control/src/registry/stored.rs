//! Claims of a link as JSON, for the state directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use durward_model::link::{LinkPath, LinkRoute};
use durward_model::route::HostPattern;
use serde::{Deserialize, Serialize};

use super::{Claims, LinkId, Registration, Registry, RouteOwner};
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
    /// Number of the last change.
    #[serde(default, skip_serializing_if = "is_zero")]
    sequence: u64,
    /// Revision of the last `sync` that had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    /// Released names, with the time at which each is free, in seconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    released: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct StoredRoute {
    host: String,
    path: LinkPath,
    target: Arc<str>,
    port: u16,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    tunnel_only: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backend_tls: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "is_empty")]
    namespace: Arc<str>,
    #[serde(default, skip_serializing_if = "is_empty")]
    ingress: Arc<str>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
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
    /// Returns the claims of all links that have any, as JSON.
    #[must_use]
    pub fn all_to_json(&self) -> Vec<Vec<u8>> {
        self.links.keys().filter_map(|id| self.to_json(id)).collect()
    }

    /// Returns the claims of a link as JSON; `None` if it has none.
    #[must_use]
    pub fn to_json(&self, id: &LinkId) -> Option<Vec<u8>> {
        let has_any = |claims: &&Claims| !(claims.routes.is_empty() && claims.released.is_empty());
        let claims = self.links.get(id).filter(has_any)?;
        let routes = claims.routes.iter().map(|Registration { route, owner }| StoredRoute {
            host: route.host.to_string(),
            path: route.path.clone(),
            target: Arc::clone(&route.target),
            port: route.port,
            tunnel_only: route.tunnel_only,
            backend_tls: route.backend_tls.clone(),
            namespace: Arc::clone(&owner.namespace),
            ingress: Arc::clone(&owner.name),
        });
        let (tenant, link) = (Arc::clone(&id.tenant), Arc::clone(&id.link));
        let (routes, revision, sequence) = (routes.collect(), claims.revision, claims.sequence);
        let released = claims.released.iter().map(|(host, until)| (host.to_string(), until));
        let released = released.collect();
        let stored =
            Stored { version: VERSION, tenant, link, routes, sequence, revision, released };
        serde_json::to_vec(&stored).ok()
    }

    /// Takes in the claims of a link as an earlier process stored them. A name that another link holds by now stays with that, unless its claims are older: a crash came
    /// between the files of one change.
    ///
    /// # Errors
    /// Fails if the bytes are damaged, or of another version.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<LinkId, BadClaims> {
        let stored: Stored = serde_json::from_slice(bytes)?;
        if stored.version != VERSION {
            return Err(BadClaims::Version(stored.version));
        }
        let id = LinkId { tenant: stored.tenant, link: stored.link };
        let host =
            |text: &str| words::host_pattern(text).map_err(|_| BadClaims::Host(text.to_owned()));
        // Everything is read before anything is claimed.
        let hosts: Vec<_> =
            stored.routes.iter().map(|one| host(&one.host)).collect::<Result<_, _>>()?;
        let released = stored.released.iter().map(|(name, until)| Ok((host(name)?, *until)));
        let released: Vec<_> = released.collect::<Result<_, BadClaims>>()?;
        let mut routes = Vec::with_capacity(hosts.len());
        for (one, host) in stored.routes.into_iter().zip(hosts) {
            if !self.restore_claim(&id, &host, stored.sequence) {
                self.repaired.insert(id.clone());
                continue;
            }
            routes.push(Registration {
                route: LinkRoute {
                    host,
                    path: one.path,
                    target: one.target,
                    port: one.port,
                    tunnel_only: one.tunnel_only,
                    backend_tls: one.backend_tls,
                },
                owner: RouteOwner { namespace: one.namespace, name: one.ingress },
            });
        }
        let (revision, sequence) = (stored.revision, stored.sequence);
        self.sequence = self.sequence.max(sequence);
        let mut claims = Claims { routes, revision, sequence, ..Claims::default() };
        for (host, until) in released {
            if *self.holders.entry(host.clone()).or_insert_with(|| id.clone()) == id {
                claims.released.restore(host, until);
            }
        }
        self.links.insert(id.clone(), claims);
        Ok(id)
    }

    /// Claims a name for a link of which a route was stored. Returns false if another link holds the name, has not just released it, and has not older claims.
    fn restore_claim(&mut self, id: &LinkId, host: &HostPattern, sequence: u64) -> bool {
        let other = self.holders.get(host).filter(|other| *other != id);
        if let Some(other) = other {
            let Some(claims) = self.links.get_mut(other) else { return false };
            let is_released = claims.released.remove(host);
            if !is_released && claims.sequence >= sequence {
                return false;
            }
            claims.routes.retain(|one| one.route.host != *host);
            self.repaired.insert(other.clone());
        }
        self.holders.insert(host.clone(), id.clone());
        true
    }
}
