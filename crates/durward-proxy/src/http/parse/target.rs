//! Parser of the request target and the authority.
//!
//! User information, empty hosts and percent signs in host names are refused.

use durward_model::request::valid_authority;

use crate::http::fields::Span;
use crate::syntax::{Fault, is_target_byte};

/// Parts of a target, as offsets into the head.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: Span,
    pub(crate) authority: Span,
    pub(crate) path: Span,
    pub(crate) query: Span,
}

/// Splits the target `input[start..end]`.
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

/// Parses the authority of a CONNECT: a host and a port (RFC 9110 section 9.3.6).
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
