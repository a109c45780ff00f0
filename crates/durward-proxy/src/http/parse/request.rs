//! Request heads.
//!
//! Deliberately absent: the tenant; whose request it is does not change what it means.

use crate::http::fields::{Fields, Span};
use crate::http::message::{Framing, Request, Upgrade, Version};
use crate::http::names::Known;
use crate::http::parse::connection::Control;
use crate::http::parse::target::{self, valid_authority};
use crate::http::parse::{Fault, HeadLimits, Line, Parsed, Progress, field_line, is_token};

/// Bytes of the longest method.
const METHOD: usize = 32;

/// Reads as much of a request's head as there is. `input` begins where the head does and grows from call to call.
pub(crate) fn parse_request(
    input: &[u8],
    progress: &mut Progress,
    limits: HeadLimits,
    request: &mut Request,
) -> Result<Parsed, Fault> {
    loop {
        match progress.next_line(input)? {
            Line::Incomplete => return incomplete(input, progress, limits),
            Line::Empty if progress.started => break,
            // RFC 9112 §2.2: one empty line before a request is forgiven.
            Line::Empty if progress.read() == 2 => {}
            Line::Empty => return Err(Fault::Malformed("empty lines before the request")),
            Line::Text(start, end) if !progress.started => {
                if end - start > limits.line {
                    return Err(Fault::TargetTooLong);
                }
                request_line(input, start, end, request)?;
                progress.started = true;
            }
            Line::Text(start, end) => {
                if request.fields.len() == limits.fields || end > limits.bytes {
                    return Err(Fault::TooLarge);
                }
                field_line(input, start, end, &mut request.fields)?;
            }
        }
    }
    if progress.read() > limits.bytes {
        return Err(Fault::TooLarge);
    }
    request.fields.load(&input[..progress.read()]);
    finish(request)?;
    Ok(Parsed::Head(progress.read()))
}

fn incomplete(input: &[u8], progress: &Progress, limits: HeadLimits) -> Result<Parsed, Fault> {
    if !progress.started && input.len() - progress.read() > limits.line {
        return Err(Fault::TargetTooLong);
    }
    if input.len() >= limits.bytes {
        return Err(Fault::TooLarge);
    }
    Ok(Parsed::Incomplete)
}

fn request_line(
    input: &[u8],
    start: usize,
    end: usize,
    request: &mut Request,
) -> Result<(), Fault> {
    let line = &input[start..end];
    let method = line
        .iter()
        .position(|byte| *byte == b' ')
        .ok_or(Fault::Malformed("request line without spaces"))?;
    let version = line
        .iter()
        .rposition(|byte| *byte == b' ')
        .filter(|at| *at > method)
        .ok_or(Fault::Malformed("request line without version"))?;
    if !is_token(&line[..method]) || method > METHOD {
        return Err(Fault::Malformed("method is not a token"));
    }
    request.version = read_version(&line[version + 1..])?;
    if &line[..method] == b"CONNECT" {
        return Err(Fault::Connect);
    }
    let target = target::split(input, start + method + 1, start + version, &line[..method])?;
    request.method = Span::new(start, start + method);
    request.scheme = target.scheme;
    request.authority = target.authority;
    request.path = target.path;
    request.query = target.query;
    Ok(())
}

/// `HTTP/1.0` or `HTTP/1.1`.
pub(super) fn read_version(text: &[u8]) -> Result<Version, Fault> {
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Fault::Version)
        }
        _ => Err(Fault::Malformed("invalid version")),
    }
}

fn finish(request: &mut Request) -> Result<(), Fault> {
    let control = Control::read(&request.fields, request.version)?;
    request.framing = match (control.length, control.chunked) {
        (Some(length), _) => Framing::Length(length),
        (None, true) => Framing::Chunked,
        (None, false) => Framing::None,
    };
    request.keep_alive = control.persists(request.version);
    request.te_trailers = control.te_trailers;
    find_host(request, &control)?;
    expectation(request, &control)?;
    upgrade(request, &control);
    control.strip(&mut request.fields);
    request.fields.retain(|known| known != Known::Host);
    Ok(())
}

fn find_host(request: &mut Request, control: &Control) -> Result<(), Fault> {
    let (count, host) = control.hosts;
    match count {
        0 if request.version == Version::Http11 => return Err(Fault::Malformed("missing Host")),
        0 => {}
        1 => {
            let value = request.fields.bytes(host);
            let named = request.fields.bytes(request.authority);
            if !named.is_empty() && !named.eq_ignore_ascii_case(value) {
                return Err(Fault::Malformed("Host differs from the target's authority"));
            }
            if valid_authority(value).is_none() {
                return Err(Fault::Malformed("invalid Host"));
            }
            request.authority = host;
        }
        _ => return Err(Fault::Malformed("repeated Host")),
    }
    set_host(&request.fields, request.authority).map(|host| request.host = host)
}

/// The host of an authority, without brackets and port.
pub(crate) fn set_host(fields: &Fields, authority: Span) -> Result<Span, Fault> {
    if authority.is_empty() {
        return Ok(Span::default());
    }
    let text = fields.bytes(authority);
    let length = valid_authority(text).ok_or(Fault::Malformed("invalid authority"))?;
    Ok(if text[0] == b'[' { authority.first(length - 1).skip(1) } else { authority.first(length) })
}

fn expectation(request: &mut Request, control: &Control) -> Result<(), Fault> {
    let Some(expect) = control.expect else { return Ok(()) };
    if request.version == Version::Http10 {
        return Ok(());
    }
    if !request.fields.bytes(expect).eq_ignore_ascii_case(b"100-continue") {
        return Err(Fault::NotSupported("expectation"));
    }
    request.expects_continue = request.has_body();
    Ok(())
}

/// `Upgrade` counts for a GET without body, and never for `h2c`: HTTP/2 without TLS begins with its preface here.
fn upgrade(request: &mut Request, control: &Control) {
    let Some(token) = control.upgrade.filter(|_| control.upgrades) else { return };
    let text = request.fields.bytes(token);
    let wanted = request.version == Version::Http11
        && request.method() == "GET"
        && !request.has_body()
        && text.split(|byte| *byte == b'/').all(is_token)
        && !text.eq_ignore_ascii_case(b"h2c");
    if wanted {
        request.upgrade = Upgrade::Token(token);
        request.framing = Framing::None;
    }
}
