//! The request target and the host it is for.
//!
//! Deliberately absent: user information, empty hosts and percent signs in host names.

use std::net::Ipv6Addr;

use crate::http::fields::Span;
use crate::syntax::{Fault, is_target_byte};

/// The parts of a target, as offsets into the head.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: Span,
    pub(crate) authority: Span,
    pub(crate) path: Span,
    pub(crate) query: Span,
}

/// Splits `input[start..end]`.
pub(crate) fn split(
    input: &[u8],
    start: usize,
    end: usize,
    method: &[u8],
) -> Result<Target, Fault> {
    let target = &input[start..end];
    if target.is_empty() || !target.iter().all(|byte| is_target_byte(*byte)) {
        return Err(Fault::Malformed("character in target that is not allowed"));
    }
    if target[0] == b'/' {
        return Ok(origin(target, start, end));
    }
    if target == b"*" {
        return match method {
            b"OPTIONS" => Ok(Target { path: Span::new(start, end), ..Target::default() }),
            _ => Err(Fault::Malformed("asterisk target without OPTIONS")),
        };
    }
    absolute(input, start, end)
}

/// The authority a CONNECT is for: a host and a port (RFC 9110 section 9.3.6).
pub(crate) fn tunnel(input: &[u8], start: usize, end: usize) -> Result<Span, Fault> {
    let target = &input[start..end];
    match valid_authority(target) {
        Some(host) if host + 1 < target.len() => Ok(Span::new(start, end)),
        _ => Err(Fault::Malformed("CONNECT target is not host and port")),
    }
}

fn origin(target: &[u8], start: usize, end: usize) -> Target {
    let question = target.iter().position(|byte| *byte == b'?').map_or(end, |at| start + at);
    Target {
        path: Span::new(start, question),
        query: Span::new(question, end),
        ..Target::default()
    }
}

fn absolute(input: &[u8], start: usize, end: usize) -> Result<Target, Fault> {
    let target = &input[start..end];
    let scheme = match target.iter().position(|byte| *byte == b':') {
        Some(at @ (4 | 5)) if target[at..].starts_with(b"://") => at,
        _ => return Err(Fault::Malformed("target is neither a path nor an http URI")),
    };
    let name = &target[..scheme];
    if !name.eq_ignore_ascii_case(b"http") && !name.eq_ignore_ascii_case(b"https") {
        return Err(Fault::Malformed("target's scheme is not http or https"));
    }
    let from = start + scheme + 3;
    let length =
        input[from..end].iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(end - from);
    let rest = from + length;
    if length == 0 {
        return Err(Fault::Malformed("absolute target without a host"));
    }
    // The path may be empty: `http://host` and `http://host?query` (RFC 9110 §4.2.3).
    Ok(Target {
        scheme: Span::new(start, start + scheme),
        authority: Span::new(from, rest),
        ..origin(&input[rest..end], rest, end)
    })
}

/// Returns whether this is a host with an optional port, and how much of it is the host (brackets included). A port may be empty (RFC 3986 §3.2.3).
pub(crate) fn valid_authority(authority: &[u8]) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
