//! Redirects that annotations ask for: of every path of an Ingress, to a URL.

use std::sync::Arc;

use super::{NGINX, Reader};
use crate::foreign::asked::RedirectTo;
use crate::foreign::text::{self, shown};

/// Reads `permanent-redirect` or `temporal-redirect`.
pub(super) fn read(reader: &mut Reader<'_, '_>, (name, key): (&str, &str), value: &str) {
    let default = if key == "permanent-redirect" { 301 } else { 302 };
    let code_name = format!("{NGINX}{key}-code");
    let mut status = default;
    if let Some(written) = reader.get(&code_name) {
        match written.parse().ok().filter(|code| [301, 302, 303, 307, 308].contains(code)) {
            Some(code) => status = code,
            None => reader.bad(&code_name, written, "301, 302, 303, 307 or 308"),
        }
    }
    match location(value) {
        // A permanent redirect comes before a temporal one, in NGINX too.
        Some(_) if reader.settings.redirect.is_some() && key == "temporal-redirect" => {}
        Some(redirect) => reader.settings.redirect = Some(RedirectTo { status, ..redirect }),
        None => {
            let what = format!("is {}, no URL that clients can be sent to", shown(value));
            reader.refuse(name, "AnnotationBad", &what);
        }
    }
}

/// Reads `https://host/path` or `/path`; `$request_uri` at the end of a host stands for the request's own path.
fn location(value: &str) -> Option<RedirectTo> {
    let keeps = value.strip_suffix("$request_uri");
    let value = keeps.unwrap_or(value);
    let (scheme, rest) = match (value.strip_prefix("https://"), value.strip_prefix("http://")) {
        (Some(rest), _) => (Some("https"), rest),
        (_, Some(rest)) => (Some("http"), rest),
        _ => (None, value),
    };
    let (authority, path) = match scheme {
        None => ("", rest),
        Some(_) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
    };
    if keeps.is_some() && !path.is_empty() {
        return None;
    }
    let path = match (keeps, path) {
        (Some(_), _) => None,
        (None, "") if scheme.is_some() => Some("/"),
        (None, path) => Some(path),
    };
    let (host, port) =
        authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    let port = match port {
        None => None,
        Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port > 0)?),
    };
    if scheme.is_some() != is_host(host) || path.is_some_and(|path| !is_location(path)) {
        return None;
    }
    let host = scheme.map(|_| Arc::from(host));
    Some(RedirectTo { status: 0, scheme, host, port, path: path.map(Arc::from) })
}

/// A path with or without a query, without anything that a server would expand.
fn is_location(path: &str) -> bool {
    let plain = |byte: u8| (0x21..0x7f).contains(&byte) && !b"#$\\\"".contains(&byte);
    path.starts_with('/') && !path.starts_with("//") && path.bytes().all(plain)
}

/// A host name in lower case that is no address with a slip in it.
pub(super) fn is_host(text: &str) -> bool {
    let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = text.split('.').filter(|label| numeric(label)).count();
    text::is_subdomain(text) && numbers < 3 && !text.rsplit('.').next().is_some_and(numeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_url_or_a_path_and_nothing_a_server_would_expand() {
        let whole = location("https://www.example.com:8443/new?x=1").unwrap();
        let bare = location("http://www.example.com").unwrap();
        let kept = location("https://new.example$request_uri").unwrap();

        assert_eq!((whole.scheme, whole.port), (Some("https"), Some(8443)));
        assert_eq!(whole.path.as_deref(), Some("/new?x=1"));
        assert_eq!((bare.scheme, bare.path.as_deref()), (Some("http"), Some("/")));
        assert_eq!((kept.host.as_deref(), kept.path), (Some("new.example"), None));
        for bad in [
            "",
            "www.example.com",
            "ftp://x/",
            "//x/y",
            "/a\r\nx: y",
            "/$host",
            "https://a_b/",
            "https://10.0.0.300/",
            "https://x/$1",
            "https://x:0/",
            "https://x/y$request_uri",
            "javascript:alert(1)",
        ] {
            assert_eq!(location(bad), None, "{bad:?}");
        }
    }
}
