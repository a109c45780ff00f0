//! Identifiers of connections, logged by the proxy and by the gateway.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Source of identifiers: unique within the process, and with a random part that differs between processes.
#[derive(Debug)]
pub(crate) struct ConnectionIds {
    process: u64,
    next: AtomicU64,
}

/// Identifier of a connection: 24 hexadecimal digits and a hyphen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId {
    process: u64,
    number: u64,
}

impl ConnectionIds {
    pub(crate) fn new() -> Self {
        // The standard library seeds its hash tables from the system's randomness.
        Self { process: RandomState::new().hash_one(std::process::id()), next: AtomicU64::new(1) }
    }

    pub(crate) fn next(&self) -> ConnectionId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        ConnectionId { process: self.process, number }
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:08x}", self.process, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_connections_have_one_identifier() {
        let (one, other) = (ConnectionIds::new(), ConnectionIds::new());

        let ids = [one.next(), one.next(), other.next(), other.next()].map(|id| id.to_string());

        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), 4);
        assert!(
            ids.iter().all(|id| id.len() <= 128 && id.bytes().all(|byte| byte.is_ascii_graphic()))
        );
    }
}
