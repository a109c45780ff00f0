//! What an edit of the configuration takes away: the clients that a listener, or a hosted API server of it, admits no longer.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::{ServerNames, SourceSet};
use rustls_pki_types::{CertificateDer, UnixTime};

/// Memory of a block, of a name, and of what is constant, in bytes.
const BLOCK: usize = 32;
const NAME: usize = 64;
const LEAST: usize = 128;

/// Clients that an edit left a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Narrowing {
    /// Those from these addresses.
    Sources(SourceSet),
    /// Those that asked for one of these names.
    Names(ServerNames),
    /// All but those that asked for one of these names.
    NamesLost(ServerNames),
    /// Those without a certificate, and those whose certificate is verified still.
    Certificates(Trusted),
    /// Of those that a hosted API server of this name let in.
    Hosted(Arc<str>, Left),
}

/// Clients that an edit left a hosted API server; `None` for all of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The API server is gone.
    Nobody,
    /// Those that satisfy each of the conditions.
    These {
        /// Those from these addresses.
        sources: Option<SourceSet>,
        /// Those that asked for one of these names.
        names: Option<ServerNames>,
        /// All that are no API proxies, and API proxies whose certificate is verified still.
        proxies: Option<Trusted>,
    },
}

/// Client authorities and revocation lists of a later configuration.
#[derive(Clone, Debug)]
pub(crate) struct Trusted {
    /// Digest of the authorities and lists; empty if nobody is trusted.
    pub(crate) generation: Arc<str>,
    /// Their size in bytes.
    pub(crate) size: usize,
    /// Verification by them; `None` admits nobody.
    pub(crate) judge: Option<Arc<dyn Judge>>,
}

/// Verification of a certificate chain that was verified before by other authorities and lists.
pub(crate) trait Judge: fmt::Debug + Send + Sync {
    /// Returns true if the certificate is verified.
    fn admits(&self, shown: &ShownChain) -> bool;
}

/// Certificate chain that a client has shown in a handshake.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ShownChain {
    /// The chain, leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Time of the handshake: a certificate that expires later ends no connection.
    pub(crate) at: UnixTime,
}

/// Client of a connection, as far as an edit can exclude it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    /// Its address.
    pub(crate) address: IpAddr,
    /// Name that it asked for.
    pub(crate) name: Option<&'a str>,
    /// Name of the hosted API server that let it in.
    pub(crate) api: Option<&'a str>,
    /// True if it is a tenant cluster's API proxy.
    pub(crate) is_proxy: bool,
    /// Certificate that it has shown.
    pub(crate) shown: Option<&'a ShownChain>,
}

impl PartialEq for Trusted {
    fn eq(&self, other: &Self) -> bool {
        self.generation == other.generation
    }
}

impl Eq for Trusted {}

impl Trusted {
    /// Trusts nobody.
    pub(crate) fn nobody() -> Self {
        Self { generation: Arc::from(""), size: 0, judge: None }
    }

    fn admits(&self, shown: &ShownChain) -> bool {
        self.judge.as_ref().is_some_and(|judge| judge.admits(shown))
    }
}

impl Narrowing {
    /// Returns the memory that the value may keep from being freed, in bytes.
    pub(super) fn size(&self) -> usize {
        let of_sources = |sources: &SourceSet| sources.blocks().len() * BLOCK;
        let of_names = |names: &ServerNames| names.iter().len() * NAME;
        let parts = match self {
            Self::Sources(sources) => of_sources(sources),
            Self::Names(names) | Self::NamesLost(names) => of_names(names),
            Self::Certificates(trusted) => trusted.size,
            Self::Hosted(_, Left::Nobody) => 0,
            Self::Hosted(_, Left::These { sources, names, proxies }) => {
                sources.as_ref().map_or(0, of_sources)
                    + names.as_ref().map_or(0, of_names)
                    + proxies.as_ref().map_or(0, |trusted| trusted.size)
            }
        };
        LEAST + parts
    }

    /// Lets a later edit decide of certificates alone, so that lists of revoked certificates, which may be new each day, do not pile up.
    pub(super) fn supersede(&mut self, later: &Self) {
        let (former, later) = match (self, later) {
            (Self::Certificates(former), Self::Certificates(later)) => (former, later),
            (
                Self::Hosted(api, Left::These { proxies: Some(former), .. }),
                Self::Hosted(of, Left::These { proxies: Some(later), .. }),
            ) if api == of => (former, later),
            _ => return,
        };
        // The later one counts the memory.
        *former = Trusted { size: 0, ..later.clone() };
    }

    pub(super) fn admits(&self, client: Client<'_>) -> bool {
        let asked_for = |names: &ServerNames| client.name.map(|name| names.match_name(name));
        match self {
            Self::Sources(sources) => sources.contains(client.address),
            Self::Names(names) => asked_for(names).unwrap_or(true),
            Self::NamesLost(names) => asked_for(names) != Some(true),
            Self::Certificates(trusted) => client.shown.is_none_or(|shown| trusted.admits(shown)),
            Self::Hosted(api, _) if client.api != Some(&**api) => true,
            Self::Hosted(_, Left::Nobody) => false,
            Self::Hosted(_, Left::These { sources, names, proxies }) => {
                // A proxy in its handshake has shown nothing yet, and is judged again once it has.
                let is_trusted = |trusted: &Trusted| {
                    !client.is_proxy || client.shown.is_none_or(|shown| trusted.admits(shown))
                };
                sources.as_ref().is_none_or(|all| all.contains(client.address))
                    && names.as_ref().is_none_or(|names| asked_for(names) == Some(true))
                    && proxies.as_ref().is_none_or(is_trusted)
            }
        }
    }
}
