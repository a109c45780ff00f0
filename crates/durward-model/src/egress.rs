//! The way out: what a tenant's forward proxy lets through, decided by name before a lookup and by every address after it.
//!
//! Deliberately absent: resolving and dialling. The order is fixed: guard, deny, allow; nothing that matches is denied.

pub mod guard;
pub mod names;
pub mod neighbours;
pub mod target;
pub mod transparent;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::client_auth::HolderMatch;
use crate::origin::Origin;
use crate::route::HostPattern;
use crate::secret::Secret;
use crate::server_tls::ServerTls;
use crate::upstream::TrustRoots;

pub use guard::Guarded;
pub use names::{ListedName, NameList};
pub use neighbours::{NO_HOST, Neighbours, Surroundings};
pub use target::Host;
pub use transparent::{Others, Taken, Transparent};

/// The rule named where no rule matches.
pub const DEFAULT: &str = "default";
/// The rule named where the mode asks no rules.
pub const OPEN: &str = "open";

/// A forward proxy served by a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForwardService {
    /// TLS towards clients.
    pub tls: Option<ServerTls>,
    /// Credentials, one of which a client must present; empty admits every client that reaches the listener.
    pub credentials: Vec<Credential>,
    /// Holders whose client certificates are accepted; empty means every certificate the authorities issued.
    pub holders: Vec<HolderMatch>,
    /// True if other tenants' proxies may stand at the same address and port, where clients can be told apart.
    pub shared: bool,
    /// Egress policy.
    pub policy: Arc<Policy>,
    /// Traffic that the kernel hands over, for clients that know no proxy; `None` without transparent egress.
    pub transparent: Option<Arc<Transparent>>,
}

/// A credential a client proves itself with.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Credential {
    /// The user name of Basic; a name for records otherwise.
    pub name: Arc<str>,
    /// SHA-256 of the secret. The secret itself is known to the client alone.
    #[serde(skip)]
    pub sha256: [u8; 32],
}

impl fmt::Debug for Credential {
    /// The name alone: a hash of a weak secret is not far from the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credential").field(&self.name).finish()
    }
}

/// Egress policy of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Mode: whether the rules are enforced.
    pub mode: Mode,
    /// Deny rules; they take precedence.
    pub deny: Vec<Rule>,
    /// Allow rules.
    pub allow: Vec<Rule>,
    /// Contact that is named on the error page of a denied request.
    pub contact: Option<Arc<str>>,
    /// True if the first bytes of a tunnel must be a ClientHello for the host that was asked for.
    pub sni_must_match: bool,
    /// DNS servers to query, in this order; empty means the host's resolvers.
    pub resolvers: Vec<NameServer>,
    /// Authorities that must have issued their certificates.
    pub resolver_roots: TrustRoots,
    /// Other proxies to go through, the first that is for the host.
    pub parents: Vec<Parent>,
}

/// A DNS server of a tenant's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct NameServer {
    /// Address and port.
    pub address: SocketAddr,
    /// The name or address its certificate must carry: it is asked by TLS (RFC 7858). `None`: by UDP, and by TCP for what is too long for that.
    pub tls: Option<Arc<str>>,
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tls {
            Some(name) => write!(f, "tls://{}#{name}", self.address),
            None => self.address.fmt(f),
        }
    }
}

/// Another proxy that tunnels are made through. It looks names up itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parent {
    /// Name or address.
    pub host: Host,
    /// Port.
    pub port: u16,
    /// Which names go through it; empty means all, and addresses too.
    pub hosts: Vec<HostMatch>,
    /// `NAME:SECRET`, shown to it as Basic.
    #[serde(skip)]
    pub credential: Option<Secret>,
}

impl Parent {
    /// Returns true if requests for `host` go through this parent.
    #[must_use]
    pub fn is_for(&self, host: &Host) -> bool {
        match host {
            _ if self.hosts.is_empty() => true,
            Host::Name(name) => self.hosts.iter().any(|known| known.matches(name)),
            Host::Address(_) => false,
        }
    }
}

/// Enforcement mode of the rules. The guard is always enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Mode {
    /// Denies what the rules do not allow.
    #[default]
    Enforce,
    /// Let through, and recorded as what would be denied.
    Report,
    /// The rules are not asked.
    Open,
}

/// One rule. Of each list that is not empty, one entry must match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Name in records: `allow[0]`, or the one written.
    pub name: Arc<str>,
    /// Names. An address asked for as such is no name.
    pub hosts: Vec<HostMatch>,
    /// Lists of names, beside `hosts`. A list without an entry matches nothing.
    pub lists: Vec<Arc<NameList>>,
    /// Blocks of addresses: all of a name's addresses must lie in them; to deny, one is enough.
    pub blocks: Vec<IpNet>,
    /// Ports, from and to. Empty means 443 for tunnels and 80 for plain requests in `allow`, all in `deny`.
    pub ports: Vec<(u16, u16)>,
    /// Methods; `CONNECT` is that of tunnels.
    pub methods: Vec<Arc<str>>,
    /// True if a block of it may open a range that is guarded, as only the operator's can.
    pub opens_guarded: bool,
    /// Origin: file and line, or object and field.
    pub origin: Origin,
}

/// Names a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum HostMatch {
    /// Every name.
    Any,
    /// A name, or all names below it.
    Pattern(HostPattern),
    /// `.example.com`: the name and all names below it.
    Suffix(Arc<str>),
}

impl HostMatch {
    /// A name it is for.
    #[must_use]
    pub fn example(&self) -> Host {
        Host::Name(match self {
            Self::Any => Arc::from("name.example"),
            Self::Pattern(HostPattern::Exact(name)) | Self::Suffix(name) => Arc::clone(name),
            Self::Pattern(HostPattern::Wildcard(parent)) => Arc::from(format!("name.{parent}")),
        })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Pattern(pattern) => pattern.matches(name),
            Self::Suffix(suffix) => name
                .strip_suffix(&**suffix)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        }
    }
}

/// Destination that a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The host.
    pub host: &'a Host,
    /// The port.
    pub port: u16,
    /// The method of a plain request; `None` for a tunnel.
    pub method: Option<&'a str>,
}

/// Decision, and the rule that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The rule's name.
    pub rule: Arc<str>,
    /// The outcome.
    pub outcome: Outcome,
    /// Origin of the rule.
    pub origin: Option<Origin>,
}

/// May it go?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Yes.
    Allow,
    /// The rules say no, the mode says yes.
    Report,
    /// No.
    Deny,
}

/// Which of its lists a rule is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Allow,
    Deny,
}

impl Policy {
    /// Decides before the name is looked up: `Some` if no answer could let it through, so that no query leaves.
    #[must_use]
    pub fn before_lookup(&self, asked: Asked<'_>) -> Option<Decided> {
        if self.mode != Mode::Enforce {
            return None;
        }
        let denied = self.deny.iter().find(|rule| {
            rule.blocks.is_empty() && rule.fits(List::Deny, asked) && rule.names(asked.host)
        });
        if let Some(rule) = denied {
            return Some(rule.decides(Outcome::Deny));
        }
        let possible = |rule: &Rule| rule.fits(List::Allow, asked) && rule.names(asked.host);
        (!self.allow.iter().any(possible)).then(|| by_default(Outcome::Deny))
    }

    /// Decides on a destination whose host resolves to `addresses`, which is not empty.
    #[must_use]
    pub fn decide(
        &self,
        around: Surroundings<'_>,
        asked: Asked<'_>,
        addresses: &[IpAddr],
    ) -> Decided {
        let guarded = addresses.iter().find_map(|address| {
            let foreign = around.guards(*address, asked.port);
            foreign.or_else(|| self.guards(asked, *address, addresses, around))
        });
        if let Some(guarded) = guarded {
            let rule = Arc::from(format!("guard:{}", guarded.word()));
            return Decided { rule, outcome: Outcome::Deny, origin: None };
        }
        let no = match self.mode {
            Mode::Enforce => Outcome::Deny,
            Mode::Report => Outcome::Report,
            Mode::Open => {
                return Decided { rule: Arc::from(OPEN), outcome: Outcome::Allow, origin: None };
            }
        };
        if let Some(rule) = self.deny.iter().find(|rule| rule.denies(asked, addresses)) {
            return rule.decides(no);
        }
        match self.allow.iter().find(|rule| rule.allows(asked, addresses)) {
            Some(rule) => rule.decides(Outcome::Allow),
            None => by_default(no),
        }
    }

    /// The allow rules that let it through where all addresses are in their blocks.
    pub fn allow_by_address<'a>(&'a self, asked: Asked<'a>) -> impl Iterator<Item = &'a Rule> {
        self.allow.iter().filter(move |rule| {
            !rule.blocks.is_empty() && rule.fits(List::Allow, asked) && rule.names(asked.host)
        })
    }

    /// The other proxy this goes through, if any.
    #[must_use]
    pub fn parent(&self, host: &Host) -> Option<&Parent> {
        self.parents.iter().find(|parent| parent.is_for(host))
    }

    /// Decides whether a name may go to a parent, which looks it up: rules about addresses do not apply.
    #[must_use]
    pub fn decide_unresolved(&self, asked: Asked<'_>) -> Decided {
        let no = match self.mode {
            Mode::Enforce => Outcome::Deny,
            Mode::Report => Outcome::Report,
            Mode::Open => {
                return Decided { rule: Arc::from(OPEN), outcome: Outcome::Allow, origin: None };
            }
        };
        let by_name = |rule: &&Rule, list| {
            rule.blocks.is_empty() && rule.fits(list, asked) && rule.names(asked.host)
        };
        if let Some(rule) = self.deny.iter().find(|rule| by_name(rule, List::Deny)) {
            return rule.decides(no);
        }
        match self.allow.iter().find(|rule| by_name(rule, List::Allow)) {
            Some(rule) => rule.decides(Outcome::Allow),
            None => by_default(no),
        }
    }

    /// The guarded range an address is in, unless an allow rule that matches opens that very range. Where another address is embedded in it, that
    /// one must be open as well.
    fn guards(
        &self,
        asked: Asked<'_>,
        address: IpAddr,
        addresses: &[IpAddr],
        around: Surroundings<'_>,
    ) -> Option<Guarded> {
        let embedded = guard::embedded(address);
        std::iter::once(address).chain(embedded).find_map(|address| {
            let (guarded, range) = around.of_host(address).or_else(|| guard::classify(address))?;
            let opened = self.allow.iter().any(|rule| {
                let names = |block: &IpNet| range.contains(block) && block.contains(&address);
                rule.opens_guarded && rule.allows(asked, addresses) && rule.blocks.iter().any(names)
            });
            (!opened).then_some(guarded)
        })
    }
}

fn by_default(outcome: Outcome) -> Decided {
    Decided { rule: Arc::from(DEFAULT), outcome, origin: None }
}

impl Rule {
    fn decides(&self, outcome: Outcome) -> Decided {
        Decided { rule: Arc::clone(&self.name), outcome, origin: Some(self.origin.clone()) }
    }

    fn fits(&self, list: List, asked: Asked<'_>) -> bool {
        let port = match (self.ports.is_empty(), list, asked.method) {
            (false, ..) => self.ports.iter().any(|(from, to)| (*from..=*to).contains(&asked.port)),
            (true, List::Deny, _) => true,
            (true, List::Allow, None) => asked.port == 443,
            (true, List::Allow, Some(_)) => asked.port == 80,
        };
        let asked = asked.method.unwrap_or("CONNECT");
        port && (self.methods.is_empty() || self.methods.iter().any(|method| **method == *asked))
    }

    fn names(&self, host: &Host) -> bool {
        match host {
            _ if self.hosts.is_empty() && self.lists.is_empty() => true,
            Host::Name(name) => {
                self.hosts.iter().any(|host| host.matches(name))
                    || self.lists.iter().any(|list| list.matches(name))
            }
            Host::Address(_) => false,
        }
    }

    fn holds(&self, address: IpAddr) -> bool {
        self.blocks.iter().any(|block| block.contains(&address))
    }

    fn allows(&self, asked: Asked<'_>, addresses: &[IpAddr]) -> bool {
        self.fits(List::Allow, asked)
            && self.names(asked.host)
            && (self.blocks.is_empty() || addresses.iter().all(|address| self.holds(*address)))
    }

    fn denies(&self, asked: Asked<'_>, addresses: &[IpAddr]) -> bool {
        self.fits(List::Deny, asked)
            && self.names(asked.host)
            && (self.blocks.is_empty() || addresses.iter().any(|address| self.holds(*address)))
    }
}

#[cfg(test)]
#[path = "egress/tests.rs"]
mod tests;
