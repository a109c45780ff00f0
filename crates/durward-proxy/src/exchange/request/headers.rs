//! Fields that describe the client to an upstream, and a route's own changes to fields.
//!
//! A client's own copies of these fields are dropped in every spelling before ours are added. Identity fields of a client are never trusted; only the
//! TLS session identifies it.

use std::fmt::Write;
use std::net::IpAddr;

use durward_model::Listener;
use durward_model::route::{HeaderRules, Route};

use crate::connection::{ClientCertificate, ConnectionFacts};
use crate::exchange::context::Http;
use crate::exchange::request::{ProxyChain, RequestId};
use crate::http::fields::{Fields, Part};
use crate::http::message::Request;
use crate::http::names::Known;

/// Field values that are equal in all requests of a connection, made once.
pub(crate) struct Texts {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// Destination's address.
    pub(crate) local: String,
    /// Destination as an authority.
    pub(crate) authority: String,
    /// True if the client's own forwarding fields are kept.
    pub(crate) trusted: bool,
    client: String,
    port: String,
    /// `for=…` of RFC 7239.
    forwarded_for: String,
    xfcc: Option<String>,
}

impl Texts {
    pub(crate) fn new(
        facts: &ConnectionFacts,
        listener: &Listener,
        trusted: bool,
        xfcc: bool,
    ) -> Self {
        let client = facts.client.0.ip().to_canonical();
        let local = facts.destination.0.ip().to_canonical();
        let certificate = facts.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
        Self {
            scheme: if facts.tls.is_some() { "https" } else { "http" },
            local: local.to_string(),
            authority: match local {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            },
            trusted,
            client: client.to_string(),
            port: listener.port.to_string(),
            forwarded_for: match client {
                IpAddr::V4(address) => format!("for={address}"),
                IpAddr::V6(address) => format!("for=\"[{address}]\""),
            },
            xfcc: certificate.filter(|_| xfcc).map(envoy_format),
        }
    }
}

/// Rewrites a request's fields for the upstream; `Host` and the target come later.
pub(crate) fn request(
    http: &Http,
    request: &mut Request,
    route: &Route,
    (chain, id): (&ProxyChain, &RequestId),
) {
    let trusted = http.texts.trusted;
    request.fields.retain(|known| !known.identity() && (trusted || !known.forwarding()));
    forwarding(http, request, chain, id);
    identity(http, &mut request.fields);
    request.fields.append_with(Known::Via, b"Via", |out| {
        let version = request.version;
        out.extend_from_slice(via(version));
    });
    rewrite(&mut request.fields, &route.request_headers);
}

fn via(version: crate::http::message::Version) -> &'static [u8] {
    use crate::http::message::Version;
    match version {
        Version::Http10 => b"1.0 durward",
        Version::Http11 => b"1.1 durward",
        Version::Http2 => b"2 durward",
    }
}

fn forwarding(http: &Http, request: &mut Request, chain: &ProxyChain, id: &RequestId) {
    let texts = &http.texts;
    let authority = request.authority;
    let fields = &mut request.fields;
    let client = Part::Text(texts.client.as_bytes());
    let scheme = Part::Text(texts.scheme.as_bytes());
    fields.extend_list(Known::XForwardedFor, b"X-Forwarded-For", &[client]);
    let element = [
        Part::Text(texts.forwarded_for.as_bytes()),
        Part::Text(b";host=\""),
        Part::Copy(authority),
        Part::Text(b"\";proto="),
        scheme,
    ];
    fields.extend_list(Known::Forwarded, b"Forwarded", &element);
    // A trusted proxy saw the client's own scheme, host and port; ours would be those of its connection.
    let mut unless_said = |known: Known, name: &[u8], value: Part<'_>| {
        if !texts.trusted || fields.get(known).is_none() {
            fields.extend_list(known, name, &[value]);
        }
    };
    unless_said(Known::XForwardedProto, b"X-Forwarded-Proto", scheme);
    unless_said(Known::XForwardedHost, b"X-Forwarded-Host", Part::Copy(authority));
    unless_said(Known::XForwardedPort, b"X-Forwarded-Port", Part::Text(texts.port.as_bytes()));
    match chain.client {
        Some(real) => {
            unless_said(Known::XRealIp, b"X-Real-IP", Part::Text(real.to_string().as_bytes()))
        }
        None => unless_said(Known::XRealIp, b"X-Real-IP", client),
    }
    fields.retain(|known| known != Known::XRequestId);
    fields.extend_list(Known::XRequestId, b"X-Request-Id", &[Part::Text(id.as_str().as_bytes())]);
}

fn identity(http: &Http, fields: &mut Fields) {
    let tls = http.facts.tls.as_ref();
    let Some(certificate) = tls.and_then(|tls| tls.client_certificate.as_ref()) else { return };
    let Some(service) = http.service() else { return };
    let mut say = |known: Known, name: &[u8], value: &str| {
        fields.append_with(known, name, |out| out.extend_from_slice(value.as_bytes()));
    };
    if service.identity_headers.client_cert {
        say(Known::ClientCert, b"Client-Cert", &certificate.client_cert);
        if !certificate.client_cert_chain.is_empty() {
            say(Known::ClientCertChain, b"Client-Cert-Chain", &certificate.client_cert_chain);
        }
    }
    if let Some(xfcc) = &http.texts.xfcc {
        say(Known::XForwardedClientCert, b"X-Forwarded-Client-Cert", xfcc);
    }
}

fn envoy_format(certificate: &ClientCertificate) -> String {
    let mut text = format!("Hash={};Subject=\"", certificate.fingerprint);
    push_quoted(&mut text, &certificate.subject);
    text.push('"');
    let names = certificate.uris.iter().map(|uri| ("URI", uri));
    for (key, name) in names.chain(certificate.dns.iter().map(|name| ("DNS", name))) {
        // Writing to a String cannot fail.
        let _ = write!(text, ";{key}=");
        if name.chars().all(|c| c.is_ascii_graphic() && !matches!(c, ',' | ';' | '=' | '"' | '\\'))
        {
            text.push_str(name);
        } else {
            text.push('"');
            push_quoted(&mut text, name);
            text.push('"');
        }
    }
    text
}

fn push_quoted(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            control if control.is_control() => text.push('?'),
            other => text.push(other),
        }
    }
}

/// Applies a route's own changes. A route may not change fields that frame a message or control a connection.
pub(crate) fn rewrite(fields: &mut Fields, rules: &HeaderRules) {
    if rules.is_empty() {
        return;
    }
    let ours = |name: &str| {
        let known = Known::of(name.as_bytes());
        known.framing() || known.hop_by_hop()
    };
    for name in rules.remove.iter().filter(|name| !ours(name)) {
        fields.remove(name.as_bytes());
    }
    for (name, value) in rules.set.iter().filter(|(name, _)| !ours(name)) {
        fields.remove(name.as_bytes());
        fields.append(name.as_bytes(), value.as_bytes());
    }
    for (name, value) in rules.add.iter().filter(|(name, _)| !ours(name)) {
        fields.append(name.as_bytes(), value.as_bytes());
    }
}
