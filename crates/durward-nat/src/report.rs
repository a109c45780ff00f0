//! Report on each mapping and egress rule: in the kernel, or left out as a whole with a reason.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use durward_model::TenantId;
use durward_model::mapping::PortRange;
use durward_model::transport::Transport;

/// Report on a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One per mapping, in the model's order.
    pub mappings: Vec<MappingReport>,
    /// One per egress rule, in the model's order.
    pub egress: Vec<MappingReport>,
    /// Problems of the host as a whole.
    pub host: Vec<String>,
    /// Connections that were cut because they are no longer allowed.
    pub connections_cut: usize,
}

/// State of the kernel plane when it was last compared with the model: by an apply, a repair or an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Report of the last comparison.
    pub report: Report,
    /// Reason the last comparison failed; `None` if it succeeded.
    pub fault: Option<String>,
    /// Time of the last comparison that succeeded.
    pub compared: Option<SystemTime>,
}

impl Health {
    /// Records the result of a comparison.
    pub(crate) fn record<E: std::error::Error>(&mut self, result: &Result<Report, E>) {
        match result {
            Ok(report) => {
                let (report, compared) = (report.clone(), Some(SystemTime::now()));
                *self = Self { report, fault: None, compared };
            }
            Err(error) => self.fault = Some(chain(error)),
        }
    }
}

/// Formats an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Report on one mapping or egress rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingReport {
    /// Tenant of the mapping or rule.
    pub tenant: TenantId,
    /// Name of the mapping or rule.
    pub name: Arc<str>,
    /// Reason none of it is in the kernel; `None` if all of it is.
    pub rejected: Option<Rejection>,
    /// Addresses of it that this host does not have; the kernel gets them all the same.
    pub foreign_addresses: Vec<IpAddr>,
}

/// Reason a mapping or egress rule is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The tenant has no number.
    UnknownTenant,
    /// The mapping names no address, no port or no source.
    Incomplete {
        /// Missing field.
        field: &'static str,
    },
    /// An older mapping has the port.
    PortTaken {
        /// External address.
        address: IpAddr,
        /// Transport protocol.
        protocol: Transport,
        /// External ports.
        ports: PortRange,
        /// Name of the older mapping.
        by: String,
    },
    /// A port has more endpoints than allowed.
    TooManyEndpoints {
        /// Largest number of endpoints.
        limit: usize,
    },
    /// An older egress rule has some of these pods.
    SourcesTaken {
        /// Name of the older rule.
        by: String,
    },
    /// An address is on no external interface, nor in a network of one.
    NoInterface {
        /// Address without an interface.
        address: IpAddr,
    },
    /// Addresses of one family are on several interfaces.
    SeveralInterfaces {
        /// Address on another interface than the first.
        address: IpAddr,
    },
    /// The traffic is not enrolled, and is rejected.
    NotEnrolled,
    /// The connections are for the forward proxy, and the kernel cannot hand them over.
    NoHandOver,
    /// Another egress rule of the tenant has other ports for the forward proxy.
    SeveralWays,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTenant => f.write_str("the tenant has no number"),
            Self::Incomplete { field } => write!(f, "{field} is empty"),
            Self::PortTaken { address, protocol, ports, by } => {
                write!(f, "{address} {protocol} {ports} belongs to {by}")
            }
            Self::TooManyEndpoints { limit } => write!(f, "a port has more than {limit} endpoints"),
            Self::SourcesTaken { by } => write!(f, "its pods belong to {by}"),
            Self::NoInterface { address } => write!(f, "{address} is on no external interface"),
            Self::SeveralInterfaces { address } => {
                write!(f, "{address} is on another interface than the addresses before it")
            }
            Self::NoHandOver => f.write_str(
                "its traffic is rejected: the kernel cannot hand connections to the proxy (nft_tproxy, nft_fib_inet)",
            ),
            Self::SeveralWays => f.write_str(
                "its traffic is rejected: another egress rule of the tenant hands other ports to the proxy",
            ),
            Self::NotEnrolled => f.write_str("not enrolled: its traffic is rejected"),
        }
    }
}
