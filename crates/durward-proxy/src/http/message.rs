//! Version-neutral form of a request and a response.
//!
//! Both are reused from request to request.

use std::cell::RefCell;

use crate::http::fields::{Fields, Span};
use crate::http::framing::Content;

/// HTTP version of a received message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// Returns the name used in the access log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// Framing of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body.
    #[default]
    None,
    /// `Content-Length`.
    Length(u64),
    /// Chunked; in HTTP/2, the end of the stream.
    Chunked,
    /// The end of the connection.
    UntilClose,
}

/// Change of protocol that a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// No protocol that we pass on.
    #[default]
    None,
    /// HTTP/1.1 `Upgrade`, to the protocol named here.
    Token(Span),
    /// Extended CONNECT (RFC 8441) over HTTP/2, to the protocol named here.
    Extended(Span),
}

impl Upgrade {
    /// Returns true if the request asks for no other protocol.
    pub(crate) fn is_none(self) -> bool {
        self == Self::None
    }

    /// Returns true if the request is an extended CONNECT.
    pub(crate) fn is_extended(self) -> bool {
        matches!(self, Self::Extended(_))
    }
}

/// Head of a request. The spans lie in the buffer of `fields`.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) fields: Fields,
    pub(crate) method: Span,
    /// Path as sent, then as matched and forwarded once it is normalised.
    pub(crate) path: Span,
    /// Query with its `?`; empty without one.
    pub(crate) query: Span,
    /// Host and port as sent; empty in HTTP/1.0 without `Host`.
    pub(crate) authority: Span,
    /// `authority` without port; an IPv6 literal without brackets; lower case and without trailing dot once routed.
    pub(crate) host: Span,
    /// Scheme of an absolute target or of HTTP/2; empty if the request names none.
    pub(crate) scheme: Span,
    pub(crate) version: Version,
    pub(crate) framing: Framing,
    /// True for `Expect: 100-continue`.
    pub(crate) expects_continue: bool,
    pub(crate) upgrade: Upgrade,
    /// Value of `Proxy-Authorization`; the field itself is not forwarded.
    pub(crate) proxy_authorization: Span,
    /// True if the client wants to keep the connection.
    pub(crate) keep_alive: bool,
    /// True for `TE: trailers`.
    pub(crate) te_trailers: bool,
}

impl Request {
    /// Clears everything but keeps the memory.
    pub(crate) fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::default() };
    }

    /// Drops a large head, except the beginnings of its method, host and `logged`; returns the new position of `logged`.
    pub(crate) fn release_fields(&mut self, logged: Span) -> Span {
        if self.fields.capacity() <= SMALL_HEAD {
            return logged;
        }
        let mut kept = Fields::default();
        let mut keep = |span: Span| kept.store(self.fields.bytes(span.first(LOGGED)));
        let (method, host, logged) = (keep(self.method), keep(self.host), keep(logged));
        *self = Self {
            fields: kept,
            method,
            host,
            version: self.version,
            framing: self.framing,
            expects_continue: self.expects_continue,
            upgrade: self.upgrade,
            keep_alive: self.keep_alive,
            te_trailers: self.te_trailers,
            ..Self::default()
        };
        logged
    }

    /// Returns the method.
    pub(crate) fn method(&self) -> &str {
        self.fields.text(self.method)
    }

    /// Returns the path.
    pub(crate) fn path(&self) -> &str {
        self.fields.text(self.path)
    }

    /// Returns the host.
    pub(crate) fn host(&self) -> &str {
        self.fields.text(self.host)
    }

    /// Returns true if the method is idempotent (RFC 9110 §9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        matches!(self.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }

    /// Returns true if the request has, or may have, a body.
    pub(crate) fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::None | Framing::Length(0))
    }
}

/// Head of a response. The spans lie in the buffer of `fields`.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) fields: Fields,
    pub(crate) status: u16,
    /// Reason phrase; may be empty.
    pub(crate) reason: Span,
    pub(crate) version: Version,
    /// Content as its sender announces it.
    pub(crate) content: Content,
    /// True if the sender will close, or the end of the message cannot be known otherwise.
    pub(crate) close: bool,
    /// Protocol of a 101.
    pub(crate) upgrade: Option<Span>,
}

impl Response {
    /// Clears everything but keeps the memory.
    pub(crate) fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::default() };
    }

    /// Drops a large head.
    pub(crate) fn release_fields(&mut self) {
        if self.fields.capacity() > SMALL_HEAD {
            self.fields = Fields::default();
        }
    }

    /// Returns true for an interim response, which another head follows.
    pub(crate) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

/// Bytes up to which heads stay until their exchange is over: copying what is logged would cost more.
const SMALL_HEAD: usize = 4 * 1024;
/// Bytes of the method, the host and the path that are kept of a large head.
const LOGGED: usize = 4 * 1024;
/// Memory in bytes above which a message is not kept for reuse.
const KEPT_BYTES: usize = 32 * 1024;
const KEPT: usize = 64;

type Pool<T> = RefCell<Vec<T>>;

thread_local! {
    static REQUESTS: Pool<Box<Request>> = const { RefCell::new(Vec::new()) };
    static RESPONSES: Pool<Box<Response>> = const { RefCell::new(Vec::new()) };
}

macro_rules! pooled {
    ($name:ident, $type:ident, $pool:ident) => {
        /// Message of this core's pool; returns there when dropped.
        pub(crate) struct $name(Option<Box<$type>>);

        impl $name {
            /// Takes an empty one.
            pub(crate) fn new() -> Self {
                Self(Some($pool.with_borrow_mut(Vec::pop).unwrap_or_default()))
            }
        }

        impl std::ops::Deref for $name {
            type Target = $type;

            fn deref(&self) -> &$type {
                self.0.as_deref().expect("taken in drop only")
            }
        }

        impl std::ops::DerefMut for $name {
            fn deref_mut(&mut self) -> &mut $type {
                self.0.as_deref_mut().expect("taken in drop only")
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                let Some(mut message) = self.0.take() else { return };
                if message.fields.capacity() > KEPT_BYTES {
                    return;
                }
                message.clear();
                let _ = $pool.try_with(|pool| {
                    let mut pool = pool.borrow_mut();
                    if pool.len() < KEPT {
                        pool.push(message);
                    }
                });
            }
        }
    };
}
/// Releases half of the unused messages, so that a peak is forgotten in a few calls.
pub(crate) fn shrink_pools() {
    REQUESTS.with_borrow_mut(|pool| pool.truncate(pool.len() / 2));
    RESPONSES.with_borrow_mut(|pool| pool.truncate(pool.len() / 2));
}

pooled!(PooledRequest, Request, REQUESTS);
pooled!(PooledResponse, Response, RESPONSES);
