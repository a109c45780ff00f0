//! Converts heads between the version-neutral form and the `http` crate's types, which `h2` uses towards upstreams.
//!
//! A head from HTTP/2 is checked as strictly as one from HTTP/1: it may be forwarded over HTTP/1.

use h2::ext::Protocol;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, response};

use crate::http::fields::Fields;
use crate::http::framing::{Content, End};
use crate::http::message::{Framing, Request, Response, Upgrade, Version};
use crate::http::names::Known;
use crate::http::parse::HeadLimits;
use crate::http2::HEADER_LIST;
use crate::syntax::{Fault, content_length, is_token, is_value};

/// Bytes that each field counts besides its name and value (RFC 9113 §6.5.2).
const OVERHEAD: usize = 32;

/// Copies the fields of a response, except those that control the message; returns the content's length, and the size of the list.
fn fields(map: &HeaderMap, out: &mut Fields) -> Result<(Option<u64>, usize), Fault> {
    let (mut length, mut size) = (None, 0);
    let (mut host, mut authorization) = (false, false);
    for (name, value) in map {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        size += name.len() + value.len() + OVERHEAD;
        check_field(name, value)?;
        match Known::of(name) {
            Known::ContentLength => {
                if length.replace(content_length(value)?).is_some() {
                    return Err(Fault::Malformed("repeated Content-Length"));
                }
            }
            Known::Te if value.eq_ignore_ascii_case(b"trailers") => {}
            // These have a meaning in requests only.
            Known::Host if !host => host = true,
            Known::Host => return Err(Fault::Malformed("repeated Host")),
            Known::ProxyAuthorization if !authorization => authorization = true,
            Known::ProxyAuthorization => {
                return Err(Fault::Malformed("repeated Proxy-Authorization"));
            }
            Known::Proxy => {}
            known if known.hop_by_hop() => {
                return Err(Fault::Malformed("field of one connection"));
            }
            Known::Other => disguised(out, name, value)?,
            known => out.append_with(known, name, |bytes| bytes.extend_from_slice(value)),
        }
    }
    Ok((length, size))
}

/// Appends a field, unless a server that reads `_` as `-` would give its name a meaning.
///
/// # Errors
/// The name would frame the message.
pub(super) fn disguised(out: &mut Fields, name: &[u8], value: &[u8]) -> Result<(), Fault> {
    let meaning = Known::with_underscores(name);
    if meaning.framing() {
        return Err(Fault::Malformed("underscore in a framing field's name"));
    }
    if meaning == Known::Other {
        out.append_with(Known::Other, name, |bytes| bytes.extend_from_slice(value));
    }
    Ok(())
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
    let (length, size) = fields(&parts.headers, &mut out.fields)?;
    if size > HEADER_LIST as usize || out.fields.len() > HeadLimits::RESPONSE.fields {
        return Err(Fault::TooLarge);
    }
    out.content = match length {
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
