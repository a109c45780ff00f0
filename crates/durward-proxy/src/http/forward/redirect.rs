//! Sending a client elsewhere.
//!
//! Deliberately absent: relative locations. The host is checked and the path begins with one slash, so there is no other place to be sent to.

use std::fmt::Write;

use durward_model::route::Redirect;

use crate::http::Http;
use crate::http::message::Request;
use crate::http::problem::Answer;

pub(super) fn answer(http: &Http, request: &Request, redirect: &Redirect) -> Answer {
    let scheme = redirect.scheme.as_deref().unwrap_or(http.texts.scheme);
    let host = redirect.host.as_deref().unwrap_or_else(|| request.host());
    let mut location = String::with_capacity(128);
    // A String does not fail to be written to.
    let _ = match host.contains(':') {
        true => write!(location, "{scheme}://[{host}]"),
        false => write!(location, "{scheme}://{host}"),
    };
    let own = if scheme == "https" { 443 } else { 80 };
    if let Some(port) = redirect.port.filter(|port| *port != own) {
        let _ = write!(location, ":{port}");
    }
    match redirect.path.as_deref() {
        Some(path) => location.push_str(path),
        None => {
            location.push_str(request.path());
            location.push_str(request.fields.text(request.query));
        }
    }
    Answer::redirect(redirect.status, location)
}
