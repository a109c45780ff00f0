//! Parser of response heads, as strict as that of requests.

use crate::http::fields::Span;
use crate::http::framing::{self, Content, End, Kind};
use crate::http::message::{Framing, Response};
use crate::http::names::Known;
use crate::http::parse::connection::Control;
use crate::http::parse::request::read_version;
use crate::http::parse::{HeadLimits, Line, Parsed, Progress, field_line};
use crate::syntax::{Fault, is_value};

/// Parts of a request that decide how its response ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// Kind of the request: HEAD and CONNECT are answered by a head alone.
    pub(crate) kind: Kind,
    /// True if an upgrade was asked for.
    pub(crate) upgrade: bool,
}

/// Parses as much of a response's head as there is. `input` begins with the head and grows from call to call.
pub(crate) fn parse_response(
    input: &[u8],
    progress: &mut Progress,
    asked: Asked,
    response: &mut Response,
) -> Result<Parsed, Fault> {
    let limits = HeadLimits::RESPONSE;
    loop {
        match progress.next_line(input)? {
            Line::Incomplete if input.len() >= limits.bytes => return Err(Fault::TooLarge),
            Line::Incomplete => return Ok(Parsed::Incomplete),
            Line::Empty if progress.started => break,
            Line::Empty => return Err(Fault::Malformed("empty line before the status line")),
            Line::Text(start, end) if !progress.started => {
                status_line(input, start, end, response)?;
                progress.started = true;
            }
            Line::Text(start, end) => {
                if response.fields.len() == limits.fields || end > limits.bytes {
                    return Err(Fault::TooLarge);
                }
                field_line(input, start, end, &mut response.fields)?;
            }
        }
    }
    response.fields.load(&input[..progress.read()]);
    finish(response, asked)?;
    Ok(Parsed::Head(progress.read()))
}

fn status_line(
    input: &[u8],
    start: usize,
    end: usize,
    response: &mut Response,
) -> Result<(), Fault> {
    let line = &input[start..end];
    let (version, rest) = line
        .split_at_checked(8)
        .filter(|(_, rest)| rest.first() == Some(&b' ') && rest.len() >= 4)
        .ok_or(Fault::Malformed("invalid status line"))?;
    response.version = read_version(version)?;
    let (status, reason) = rest[1..].split_at(3);
    if !status.iter().all(u8::is_ascii_digit) || reason.first().is_some_and(|byte| *byte != b' ') {
        return Err(Fault::Malformed("invalid status"));
    }
    response.status = status.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    if !(100..600).contains(&response.status) {
        return Err(Fault::Malformed("invalid status"));
    }
    if !is_value(reason) {
        return Err(Fault::Malformed("control character in reason phrase"));
    }
    response.reason = Span::new((end - reason.len() + 1).min(end), end);
    Ok(())
}

fn finish(response: &mut Response, asked: Asked) -> Result<(), Fault> {
    let control = Control::read(&response.fields, response.version)?;
    if response.status == 101 {
        switching(response, &control, asked)?;
    }
    response.content = match (control.length, control.chunked) {
        (Some(length), _) => Content::Length(length),
        (None, true) => Content::Open(End::Marked),
        (None, false) => Content::Open(End::Close),
    };
    response.close = !control.persists(response.version)
        || framing::incoming(asked.kind, response.status, response.content) == Framing::UntilClose
        || announces_forbidden_content(response);
    control.strip(&mut response.fields);
    response.fields.retain(|known| known != Known::Host);
    Ok(())
}

/// Returns true if a 204 or 304 announces content. Its sender may send that late, and the next response would begin with it.
fn announces_forbidden_content(response: &Response) -> bool {
    let announced = match response.content {
        Content::Length(length) => length > 0,
        Content::Open(end) => end == End::Marked,
        Content::Empty => false,
    };
    announced && matches!(response.status, 204 | 304)
}

fn switching(response: &mut Response, control: &Control, asked: Asked) -> Result<(), Fault> {
    if !asked.upgrade {
        return Err(Fault::Malformed("101 without a request for it"));
    }
    if !control.upgrades || control.upgrade.is_none() {
        return Err(Fault::Malformed("101 without Upgrade"));
    }
    response.upgrade = control.upgrade;
    Ok(())
}
