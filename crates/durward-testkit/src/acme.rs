//! A double of an ACME authority: RFC 8555 with nonces and signatures checked, TLS-ALPN-01 and HTTP-01 validated by real connections, IP
//! identifiers, profiles, renewal information and rate limits.
//!
//! A test says how the authority behaves and asks what it saw. Deliberately absent: DNS; names are looked up in what the test says.

mod jws;
mod routes;
mod state;
mod validation;
mod verifier;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::certificates::{Authority, CertSpec, server_config};
use crate::origin::Server;
use state::State;

/// Behaviour of the authority, changeable while it runs.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Lifetime of what it issues.
    pub lifetime: Duration,
    /// Profiles with their lifetimes.
    pub profiles: BTreeMap<String, Duration>,
    /// True if IP addresses are issued in the profile `shortlived` only, as Let's Encrypt does.
    pub addresses_are_short_lived: bool,
    /// Window of renewal information: seconds from now to its begin and end, and `Retry-After`. `None` offers no renewal information.
    pub renewal: Option<(i64, i64, u64)>,
    /// Refuses new orders as over a rate limit, with this `Retry-After` in seconds.
    pub rate_limit: Option<u64>,
    /// Answers every n-th signed request with `badNonce`; 0 never.
    pub bad_nonce_every: u64,
    /// Seconds by which the authority's clock is behind this host's.
    pub clock_behind: u64,
    /// Remembers validations, so that an account need not show a name again.
    pub remembers: bool,
    /// Refuses to issue though all names are validated.
    pub refuses_to_issue: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        Self {
            lifetime: days(90),
            profiles: BTreeMap::from([
                ("classic".to_owned(), days(90)),
                ("shortlived".to_owned(), Duration::from_secs(160 * 3_600)),
            ]),
            addresses_are_short_lived: true,
            renewal: None,
            rate_limit: None,
            bad_nonce_every: 3,
            clock_behind: 0,
            remembers: false,
            refuses_to_issue: false,
        }
    }
}

/// What the authority saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Accounts made, with their contacts.
    pub accounts: Vec<Vec<String>>,
    /// Names of the orders placed, sorted, with the profile.
    pub orders: Vec<(Vec<String>, Option<String>)>,
    /// Orders that named a certificate that they replace.
    pub replacements: u64,
    /// Most orders that were open at once.
    pub most_open: usize,
    /// Validations by connection: kind, name, and success or the reason of the failure.
    pub validations: Vec<(String, String, Result<(), String>)>,
    /// Certificates issued.
    pub issued: u64,
    /// Requests for renewal information.
    pub renewal_looks: u64,
    /// Orders refused for the rate limit.
    pub limited: u64,
}

/// The authority.
pub struct AcmeAuthority {
    server: Server,
    shared: Arc<Shared>,
    /// Issuer of its web server's certificate.
    web: Authority,
}

/// State of the double, shared with its server.
pub(crate) struct Shared {
    pub(crate) behaviour: Mutex<Behaviour>,
    pub(crate) seen: Mutex<Seen>,
    pub(crate) state: Mutex<State>,
    /// Addresses of names.
    pub(crate) names: Mutex<BTreeMap<String, IpAddr>>,
    /// Ports to validate at, in place of 80 and 443.
    pub(crate) ports: (u16, u16),
    pub(crate) issuer: Authority,
    pub(crate) url: Mutex<String>,
}

impl Shared {
    pub(crate) fn behaviour(&self) -> Behaviour {
        locked(&self.behaviour).clone()
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        locked(&self.seen)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", locked(&self.url))
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AcmeAuthority {
    /// Starts an authority at a loopback address that validates HTTP-01 and TLS-ALPN-01 at these ports.
    #[must_use]
    pub fn start(http_port: u16, tls_port: u16) -> Self {
        let web = Authority::new("web server of the authority");
        let identity = web.issue(&CertSpec::new().ip([127, 0, 0, 1]).server());
        let config = Arc::new(server_config(&identity, None));
        let shared = Arc::new(Shared {
            behaviour: Mutex::default(),
            seen: Mutex::default(),
            state: Mutex::default(),
            names: Mutex::default(),
            ports: (http_port, tls_port),
            issuer: Authority::new("issuing root").intermediate("issuing intermediate"),
            url: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        let server = Server::start("127.0.0.1:0", move |accepted| {
            routes::serve(Arc::clone(&served), Arc::clone(&config), accepted.stream)
        });
        *locked(&shared.url) = format!("https://{}", server.address());
        Self { server, shared, web }
    }

    /// URL of the directory.
    #[must_use]
    pub fn directory(&self) -> String {
        self.shared.url("/dir")
    }

    /// Authority of its web server's certificate, PEM.
    #[must_use]
    pub fn web_root(&self) -> String {
        self.web.pem()
    }

    /// Issuer of its certificates; clients trust its root.
    #[must_use]
    pub fn issuer(&self) -> &Authority {
        &self.shared.issuer
    }

    /// Server of the authority, to be stopped and started again.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Address that a name resolves to when it is validated.
    pub fn resolve(&self, name: &str, address: IpAddr) {
        locked(&self.shared.names).insert(name.to_owned(), address);
    }

    /// Changes the behaviour.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut locked(&self.shared.behaviour));
    }

    /// What it saw so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.shared.seen().clone()
    }

    /// Deactivates all accounts.
    pub fn revoke_accounts(&self) {
        self.shared.state().accounts.values_mut().for_each(|account| account.valid = false);
    }

    /// Address of the web server.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }
}
