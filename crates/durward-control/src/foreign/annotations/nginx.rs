//! Annotations of Ingress NGINX.

use std::sync::Arc;
use std::time::Duration;

use super::{AUTH_TLS_SECRET, NGINX, Reader, redirect};
use crate::foreign::asked::{BackendProtocol, Canary, ClientCertificates, ToHttps};
use crate::foreign::finding::Effect;
use crate::foreign::text::shown;

/// Settings of how NGINX buffers, logs and keeps connections, which no request is served otherwise by.
const WITHOUT_EFFECT: [&str; 27] = [
    "auth-tls-verify-depth",
    "auth-tls-pass-certificate-to-upstream",
    "client-body-buffer-size",
    "connection-proxy-header",
    "enable-access-log",
    "enable-opentelemetry",
    "enable-opentracing",
    "enable-rewrite-log",
    "http2-push-preload",
    "opentelemetry-trust-incoming-span",
    "proxy-buffer-size",
    "proxy-buffering",
    "proxy-buffers-number",
    "proxy-busy-buffers-size",
    "proxy-http-version",
    "proxy-max-temp-file-size",
    "proxy-next-upstream",
    "proxy-next-upstream-timeout",
    "proxy-next-upstream-tries",
    "proxy-request-buffering",
    "proxy-ssl-ciphers",
    "proxy-ssl-protocols",
    "proxy-ssl-server-name",
    "proxy-ssl-verify-depth",
    "service-upstream",
    "ssl-prefer-server-ciphers",
    "websocket-services",
];

/// Reads one annotation; returns false for one that is not known.
pub(super) fn one(reader: &mut Reader<'_, '_>, (name, key): (&str, &str), value: &str) -> bool {
    match key {
        "rewrite-target" => rewrite(reader, name, value),
        "use-regex" => regex(reader, name, value),
        "upstream-vhost" => vhost(reader, name, value),
        "ssl-redirect" => match reader.boolean(name, value) {
            Some(true) => reader.to_https(ToHttps::WithTls),
            Some(false) => reader.to_https(ToHttps::Never),
            None => {}
        },
        "force-ssl-redirect" => {
            if reader.boolean(name, value) == Some(true) {
                reader.to_https(ToHttps::Always);
            }
        }
        "ssl-passthrough" => reader.passthrough(name, value),
        "backend-protocol" => backend_protocol(reader, name, value),
        "proxy-ssl-secret" => {
            let secret = reader.secret(name, value);
            reader.settings.backend_tls.authorities.clone_from(&secret);
            reader.settings.backend_tls.client_certificate = secret;
        }
        "proxy-ssl-name" => proxy_ssl_name(reader, name, value),
        "proxy-ssl-verify" => {
            if value != "on" {
                let sentence = "has no equal: a backend's certificate is always verified; name its authority with proxy-ssl-secret";
                reader.say(Effect::Otherwise, name, "AlwaysVerified", sentence);
            }
        }
        "proxy-body-size" => body_size(reader, name, value),
        "proxy-connect-timeout" => reader.settings.limits.connect = seconds(reader, name, value),
        "proxy-read-timeout" => reader.settings.limits.read = seconds(reader, name, value),
        "proxy-send-timeout" => reader.settings.limits.send = seconds(reader, name, value),
        "whitelist-source-range" | "allowlist-source-range" => reader.sources(name, value),
        "denylist-source-range" => reader.denied(name, value),
        _ if name == AUTH_TLS_SECRET => client_certificates(reader, name, value),
        "auth-tls-verify-client" => {
            if reader.get(AUTH_TLS_SECRET).is_none() && value != "off" {
                reader.refuse(name, "AnnotationBad", "needs auth-tls-secret beside it");
            }
        }
        "app-root" => reader.settings.app_root = reader.target_path(name, value),
        "permanent-redirect" | "temporal-redirect" => redirect::read(reader, (name, key), value),
        "permanent-redirect-code" | "temporal-redirect-code" => {}
        "load-balance" | "upstream-hash-by" => balance(reader, name, value),
        _ if key.starts_with("canary") || is_cors(key) => {}
        _ if WITHOUT_EFFECT.contains(&key) => {
            let sentence = "has no equal here and needs none";
            reader.say(Effect::Noted, name, "AnnotationWithoutEffect", sentence);
        }
        _ => return of_family(reader, name, key),
    }
    true
}

/// Annotations that are known by the beginning of their name, and are not served.
fn of_family(reader: &mut Reader<'_, '_>, name: &str, key: &str) -> bool {
    if key.starts_with("auth-") || key == "satisfy" || key == "enable-global-auth" {
        let what = "is authentication, which is not done here";
        reader.refuse(name, "Authentication", what);
    } else if key.ends_with("-snippet") {
        reader.refuse(name, "Snippet", "is configuration of NGINX, which is not run here");
    } else if key.starts_with("limit-") {
        let sentence = "has no equal: limits are a tenant's, in spec.limits";
        reader.say(Effect::Weaker, name, "TenantLimit", sentence);
    } else if key.starts_with("affinity") || key.starts_with("session-cookie") {
        let sentence = "has no equal: no cookie ties a client to an endpoint; balance: ClientHash goes by its address";
        reader.say(Effect::Otherwise, name, "Affinity", sentence);
    } else if key == "server-alias" || key == "from-to-www-redirect" {
        let sentence = "is not done: write the other names as rules";
        reader.say(Effect::Refused, name, "NamesMissing", sentence);
    } else if key.contains("modsecurity") || key.contains("owasp") {
        let sentence = "has no equal: requests are not inspected";
        reader.say(Effect::Weaker, name, "NotInspected", sentence);
    } else {
        return false;
    }
    true
}

fn is_cors(key: &str) -> bool {
    key == "enable-cors" || key.starts_with("cors-")
}

fn rewrite(reader: &mut Reader<'_, '_>, name: &str, value: &str) {
    if value.contains('$') {
        let what = "refers to a regular expression's groups, which no route has";
        reader.refuse(name, "RegularExpression", what);
        return;
    }
    reader.settings.rewrite_path = reader.target_path(name, value);
    if reader.settings.rewrite_path.is_some() {
        let sentence = "is put in place of the path that matched: what lies below it is kept, where NGINX drops it";
        reader.say(Effect::Otherwise, name, "Rewrite", sentence);
    }
}

fn regex(reader: &mut Reader<'_, '_>, name: &str, value: &str) {
    if reader.boolean(name, value) != Some(true) {
        return;
    }
    reader.settings.regex = true;
    let sentence = "has no equal: paths without special characters are taken as Prefix, with upper and lower case told apart";
    reader.say(Effect::Otherwise, name, "RegularExpression", sentence);
}

fn vhost(reader: &mut Reader<'_, '_>, name: &str, value: &str) {
    let (host, port) =
        value.split_once(':').map_or((value, None), |(host, port)| (host, Some(port)));
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if redirect::is_host(host) && is_port {
        reader.settings.rewrite_host = Some(value.to_owned());
    } else {
        let what = format!("is {}, no host that can be sent", shown(value));
        reader.refuse(name, "AnnotationBad", &what);
    }
}

fn backend_protocol(reader: &mut Reader<'_, '_>, name: &str, value: &str) {
    reader.settings.protocol = match value {
        "HTTP" | "AUTO_HTTP" => Some(BackendProtocol::Http),
        "HTTPS" => Some(BackendProtocol::Https),
        "GRPC" => Some(BackendProtocol::H2c),
        "GRPCS" => Some(BackendProtocol::H2),
        _ => {
            let what = format!("is {}: only HTTP, HTTPS, GRPC and GRPCS are spoken", shown(value));
            reader.refuse(name, "ProtocolUnknown", &what);
            None
        }
    };
    let has_secret = reader.get(&format!("{NGINX}proxy-ssl-secret")).is_some();
    if reader.settings.protocol.is_some_and(BackendProtocol::is_tls) && !has_secret {
        let sentence =
            "is verified with the host's own authorities: name another with proxy-ssl-secret";
        reader.say(Effect::Otherwise, name, "AlwaysVerified", sentence);
    }
}

fn proxy_ssl_name(reader: &mut Reader<'_, '_>, name: &str, value: &str) {
    if redirect::is_host(value) {
        reader.settings.backend_tls.name = Some(Arc::from(value));
    } else {
        let what = format!("is {}, no name that a certificate can carry", shown(value));
        reader.refuse(name, "AnnotationBad", &what);
    }
}

/// NGINX' sizes: a number with `k`, `m` or `g`, each 1024 times the one before; 0 is no limit.
fn body_size(reader: &mut Reader<'_, '_>, name: &str, value: &str) {
    let digits = value.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let unit = match value[digits.len()..].to_ascii_lowercase().as_str() {
        "" => Some(1),
        "k" => Some(1 << 10),
        "m" => Some(1 << 20),
        "g" => Some(1 << 30),
        _ => None,
    };
    let size = digits.parse::<u64>().ok().zip(unit).and_then(|(size, unit)| size.checked_mul(unit));
    match size.filter(|size| *size <= 1 << 50) {
        Some(size) => {
            reader.settings.limits.body = Some(size);
            reader.say_limit(name);
        }
        None => reader.bad(name, value, "a size like 8m"),
    }
}

fn seconds(reader: &mut Reader<'_, '_>, name: &str, value: &str) -> Option<Duration> {
    let number = value.strip_suffix('s').unwrap_or(value).parse::<u32>().ok();
    let read = number.filter(|seconds| (1..=86_400).contains(seconds));
    match read {
        Some(_) => reader.say_limit(name),
        None => reader.bad(name, value, "a number of seconds from 1 to 86400"),
    }
    read.map(|seconds| Duration::from_secs(u64::from(seconds)))
}

fn client_certificates(reader: &mut Reader<'_, '_>, name: &str, value: &str) {
    let mode_name = format!("{NGINX}auth-tls-verify-client");
    let is_optional = match reader.get(&mode_name).unwrap_or("on") {
        "on" => false,
        "optional" => true,
        "off" => return,
        other => {
            let what =
                format!("is {}: a certificate that is shown is always verified", shown(other));
            reader.refuse(&mode_name, "Authentication", &what);
            return;
        }
    };
    let secret = reader.secret(name, value);
    reader.settings.client_certificates =
        secret.map(|secret| ClientCertificates { secret, is_optional });
}

fn balance(reader: &mut Reader<'_, '_>, name: &str, value: &str) {
    match value {
        "$binary_remote_addr" | "$remote_addr" => reader.settings.by_client = true,
        "round_robin" | "ewma" => {
            let sentence = "has no equal: of two endpoints the less loaded one is taken";
            reader.say(Effect::Noted, name, "AnnotationWithoutEffect", sentence);
        }
        _ => {
            let sentence = "has no equal: of two endpoints the less loaded one is taken";
            reader.say(Effect::Otherwise, name, "Balance", sentence);
        }
    }
}

/// Returns the part of another Ingress' requests that this one gets.
pub(super) fn canary(reader: &mut Reader<'_, '_>) -> Option<Canary> {
    let name = |key: &str| format!("{NGINX}{key}");
    let enabled = name("canary");
    if !reader.boolean(&enabled, reader.get(&enabled)?)? {
        return None;
    }
    let mut canary = Canary { total: 100, ..Canary::default() };
    for (key, value) in
        [("canary-weight-total", &mut canary.total), ("canary-weight", &mut canary.weight)]
    {
        let Some(written) = reader.get(&name(key)) else { continue };
        match written.parse::<u32>().ok().filter(|weight| *weight <= 1_000_000) {
            Some(weight) => *value = weight,
            None => reader.bad(&name(key), written, "a weight"),
        }
    }
    canary.total = canary.total.max(1);
    canary.weight = canary.weight.min(canary.total);
    for key in ["canary-by-header-pattern", "canary-by-cookie"] {
        if reader.get(&name(key)).is_some() {
            let sentence = "has no equal: a header's value or weights choose the canary";
            reader.say(Effect::Otherwise, &name(key), "Canary", sentence);
        }
    }
    let header = name("canary-by-header");
    let Some(written) = reader.get(&header) else { return Some(canary) };
    if !is_token(written) {
        reader.bad(&header, written, "the name of a header");
        return Some(canary);
    }
    // Only a part of its values is meant, which cannot be told.
    if reader.get(&name("canary-by-header-pattern")).is_some() {
        return Some(canary);
    }
    let of_value = name("canary-by-header-value");
    if let Some(value) = reader.get(&of_value) {
        if !is_value(value) {
            reader.bad(&of_value, value, "the value of a header");
            return Some(canary);
        }
        canary.header_value = Some(Arc::from(value));
    }
    canary.header = Some(Arc::from(written.to_ascii_lowercase()));
    Some(canary)
}

/// A token of RFC 9110 that can be the name of a header.
pub(super) fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=256).contains(&text.len()) && text.bytes().all(token)
}

/// The value of a header: printable ASCII without spaces around it.
pub(super) fn is_value(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        && text.trim() == text
        && (1..=1024).contains(&text.len())
}
