//! Writes HTTP/1.1 heads from the parsed form alone.
//!
//! A field value with a line end in it cannot get this far, and would be left out here if it did.

use std::io::Write;

use crate::http::framing::{Outgoing, names_empty_content};
use crate::http::message::{Framing, Request, Response, Upgrade, Version};
use crate::http::names::Known;
use crate::syntax::is_value;

/// Writes one field line.
pub(crate) fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    if !is_value(value) {
        return;
    }
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn content_length(out: &mut Vec<u8>, length: u64) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "Content-Length: {length}\r\n");
}

/// Writes a request's head.
pub(crate) fn request(out: &mut Vec<u8>, request: &Request) {
    let fields = &request.fields;
    let method = match request.upgrade {
        Upgrade::Extended(_) => b"GET",
        Upgrade::None | Upgrade::Token(_) => fields.bytes(request.method),
    };
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(fields.bytes(request.path));
    out.extend_from_slice(fields.bytes(request.query));
    out.extend_from_slice(b" HTTP/1.1\r\n");
    field(out, b"Host", fields.bytes(request.authority));
    for line in fields.iter() {
        field(out, line.name, line.value);
    }
    match request.framing {
        _ if request.upgrade.is_extended() => {}
        Framing::None if request.upgrade.is_none() && names_empty_content(request.method()) => {
            content_length(out, 0);
        }
        Framing::None => {}
        Framing::Length(length) => content_length(out, length),
        Framing::Chunked | Framing::UntilClose => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
    }
    if request.expects_continue {
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    match request.upgrade {
        Upgrade::Token(token) | Upgrade::Extended(token) => {
            field(out, b"Upgrade", fields.bytes(token));
            out.extend_from_slice(b"Connection: Upgrade\r\n");
        }
        Upgrade::None if request.te_trailers => {
            out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n");
        }
        Upgrade::None => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, response: &Response) {
    let digits = [
        b'0' + (response.status / 100 % 10) as u8,
        b'0' + (response.status / 10 % 10) as u8,
        b'0' + (response.status % 10) as u8,
    ];
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&digits);
    out.push(b' ');
    let reason = response.fields.bytes(response.reason);
    if reason.is_empty() {
        let known = http::StatusCode::from_u16(response.status).ok();
        let reason = known.and_then(|status| status.canonical_reason()).unwrap_or_default();
        out.extend_from_slice(reason.as_bytes());
    } else if is_value(reason) {
        out.extend_from_slice(reason);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of an interim response (1xx).
pub(crate) fn interim(out: &mut Vec<u8>, response: &Response) {
    status_line(out, response);
    for line in response.fields.iter() {
        field(out, line.name, line.value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a final response's head; `close` adds that the connection ends with it.
pub(crate) fn response(
    out: &mut Vec<u8>,
    request: &Request,
    response: &Response,
    sent: Outgoing,
    close: bool,
) {
    status_line(out, response);
    for line in response.fields.iter().filter(|line| line.known != Known::Connection) {
        field(out, line.name, line.value);
    }
    if let Some(length) = sent.length {
        content_length(out, length);
    } else if sent.framing == Framing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if let Some(token) = response.upgrade {
        field(out, b"Upgrade", response.fields.bytes(token));
        out.extend_from_slice(b"Connection: Upgrade\r\n");
    } else if close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if request.version == Version::Http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
