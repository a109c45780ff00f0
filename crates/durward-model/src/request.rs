//! The host of a request: its syntax, its one form for matching, and the TLS sessions that may carry it.
//!
//! The proxy and `explain` both decide by these functions.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use crate::server_tls::ServerTls;

/// Returns the host as routes compare it: lower case, without a trailing dot. `host` has no port.
#[must_use]
pub fn normal_host(host: &str) -> Cow<'_, str> {
    let host = if host.len() > 1 { host.strip_suffix('.').unwrap_or(host) } else { host };
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// Returns whether a request for `host` may come over a TLS session for `sni`: the names are the same, one of them is an address or absent,
/// or every certificate that the session may have been shown is for both (RFC 9110 section 7.4, RFC 9113 section 9.1.1). `host` is in the
/// form of [`normal_host`].
#[must_use]
pub fn is_directed(tls: Option<&ServerTls>, sni: Option<&str>, host: &str) -> bool {
    let is_address = |name: &str| name.parse::<IpAddr>().is_ok();
    sni.is_none_or(|sni| {
        let sni = sni.strip_suffix('.').unwrap_or(sni);
        sni.eq_ignore_ascii_case(host)
            || is_address(host)
            || is_address(sni)
            || tls.is_some_and(|tls| tls.serves_alike(sni, host))
    })
}

/// Splits a `Host` field into host and port; the brackets of an IPv6 address are taken off.
#[must_use]
pub fn split_host(field: &str) -> (&str, Option<u16>) {
    if let Some(rest) = field.strip_prefix('[')
        && let Some((host, port)) = rest.split_once(']')
    {
        return (host, port.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match field.rsplit_once(':') {
        Some((host, "")) if !host.contains(':') => (host, None),
        Some((host, port)) if !host.contains(':') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (field, None),
        },
        _ => (field, None),
    }
}

/// Returns whether this is a host with an optional port, and how much of it is the host (brackets included).
/// A port may be empty (RFC 3986 section 3.2.3).
#[must_use]
pub fn valid_authority(authority: &[u8]) -> Option<usize> {
    let host = if authority.first() == Some(&b'[') {
        let close = authority.iter().position(|byte| *byte == b']')?;
        std::str::from_utf8(&authority[1..close]).ok()?.parse::<Ipv6Addr>().ok()?;
        close + 1
    } else {
        let length = authority.iter().position(|byte| *byte == b':').unwrap_or(authority.len());
        let name = &authority[..length];
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
        if !name.iter().all(plain) || name.len() > 255 || name.trim_ascii_end() == b"." {
            return None;
        }
        length
    };
    let port = &authority[host..];
    let valid_port = port.is_empty()
        || (port[0] == b':'
            && port.len() <= 6
            && port[1..].iter().all(u8::is_ascii_digit)
            && (port.len() == 1
                || std::str::from_utf8(&port[1..]).is_ok_and(|port| port.parse::<u16>().is_ok())));
    (host > 0 && valid_port).then_some(host)
}

/// Returns the path that routes are asked for: `OPTIONS *` concerns the whole server, and the route of its root takes it.
#[must_use]
pub fn routed_path(path: &str) -> &str {
    if path == "*" { "/" } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_form() {
        for (written, normal) in [
            ("app.example", "app.example"),
            ("App.Example.", "app.example"),
            (".", "."),
            ("", ""),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(normal_host(written), normal, "{written}");
        }
    }

    #[test]
    fn a_session_carries_its_own_name_and_addresses_only() {
        for (sni, host, carried) in [
            (Some("app.example"), "app.example", true),
            (Some("APP.example."), "app.example", true),
            (Some("other.example"), "app.example", false),
            (Some("other.example"), "192.0.2.1", true),
            (None, "app.example", true),
        ] {
            assert_eq!(is_directed(None, sni, host), carried, "{sni:?} {host}");
        }
    }

    #[test]
    fn a_host_field_is_split_at_its_port() {
        for (field, host, port) in [
            ("app.example:8443", "app.example", Some(8443)),
            ("app.example", "app.example", None),
            ("app.example:", "app.example", None),
            ("[2001:db8::1]:", "2001:db8::1", None),
            ("[2001:db8::1]:80", "2001:db8::1", Some(80)),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("2001:db8::1", "2001:db8::1", None),
        ] {
            assert_eq!(split_host(field), (host, port), "{field}");
        }
    }

    #[test]
    fn hosts_are_hosts_and_nothing_else_is() {
        for (good, host) in [
            ("a.example", 9),
            ("a.example:80", 9),
            ("[::1]:443", 5),
            ("192.0.2.1", 9),
            ("svc_name:8080", 8),
            ("a.example.", 10),
            ("a:", 1),
            ("[::1]:", 5),
        ] {
            assert_eq!(valid_authority(good.as_bytes()), Some(host), "{good}");
        }
        for bad in [
            "", ":", ":80", "a:b", "a::", "a:99999", "user@a", "a/b", "a b", "a,b", "[::1", "[zz]",
            "[::1]x", "a:80:80", "%41", "a\u{e9}", ".", "a:+80",
        ] {
            assert_eq!(valid_authority(bad.as_bytes()), None, "{bad}");
        }
    }
}
