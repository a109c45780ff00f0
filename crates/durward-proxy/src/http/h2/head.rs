//! Heads and trailers of a client's requests, decoded straight into the version-neutral form.
//!
//! A head from HTTP/2 is checked as strictly as one from HTTP/1: it may be forwarded over HTTP/1.

use crate::http::fields::{Fields, Span};
use crate::http::h2::convert::{disguised, unfit};
use crate::http::h2::decoder::{Decoded, Decoder};
use crate::http::message::{Framing, Request, Upgrade, Version};
use crate::http::names::Known;
use crate::http::parse::{set_host, valid_authority};
use crate::http2::hpack::{Name, Order, Section, Undecodable};
use crate::syntax::{Fault, content_length, is_target_byte, is_token};

/// Longest method in bytes.
const METHOD: usize = 32;
/// Bytes of a scheme at most.
const SCHEME: usize = 64;

/// Rules for the heads of one connection's requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Octets of a field list, pseudo-header fields not counted.
    pub(crate) bytes: usize,
    /// Number of fields.
    pub(crate) fields: usize,
    /// True if plain CONNECT is served.
    pub(crate) connect: bool,
}

/// Reason to turn a decoded head away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// The request is malformed in the sense of RFC 9113 section 8.1.1: its stream is reset.
    Reset(&'static str),
    /// The request is answered with a refusal.
    Answer(Fault),
}

impl From<Fault> for Rejected {
    fn from(fault: Fault) -> Self {
        Self::Answer(fault)
    }
}

/// Decodes the head of a request into `out`. `ended` is true if the request has no body. The outer error is that of the whole connection.
pub(crate) fn request(
    decoder: &mut Decoder,
    block: &[u8],
    (ended, rules): (bool, Rules),
    out: &mut Request,
) -> Result<Result<(), Rejected>, Undecodable> {
    let mut head = Head::new(rules, out);
    decoder.read(block, |field| head.field(field))?;
    Ok(head.finish(ended))
}

/// Head in the making.
struct Head<'r> {
    rules: Rules,
    out: &'r mut Request,
    order: Order,
    scheme: Span,
    protocol: Span,
    control: Control,
    /// First `Cookie` field, and further ones.
    cookie: Option<Span>,
    crumbs: Vec<Span>,
    /// Octets of all fields, and of all but pseudo-header fields.
    size: (usize, usize),
    /// First rule that the block breaks, and first one that is answered.
    malformed: Option<&'static str>,
    fault: Option<Fault>,
}

/// Fields that control the message.
#[derive(Default)]
struct Control {
    length: Option<u64>,
    host: Option<Span>,
    proxy_authorization: Option<Span>,
    expects_continue: bool,
}

impl<'r> Head<'r> {
    fn new(rules: Rules, out: &'r mut Request) -> Self {
        out.version = Version::Http2;
        out.keep_alive = true;
        Self {
            rules,
            out,
            order: Order::new(Section::Request),
            scheme: Span::default(),
            protocol: Span::default(),
            control: Control::default(),
            cookie: None,
            crumbs: Vec::new(),
            size: (0, 0),
            malformed: None,
            fault: None,
        }
    }

    fn field(&mut self, field: Decoded<'_>) {
        let name = field.judged.name;
        let size = field.size();
        self.size.0 += size;
        self.size.1 += if name == Name::Regular { size } else { 0 };
        let malformed = self.order.add(name).or(field.judged.fault);
        self.malformed = self.malformed.or(malformed);
        // What is refused or too large is decoded, for the sake of the table, but not stored.
        if self.malformed.is_some() || self.is_too_large() {
            return;
        }
        if name == Name::Regular {
            if let Err(fault) = self.regular(field) {
                self.fault = self.fault.or(Some(fault));
            }
            return;
        }
        let span = self.out.fields.store(field.value);
        match name {
            Name::Method => self.out.method = span,
            Name::Scheme => self.scheme = span,
            Name::Authority => self.out.authority = span,
            Name::Path => self.out.path = span,
            _ => self.protocol = span,
        }
    }

    /// Returns true if the list is larger than its limit, or the whole block larger than twice that.
    fn is_too_large(&self) -> bool {
        let limit = self.rules.bytes;
        self.size.1 > limit
            || self.size.0 > limit.saturating_mul(2)
            || self.out.fields.len() > self.rules.fields
    }

    fn regular(&mut self, field: Decoded<'_>) -> Result<(), Fault> {
        let (name, value) = (field.name, field.value);
        if value.trim_ascii().len() != value.len() {
            return Err(Fault::Malformed("white space around field value"));
        }
        let fields = &mut self.out.fields;
        match field.judged.known {
            Known::ContentLength => {
                if self.control.length.replace(content_length(value)?).is_some() {
                    return Err(Fault::Malformed("repeated Content-Length"));
                }
            }
            Known::Te if value.eq_ignore_ascii_case(b"trailers") => self.out.te_trailers = true,
            Known::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Fault::NotSupported("expectation"));
                }
                self.control.expects_continue = true;
            }
            Known::Host => {
                if self.control.host.replace(fields.store(value)).is_some() {
                    return Err(Fault::Malformed("repeated Host"));
                }
            }
            // Cookie fields are joined again for HTTP/1 upstreams (RFC 9113 section 8.2.3).
            Known::Cookie => {
                let span = fields.store(value);
                match self.cookie {
                    None => self.cookie = Some(span),
                    Some(_) => self.crumbs.push(span),
                }
            }
            Known::Proxy => {}
            Known::ProxyAuthorization => {
                let span = fields.store(value);
                if self.control.proxy_authorization.replace(span).is_some() {
                    return Err(Fault::Malformed("repeated Proxy-Authorization"));
                }
            }
            known if known.hop_by_hop() => {
                self.malformed = Some("field of one connection");
            }
            Known::Other => return disguised(fields, name, value),
            known => fields.append_with(known, name, |bytes| bytes.extend_from_slice(value)),
        }
        Ok(())
    }

    fn finish(mut self, ended: bool) -> Result<(), Rejected> {
        if let Some(detail) = self.malformed {
            return Err(Rejected::Reset(detail));
        }
        if self.is_too_large() {
            return Err(Fault::TooLarge.into());
        }
        self.complete()?;
        if ended && self.control.length.is_some_and(|length| length > 0) {
            return Err(Rejected::Reset("Content-Length without content"));
        }
        let method = self.out.fields.bytes(self.out.method);
        if method.len() > METHOD || !is_token(method) {
            return Err(Fault::Malformed("method is not a token").into());
        }
        self.target()?;
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        self.host()?;
        self.join_cookies();
        let out = self.out;
        out.proxy_authorization = self.control.proxy_authorization.unwrap_or_default();
        out.framing = match self.control.length {
            _ if out.upgrade != Upgrade::None => Framing::None,
            Some(0) if ended => Framing::Length(0),
            _ if ended => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        out.expects_continue = self.control.expects_continue && out.has_body();
        Ok(())
    }

    /// Checks that the pseudo-header fields are those that the method has (RFC 9113 sections 8.3.1 and 8.5, RFC 8441 section 4).
    fn complete(&self) -> Result<(), Rejected> {
        let has = |name| self.order.has(name);
        if !has(Name::Method) {
            return Err(Rejected::Reset("request without :method"));
        }
        let connect = self.out.method() == "CONNECT";
        if has(Name::Protocol) && !connect {
            return Err(Rejected::Reset(":protocol without CONNECT"));
        }
        if connect && !has(Name::Protocol) {
            let more = has(Name::Scheme) || has(Name::Path);
            return if more {
                Err(Rejected::Reset("CONNECT with :scheme or :path"))
            } else {
                Ok(())
            };
        }
        if !has(Name::Scheme) {
            return Err(Rejected::Reset("request without :scheme"));
        }
        if !has(Name::Path) {
            return Err(Rejected::Reset("request without :path"));
        }
        let scheme = self.out.fields.bytes(self.scheme);
        let octet = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        if scheme.len() > SCHEME || !scheme.iter().all(octet) {
            return Err(Rejected::Reset("malformed :scheme"));
        }
        if has(Name::Authority) && self.out.authority.is_empty() {
            return Err(Rejected::Reset("empty :authority"));
        }
        Ok(())
    }

    fn target(&mut self) -> Result<(), Rejected> {
        let out = &mut *self.out;
        if out.method() == "CONNECT" {
            if !self.order.has(Name::Protocol) {
                return Ok(tunnel(out, self.rules.connect)?);
            }
            let protocol = self.protocol;
            if !out.fields.bytes(protocol).eq_ignore_ascii_case(b"websocket") {
                return Err(Fault::NotSupported("extended CONNECT protocol").into());
            }
            out.upgrade = Upgrade::Extended(out.fields.store(b"websocket"));
        }
        let target = out.path;
        let text = out.fields.bytes(target);
        if !text.iter().all(|byte| is_target_byte(*byte)) {
            return Err(Fault::Malformed("character in target that is not allowed").into());
        }
        let path = text.iter().position(|byte| *byte == b'?').unwrap_or(text.len());
        if &text[..path] == b"*" && out.method() != "OPTIONS" {
            return Err(Fault::Malformed("asterisk target without OPTIONS").into());
        }
        (out.path, out.query) = (target.first(path), target.skip(path));
        // Upstreams over HTTP/2 could not be sent such a target.
        if let Some(detail) = unfit(out) {
            return Err(Rejected::Reset(detail));
        }
        if !out.authority.is_empty() {
            out.scheme = self.scheme;
        }
        Ok(())
    }

    fn host(&mut self) -> Result<(), Fault> {
        let out = &mut *self.out;
        if let Some(host) = self.control.host {
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

    fn join_cookies(&mut self) {
        let Some(first) = self.cookie else { return };
        let fields = &mut self.out.fields;
        if self.crumbs.is_empty() {
            let name = fields.store(b"cookie");
            return fields.note(Known::Cookie, name, first);
        }
        let mut joined = fields.bytes(first).to_vec();
        for crumb in &self.crumbs {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(fields.bytes(*crumb));
        }
        fields.append_with(Known::Cookie, b"cookie", |bytes| bytes.extend_from_slice(&joined));
    }
}

/// Checks the target of a plain CONNECT: an authority with a port, and nothing else (RFC 9113 section 8.5).
fn tunnel(out: &Request, served: bool) -> Result<(), Fault> {
    if !served {
        return Err(Fault::Connect);
    }
    let authority = out.fields.bytes(out.authority);
    match valid_authority(authority) {
        Some(host) if host + 1 < authority.len() => Ok(()),
        _ => Err(Fault::Malformed("CONNECT target is not host and port")),
    }
}

/// Decodes the trailers of a request, whose list may have `most` octets, and keeps those that may be passed on. The inner error is the rule that they
/// break.
pub(crate) fn trailers(
    decoder: &mut Decoder,
    block: &[u8],
    most: usize,
) -> Result<Result<Fields, &'static str>, Undecodable> {
    let (mut out, mut order) = (Fields::default(), Order::new(Section::Trailers));
    let (mut size, mut fault) = (0, None);
    decoder.read(block, |field| {
        let (name, value, known) = (field.name, field.value, field.judged.known);
        size += field.size();
        let padded = value.trim_ascii().len() != value.len();
        let broken = order.add(field.judged.name).or(field.judged.fault);
        let padded = padded.then_some("malformed trailer");
        let large = (size > most).then_some("trailers too large");
        fault = fault.or(broken).or(padded).or(large);
        let allowed =
            !known.forbidden_in_trailers() && Known::with_underscores(name) == Known::Other;
        if fault.is_none() && allowed {
            out.append_with(known, name, |bytes| bytes.extend_from_slice(value));
        }
    })?;
    Ok(fault.map_or(Ok(out), Err))
}
