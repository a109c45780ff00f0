//! Forwarding fields of trusted proxies: the client's address, and the scheme, host and port it asked for.
//!
//! Each proxy appends what it saw, so the lists are read from the right for as long as the hop named there is trusted too. Elements that a client
//! wrote itself stand further left and are never reached. `X-Forwarded-*` counts before `Forwarded` (RFC 7239): a proxy that writes the former may
//! pass a client's own `Forwarded` on.

use std::net::{IpAddr, SocketAddr};

use durward_model::SourceSet;

use crate::exchange::context::Http;
use crate::http::fields::Fields;
use crate::http::message::Request;
use crate::http::names::Known;
use crate::http::parse::valid_authority;

/// Fields whose presence makes `Forwarded` count for nothing.
const X_FORWARDED: [Known; 4] =
    [Known::XForwardedFor, Known::XForwardedProto, Known::XForwardedHost, Known::XForwardedPort];

/// Trusted proxies that a request came through; empty for a peer that is not trusted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProxyChain {
    /// Client that the outermost trusted proxy saw.
    pub(crate) client: Option<IpAddr>,
    /// True if the peer is a trusted proxy.
    trusted: bool,
    /// Elements to skip from the right: the trusted hops before the outermost.
    depth: usize,
}

/// Target of a request in the client's own view.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// Lower case, without brackets and trailing dot.
    pub(crate) host: String,
    /// Port; the scheme's default if none is named.
    pub(crate) port: u16,
}

impl ProxyChain {
    /// Reads the fields of a trusted peer.
    pub(crate) fn read(fields: &Fields, proxies: &SourceSet) -> Self {
        let mut chain = Self { trusted: true, ..Self::default() };
        let mut hops = 0;
        each(fields, Known::XForwardedFor, b"for", |element| {
            let Some(address) = address(element) else { return false };
            (chain.client, chain.depth) = (Some(address), hops);
            hops += 1;
            proxies.contains(address)
        });
        chain
    }

    /// Returns the client's scheme.
    pub(crate) fn scheme(&self, http: &Http, request: &Request) -> &'static str {
        let said = self.said(&request.fields, Known::XForwardedProto, b"proto").and_then(scheme);
        let asked = self.trusted.then(|| scheme(request.fields.bytes(request.scheme))).flatten();
        said.or(asked).unwrap_or(http.texts.scheme)
    }

    /// Returns true if a request may name this scheme on this listener: a trusted proxy may have terminated TLS, or not used it.
    pub(crate) fn allows_scheme(&self, http: &Http, named: &[u8]) -> bool {
        named.eq_ignore_ascii_case(http.texts.scheme.as_bytes())
            || (self.trusted && scheme(named).is_some())
    }

    /// Returns the target of the request in the client's own view.
    pub(crate) fn target(&self, http: &Http, request: &Request) -> Target {
        let fields = &request.fields;
        let scheme = self.scheme(http, request);
        let said = self.said(fields, Known::XForwardedHost, b"host");
        let said = said.filter(|host| !host.is_empty() && valid_authority(host).is_some());
        let authority = said.unwrap_or_else(|| fields.bytes(request.authority));
        let (host, port) = split(authority);
        let port = match self.said(fields, Known::XForwardedPort, b"").and_then(number) {
            // The port in X-Forwarded-Host is the client's own, that in Host may be the proxy's port to us.
            Some(own) if said.is_none() || port.is_none() => Some(own),
            _ => port,
        };
        Target { scheme, host, port: port.unwrap_or_else(|| own_port(scheme)) }
    }

    /// Returns the element that the outermost trusted proxy wrote into a field, or into a parameter of `Forwarded`.
    fn said<'f>(&self, fields: &'f Fields, known: Known, parameter: &[u8]) -> Option<&'f [u8]> {
        let (mut found, mut seen) = (None, 0);
        if self.trusted {
            each(fields, known, parameter, |element| {
                found = Some(element);
                seen += 1;
                seen <= self.depth
            });
        }
        found
    }
}

/// Passes the elements of a list to `see` from the right, over all field lines, until it returns false.
fn each<'f>(
    fields: &'f Fields,
    known: Known,
    parameter: &[u8],
    mut see: impl FnMut(&'f [u8]) -> bool,
) {
    let standard = !X_FORWARDED.iter().any(|known| fields.get(*known).is_some());
    let known = if standard { Known::Forwarded } else { known };
    for index in (0..fields.len()).rev() {
        let Some((_, _, value)) = fields.entry(index).filter(|(is, ..)| *is == known) else {
            continue;
        };
        let mut rest = Some(fields.bytes(value));
        while let Some(element) = take_last(&mut rest, b',') {
            let element = if standard { pair(element, parameter) } else { element };
            if !element.is_empty() && !see(element) {
                return;
            }
        }
    }
}

/// Takes the last element off a list; separators inside quotes do not count.
fn take_last<'f>(rest: &mut Option<&'f [u8]>, separator: u8) -> Option<&'f [u8]> {
    let all = (*rest)?;
    let mut quoted = false;
    let at = all.iter().rposition(|byte| {
        quoted ^= *byte == b'"';
        *byte == separator && !quoted
    });
    *rest = at.map(|at| &all[..at]);
    Some(all[at.map_or(0, |at| at + 1)..].trim_ascii())
}

/// Returns the value of a parameter in an element of `Forwarded`, without quotes; a missing one and one with escapes are a single blank.
fn pair<'f>(element: &'f [u8], parameter: &[u8]) -> &'f [u8] {
    const UNKNOWN: &[u8] = b" ";
    if element.is_empty() || element.contains(&b'\\') {
        return UNKNOWN;
    }
    let mut rest = Some(element);
    while let Some(part) = take_last(&mut rest, b';') {
        let Some(equals) = part.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (&part[..equals], &part[equals + 1..]);
        if name.eq_ignore_ascii_case(parameter) && !value.is_empty() {
            return value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
        }
    }
    UNKNOWN
}

/// Parses `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:4711`.
fn address(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

fn scheme(name: &[u8]) -> Option<&'static str> {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    // Some proxies name the WebSocket scheme.
    if is("https") || is("wss") {
        Some("https")
    } else if is("http") || is("ws") {
        Some("http")
    } else {
        None
    }
}

fn number(text: &[u8]) -> Option<u16> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|port| *port > 0)
}

/// Splits an authority into the host in lower case, without brackets and trailing dot, and the port.
fn split(authority: &[u8]) -> (String, Option<u16>) {
    let end = valid_authority(authority).unwrap_or(authority.len());
    let (host, port) = authority.split_at(end);
    let host = String::from_utf8_lossy(host).to_ascii_lowercase();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = host.strip_suffix('.').filter(|host| !host.is_empty()).unwrap_or(host);
    (host.to_owned(), port.strip_prefix(b":").and_then(number))
}

/// Returns the default port of a scheme.
pub(crate) fn own_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in pairs {
            fields.append(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn proxies() -> SourceSet {
        ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()].into_iter().collect()
    }

    #[test]
    fn the_client_is_the_first_address_from_the_right_that_is_no_trusted_proxys() {
        let cases = [
            ("X-Forwarded-For", "203.0.113.7", Some("203.0.113.7")),
            ("X-Forwarded-For", "198.51.100.9, 203.0.113.7", Some("203.0.113.7")),
            ("X-Forwarded-For", "198.51.100.9, 203.0.113.7, 10.0.0.1", Some("203.0.113.7")),
            ("X-Forwarded-For", "10.0.0.2, 10.0.0.1", Some("10.0.0.2")),
            ("X-Forwarded-For", "203.0.113.7:4711", Some("203.0.113.7")),
            ("X-Forwarded-For", "[2001:470::7]:4711,2001:db8::1", Some("2001:470::7")),
            ("X-Forwarded-For", "203.0.113.7, unknown", None),
            ("X-Forwarded-For", "203.0.113.7, unknown, 10.0.0.1", Some("10.0.0.1")),
            ("X-Forwarded-For", "", None),
            ("Forwarded", "for=198.51.100.9, for=203.0.113.7;proto=https", Some("203.0.113.7")),
            (
                "Forwarded",
                "For=\"[2001:470::7]:4711\", proto=http;for=10.0.0.1",
                Some("2001:470::7"),
            ),
            ("Forwarded", "for=203.0.113.7, for=\"_a,b;c\"", None),
            ("Forwarded", "for=203.0.113.7, proto=https", None),
        ];
        for (name, value, expected) in cases {
            let chain = ProxyChain::read(&fields(&[(name, value)]), &proxies());

            assert_eq!(chain.client, expected.map(|ip| ip.parse().unwrap()), "{name}: {value}");
        }
        let both = fields(&[("Forwarded", "for=198.51.100.9"), ("X-Forwarded-For", "203.0.113.7")]);
        assert_eq!(ProxyChain::read(&both, &proxies()).client, Some([203, 0, 113, 7].into()));
        let only_proto =
            fields(&[("Forwarded", "for=198.51.100.9"), ("X-Forwarded-Proto", "https")]);
        assert_eq!(ProxyChain::read(&only_proto, &proxies()).client, None);
    }

    #[test]
    fn what_counts_is_what_the_outermost_trusted_proxy_wrote() {
        let said = |pairs: &[(&str, &str)], known, parameter: &[u8]| {
            let fields = fields(pairs);
            let chain = ProxyChain::read(&fields, &proxies());
            chain
                .said(&fields, known, parameter)
                .map(|said| String::from_utf8_lossy(said).into_owned())
        };
        let proto = |list, of| {
            said(
                &[("X-Forwarded-For", list), ("X-Forwarded-Proto", of)],
                Known::XForwardedProto,
                b"proto",
            )
        };

        assert_eq!(proto("203.0.113.7", "https, http").as_deref(), Some("http"));
        assert_eq!(proto("203.0.113.7, 10.0.0.1", "https, http").as_deref(), Some("https"));
        assert_eq!(proto("203.0.113.7, 10.0.0.1", "http").as_deref(), Some("http"));
        assert_eq!(
            proto("9.9.9.9, 203.0.113.7, 10.0.0.1", "ftp, https, http").as_deref(),
            Some("https")
        );
        let standard = [(
            "Forwarded",
            "for=203.0.113.7;proto=https;host=\"a.example:8443\", for=10.0.0.1;proto=http;host=b",
        )];
        assert_eq!(said(&standard, Known::XForwardedProto, b"proto").as_deref(), Some("https"));
        assert_eq!(
            said(&standard, Known::XForwardedHost, b"host").as_deref(),
            Some("a.example:8443")
        );
        let fields = fields(&standard);
        assert_eq!(ProxyChain::default().said(&fields, Known::XForwardedProto, b"proto"), None);
    }
}
