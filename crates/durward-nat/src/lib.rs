//! The kernel plane: mappings, egress addresses and return paths, set up in netfilter and routing over netlink.
//!
//! [`desired()`] computes the kernel state of a model, purely; [`Nat`] brings the kernel to it and keeps it so. Deliberately absent: running other
//! programs (iptables, nft, ip, conntrack, ipset), and ownership of addresses.

pub mod announce;
pub mod checks;
pub mod conntrack;
pub mod desired;
pub mod engine;
mod error;
mod hand_over;
pub mod interface;
pub mod local_address;
mod mark;
mod netlink;
pub mod nftables;
pub mod options;
pub mod policy_route;
mod program;
pub mod report;
mod rtnetlink;
pub mod steer;
pub mod survey;
pub mod sysctl;
pub mod trace;
mod watch;
pub mod wiring;

pub use checks::{CheckedEndpoint, CheckedMapping, Owners};
pub use desired::{Desired, desired};
pub use engine::Nat;
pub use error::NatError;
pub use interface::Interfaces;
pub use options::Options;
pub use report::{Health, MappingReport, Report};
pub use steer::Steer;
pub use survey::{Survey, survey};
