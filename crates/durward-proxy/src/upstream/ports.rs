//! How many connections may leave from one address to one destination: as many as the kernel has ports for, less a reserve.
//!
//! A connection without a port of its own would fail late and without a reason. Deliberately absent: counting what other programs use.

use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;

use durward_model::{EgressAddress, TenantId};

use super::path::Path;
use crate::refusal::Refusal;

/// Where the kernel says which ports it gives out, and which of them it does not.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// What is assumed where the kernel does not say.
const USUAL: u32 = 28_232;

/// Connections from one address to one destination at once.
pub(crate) fn budget() -> u32 {
    static BUDGET: LazyLock<u32> = LazyLock::new(|| {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let ports = available(&read(RANGE), &read(RESERVED)).unwrap_or(USUAL);
        // One in 32 is left for connections that end but are not over.
        ports - ports / 32
    });
    *BUDGET
}

/// How many ports the kernel gives out.
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

/// Whether one more connection may go this way. Says so once when few are left.
///
/// # Errors
/// [`Refusal::PortsExhausted`] before the kernel would run out.
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

/// The destination that takes most of an egress address's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortReport {
    /// Whose.
    pub tenant: TenantId,
    /// The address.
    pub address: EgressAddress,
    /// Ports in use to one destination, the most of all.
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
