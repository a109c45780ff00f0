//! Parser of request heads.

use crate::http::fields::{Fields, Span, list};
use crate::http::message::{Framing, Request, Upgrade, Version};
use crate::http::names::Known;
use crate::http::parse::connection::Control;
use crate::http::parse::{HeadLimits, Line, Parsed, Progress, field_line, target, valid_authority};
use crate::syntax::{Fault, is_token};

/// Longest method in bytes.
const METHOD: usize = 32;

/// Parses as much of a request's head as there is. `input` begins with the head and grows from call to call.
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
            // One empty line before a request is ignored (RFC 9112 §2.2).
            Line::Empty if progress.read() == 2 => {}
            Line::Empty => return Err(Fault::Malformed("empty lines before the request")),
            Line::Text(start, end) if !progress.started => {
                if end - start > limits.line {
                    return Err(Fault::TargetTooLong);
                }
                request_line(input, (start, end), limits, request)?;
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
    finish(request, limits)?;
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
    (start, end): (usize, usize),
    limits: HeadLimits,
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
    request.method = Span::new(start, start + method);
    if &line[..method] == b"CONNECT" {
        if !limits.outward {
            return Err(Fault::Connect);
        }
        request.authority = target::tunnel(input, start + method + 1, start + version)?;
        return Ok(());
    }
    let target = target::split(input, start + method + 1, start + version, &line[..method])?;
    request.scheme = target.scheme;
    request.authority = target.authority;
    request.path = target.path;
    request.query = target.query;
    Ok(())
}

/// Parses `HTTP/1.0` or `HTTP/1.1`.
pub(crate) fn read_version(text: &[u8]) -> Result<Version, Fault> {
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

fn finish(request: &mut Request, limits: HeadLimits) -> Result<(), Fault> {
    let control = Control::read(&request.fields, request.version)?;
    request.framing = match (control.length, control.chunked) {
        (Some(length), _) => Framing::Length(length),
        (None, true) => Framing::Chunked,
        (None, false) => Framing::None,
    };
    request.keep_alive = control.persists(request.version);
    fill_path(request);
    request.te_trailers = control.te_trailers;
    if control.proxy_authorization.0 > 1 {
        return Err(Fault::Malformed("repeated Proxy-Authorization"));
    }
    request.proxy_authorization = control.proxy_authorization.1;
    if limits.outward && !request.authority.is_empty() {
        outward_host(request, &control)?;
    } else {
        find_host(request, &control)?;
    }
    expectation(request, &control)?;
    upgrade(request, &control);
    control.strip(&mut request.fields);
    request.fields.retain(|known| known != Known::Host);
    Ok(())
}

/// Gives an absolute target with an empty path its path: `/`, or `*` for OPTIONS (RFC 9112 §3.2.1, §3.2.4).
fn fill_path(request: &mut Request) {
    if !request.path.is_empty() || request.method() == "CONNECT" {
        return;
    }
    let all = request.method() == "OPTIONS" && request.query.is_empty();
    request.path = request.fields.store(if all { b"*" } else { b"/" });
}

/// Takes the host from the target; a valid `Host` is required all the same (RFC 9112 §3.2), but some clients name the proxy in it. A CONNECT has no
/// body.
fn outward_host(request: &mut Request, control: &Control) -> Result<(), Fault> {
    if request.method() == "CONNECT" && (control.length.is_some() || control.chunked) {
        return Err(Fault::Malformed("CONNECT with a body"));
    }
    one_host(request, control)?;
    request.host = set_host(&request.fields, request.authority)?;
    Ok(())
}

/// Returns the one valid `Host`; HTTP/1.0 may omit it.
fn one_host(request: &Request, control: &Control) -> Result<Option<Span>, Fault> {
    let (count, host) = control.hosts;
    match count {
        0 if request.version == Version::Http11 => Err(Fault::Malformed("missing Host")),
        0 => Ok(None),
        1 if valid_authority(request.fields.bytes(host)).is_none() => {
            Err(Fault::Malformed("invalid Host"))
        }
        1 => Ok(Some(host)),
        _ => Err(Fault::Malformed("repeated Host")),
    }
}

fn find_host(request: &mut Request, control: &Control) -> Result<(), Fault> {
    if let Some(host) = one_host(request, control)? {
        let value = request.fields.bytes(host);
        let named = request.fields.bytes(request.authority);
        if !named.is_empty() && !named.eq_ignore_ascii_case(value) {
            return Err(Fault::Malformed("Host differs from the target's authority"));
        }
        request.authority = host;
    }
    set_host(&request.fields, request.authority).map(|host| request.host = host)
}

/// Returns the host of an authority, without brackets and port.
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

/// Notes the protocols that `Upgrade` offers (RFC 9110 §7.8), with any method and with content: `docker exec` posts JSON with it. `h2c` is left out:
/// HTTP/2 without TLS begins with its preface here.
fn upgrade(request: &mut Request, control: &Control) {
    if !control.upgrades || request.version != Version::Http11 || request.method() == "CONNECT" {
        return;
    }
    let Some(last) = control.upgrade else { return };
    let is_protocol = |text: &[u8]| text.split(|byte| *byte == b'/').all(is_token);
    let offered = request.fields.bytes(last);
    let plain = control.upgrade_fields == 1
        && is_protocol(offered)
        && !offered.eq_ignore_ascii_case(b"h2c");
    if plain {
        request.upgrade = Upgrade::Token(last);
        return;
    }
    let mut protocols = Vec::new();
    for field in request.fields.iter().filter(|field| field.known == Known::Upgrade) {
        for protocol in list(field.value).filter(|text| !text.eq_ignore_ascii_case(b"h2c")) {
            if !is_protocol(protocol) {
                return;
            }
            if !protocols.is_empty() {
                protocols.extend_from_slice(b", ");
            }
            protocols.extend_from_slice(protocol);
        }
    }
    if !protocols.is_empty() {
        request.upgrade = Upgrade::Token(request.fields.store(&protocols));
    }
}
