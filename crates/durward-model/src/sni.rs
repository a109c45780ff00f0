//! Pass-through routes found by server name, whatever their number.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::hosted::HostedApi;
use crate::origin::Origin;
use crate::route::table::HostMap;
use crate::route::{HostPattern, WeightedUpstream};
use crate::server_name::server_name;

/// A name clients ask for by SNI and where its bytes go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SniRoute {
    /// The names; empty means a connection without SNI or with one no other route has.
    pub hosts: Vec<HostPattern>,
    /// Upstreams, by weight.
    pub upstreams: Vec<WeightedUpstream>,
    /// The Kubernetes API server that is hosted here; `None` for other servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosted: Option<Arc<HostedApi>>,
    /// Origin: file and line, or object and field.
    pub origin: Origin,
}

/// The routes of a pass-through listener in the order written, with the index that finds them.
#[derive(Clone, Default)]
pub struct SniTable {
    routes: Arc<[SniRoute]>,
    /// Positions of routes.
    index: Arc<HostMap<Option<u32>>>,
}

impl SniTable {
    /// Makes the index of routes.
    #[must_use]
    pub fn new(routes: Vec<SniRoute>) -> Self {
        let mut index = HostMap::<Option<u32>>::default();
        for (position, route) in (0..).zip(&routes) {
            if route.hosts.is_empty() {
                index.slot(None).get_or_insert(position);
            }
            for host in &route.hosts {
                // Of two that name one host the later one serves.
                *index.slot(Some(host)) = Some(position);
            }
        }
        Self { routes: Arc::from(routes), index: Arc::new(index) }
    }

    /// Returns the route for a client that asked for `sni` (lower case): the one with the most specific host, else the one without hosts.
    #[must_use]
    pub fn select(&self, sni: Option<&str>) -> Option<&SniRoute> {
        self.routes.get(self.position(sni)?)
    }

    /// Returns the position of the route that [`select`](Self::select) returns.
    #[must_use]
    pub fn position(&self, sni: Option<&str>) -> Option<usize> {
        let named = sni.and_then(|name| {
            let exact = self.index.exact(name).copied().flatten();
            exact.or_else(|| self.index.below(name).find_map(|position| *position))
        });
        let position = named.or_else(|| *self.index.anywhere())?;
        usize::try_from(position).ok()
    }

    /// Returns the route for a connection whose ClientHello and PROXY header have these names: an authority counts where it names a hosted API server.
    #[must_use]
    pub fn route(&self, sni: Option<&str>, authority: Option<&str>) -> Option<&SniRoute> {
        authority.and_then(|authority| self.hosted(authority)).or_else(|| self.select(sni))
    }

    /// Returns the route of the hosted API server that a PROXY header's authority names, if that is one. For other routes an authority decides nothing.
    #[must_use]
    pub fn hosted(&self, authority: &str) -> Option<&SniRoute> {
        let name = server_name(authority).ok()??;
        let is_hosted = |route: &&SniRoute| {
            route.hosted.as_ref().is_some_and(|api| api.is_authority(authority))
        };
        self.select(Some(&name)).filter(is_hosted)
    }

    /// Returns the table with each route changed by `change`, which must not change the hosts.
    pub fn try_map_targets<E>(
        &self,
        mut change: impl FnMut(&mut SniRoute) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut routes = self.routes.to_vec();
        routes.iter_mut().try_for_each(&mut change)?;
        Ok(Self { routes: Arc::from(routes), index: Arc::clone(&self.index) })
    }
}

impl From<Vec<SniRoute>> for SniTable {
    fn from(routes: Vec<SniRoute>) -> Self {
        Self::new(routes)
    }
}

impl Deref for SniTable {
    type Target = [SniRoute];

    fn deref(&self) -> &[SniRoute] {
        &self.routes
    }
}

impl<'a> IntoIterator for &'a SniTable {
    type Item = &'a SniRoute;
    type IntoIter = std::slice::Iter<'a, SniRoute>;

    fn into_iter(self) -> Self::IntoIter {
        self.routes.iter()
    }
}

impl PartialEq for SniTable {
    /// Equal routes in equal order; the index follows from them.
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes
    }
}

impl Eq for SniTable {}

impl fmt::Debug for SniTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter()).finish()
    }
}

impl Serialize for SniTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.routes.iter())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::origin::Origin;
    use crate::route::HostPattern;

    const NAMES: [&str; 7] =
        ["a.example", "b.a.example", "c.b.a.example", "example", "aexample", ".example", ""];

    /// The reference: every host of every route is compared.
    fn linear<'a>(routes: &'a [SniRoute], sni: Option<&str>) -> Option<&'a SniRoute> {
        let named = sni.and_then(|name| {
            let rank = |route: &&SniRoute| {
                route.hosts.iter().filter(|host| host.matches(name)).map(HostPattern::rank).max()
            };
            routes.iter().filter(|route| rank(route).is_some()).max_by_key(|route| rank(route))
        });
        named.or_else(|| routes.iter().find(|route| route.hosts.is_empty()))
    }

    fn host() -> impl Strategy<Value = HostPattern> {
        (select(&NAMES[..]), any::<bool>()).prop_map(|(name, exact)| {
            let name = Arc::from(name);
            if exact { HostPattern::Exact(name) } else { HostPattern::Wildcard(name) }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_table_selects_what_comparing_every_host_selects(
            hosts in proptest::collection::vec(proptest::collection::vec(host(), 0..3), 0..12),
            sni in proptest::option::of(select(&NAMES[..])),
        ) {
            let routes: Vec<SniRoute> = (1..)
                .zip(hosts)
                .map(|(line, hosts)| {
                    let origin = Origin::new("", line);
                    SniRoute { hosts, upstreams: Vec::new(), hosted: None, origin }
                })
                .collect();
            let table = SniTable::new(routes.clone());

            let line = |route: Option<&SniRoute>| route.map(|route| route.origin.line());
            prop_assert_eq!(line(table.select(sni)), line(linear(&routes, sni)));
        }
    }
}
