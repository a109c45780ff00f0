//! Every packet netfilter carries: mappings, egress addresses and return paths, told to the kernel over netlink.
//!
//! [`desired()`] turns a model into kernel state, purely; [`Nat`] makes the kernel so and keeps it so. Deliberately absent:
//! programs that are run (iptables, nft, ip, conntrack, ipset), and the decision who owns an address.

pub mod announce;
pub mod checks;
pub mod conntrack;
pub mod desired;
pub mod engine;
mod hand_over;
pub mod interface;
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
pub use engine::{Nat, NatError};
pub use interface::Interfaces;
pub use options::Options;
pub use report::{Health, MappingReport, Report};
pub use steer::Steer;
pub use survey::{Survey, survey};
