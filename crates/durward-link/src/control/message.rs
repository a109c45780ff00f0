//! Messages of the control stream, as JSON objects with a `type`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::codec::Message;
use super::proof::ProofKey;
use crate::route::{RouteSet, RoutesId};

/// Capability: the gateway takes routes.
pub const ROUTES: &str = "routes";
/// Capability: the gateway says which routes it does not serve.
pub const VERDICTS: &str = "verdicts";
/// Capability: both ends know `drain`.
pub const DRAIN: &str = "drain";
/// Capability: the agent answers proofs of its cluster's public endpoint.
pub const DIRECT: &str = "direct";
/// Capability: the agent takes streams on which its cluster's traffic leaves.
pub const OUT: &str = "out";

/// Versions of the protocol that a program speaks, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Lowest version.
    pub lowest: u16,
    /// Highest version.
    pub highest: u16,
}

impl Versions {
    /// Versions that this program speaks. It keeps the one before its own, so that the two ends may be upgraded one after the other.
    pub const OURS: Self = Self { lowest: 1, highest: 1 };

    /// Returns the highest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let highest = self.highest.min(other.highest);
        (highest >= self.lowest.max(other.lowest)).then_some(highest)
    }

    /// Returns true if `version` is one of these.
    #[must_use]
    pub fn contains(self, version: u16) -> bool {
        (self.lowest..=self.highest).contains(&version)
    }
}

/// Use of a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Messages only.
    Control,
    /// Streams to backends.
    Data,
}

impl Purpose {
    /// Returns the word on the wire and in status.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
        }
    }
}

/// First message of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Versions that the agent speaks.
    pub versions: Versions,
    /// Capabilities beyond the version.
    #[serde(default)]
    pub capabilities: BTreeSet<String>,
    /// Name of the link within its tenant; empty for the only one that the token or certificate is for.
    pub link: String,
    /// Random text of the agent's process.
    pub instance: String,
    /// Use of the carrier.
    pub purpose: Purpose,
    /// Version of the agent, for people.
    #[serde(default)]
    pub agent: String,
    /// Token in place of a client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
}

/// Secret that stands for a client certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// Wraps the text of a token.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns its SHA-256.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, self.0.as_bytes()).as_ref());
        bytes
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// Sign of life of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Revision and digest of its routes.
    #[serde(flatten)]
    pub routes: RoutesId,
    /// State of its cluster; `None` from an agent that does not know one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<ClusterState>,
}

/// State of an agent's cluster, as the agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// True if its ingress controller has no address that others reach.
    pub is_private: bool,
    /// Number of routes that the gateway serves.
    pub gateway_routes: u32,
    /// Way of requests.
    pub routing_mode: RoutingMode,
    /// Address and port of the ingress controller, `HOST:PORT`, where requests may go directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_endpoint: Option<String>,
    /// True if that port takes TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public_tls: bool,
    /// Host by which the ingress controller leads a proof to the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof_host: Option<String>,
}

/// Characters of an endpoint or host in [`ClusterState`] at most.
const ENDPOINT: usize = 262;

impl ClusterState {
    /// Returns true if no part is longer than an address can be.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let fits = |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= ENDPOINT);
        fits(&self.public_endpoint) && fits(&self.proof_host)
    }
}

/// Way of requests to a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoutingMode {
    /// Over the link.
    #[default]
    Tunnel,
    /// To the ingress controller's public endpoint.
    Direct,
    /// To the public endpoint, with the link beside it.
    Dual,
}

impl RoutingMode {
    /// Returns the word on the wire and in logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Direct => "direct",
            Self::Dual => "dual",
        }
    }
}

/// What became of the routes of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// Revision of the routes.
    pub revision: u64,
    /// Number of routes that are served.
    pub served: u32,
    /// Routes that are not served, [`REJECTED`] at most.
    #[serde(default)]
    pub rejected: Vec<Rejected>,
}

/// Rejected routes in one message at most.
pub const REJECTED: usize = 1_000;

/// A route that is not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Its host.
    pub host: String,
    /// Its path.
    pub path: String,
    /// Why, for people.
    pub reason: String,
}

/// Acceptance of a carrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Version that is spoken.
    pub version: u16,
    /// Capabilities of both.
    #[serde(default)]
    pub capabilities: BTreeSet<String>,
    /// Data carriers that the gateway wants of the agent.
    pub carriers: u32,
    /// Number of the core that took this carrier, from 0.
    pub core: u32,
    /// Random text of the gateway's process.
    pub replica: String,
    /// Interval of heartbeats in milliseconds.
    pub heartbeat_ms: u64,
    /// Key of the proofs that the gateway will ask for; all agents of the link have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof_key: Option<ProofKey>,
}

/// Refusal of a carrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Reason, for people.
    pub reason: String,
    /// Milliseconds to wait before the next attempt.
    #[serde(default)]
    pub retry_after_ms: u64,
}

/// Request to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Milliseconds within which to have left.
    #[serde(default)]
    pub after_ms: u64,
    /// Addresses to dial in place of the one dialled; none: the same.
    #[serde(default)]
    pub alternates: Vec<String>,
}

/// Messages of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToGateway {
    /// First message.
    Hello(Hello),
    /// All routes.
    Routes(RouteSet),
    /// Sign of life, with what the routes are.
    Heartbeat(Heartbeat),
    /// No new streams on this carrier, please.
    Drain(Drain),
    /// A message of a later version.
    Unknown,
}

/// Messages of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// The carrier is accepted.
    Welcome(Welcome),
    /// The carrier is refused and ends.
    Refused(Refused),
    /// Routes that the gateway holds now.
    RoutesKnown(RoutesId),
    /// What became of routes.
    Verdicts(Verdicts),
    /// Answer to a heartbeat: routes that the gateway holds.
    HeartbeatAck(RoutesId),
    /// Dial again; this carrier ends.
    Drain(Drain),
    /// No new stream will come on this carrier.
    Drained,
    /// A message of a later version.
    Unknown,
}

/// Type of a message; its other fields are passed over.
#[derive(Deserialize)]
struct Type<'a> {
    #[serde(rename = "type", borrow)]
    word: Cow<'a, str>,
}

impl Message for ToGateway {
    fn read(json: &[u8]) -> serde_json::Result<Self> {
        let Type { word } = serde_json::from_slice(json)?;
        match &*word {
            "hello" => serde_json::from_slice(json).map(Self::Hello),
            "routes" => {
                let routes: RouteSet = serde_json::from_slice(json)?;
                // Where a long message is read, and not on the core that takes it in.
                let _ = routes.id();
                Ok(Self::Routes(routes))
            }
            "heartbeat" => serde_json::from_slice(json).map(Self::Heartbeat),
            "drain" => serde_json::from_slice(json).map(Self::Drain),
            _ => Ok(Self::Unknown),
        }
    }
}

impl Message for ToAgent {
    fn read(json: &[u8]) -> serde_json::Result<Self> {
        let Type { word } = serde_json::from_slice(json)?;
        match &*word {
            "welcome" => serde_json::from_slice(json).map(Self::Welcome),
            "refused" => serde_json::from_slice(json).map(Self::Refused),
            "routes_known" => serde_json::from_slice(json).map(Self::RoutesKnown),
            "verdicts" => serde_json::from_slice(json).map(Self::Verdicts),
            "heartbeat_ack" => serde_json::from_slice(json).map(Self::HeartbeatAck),
            "drain" => serde_json::from_slice(json).map(Self::Drain),
            "drained" => Ok(Self::Drained),
            _ => Ok(Self::Unknown),
        }
    }
}

impl ToGateway {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Routes(_) => "routes",
            Self::Heartbeat(_) => "heartbeat",
            Self::Drain(_) => "drain",
            Self::Unknown => "an unknown message",
        }
    }
}

impl ToAgent {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Welcome(_) => "welcome",
            Self::Refused(_) => "refused",
            Self::RoutesKnown(_) => "routes_known",
            Self::Verdicts(_) => "verdicts",
            Self::HeartbeatAck(_) => "heartbeat_ack",
            Self::Drain(_) => "drain",
            Self::Drained => "drained",
            Self::Unknown => "an unknown message",
        }
    }
}
