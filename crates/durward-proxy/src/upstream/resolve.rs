//! Names to addresses, kept as long as their TTL says, one query at a time for each name.
//!
//! While the DNS does not answer, the last good answer stands in. Deliberately absent: the DNS itself; that is `dns`, on a thread of
//! its own that starts with the first name.

mod dns;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// A TTL is taken for at least this long, so that a TTL of 0 does not mean one query per request.
const SHORTEST: Duration = Duration::from_secs(1);

/// And for at most this long, so that a wrong answer with a TTL of days heals.
const LONGEST: Duration = Duration::from_secs(300);

/// How long a failure is believed when the answer does not say.
const FAILURE: Duration = Duration::from_secs(2);

/// How long "no such name" is believed at most.
const LONGEST_FAILURE: Duration = Duration::from_secs(30);

/// How long past its TTL an answer may stand in for a DNS that does not answer.
const STALE: Duration = Duration::from_secs(3600);

/// The longest wait for an answer while an old one could stand in.
const PATIENCE: Duration = Duration::from_millis(500);

/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Names remembered before those long expired are forgotten.
const NAMES: usize = 4096;

/// Looks names up. Clones share one memory.
#[derive(Clone, Default)]
pub(crate) struct Resolver {
    memory: Arc<Memory>,
    source: Source,
    thread: Arc<OnceLock<mpsc::UnboundedSender<Arc<str>>>>,
}

/// Who answers.
#[derive(Clone, Default)]
enum Source {
    /// `/etc/hosts` and `/etc/resolv.conf`, read again when they change.
    #[default]
    Host,
    /// One name server, without hosts file and search list.
    #[cfg(test)]
    Server(std::net::SocketAddr),
    /// These addresses, for ever.
    #[cfg(test)]
    Fixed(Arc<HashMap<String, Vec<IpAddr>>>),
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// At least one.
    pub(crate) addresses: Arc<[IpAddr]>,
    /// Until when that holds.
    pub(crate) expires: Instant,
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Unresolved {
    /// The DNS says so.
    #[error("name {host} does not resolve: it does not exist or has no address")]
    NoSuchName {
        /// The name.
        host: Arc<str>,
    },
    /// The DNS does not answer, or with an error.
    #[error("name {host} cannot be resolved now: {cause}")]
    Failed {
        /// The name.
        host: Arc<str>,
        /// What the resolver says.
        cause: Arc<str>,
    },
}

/// What came of a query.
pub(crate) enum Answer {
    /// Addresses and their TTL.
    Addresses(Vec<IpAddr>, Duration),
    /// None, and for how long that may be believed.
    Nothing(Option<Duration>),
    /// No answer.
    Failed(String),
}

impl Resolver {
    /// Where `host` is. Does not leave the thread while the TTL holds.
    ///
    /// # Errors
    /// When it has no address, or the DNS does not say.
    pub(crate) async fn lookup(&self, host: &Arc<str>) -> Result<Resolved, Unresolved> {
        #[cfg(test)]
        if let Source::Fixed(names) = &self.source {
            return fixed(names, host);
        }
        let (answered, stale) = {
            let mut names = self.memory.lock();
            let name = names.entry(Arc::clone(host)).or_default();
            if let Some(known) = name.known(Instant::now()) {
                return known;
            }
            let (sender, answered) = oneshot::channel();
            name.waiting.push(sender);
            if name.waiting.len() == 1 {
                self.ask(host);
            }
            (answered, name.stale(Instant::now()))
        };
        let patience = if stale.is_some() { PATIENCE } else { TIMEOUT };
        match (tokio::time::timeout(patience, answered).await, stale) {
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

#[cfg(test)]
impl Resolver {
    /// Asks only this name server.
    pub(crate) fn at_server(server: std::net::SocketAddr) -> Self {
        Self { source: Source::Server(server), ..Self::default() }
    }

    /// Knows only these names.
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

/// What is known of names, shared by all cores.
#[derive(Default)]
pub(crate) struct Memory(Mutex<HashMap<Arc<str>, Name>>);

#[derive(Default)]
struct Name {
    good: Option<Resolved>,
    bad: Option<(Unresolved, Instant)>,
    waiting: Vec<oneshot::Sender<Result<Resolved, Unresolved>>>,
}

impl Name {
    /// What need not be asked again yet.
    fn known(&self, now: Instant) -> Option<Result<Resolved, Unresolved>> {
        if let Some(good) = &self.good
            && good.expires > now
        {
            return Some(Ok(good.clone()));
        }
        match &self.bad {
            Some((bad, until)) if *until > now => Some(Err(bad.clone())),
            _ => None,
        }
    }

    /// The last good answer, for a while longer.
    fn stale(&self, now: Instant) -> Option<Resolved> {
        let good = self.good.as_ref().filter(|good| good.expires + STALE > now)?;
        Some(Resolved { addresses: Arc::clone(&good.addresses), expires: now + FAILURE })
    }

    /// Takes an answer in. Only a DNS that does not answer lets an old answer stand in.
    fn learn(
        &mut self,
        host: &Arc<str>,
        answer: Answer,
        now: Instant,
    ) -> Result<Resolved, Unresolved> {
        let host = Arc::clone(host);
        let (bad, until) = match answer {
            Answer::Addresses(addresses, ttl) if !addresses.is_empty() => {
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
                    tracing::warn!(%host, %cause, "the DNS does not answer; the last good answer stands in");
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
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Name>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an answer in and tells everybody who waits for it.
    pub(crate) fn answer(&self, host: &Arc<str>, answer: Answer) -> Result<Resolved, Unresolved> {
        let now = Instant::now();
        let mut names = self.lock();
        if names.len() > NAMES {
            names.retain(|_, name| {
                let fresh = name.good.as_ref().is_some_and(|good| good.expires + STALE > now);
                fresh || !name.waiting.is_empty()
            });
        }
        let name = names.entry(Arc::clone(host)).or_default();
        let outcome = name.learn(host, answer, now);
        for waiting in name.waiting.drain(..) {
            let _gone = waiting.send(outcome.clone());
        }
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
            assert!(name.known(now + Duration::from_secs(holds) / 2).is_some());
            assert!(name.known(now + Duration::from_secs(holds)).is_none());
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
        assert!(matches!(name.known(later + Duration::from_secs(8)), Some(Err(_))));
        assert!(name.known(later + Duration::from_secs(9)).is_none());
        let failed = name.learn(&host(), Answer::Failed("timed out".into()), later);
        assert!(matches!(failed, Err(Unresolved::Failed { .. })));
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
