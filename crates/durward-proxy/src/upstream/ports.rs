//! Limit of connections from one address to one destination: the ephemeral ports of the kernel, less a reserve.
//!
//! Without a free port a connect would fail late and with a misleading error (EADDRNOTAVAIL). Ports that other programs use are not counted.

use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;

use durward_model::{EgressAddress, TenantId};

use super::path::Path;
use crate::refusal::Refusal;

/// Range of ephemeral ports, and the reserved ones in it.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// Ports assumed if the range cannot be read.
const USUAL: u32 = 28_232;

/// Returns the most connections from one address to one destination.
pub(crate) fn budget() -> u32 {
    static BUDGET: LazyLock<u32> = LazyLock::new(|| {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let ports = available(&read(RANGE), &read(RESERVED)).unwrap_or(USUAL);
        // One port in 32 is reserved for connections in TIME_WAIT and other closing states.
        ports - ports / 32
    });
    *BUDGET
}

/// Returns the number of ephemeral ports.
fn available(range: &str, reserved: &str) -> Option<u32> {
    let mut ends = range.split_whitespace().map(str::parse::<u32>);
    let (from, to) = (ends.next()?.ok()?, ends.next()?.ok()?);
    let withheld = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        Some((last.min(to) + 1).saturating_sub(first.max(from)))
    };
    let withheld: u32 = reserved.split(',').filter_map(withheld).sum();
    (to + 1).checked_sub(from)?.checked_sub(withheld).filter(|ports| *ports > 0)
}

/// Checks that one more connection fits. Logs once when few ports are left.
///
/// # Errors
/// [`Refusal::PortsExhausted`] before the kernel would run out of ports.
pub(crate) fn admit(path: &Path) -> Result<(), Refusal> {
    let (used, budget) = (path.ports(), budget());
    if used >= budget / 5 * 4 && !path.scarce.swap(true, Relaxed) {
        let (source, peer) = (path.source(), path.peer());
        tracing::warn!(
            tenant = %path.tenant(), address = %source, destination = %peer, used, budget,
            "few ports are left from an egress address to one destination: give the tenant another address"
        );
    }
    if used >= budget {
        return Err(Refusal::PortsExhausted { peer: path.peer().0 });
    }
    if used < budget / 2 {
        path.scarce.store(false, Relaxed);
    }
    Ok(())
}

/// Port use of an egress address, to the destination that takes most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortReport {
    /// Tenant of the address.
    pub tenant: TenantId,
    /// Egress address.
    pub address: EgressAddress,
    /// Ports in use to that destination.
    pub used: u32,
    /// Ports that may be in use to one destination.
    pub budget: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_less_what_is_reserved_is_there() {
        assert_eq!(available("32768\t60999\n", "\n"), Some(28_232));
        assert_eq!(available("10000 10063", "10010,10020-10029,9-10001"), Some(64 - 11 - 2));
        assert_eq!(available("", ""), None);
        assert_eq!(available("5 4", ""), None);
        assert!(budget() > 0);
    }
}
