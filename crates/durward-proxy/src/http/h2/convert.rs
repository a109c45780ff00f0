//! Converts heads between the version-neutral form and the `http` crate's types, which `h2` uses.
//!
//! A head from HTTP/2 is checked as strictly as one from HTTP/1: it may be forwarded over HTTP/1.

use h2::ext::Protocol;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri, request, response};

use crate::http::fields::{Fields, Span};
use crate::http::framing::{Content, End};
use crate::http::message::{Framing, Request, Response, Upgrade, Version};
use crate::http::names::Known;
use crate::http::parse::{HeadLimits, set_host, valid_authority};
use crate::http2::HEADER_LIST;
use crate::syntax::{Fault, content_length, is_target_byte, is_token, is_value};

/// Bytes that each field counts besides its name and value (RFC 9113 §6.5.2).
const OVERHEAD: usize = 32;
/// Longest method in bytes.
const METHOD: usize = 32;

/// Fields that control the message.
#[derive(Default)]
struct Control {
    length: Option<u64>,
    te_trailers: bool,
    expects_continue: bool,
    host: Option<Span>,
    proxy_authorization: Option<Span>,
    size: usize,
}

/// Converts a client's request. `ended` is true if it has no body, `connect` if tunnels are allowed.
pub(crate) fn request(
    parts: &request::Parts,
    (ended, connect): (bool, bool),
    limits: (usize, usize),
    out: &mut Request,
) -> Result<(), Fault> {
    out.version = Version::Http2;
    out.keep_alive = true;
    let method = parts.method.as_str().as_bytes();
    if !is_token(method) || method.len() > METHOD {
        return Err(Fault::Malformed("method is not a token"));
    }
    out.method = out.fields.store(method);
    target(parts, connect, out)?;
    let control = fields(&parts.headers, &mut out.fields, true)?;
    if control.size > limits.0 || out.fields.len() > limits.1 {
        return Err(Fault::TooLarge);
    }
    find_host(out, &control)?;
    out.proxy_authorization = control.proxy_authorization.unwrap_or_default();
    out.te_trailers = control.te_trailers;
    out.framing = match control.length {
        _ if ended || out.upgrade != Upgrade::None => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    if ended && control.length == Some(0) {
        out.framing = Framing::Length(0);
    }
    out.expects_continue = control.expects_continue && out.has_body();
    Ok(())
}

fn target(parts: &request::Parts, connect: bool, out: &mut Request) -> Result<(), Fault> {
    if parts.method == Method::CONNECT {
        let Some(protocol) = parts.extensions.get::<Protocol>() else {
            return tunnel(parts, connect, out);
        };
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return Err(Fault::NotSupported("extended CONNECT protocol"));
        }
        out.upgrade = Upgrade::Extended(out.fields.store(b"websocket"));
    }
    let uri = &parts.uri;
    let (path, query) = (uri.path().as_bytes(), uri.query());
    let clean = |text: &[u8]| text.iter().all(|byte| is_target_byte(*byte));
    if !clean(path) || !clean(query.unwrap_or_default().as_bytes()) {
        return Err(Fault::Malformed("character in target that is not allowed"));
    }
    if path == b"*" && parts.method != Method::OPTIONS {
        return Err(Fault::Malformed("asterisk target without OPTIONS"));
    }
    out.path = out.fields.store(path);
    if let Some(query) = query {
        out.query = out.fields.store_with(|bytes| {
            bytes.push(b'?');
            bytes.extend_from_slice(query.as_bytes());
        });
    }
    if let Some(scheme) = uri.scheme_str() {
        out.scheme = out.fields.store(scheme.as_bytes());
    }
    if let Some(authority) = uri.authority() {
        out.authority = out.fields.store(authority.as_str().as_bytes());
    }
    Ok(())
}

/// Converts a plain CONNECT: an authority with a port, and nothing else (RFC 9113 §8.5).
fn tunnel(parts: &request::Parts, connect: bool, out: &mut Request) -> Result<(), Fault> {
    if !connect {
        return Err(Fault::Connect);
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let authority = authority.unwrap_or_default();
    match valid_authority(authority) {
        Some(host) if host + 1 < authority.len() => {}
        _ => return Err(Fault::Malformed("CONNECT target is not host and port")),
    }
    out.authority = out.fields.store(authority);
    Ok(())
}

fn find_host(out: &mut Request, control: &Control) -> Result<(), Fault> {
    if let Some(host) = control.host {
        let value = out.fields.bytes(host);
        let named = out.fields.bytes(out.authority);
        if !named.is_empty() && !named.eq_ignore_ascii_case(value) {
            return Err(Fault::Malformed("Host differs from :authority"));
        }
        if named.is_empty() {
            out.authority = host;
        }
    }
    if valid_authority(out.fields.bytes(out.authority)).is_none() {
        return Err(Fault::Malformed("missing or invalid :authority"));
    }
    out.host = set_host(&out.fields, out.authority)?;
    Ok(())
}

/// Copies fields, except those that control the message, which are returned.
fn fields(map: &HeaderMap, out: &mut Fields, is_request: bool) -> Result<Control, Fault> {
    let mut control = Control::default();
    let mut cookies = 0;
    for (name, value) in map {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        control.size += name.len() + value.len() + OVERHEAD;
        check_field(name, value)?;
        match Known::of(name) {
            Known::ContentLength => {
                if control.length.replace(content_length(value)?).is_some() {
                    return Err(Fault::Malformed("repeated Content-Length"));
                }
            }
            Known::Te if value.eq_ignore_ascii_case(b"trailers") => control.te_trailers = true,
            Known::Expect if is_request => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Fault::NotSupported("expectation"));
                }
                control.expects_continue = true;
            }
            Known::Host => {
                if control.host.replace(out.store(value)).is_some() {
                    return Err(Fault::Malformed("repeated Host"));
                }
            }
            // Cookie fields are joined again for HTTP/1 upstreams (RFC 9113 §8.2.3).
            Known::Cookie if is_request => cookies += 1,
            Known::Proxy => {}
            Known::ProxyAuthorization => {
                if control.proxy_authorization.replace(out.store(value)).is_some() {
                    return Err(Fault::Malformed("repeated Proxy-Authorization"));
                }
            }
            known if known.hop_by_hop() => {
                return Err(Fault::Malformed("field of one connection"));
            }
            Known::Other => disguised(out, name, value)?,
            known => out.append_with(known, name, |bytes| bytes.extend_from_slice(value)),
        }
    }
    if cookies > 0 {
        join_cookies(map, out);
    }
    Ok(control)
}

fn disguised(out: &mut Fields, name: &[u8], value: &[u8]) -> Result<(), Fault> {
    let meaning = Known::with_underscores(name);
    if meaning.framing() {
        return Err(Fault::Malformed("underscore in a framing field's name"));
    }
    if meaning == Known::Other {
        out.append_with(Known::Other, name, |bytes| bytes.extend_from_slice(value));
    }
    Ok(())
}

fn join_cookies(map: &HeaderMap, out: &mut Fields) {
    out.append_with(Known::Cookie, b"cookie", |bytes| {
        for (at, crumb) in map.get_all(http::header::COOKIE).iter().enumerate() {
            if at > 0 {
                bytes.extend_from_slice(b"; ");
            }
            bytes.extend_from_slice(crumb.as_bytes());
        }
    });
}

/// Checks a field: the `http` crate accepts names that are no tokens, `"` among them.
fn check_field(name: &[u8], value: &[u8]) -> Result<(), Fault> {
    if !is_token(name) {
        return Err(Fault::Malformed("field name is not a token"));
    }
    if !is_value(value) {
        return Err(Fault::Malformed("control character in field value"));
    }
    if value.trim_ascii().len() != value.len() {
        return Err(Fault::Malformed("white space around field value"));
    }
    Ok(())
}

/// Converts an upstream's response. `ended` is true if it has no body.
pub(crate) fn response(
    parts: &response::Parts,
    ended: bool,
    out: &mut Response,
) -> Result<(), Fault> {
    out.version = Version::Http2;
    out.status = parts.status.as_u16();
    if out.status == 101 || !(100..600).contains(&out.status) {
        return Err(Fault::Malformed("invalid status"));
    }
    let control = fields(&parts.headers, &mut out.fields, false)?;
    if control.size > HEADER_LIST as usize || out.fields.len() > HeadLimits::RESPONSE.fields {
        return Err(Fault::TooLarge);
    }
    out.content = match control.length {
        Some(length) => Content::Length(length),
        None if ended => Content::Empty,
        None => Content::Open(End::Marked),
    };
    Ok(())
}

/// Converts trailer fields that may be passed on.
pub(crate) fn trailers(map: &HeaderMap) -> Result<Fields, &'static str> {
    let mut out = Fields::default();
    for (name, value) in map {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        check_field(name, value).map_err(|_| "malformed trailer")?;
        let known = Known::of(name);
        let allowed =
            !known.forbidden_in_trailers() && Known::with_underscores(name) == Known::Other;
        if allowed {
            out.append_with(known, name, |bytes| bytes.extend_from_slice(value));
        }
    }
    Ok(out)
}

/// Converts fields to a `HeaderMap`.
pub(crate) fn header_map(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len() + 2);
    for field in fields.iter() {
        let name = HeaderName::from_bytes(field.name);
        let value = HeaderValue::from_bytes(field.value);
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    map
}

/// Returns the reason a request cannot be sent over HTTP/2: the `http` crate, whose types `h2` takes, accepts fewer targets than HTTP/1.
pub(crate) fn unfit(request: &Request) -> Option<&'static str> {
    let fields = &request.fields;
    if fields.bytes(request.path).iter().any(|byte| matches!(byte, b'<' | b'>' | b'`')) {
        return Some("character in path that HTTP/2 cannot carry");
    }
    if fields.bytes(request.query).iter().any(|byte| matches!(byte, b'<' | b'>' | b'"')) {
        return Some("character in query that HTTP/2 cannot carry");
    }
    None
}

/// Converts a request for an upstream.
pub(crate) fn to_request(request: &Request, scheme: &str) -> Option<http::Request<()>> {
    let fields = &request.fields;
    let mut path = Vec::with_capacity(request.path.len() + request.query.len());
    path.extend_from_slice(fields.bytes(request.path));
    path.extend_from_slice(fields.bytes(request.query));
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(fields.bytes(request.authority))
        .path_and_query(path)
        .build()
        .ok()?;
    let mut headers = header_map(fields);
    if let Framing::Length(length) = request.framing {
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if request.te_trailers {
        headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    }
    if request.expects_continue {
        headers.insert(http::header::EXPECT, HeaderValue::from_static("100-continue"));
    }
    let mut out = http::Request::new(());
    *out.method_mut() = Method::from_bytes(fields.bytes(request.method)).ok()?;
    *out.uri_mut() = uri;
    *out.version_mut() = http::Version::HTTP_2;
    *out.headers_mut() = headers;
    if let Upgrade::Extended(protocol) = request.upgrade {
        out.extensions_mut().insert(Protocol::from(fields.text(protocol)));
    }
    Some(out)
}

/// Converts a response for a client, with `length` as its `Content-Length`. A tunnel that HTTP/1 opens with 101 is opened with 200 here.
pub(crate) fn to_response(response: &Response, length: Option<u64>) -> Option<http::Response<()>> {
    let mut out = http::Response::new(());
    let status = if response.status == 101 { 200 } else { response.status };
    *out.status_mut() = StatusCode::from_u16(status).ok()?;
    *out.version_mut() = http::Version::HTTP_2;
    *out.headers_mut() = header_map(&response.fields);
    if let Some(length) = length {
        out.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if response.status == 101 {
        out.headers_mut().remove("sec-websocket-accept");
    }
    Some(out)
}
