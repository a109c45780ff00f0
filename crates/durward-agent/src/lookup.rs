//! Addresses of backends' names. One lookup of a name runs at a time, so that a name server that hangs keeps only those who ask for that name.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time for which addresses are used again.
const FRESH: Duration = Duration::from_secs(5);
/// Names above which those that nobody asks for are forgotten.
const NAMES: usize = 1024;

/// Outcome of a lookup; the error as text, since several take it.
type Found = Result<Arc<[IpAddr]>, Arc<str>>;

/// Names, and what was found of them last.
#[derive(Debug, Default)]
pub(crate) struct Lookups(Mutex<HashMap<String, Arc<Name>>>);

#[derive(Debug, Default)]
struct Name(tokio::sync::Mutex<Option<(Instant, Found)>>);

impl Lookups {
    /// Returns the addresses of a name by the system's resolver.
    ///
    /// # Errors
    /// Fails if it has none, or the lookup does.
    pub(crate) async fn find(&self, host: &str) -> io::Result<Arc<[IpAddr]>> {
        self.find_by(host, ask).await.map_err(|why| io::Error::other(why.to_string()))
    }

    async fn find_by<F>(&self, host: &str, ask: impl FnOnce(String) -> F + Send + 'static) -> Found
    where
        F: Future<Output = Found> + Send + 'static,
    {
        let (name, host, asked) = (self.name(host), host.to_owned(), Instant::now());
        // A task, since a lookup under way cannot be stopped: those who give up must not begin another.
        let finding = tokio::spawn(async move {
            let mut last = name.0.lock().await;
            if let Some((at, found)) = &*last {
                let is_fresh = found.is_ok() && at.elapsed() < FRESH;
                // A lookup that failed while this one waited counts for it, too.
                if is_fresh || *at >= asked {
                    return found.clone();
                }
            }
            let found = ask(host).await;
            *last = Some((Instant::now(), found.clone()));
            found
        });
        finding.await.unwrap_or_else(|_| Err("the agent ends".into()))
    }

    fn name(&self, host: &str) -> Arc<Name> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names.get(host) {
            return Arc::clone(name);
        }
        if names.len() >= NAMES {
            names.retain(|_, name| Arc::strong_count(name) > 1);
        }
        Arc::clone(names.entry(host.to_owned()).or_default())
    }
}

async fn ask(host: String) -> Found {
    let found = tokio::net::lookup_host((host.as_str(), 0)).await;
    let addresses: Arc<[IpAddr]> =
        found.map_err(|error| Arc::from(error.to_string()))?.map(|address| address.ip()).collect();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_that_hangs_is_looked_up_once_at_a_time_and_keeps_no_other() {
        let (lookups, asked) = (Arc::<Lookups>::default(), Arc::<AtomicUsize>::default());
        let hang = |asked: &Arc<AtomicUsize>| {
            let asked = Arc::clone(asked);
            move |_| async move {
                asked.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_secs(20)).await;
                Err::<Arc<[IpAddr]>, _>(Arc::from("no answer"))
            }
        };
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (lookups, ask) = (Arc::clone(&lookups), hang(&asked));
            waiting.spawn(async move {
                let finding = lookups.find_by("slow.example", ask);
                tokio::time::timeout(Duration::from_secs(10), finding).await.is_err()
            });
        }

        let here: Arc<[IpAddr]> = Arc::new([IpAddr::from([10, 0, 0, 7])]);
        let found = lookups.find_by("quick.example", {
            let here = Arc::clone(&here);
            move |_| async move { Ok(here) }
        });
        assert_eq!(found.await, Ok(here));
        assert!(waiting.join_all().await.into_iter().all(|late| late));
        tokio::time::sleep(Duration::from_secs(60)).await;

        assert_eq!(asked.load(Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_used_again_for_a_moment() {
        let (lookups, asked) = (Lookups::default(), Arc::<AtomicUsize>::default());
        let find = || {
            let asked = Arc::clone(&asked);
            lookups.find_by("a.example", move |_| async move {
                asked.fetch_add(1, Relaxed);
                Ok(Arc::default())
            })
        };

        find().await.unwrap();
        find().await.unwrap();
        assert_eq!(asked.load(Relaxed), 1);
        tokio::time::sleep(FRESH).await;
        find().await.unwrap();

        assert_eq!(asked.load(Relaxed), 2);
    }
}
