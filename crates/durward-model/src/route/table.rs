//! Routes found by host and path, whatever their number: the first route in order of precedence that accepts a request.
//!
//! Exact hosts are found by hash, wildcard hosts by the suffixes of the name, paths by binary search within a host. Candidates keep their
//! position in the order of precedence, so the outcome is that of asking one route after the other.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{HostPattern, PathMatch, RequestView, Route};

/// The routes of a listener in order of precedence, with the index that finds them.
#[derive(Clone, Default)]
pub struct RouteTable {
    routes: Arc<[Route]>,
    index: Arc<Index>,
}

#[derive(Default)]
struct Index {
    hosts: HostMap<Paths>,
    /// True if asking one route after the other is quicker than looking them up.
    few: bool,
}

/// Most routes, with their hosts, that are asked one after the other.
const FEW: usize = 8;

/// Values by host pattern.
#[derive(Clone, Debug)]
pub(crate) struct HostMap<T> {
    exact: HashMap<Arc<str>, T>,
    /// By the parent, `example.com` for `*.example.com`.
    below: HashMap<Arc<str>, T>,
    /// For patterns that name no host.
    anywhere: T,
}

impl<T: Default> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), below: HashMap::new(), anywhere: T::default() }
    }
}

impl<T: Default> HostMap<T> {
    /// Returns the values under which a list of hosts is found; an empty list is for every host.
    pub(crate) fn slot(&mut self, host: Option<&HostPattern>) -> &mut T {
        match host {
            None => &mut self.anywhere,
            Some(HostPattern::Exact(name)) => self.exact.entry(Arc::clone(name)).or_default(),
            Some(HostPattern::Wildcard(parent)) => {
                self.below.entry(Arc::clone(parent)).or_default()
            }
        }
    }

    /// Returns the value of the name itself.
    pub(crate) fn exact(&self, host: &str) -> Option<&T> {
        self.exact.get(host)
    }

    /// Returns the values of the wildcards that the name is below, the longest first.
    pub(crate) fn below<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a T> {
        // What stands before the dot must not be empty: `.example.com` is below nothing.
        let dots = host.match_indices('.').filter(|(at, _)| *at > 0);
        dots.filter_map(|(at, _)| self.below.get(&host[at + 1..]))
    }

    /// Returns the value for every host.
    pub(crate) fn anywhere(&self) -> &T {
        &self.anywhere
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.exact.values_mut().chain(self.below.values_mut()).chain([&mut self.anywhere])
    }
}

/// The paths of one host, in the order of [`segments`], and where their routes are.
#[derive(Debug, Default)]
struct Paths(Vec<Entry>);

/// One path of a host.
#[derive(Debug)]
struct Entry {
    path: Arc<str>,
    /// The longest other path of the host that this one lies below.
    parent: Option<usize>,
    /// Positions of routes for this path alone, ascending.
    exact: Vec<u32>,
    /// Positions of routes for this path and what lies below it, ascending.
    below: Vec<u32>,
}

/// Compares paths so that a path stands directly before everything that lies below it: a slash is less than any other character.
fn segments(path: &str) -> impl Iterator<Item = u16> {
    path.bytes().map(|byte| if byte == b'/' { 0 } else { u16::from(byte) + 1 })
}

impl Paths {
    fn add(&mut self, path: &PathMatch, position: u32) {
        let (path, is_exact) = match path {
            PathMatch::Exact(path) => (path, true),
            PathMatch::Prefix(path) => (path, false),
        };
        // Routes arrive in order of precedence, so those of one path often come together; the others are joined when all are there.
        if self.0.last().is_none_or(|last| last.path != *path) {
            let path = Arc::clone(path);
            self.0.push(Entry { path, parent: None, exact: Vec::new(), below: Vec::new() });
        }
        let Some(entry) = self.0.last_mut() else { return };
        let list = if is_exact { &mut entry.exact } else { &mut entry.below };
        // A host that a route names twice is found once.
        if list.last() != Some(&position) {
            list.push(position);
        }
    }

    /// Sorts the paths, joins equal ones and links each to the one it lies below.
    fn finish(&mut self) {
        self.0.sort_by(|a, b| segments(&a.path).cmp(segments(&b.path)));
        self.0.dedup_by(|later, earlier| {
            let same = later.path == earlier.path;
            if same {
                earlier.exact.append(&mut later.exact);
                earlier.below.append(&mut later.below);
            }
            same
        });
        let mut above: Vec<usize> = Vec::new();
        for at in 0..self.0.len() {
            while above.last().is_some_and(|&up| !lies_below(&self.0[at].path, &self.0[up].path)) {
                above.pop();
            }
            let entry = &mut self.0[at];
            entry.parent = above.last().copied();
            entry.exact.sort_unstable();
            entry.below.sort_unstable();
            entry.exact.shrink_to_fit();
            entry.below.shrink_to_fit();
            above.push(at);
        }
        self.0.shrink_to_fit();
    }

    /// Returns the lists of positions that a path may match.
    fn candidates<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a [u32]> {
        let after = self.0.partition_point(|entry| segments(&entry.path).le(segments(path)));
        let mut next = after.checked_sub(1);
        std::iter::from_fn(move || {
            while let Some(at) = next {
                let entry = &self.0[at];
                next = entry.parent;
                if *entry.path == *path {
                    return Some([&entry.exact[..], &entry.below[..]]);
                }
                if lies_below(path, &entry.path) {
                    return Some([&[][..], &entry.below[..]]);
                }
            }
            None
        })
        .flatten()
    }
}

/// Returns whether a path is another one or lies below it.
fn lies_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl RouteTable {
    /// Sorts routes by precedence; routes of equal precedence keep the order written.
    #[must_use]
    pub fn new(mut routes: Vec<Route>) -> Self {
        routes.sort_by_cached_key(|route| route.matches.precedence());
        Self::in_order(routes)
    }

    /// Takes routes in the order given.
    #[must_use]
    pub fn in_order(routes: Vec<Route>) -> Self {
        let mut hosts = HostMap::<Paths>::default();
        for (position, route) in (0..).zip(&routes) {
            let matches = &route.matches;
            if matches.hosts.is_empty() {
                hosts.slot(None).add(&matches.path, position);
            }
            for host in &matches.hosts {
                hosts.slot(Some(host)).add(&matches.path, position);
            }
        }
        hosts.values_mut().for_each(Paths::finish);
        let questions = routes.iter().map(|route| 1 + route.matches.hosts.len());
        let few = questions.sum::<usize>() <= FEW;
        Self { routes: Arc::from(routes), index: Arc::new(Index { hosts, few }) }
    }

    /// Returns the first route that accepts `request`, and its position.
    #[must_use]
    pub fn select(&self, request: &RequestView<'_>) -> Option<(usize, &Route)> {
        self.select_from(request, 0)
    }

    /// Returns the first route at `from` or after it that accepts `request`, and its position.
    #[must_use]
    pub fn select_from(&self, request: &RequestView<'_>, from: usize) -> Option<(usize, &Route)> {
        if self.index.few {
            let mut later = self.routes.iter().enumerate().skip(from);
            return later.find(|(_, route)| route.matches.mismatch(request).is_none());
        }
        let Ok(from) = u32::try_from(from) else { return None };
        let hosts = &self.index.hosts;
        let of_host = hosts.exact(request.host).into_iter().chain(hosts.below(request.host));
        let mut best: Option<u32> = None;
        for paths in of_host.chain([hosts.anywhere()]) {
            for positions in paths.candidates(request.path) {
                let positions = &positions[positions.partition_point(|at| *at < from)..];
                let better = positions.iter().take_while(|at| best.is_none_or(|best| **at < best));
                let mut better = better.copied();
                best = better
                    .find(|at| self.routes[*at as usize].matches.accepts_rest(request))
                    .or(best);
            }
        }
        best.map(|at| (at as usize, &self.routes[at as usize]))
    }

    /// Returns the routes, to change them and make a new table of them.
    #[must_use]
    pub fn to_vec(&self) -> Vec<Route> {
        self.routes.to_vec()
    }

    /// Returns the table with each route changed by `change`, which must not change what the route matches.
    pub fn try_map_actions<E>(
        &self,
        mut change: impl FnMut(&mut Route) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut routes = self.routes.to_vec();
        routes.iter_mut().try_for_each(&mut change)?;
        Ok(Self { routes: Arc::from(routes), index: Arc::clone(&self.index) })
    }
}

impl Deref for RouteTable {
    type Target = [Route];

    fn deref(&self) -> &[Route] {
        &self.routes
    }
}

impl From<Vec<Route>> for RouteTable {
    fn from(routes: Vec<Route>) -> Self {
        Self::in_order(routes)
    }
}

impl<'a> IntoIterator for &'a RouteTable {
    type Item = &'a Route;
    type IntoIter = std::slice::Iter<'a, Route>;

    fn into_iter(self) -> Self::IntoIter {
        self.routes.iter()
    }
}

impl PartialEq for RouteTable {
    /// Equal routes in equal order; the index follows from them.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.routes, &other.routes) || self.routes == other.routes
    }
}

impl Eq for RouteTable {}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter()).finish()
    }
}

impl Serialize for RouteTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.routes.iter())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::{Action, HeaderFields, HeaderMatch, HeaderRules, RouteMatch};
    use super::*;
    use crate::origin::Origin;
    use crate::source_set::SourceSet;

    const HOSTS: [&str; 8] = [
        "a.example",
        "b.a.example",
        "c.b.a.example",
        "example",
        "aexample",
        ".example",
        "",
        "x..a.example",
    ];
    const PATHS: [&str; 10] =
        ["/", "/a", "/a/", "/a/b", "/ab", "/a-b", "/a/b/c", "/a!", "*", "/b//c"];

    fn route(matches: RouteMatch) -> Route {
        Route {
            name: Arc::from("r"),
            matches,
            action: Action::Respond { status: 200, body: Arc::from("") },
            request_headers: HeaderRules::default(),
            response_headers: HeaderRules::default(),
            origin: Origin::default(),
        }
    }

    /// The reference: one route after the other.
    fn linear(routes: &[Route], request: &RequestView<'_>, from: usize) -> Option<usize> {
        let mut routes = routes.iter().enumerate().skip(from);
        routes.find(|(_, route)| route.matches.mismatch(request).is_none()).map(|(at, _)| at)
    }

    fn host() -> impl Strategy<Value = HostPattern> {
        (select(&HOSTS[..]), any::<bool>()).prop_map(|(name, exact)| {
            let name = Arc::from(name);
            if exact { HostPattern::Exact(name) } else { HostPattern::Wildcard(name) }
        })
    }

    fn path() -> impl Strategy<Value = PathMatch> {
        (select(&PATHS[..]), any::<bool>()).prop_map(|(path, exact)| {
            if exact {
                PathMatch::Exact(Arc::from(path))
            } else {
                PathMatch::Prefix(Arc::from(path.trim_end_matches('/')))
            }
        })
    }

    fn matches() -> impl Strategy<Value = RouteMatch> {
        let hosts = proptest::collection::vec(host(), 0..4);
        let (methods, headers) = (select(vec![None, Some("GET"), Some("PUT")]), 0..3_u8);
        (hosts, path(), methods, headers, any::<bool>()).prop_map(
            |(hosts, path, method, headers, near)| RouteMatch {
                hosts,
                path,
                methods: method.into_iter().map(Arc::from).collect(),
                headers: (0..headers)
                    .map(|at| HeaderMatch { name: Arc::from(format!("x-{at}")), value: None })
                    .collect(),
                sources: near.then(|| SourceSet::new(["192.0.2.0/24".parse().unwrap()])),
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_table_selects_what_asking_one_route_after_the_other_selects(
            matches in proptest::collection::vec(matches(), 0..24),
            host in select(&HOSTS[..]),
            path in select(&PATHS[..]),
            method in select(vec!["GET", "PUT", "POST"]),
            headers in 0..3_u8,
            near in any::<bool>(),
        ) {
            let mut sorted: Vec<Route> = matches.into_iter().map(route).collect();
            let table = RouteTable::new(sorted.clone());
            sorted.sort_by_cached_key(|route| route.matches.precedence());
            let fields: Vec<(String, String)> =
                (0..headers).map(|at| (format!("x-{at}"), String::new())).collect();
            let headers: &dyn HeaderFields = &fields;
            let client = IpAddr::V4(if near { Ipv4Addr::new(192, 0, 2, 1) } else { Ipv4Addr::LOCALHOST });
            let request = RequestView { host, path, method, client, headers };

            prop_assert_eq!(&*table, &sorted[..]);
            for from in 0..sorted.len() + 1 {
                let found = table.select_from(&request, from).map(|(at, _)| at);
                prop_assert_eq!(found, linear(&sorted, &request, from));
            }
        }
    }

    #[test]
    fn a_request_asks_few_of_a_hundred_thousand_routes() {
        let of = |at: u32| RouteMatch {
            hosts: vec![HostPattern::Exact(Arc::from(format!("h{}.example", at % 50_000)))],
            path: PathMatch::Prefix(Arc::from(format!("/p{}", at / 50_000))),
            ..RouteMatch::default()
        };
        let table = RouteTable::new((0..100_000).map(|at| route(of(at))).collect());
        let none = Vec::new();
        let request = RequestView {
            host: "h49999.example",
            path: "/p1/x",
            method: "GET",
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            headers: &none,
        };

        let paths = table.index.hosts.exact(request.host).unwrap();

        assert_eq!(paths.candidates(request.path).map(<[u32]>::len).sum::<usize>(), 1);
        let (_, found) = table.select(&request).unwrap();
        assert_eq!(*found.matches.hosts, of(99_999).hosts);
    }
}
