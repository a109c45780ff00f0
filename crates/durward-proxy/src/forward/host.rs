//! The addresses of the host itself, which tenants must not be let in by from behind.
//!
//! Asked of the kernel when somebody wants to know and the last answer is old. Deliberately absent: a task that watches.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

/// How long an answer holds.
const FRESH: Duration = Duration::from_secs(1);

/// What is known of them, shared by all cores.
#[derive(Default)]
pub(crate) struct HostAddresses(ArcSwapOption<Known>);

struct Known {
    at: Instant,
    addresses: Arc<BTreeSet<IpAddr>>,
}

impl HostAddresses {
    /// All of them. Should the kernel not say, what it said last.
    pub(crate) fn now(&self) -> Arc<BTreeSet<IpAddr>> {
        let known = self.0.load();
        if let Some(known) = known.as_ref().filter(|known| known.at.elapsed() < FRESH) {
            return Arc::clone(&known.addresses);
        }
        let addresses = match (nix::ifaddrs::getifaddrs(), known.as_ref()) {
            (Ok(interfaces), _) => Arc::new(interfaces.filter_map(|one| address(&one)).collect()),
            (Err(_), Some(known)) => Arc::clone(&known.addresses),
            (Err(error), None) => {
                tracing::warn!(%error, "the host's own addresses are not known");
                Arc::default()
            }
        };
        let at = Instant::now();
        self.0.store(Some(Arc::new(Known { at, addresses: Arc::clone(&addresses) })));
        addresses
    }
}

fn address(interface: &nix::ifaddrs::InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()).to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_them() {
        let host = HostAddresses::default();

        assert!(host.now().contains(&IpAddr::from([127, 0, 0, 1])));
        assert!(Arc::ptr_eq(&host.now(), &host.now()));
    }
}
