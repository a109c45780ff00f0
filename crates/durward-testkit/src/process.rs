//! Child processes with captured output, and the small waits and places every test needs.
//! It decides nothing about what runs: the caller brings a whole `Command`.

mod child;
mod ports;
mod temp_dir;

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use child::Child;
pub use ports::{free_port, free_udp_port, unique_loopback};
pub use temp_dir::TempDir;

const PAUSE: Duration = Duration::from_millis(10);

/// Gives this process as many descriptors as the system lets it have, as the binary does for itself: where a gateway runs in a test, its clients
/// and upstreams are in the same process, and a user's first limit is often 1024.
///
/// # Panics
/// When the system does not let it.
pub fn allow_all_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, all).expect("a limit may be raised to what is allowed");
}

/// Asks again and again until the condition holds; false when it did not within the deadline.
#[must_use = "assert that the condition came true"]
pub async fn eventually(deadline: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        // A condition that never answers must not outlive the deadline either.
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, condition()).await {
            Ok(true) => return true,
            Ok(false) if Instant::now() < end => tokio::time::sleep(PAUSE).await,
            Ok(false) | Err(_) => return false,
        }
    }
}

/// Like `eventually`, for tests without a runtime.
#[must_use = "assert that the condition came true"]
pub fn eventually_blocking(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}
