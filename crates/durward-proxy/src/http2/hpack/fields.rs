//! Rules for the names and values of HTTP/2 fields (RFC 9113 section 8), and the names that HPACK knows beforehand.

use crate::syntax::{is_token, is_token_byte, is_value};

/// Meaning of a field's name in a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    /// Any other name that begins with a colon.
    Unknown,
    Regular,
}

impl Name {
    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":status" => Self::Status,
            [b':', ..] => Self::Unknown,
            _ => Self::Regular,
        }
    }
}

/// Longest name that is accepted, in octets; `h2` rejects names of 64 KiB.
pub(super) const LONGEST_NAME: usize = 0xf000;

pub(super) const CONNECTION: &str = "field of one connection";

/// Returns the rule that a field name breaks.
pub(super) fn name_fault(name: &[u8]) -> Option<&'static str> {
    let name = name.strip_prefix(b":").unwrap_or(name);
    if name.is_empty() || !name.iter().all(|byte| is_token_byte(*byte)) {
        return Some("field name is not a token");
    }
    if name.iter().any(u8::is_ascii_uppercase) {
        return Some("upper case in field name");
    }
    if name.len() > LONGEST_NAME {
        return Some("field name is too long");
    }
    let connection: [&[u8]; 5] =
        [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"];
    connection.contains(&name).then_some(CONNECTION)
}

/// Returns the rule that a field value breaks.
pub(super) fn value_fault(name: Name, value: &[u8]) -> Option<&'static str> {
    match name {
        Name::Path if value.is_empty() => Some("empty :path"),
        Name::Path if value.contains(&b'#') => Some("fragment in :path"),
        Name::Path if value[0] != b'/' && value != b"*" => {
            Some(":path does not begin with a slash")
        }
        Name::Scheme if value.is_empty() => Some("empty :scheme"),
        Name::Method if !is_token(value) => Some("method is not a token"),
        Name::Status if !is_status(value) => Some(":status is not a status code"),
        _ if name != Name::Regular && str::from_utf8(value).is_err() => {
            Some("pseudo-header field is not UTF-8")
        }
        _ if !is_value(value) => Some("control character in field value"),
        _ => None,
    }
}

/// Returns true for a status code: three digits, the first of them not 0.
pub(super) fn is_status(value: &[u8]) -> bool {
    matches!(value, [b'1'..=b'9', rest @ ..] if rest.len() == 2 && rest.iter().all(u8::is_ascii_digit))
}

/// Names of the static table (RFC 7541, appendix A) and the lengths of their values.
pub(super) const STATIC: [(&[u8], u8); 61] = [
    (b":authority", 0),
    (b":method", 3),
    (b":method", 4),
    (b":path", 1),
    (b":path", 11),
    (b":scheme", 4),
    (b":scheme", 5),
    (b":status", 3),
    (b":status", 3),
    (b":status", 3),
    (b":status", 3),
    (b":status", 3),
    (b":status", 3),
    (b":status", 3),
    (b"accept-charset", 0),
    (b"accept-encoding", 13),
    (b"accept-language", 0),
    (b"accept-ranges", 0),
    (b"accept", 0),
    (b"access-control-allow-origin", 0),
    (b"age", 0),
    (b"allow", 0),
    (b"authorization", 0),
    (b"cache-control", 0),
    (b"content-disposition", 0),
    (b"content-encoding", 0),
    (b"content-language", 0),
    (b"content-length", 0),
    (b"content-location", 0),
    (b"content-range", 0),
    (b"content-type", 0),
    (b"cookie", 0),
    (b"date", 0),
    (b"etag", 0),
    (b"expect", 0),
    (b"expires", 0),
    (b"from", 0),
    (b"host", 0),
    (b"if-match", 0),
    (b"if-modified-since", 0),
    (b"if-none-match", 0),
    (b"if-range", 0),
    (b"if-unmodified-since", 0),
    (b"last-modified", 0),
    (b"link", 0),
    (b"location", 0),
    (b"max-forwards", 0),
    (b"proxy-authenticate", 0),
    (b"proxy-authorization", 0),
    (b"range", 0),
    (b"referer", 0),
    (b"refresh", 0),
    (b"retry-after", 0),
    (b"server", 0),
    (b"set-cookie", 0),
    (b"strict-transport-security", 0),
    (b"transfer-encoding", 0),
    (b"user-agent", 0),
    (b"vary", 0),
    (b"via", 0),
    (b"www-authenticate", 0),
];
