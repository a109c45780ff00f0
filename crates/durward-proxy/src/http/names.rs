//! Header field names with a meaning to this proxy, found by length and one comparison when a head is read.

/// Field name with a meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Known {
    /// Any other name.
    #[default]
    Other,
    Te,
    Via,
    Host,
    Date,
    Proxy,
    Cookie,
    Expect,
    Trailer,
    Upgrade,
    Forwarded,
    XRealIp,
    Connection,
    KeepAlive,
    ClientCert,
    RetryAfter,
    ContentType,
    ProxySupport,
    WwwAuthenticate,
    XRequestId,
    ContentLength,
    Http2Settings,
    Authorization,
    ContentRange,
    ContentEncoding,
    SetCookie,
    CacheControl,
    XForwardedFor,
    XForwardedHost,
    XForwardedPort,
    XForwardedProto,
    ProxyConnection,
    ClientCertChain,
    TransferEncoding,
    ProxyAuthorization,
    SecWebsocketKey,
    SecWebsocketAccept,
    SecWebsocketVersion,
    XForwardedClientCert,
    /// Any other `X-Forwarded-…`.
    XForwardedOther,
    /// Any other `Proxy-…`: between a client and its proxy.
    ProxyOther,
}

use Known as K;

const LENGTH_2: &[(&str, K)] = &[("TE", K::Te)];
const LENGTH_3: &[(&str, K)] = &[("Via", K::Via)];
const LENGTH_4: &[(&str, K)] = &[("Host", K::Host), ("Date", K::Date)];
const LENGTH_5: &[(&str, K)] = &[("Proxy", K::Proxy)];
const LENGTH_6: &[(&str, K)] = &[("Cookie", K::Cookie), ("Expect", K::Expect)];
const LENGTH_7: &[(&str, K)] = &[("Trailer", K::Trailer), ("Upgrade", K::Upgrade)];
const LENGTH_9: &[(&str, K)] = &[("X-Real-IP", K::XRealIp), ("Forwarded", K::Forwarded)];
const LENGTH_10: &[(&str, K)] =
    &[("Connection", K::Connection), ("Keep-Alive", K::KeepAlive), ("Set-Cookie", K::SetCookie)];
const LENGTH_11: &[(&str, K)] = &[("Client-Cert", K::ClientCert), ("Retry-After", K::RetryAfter)];
const LENGTH_12: &[(&str, K)] =
    &[("Content-Type", K::ContentType), ("X-Request-Id", K::XRequestId)];
const LENGTH_13: &[(&str, K)] = &[
    ("Authorization", K::Authorization),
    ("Proxy-Support", K::ProxySupport),
    ("Content-Range", K::ContentRange),
    ("Cache-Control", K::CacheControl),
];
const LENGTH_14: &[(&str, K)] =
    &[("Content-Length", K::ContentLength), ("HTTP2-Settings", K::Http2Settings)];
const LENGTH_15: &[(&str, K)] = &[("X-Forwarded-For", K::XForwardedFor)];
const LENGTH_16: &[(&str, K)] = &[
    ("X-Forwarded-Host", K::XForwardedHost),
    ("X-Forwarded-Port", K::XForwardedPort),
    ("Proxy-Connection", K::ProxyConnection),
    ("WWW-Authenticate", K::WwwAuthenticate),
    ("Content-Encoding", K::ContentEncoding),
];
const LENGTH_17: &[(&str, K)] = &[
    ("Transfer-Encoding", K::TransferEncoding),
    ("X-Forwarded-Proto", K::XForwardedProto),
    ("Client-Cert-Chain", K::ClientCertChain),
    ("Sec-WebSocket-Key", K::SecWebsocketKey),
];
const LENGTH_19: &[(&str, K)] = &[("Proxy-Authorization", K::ProxyAuthorization)];
const LENGTH_20: &[(&str, K)] = &[("Sec-WebSocket-Accept", K::SecWebsocketAccept)];
const LENGTH_21: &[(&str, K)] = &[("Sec-WebSocket-Version", K::SecWebsocketVersion)];
const LENGTH_23: &[(&str, K)] = &[("X-Forwarded-Client-Cert", K::XForwardedClientCert)];

fn candidates(length: usize) -> &'static [(&'static str, Known)] {
    match length {
        2 => LENGTH_2,
        3 => LENGTH_3,
        4 => LENGTH_4,
        5 => LENGTH_5,
        6 => LENGTH_6,
        7 => LENGTH_7,
        9 => LENGTH_9,
        10 => LENGTH_10,
        11 => LENGTH_11,
        12 => LENGTH_12,
        13 => LENGTH_13,
        14 => LENGTH_14,
        15 => LENGTH_15,
        16 => LENGTH_16,
        17 => LENGTH_17,
        19 => LENGTH_19,
        20 => LENGTH_20,
        21 => LENGTH_21,
        23 => LENGTH_23,
        _ => &[],
    }
}

impl Known {
    /// Returns the meaning of a name, case-insensitively.
    pub(crate) fn of(name: &[u8]) -> Self {
        candidates(name.len())
            .iter()
            .find(|(candidate, _)| candidate.as_bytes().eq_ignore_ascii_case(name))
            .map_or_else(
                || Self::of_family(name, <[u8]>::eq_ignore_ascii_case),
                |(_, known)| *known,
            )
    }

    /// Returns the meaning of a name by its prefix.
    fn of_family(name: &[u8], same: fn(&[u8], &[u8]) -> bool) -> Self {
        let begins =
            |family: &[u8]| name.get(..family.len()).is_some_and(|start| same(family, start));
        match name.first() {
            Some(b'x' | b'X') if begins(b"X-Forwarded-") => Self::XForwardedOther,
            Some(b'p' | b'P') if begins(b"Proxy-") => Self::ProxyOther,
            _ => Self::Other,
        }
    }

    /// Returns the meaning of a name to a server that reads `_` as `-`, as CGI does.
    pub(crate) fn with_underscores(name: &[u8]) -> Self {
        if !name.contains(&b'_') {
            return Self::Other;
        }
        candidates(name.len())
            .iter()
            .find(|(candidate, _)| same_with_underscores(candidate.as_bytes(), name))
            .map_or_else(|| Self::of_family(name, same_with_underscores), |(_, known)| *known)
    }

    /// Returns true for fields of one connection (RFC 9110 §7.6.1) or that we write ourselves; never passed on.
    pub(crate) fn hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::TransferEncoding
                | Self::Te
                | Self::Upgrade
                | Self::Http2Settings
                | Self::Proxy
                | Self::ProxyAuthorization
        )
    }

    /// Returns true for fields that tell an upstream the client's identity; inbound copies are always dropped.
    pub(crate) fn identity(self) -> bool {
        matches!(self, Self::ClientCert | Self::ClientCertChain | Self::XForwardedClientCert)
    }

    /// Returns true for fields that tell an upstream the way a request came; replaced unless the peer is trusted.
    pub(crate) fn forwarding(self) -> bool {
        matches!(
            self,
            Self::XForwardedFor
                | Self::XForwardedHost
                | Self::XForwardedPort
                | Self::XForwardedProto
                | Self::Forwarded
                | Self::XRealIp
                | Self::XRequestId
                | Self::XForwardedOther
        )
    }

    /// Returns true for fields that frame or address a message; `Connection` may not name them.
    pub(crate) fn framing(self) -> bool {
        matches!(self, Self::ContentLength | Self::TransferEncoding | Self::Host)
    }

    /// Returns true for fields that are forbidden in a trailer section (RFC 9110 §6.5.1).
    pub(crate) fn forbidden_in_trailers(self) -> bool {
        self.framing()
            || self.hop_by_hop()
            || self.identity()
            || self.forwarding()
            || matches!(
                self,
                Self::Trailer
                    | Self::Expect
                    | Self::Authorization
                    | Self::Cookie
                    | Self::SetCookie
                    | Self::CacheControl
                    | Self::ContentType
                    | Self::ContentEncoding
                    | Self::ContentRange
                    | Self::Via
                    | Self::Date
                    | Self::RetryAfter
                    | Self::ProxyOther
            )
    }
}

fn same_with_underscores(candidate: &[u8], name: &[u8]) -> bool {
    candidate.iter().zip(name).all(|(candidate, byte)| {
        let byte = if *byte == b'_' { b'-' } else { *byte };
        candidate.eq_ignore_ascii_case(&byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_under_its_own_length_in_any_case() {
        let mut seen = 0;
        for length in 0..64 {
            for (name, known) in candidates(length) {
                assert_eq!(name.len(), length, "{name}");
                assert_eq!(Known::of(name.to_ascii_lowercase().as_bytes()), *known, "{name}");
                assert_eq!(Known::of(name.to_ascii_uppercase().as_bytes()), *known, "{name}");
                seen += 1;
            }
        }

        assert_eq!(seen, 38);
        assert_eq!(Known::of(b"Accept"), Known::Other);
    }

    // S1.66 S2.53
    #[test]
    fn names_nobody_thought_of_belong_to_their_family() {
        for name in ["X-Forwarded-User", "x-forwarded-prefix", "X-Forwarded-"] {
            assert_eq!(Known::of(name.as_bytes()), Known::XForwardedOther, "{name}");
        }
        for name in ["Proxy-Foo", "proxy-status", "PROXY-features"] {
            assert_eq!(Known::of(name.as_bytes()), Known::ProxyOther, "{name}");
        }
        assert_eq!(Known::with_underscores(b"X_Forwarded_User"), Known::XForwardedOther);
        assert_eq!(Known::with_underscores(b"proxy_foo"), Known::ProxyOther);
        for name in ["X-Forwarded", "X-Forward-For", "Proxy", "Proxying", "X-Proxy-Foo", "x", "p"] {
            let known = Known::of(name.as_bytes());
            assert!(!matches!(known, Known::XForwardedOther | Known::ProxyOther), "{name}");
        }
        assert!(Known::XForwardedOther.forwarding() && !Known::ProxyOther.hop_by_hop());
    }

    // S1.66
    #[test]
    fn underscores_do_not_hide_a_name() {
        assert_eq!(Known::with_underscores(b"X_Forwarded_For"), Known::XForwardedFor);
        assert_eq!(Known::with_underscores(b"client_cert"), Known::ClientCert);
        assert_eq!(Known::with_underscores(b"user_id"), Known::Other);
    }
}
