//! Certificates from ACME authorities: accounts, orders, challenges as data, and the times of renewals and retries.
//!
//! RFC 8555 (ACME), RFC 8737 (TLS-ALPN-01), RFC 8738 (IP identifiers) and RFC 9773 (renewal information), by `instant-acme` over an HTTP client of
//! our own with deadlines and bounds. Deliberately absent: tenants, listeners and files; whoever uses this crate answers the challenges and keeps
//! what is issued.

pub mod answer;
mod authority;
mod fault;
mod http;
mod identifier;
mod issued;
mod order;
pub mod schedule;

pub use answer::Answer;
pub use authority::{Account, Authority, Registration, Window};
pub use fault::Fault;
pub use http::Roots;
pub use issued::{Issued, Validity};
pub use order::{Method, Name, Pending, Request};
