//! Claims of agents: the routes that each link has registered, and which link holds each host name.
//!
//! The oldest claim to a host name wins, whichever tenant it is of. It ends when its last route is withdrawn, after a time in which only the same
//! tenant may have the name, or at once when the document does not grant it any more. Pure: the time is given, and the caller stores what [`Changed`]
//! names and says its [`Change`]. Presence of agents is no part of it.

mod fields;
mod released;
mod rest;
mod stored;
mod tunnels;

use std::collections::{BTreeMap, BTreeSet, HashSet};
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
pub use stored::{BadClaims, Image};
pub use tunnels::{TunnelCall, answer as answer_tunnels};

/// Time within which a second `sync` confirms one that withdraws more than half of the routes.
const CONFIRM: Duration = Duration::from_secs(10);
/// Time for which the names of a tenant that is in no document stay its own: its document may be broken for a while.
const ABSENCE: Duration = Duration::from_secs(600);
/// Time after which the claims of a link that is in no document are forgotten: that of the original's registrations.
const FORGOTTEN: Duration = Duration::from_secs(24 * 60 * 60);

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
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteOwner {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// A route and the Ingress that asks for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
#[derive(Clone, Debug, Default)]
struct Claims {
    /// In the order of registration, so that the first of two for one host and path is served.
    routes: Vec<Registration>,
    /// A `sync` that waits for a second of its kind: its routes, and the time.
    unconfirmed: Option<(BTreeSet<Registration>, Instant)>,
    /// Revision of the last `sync`, if it had one.
    revision: Option<u64>,
    /// Names whose last route was withdrawn.
    released: Released,
    /// Time at which the tenant was found to be in no document.
    absent: Option<Instant>,
    /// Number of its last change.
    sequence: u64,
}

impl Claims {
    /// Returns true if there is nothing to remember of the link.
    fn is_empty(&self) -> bool {
        self.routes.is_empty()
            && self.released.is_empty()
            && self.revision.is_none()
            && self.unconfirmed.is_none()
    }
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

/// Names that were taken from other links, by link.
type Taken = BTreeMap<LinkId, HashSet<HostPattern>>;

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
        self.is_here(caller.id);
        let routes = self.links.get(caller.id).map_or(&[][..], |claims| &claims.routes);
        if routes.contains(&registration) {
            return Ok(Changed::default());
        }
        let replaced = routes.iter().position(|one| key(one) == key(&registration));
        if replaced.is_none() && routes.len() >= caller.link.most_routes as usize {
            return Err(Rejection::TooMany(caller.link.most_routes));
        }
        let mut taken = Taken::new();
        self.claim(caller, &registration.route.host, documents, now, &mut taken)?;
        let mut changed = self.take_away(taken, now);
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
        wanted: &[Registration],
        documents: &dyn Documents,
        now: Now,
    ) -> Synced {
        let mut synced = Synced::default();
        self.is_here(caller.id);
        let before = self.links.get_mut(caller.id).map(|claims| {
            // Later revisions are compared with those of the same source alone.
            (claims.routes.clone(), claims.revision.take().is_some())
        });
        let (before, had_revision) = before.unwrap_or_default();
        let kept: HashSet<&Registration> = wanted.iter().collect();
        // What stays keeps its place, and with it its precedence.
        let stays =
            |one: &&Registration| kept.contains(one) && caller.link.may_register(&one.route.host);
        let mut known: HashSet<&Registration> = before.iter().filter(stays).collect();
        let mut routes: Vec<Registration> = before.iter().filter(stays).cloned().collect();
        let mut taken = Taken::new();
        for registration in wanted {
            if known.contains(registration) {
                continue;
            }
            let claimed = if routes.len() >= caller.link.most_routes as usize {
                Err(Rejection::TooMany(caller.link.most_routes))
            } else {
                self.claim(caller, &registration.route.host, documents, now, &mut taken)
            };
            match claimed {
                Ok(()) => {
                    known.insert(registration);
                    routes.push(registration.clone());
                }
                Err(rejection) => synced.rejected.push((registration.clone(), rejection)),
            }
        }
        synced.changed.0.extend(self.take_away(taken, now).0);
        synced.routes = routes.len();
        let is_other = before != routes;
        if is_other {
            self.set(caller.id, routes, now);
        }
        if is_other || had_revision {
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
        let stays = |one: &&Registration| !is_meant(one);
        let left = claims.routes.iter().filter(stays).count();
        let withdrawn = claims.routes.len() - left;
        if withdrawn == 0 {
            return (Changed::default(), 0);
        }
        let routes = claims.routes.iter().filter(stays).cloned().collect();
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
        let has_claims = self.links.contains_key(id);
        (reference, has_claims.then(|| Fact::LinkRoutes(self.served(id).into())))
    }

    /// Returns the routes of a link; of two for one host and path the older one.
    fn served(&self, id: &LinkId) -> Vec<LinkRoute> {
        self.first(id).cloned().collect()
    }

    /// Returns the number of those routes.
    fn count(&self, id: &LinkId) -> usize {
        self.first(id).count()
    }

    fn first(&self, id: &LinkId) -> impl Iterator<Item = &LinkRoute> {
        let claims = self.links.get(id).map_or(&[][..], |claims| &claims.routes);
        let mut known: HashSet<(&HostPattern, &LinkPath)> = HashSet::new();
        let routes = claims.iter().map(|one| &one.route);
        routes.filter(move |route| known.insert((&route.host, &route.path)))
    }

    /// Takes note of absent links that are in a document again: the time for which the names of one stay its own begins anew when it is absent again. Cheap
    /// enough for every change of the documents: the others are not looked at.
    pub fn note_returns(&mut self, is_there: impl Fn(&LinkId) -> bool) {
        let absent = self.links.iter_mut().filter(|(_, claims)| claims.absent.is_some());
        for (id, claims) in absent {
            if is_there(id) {
                claims.absent = None;
            }
        }
    }

    /// Takes note of the links that are in a document at this moment, and of those that are in none.
    pub fn note_presence(&mut self, is_there: impl Fn(&LinkId) -> bool, now: Now) {
        for (id, claims) in &mut self.links {
            claims.absent = match is_there(id) {
                true => None,
                false => claims.absent.or(Some(now.instant)),
            };
        }
    }

    /// Forgets the claims of links that have been in no document for a day, and those of links that have none left. Their files are to be removed.
    pub fn forget(&mut self, now: Now) -> Changed {
        let mut forgotten = BTreeSet::new();
        for (id, claims) in &mut self.links {
            for host in claims.released.expire(now.unix) {
                if self.holders.get(&host) == Some(id) {
                    self.holders.remove(&host);
                }
            }
            let away = claims.absent.map(|since| now.instant.saturating_duration_since(since));
            if away.is_some_and(|away| away >= FORGOTTEN) || claims.is_empty() {
                forgotten.insert(id.clone());
            }
        }
        if !forgotten.is_empty() {
            self.holders.retain(|_, holder| !forgotten.contains(holder));
            self.links.retain(|id, _| !forgotten.contains(id));
        }
        Changed(forgotten)
    }

    /// Takes note of a link that registers: it is in a document.
    fn is_here(&mut self, id: &LinkId) {
        if let Some(claims) = self.links.get_mut(id) {
            claims.absent = None;
        }
    }

    /// Claims a host name for a link. If a link has lost the right to it, `taken` has it then.
    fn claim(
        &mut self,
        caller: Caller<'_>,
        host: &HostPattern,
        documents: &dyn Documents,
        now: Now,
        taken: &mut Taken,
    ) -> Result<(), Rejection> {
        if !caller.link.may_register(host) {
            return Err(Rejection::NotGranted);
        }
        if documents.is_anothers(&caller.id.tenant, host) {
            return Err(Rejection::Taken);
        }
        if let Some(holder) = self.holders.get(host).filter(|holder| *holder != caller.id).cloned()
        {
            self.may_take(caller, (&holder, host), documents, now)?;
            taken.entry(holder).or_default().insert(host.clone());
        }
        if let Some(claims) = self.links.get_mut(caller.id) {
            claims.released.remove(host);
        }
        self.holders.insert(host.clone(), caller.id.clone());
        Ok(())
    }

    /// Withdraws names from the links that held them. All names of a link at once: its routes may be thousands, and so may be the names.
    fn take_away(&mut self, taken: Taken, now: Now) -> Changed {
        let mut changed = Changed::default();
        for (holder, hosts) in taken {
            let is_meant = |one: &Registration| hosts.contains(&one.route.host);
            changed.0.extend(self.withdraw(&holder, is_meant, now).0.0);
            let Some(claims) = self.links.get_mut(&holder) else { continue };
            let released = hosts.iter().filter(|host| claims.released.remove(host)).count();
            if released > 0 {
                changed.0.insert(holder);
            }
        }
        changed
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
            Right::Unknown => *claims.absent.get_or_insert(now.instant),
            Right::Granted | Right::Withdrawn => now.instant,
        };
        if now.instant.saturating_duration_since(absent) < ABSENCE {
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
        // A name that another link has taken is none that this one releases.
        let is_own = |host: &HostPattern| self.holders.get(host) == Some(id);
        for host in unused.into_iter().filter(is_own) {
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
        let places: HashSet<_> = wanted.iter().map(place).collect();
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

/// Returns what a route is for.
fn place(one: &Registration) -> (&HostPattern, &LinkPath) {
    (&one.route.host, &one.route.path)
}

/// Returns what makes two registrations the same, whatever their backends.
fn key(one: &Registration) -> (&HostPattern, &LinkPath, &RouteOwner) {
    (&one.route.host, &one.route.path, &one.owner)
}

#[cfg(test)]
mod tests;
