//! Annotations of an Ingress: what other controllers made of them, as settings or as a finding with the annotation's name.
//!
//! Nothing is ignored in silence. Where an annotation holds requests back (authentication, snippets, networks that cannot be read), and it is
//! not understood, the rules are refused rather than served open.

mod cors;
mod haproxy;
mod nginx;
mod redirect;
mod traefik;

use std::sync::Arc;

use super::asked::{SecretRef, Settings, ToHttps};
use super::extract::Surroundings;
use super::finding::{self, Effect, Findings};
use super::objects::Metadata;
use super::text::{self, shown};

/// Annotations that Ingress NGINX reads.
const NGINX: &str = "nginx.ingress.kubernetes.io/";
/// Puts another path in place of the one that matched.
pub(super) const REWRITE_TARGET: &str = "nginx.ingress.kubernetes.io/rewrite-target";
/// Sends clients from `/` to a path.
pub(super) const APP_ROOT: &str = "nginx.ingress.kubernetes.io/app-root";

/// Names the authorities of clients' certificates.
pub(super) const AUTH_TLS_SECRET: &str = "nginx.ingress.kubernetes.io/auth-tls-secret";

/// Prefixes of annotations that other programs read.
const OF_OTHERS: [&str; 12] = [
    "cert-manager.io/",
    "acme.cert-manager.io/",
    "certmanager.k8s.io/",
    "external-dns.alpha.kubernetes.io/",
    "external-dns.kubernetes.io/",
    "kubectl.kubernetes.io/",
    "meta.helm.sh/",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "pipeops.io/",
    "field.cattle.io/",
];

/// Parts of the names of controllers' annotations.
const OF_CONTROLLERS: [&str; 8] = [
    "ingress",
    "haproxy",
    "traefik",
    "konghq.com/",
    "projectcontour.io/",
    "nginx.org/",
    "nginx.com/",
    "istio.io/",
];

/// Parts of names that hold requests back, whoever reads them.
const PROTECTING: [&str; 14] = [
    "auth",
    "oauth",
    "oidc",
    "jwt",
    "snippet",
    "allow",
    "whitelist",
    "allowlist",
    "deny",
    "blacklist",
    "blocklist",
    "waf",
    "acl",
    "client-ca",
];

/// Returns what the annotations say.
pub(super) fn read(
    metadata: &Metadata,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Settings {
    let mut reader = Reader { metadata, around, findings, settings: Settings::default() };
    for (name, value) in &metadata.annotations {
        reader.one(name, value);
    }
    reader.settings.cors = cors::read(&mut reader);
    reader.settings.canary = nginx::canary(&mut reader);
    reader.settings
}

/// Reads the annotations of one Ingress.
struct Reader<'a, 's> {
    metadata: &'a Metadata,
    around: Surroundings<'s>,
    findings: &'a mut Findings,
    settings: Settings,
}

impl<'a> Reader<'a, '_> {
    fn one(&mut self, name: &'a str, value: &'a str) {
        let is_read = if let Some(key) = name.strip_prefix(NGINX) {
            nginx::one(self, (name, key), value)
        } else if let Some(key) = name.strip_prefix("haproxy.org/") {
            haproxy::of_technologies(self, (name, key), value)
        } else if let Some(key) = name.strip_prefix("haproxy-ingress.github.io/") {
            haproxy::of_community(self, (name, key), value)
        } else if let Some(key) = name.strip_prefix("traefik.ingress.kubernetes.io/") {
            traefik::one(self, (name, key), value)
        } else {
            // The class is read with the field of the same meaning.
            name == "kubernetes.io/ingress.class"
                || name == "kubernetes.io/tls-acme"
                || OF_OTHERS.iter().any(|prefix| name.starts_with(prefix))
        };
        if !is_read {
            self.unknown(name);
        }
    }

    /// Reports an annotation that is not supported: it may have restricted access.
    fn unknown(&mut self, name: &str) {
        let lower = name.to_ascii_lowercase();
        let is_of_controller = OF_CONTROLLERS.iter().any(|part| lower.contains(part));
        let key = lower.rsplit_once('/').map_or(&*lower, |(_, key)| key);
        if is_of_controller && PROTECTING.iter().any(|part| key.contains(part)) {
            self.refuse(name, "AnnotationUnknown", "is not understood and may keep clients out");
        } else if is_of_controller {
            let sentence = "is not understood: requests are served without it";
            self.say(Effect::Weaker, name, "AnnotationUnknown", sentence);
        } else {
            let sentence = "is of no Ingress controller that is known here: it is left alone";
            self.say(Effect::Noted, name, "AnnotationUnknown", sentence);
        }
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.metadata.annotations.get(name).map(String::as_str)
    }

    fn say(&mut self, effect: Effect, name: &str, reason: &'static str, sentence: &str) {
        self.findings.add(effect, reason, finding::annotation(name), sentence);
    }

    /// Nothing of the Ingress is served.
    fn refuse(&mut self, name: &str, reason: &'static str, sentence: &str) {
        self.settings.is_refused = true;
        let sentence =
            format!("{sentence}: the rules are not served, their requests are answered 503");
        self.say(Effect::Refused, name, reason, &sentence);
    }

    /// A value that means nothing, of an annotation without which requests may be served.
    fn bad(&mut self, name: &str, value: &str, wanted: &str) {
        let sentence = format!("is {}, not {wanted}: it is left out", shown(value));
        self.say(Effect::Otherwise, name, "AnnotationBad", &sentence);
    }

    fn say_limit(&mut self, name: &str) {
        let sentence =
            "is a limit of the whole tenant here: the most generous of its Ingresses counts";
        self.say(Effect::Otherwise, name, "TenantLimit", sentence);
    }

    fn boolean(&mut self, name: &str, value: &str) -> Option<bool> {
        let read = text::boolean(value);
        if read.is_none() {
            self.bad(name, value, "true or false");
        }
        read
    }

    fn sources(&mut self, name: &str, value: &str) {
        match text::networks(value) {
            Ok(networks) => self.settings.sources.get_or_insert_default().extend(networks),
            Err(why) => self.refuse(name, "AnnotationBad", &why),
        }
    }

    fn denied(&mut self, name: &str, value: &str) {
        match text::networks(value) {
            Ok(networks) => self.settings.denied_sources.extend(networks),
            Err(why) => self.refuse(name, "AnnotationBad", &why),
        }
    }

    /// `namespace/name`, or a name in the Ingress' own namespace.
    fn secret(&mut self, name: &str, value: &str) -> Option<SecretRef> {
        let (namespace, secret) =
            value.split_once('/').unwrap_or((&self.metadata.namespace, value));
        if !text::is_label(namespace) || !text::is_subdomain(secret) {
            self.refuse(
                name,
                "AnnotationBad",
                &format!("is {}, no name of a Secret", shown(value)),
            );
            return None;
        }
        Some(SecretRef { namespace: Arc::from(namespace), name: Arc::from(secret) })
    }

    /// A path to send to a backend or client, absolute.
    fn target_path(&mut self, name: &str, value: &str) -> Option<String> {
        match text::path(value) {
            Ok(path) => Some(path),
            Err(why) => {
                self.refuse(name, "AnnotationBad", &why);
                None
            }
        }
    }

    /// A wish to be sent to https; the stronger one counts.
    fn wish_https(&mut self, wanted: ToHttps) {
        if self.settings.to_https != ToHttps::Always {
            self.settings.to_https = wanted;
        }
    }

    fn passthrough(&mut self, name: &str, value: &str) {
        match text::boolean(value) {
            Some(wanted) => self.settings.passthrough |= wanted,
            // The annotation does not tell whether the certificate is the backend's or the gateway's.
            None => self.refuse(name, "AnnotationBad", "is neither true nor false"),
        }
    }
}

#[cfg(test)]
mod tests;
