//! Annotations of the two HAProxy controllers: `haproxy.org` of HAProxy Technologies and `haproxy-ingress.github.io`.

use std::time::Duration;

use super::{Reader, redirect};
use crate::foreign::asked::{BackendProtocol, ToHttps};
use crate::foreign::finding::Effect;
use crate::foreign::text::{self, shown};
use crate::quantity;

/// Reads one annotation of `haproxy.org`; returns false for one that is not known.
pub(super) fn of_technologies(
    reader: &mut Reader<'_, '_>,
    (name, key): (&str, &str),
    value: &str,
) -> bool {
    match key {
        "ssl-passthrough" => reader.passthrough(name, value),
        "allow-list" | "whitelist" => reader.sources(name, value),
        "deny-list" | "blacklist" => reader.denied(name, value),
        "server-ssl" => server_ssl(reader, name, value),
        "server-ca" => reader.settings.backend_tls.authorities = reader.secret(name, value),
        "server-crt" => {
            reader.settings.backend_tls.client_certificate = reader.secret(name, value);
        }
        "server-proto" => server_proto(reader, name, value),
        "ssl-redirect" => redirect_to_https(reader, name, value),
        "ssl-redirect-code" | "ssl-redirect-port" | "check" | "check-interval" | "pod-maxconn" => {
            let sentence = "has no equal here and needs none";
            reader.say(Effect::Noted, name, "AnnotationWithoutEffect", sentence);
        }
        "path-rewrite" => path_rewrite(reader, name, value),
        "set-host" => {
            if redirect::is_host(value) {
                reader.settings.rewrite_host = Some(value.to_owned());
            } else {
                let what = format!("is {}, no host that can be sent", shown(value));
                reader.refuse(name, "AnnotationBad", &what);
            }
        }
        "timeout-connect" => reader.settings.limits.connect = duration(reader, name, value),
        "timeout-server" => reader.settings.limits.read = duration(reader, name, value),
        "load-balance" if value == "source" => reader.settings.by_client = true,
        _ if key.starts_with("rate-limit") => {
            let sentence = "has no equal: limits are a tenant's, in spec.limits";
            reader.say(Effect::Weaker, name, "TenantLimit", sentence);
        }
        _ => return of_any(reader, name, key),
    }
    true
}

/// Reads one annotation of `haproxy-ingress.github.io`; returns false for one that is not known.
pub(super) fn of_community(
    reader: &mut Reader<'_, '_>,
    (name, key): (&str, &str),
    value: &str,
) -> bool {
    match key {
        "ssl-passthrough" => reader.passthrough(name, value),
        "ssl-redirect" => redirect_to_https(reader, name, value),
        "allowlist-source-range" | "whitelist-source-range" if !value.contains('!') => {
            reader.sources(name, value);
        }
        "denylist-source-range" if !value.contains('!') => reader.denied(name, value),
        "backend-protocol" => {
            reader.settings.protocol = match value.to_ascii_lowercase().as_str() {
                "h1" | "http" => Some(BackendProtocol::Http),
                "h1-ssl" | "https" => Some(BackendProtocol::Https),
                "h2" | "grpc" => Some(BackendProtocol::H2c),
                "h2-ssl" | "grpcs" => Some(BackendProtocol::H2),
                _ => {
                    let what = format!("is {}, which is not spoken", shown(value));
                    reader.refuse(name, "ProtocolUnknown", &what);
                    None
                }
            };
        }
        "rewrite-target" if !value.contains('$') => {
            reader.settings.rewrite_path = reader.target_path(name, value);
        }
        "app-root" => reader.settings.app_root = reader.target_path(name, value),
        _ if key.starts_with("limit-") => {
            let sentence = "has no equal: limits are a tenant's, in spec.limits";
            reader.say(Effect::Weaker, name, "TenantLimit", sentence);
        }
        _ => return of_any(reader, name, key),
    }
    true
}

/// Annotations that both controllers have and that are not served.
fn of_any(reader: &mut Reader<'_, '_>, name: &str, key: &str) -> bool {
    if key.starts_with("auth-") || key.starts_with("oauth") || key.starts_with("client-") {
        reader.refuse(name, "Authentication", "is authentication, which is not done here");
    } else if key.contains("snippet") || key.starts_with("config-") {
        reader.refuse(name, "Snippet", "is configuration of HAProxy, which is not run here");
    } else if key.starts_with("cors-") {
        let sentence = "has no equal: set responseHeaders of the route";
        reader.say(Effect::Otherwise, name, "Cors", sentence);
    } else if key.starts_with("cookie-")
        || key.starts_with("session-cookie")
        || key.starts_with("affinity")
    {
        let sentence = "has no equal: no cookie ties a client to an endpoint";
        reader.say(Effect::Otherwise, name, "Affinity", sentence);
    } else if key.starts_with("rewrite") || key.starts_with("path-") {
        reader.refuse(
            name,
            "RegularExpression",
            "refers to a regular expression, which no route has",
        );
    } else {
        return false;
    }
    true
}

fn redirect_to_https(reader: &mut Reader<'_, '_>, name: &str, value: &str) {
    match reader.boolean(name, value) {
        Some(true) => reader.to_https(ToHttps::WithTls),
        Some(false) => reader.to_https(ToHttps::Never),
        None => {}
    }
}

/// HAProxy verifies only where an authority is named; here it is always done.
fn server_ssl(reader: &mut Reader<'_, '_>, name: &str, value: &str) {
    match text::boolean(value) {
        Some(true) => {
            let is_h2 = reader.get("haproxy.org/server-proto") == Some("h2");
            reader.settings.protocol =
                Some(if is_h2 { BackendProtocol::H2 } else { BackendProtocol::Https });
            if reader.get("haproxy.org/server-ca").is_none() {
                let sentence =
                    "is verified with the host's own authorities: name another with server-ca";
                reader.say(Effect::Otherwise, name, "AlwaysVerified", sentence);
            }
        }
        Some(false) => {}
        None => reader.refuse(name, "AnnotationBad", "is neither true nor false"),
    }
}

fn server_proto(reader: &mut Reader<'_, '_>, name: &str, value: &str) {
    let is_tls = reader.get("haproxy.org/server-ssl").and_then(text::boolean) == Some(true);
    match value {
        "h2" if !is_tls => reader.settings.protocol = Some(BackendProtocol::H2c),
        "h2" => {}
        _ => {
            let what = format!("is {}, which is not spoken", shown(value));
            reader.refuse(name, "ProtocolUnknown", &what);
        }
    }
}

/// One path that stands for the whole of each rule's; two words are a regular expression and its replacement.
fn path_rewrite(reader: &mut Reader<'_, '_>, name: &str, value: &str) {
    if value.split_whitespace().count() == 1 && !value.contains(['\\', '(']) {
        reader.settings.rewrite_path = reader.target_path(name, value.trim());
        if reader.settings.rewrite_path.is_some() {
            let sentence = "is put in place of the path that matched: what lies below it is kept, where HAProxy drops it";
            reader.say(Effect::Otherwise, name, "Rewrite", sentence);
        }
        return;
    }
    reader.refuse(name, "RegularExpression", "is a regular expression, which no route has");
}

/// Durations with a unit; a bare number counts milliseconds.
fn duration(reader: &mut Reader<'_, '_>, name: &str, value: &str) -> Option<Duration> {
    let bare = value.parse().ok().map(Duration::from_millis);
    let read = bare.or_else(|| quantity::duration(value).ok());
    let read = read
        .filter(|read| (Duration::from_millis(10)..=Duration::from_secs(86_400)).contains(read));
    match read {
        Some(_) => reader.say_limit(name),
        None => reader.bad(name, value, "a duration like 5s, from 10ms to 24h"),
    }
    read
}
