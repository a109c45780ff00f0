//! Framing of responses: where the content of a response ends, on the side it comes from and on the side it goes to.
//!
//! Both sides, both versions of HTTP and every response made here ask the two functions of this file (RFC 9110 §6.4.1, §8.6 and
//! RFC 9112 §6.3), so that a head and what follows it cannot disagree.

use crate::http::message::{Framing, Request, Version};

/// Content of a response as its sender announces it, whichever version of HTTP the sender speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Content {
    /// The message ends with its head, and no length is named.
    #[default]
    Empty,
    /// `Content-Length`: of the content, or of what a GET would have brought.
    Length(u64),
    /// Unknown before the last chunk, the end of the stream or the end of the connection.
    Open(End),
}

/// End of content of unknown length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A last chunk; in HTTP/2 the end of the stream.
    Marked,
    /// The end of the connection.
    Close,
}

/// Kind of request, as far as the framing of its response depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HEAD: the response has a head only.
    Head,
    /// CONNECT: a tunnel follows a 2xx.
    Tunnel,
    /// Every other request.
    #[default]
    Other,
}

impl Kind {
    /// Returns the kind of a request.
    pub(crate) fn of(request: &Request) -> Self {
        match request.method() {
            "HEAD" => Self::Head,
            "CONNECT" => Self::Tunnel,
            _ => Self::Other,
        }
    }
}

/// Framing of a response that is sent, and the `Content-Length` its head carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) framing: Framing,
    pub(crate) length: Option<u64>,
}

/// Returns true if a response ends with its head, whatever its fields say (RFC 9112 §6.3, items 1 and 2).
fn ends_with_head(kind: Kind, status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
        || kind == Kind::Head
        || (kind == Kind::Tunnel && matches!(status, 200..=299))
}

/// Returns true if a response has no content. A 205 may be framed, but only as empty (RFC 9110 §15.3.6).
pub(crate) fn is_empty(kind: Kind, status: u16) -> bool {
    status == 205 || ends_with_head(kind, status)
}

/// Returns the framing by which a response's content is received.
pub(crate) fn incoming(kind: Kind, status: u16, content: Content) -> Framing {
    match content {
        _ if ends_with_head(kind, status) => Framing::None,
        Content::Empty => Framing::None,
        Content::Length(length) => Framing::Length(length),
        Content::Open(End::Marked) => Framing::Chunked,
        Content::Open(End::Close) => Framing::UntilClose,
    }
}

/// Returns the framing by which a response is sent to a client of `version`.
pub(crate) fn outgoing(kind: Kind, status: u16, version: Version, content: Content) -> Outgoing {
    let named = match content {
        Content::Length(length) => Some(length),
        Content::Empty | Content::Open(_) => None,
    };
    // Content-Length is forbidden with 1xx, 204 and an accepted tunnel; with HEAD and 304 it is that of another response.
    let forbidden =
        matches!(status, 100..=199 | 204) || (kind == Kind::Tunnel && matches!(status, 200..=299));
    if forbidden {
        return Outgoing { framing: Framing::None, length: None };
    }
    if status == 205 {
        let framing = if kind == Kind::Head { Framing::None } else { Framing::Length(0) };
        return Outgoing { framing, length: Some(0) };
    }
    if ends_with_head(kind, status) {
        return Outgoing { framing: Framing::None, length: named };
    }
    match content {
        Content::Empty => Outgoing { framing: Framing::Length(0), length: Some(0) },
        Content::Length(length) => Outgoing { framing: Framing::Length(length), length: named },
        Content::Open(_) if version == Version::Http10 => {
            Outgoing { framing: Framing::UntilClose, length: None }
        }
        Content::Open(_) => Outgoing { framing: Framing::Chunked, length: None },
    }
}

/// Returns true if a request without content needs `Content-Length: 0`: its method gives content a meaning (RFC 9110 §8.6).
pub(crate) fn names_empty_content(method: &str) -> bool {
    matches!(method, "POST" | "PUT" | "PATCH")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 3] = [Kind::Head, Kind::Tunnel, Kind::Other];
    const STATUSES: [u16; 16] =
        [100, 101, 103, 200, 201, 204, 205, 206, 299, 301, 302, 304, 401, 404, 500, 599];
    const VERSIONS: [Version; 3] = [Version::Http10, Version::Http11, Version::Http2];
    const CONTENTS: [Content; 5] = [
        Content::Empty,
        Content::Length(0),
        Content::Length(7),
        Content::Open(End::Marked),
        Content::Open(End::Close),
    ];

    fn every(mut test: impl FnMut(Kind, u16, Version, Content, Outgoing)) {
        let mut cases = 0;
        for kind in KINDS {
            for status in STATUSES {
                for version in VERSIONS {
                    for content in CONTENTS {
                        test(
                            kind,
                            status,
                            version,
                            content,
                            outgoing(kind, status, version, content),
                        );
                        cases += 1;
                    }
                }
            }
        }
        assert_eq!(cases, 720);
    }

    // S1.38+
    #[test]
    fn a_response_that_ends_with_its_head_is_followed_by_nothing() {
        every(|kind, status, version, content, out| {
            if ends_with_head(kind, status) {
                let case = (kind, status, version, content);
                assert_eq!(out.framing, Framing::None, "{case:?}");
                assert_eq!(incoming(kind, status, content), Framing::None, "{case:?}");
            }
        });
    }

    // S1.38+
    #[test]
    fn every_other_response_says_where_it_ends() {
        every(|kind, status, version, content, out| {
            let case = (kind, status, version, content);
            if !ends_with_head(kind, status) {
                assert_ne!(out.framing, Framing::None, "{case:?}");
            }
            if let Framing::Length(length) = out.framing {
                assert_eq!(out.length, Some(length), "{case:?}");
            }
        });
    }

    // S1.38+
    #[test]
    fn a_length_stands_only_where_the_rfc_allows_it() {
        every(|kind, status, version, content, out| {
            let case = (kind, status, version, content);
            let tunnel = kind == Kind::Tunnel && (200..300).contains(&status);
            if status < 200 || status == 204 || tunnel {
                assert_eq!(out.length, None, "{case:?}");
            }
            if matches!(out.framing, Framing::Chunked | Framing::UntilClose) {
                assert_eq!(out.length, None, "{case:?}");
            }
            if status == 304 && content == Content::Length(7) {
                assert_eq!(out.length, Some(7), "{case:?}");
            }
        });
    }

    // S1.38+
    #[test]
    fn chunks_are_for_clients_that_know_them() {
        every(|kind, status, version, content, out| {
            let case = (kind, status, version, content);
            let wrong = match version {
                Version::Http10 => Framing::Chunked,
                Version::Http11 | Version::Http2 => Framing::UntilClose,
            };
            assert_ne!(out.framing, wrong, "{case:?}");
        });
    }
}
