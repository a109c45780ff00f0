//! Annotations of Traefik.

use super::Reader;
use crate::foreign::asked::{BackendProtocol, ToHttps};
use crate::foreign::finding::Effect;
use crate::foreign::text::{self, shown};

/// Entry points with the ports that are served anyway.
const USUAL: [&str; 4] = ["web", "websecure", "http", "https"];
/// Middlewares that change what is served, not who is.
const HARMLESS: [&str; 19] = [
    "addPrefix",
    "buffering",
    "circuitBreaker",
    "compress",
    "contentType",
    "encodedCharacters",
    "errors",
    "grpcWeb",
    "headers",
    "inFlightReq",
    "passTLSClientCert",
    "rateLimit",
    "redirectRegex",
    "redirectScheme",
    "replacePath",
    "replacePathRegex",
    "retry",
    "stripPrefix",
    "stripPrefixRegex",
];

/// Reads one annotation; returns false for one that is not known.
pub(super) fn one(reader: &mut Reader<'_, '_>, (name, key): (&str, &str), value: &str) -> bool {
    match key {
        "router.entrypoints" => {
            let others = value.split(',').map(str::trim).filter(|entry| !USUAL.contains(entry));
            for other in others {
                let sentence = format!("names {}: only ports 80 and 443 are served", shown(other));
                reader.say(Effect::Otherwise, name, "EntryPoint", &sentence);
            }
        }
        "router.tls" => drop(reader.boolean(name, value)),
        "router.middlewares" => {
            for middleware in value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                self::middleware(reader, name, middleware);
            }
        }
        "router.priority" | "router.rulesyntax" | "router.pathmatcher" => {
            let sentence = "has no equal: the most specific host and path come first";
            reader.say(Effect::Otherwise, name, "Precedence", sentence);
        }
        "service.serversscheme" => {
            reader.settings.protocol = match value {
                "http" => Some(BackendProtocol::Http),
                "https" => Some(BackendProtocol::Https),
                "h2c" => Some(BackendProtocol::H2c),
                _ => {
                    let what = format!("is {}, which is not spoken", shown(value));
                    reader.refuse(name, "ProtocolUnknown", &what);
                    None
                }
            };
        }
        "service.passhostheader" => {
            if reader.boolean(name, value) == Some(false) {
                let sentence = "has no equal: the Host is passed on; write rewrite.host";
                reader.say(Effect::Otherwise, name, "Host", sentence);
            }
        }
        "service.nativelb" | "service.nodeportlb" => {
            let sentence = "has no equal here and needs none";
            reader.say(Effect::Noted, name, "AnnotationWithoutEffect", sentence);
        }
        _ if key.starts_with("service.sticky") => {
            let sentence = "has no equal: no cookie ties a client to an endpoint";
            reader.say(Effect::Otherwise, name, "Affinity", sentence);
        }
        "router.tls.options" => {
            let what = "may ask for client certificates, which cannot be told from here";
            reader.refuse(name, "Authentication", what);
        }
        _ if key.starts_with("router.tls.") => {
            let sentence = "is not read: certificates are those of spec.tls, or of ACME in the tenant's document";
            reader.say(Effect::Otherwise, name, "Certificate", sentence);
        }
        _ => return false,
    }
    true
}

/// A middleware, `NAMESPACE-NAME@kubernetescrd`. What cannot be read may be authentication.
fn middleware(reader: &mut Reader<'_, '_>, name: &str, written: &str) {
    let Some(kinds) = find(reader, written) else {
        let what =
            format!("names {}, which cannot be read: it may be authentication", shown(written));
        reader.refuse(name, "Authentication", &what);
        return;
    };
    for kind in kinds {
        if !HARMLESS.contains(&&*kind) {
            let what = format!("names {}, which has {}", shown(written), shown(&kind));
            reader.refuse(name, "Authentication", &what);
        } else if kind == "redirectScheme" {
            reader.to_https(ToHttps::Always);
        } else {
            let is_limit = matches!(&*kind, "rateLimit" | "inFlightReq" | "buffering");
            let effect = if is_limit { Effect::Weaker } else { Effect::Otherwise };
            let sentence = format!("names {} with {kind}, which is not done here", shown(written));
            reader.say(effect, name, "Middleware", &sentence);
        }
    }
}

/// Both parts may have hyphens: each place is tried.
fn find(reader: &Reader<'_, '_>, written: &str) -> Option<Vec<String>> {
    let joined = written.strip_suffix("@kubernetescrd")?;
    let mut hyphens = joined.match_indices('-');
    hyphens.find_map(|(at, _)| {
        let (namespace, name) = (&joined[..at], &joined[at + 1..]);
        let fits = text::is_label(namespace) && text::is_subdomain(name);
        fits.then(|| (reader.around.middleware)(namespace, name)).flatten()
    })
}
