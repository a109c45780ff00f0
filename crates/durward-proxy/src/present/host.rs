//! Addresses of the host itself, which a forward proxy must not reach.
//!
//! The list is read again by a background thread when a request needs it and it is older than [`FRESH`]: a host may have thousands of addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::present::address;

/// Time for which a list of addresses is reused.
const FRESH: Duration = Duration::from_secs(1);

/// Cached list, shared by all cores.
#[derive(Default)]
pub(crate) struct HostAddresses(Arc<Memory>);

#[derive(Default)]
struct Memory {
    known: ArcSwapOption<Known>,
    /// True while a thread reads the list.
    asking: AtomicBool,
}

struct Known {
    at: Instant,
    addresses: Arc<BTreeSet<IpAddr>>,
}

impl HostAddresses {
    /// Returns all addresses as they were a moment ago; if the kernel does not list them, the last known list.
    ///
    /// # Errors
    /// Fails if no list was ever read.
    pub(crate) fn now(&self) -> io::Result<Arc<BTreeSet<IpAddr>>> {
        let known = self.0.known.load();
        let Some(known) = known.as_ref() else { return self.0.ask() };
        if known.at.elapsed() >= FRESH && !self.0.asking.swap(true, AcqRel) {
            let memory = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || {
                // On an error the former list stays.
                let _ = memory.ask();
                memory.asking.store(false, Release);
            });
        }
        Ok(Arc::clone(&known.addresses))
    }
}

impl Memory {
    fn ask(&self) -> io::Result<Arc<BTreeSet<IpAddr>>> {
        let interfaces = nix::ifaddrs::getifaddrs()?;
        let addresses: Arc<BTreeSet<_>> =
            Arc::new(interfaces.filter_map(|one| address(&one)).collect());
        let at = Instant::now();
        self.known.store(Some(Arc::new(Known { at, addresses: Arc::clone(&addresses) })));
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_is_among_them_and_an_old_answer_is_renewed_beside() {
        let host = HostAddresses::default();
        let first = host.now().unwrap();
        assert!(first.contains(&IpAddr::from([127, 0, 0, 1])));
        assert!(Arc::ptr_eq(&host.now().unwrap(), &first));

        let old = Instant::now().checked_sub(FRESH).unwrap();
        host.0.known.store(Some(Arc::new(Known { at: old, addresses: Arc::clone(&first) })));

        assert!(Arc::ptr_eq(&host.now().unwrap(), &first), "nobody waits");
        while Arc::ptr_eq(&host.now().unwrap(), &first) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(host.now().unwrap(), first);
    }
}
