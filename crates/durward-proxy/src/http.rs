//! HTTP as a codec: version-neutral messages, with HTTP/1.1 and HTTP/2 as their sources and sinks.
//!
//! The raw bytes of a head are never forwarded: heads are parsed once and serialized from the parsed form.

pub(crate) mod body;
pub(crate) mod buffer;
pub(crate) mod client;
pub(crate) mod fields;
pub(crate) mod flow;
pub(crate) mod framing;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod message;
pub(crate) mod names;
pub(crate) mod parse;
pub(crate) mod problem;

use durward_model::request::normal_host;

use crate::http::parse::{HeadLimits, Parsed, Progress};
use crate::syntax;

/// First request of a connection, parsed as it arrives; no line is parsed twice.
pub(crate) struct FirstRequest {
    progress: Progress,
    request: message::PooledRequest,
}

impl FirstRequest {
    /// Starts with no bytes read.
    pub(crate) fn new() -> Self {
        Self { progress: Progress::default(), request: message::PooledRequest::new() }
    }

    /// Returns the host that the request is for, in the form in which routes compare it; empty without one; `None` while the head is incomplete.
    /// `bytes` are those of the call before and more.
    ///
    /// # Errors
    /// Fails if the bytes are no request.
    pub(crate) fn host(&mut self, bytes: &[u8]) -> Result<Option<String>, syntax::Fault> {
        let request = &mut self.request;
        Ok(match parse::parse_request(bytes, &mut self.progress, HeadLimits::RESPONSE, request)? {
            Parsed::Incomplete => None,
            Parsed::Head(_) => Some(normal_host(request.host()).into_owned()),
        })
    }

    /// Returns the value of `Proxy-Authorization`, empty without one; `None` while the head is incomplete. `bytes` are those of the call before and
    /// more.
    ///
    /// # Errors
    /// Fails if the bytes are no request.
    pub(crate) fn authorization(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, syntax::Fault> {
        let limits = HeadLimits { outward: true, ..HeadLimits::RESPONSE };
        let request = &mut self.request;
        Ok(match parse::parse_request(bytes, &mut self.progress, limits, request)? {
            Parsed::Incomplete => None,
            Parsed::Head(_) => Some(request.fields.bytes(request.proxy_authorization).to_vec()),
        })
    }
}

/// Releases half of this core's unused buffers and messages.
pub(crate) fn shrink_pools() {
    buffer::shrink_pools();
    message::shrink_pools();
}
