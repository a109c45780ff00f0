//! Rules for the names and values of HTTP/2 fields (RFC 9113 section 8), and the names that HPACK knows beforehand.

use crate::syntax::{is_token, is_token_byte, is_value};

/// Meaning of a field's name in a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
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
    pub(crate) fn of(name: &[u8]) -> Self {
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

pub(crate) const CONNECTION: &str = "field of one connection";

/// Returns the rule that a field name breaks.
pub(crate) fn name_fault(name: &[u8]) -> Option<&'static str> {
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
pub(crate) fn value_fault(name: Name, value: &[u8]) -> Option<&'static str> {
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

/// Static table (RFC 7541, appendix A).
pub(crate) const STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];
