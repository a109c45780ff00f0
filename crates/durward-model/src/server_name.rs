//! Server names as clients send them (RFC 6066 section 3).

use std::net::IpAddr;

use thiserror::Error;

/// A text that is neither a host name nor an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("server name that is no host name")]
pub struct NotAName;

/// Returns the name that a client asks for in its ClientHello, lower case; `None` for an address, which is no server name (RFC 6066 section 3).
///
/// RFC 6066 has names without a trailing dot. Clients that were given one send it all the same; it makes no other name of it.
///
/// # Errors
/// When it is no host name.
pub fn server_name(name: &str) -> Result<Option<String>, NotAName> {
    if name.parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if !is_host(name) {
        return Err(NotAName);
    }
    Ok(Some(name.to_ascii_lowercase()))
}

fn is_host(name: &str) -> bool {
    let label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(allowed)
    };
    (1..=253).contains(&name.len()) && name.split('.').all(label)
}
