//! Registry of the routes that agents serve, as the proxy asks it. The process that runs the proxy keeps it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use durward_link::RouteSet;
use durward_link::control::Verdicts;
use durward_model::link::{Link, TokenDigest};
use durward_model::{Certificate, TenantId};

/// Whoever registers: an admitted agent or program of a link.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Tenant of the link.
    pub tenant: TenantId,
    /// Link, as the configuration of this moment has it.
    pub link: Link,
    /// Address that it comes from.
    pub client: IpAddr,
    /// Number of the call: later calls have higher ones.
    pub number: u64,
    /// Losses of the link.
    pub losses: Losses,
}

/// Number of the last call.
static CALLS: AtomicU64 = AtomicU64::new(0);

impl Caller {
    /// Returns the number of a call that begins now.
    pub(crate) fn next_number() -> u64 {
        CALLS.fetch_add(1, Relaxed)
    }
}

/// Number of times that other links have taken names from a link: its agents are to register their routes again, and are told which are not served any more.
#[derive(Clone, Debug, Default)]
pub struct Losses(Arc<AtomicU64>);

impl Losses {
    /// Counts a loss.
    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Returns the number.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Answer to an operation over REST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON text.
    pub body: String,
    /// Seconds after which to try again.
    pub retry_after: Option<u32>,
}

/// Call for the tunnels of a cluster: its TCP and UDP services, and the ports at which clients reach them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnels {
    /// Names all of them.
    List,
    /// Asks for the port of one.
    Register,
    /// Asks for the ports of many.
    Sync,
    /// Gives one up.
    Withdraw,
}

/// An agent that wants a client certificate.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The agent, and its link.
    pub caller: Caller,
    /// Authority of the listener.
    pub authority: Arc<Certificate>,
    /// Token that is good for one certificate; `None` for an agent that shows a certificate of its link, which is to be renewed.
    pub token: Option<TokenDigest>,
}

/// Registry of routes.
pub trait Registry: Send + Sync + fmt::Debug {
    /// Carries out the operation at the end of a REST path; `None` if there is none of this name. Blocks until what changed is stored.
    fn call(&self, caller: &Caller, operation: &str, body: &[u8]) -> Option<Answer>;

    /// Answers a call for the tunnels of `cluster`. Changes nothing.
    fn tunnels(&self, caller: &Caller, cluster: &str, call: Tunnels, body: &[u8]) -> Answer;

    /// Issues a certificate for the key of a request in PEM (RFC 2986). Blocks until the use of the token is stored.
    fn join(&self, joining: &Joining, request: &[u8]) -> Answer;

    /// Takes over all routes of an agent, without waiting for storage. `None` if none are taken for the moment, or a later call of the link was faster.
    fn replace(&self, caller: &Caller, routes: &RouteSet) -> Option<Verdicts>;
}
