//! The EndpointSlice and Endpoints of the Service `default/kubernetes`, kept on the ready API proxies of a tenant cluster.
//!
//! Each proxy runs a keeper. All of them want the same content, which they compute from the same objects, so it does not matter who writes: [`Keeper`] is the pure rule,
//! [`follow`] its watches and writes. Addresses are those of nodes or pods: kube-proxy resolves no ClusterIP in a slice.

mod follow;
mod object;
mod step;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use follow::{SliceKeeper, SliceReport, hand_back, read};
pub use step::{Keeper, MANAGER as KEEPER, Outcome, Step, Write, Written};

use crate::object::ObjectName;

/// Flag of kube-apiserver that makes it leave the endpoints of `kubernetes` alone.
pub const RECONCILER_FLAG: &str = "--endpoint-reconciler-type=none";
/// Most addresses of one slice. kube-proxy needs a few, and each change goes to every node.
pub const MOST_ADDRESSES: usize = 100;

/// An address family, as the API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Returns the family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Returns the `addressType` of slices of this family.
    #[must_use]
    pub fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// An object that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The `EndpointSlice` `kubernetes`, which an API server that reconciles writes too.
    Primary,
    /// The slice of the family that the primary one is not of.
    Secondary(Family),
    /// The Endpoints `kubernetes`.
    Endpoints,
}

impl Target {
    /// Every object, the primary slice first.
    pub const ALL: [Self; 4] =
        [Self::Primary, Self::Secondary(Family::V4), Self::Secondary(Family::V6), Self::Endpoints];

    /// Returns the object's kind.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Endpoints => "Endpoints",
            Self::Primary | Self::Secondary(_) => "EndpointSlice",
        }
    }

    /// Returns the object's name; all are in the namespace `default`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary | Self::Endpoints => "kubernetes",
            Self::Secondary(Family::V4) => "kubernetes-ipv4",
            Self::Secondary(Family::V6) => "kubernetes-ipv6",
        }
    }
}

/// Settings of a keeper.
#[derive(Clone, Debug)]
pub struct SliceOptions {
    /// Name of this proxy: that of its node.
    pub proxy: Arc<str>,
    /// Addresses of this proxy, at most one for each family.
    pub own: BTreeSet<IpAddr>,
    /// Port of the proxies.
    pub port: u16,
    /// Service whose ready endpoints the proxies are.
    pub service: ObjectName,
    /// Networks whose addresses are never written: those of Services.
    pub excluded: Vec<IpNet>,
    /// Family of the primary slice where it has to be made.
    pub primary: Family,
}

/// The state of the cluster as one proxy sees it.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Time since any fixed moment.
    pub now: Duration,
    /// True if this proxy can serve.
    pub own_ready: bool,
    /// Addresses of proxies that their Service counts as ready; `None` until they were read.
    pub members: Option<BTreeSet<IpAddr>>,
    /// Objects that were read; `None` for one that does not exist.
    pub objects: BTreeMap<Target, Option<Seen>>,
}

/// An object as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Resource version.
    pub version: Arc<str>,
    /// Family of a slice.
    pub family: Option<Family>,
    /// Addresses, whatever their conditions.
    pub addresses: BTreeSet<IpAddr>,
    /// True if everything else about its endpoints, ports and labels is as a keeper writes it.
    pub in_form: bool,
    /// Proxies that have withdrawn their addresses, by the key of their annotation.
    pub withdrawn: BTreeMap<String, BTreeSet<IpAddr>>,
    /// True if it has the label of keepers.
    pub kept: bool,
    /// Field manager that wrote the endpoints last.
    pub writer: Option<Arc<str>>,
    /// Endpoints from before the first keeper, as an annotation keeps them.
    pub before: Option<Arc<str>>,
    /// Ports, for that annotation.
    pub ports: BTreeSet<u16>,
}

/// Another writer that rewrites the same endpoints over and over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contest {
    /// Field manager of the other writer.
    pub writer: Arc<str>,
    /// Times that it has undone what the keepers wrote, within the last minute.
    pub times: usize,
}

impl Contest {
    /// Name of the condition.
    pub const REASON: &'static str = "SliceContested";

    /// Returns whether the other writer is the API server.
    #[must_use]
    pub fn is_api_server(&self) -> bool {
        self.writer.starts_with("kube-apiserver")
    }
}

impl std::fmt::Display for Contest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { writer, times } = self;
        write!(
            f,
            "{}: {writer} has rewritten the endpoints of default/kubernetes {times} times within a minute: ",
            Self::REASON
        )?;
        if self.is_api_server() {
            write!(f, "start kube-apiserver with {RECONCILER_FLAG}, or use --mode advertised")
        } else {
            f.write_str("let one of the two write them")
        }
    }
}
