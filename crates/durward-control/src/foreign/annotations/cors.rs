//! CORS: what browsers may ask for from pages of other origins, with the defaults of Ingress NGINX.

use std::sync::Arc;

use super::nginx::{is_token, is_value};
use super::redirect::is_host;
use super::{NGINX, Reader};
use crate::foreign::asked::Cors;
use crate::foreign::finding::Effect;

const METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
const HEADERS: &str = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization";
const MAX_AGE: u32 = 1_728_000;
/// Origins that have routes of their own; each costs two per path.
const ORIGINS: usize = 16;

/// Returns what the annotations allow; `None` where CORS is off, or nothing could be allowed.
pub(super) fn read(reader: &mut Reader<'_, '_>) -> Option<Cors> {
    let enabled = format!("{NGINX}enable-cors");
    if !reader.boolean(&enabled, reader.get(&enabled)?)? {
        return None;
    }
    let origins = origins(reader)?;
    let methods = list(reader, "cors-allow-methods", METHODS)?;
    let headers = list(reader, "cors-allow-headers", HEADERS)?;
    let expose = match reader.get(&format!("{NGINX}cors-expose-headers")) {
        Some(_) => Some(list(reader, "cors-expose-headers", "")?),
        None => None,
    };
    let credentials_name = format!("{NGINX}cors-allow-credentials");
    let credentials = match reader.get(&credentials_name) {
        Some(written) => reader.boolean(&credentials_name, written)?,
        None => true,
    };
    let max_age_name = format!("{NGINX}cors-max-age");
    let max_age = match reader.get(&max_age_name) {
        Some(written) => {
            let read = written.parse().ok();
            if read.is_none() {
                reader.bad(&max_age_name, written, "a number of seconds");
            }
            read.unwrap_or(MAX_AGE)
        }
        None => MAX_AGE,
    };
    Some(Cors { origins, methods, headers, expose, credentials, max_age })
}

fn origins(reader: &mut Reader<'_, '_>) -> Option<Vec<Arc<str>>> {
    let name = format!("{NGINX}cors-allow-origin");
    let written = reader.get(&name).unwrap_or("*");
    let parts: Vec<&str> =
        written.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.contains(&"*") {
        return Some(Vec::new());
    }
    let (good, bad): (Vec<&str>, Vec<&str>) = parts.into_iter().partition(|part| is_origin(part));
    for part in &bad {
        reader.bad(&name, part, "an origin like https://app.example.com");
    }
    if good.len() > ORIGINS {
        let sentence = format!("has more than {ORIGINS} origins: only the first are allowed");
        reader.say(Effect::Otherwise, &name, "Cors", &sentence);
    }
    let good: Vec<Arc<str>> = good.into_iter().take(ORIGINS).map(Arc::from).collect();
    // Where no origin is left, an empty list would allow them all.
    (!good.is_empty()).then_some(good)
}

/// Scheme, host and perhaps port, as browsers send them.
fn is_origin(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else { return false };
    let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
    is_host(host) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// A list of methods or names of headers.
fn list(reader: &mut Reader<'_, '_>, key: &str, default: &str) -> Option<Arc<str>> {
    let name = format!("{NGINX}{key}");
    let written = reader.get(&name).unwrap_or(default).trim();
    if is_value(written) && written.split(',').all(|part| is_token(part.trim())) {
        return Some(Arc::from(written));
    }
    reader.bad(&name, written, "a list of names between commas");
    None
}
