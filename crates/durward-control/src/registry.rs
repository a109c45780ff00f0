//! Claims of agents: the routes that each link has registered, and which link holds each host name.
//!
//! The oldest claim to a host name wins, whichever tenant it is of. It ends when its last route is withdrawn, after a time in which only the same
//! tenant may have the name, or at once when the document does not grant it any more. Pure: the time is given, and the caller stores what [`Changed`]
//! names and says its [`Change`]. Presence of agents is no part of it.

mod fields;
mod released;
mod rest;
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use durward_model::link::{Link, LinkPath, LinkRoute};
use durward_model::route::HostPattern;

use crate::change::{Change, Fact};
use crate::reference::Reference;
use crate::words;
use released::Released;
pub use rest::{Answer, Body, Operation};
pub use stored::BadClaims;

/// Time within which a second `sync` confirms one that withdraws more than half of the routes.
const CONFIRM: Duration = Duration::from_secs(10);
/// Time for which the names of a tenant that is in no document stay its own: its document may be broken for a while.
const ABSENCE: Duration = Duration::from_secs(600);

/// A link of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    /// The tenant.
    pub tenant: Arc<str>,
    /// Name of the link within the tenant.
    pub link: Arc<str>,
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.link)
    }
}

/// Namespace and name of the Ingress that a route is of; both empty for a route of an agent's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteOwner {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// A route and the Ingress that asks for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registration {
    /// The route.
    pub route: LinkRoute,
    /// The Ingress.
    pub owner: RouteOwner,
}

impl Registration {
    /// Adds what else an agent says of a route: whether its requests are kept to the link, whether it is TLS that is carried through, and the name in its backend's
    /// certificate.
    ///
    /// # Errors
    /// Fails if that is no name; the phrase follows the value.
    pub fn with(
        mut self,
        tunnel_only: bool,
        passthrough: bool,
        backend_tls: Option<&str>,
    ) -> Result<Self, String> {
        self.route.tunnel_only = tunnel_only;
        if passthrough {
            self.route.path = LinkPath::Tls;
        }
        let name = backend_tls.map(|name| words::host(&name.to_ascii_lowercase()));
        self.route.backend_tls = name.transpose()?;
        Ok(self)
    }

    /// Reads a route as an agent says it: `ingress` is `NAMESPACE/NAME`, or empty.
    ///
    /// # Errors
    /// Fails if host or path is none; the phrase follows the value.
    pub fn read(
        (host, path, exact): (&str, &str, bool),
        (target, port): (&str, u16),
        ingress: &str,
    ) -> Result<Self, String> {
        let host = words::route_host(&host.to_ascii_lowercase())?;
        let path = if exact {
            words::exact_path(path).map(LinkPath::Exact)?
        } else {
            words::path_prefix(path).map(LinkPath::Prefix)?
        };
        let (namespace, name) = ingress.split_once('/').unwrap_or_default();
        Ok(Self {
            route: LinkRoute {
                host,
                path,
                target: Arc::from(target),
                port,
                tunnel_only: false,
                backend_tls: None,
            },
            owner: RouteOwner { namespace: Arc::from(namespace), name: Arc::from(name) },
        })
    }
}

/// Whoever registers: a link that was admitted, and what its document lets it register.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The link.
    pub id: &'a LinkId,
    /// Its entry in the document.
    pub link: &'a Link,
}

/// Time of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Time that never goes back, for waits.
    pub instant: Instant,
    /// Seconds since 1970, for times that are stored.
    pub unix: u64,
}

impl Now {
    /// Returns the present time.
    #[must_use]
    pub fn read() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { instant: Instant::now(), unix }
    }
}

/// Claims of all links.
#[derive(Debug, Default)]
pub struct Registry {
    links: BTreeMap<LinkId, Claims>,
    /// Holder of each host name, those that were released of late included.
    holders: BTreeMap<HostPattern, LinkId>,
    /// Number of the last change. Of two stored claims to a name the one with the higher number is true.
    sequence: u64,
    /// Links whose stored claims were not taken over as they were.
    repaired: BTreeSet<LinkId>,
}

/// Claims of one link.
#[derive(Debug, Default)]
struct Claims {
    /// In the order of registration, so that the first of two for one host and path is served.
    routes: Vec<Registration>,
    /// A `sync` that waits for a second of its kind: its routes, and the time.
    unconfirmed: Option<(BTreeSet<Registration>, Instant)>,
    /// Revision of the last `sync` that had one.
    revision: Option<u64>,
    /// Names whose last route was withdrawn.
    released: Released,
    /// Time at which the tenant was found to be in no document.
    absent: Option<u64>,
    /// Number of its last change.
    sequence: u64,
}

/// Reason why a route is not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The document does not let the link register the name.
    NotGranted,
    /// Another link, or another tenant's document, holds the name.
    Taken,
    /// Another tenant's link released the name of late.
    Released,
    /// The link has as many routes as it may.
    TooMany(u32),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGranted => f.write_str(
                "is not among the hosts that this link may register: add it to `hosts` of the link in the tenant's document",
            ),
            // Which link or tenant has it is not for others to know.
            Self::Taken => f.write_str(
                "is held by another link: it is free once that link withdraws it or loses the right to it",
            ),
            Self::Released => f.write_str(
                "was released by another link less than ten minutes ago: it is free after that, or once the document of that link does not grant it",
            ),
            Self::TooMany(most) => write!(
                f,
                "is one route more than the {most} that this link may register: raise `maxRoutes` of the link in the tenant's document"
            ),
        }
    }
}

/// Links whose claims differ now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed(BTreeSet<LinkId>);

impl Changed {
    /// Returns whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the links.
    pub fn links(&self) -> impl Iterator<Item = &LinkId> {
        self.0.iter()
    }
}

/// Result of taking over all routes of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Links whose claims differ now.
    pub changed: Changed,
    /// Number of routes of the link.
    pub routes: usize,
    /// Routes that are not registered, in order.
    pub rejected: Vec<(Registration, Rejection)>,
}

/// Right of a link to a host name, by the documents of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// The document of its tenant grants the name.
    Granted,
    /// The document of its tenant has the link, and does not grant the name.
    Withdrawn,
    /// The tenant or the link is in no document that is served.
    Unknown,
}

/// What the documents of the moment say of host names.
pub trait Documents {
    /// Returns the right of a link to a host name.
    fn right(&self, id: &LinkId, host: &HostPattern) -> Right;

    /// Returns true if the document of another tenant than this one has the name itself.
    fn is_anothers(&self, tenant: &str, host: &HostPattern) -> bool;
}

impl Registry {
    /// Adds a route. Registering one again changes nothing.
    ///
    /// # Errors
    /// Fails if the link may not have it.
    pub fn register(
        &mut self,
        caller: Caller<'_>,
        registration: Registration,
        documents: &dyn Documents,
        now: Now,
    ) -> Result<Changed, Rejection> {
        if !caller.link.may_register(&registration.route.host) {
            return Err(Rejection::NotGranted);
        }
        let routes = self.links.get(caller.id).map_or(&[][..], |claims| &claims.routes);
        if routes.contains(&registration) {
            return Ok(Changed::default());
        }
        let key = |one: &Registration| {
            (one.route.host.clone(), one.route.path.clone(), one.owner.clone())
        };
        let replaced = routes.iter().position(|one| key(one) == key(&registration));
        if replaced.is_none() && routes.len() >= caller.link.most_routes as usize {
            return Err(Rejection::TooMany(caller.link.most_routes));
        }
        let mut changed = self.claim(caller, &registration.route.host, documents, now)?;
        let claims = self.links.entry(caller.id.clone()).or_default();
        match replaced {
            Some(at) => claims.routes[at] = registration,
            None => claims.routes.push(registration),
        }
        changed.0.insert(caller.id.clone());
        Ok(changed)
    }

    /// Makes the routes of a link these and no others. Routes that it may not have are left out.
    pub fn replace(
        &mut self,
        caller: Caller<'_>,
        wanted: Vec<Registration>,
        documents: &dyn Documents,
        now: Now,
    ) -> Synced {
        let mut synced = Synced::default();
        let kept: BTreeSet<Registration> = wanted.iter().cloned().collect();
        let before = self.links.get(caller.id).map(|claims| claims.routes.clone());
        let mut routes = before.clone().unwrap_or_default();
        // What stays keeps its place, and with it its precedence.
        routes.retain(|one| kept.contains(one) && caller.link.may_register(&one.route.host));
        let mut known: BTreeSet<Registration> = routes.iter().cloned().collect();
        for registration in wanted {
            if known.contains(&registration) {
                continue;
            }
            let claimed = if routes.len() >= caller.link.most_routes as usize {
                Err(Rejection::TooMany(caller.link.most_routes))
            } else {
                self.claim(caller, &registration.route.host, documents, now)
            };
            match claimed {
                Ok(others) => {
                    synced.changed.0.extend(others.0);
                    known.insert(registration.clone());
                    routes.push(registration);
                }
                Err(rejection) => synced.rejected.push((registration, rejection)),
            }
        }
        synced.routes = routes.len();
        if before.unwrap_or_default() != routes {
            self.set(caller.id, routes, now);
            synced.changed.0.insert(caller.id.clone());
        }
        synced
    }

    /// Withdraws the routes of a link that `is_meant`.
    pub fn withdraw(
        &mut self,
        id: &LinkId,
        is_meant: impl Fn(&Registration) -> bool,
        now: Now,
    ) -> (Changed, usize) {
        let Some(claims) = self.links.get(id) else { return (Changed::default(), 0) };
        let mut routes = claims.routes.clone();
        routes.retain(|one| !is_meant(one));
        let withdrawn = claims.routes.len() - routes.len();
        if withdrawn == 0 {
            return (Changed::default(), 0);
        }
        self.set(id, routes, now);
        (Changed([id.clone()].into()), withdrawn)
    }

    /// Numbers a change before it is stored: what several files say of it has one number.
    pub fn stamp(&mut self, changed: &Changed) {
        self.sequence += 1;
        for id in changed.links() {
            if let Some(claims) = self.links.get_mut(id) {
                claims.sequence = self.sequence;
            }
        }
    }

    /// Takes the links whose stored claims were not taken over as they were: their files are to be written.
    #[must_use]
    pub fn take_repaired(&mut self) -> Changed {
        Changed(std::mem::take(&mut self.repaired))
    }

    /// Returns the links that have claims, or had.
    pub fn links(&self) -> impl Iterator<Item = &LinkId> {
        self.links.keys()
    }

    /// Returns the change that says the routes of these links.
    #[must_use]
    pub fn change(&self, changed: &Changed) -> Change {
        let facts = changed.links().map(|id| self.fact(id)).collect();
        Change { facts, ..Change::default() }
    }

    /// Returns the change that says the routes of all links.
    #[must_use]
    pub fn everything(&self) -> Change {
        Change { facts: self.links.keys().map(|id| self.fact(id)).collect(), ..Change::default() }
    }

    fn fact(&self, id: &LinkId) -> (Reference, Option<Fact>) {
        let reference =
            Reference::LinkRoutes { tenant: Arc::clone(&id.tenant), link: Arc::clone(&id.link) };
        (reference, Some(Fact::LinkRoutes(self.served(id).into())))
    }

    /// Returns the routes of a link; of two for one host and path the older one.
    fn served(&self, id: &LinkId) -> Vec<LinkRoute> {
        let claims = self.links.get(id).map_or(&[][..], |claims| &claims.routes);
        let mut known: BTreeSet<(&HostPattern, &LinkPath)> = BTreeSet::new();
        let first = claims.iter().filter(|one| known.insert((&one.route.host, &one.route.path)));
        first.map(|one| one.route.clone()).collect()
    }

    /// Claims a host name for a link, and takes it from one that has lost the right to it.
    fn claim(
        &mut self,
        caller: Caller<'_>,
        host: &HostPattern,
        documents: &dyn Documents,
        now: Now,
    ) -> Result<Changed, Rejection> {
        if !caller.link.may_register(host) {
            return Err(Rejection::NotGranted);
        }
        if documents.is_anothers(&caller.id.tenant, host) {
            return Err(Rejection::Taken);
        }
        let mut changed = Changed::default();
        if let Some(holder) = self.holders.get(host).filter(|holder| *holder != caller.id).cloned()
        {
            self.may_take(caller, (&holder, host), documents, now)?;
            changed = self.withdraw(&holder, |one| one.route.host == *host, now).0;
            if let Some(claims) = self.links.get_mut(&holder)
                && claims.released.remove(host)
            {
                changed.0.insert(holder);
            }
        }
        if let Some(claims) = self.links.get_mut(caller.id) {
            claims.released.remove(host);
        }
        self.holders.insert(host.clone(), caller.id.clone());
        Ok(changed)
    }

    /// Judges whether a link may have a name that another one holds.
    fn may_take(
        &mut self,
        caller: Caller<'_>,
        (holder, host): (&LinkId, &HostPattern),
        documents: &dyn Documents,
        now: Now,
    ) -> Result<(), Rejection> {
        let Some(claims) = self.links.get_mut(holder) else { return Ok(()) };
        let right = documents.right(holder, host);
        if right != Right::Unknown {
            claims.absent = None;
        }
        if right == Right::Withdrawn {
            return Ok(());
        }
        if let Some(is_kept) = claims.released.is_kept(host, now.unix) {
            // Within a tenant a name moves freely.
            let is_free = !is_kept || holder.tenant == caller.id.tenant;
            return if is_free { Ok(()) } else { Err(Rejection::Released) };
        }
        let absent = match right {
            Right::Unknown => *claims.absent.get_or_insert(now.unix),
            Right::Granted | Right::Withdrawn => now.unix,
        };
        if now.unix.saturating_sub(absent) < ABSENCE.as_secs() {
            return Err(Rejection::Taken);
        }
        Ok(())
    }

    /// Sets the routes of a link, and releases the names that it does not use any more.
    fn set(&mut self, id: &LinkId, routes: Vec<Registration>, now: Now) {
        let used: BTreeSet<&HostPattern> = routes.iter().map(|one| &one.route.host).collect();
        let claims = self.links.entry(id.clone()).or_default();
        let unused = claims.routes.iter().map(|one| &one.route.host);
        let unused: BTreeSet<HostPattern> =
            unused.filter(|host| !used.contains(host)).cloned().collect();
        let mut freed = claims.released.expire(now.unix);
        for host in unused {
            freed.extend(claims.released.add(host, now.unix));
        }
        claims.routes = routes;
        for host in freed {
            if self.holders.get(&host) == Some(id) {
                self.holders.remove(&host);
            }
        }
    }

    /// Returns true if a `sync` to these routes must wait for a second of its kind, because it withdraws more than half; notes it then.
    fn must_confirm(&mut self, id: &LinkId, wanted: &[Registration], now: Instant) -> bool {
        let Some(claims) = self.links.get_mut(id) else { return false };
        let wanted: BTreeSet<Registration> = wanted.iter().cloned().collect();
        // Another backend for the same requests withdraws nothing.
        let place = |one: &Registration| (one.route.host.clone(), one.route.path.clone());
        let places: BTreeSet<_> = wanted.iter().map(place).collect();
        let left = claims.routes.iter().filter(|one| places.contains(&place(one))).count();
        let withdraws_most = (claims.routes.len() - left) * 2 > claims.routes.len();
        let is_second = claims
            .unconfirmed
            .take()
            .is_some_and(|(first, at)| first == wanted && now.duration_since(at) <= CONFIRM);
        if withdraws_most && !is_second {
            claims.unconfirmed = Some((wanted, now));
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests;
