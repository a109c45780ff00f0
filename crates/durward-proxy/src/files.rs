//! File descriptors of the process, shared out: to clients' connections, to outbound connections, and to the process itself.
//!
//! Both kinds are shared out among tenants by the rule of [`Share`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::limits::{LookupGuard, Usage};
use crate::memory::{Hold, Kind, Memory};
use crate::refusal::Refusal;
use crate::share::Share;

/// Descriptors reserved for the process itself (logs, watched files, the admin listener, reloads, connections to name servers), and per core for its
/// reactor and its pipes.
const OWN: (usize, usize) = (256, 160);
/// Sockets that one lookup may open: two queries to two servers.
const LOOKUP: usize = 4;
/// Divisor of the descriptors for lanes.
const LANES: usize = 32;
/// Smallest share, however low RLIMIT_NOFILE is.
const LEAST: usize = 16;
/// Stands for "unlimited". Sums of a few of these do not overflow.
const BOUNDLESS: usize = usize::MAX / 64;

/// All file descriptors of the process.
#[derive(Debug)]
pub(crate) struct Files {
    limit: usize,
    cores: usize,
    /// Clients' connections.
    pub(crate) clients: Share,
    /// Outbound connections, idle ones and DNS queries included.
    pub(crate) outward: Share,
}

impl Default for Files {
    fn default() -> Self {
        Self::new(BOUNDLESS, 1)
    }
}

impl Files {
    /// Reads the process's RLIMIT_NOFILE and shares it out for `cores` cores.
    pub(crate) fn of_this_process(cores: usize) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self::new(limit.and_then(|files| usize::try_from(files).ok()).unwrap_or(BOUNDLESS), cores)
    }

    /// Shares out `limit` descriptors.
    pub(crate) fn new(limit: usize, cores: usize) -> Self {
        let (clients, outward) = (Share::default(), Share::default());
        let files = Self { limit: limit.min(BOUNDLESS), cores: cores.max(1), clients, outward };
        files.share_out(0, 2);
        files
    }

    /// Shares out what `listening` sockets leave among `tenants` tenants. Half is for clients, because each client needs an outbound connection too.
    pub(crate) fn share_out(&self, listening: usize, tenants: usize) {
        let own = OWN.0 + OWN.1 * self.cores + listening;
        let left = self.limit - own.min(self.limit / 2);
        let half = (left / 2).max(LEAST);
        self.clients.share_out(half, tenants);
        self.outward.share_out(half, tenants);
    }

    /// Returns the sockets that lanes of listeners may have. Each takes two descriptors.
    pub(crate) fn for_lanes(&self) -> usize {
        self.limit / LANES
    }

    /// Returns the number of cores.
    pub(crate) fn cores(&self) -> usize {
        self.cores
    }

    /// Returns the idle connections that a core may keep, of one tenant and in all.
    pub(crate) fn idle(&self) -> (usize, usize) {
        let all = (self.outward.most() / (2 * self.cores)).max(LEAST);
        (all / 2, all)
    }

    /// Counts a client's connection while the guard is held.
    pub(crate) fn client(self: &Arc<Self>) -> ClientPermit {
        self.clients.add(1);
        ClientPermit(Arc::clone(self))
    }

    /// Counts an outbound connection for a tenant.
    ///
    /// # Errors
    /// [`Refusal::FairShare`] if the tenant has used up its share.
    pub(crate) fn dial(self: &Arc<Self>, usage: &Arc<Usage>) -> Result<FdPermit, Refusal> {
        self.take(usage, 1).ok_or(Refusal::FairShare { of: "connections" })
    }

    /// Counts a health check's connection even beyond the share: a busy tenant must not make its upstream look broken.
    pub(crate) fn dial_anyway(self: &Arc<Self>, usage: &Arc<Usage>) -> FdPermit {
        usage.files().fetch_add(1, Relaxed);
        self.outward.add(1);
        FdPermit { files: Arc::clone(self), usage: Arc::clone(usage), count: 1 }
    }

    fn take(self: &Arc<Self>, usage: &Arc<Usage>, count: usize) -> Option<FdPermit> {
        let held = usage.files().fetch_add(count, Relaxed) + count;
        self.outward.add(count);
        let place = FdPermit { files: Arc::clone(self), usage: Arc::clone(usage), count };
        self.outward.allows(held).then_some(place)
    }
}

/// Guard of one client connection.
#[derive(Debug)]
pub(crate) struct ClientPermit(Arc<Files>);

impl Drop for ClientPermit {
    fn drop(&mut self) {
        self.0.clients.sub(1);
    }
}

/// Guard of a tenant's outbound connections.
#[derive(Debug)]
pub(crate) struct FdPermit {
    files: Arc<Files>,
    usage: Arc<Usage>,
    count: usize,
}

impl Drop for FdPermit {
    fn drop(&mut self) {
        self.usage.files().fetch_sub(self.count, Relaxed);
        self.files.outward.sub(self.count);
    }
}

/// Tenant for which a name is looked up, and the budgets that pay for it.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    /// All file descriptors.
    pub(crate) files: &'a Arc<Files>,
    /// Memory budget, charged for the cached answer.
    pub(crate) memory: &'a Arc<Memory>,
    /// Usage of the tenant.
    pub(crate) usage: &'a Arc<Usage>,
}

/// Guards held until a lookup is answered or given up.
#[derive(Debug)]
pub(crate) struct Asked {
    _place: FdPermit,
    _guard: LookupGuard,
}

impl Asker<'_> {
    /// Counts a lookup; `None` if the tenant has enough of them under way.
    pub(crate) fn ask(self) -> Option<Asked> {
        let guard = self.usage.lookup()?;
        Some(Asked { _place: self.files.take(self.usage, LOOKUP)?, _guard: guard })
    }

    /// Creates an empty charge for the cached answer.
    pub(crate) fn hold(self) -> Hold {
        self.memory.hold(self.usage, Kind::Names)
    }
}

/// Returns true if a socket could not be opened for lack of file descriptors, in the process or on the host.
pub(crate) fn are_exhausted(error: &io::Error) -> bool {
    let errnos = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(limit: usize) -> Arc<Files> {
        Arc::new(Files::new(limit, 2))
    }

    fn as_many_as_there_are(files: &Arc<Files>, usage: &Arc<Usage>) -> Vec<FdPermit> {
        std::iter::from_fn(|| files.dial(usage).ok()).collect()
    }

    // S2.60
    #[test]
    fn whoever_takes_what_it_can_leaves_something_for_everybody_else() {
        let files = files(4096);
        files.share_out(0, 9);
        let tenants: Vec<Arc<Usage>> = (0..8).map(|_| Arc::default()).collect();

        let taken: Vec<_> =
            tenants.iter().map(|tenant| as_many_as_there_are(&files, tenant)).collect();

        let counts: Vec<_> = taken.iter().map(Vec::len).collect();
        assert!(counts[0] > files.outward.most() / 2, "{counts:?}");
        assert!(counts.iter().all(|count| *count >= files.outward.most() / 4 / 9), "{counts:?}");
        assert!(files.outward.used() <= files.outward.most());
        assert!(matches!(files.dial(&tenants[0]), Err(Refusal::FairShare { .. })));
        assert!(files.dial(&Arc::default()).is_ok(), "who has none gets one");
        drop(taken);
        assert_eq!((files.outward.used(), tenants[0].files().load(Relaxed)), (0, 0));
    }

    #[test]
    fn the_process_keeps_some_for_itself() {
        let files = files(4096);
        let before = files.outward.most();

        files.share_out(1000, 2);

        assert_eq!(before - files.outward.most(), 500);
        assert!(files.clients.most() + files.outward.most() + 1000 + OWN.0 <= 4096);
        for limit in [0, 20, 256, 1024] {
            let files = Files::new(limit, 8);
            assert!(files.clients.most() >= LEAST && files.idle().0 > 0, "{limit}");
        }
        assert!(Files::default().outward.allows(1_000_000));
        files.share_out(0, 1);
        assert!(files.outward.allows(before), "who is alone may have all");
    }

    // S2.60
    #[test]
    fn a_tenant_has_a_bounded_number_of_lookups_under_way() {
        let (files, usage) = (files(1_000_000), Arc::default());
        let memory = Arc::default();
        let asker = Asker { files: &files, memory: &memory, usage: &usage };

        let asked: Vec<_> = std::iter::from_fn(|| asker.ask()).take(100_000).collect();

        assert_eq!(asked.len(), 256);
        let other = Arc::default();
        assert!(Asker { usage: &other, ..asker }.ask().is_some());
        drop(asked);
        assert!(asker.ask().is_some());
        assert_eq!(files.outward.used(), 0);
    }
}
