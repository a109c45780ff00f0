//! Caching resolver: keeps answers for their TTL, with one query at a time per name.
//!
//! While DNS servers do not answer, the last good answer is used.

mod dns;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use durward_model::EgressAddress;
use durward_model::egress::NameServer;
use durward_model::upstream::TrustRoots;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::files::{Asked, Asker};
use crate::memory::Hold;

/// Shortest TTL applied, so that a TTL of 0 does not mean one query per request.
const SHORTEST: Duration = Duration::from_secs(1);

/// Longest TTL applied, so that a wrong answer with a TTL of days heals.
const LONGEST: Duration = Duration::from_secs(300);

/// Time for which a failure is cached if the answer has no TTL.
const FAILURE: Duration = Duration::from_secs(2);

/// Longest time for which "no such name" is cached.
const LONGEST_FAILURE: Duration = Duration::from_secs(30);

/// Time past its TTL for which an answer may be used while DNS servers do not answer.
const STALE: Duration = Duration::from_secs(3600);

/// Longest wait for an answer while a stale one could be used.
const PATIENCE: Duration = Duration::from_millis(500);

/// TTL of the answer for one family while the other's is on its way: a client that can reach neither address asks again soon.
const INCOMPLETE: Duration = Duration::from_millis(200);

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Cached names above which those long expired are dropped.
const NAMES: usize = 4096;

/// Cached names above which all expired ones are dropped, and then all others.
const MOST_NAMES: usize = 65_536;

/// Addresses used of one answer. A reply over TCP has room for thousands, which would only fill the cache.
const ADDRESSES: usize = 64;

/// Bytes charged for a name besides itself and its addresses.
const OVERHEAD: usize = 384;

/// Caching resolver. Clones share one cache.
#[derive(Clone, Default)]
pub(crate) struct Resolver {
    memory: Arc<Memory>,
    source: Source,
    thread: Arc<OnceLock<mpsc::UnboundedSender<Arc<str>>>>,
}

/// Source of answers.
#[derive(Clone, Default)]
enum Source {
    /// `/etc/hosts` and `/etc/resolv.conf`, read again when they change.
    #[default]
    Host,
    /// Configured name servers, without hosts file and search list.
    Own(Arc<Asking>),
    /// Fixed addresses, which never expire.
    #[cfg(test)]
    Fixed(Arc<HashMap<String, Vec<IpAddr>>>),
}

/// Name servers, and the addresses to ask them from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asking {
    /// Name servers, in the order they are asked.
    pub(crate) servers: Vec<NameServer>,
    /// Source addresses: the first of the server's family is used; a server without one is not asked.
    pub(crate) sources: Vec<EgressAddress>,
    /// Authorities for the certificates of servers that are asked by TLS.
    pub(crate) roots: TrustRoots,
}

/// Address families that the caller can reach. An answer for one family may come before the other's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    /// Both families.
    #[cfg(test)]
    pub(crate) const ALL: Self = Self { v4: true, v6: true };

    /// Returns the families of a tenant's addresses.
    pub(crate) fn of(sources: &[EgressAddress]) -> Self {
        Self {
            v4: sources.iter().any(|source| source.0.is_ipv4()),
            v6: sources.iter().any(|source| source.0.is_ipv6()),
        }
    }

    fn reach(self, found: &Resolved) -> bool {
        found.addresses.iter().any(|ip| if ip.is_ipv4() { self.v4 } else { self.v6 })
    }
}

/// Addresses of a name.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// Addresses, at least one.
    pub(crate) addresses: Arc<[IpAddr]>,
    /// End of their validity.
    pub(crate) expires: Instant,
}

/// Reason a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Unresolved {
    /// The DNS says that there is none.
    #[error("name {host} does not resolve: it does not exist or has no address")]
    NoSuchName {
        /// Name that was asked for.
        host: Arc<str>,
    },
    /// DNS servers do not answer, or with an error.
    #[error("name {host} cannot be resolved now: {cause}")]
    Failed {
        /// Name that was asked for.
        host: Arc<str>,
        /// Error of the resolver.
        cause: Arc<str>,
    },
    /// The tenant has too many lookups under way.
    #[error("too many names are being looked up")]
    TooMany,
    /// The tenant holds as much memory as its share of the budget allows.
    #[error("no memory is left for names that are looked up")]
    Memory,
}

/// Result of a query.
pub(crate) enum Answer {
    /// Addresses and their TTL.
    Addresses(Vec<IpAddr>, Duration),
    /// No address, and the time for which that may be cached.
    Nothing(Option<Duration>),
    /// No answer.
    Failed(String),
}

impl Resolver {
    /// Resolves `host` for a caller that can reach both families.
    ///
    /// # Errors
    /// Fails if the name has no address, or DNS servers do not answer.
    #[cfg(test)]
    pub(crate) async fn lookup(
        &self,
        host: &Arc<str>,
        asker: Option<Asker<'_>>,
    ) -> Result<Resolved, Unresolved> {
        self.lookup_for(host, asker, Families::ALL).await
    }

    /// Resolves `host`. Does not leave the thread while the TTL lasts. While one family's answer is late, the other's is returned if it can be
    /// reached.
    ///
    /// # Errors
    /// Fails if the name has no address, or DNS servers do not answer.
    pub(crate) async fn lookup_for(
        &self,
        host: &Arc<str>,
        asker: Option<Asker<'_>>,
        families: Families,
    ) -> Result<Resolved, Unresolved> {
        #[cfg(test)]
        if let Source::Fixed(names) = &self.source {
            return fixed(names, host);
        }
        let mut wait = Wait { memory: &self.memory, host, over: true };
        let (answered, stale) = {
            let mut names = self.memory.lock();
            let name = names.known.entry(Arc::clone(host)).or_default();
            if let Some(known) = name.known(Instant::now(), families) {
                return known;
            }
            let stale = name.stale(Instant::now());
            if name.asking.is_none() {
                let held = asker.map(Asker::ask);
                // Too many lookups of this tenant: a stale answer is better than none.
                if let Some(None) = held {
                    return stale.ok_or(Unresolved::TooMany);
                }
                if let (None, Some(asker)) = (&name.hold, asker) {
                    let mut hold = asker.hold();
                    if hold.grow(price(host, 0)).is_err() {
                        return stale.ok_or(Unresolved::Memory);
                    }
                    name.hold = Some(hold);
                }
                name.asking = Some(Query { _held: held.flatten(), task: None });
                self.ask(host);
            }
            let (sender, answered) = oneshot::channel();
            name.waiting.push(Waiting { families, sender });
            wait.over = false;
            (answered, stale)
        };
        let patience = if stale.is_some() { PATIENCE } else { TIMEOUT };
        let answered = tokio::time::timeout(patience, answered).await;
        // The wait is over: dropping it must not count as giving up.
        wait.over = true;
        match (answered, stale) {
            (Ok(Ok(outcome)), _) => outcome,
            (_, Some(stale)) => Ok(stale),
            (_, None) => self.memory.answer(host, Answer::Failed("no answer in time".to_owned())),
        }
    }

    fn ask(&self, host: &Arc<str>) {
        let start = || dns::start(self.source.clone(), Arc::clone(&self.memory));
        let _thread_outlives_the_sender = self.thread.get_or_init(start).send(Arc::clone(host));
    }
}

impl Resolver {
    /// Creates a resolver that asks these name servers only.
    pub(crate) fn own(asking: Asking) -> Self {
        Self { source: Source::Own(Arc::new(asking)), ..Self::default() }
    }
}

#[cfg(test)]
impl Resolver {
    /// Creates a resolver that asks only this name server.
    pub(crate) fn at_server(server: std::net::SocketAddr) -> Self {
        let sources = vec![EgressAddress([127, 0, 0, 1].into())];
        let servers = vec![NameServer { address: server, tls: None }];
        Self::own(Asking { servers, sources, roots: TrustRoots::System })
    }

    /// Creates a resolver that knows only these names.
    pub(crate) fn fixed(names: &[(&str, &[IpAddr])]) -> Self {
        let names = names.iter().map(|(name, addresses)| ((*name).to_owned(), addresses.to_vec()));
        Self { source: Source::Fixed(Arc::new(names.collect())), ..Self::default() }
    }
}

#[cfg(test)]
fn fixed(names: &HashMap<String, Vec<IpAddr>>, host: &Arc<str>) -> Result<Resolved, Unresolved> {
    let addresses = names.get(&**host).cloned().unwrap_or_default();
    if addresses.is_empty() {
        return Err(Unresolved::NoSuchName { host: Arc::clone(host) });
    }
    Ok(Resolved { addresses: addresses.into(), expires: Instant::now() + LONGEST })
}

/// Cache of names, shared by all cores.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Names>);

#[derive(Default)]
struct Names {
    known: HashMap<Arc<str>, Name>,
    /// Number of names at which expired ones are dropped; rises with what is left, so that the cost stays low.
    room: usize,
}

impl Names {
    /// Drops names from the cache: clients of a forward proxy may ask for any number of them.
    fn make_room(&mut self, now: Instant) {
        if self.known.len() <= self.room.max(NAMES) {
            return;
        }
        self.keep(|good| good.expires + STALE > now);
        if self.known.len() > MOST_NAMES {
            self.keep(|good| good.expires > now);
        }
        if self.known.len() > MOST_NAMES {
            self.keep(|_| false);
        }
        self.room = (self.known.len() * 2).min(MOST_NAMES);
    }

    fn keep(&mut self, good: impl Fn(&Resolved) -> bool) {
        self.known.retain(|_, name| name.asking.is_some() || name.good.as_ref().is_some_and(&good));
    }

    /// Charges a cached name to the tenant that asked first. If its share is exceeded, names of this tenant are dropped: first expired ones, then the
    /// others.
    fn charge(&mut self, host: &Arc<str>, now: Instant) {
        let Some(name) = self.known.get_mut(host) else { return };
        let Some(mut hold) = name.hold.take() else { return };
        let addresses = name.good.as_ref().map_or(0, |good| good.addresses.len());
        if hold.resize(price(host, addresses)).is_err() {
            self.known.remove(host);
            return self.forget(&hold, |_| false);
        }
        if hold.has_too_many_names() {
            self.forget(&hold, |name| name.until().is_some_and(|until| until > now));
        }
        if hold.has_too_many_names() {
            self.forget(&hold, |_| false);
        }
        if let Some(name) = self.known.get_mut(host) {
            name.hold = Some(hold);
        }
    }

    /// Drops the names of one tenant that are not being looked up and do not pass `keep`.
    fn forget(&mut self, of: &Hold, keep: impl Fn(&Name) -> bool) {
        self.known.retain(|_, name| {
            let other = name.hold.as_ref().is_none_or(|hold| !hold.is_of_the_tenant_of(of));
            other || name.asking.is_some() || keep(name)
        });
    }
}

/// Returns the bytes charged for a name with `addresses` addresses.
fn price(host: &str, addresses: usize) -> usize {
    OVERHEAD + 2 * host.len() + addresses * size_of::<IpAddr>()
}

/// Wait of a client for an answer. When the last wait for a name is dropped, its query is cancelled too.
struct Wait<'a> {
    memory: &'a Memory,
    host: &'a Arc<str>,
    over: bool,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.memory.leave(self.host);
        }
    }
}

/// Query under way, and the guard that counts it.
struct Query {
    _held: Option<Asked>,
    task: Option<AbortHandle>,
}

impl Drop for Query {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[derive(Default)]
struct Name {
    good: Option<Resolved>,
    bad: Option<(Unresolved, Instant)>,
    waiting: Vec<Waiting>,
    /// Query under way. If there is a valid good answer as well, that one is for one family, and the other's is on its way.
    asking: Option<Query>,
    /// Memory charged, if a client asked for the name.
    hold: Option<Hold>,
}

/// Caller that waits for an answer.
struct Waiting {
    families: Families,
    sender: oneshot::Sender<Result<Resolved, Unresolved>>,
}

impl Resolved {
    /// Returns the answer of one family, valid for as long as the other's may still come.
    fn incomplete(&self, now: Instant) -> Self {
        let expires = self.expires.min(now + INCOMPLETE);
        Self { addresses: Arc::clone(&self.addresses), expires }
    }
}

impl Name {
    /// Returns the end of the cached answer's validity.
    fn until(&self) -> Option<Instant> {
        let bad = self.bad.as_ref().map(|(_, until)| *until);
        self.good.as_ref().map(|good| good.expires).max(bad)
    }

    /// Returns the cached answer, if it is valid.
    fn known(&self, now: Instant, families: Families) -> Option<Result<Resolved, Unresolved>> {
        if let Some(good) = &self.good
            && good.expires > now
        {
            if self.asking.is_none() {
                return Some(Ok(good.clone()));
            }
            return families.reach(good).then(|| Ok(good.incomplete(now)));
        }
        match &self.bad {
            Some((bad, until)) if *until > now => Some(Err(bad.clone())),
            _ => None,
        }
    }

    /// Returns the last good answer, for a while longer.
    fn stale(&self, now: Instant) -> Option<Resolved> {
        let good = self.good.as_ref().filter(|good| good.expires + STALE > now)?;
        Some(Resolved { addresses: Arc::clone(&good.addresses), expires: now + FAILURE })
    }

    /// Stores an answer. Only a failure to get one lets a stale answer be used.
    fn learn(
        &mut self,
        host: &Arc<str>,
        answer: Answer,
        now: Instant,
    ) -> Result<Resolved, Unresolved> {
        let host = Arc::clone(host);
        let (bad, until) = match answer {
            Answer::Addresses(mut addresses, ttl) if !addresses.is_empty() => {
                addresses.truncate(ADDRESSES);
                let expires = now + ttl.clamp(SHORTEST, LONGEST);
                let good = Resolved { addresses: addresses.into(), expires };
                self.good = Some(good.clone());
                self.bad = None;
                return Ok(good);
            }
            Answer::Addresses(..) => (Unresolved::NoSuchName { host }, now + FAILURE),
            Answer::Nothing(ttl) => {
                let believed = ttl.unwrap_or(FAILURE).clamp(SHORTEST, LONGEST_FAILURE);
                (Unresolved::NoSuchName { host }, now + believed)
            }
            Answer::Failed(cause) => {
                if let Some(stale) = self.stale(now) {
                    tracing::warn!(%host, %cause, "DNS lookup failed; the last good answer is used");
                    return Ok(stale);
                }
                (Unresolved::Failed { host, cause: cause.into() }, now + FAILURE)
            }
        };
        self.good = None;
        self.bad = Some((bad.clone(), until));
        Err(bad)
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles the end of a wait. A query that could refresh a stale answer goes on without waiting callers.
    fn leave(&self, host: &Arc<str>) {
        let mut names = self.lock();
        let Some(name) = names.known.get_mut(host) else { return };
        name.waiting.retain(|waiting| !waiting.sender.is_closed());
        if name.waiting.is_empty() && name.good.is_none() {
            name.asking = None;
            if name.bad.is_none() {
                names.known.remove(host);
            }
        }
    }

    /// Returns true if a query for the name is still wanted.
    fn is_asked(&self, host: &Arc<str>) -> bool {
        self.lock().known.get(host).is_some_and(|name| name.asking.is_some())
    }

    /// Records the task of the query, which is aborted when no caller waits any more.
    fn began(&self, host: &Arc<str>, task: AbortHandle) {
        let mut names = self.lock();
        match names.known.get_mut(host).and_then(|name| name.asking.as_mut()) {
            Some(asking) if asking.task.is_none() => asking.task = Some(task),
            _ => task.abort(),
        }
    }

    /// Stores the answer for one family while the other's is on its way, and passes it to callers that can reach it.
    fn early(&self, host: &Arc<str>, addresses: Vec<IpAddr>, ttl: Duration) {
        let now = Instant::now();
        let mut names = self.lock();
        let Some(name) = names.known.get_mut(host).filter(|name| name.asking.is_some()) else {
            return;
        };
        if let Ok(good) = name.learn(host, Answer::Addresses(addresses, ttl), now) {
            let reaches = |waiting: &mut Waiting| waiting.families.reach(&good);
            for waiting in name.waiting.extract_if(.., reaches) {
                let _gone = waiting.sender.send(Ok(good.incomplete(now)));
            }
        }
    }

    /// Stores an answer and passes it to all waiting callers.
    pub(crate) fn answer(&self, host: &Arc<str>, answer: Answer) -> Result<Resolved, Unresolved> {
        let now = Instant::now();
        let mut names = self.lock();
        names.make_room(now);
        let name = names.known.entry(Arc::clone(host)).or_default();
        name.asking = None;
        let outcome = name.learn(host, answer, now);
        for waiting in name.waiting.drain(..) {
            let _gone = waiting.sender.send(outcome.clone());
        }
        names.charge(host, now);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Arc<str> {
        Arc::from("pay.example")
    }

    fn good(ttl: u64) -> Answer {
        Answer::Addresses(vec![IpAddr::from([192, 0, 2, 1])], Duration::from_secs(ttl))
    }

    // S1.4
    #[test]
    fn an_answer_holds_for_its_ttl_within_bounds() {
        let now = Instant::now();
        for (ttl, holds) in [(0, 1), (20, 20), (86_400, 300)] {
            let mut name = Name::default();

            let learnt = name.learn(&host(), good(ttl), now).unwrap();

            assert_eq!(learnt.expires, now + Duration::from_secs(holds));
            assert!(name.known(now + Duration::from_secs(holds) / 2, Families::ALL).is_some());
            assert!(name.known(now + Duration::from_secs(holds), Families::ALL).is_none());
        }
    }

    // S1.4
    #[test]
    fn a_silent_dns_leaves_the_last_answer_and_a_denying_one_takes_it() {
        let now = Instant::now();
        let mut name = Name::default();
        name.learn(&host(), good(5), now).unwrap();
        let later = now + Duration::from_secs(10);

        assert!(name.learn(&host(), Answer::Failed("timed out".into()), later).is_ok());
        let denied = name.learn(&host(), Answer::Nothing(Some(Duration::from_secs(9))), later);

        assert_eq!(denied.unwrap_err(), Unresolved::NoSuchName { host: host() });
        assert!(matches!(name.known(later + Duration::from_secs(8), Families::ALL), Some(Err(_))));
        assert!(name.known(later + Duration::from_secs(9), Families::ALL).is_none());
        let failed = name.learn(&host(), Answer::Failed("timed out".into()), later);
        assert!(matches!(failed, Err(Unresolved::Failed { .. })));
    }

    // S2.60+
    #[test]
    fn endless_names_are_forgotten() {
        let memory = Memory::default();

        for number in 0..MOST_NAMES * 2 + 10 {
            memory.answer(&Arc::from(format!("{number}.example")), good(300)).unwrap();
        }

        let names = memory.lock();
        assert!(names.known.len() <= MOST_NAMES + 1, "{}", names.known.len());
        assert!(names.known.len() > 5, "the last ones are remembered");
    }

    #[test]
    fn a_huge_answer_is_remembered_in_part() {
        let addresses = (0..4000u32).map(|last| IpAddr::from(last.to_be_bytes())).collect();
        let mut name = Name::default();

        let answer = Answer::Addresses(addresses, Duration::from_secs(5));
        let learnt = name.learn(&host(), answer, Instant::now()).unwrap();

        assert_eq!(learnt.addresses.len(), ADDRESSES);
    }

    // S2.60+
    #[test]
    fn the_names_of_one_tenant_leave_those_of_others_in_memory() {
        let budget = Arc::new(crate::memory::Memory::new(0));
        let (memory, other, greedy) = (Memory::default(), Arc::default(), Arc::default());
        let ask = |name: &str, usage: &Arc<crate::limits::Usage>| {
            let (host, mut hold) =
                (Arc::from(name), budget.hold(usage, crate::memory::Kind::Names));
            hold.grow(price(name, 0)).unwrap();
            memory.lock().known.entry(Arc::clone(&host)).or_default().hold = Some(hold);
            memory.answer(&host, good(300)).unwrap();
        };
        ask("pay.example", &other);

        (0..20_000).for_each(|number| ask(&format!("{number}.example"), &greedy));

        assert!(budget.used() <= budget.budget() / 16, "{} bytes", budget.used());
        assert!(memory.lock().known.contains_key("pay.example"));
        drop(memory);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn an_answer_does_not_stand_in_for_ever() {
        let now = Instant::now();
        let mut name = Name::default();
        name.learn(&host(), good(5), now).unwrap();

        let failed = name.learn(&host(), Answer::Failed("timed out".into()), now + STALE * 2);

        assert!(failed.is_err());
    }
}
