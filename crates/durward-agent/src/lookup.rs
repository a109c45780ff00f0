//! Addresses of backends' names, and the targets of routes. One lookup of a name runs at a time, so that a name server that hangs keeps only those who ask for that name.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use durward_link::{RouteSet, Target};
use tokio::time::Instant;

/// Time for which addresses are used again.
const FRESH: Duration = Duration::from_secs(5);
/// Names above which those that nobody asks for are forgotten.
const NAMES: usize = 1024;

/// Outcome of a lookup; the error as text, since several take it.
type Found = Result<Arc<[IpAddr]>, Arc<str>>;

/// Names, and what was found of them last.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    names: Mutex<HashMap<String, Arc<Name>>>,
    /// Targets of the routes that were asked for last: each stream looks at them again when the routes change.
    targets: Mutex<(Arc<RouteSet>, Arc<HashSet<Target>>)>,
}

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

    /// Returns true if a route has this target.
    pub(crate) fn is_target(&self, routes: &Arc<RouteSet>, target: &Target) -> bool {
        let mut last = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&last.0, routes) {
            let targets = routes.routes().iter().map(|route| route.target.clone()).collect();
            *last = (Arc::clone(routes), Arc::new(targets));
        }
        let targets = Arc::clone(&last.1);
        drop(last);
        targets.contains(target)
    }

    fn name(&self, host: &str) -> Arc<Name> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
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

    use durward_link::Route;

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

    #[test]
    fn targets_are_those_of_the_routes_that_are_asked_for() {
        let routes = |target: &str| {
            let route = Route {
                host: "a.example".to_owned(),
                path: "/".to_owned(),
                exact: false,
                target: target.parse().unwrap(),
                tunnel_only: false,
                passthrough: false,
                backend_tls: None,
                ingress: String::new(),
            };
            Arc::new(RouteSet::new(1, vec![route]))
        };
        let (lookups, before, after) = (Lookups::default(), routes("a:80"), routes("b:80"));
        let (a, b) = ("a:80".parse().unwrap(), "b:80".parse().unwrap());

        for (routes, own, other) in [(&before, &a, &b), (&after, &b, &a), (&before, &a, &b)] {
            assert!(lookups.is_target(routes, own) && !lookups.is_target(routes, other));
        }
        assert!(!Lookups::default().is_target(&Arc::default(), &a));
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
