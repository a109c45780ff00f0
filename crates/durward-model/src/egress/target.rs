//! Host that a client asks for, in canonical form: an address, or a name that no program could read as an address.
//!
//! Deliberately absent: the spellings of IPv4 that libc understands (octal, hexadecimal, one number, fewer than four). They are refused, not
//! translated: two readers of one spelling is how filters are passed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Host {
    /// A DNS name, lower case, without trailing dot.
    Name(Arc<str>),
    /// An address, without IPv4-in-IPv6 wrapping.
    Address(IpAddr),
}

/// Reason why a text is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostFault {
    /// Empty, too long, or with an empty or too long label.
    #[error("host name of a wrong length")]
    Length,
    /// A character no name has.
    #[error("character in host that is not allowed")]
    Character,
    /// Ends in a number, so some programs would read it as an address.
    #[error("host looks like an address in an unusual spelling")]
    Numeric,
}

impl Host {
    /// Reads a host without port and brackets.
    ///
    /// # Errors
    /// When it is neither an address in its usual spelling nor a name.
    pub fn parse(text: &str) -> Result<Self, HostFault> {
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self::Address(IpAddr::V6(address).to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Ok(Self::Address(IpAddr::V4(address)));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !name.bytes().all(plain) {
            return Err(HostFault::Character);
        }
        let mut labels = name.split('.');
        if name.len() > 253 || labels.any(|label| label.is_empty() || label.len() > 63) {
            return Err(HostFault::Length);
        }
        if name.rsplit('.').next().is_some_and(is_number) {
            return Err(HostFault::Numeric);
        }
        Ok(Self::Name(Arc::from(name.to_ascii_lowercase())))
    }
}

/// Returns true if libc's `inet_aton` would take this for a part of an address.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}
